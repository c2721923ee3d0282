"""An @agents that is no agent's: what stands at the name may be somebody's, the human's own root even.

The next rollback sets aside whatever has the name. Nothing of it is lost, but no machine starts without its root.
"""

import itertools
import os
import stat

from persist import elsewhere
from persist.layout.actions import Findings
from persist.layout.top import entry_of, is_subvolume
from persist.restore.found import HIDDEN
from persist.shelves import RECALLED
from town import btrfs, files
from town.spec import Spec
from town.terminal import counted, shown

FEW, MANY = 5, 1000
_OF_A_ROOT = {b"bin", b"etc", b"nix", b"usr"}
_UIDS = range(1000, 60001)  # that an agent can have (docs/formats/spec.md)


def look(top: int, spec: Spec, found: Findings, *, adopt: bool) -> None:
    """Name an @agents, or a blank, that is in use elsewhere or holds what no agent of the spec has."""
    assert spec.town.btrfs is not None
    mounted = elsewhere.mounted(spec, top)
    found.wrong += [(problem.what, problem.cure) for problem in elsewhere.problems(spec, mounted)]
    entry = entry_of(top, spec.town.btrfs.subvolume)
    if entry is None or not stat.S_ISDIR(entry.st_mode):
        return
    with files.opened(files.enter(top, spec.town.btrfs.subvolume)) as homes:
        _held(top, homes, spec, found, adopt=adopt)


def _held(top: int, homes: int, spec: Spec, found: Findings, *, adopt: bool) -> None:
    assert spec.town.btrfs is not None
    name, known = shown(spec.town.btrfs.subvolume), {os.fsencode(agent.name) for agent in spec.agents}
    others = (os.fsencode(entry.name) for entry in files.scan(homes))
    strange = list(itertools.islice((other for other in others if other not in known and not _ours(other)), MANY))
    if system := sorted(other for other in _OF_A_ROOT - known if _is_of_a_root(homes, other)):
        what = f"{name} holds {_listed(system)}: it looks like a system's root, which the next boot would set aside"
        cure = "name a subvolume of the agents' own in subvolume under [town.btrfs], such as @agents"
        found.wrong.append((what, cure))
    elif strange and not adopt and not _is_childs(top, homes, spec):
        listed = _listed(sorted(strange))
        what = f"{name} was made by no rollback, and holds what no agent of the spec is called: {listed}"
        cure = "name another subvolume under [town.btrfs]; or persist init --adopt: the next rollback sets that aside"
        found.wrong.append((what, cure))


def _ours(name: bytes) -> bool:
    """Whether recall or restore made it."""
    return name == os.fsencode(RECALLED) or HIDDEN.fullmatch(name) is not None


def _is_of_a_root(homes: int, name: bytes) -> bool:
    """Whether it is there and no home: an agent that the spec had once may be called so, too."""
    try:
        return os.stat(name, dir_fd=homes, follow_symlinks=False).st_uid not in _UIDS
    except FileNotFoundError:
        return False


def _is_childs(top: int, homes: int, spec: Spec) -> bool:
    """Whether the open @agents is a snapshot of the blank subvolume: then a rollback, or init, made it."""
    assert spec.town.btrfs is not None
    if not btrfs.is_subvolume(homes):
        return False
    mine = btrfs.info(homes)
    if (entry := entry_of(top, spec.town.btrfs.blank)) is None:
        return mine.parent_uuid is not None  # of one that is gone: to make it anew is what init is asked for then
    if not is_subvolume(entry):
        return False
    with files.opened(files.enter(top, spec.town.btrfs.blank)) as blank:
        return mine.parent_uuid == btrfs.info(blank).uuid


def _listed(names: list[bytes]) -> str:
    few = ", ".join(map(shown, names[:FEW]))
    more = len(names) - FEW
    return few if more <= 0 else f"{few} and {counted(more, 'more name')}" if len(names) < MANY else f"{few} and more"
