"""`identity`: keys, SOPS files, documents. A verb is one function; heavy modules are imported when it runs."""

import sys
from collections.abc import Sequence

from town import cli


def parser() -> cli.Parser:
    """The whole command line of `identity`."""
    top, verbs = cli.parser("identity", "One identity for each agent: keys, secrets, documents, from one spec.")

    gen = cli.verb(
        verbs, "gen", cli.lazy("identity.gen"),
        says="make the keys and documents that are missing; keys are never replaced",
        example="identity --spec town.toml gen --all",
    )  # fmt: skip
    gen.add_argument("agents", nargs="*", metavar="AGENT", help="agents of the spec; without any, --all is needed")
    gen.add_argument("--all", action="store_true", help="for every agent of the spec")
    gen.add_argument("--out", metavar="DIR", help="where the files lie, instead of beside the spec")
    gen.add_argument("--dry-run", action="store_true", help="print the plan and write nothing")

    install = cli.verb(
        verbs, "install", cli.lazy("identity.install"),
        says="put keys, git configuration, prompts and secrets into fresh homes",
        example="identity install ada", agents="*",
    )  # fmt: skip
    install.add_argument("--out", metavar="DIR", help="where `gen --out` put the files")
    install.add_argument("--dry-run", action="store_true", help="print what would be written")

    check = cli.verb(
        verbs, "check", cli.lazy("identity.check"),
        says="compare everything that gen makes with the spec, and change nothing",
        example="identity check --json", agents="*",
    )  # fmt: skip
    check.add_argument("--out", metavar="DIR", help="where `gen --out` put the files")
    check.add_argument("--json", action="store_true", help="findings as JSON")

    secret = cli.verb(
        verbs, "secret", cli.lazy("identity.secret"),
        says="put a value of secrets.extra, read from standard input, into its place",
        example="identity secret set ada anthropic-key <token.txt",
    )  # fmt: skip
    secret.add_argument("act_on", metavar="set", choices=["set"])
    secret.add_argument("agent", metavar="AGENT")
    secret.add_argument("name", metavar="NAME", help="a name in the agent's secrets.extra")
    secret.add_argument("--out", metavar="DIR", help="where `gen --out` put the files")
    secret.add_argument("--dry-run", action="store_true", help="do everything but write")
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """The command `identity`."""
    return cli.run("identity", parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
