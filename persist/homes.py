"""`persist homes`: the homes that were set aside, by the names that `recall` takes.

They lie in `@agents-old/<time>-<boot id>/<agent>` (docs/formats/disk.md), below a top level that no path leads to.
"""

import argparse
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from persist import device, ground, outgoing, places
from town import btrfs, cli, files, spec
from town.failure import DONE, Unsafe
from town.spec import Spec
from town.terminal import say, shown

_KEY = re.compile(rb"(\d{8}T\d{6}Z)-([0-9A-Fa-f-]{1,64})(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Old:
    """One home that was set aside: `agent` is a name in the directory `key` below @agents-old, as the disk has them."""

    agent: bytes
    key: bytes
    time: datetime | None  # None: the name is not one that the rollback gives
    boot: str
    subvolume: bool
    nested: tuple[bytes, ...]  # paths of subvolumes inside it: a snapshot leaves them out

    @property
    def name(self) -> str:
        """AGENT@NAME, safe to print; what `recall` takes."""
        return f"{shown(self.agent)}@{shown(self.key)}"


def command(arguments: argparse.Namespace) -> int:
    """List the homes that are kept, oldest first; for the agents that were named, or of all that ever were."""
    town = spec.load(cli.spec_file(arguments))
    named = {agent.name.encode() for agent in town.chosen(arguments.agents)} if arguments.agents else None
    ground.require_root("homes")
    with _old_homes(town) as (where, old):
        there = [] if old is None else kept_in(old)
        found = [home for home in there if named is None or home.agent.partition(b".")[0] in named]
        others = 0 if old is None else len(_keys(old))
    if not found:
        whose = "" if named is None else f" of {', '.join(arguments.agents)}"
        say(f"no old homes{whose}: {_why(others, where, 'of these agents' if whose else '')}")
    cli.put_json({"homes": list(map(_json, found))}) if arguments.json else _put_text(found)
    return DONE


@contextmanager
def _old_homes(town: Spec) -> Iterator[tuple[str, int | None]]:
    """What holds old homes, open, and its name: @agents-old, or `.old` in agents_dir where nothing rolls back."""
    if town.town.btrfs is None:
        with ground.agents_dir(town) as agents, outgoing.opened(town, agents) as old:
            yield outgoing.DIRECTORY, old
    else:
        with device.top(town) as top, directory(town, top) as old:
            yield town.town.btrfs.old, old


def _why(others: int, where: str, whose: str) -> str:
    """Why there is nothing to list: nothing was set aside, or what was holds no home."""
    if others == 0:
        return (
            "a rollback sets them aside"
            if where != outgoing.DIRECTORY
            else "the first restore of a boot sets them aside"
        )
    entries = "1 entry" if others == 1 else f"{others:,} entries"
    return f"{entries} of {shown(where)} hold{'s' if others == 1 else ''} no home {whose}".rstrip()


def kept(town: Spec, top: int) -> list[Old]:
    """Every home under @agents-old, by agent and then oldest first. `top` is the open top level."""
    with directory(town, top) as old:
        return [] if old is None else kept_in(old)


def kept_in(old: int) -> list[Old]:
    """Every home below an open directory of old homes, by agent and then oldest first."""
    found = [home for key in _keys(old) for home in _of_key(old, key)]
    return sorted(found, key=lambda home: (home.agent, home.key))


def _keys(old: int) -> list[bytes]:
    """What was set aside and is not being deleted: an entry for each rollback."""
    return [key for key in files.names(old) if not key.startswith(places.DELETING)]


@contextmanager
def directory(town: Spec, top: int) -> Iterator[int | None]:
    """@agents-old, open, or None when nothing was ever set aside."""
    assert town.town.btrfs is not None
    try:
        fd = files.enter(top, town.town.btrfs.old)
    except FileNotFoundError:
        yield None
        return
    with files.opened(fd):
        yield fd


def _of_key(old: int, key: bytes) -> Iterator[Old]:
    fd = _directory(old, key)
    if fd is None:
        return
    with files.opened(fd):
        for name in files.names(fd):
            # Hidden names are root's own: copies that were recalled, homes that were never finished.
            if not name.startswith(b".") and (home := _directory(fd, name)) is not None:
                with files.opened(home):
                    yield _old(name, key, home)


def _directory(above: int, name: bytes) -> int | None:
    """The directory of that name, or None for anything else: a file or a link there is nobody's home."""
    try:
        return files.enter(above, name)
    except (NotADirectoryError, FileNotFoundError, Unsafe):
        return None


def _old(agent: bytes, key: bytes, home: int) -> Old:
    time, boot = parsed_key(key)
    subvolume = btrfs.is_subvolume(home)
    if not btrfs.is_btrfs(home):
        return Old(agent, key, time, boot, subvolume, ())
    return Old(agent, key, time, boot, subvolume, tuple(_nested(agent, home, subvolume=subvolume)))


def _nested(agent: bytes, home: int, *, subvolume: bool) -> list[bytes]:
    paths = [nested.path for nested in btrfs.nested(home)]
    if subvolume:
        return paths
    # A plain directory: those of the whole subvolume that it lies in, among them its own.
    return [path[len(agent) + 1 :] for path in paths if path.startswith(agent + b"/")]


def parsed_key(key: bytes) -> tuple[datetime | None, str]:
    """When and at which boot a home was set aside, as its name says; (None, "") where it is no such name."""
    match = _KEY.fullmatch(key)
    if match is None:
        return None, ""
    try:
        time = datetime.strptime(match[1].decode(), "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:  # 99 hours
        return None, ""
    return time, match[2].decode()


def _put_text(found: Sequence[Old]) -> None:
    for old in found:
        time = "time unknown" if old.time is None else old.time.strftime("%Y-%m-%d %H:%M:%S UTC")
        words = [time, f"boot {old.boot or 'unknown'}", "subvolume" if old.subvolume else "plain directory"]
        if old.nested:
            words.append(f"{len(old.nested)} nested subvolume{'' if len(old.nested) == 1 else 's'}")
        print(f"{old.name}  {', '.join(words)}")


def _json(old: Old) -> dict[str, object]:
    return {
        "name": old.name,
        "agent": cli.named(old.agent),
        "home": cli.named(old.key),
        "time": None if old.time is None else old.time.isoformat(),
        "boot": old.boot or None,
        "subvolume": old.subvolume,
        "nested": [cli.named(path) for path in old.nested],
    }
