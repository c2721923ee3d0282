"""`persist recall`: a writable copy of a kept home, mounted where a person looks at it; or in the present one's place.

The kept home itself is only read. The copy is a snapshot below agents_dir/.recalled (root's, 0700), inside @agents,
so the next boot takes it. Without [town.btrfs] it is a copy of every file, which the next boot's tidy takes.
"""

import argparse
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

from persist import ground, kept, place, recopied, running, secrets, shelves, showing
from persist.kept import Kept, NoSuchHome
from persist.place import NotEmpty, entered, refuse_agents
from persist.secrets import Found
from persist.shelves import RECALLED
from persist.showing import Recalled, Wish, recall
from town import accounts, cli, files, spec, trust
from town.accounts import Account
from town.failure import DONE, Failure, WrongUsage, status_of, worst
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
    if arguments.all and not arguments.end:
        raise WrongUsage("--all goes with --end: it ends every copy of that home", hint="leave it out")
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
    lines.append(f"mount     the copy {place_} ({wish.options}){mapped}")
    return lines + [f"mount     {shown(str(path))} in it, as it was persisted then" for path in chosen.about.paths]


# ---- ending a copy


def _end(town: Spec, arguments: argparse.Namespace) -> int:
    done, failed = list[str](), list[Failure]()
    with shelves.opened(town) as where, ground.agents_dir(town) as agents:
        copies = _copies(kept.every(town, where.top, agents), arguments.home, every_one=arguments.all)
        with files.opened(recopied.directory(town, agents)) as above:
            for copy in copies:
                try:
                    done += _ended(above, copy, dry=arguments.dry_run)
                except Failure as failure:
                    if len(copies) == 1:
                        raise
                    cli.tell("persist", failure, copy.name)
                    failed.append(failure)
    if arguments.json:
        names = [copy.name for copy in copies]
        cli.put_json({"dry_run": arguments.dry_run, "name": names[0], "names": names, "actions": done})
    else:
        print("\n".join(done))
    return worst(map(status_of, failed))


def _ended(above: int, copy: Kept, *, dry: bool) -> list[str]:
    """End one copy; what that was, a line for each step, in their order. Raises InUse and what `remove` raises."""
    name = copy.agent + b"@" + copy.key
    if dry:
        found = recopied.shown_at(above, name)
        _refuse_busy(found)
    else:
        found = recopied.remove(above, name, _refuse_busy)
        _clear(name)
    return [*(f"unmount   {shown(mount.target)}" for mount in reversed(found)), f"delete    {copy.name}"]


def _copies(every: list[Kept], wanted: str, *, every_one: bool) -> list[Kept]:
    """The copy of that name, or the only one of the home of that name, or each of them. Raises NoCopy, NoSuchHome."""
    copies = [one for one in every if one.kind == "recalled"]
    exact = [one for one in copies if one.name == wanted]
    if not exact:
        with suppress(NoSuchHome):
            of = kept.chosen([one for one in every if one.kind != "recalled"], wanted).name
            exact = [one for one in copies if one.about.of == of]
    if len(exact) == 1 or (exact and every_one):
        return exact
    if exact:
        names = ", ".join(one.name for one in exact[:10])
        raise NoCopy(
            f"{len(exact)} copies of {shown(wanted)} are there: {names}", hint="name one of them; --all ends them all"
        )
    if not copies:
        raise NoCopy("there is no recalled copy", hint="persist homes lists what is kept")
    return [kept.chosen(copies, wanted)]


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
    for line in _part_lines(done):
        say(line)
    if done.left:
        say(f"note: {done.left:,} nested subvolumes, with what lies in them, are not in the copy")
    noexec = (
        "" if wish.run else "; the mount is noexec, which stops programs but no script that an interpreter is given"
    )
    say(f"careful: an agent wrote this, and git, editors and shells run what lies in it{noexec}")
    for line in secret_lines(done.found, left_out=not wish.secrets):
        say(line)
    umount = f"umount {'-R ' if done.parts.there else ''}{where}"
    say(f"when done: persist recall --end {shell_word(done.name)}; or {umount}, and the next boot takes the copy")


def _part_lines(done: Recalled) -> Iterator[str]:
    """What a person should hear of what was persisted outside of the home."""
    own, other, gone = map(_listed, (done.parts.own, done.parts.read_only, done.parts.gone))
    if own:
        yield f"in it as it was persisted then, each a mount of its own: {own}"
    if other:
        yield f"in it as it was persisted then, read-only, since it lies on another filesystem: {other}"
        if done.mapped == "owners":
            yield f"note: its owners are as they were, since this kernel maps none: {other}"
    if gone:
        yield f"note: not in the copy, since it is not on the filesystem of persist_dir any more: {gone}"
    if done.parts.moved:
        yield f"note: stood where persisted data belongs, and has another name: {', '.join(done.parts.moved)}"


def _listed(paths: Iterable[PurePosixPath]) -> str:
    return ", ".join(shown(str(path)) for path in paths)


def secret_lines(found: Found, *, left_out: bool) -> list[str]:
    """What a person should hear of keys and logins in a home."""
    lines = []
    if left_out:
        lines.append(f"keys and logins left out, by place and name: {found.secrets or 'none were found'}")
    elif found.secrets:
        lines.append(f"keys and logins are in it: {found.secrets}; --without-secrets leaves them out")
    if deep := secrets.deep_line(found):
        lines.append(f"note: {deep}")
    if not found.whole:
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
            "too_deep": done.found.deep,
        },
        "persisted": [str(path) for path in done.parts.own],
        "persisted_read_only": [str(path) for path in done.parts.read_only],
        "persisted_gone": [str(path) for path in done.parts.gone],
        "moved": done.parts.moved,
        "nested_left_out": done.left,
    }
