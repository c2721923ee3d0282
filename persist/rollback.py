"""`persist rollback`: the boot hook itself, run on a live system, in a mount namespace that nobody else sees."""

import argparse
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

import initrd
from persist import device, ground, needs, proof
from town import btrfs, cli, files, locks, mounts, process, spec, trust
from town.failure import DONE, Failure, TryLater
from town.mounts import Mount
from town.spec import Btrfs, Spec
from town.terminal import say, shell_word, shown

RUN = Path("/run/nuketown")
LOCK = "rollback.lock"
_ERROR, _HINT = b"nuketown: error: ", b"nuketown: hint: "
_TIMEOUT = 600.0  # seconds: a disk full of unwritten data is flushed first


class InUse(TryLater):
    """Homes are mounted: their owners would go on in a home that was set aside. Trying again later may help."""


class Running(TryLater):
    """Another rollback runs. Trying again may help."""


class RollbackFailed(Failure):
    """The hook ended without a blank @agents; its own words are the message. The next run goes on from there."""


def command(arguments: argparse.Namespace) -> int:
    """Roll back, or with --dry-run say what would be set aside; with --confirm only check and take the proof."""
    town = spec.load(cli.spec_file(arguments))
    if arguments.confirm:
        from persist import confirm

        return confirm.check(town, dry_run=arguments.dry_run)
    ground.require_root("rollback", "it replaces the subvolume of all homes")
    trust.refuse(town)
    if arguments.dry_run:
        print("\n".join(plan(town)))
        return DONE
    roll_back(town)
    return DONE


def plan(town: Spec) -> list[str]:
    """What a rollback would do, a line for each thing.

    Raises InUse, Running, RollbackFailed where the hook would refuse what it finds, or what `device.top` raises.
    """
    names = names_of(town)
    _refuse_running()
    _refuse_in_use(town, device.resolve(names.device))
    with device.top(town) as top:
        if (refused := needs.refused(top, names)) is not None:
            raise RollbackFailed(refused[0], hint=refused[1])
        lines = [line for name in (f"{names.subvolume}.new", names.subvolume) for line in _planned(top, name, names)]
        first = [f"set read-only {shown(names.blank)}: it is empty, and writable"]
        writable = needs.blank_is_writable(top, names)
    return [*(first if writable else []), *(lines or [f"snapshot  {shown(names.blank)} as {shown(names.subvolume)}"])]


def roll_back(town: Spec) -> None:
    """Run the hook, for whose device is waited as long as the spec says.

    Raises InUse, Running, RollbackFailed, or what `device.resolve` raises. Where there is no proof, the reason is left
    in /run, as the hook leaves its own.
    """
    names = names_of(town)
    with alone():
        try:
            done = _run(town, names)
        except device.DeviceAmbiguous as failure:
            proof.forget()  # as the hook does, which is not asked here: no home is in use
            proof.record(failure)
            raise
        except Failure as failure:
            if (left := proof.read()).proof is None and not left.failed:
                proof.record(failure)
            raise
    for line in done.err.splitlines():
        say(shown(line))


def _run(town: Spec, names: Btrfs) -> process.Done:
    missing, left = None, float(names.wait_seconds)
    until = time.monotonic() + left
    try:
        _refuse_in_use(town, _awaited(town, names))
        left = max(0.0, until - time.monotonic())  # for the other devices of the filesystem
    except device.DeviceMissing as failure:
        missing, left = failure, 0.0  # the hook says so as well, and ends what an earlier proof said
    told = {
        "NUKETOWN_DEVICE": names.device,
        "NUKETOWN_SUBVOLUME": names.subvolume,
        "NUKETOWN_BLANK": names.blank,
        "NUKETOWN_WAIT": str(int(left)),
    }
    argv = ["unshare", "--mount", "--propagation", "private", "sh", str(initrd.hook())]
    done = process.run(argv, env=told, timeout=_TIMEOUT + left, check=False)
    if done.status != 0:
        raise missing or _failed(done)
    return done


def _awaited(town: Spec, names: Btrfs) -> str:
    """The device, waited for as long as the spec says. Homes that are in use are told of before any waiting."""
    with suppress(device.DeviceMissing):
        return device.resolve(names.device)
    _refuse_in_use(town, None)
    return device.awaited(names.device, names.wait_seconds)


def names_of(town: Spec) -> Btrfs:
    """The [town.btrfs] of a town. Raises device.NoBtrfs when it has none."""
    if town.town.btrfs is None:
        raise device.NoBtrfs(
            f"{shown(str(town.file))} has no [town.btrfs]: homes are not rolled back by btrfs here",
            hint="add [town.btrfs] with the device to the spec; without btrfs nothing is rolled back",
        )
    return town.town.btrfs


def _planned(top: int, name: str, names: Btrfs) -> Iterator[str]:
    try:
        found = os.stat(name, dir_fd=top, follow_symlinks=False)
    except FileNotFoundError:
        return
    fresh = found.st_ino == btrfs.FIRST_INODE and _untouched(top, name, names.blank)
    if not fresh:
        yield f"set aside {shown(name)} as {shown(names.old)}/…"
        if name == names.subvolume:
            yield f"snapshot  {shown(names.blank)} as {shown(name)}"
    elif name == names.subvolume:
        yield f"keep      {shown(name)}: it is blank and was never written to"
    else:
        yield f"delete    {shown(name)}: it is blank and was never written to"


