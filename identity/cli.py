"""`identity`: keys, SOPS files, documents. A verb is one function; heavy modules are imported when it runs."""

import argparse
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

    documents = cli.verb(
        verbs, "documents", cli.lazy("identity.render"),
        says="write the documents of homes into a new directory, without keys and secrets; for builds",
        example="identity documents --to result ada", agents="*",
    )  # fmt: skip
    documents.add_argument("--to", metavar="DIR", required=True, help="DIR/AGENT becomes what the home would hold")
    documents.add_argument("--out", metavar="DIR", help="where `gen --out` put the files")

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
    _later(verbs)
    return top


def _later(verbs: "argparse._SubParsersAction[cli.Parser]") -> None:
    """What is done to an identity after it was made."""
    host = cli.verb(
        verbs, "host", cli.lazy("identity.host"),
        says="make this machine's age key, which opens the secrets here, and print its recipient",
        example="identity host init",
    )  # fmt: skip
    host.add_argument("act_on", metavar="init", choices=["init"])
    host.add_argument("--dry-run", action="store_true", help="say what would be made and make nothing")

    show = cli.verb(
        verbs, "show", cli.lazy("identity.show"),
        says="the public facts of an agent's identity; never a secret",
        example="identity show ada --ssh",
    )  # fmt: skip
    show.add_argument("agent", metavar="AGENT")
    show.add_argument("--ssh", action="store_true", help="the public SSH key alone, as in authorized_keys")
    show.add_argument("--gpg", action="store_true", help="the public OpenPGP key alone, armored")
    show.add_argument("--qr", action="store_true", help="the fingerprints as a code that a phone reads")
    show.add_argument("--json", action="store_true", help="the facts as JSON")
    show.add_argument("--out", metavar="DIR", help="where `gen --out` put the files")

    rotate = cli.verb(
        verbs, "rotate", cli.lazy("identity.rotate"),
        says="a new key in the place of one that is in use; what the old one signed still verifies",
        example="identity rotate ada --ssh",
    )  # fmt: skip
    rotate.add_argument("agent", metavar="AGENT")
    _which_keys(rotate)
    rotate.add_argument("--extend", action="store_true", help="--gpg: the same subkey for two more years, no new one")
    _changes(rotate)

    revoke = cli.verb(
        verbs, "revoke", cli.lazy("identity.revoke"),
        says="publish that a key is not to be believed any more, whatever it signed",
        example="identity revoke ada --ssh --key SHA256:…",
    )  # fmt: skip
    revoke.add_argument("agent", metavar="AGENT")
    _which_keys(revoke)
    revoke.add_argument("--key", metavar="FINGERPRINT", help="a key that is not the one in use")
    _changes(revoke)

    brought = cli.verb(
        verbs, "import", cli.lazy("identity.imports"),
        says="take over keys that exist already, instead of making new ones",
        example="identity import ada --ssh id_ed25519 --gpg secret.asc",
    )  # fmt: skip
    brought.add_argument("agent", metavar="AGENT")
    brought.add_argument("--ssh", metavar="FILE", help="a private SSH key in OpenSSH form; `-`: standard input")
    brought.add_argument("--gpg", metavar="FILE", help="an OpenPGP key, whole, as gpg --export-secret-keys gives it")
    _changes(brought)

    recipients = cli.verb(
        verbs, "recipients", cli.lazy("identity.recipients"),
        says="who can open the secrets: bring the files to what the spec says, or add and remove one",
        example="identity recipients add --human age1…",
    )  # fmt: skip
    recipients.add_argument("act_on", metavar="sync|add|remove", choices=["sync", "add", "remove"])
    recipients.add_argument("recipient", nargs="?", metavar="RECIPIENT", help="age1…, ssh-ed25519 … or a fingerprint")
    recipients.add_argument("--human", action="store_true", help="add: who can also open the recovery file")
    recipients.add_argument("--host", metavar="NAME", help="add or remove: the machine of that name")
    recipients.add_argument("--json", action="store_true", help="what changed, and what must be rotated, as JSON")
    _changes(recipients)

    publish = cli.verb(
        verbs, "publish", cli.lazy("identity.publish"),
        says="upload an agent's public keys to its account at a forge",
        example="identity publish ada --github --token-file token",
    )  # fmt: skip
    publish.add_argument("agent", metavar="AGENT")
    publish.add_argument("--github", action="store_true", help="to GitHub, the one that is known")
    publish.add_argument("--token-file", metavar="FILE", help="who may upload: a file that only you can read")
    publish.add_argument("--account", metavar="LOGIN", help="refuse a token of any other account")
    publish.add_argument("--replace", action="store_true", help="take out what this agent had there and is out of date")
    publish.add_argument("--api", metavar="URL", help="of a GitHub Enterprise Server: the token goes there")
    _changes(publish)


def _which_keys(verb: cli.Parser) -> None:
    verb.add_argument("--ssh", action="store_true", help="the SSH key")
    verb.add_argument("--gpg", action="store_true", help="the OpenPGP key: its signing subkey; the primary key stays")


def _changes(verb: cli.Parser) -> None:
    verb.add_argument("--out", metavar="DIR", help="where `gen --out` put the files")
    verb.add_argument("--dry-run", action="store_true", help="print the plan and write nothing")


def main(argv: Sequence[str] | None = None) -> int:
    """The command `identity`."""
    return cli.run("identity", parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
