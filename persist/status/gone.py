"""What agents left that are not in the spec any more: named, with the command for each; nothing is deleted here.

Who was an agent is told by what there is: data under persist_dir, a home, homes set aside, root's records, a directory
below identities/. A directory of somebody else's at one of these places is listed too: look before you remove it.
"""

import json
import os
import re
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path

from persist import device, kept, outgoing
from persist.ground import Ground
from persist.status import sizes
from persist.status.report import Gone, Measure, Thing
from persist.status.sizes import Clock
from town import btrfs, files
from town.failure import Failure, Unsafe
from town.spec import Spec
from town.terminal import shell_word, shown

_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")  # of an agent, docs/formats/spec.md
_RECORDS = ("sync", "index", "origins", "lineage", "counted", "degraded", "copies", "files")
_SUFFIXES = (".json", ".sqlite", ".sqlite-journal", ".copies")
_LIMIT = 4 << 20
_STAYS = "its states stay there; with AGENT in the spec again: persist log AGENT, persist forget AGENT@SNAPSHOT"


def look(spec: Spec, here: Ground | None) -> tuple[Gone, ...]:
    """Every agent that is gone and of which there is something. Raises nothing."""
    found: dict[str, list[Thing]] = {}
    for name, thing in _all(spec, here):
        found.setdefault(name, []).append(thing)
    known = {agent.name for agent in spec.agents}
    gone = sorted(set(found) - known)
    for name, thing in _secrets(spec, gone):
        found[name].append(thing)
    return tuple(Gone(name, tuple(found[name])) for name in gone)


def _all(spec: Spec, here: Ground | None) -> Iterator[tuple[str, Thing]]:
    known = {agent.name for agent in spec.agents}
    if here is not None:
        yield from _living(spec, here, known)
        yield from _persisted(spec, here, known)
    yield from _kept(spec, here)
    yield from _records(spec, known)
    yield from _aside(spec, known)
    yield from _stored(spec, known)
    yield from _identities(spec)


def _living(spec: Spec, here: Ground, known: Collection[str]) -> Iterator[tuple[str, Thing]]:
    for name, fd in _directories(here.agents, known):
        with files.opened(fd):
            path = spec.town.agents_dir / name
            yield (
                name,
                Thing(
                    "home",
                    shown(str(path)),
                    "the next boot sets it aside; umount what is bound in it before you remove it",
                ),
            )


def _persisted(spec: Spec, here: Ground, known: Collection[str]) -> Iterator[tuple[str, Thing]]:
    if here.persist is None or spec.town.persist_dir is None:
        return
    with suppress(OSError, Unsafe), files.opened(files.enter(here.persist, "agents")) as above:
        found = list(_directories(above, known))
        clock = Clock(len(found), sizes.ALL / 4)
        for name, fd in found:
            with files.opened(fd):
                path = spec.town.persist_dir / "agents" / name
                delete = "btrfs subvolume delete" if btrfs.is_subvolume(fd) else "rm -r --one-file-system"
                measure = sizes.measured(fd, clock.until())
                yield name, Thing("persisted data", shown(str(path)), f"{delete} {shell_word(str(path))}", measure)


def _directories(above: int, known: Collection[str]) -> Iterator[tuple[str, int]]:
    """Directories called as an agent may be, open; those of the spec left out."""
    for raw in files.names(above):
        name = os.fsdecode(raw)
        if name not in known and _NAME.fullmatch(name):
            with suppress(OSError, Unsafe):
                yield name, files.enter(above, raw)


def _kept(spec: Spec, here: Ground | None) -> Iterator[tuple[str, Thing]]:
    counts: dict[tuple[str, bool], int] = {}
    with suppress(Failure, OSError):
        for name, aside in _kept_names(spec, here):
            counts[name, aside] = counts.get((name, aside), 0) + 1
    where = spec.town.agents_dir / outgoing.DIRECTORY if spec.town.btrfs is None else Path(spec.town.btrfs.old)
    for (name, aside), count in counts.items():
        if not _NAME.fullmatch(name):
            continue
        if aside:
            yield name, Thing("kept homes", shown(str(where)), "persist tidy deletes them by `keep`", entries=count)
        else:
            assert spec.town.btrfs is not None
            place = f"{shown(spec.town.btrfs.snapshots)}/{name}"
            yield name, Thing("snapshots", place, "persist homes lists them, --delete takes them away", entries=count)