def _untouched(top: int, name: str, blank: str) -> bool:
    """Blank's child, with the generation that it was made with: nobody ever wrote to it."""
    btrfs.commit(top)  # generations are those of the last commit
    with files.opened(files.open_beneath(top, name)) as fd:
        mine = btrfs.info(fd)
    try:
        with files.opened(files.open_beneath(top, blank)) as fd:
            return mine.parent_uuid == btrfs.info(fd).uuid and mine.generation == mine.origin_generation
    except FileNotFoundError:
        return False


def _refuse_in_use(town: Spec, source: str | None) -> None:
    # This namespace only: an agent can keep a mount alive in a namespace of its own, and must not stop a rollback so.
    names, directory = names_of(town), town.town.agents_dir
    below = mounts.below(directory)
    at = _showing(names.subvolume, source, directory)
    if below or at:
        where = sorted({shown(mount.target) for mount in [*below, *at]})
        undo = " && ".join(_undoing(directory, [*below, *reversed(at)]))
        raise InUse(
            f"homes are in use: mounted at {', '.join(where[:5])}{' and elsewhere' if len(where) > 5 else ''}",
            hint=f"stop the agents, then: {undo}",
        )


def _undoing(directory: Path, found: list[Mount]) -> Iterator[str]:
    """The commands that unmount all of `found` (latest first), and no more than is needed."""
    top = os.fsencode(directory)
    whole = mounts.at(directory) is not None
    inside = [mount for mount in found if mount.target == top or mount.target.startswith(top + b"/")]
    if whole and inside:
        yield f"umount -R {shell_word(top)}"
    others = [mount.target for mount in found if not (whole and mount in inside)]
    if others:
        yield f"umount {' '.join(shell_word(target) for target in dict.fromkeys(others))}"


def _showing(subvolume: str, source: str | None, directory: Path) -> list[Mount]:
    """Mounts that show @agents or something in it; without `source` only what is mounted at agents_dir is seen."""
    homes = b"/" + os.fsencode(subvolume)
    found = [mount for mount in mounts.table() if mount.kind == "btrfs"]
    found = [mount for mount in found if mount.root == homes or mount.root.startswith(homes + b"/")]
    at = os.fsencode(directory)
    if source is None or all(mount.target == at for mount in found):
        return [mount for mount in found if mount.target == at]
    number = _number(source)
    return [mount for mount in found if mount.target == at or mount.device == number]


def _number(source: str) -> str | None:
    """The number of the filesystem on a device, whichever of its devices that is; None when it cannot be mounted."""
    try:
        with btrfs.top_level(source) as top:
            return mounts.device_of(top)
    except btrfs.BtrfsFailed:
        return None  # the hook, which does the same, says why


@contextmanager
def alone(name: str = LOCK, busy: TryLater | None = None) -> Iterator[None]:
    """One rollback at a time, by a lock that only root can take and that ends with the process.

    Another verb gives the lock a name of its own and says what is busy then. Raises that, or Running, or Unsafe when
    others than root may change /run/nuketown.
    """
    with (
        files.opened(files.open_dir(RUN.parent)) as run,
        # Its mode must not depend on the umask: agents find their secrets below it.
        files.opened(files.make_dirs(run, PurePosixPath(RUN.name), mode=0o755, owner=(0, 0))) as ours,
        files.opened(_lock(ours, name)) as lock,
    ):
        locks.take(lock, busy or _running())
        yield


def is_running() -> bool:
    """Whether a rollback holds the lock now; asked without touching the lock, so that no rollback is ever refused."""
    try:
        found = os.stat(RUN / LOCK)
    except FileNotFoundError:
        return False
    held = b" %02x:%02x:%d " % (os.major(found.st_dev), os.minor(found.st_dev), found.st_ino)  # proc_locks(5)
    return any(held in line for line in Path("/proc/locks").read_bytes().splitlines())


def _lock(ours: int, name: str) -> int:
    ground.refuse_others(ours, RUN)
    return files.open_beneath(ours, name, os.O_RDWR | os.O_CREAT, 0o600)


def _refuse_running() -> None:
    """Raises Running when a rollback holds the lock now. Makes nothing."""
    with suppress(FileNotFoundError), files.opened(os.open(RUN / LOCK, os.O_RDONLY | os.O_CLOEXEC)) as lock:
        locks.take(lock, _running(), shared=True)


def _running() -> Running:
    return Running("another rollback is running", hint="wait until it has ended")


def _failed(done: process.Done) -> RollbackFailed:
    """The hook's last error and the hint to it."""
    lines = done.err.splitlines()
    what = next((line.removeprefix(_ERROR) for line in reversed(lines) if line.startswith(_ERROR)), b"")
    hint = next((line.removeprefix(_HINT) for line in reversed(lines) if line.startswith(_HINT)), b"")
    if not what:
        return RollbackFailed(f"the hook ended with status {done.status}: {process.last_words(done.err)}")
    return RollbackFailed(shown(what), hint=shown(hint))
