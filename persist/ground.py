"""agents_dir and persist_dir, opened and checked once: what every verb that makes or shows a home stands on.

Both are paths that only root may change; what lies below them is reached from these two descriptors alone.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from town import again, btrfs, files, mounts
from town.failure import Failure, Unsafe
from town.spec import Spec
from town.terminal import shell_word, shown

OTHERS_WRITE = 0o022
UNITS = Path("/etc/systemd/system")  # where a machine's own units are
MOUNT_UNIT = "nuketown-mount.service"


class NotRoot(Failure):
    """The verb changes what belongs to root, and is run by somebody else."""


class NotMounted(Failure):
    """agents_dir is not the subvolume that the spec names: what is made there would not be rolled back."""


class WrongOwner(Failure):
    """Something belongs to a uid that has no business there; root does not give it away unasked."""


class Ground(NamedTuple):
    """agents_dir and persist_dir, open; `persist` is None on a host without persist_dir."""

    agents: int
    persist: int | None

    @property
    def subvolumes(self) -> bool:
        """Whether homes can be subvolumes: agents_dir lies on btrfs."""
        return btrfs.is_btrfs(self.agents)


@contextmanager
def opened(spec: Spec) -> Iterator[Ground]:
    """Open both directories. Raises NotMounted, Unsafe, or files.Unreadable when one is missing."""
    with ExitStack() as stack:
        agents = stack.enter_context(agents_dir(spec))
        persist_dir = spec.town.persist_dir
        persist = None if persist_dir is None else stack.enter_context(_roots_own(persist_dir, "persist_dir"))
        yield Ground(agents, persist)


@contextmanager
def agents_dir(spec: Spec) -> Iterator[int]:
    """Open agents_dir: root's own, and with [town.btrfs] the mount of the subvolume that the spec names."""
    with _roots_own(spec.town.agents_dir, "agents_dir") as fd:
        if spec.town.btrfs is not None:
            refuse_wrong_mount(spec, fd)
        yield fd


def require_root(verb: str, why: str = "it looks into homes of other users") -> None:
    """Raises NotRoot: better one sentence now than a permission error in the middle."""
    if os.geteuid() != 0:
        raise NotRoot(f"persist {verb} needs root: {why}", hint=again.as_root("persist", verb))


def wrong_owner(path: Path, found: int, expected: int, agent: str) -> WrongOwner:
    """The failure that says whose `path` is and whose it should be."""
    return WrongOwner(
        f"{shown(os.fspath(path))} belongs to uid {found}, expected uid {expected}",
        hint=f"look whose it is; if uid {found} was this agent's before: persist chown {agent} --from {found}",
    )


@contextmanager
def _roots_own(path: Path, key: str) -> Iterator[int]:
    try:
        fd = files.open_dir(path)
    except files.Unreadable as error:
        raise files.Unreadable(error.what, hint=f"make or mount it first, or correct {key} in the spec") from error
    with files.opened(fd):
        refuse_others(fd, path)
        yield fd


def refuse_others(fd: int, path: Path) -> None:
    """Raises Unsafe when anybody but root owns the open directory or may write to it."""
    found = os.fstat(fd)
    if found.st_uid == 0 and not found.st_mode & OTHERS_WRITE:
        return
    name = shell_word(os.fspath(path))
    raise Unsafe(
        f"{shown(os.fspath(path))} may be changed by others than root "
        f"(owner uid {found.st_uid}, mode {found.st_mode & 0o7777:04o})",
        hint=f"look at what lies in it; then: chown root:root {name} && chmod go-w {name}",
    )


def refuse_wrong_mount(spec: Spec, fd: int) -> None:
    """Raises NotMounted when agents_dir, open, is not the mount of the subvolume that [town.btrfs] names."""
    assert spec.town.btrfs is not None
    here, path, subvolume = mounts.of(fd), spec.town.agents_dir, spec.town.btrfs.subvolume
    mounted = is_mount_point(fd, path)
    if mounted and here.kind == "btrfs" and here.root == b"/" + os.fsencode(subvolume):
        return
    found = f"a {here.kind} mount of {shown(here.root)}" if mounted else "no mount of its own"
    first = f"umount -R {shell_word(os.fspath(path))} && " if mounted else ""
    raise NotMounted(
        f"{shown(os.fspath(path))} is not the mounted subvolume {shown(subvolume)}: it is {found}",
        hint=first + mounting(spec),
    )


def is_mount_point(fd: int, path: Path) -> bool:
    """Whether the directory that `fd` has open at `path` is the root of a mount there; the cover is none."""
    here = mounts.of(fd)
    return here.target == os.fsencode(os.path.realpath(path)) and not is_cover(here)


def is_cover(mount: mounts.Mount) -> bool:
    """Whether a mount is what lies at agents_dir while no homes do: an empty tmpfs that nobody may enter."""
    return mount.kind == "tmpfs" and "mode=000" in mount.super_options


def mounting(spec: Spec, *, afresh: bool = False) -> str:
    """The command that mounts the subvolume of [town.btrfs] at agents_dir: through its unit where that is installed.

    `afresh`: after a rollback, whose proof the check has to take first; it may still be active from an earlier one.
    """
    assert spec.town.btrfs is not None
    if os.path.exists(UNITS / MOUNT_UNIT):
        taken = os.path.lexists("/run/nuketown/device") and not afresh
        check = "" if taken else "systemctl restart nuketown-rollback.service && "
        return f"{check}systemctl start {MOUNT_UNIT}"
    options = shell_word(f"subvol={spec.town.btrfs.subvolume},nosuid,nodev,noatime")
    device, path = shell_word(spec.town.btrfs.device), shell_word(os.fspath(spec.town.agents_dir))
    return f"mount -t btrfs -o {options} {device} {path}"


def unmounting(path: Path) -> str:
    """The command that unmounts what is mounted at agents_dir, with all below it."""
    if os.path.exists(UNITS / MOUNT_UNIT):
        return f"systemctl stop {MOUNT_UNIT}"
    return f"umount -R {shell_word(os.fspath(path))}"
