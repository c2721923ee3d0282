"""`persist recall`: a writable copy of a kept home, mounted where a person looks at it; or in the present one's place.

The kept home itself is only read. The copy is a snapshot below agents_dir/.recalled (root's, 0700), inside @agents,
so the next boot takes it. Without [town.btrfs] it is a copy of every file, which the next boot's tidy takes.
"""

import argparse
import os
from contextlib import suppress
from pathlib import Path

from persist import ground, kept, place, recopied, running, shelves, showing
from persist.kept import Kept, NoSuchHome
from persist.place import NotEmpty, entered, refuse_agents
from persist.shelves import RECALLED
from persist.showing import Recalled, Wish, recall
from town import accounts, cli, files, spec, trust
from town.accounts import Account
from town.failure import DONE, Failure, WrongUsage
from town.mounts import Mount
from town.spec import Spec
from town.terminal import say, shell_word, shown

__all__ = ["RECALLED", "NoSuchHome", "NotEmpty", "command", "entered", "plan", "recall", "refuse_agents"]


class RecallFailed(Failure):
    """The filesystem refused a step; nothing was mounted and the old home is as it was."""


class NoSuchUser(WrongUsage):
    """No account has the name that --as gives, or it is one that cannot be meant."""


class NoCopy(Failure):
    """No recalled copy has that name, or is one of that home."""


def command(arguments: argparse.Namespace) -> int:
    """Recall one home and print where it is mounted; or end a copy, or put one in the present home's place."""
    _refuse_odd(arguments)
    town = spec.load(cli.spec_file(arguments))
    kept.parse(arguments.home)
    ground.require_root("recall")
    trust.refuse(town)
    if arguments.replace:
        from persist import replace

        return replace.command(town, arguments)
    try:
        return _end(town, arguments) if arguments.end else _recall(town, arguments)
    except OSError as error:
        raise RecallFailed(f"{shown(arguments.home)}: {cli.unexpected(error)}") from error


def _refuse_odd(arguments: argparse.Namespace) -> None:
    """Raises WrongUsage for options that do not go together."""
    alone = "--replace" if arguments.replace else "--end" if arguments.end else ""
    for option, said in {
        "--end": arguments.end and arguments.replace,
        "--to": arguments.to is not None,
        "--as": arguments.as_user is not None,
        "--exec": arguments.exec,
        "--without-secrets": arguments.without_secrets and arguments.end,
    }.items():
        if alone and said:
            raise WrongUsage(f"{option} does not go with {alone}", hint="leave one of them out")
    if arguments.stop and not arguments.replace:
        raise WrongUsage("--stop goes with --replace: nothing else touches what the agent runs", hint="leave it out")


def _recall(town: Spec, arguments: argparse.Namespace) -> int:
    to = None if arguments.to is None else Path(os.path.abspath(arguments.to))
    wish = Wish(to, _user(town, arguments), arguments.exec, not arguments.without_secrets)
    if arguments.dry_run:
        lines = plan(town, arguments.home, wish)
        cli.put_json({"dry_run": True, "actions": lines}) if arguments.json else print("\n".join(lines))
        return DONE
    done = recall(town, arguments.home, wish)
    _tell(done, wish)
    cli.put_json(_json(done, wish)) if arguments.json else print(_pasted(done.path))
    return DONE


def _user(town: Spec, arguments: argparse.Namespace) -> Account | None:
    name = arguments.as_user
    if name is None:
        return None
    found = accounts.by_uid(int(name)) if name.isascii() and name.isdigit() else accounts.by_name(name)
    if found is None:
        raise NoSuchUser(f"no account is called {shown(name)}", hint="getent passwd lists them")
    whose = kept.parse(arguments.home)[0].partition(".")[0]
    agent = next((one for one in town.agents if one.uid == found.uid), None)
    if agent is not None and agent.name == whose:
        raise NoSuchUser(
            f"{shown(name)} is the agent whose home it was: a boot, or a person, took it from there",
            hint="--replace gives an agent an old home back",
        )
    if agent is not None:
        cli.warn("persist", f"{agent.name} is an agent: it can read and change all that lies in that home")
    return found


def plan(town: Spec, wanted: str, wish: Wish) -> list[str]:
    """What `recall` would do, a line for each thing; refuses what it would refuse, and makes nothing."""
    with shelves.opened(town) as where, ground.agents_dir(town) as agents:
        chosen = kept.chosen(kept.every(town, where.top, agents), wanted)
    way = "copy    " if town.town.btrfs is None else "snapshot"
    lines = [f"{way}  {chosen.name} into {shown(str(town.town.agents_dir / RECALLED))}"]
    if not wish.secrets:
        lines.append("remove    keys and logins from the copy")
    place_ = "where it lies"
    if wish.to is not None:
        place_ = f"at {shown(str(wish.to))}"
        with place.opened(town, wish.to, make=False) as fd:
            lines += [f"make      {shown(str(wish.to))}, root:root 0755"] if fd is None else []
    elif wish.user is not None and wish.user.uid:
        place_ = f"below {showing.RUN}"
    mapped = "" if wish.user is None else f", its files as {shown(wish.user.name)}'s"
    return [*lines, f"mount     the copy {place_} ({wish.options}){mapped}"]