def _kept_names(spec: Spec, here: Ground | None) -> Iterator[tuple[str, bool]]:
    """Whose each kept home is, and whether it was set aside."""
    if spec.town.btrfs is not None:
        with device.top(spec) as top:
            for home in kept.every(spec, top, None):
                if home.kind != "recalled":
                    yield home.whose, home.kind == "aside"
    elif here is not None:
        with outgoing.opened(spec, here.agents) as old:
            if old is None:
                return
            for boot in files.names(old):
                with suppress(NotADirectoryError), files.opened(files.enter(old, boot)) as fd:
                    yield from ((os.fsdecode(name.partition(b".")[0]), True) for name in files.names(fd))


def _records(spec: Spec, known: Collection[str]) -> Iterator[tuple[str, Thing]]:
    found: dict[str, list[Path]] = {}
    for place in _RECORDS:
        for path in _listed(spec.state_dir / place):
            name = next((path.name.removesuffix(end) for end in _SUFFIXES if path.name.endswith(end)), path.name)
            if _NAME.fullmatch(name) and name not in known:
                found.setdefault(name, []).append(path)
    for name, paths in found.items():
        words = " ".join(shell_word(str(path)) for path in paths)
        yield name, Thing("records", shown(str(spec.state_dir)), f"rm -r {words}", entries=len(paths))


def _aside(spec: Spec, known: Collection[str]) -> Iterator[tuple[str, Thing]]:
    found: dict[str, list[Path]] = {}
    for boot in _listed(spec.state_dir / "swept"):
        for path in _listed(boot):
            if _NAME.fullmatch(path.name) and path.name not in known:
                found.setdefault(path.name, []).append(path)
    for name, paths in found.items():
        words = " ".join(shell_word(str(path)) for path in paths)
        yield name, Thing("files set aside", shown(str(spec.state_dir / "swept")), f"rm -r {words}", entries=len(paths))


def _stored(spec: Spec, known: Collection[str]) -> Iterator[tuple[str, Thing]]:
    """What root's own record says of the store: it is not asked."""
    if spec.town.store is None:
        return
    for path in _listed(spec.state_dir / "sync"):
        name = path.name.removesuffix(".json")
        if path.suffix != ".json" or name in known or not _NAME.fullmatch(name):
            continue
        with suppress(Failure, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            last = json.loads(files.read_bounded(path, _LIMIT))["last"]
            where = f"snapshot {shown(str(last['snapshot']))} of {shown(str(last['time']))}"
            yield (
                name,
                Thing(
                    "store",
                    where,
                    _STAYS.replace("AGENT", name),
                    Measure(int(last["bytes"]), int(last["files"]), of="last sync"),
                ),
            )


def _identities(spec: Spec) -> Iterator[tuple[str, Thing]]:
    for path in _listed(spec.beside(Path("identities"))):
        if _NAME.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
            said = f"revoke its keys where they are known, then: rm -r {shell_word(str(path))}"
            yield path.name, Thing("public keys and documents", shown(str(path)), said)


def _secrets(spec: Spec, gone: Collection[str]) -> Iterator[tuple[str, Thing]]:
    """Keys of the SOPS files called after an agent that is gone: their names are in clear there."""
    for file in dict.fromkeys((spec.beside(spec.town.sops_file), spec.beside(spec.town.recovery_file))):
        with suppress(Failure):
            text = files.read_bounded(file, _LIMIT).decode("utf-8", "replace")
            for name in gone:
                if re.search(rf'(?m)^\s*"?{re.escape(name)}"?\s*:', text):
                    yield name, Thing("secrets", shown(str(file)), f"sops {shell_word(str(file))}, and remove {name}")


def _listed(directory: Path) -> list[Path]:
    """What lies in a directory of root's, sorted; nothing where there is none."""
    try:
        return sorted(directory.iterdir())
    except OSError:
        return []
