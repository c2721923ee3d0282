"""`persist`: homes, declared data, the store. A verb is one function; heavy modules are imported when it runs."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from town import cli

if TYPE_CHECKING:
    import argparse


def parser() -> cli.Parser:
    """The whole command line of `persist`."""
    top, verbs = cli.parser("persist", "Homes that are wiped at every boot, and the directories that come back.")

    check = cli.verb(
        verbs, "check", cli.lazy("persist.check"),
        says="check the spec, and with --machine this machine's accounts",
        example="persist --spec town.toml check --machine",
    )  # fmt: skip
    check.add_argument("--machine", action="store_true", help="also against the accounts and mounts of this machine")
    check.add_argument("--json", action="store_true", help="problems and warnings as JSON")

    init = cli.verb(
        verbs, "init", cli.lazy("persist.init"),
        says="prepare the filesystem, with --adopt take over what is there, or with --store make the store, once",
        example="persist init --dry-run && persist init && persist init --store\n"
        "  persist init --adopt --dry-run && persist init --adopt",
    )  # fmt: skip
    init.add_argument("--store", action="store_true", help="make the store that the spec names, and its key")
    init.add_argument(
        "--adopt", action="store_true",
        help="take over an @agents, and data under persist_dir/agents, that something else laid out",
    )  # fmt: skip
    init.add_argument("--json", action="store_true", help="what was done, warnings and notes as JSON")
    init.add_argument("--dry-run", action="store_true", help="print what would be done")

    rollback = cli.verb(
        verbs, "rollback", cli.lazy("persist.rollback"),
        says="run the boot hook now: old homes aside, a blank @agents in place",
        example="persist rollback --dry-run",
    )  # fmt: skip
    rollback.add_argument("--dry-run", action="store_true", help="print what would be done")
    rollback.add_argument(
        "--confirm", action="store_true", help="roll nothing back: check this boot's proof against the disk and take it"
    )

    restore = cli.verb(
        verbs, "restore", cli.lazy("persist.restore"),
        says="make homes and bring back what each agent declared",
        example="persist restore ada", agents="*",
    )  # fmt: skip
    restore.add_argument("--dry-run", action="store_true", help="print the plan")
    restore.add_argument("--at", metavar="TIME|SNAPSHOT", help="not the newest state: one that `persist log` shows")
    restore.add_argument(
        "--take-over", action="store_true", help="sync these agents from this machine, whichever holds them now"
    )
    restore.add_argument(
        "--at-least",
        metavar="N",
        type=cli.count,
        default=0,
        help="where something is fetched, refuse a store whose newest generation is older",
    )
    half = restore.add_mutually_exclusive_group()
    half.add_argument("--local", action="store_true", help="only what needs no store: homes, binds, declared files")
    half.add_argument("--fetch", action="store_true", help="only what the store has to give: nothing is mounted")
    restore.add_argument("--retry", action="store_true", help="with --fetch: again, until the store answers")
    restore.add_argument(
        "--with-credentials", action="store_true", help="with --at: also logins and tokens as they were then"
    )
    _limit(restore)

    sync = cli.verb(
        verbs, "sync", cli.lazy("persist.sync"),
        says="send what is declared `store` or `both` to the store",
        example="persist sync ada --dry-run", agents="*",
    )  # fmt: skip
    sync.add_argument("--dry-run", action="store_true", help="say what would be sent")
    sync.add_argument("--json", action="store_true", help="the summary as JSON")
    sync.add_argument(
        "--accept-loss", action="store_true", help="sync also what vanished, or lost more than half of its files"
    )
    sync.add_argument(
        "--take-over", action="store_true", help="go on over what another machine synced since (its history stays)"
    )
    sync.add_argument(
        "--release", action="store_true", help="then let go of the agents, so that another machine may take them"
    )
    _limit(sync)

    lost = cli.verb(
        verbs, "lost", cli.lazy("persist.lost"),
        says="what the next reboot takes: everything that no declared path covers",
        example="persist lost ada", agents="*",
    )  # fmt: skip
    when = lost.add_mutually_exclusive_group()
    when.add_argument("--since", metavar="TIME|HOME", help="only what was written since a time, or since a kept home")
    when.add_argument("--last", action="store_true", help="what went with the last reboot, as it was written down then")
    when.add_argument("--record", action="store_true", help="write it down for --last, as a shutdown does")
    lost.add_argument("--tree", action="store_true", help="as a tree, one directory below another")
    lost.add_argument("--json", action="store_true", help="every file as JSON")

    status = cli.verb(
        verbs, "status", cli.lazy("persist.status"),
        says="which home each agent has, where each directory came from",
        example="persist status --json", agents="*",
    )  # fmt: skip
    status.add_argument("--json", action="store_true", help="the same as JSON")

    tidy = cli.verb(
        verbs, "tidy", cli.lazy("persist.tidy"),
        says="delete old homes that `keep` does not keep, make the ballast anew",
        example="persist tidy --dry-run",
    )  # fmt: skip
    tidy.add_argument("--dry-run", action="store_true", help="print what would be done")
    tidy.add_argument("--json", action="store_true", help="the same as JSON")

    _debugging(verbs)
    _store(verbs)
    _service(verbs)
    _machine(verbs)
    return top


def _debugging(verbs: "argparse._SubParsersAction[cli.Parser]") -> None:
    homes = cli.verb(
        verbs, "homes", cli.lazy("persist.homes"),
        says="what is kept of agents: homes set aside, snapshots, copies, imports; why, and what room they take",
        example="persist homes ada\n  persist homes --delete ada@before --dry-run", agents="*",
    )  # fmt: skip
    homes.add_argument("--sizes", action="store_true", help="look at all of them, however long that takes")
    homes.add_argument("--delete", metavar="AGENT@HOME", action="append", help="take one away, named whole; repeatable")
    _json_and_dry_run(homes)

    snapshot = cli.verb(
        verbs, "snapshot", cli.lazy("persist.snapshot"),
        says="keep an agent's home, and what it persists, as they are in this moment",
        example='persist snapshot ada -m "before the upgrade"',
    )  # fmt: skip
    snapshot.add_argument("agent", metavar="AGENT")
    snapshot.add_argument("-m", "--message", metavar="TEXT", help="why it is kept")
    snapshot.add_argument("--name", metavar="N", help="its name; else the time")
    _json_and_dry_run(snapshot)

    recall = cli.verb(
        verbs, "recall", cli.lazy("persist.recall"),
        says="a writable copy of a kept home, to look at, or in the place of the present one",
        example="persist recall ada@20261121T101500Z --to /srv/look",
    )  # fmt: skip
    recall.add_argument("home", metavar="AGENT@HOME", help="a name that `persist homes` shows, or its unique beginning")
    place = recall.add_mutually_exclusive_group()
    place.add_argument("--to", metavar="DIR", help="where it is mounted (made when missing)")
    place.add_argument("--replace", action="store_true", help="in the place of the present home, which is kept")
    recall.add_argument("--as", dest="as_user", metavar="USER", help="whose files its files appear to be")
    recall.add_argument("--exec", action="store_true", help="let programs in it run; without it the mount is noexec")
    recall.add_argument(
        "--without-secrets",
        action="store_true",
        help="leave keys and credentials out of the copy, as far as place and name tell them",
    )
    recall.add_argument("--stop", action="store_true", help="with --replace: end what the agent runs")
    recall.add_argument("--end", action="store_true", help="take a recalled copy away again, by its name or the home's")
    recall.add_argument("--all", action="store_true", help="with --end: every copy of that home")
    _json_and_dry_run(recall)

    reset = cli.verb(
        verbs, "reset", cli.lazy("persist.reset"),
        says="what a reboot does, for one agent and now: old home aside, a fresh one in its place",
        example="persist reset ada --stop",
    )  # fmt: skip
    reset.add_argument("agent", metavar="AGENT")
    reset.add_argument(
        "--stop", action="store_true", help="end what the agent runs; without it a running agent is refused"
    )
    reset.add_argument("--sweep", action="store_true", help="also take what it left outside its home, as at a boot")
    _json_and_dry_run(reset)

    diff = cli.verb(
        verbs, "diff", cli.lazy("persist.diff"),
        says="what differs between two homes of an agent: kept, living, or in the store (status 0 either way)",
        example="persist diff ada@20261121T101500Z",
    )  # fmt: skip
    diff.add_argument("one", metavar="AGENT@A", help="a name that `persist homes` or `persist log` shows")
    diff.add_argument("other", metavar="AGENT@B", nargs="?", help="the same; else the living home")
    diff.add_argument("--json", action="store_true", help="the same as JSON")

    export = cli.verb(
        verbs, "export", cli.lazy("persist.export"),
        says="a kept home as one encrypted file, for another machine",
        example="persist export ada@20261121T101500Z ada.nuketown --to age1…",
    )  # fmt: skip
    export.add_argument("home", metavar="AGENT@HOME")
    export.add_argument("file", metavar="FILE", help="`-`: standard output")
    export.add_argument("--to", metavar="RECIPIENT", action="append", help="who can open it; else the town's humans")
    export.add_argument(
        "--without-secrets",
        action="store_true",
        help="leave keys and credentials out, as far as place and name tell them",
    )

    brought = cli.verb(
        verbs, "import", cli.lazy("persist.imports"),
        says="a home that was exported becomes a kept home of this machine, to look at",
        example="persist import ada.nuketown",
    )  # fmt: skip
    brought.add_argument("file", metavar="FILE", help="`-`: standard input")
    brought.add_argument("--key", metavar="FILE", help="an age or SSH private key; else yours, else the host's")
    _json_and_dry_run(brought)


def _json_and_dry_run(verb: cli.Parser) -> None:
    verb.add_argument("--dry-run", action="store_true", help="print what would be done")
    verb.add_argument("--json", action="store_true", help="the same as JSON")


def _store(verbs: "argparse._SubParsersAction[cli.Parser]") -> None:
    """What is done with the store, apart from sync and restore."""
    log = cli.verb(
        verbs, "log", cli.lazy("persist.log"),
        says="the states of agents in the store, newest first, branches too",
        example="persist log ada", agents="*",
    )  # fmt: skip
    log.add_argument("--json", action="store_true", help="the same as JSON")

    get = cli.verb(
        verbs, "get", cli.lazy("persist.get"),
        says="one file or directory of a state in the store, to standard output or a directory",
        example="persist get ada projects/notes.md\n  persist get ada@3f9c21 projects --to /srv/look",
    )  # fmt: skip
    get.add_argument("what", metavar="AGENT[@SNAPSHOT]", help="the newest state, or one that `persist log` shows")
    get.add_argument("paths", metavar="PATH", nargs="+", help="relative to the home")
    get.add_argument("--to", metavar="DIR", help="where it goes (made when missing); without it, one file to stdout")
    _limit(get)

    verify = cli.verb(
        verbs, "verify", cli.lazy("persist.upkeep.verify"),
        says="check that the store holds all that its states name",
        example="persist verify --read-data 5%", agents="*",
    )  # fmt: skip
    verify.add_argument("--read-data", metavar="N%", help="also read that share of all data, chosen at random")
    _limit(verify)
    verify.add_argument("--json", action="store_true", help="the same as JSON")

    prune = cli.verb(
        verbs, "prune", cli.lazy("persist.upkeep.prune"),
        says="remove states that sync.keep does not keep, and then, a day later, what only they held",
        example="persist prune --dry-run", agents="*",
    )  # fmt: skip
    _limit(prune)
    prune.add_argument("--dry-run", action="store_true", help="print what would be done")
    prune.add_argument("--json", action="store_true", help="the same as JSON")

    forget = cli.verb(
        verbs, "forget", cli.lazy("persist.upkeep.forget"),
        says="remove states by name; what only they held goes with the next prunes",
        example="persist forget ada@3f9c21 --dry-run",
    )  # fmt: skip
    forget.add_argument("what", metavar="AGENT@SNAPSHOT", nargs="+", help="states that `persist log` shows")
    forget.add_argument("--dry-run", action="store_true", help="print what would be done")
    forget.add_argument("--json", action="store_true", help="the same as JSON")

    repair = cli.verb(
        verbs, "repair", cli.lazy("persist.upkeep.repair"),
        says="after damage: make whole what this machine still has, list what nobody has",
        example="persist repair ada --dry-run", agents="*",
    )  # fmt: skip
    repair.add_argument("--read-data", metavar="N%", help="also read that share of all data, chosen at random")
    repair.add_argument("--dry-run", action="store_true", help="only list")
    repair.add_argument("--json", action="store_true", help="the same as JSON")

    key = cli.verb(
        verbs, "key", cli.lazy("persist.key"),
        says="who can open the store's key; add, remove, or begin a new key",
        example="persist key show\n  persist key add age1…",
    )  # fmt: skip
    key.add_argument("do", choices=("show", "add", "remove", "rotate"))
    key.add_argument("recipient", nargs="?", help="for add and remove: age1…, ssh-ed25519 AAAA… or a fingerprint")
    key.add_argument("--json", action="store_true", help="the same as JSON")
    key.add_argument("--lock-out", action="store_true", help="remove even the last human, or this machine itself")
    key.add_argument("--dry-run", action="store_true", help="print what would be done")


def _limit(verb: cli.Parser) -> None:
    verb.add_argument("--limit-rate", metavar="RATE", help="at most so many bytes a second, such as 10M")


def _service(verbs: "argparse._SubParsersAction[cli.Parser]") -> None:
    """What the boot service is made of, and what people need around it."""
    release = cli.verb(
        verbs, "release", cli.lazy("persist.release"),
        says="take the binds of an agent away again, before its home is reset",
        example="persist release ada --stop", agents="+",
    )  # fmt: skip
    release.add_argument("--stop", action="store_true", help="end the agent's processes first, else they are named")
    release.add_argument("--dry-run", action="store_true", help="print what would be done")

    adopt = cli.verb(
        verbs, "adopt", cli.lazy("persist.adopt"),
        says="move declared data that already lies in a home to where it is kept",
        example="persist adopt ada --dry-run && persist adopt ada", agents="+",
    )  # fmt: skip
    adopt.add_argument("--dry-run", action="store_true", help="print what would be done")

    chown = cli.verb(
        verbs, "chown", cli.lazy("persist.chown"),
        says="give an agent what lies here under an earlier uid of it",
        example="persist chown ada --from 1100 --dry-run",
    )  # fmt: skip
    chown.add_argument("agent", metavar="AGENT")
    chown.add_argument("--from", dest="before", metavar="UID", type=cli.count, help="the uid that it had")
    chown.add_argument("--dry-run", action="store_true", help="print what would be done")

    metrics = cli.verb(
        verbs, "metrics", cli.lazy("persist.metrics"),
        says="what `persist status` says, as a Prometheus textfile",
        example="persist metrics /var/lib/prometheus/node-exporter/nuketown.prom",
    )  # fmt: skip
    metrics.add_argument("file", metavar="FILE", nargs="?", help="written whole; without it, to standard output")

    sweep = cli.verb(
        verbs, "sweep", cli.lazy("persist.sweep"),
        says="take away what agents left outside their homes, before they start",
        example="persist sweep --dry-run", agents="*",
    )  # fmt: skip
    sweep.add_argument("--missing", action="store_true", help="only who was not swept at this boot, and is not open")
    sweep.add_argument("--dry-run", action="store_true", help="print what would be done")
    sweep.add_argument("--json", action="store_true", help="the same as JSON")

    account = cli.verb(
        verbs, "account", cli.lazy("persist.account"),
        says="which agents may log in; open one that has all it needs, or close one (its sessions go on)",
        example="persist account\n  persist account open ada",
    )  # fmt: skip
    account.add_argument("do", nargs="?", choices=("list", "open", "close"), default="list")
    account.add_argument("agent", metavar="AGENT", nargs="?")
    account.add_argument("--force", action="store_true", help="open it whatever is missing, to repair it")
    account.add_argument("--json", action="store_true", help="the same as JSON")

    failed = cli.verb(
        verbs, "failed", cli.lazy("persist.failed"),
        says="what a unit that failed means, and what to type next",
        example="persist failed nuketown-restore@ada.service",
    )  # fmt: skip
    failed.add_argument("unit", metavar="UNIT")


def _machine(verbs: "argparse._SubParsersAction[cli.Parser]") -> None:
    """What sets a machine up, and takes that back."""
    kinds = ("dracut", "initramfs-tools", "none")
    root: dict[str, Any] = {"default": "/", "metavar": "DIR", "help": "a tree that will be a machine, not this one"}
    program: dict[str, Any] = {"metavar": "PATH", "help": "the command persist as the units call it (else this one)"}
    initrd: dict[str, Any] = {"choices": kinds, "help": "what makes its initrds (else the one that is there)"}

    units = cli.verb(
        verbs, "units", cli.lazy("persist.install", "write_units"),
        says="the systemd units of this town, on standard output or in a directory",
        example="persist units --write /etc/systemd/system",
    )  # fmt: skip
    where = units.add_mutually_exclusive_group()
    where.add_argument("--write", metavar="DIR", help="write them there, whole; a file that is not ours stays")
    where.add_argument("--package", metavar="DIR", help="for the configuration of another machine, such as NixOS")
    units.add_argument("--initrd", **initrd)
    units.add_argument("--program", **program)

    install = cli.verb(
        verbs, "install", cli.lazy("persist.install", "install"),
        says="make this machine roll back at boot: units, what the initrd needs, rollback.conf",
        example="persist install --dry-run && persist install",
    )  # fmt: skip
    install.add_argument("--initrd", **initrd)
    install.add_argument("--program", **program)
    install.add_argument("--root", **root)
    install.add_argument("--dry-run", action="store_true", help="print what would be done, and what differs")

    uninstall = cli.verb(
        verbs, "uninstall", cli.lazy("persist.install", "uninstall"),
        says="take back what `persist install` put on this machine",
        example="persist uninstall --dry-run",
    )  # fmt: skip
    uninstall.add_argument("--root", **root)
    uninstall.add_argument("--dry-run", action="store_true", help="print what would be done")


def main(argv: Sequence[str] | None = None) -> int:
    """The command `persist`."""
    return cli.run("persist", parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
