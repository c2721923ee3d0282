"""Subvolumes that the spec names as the agents', and that this machine uses as something else: the human's root, say.

The boot hook sets aside what has the name, and in an initrd nothing is mounted yet that would tell it. So it is asked
here, where init, install and check are: of the mounts that this process sees, and of those that process 1 sees.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from persist import device
from town import grammar, mounts
from town.failure import BadSpec, Problem
from town.mounts import Mount
from town.spec import Btrfs, Spec
from town.terminal import shell_word, shown


def mounted(spec: Spec, top: int, root: Path = Path("/")) -> dict[Mount, str]:
    """Mounts of what the spec names, on the filesystem whose top level is open, anywhere but at agents_dir.

    Each with the key of [town.btrfs] that names it. `root` is a tree that will be a machine: its agents_dir is one too.
    """
    found = _candidates(spec, root)
    number = mounts.device_of(top) if found else ""
    return {mount: key for mount, key in found.items() if mount.device == number}


def problems(spec: Spec, found: dict[Mount, str]) -> Iterator[Problem]:
    """What is wrong with a spec that names what is `mounted`, a problem for each place."""
    assert spec.town.btrfs is not None
    names, said = {"subvolume": spec.town.btrfs.subvolume, "blank": spec.town.btrfs.blank}, set()
    for mount, key in found.items():
        name, where = shown(names[key]), shown(mount.target)
        inside = "" if mount.root == b"/" + os.fsencode(names[key]) else f"something in {name} "
        what = f"{inside or name + ' '}is mounted at {where}: it is in use there, and is not the agents' own"
        cure = (
            f"name another in {key} under [town.btrfs], one that nothing else uses; if it is the agents', "
            f"and mounted there by mistake: umount {shell_word(mount.target)}"
        )
        if what not in said:
            yield Problem(f"town.btrfs.{key}", what, cure)
        said.add(what)


def refuse(spec: Spec, root: Path = Path("/")) -> None:
    """Raises BadSpec when the spec names what is mounted elsewhere; the filesystem is only looked for if it may be.

    A device that is not there has nothing mounted. Also raises what `device.top` raises besides that.
    """
    if spec.town.btrfs is None or not _candidates(spec, root):
        return
    try:
        with device.top(spec) as top:
            found = tuple(problems(spec, mounted(spec, top, root)))
    except device.DeviceMissing:
        return
    if found:
        raise BadSpec(shown(str(spec.file)), found)


def _candidates(spec: Spec, root: Path) -> dict[Mount, str]:
    """Mounts of any btrfs that could be meant: their subvolume has a name that the spec has."""
    assert spec.town.btrfs is not None
    path = spec.town.agents_dir
    homes = {os.fsencode(os.path.realpath(each)) for each in (path, root / path.relative_to("/"))}
    # No other process's: an agent can make a namespace of its own, and mount in it what it likes.
    every = dict.fromkeys([*mounts.table(), *mounts.table(1)])
    elsewhere = (mount for mount in every if mount.kind == "btrfs" and mount.target not in homes)
    return {mount: key for mount in elsewhere if (key := _key(spec.town.btrfs, mount))}


def _key(names: Btrfs, mount: Mount) -> str:
    subvolume, blank = b"/" + os.fsencode(names.subvolume), b"/" + os.fsencode(names.blank)
    if mount.root == blank or mount.root.startswith(blank + b"/"):
        return "blank"
    # A copy that was recalled is mounted from inside of it, and what of it is bound elsewhere is a person's affair; not
    # so where the system itself is inside.
    inside = mount.root.startswith(subvolume + b"/") and grammar.is_system(os.fsdecode(mount.target))
    return "subvolume" if mount.root == subvolume or inside else ""