# ---- ending a copy


def _end(town: Spec, arguments: argparse.Namespace) -> int:
    with shelves.opened(town) as where, ground.agents_dir(town) as agents:
        copy = _copy(kept.every(town, where.top, agents), arguments.home)
        with files.opened(recopied.directory(town, agents)) as above:
            name = copy.agent + b"@" + copy.key
            if arguments.dry_run:
                found = recopied.shown_at(above, name)
                _refuse_busy(found)
            else:
                found = recopied.remove(above, name, _refuse_busy)
                _clear(name)
    done = [f"unmount   {shown(mount.target)}" for mount in found] + [f"delete    {copy.name}"]
    if arguments.json:
        cli.put_json({"dry_run": arguments.dry_run, "name": copy.name, "actions": done})
    else:
        print("\n".join(done))
    return DONE


def _copy(every: list[Kept], wanted: str) -> Kept:
    """The copy of that name, or the only one of the home of that name. Raises NoCopy, NoSuchHome."""
    copies = [one for one in every if one.kind == "recalled"]
    exact = [one for one in copies if one.name == wanted]
    if not exact:
        with suppress(NoSuchHome):
            of = kept.chosen([one for one in every if one.kind != "recalled"], wanted).name
            exact = [one for one in copies if one.about.of == of]
    if len(exact) == 1:
        return exact[0]
    if exact:
        names = ", ".join(one.name for one in exact[:10])
        raise NoCopy(f"{len(exact)} copies of {shown(wanted)} are there: {names}", hint="name one of them")
    if not copies:
        raise NoCopy("there is no recalled copy", hint="persist homes lists what is kept")
    return kept.chosen(copies, wanted)


def _refuse_busy(found: list[Mount]) -> None:
    if busy := running.holding(-1, found):
        raise recopied.InUse(
            f"the copy is in use: {running.named(busy)}",
            hint=f"leave it, or end them: kill {' '.join(str(one.pid) for one in busy[:8])}",
        )


def _clear(name: bytes) -> None:
    """The directory of ours that it was mounted at."""
    with suppress(OSError):
        os.rmdir(showing.RUN / os.fsdecode(name))


# ---- words


def _pasted(path: Path) -> str:
    return shell_word(str(path)) if shown(str(path)) != str(path) else str(path)


def _tell(done: Recalled, wish: Wish) -> None:
    where = shell_word(str(done.path))
    whose = "" if wish.user is None else f", its files as {shown(wish.user.name)}'s"
    say(f"{done.of.name} is at {where}: a writable copy{whose}, gone after the next boot; the old home stays as it is")
    if done.of.about.paths:
        paths = ", ".join(shown(str(path)) for path in done.of.about.paths)
        say(f"note: what lies apart from the home, and was kept with it, is not in the copy: {paths}")
    if done.left:
        say(f"note: {done.left:,} nested subvolumes, with what lies in them, are not in the copy")
    noexec = (
        "" if wish.run else "; the mount is noexec, which stops programs but no script that an interpreter is given"
    )
    say(f"careful: an agent wrote this, and git, editors and shells run what lies in it{noexec}")
    for line in secret_lines(done.found.secrets, whole=done.found.whole, left_out=not wish.secrets):
        say(line)
    say(f"when done: persist recall --end {shell_word(done.name)}; or umount {where}, and the next boot takes the copy")


def secret_lines(found: object, *, whole: bool, left_out: bool) -> list[str]:
    """What a person should hear of keys and logins in a home."""
    lines = []
    if left_out:
        lines.append(f"keys and logins left out: {found}" if found else "no keys or logins were found to leave out")
    elif found:
        lines.append(f"keys and logins are in it: {found}; --without-secrets leaves them out")
    if not whole:
        lines.append("note: not all of it was looked through for keys and logins: it is large, or could not be read")
    return lines


def _json(done: Recalled, wish: Wish) -> dict[str, object]:
    return {
        "name": done.name,
        "of": done.of.name,
        "path": cli.named(os.fsencode(done.path)),
        "options": wish.options.split(","),
        "user": None if wish.user is None else wish.user.name,
        "mapped_by": done.mapped or None,
        "secrets": {
            "left_out": not wish.secrets,
            "found": done.found.secrets.count,
            "first": [cli.named(path) for path in done.found.secrets.first],
            "whole": done.found.whole,
        },
        "nested_left_out": done.left,
    }
