"""`persist rollback --confirm`: the host's own check that the boot hook ran, before anything mounts the homes.

A proof is good for one start: it is used up here, so that a soft-reboot, which keeps /run, does not serve the homes of
before as new ones. What may be mounted afterwards is the symlink `device` in /run/nuketown; it is there only then.
"""

import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from persist import device, ground, proof, rollback
from town import btrfs, cli, files, trust
from town.failure import DONE, Failure, Unsafe
from town.spec import Btrfs, Spec
from town.terminal import shown

DEVICE = "device"  # in /run/nuketown: a link to the block device whose @agents was confirmed


class Used(Failure):
    """The proof was taken before. A rollback makes a new one."""


class NotBlank(Failure):
    """@agents is the subvolume that the proof names, and is not blank any more. Trying again does not help."""


class Confirmed(Failure):
    """The proof was taken before, and its homes are in use: nothing is wrong and nothing is left to take."""


class CheckFailed(Failure):
    """The check itself could not be done; the kernel's word is in the message."""


def check(town: Spec, *, dry_run: bool = False) -> int:
    """Confirm and say so on standard output; with `dry_run` nothing is used up and nothing is left in /run."""
    ground.require_root("rollback --confirm", "it reads the top level of the homes' filesystem")
    trust.refuse(town)
    names = rollback.names_of(town)
    if dry_run:
        _refuse_confirmed(town)
        found, _, _ = _checked(town, names)
    else:
        found = confirm(town, names)
    print(f"{shown(names.subvolume)} (uuid {found.uuid}, id {found.id}) is the blank one that this boot began with")
    return DONE


def confirm(town: Spec, names: Btrfs) -> btrfs.Subvolume:
    """Hold proof and filesystem against each other and use the proof up.

    Raises rollback.Running or Confirmed, or, with the reason left in rollback.failed: proof.Unproven, Used, NotBlank,
    CheckFailed, or what `device.resolve` and `btrfs.top_level` raise.
    """
    try:
        with rollback.alone():
            return _confirmed(town, names)
    except (rollback.Running, Confirmed):
        raise  # the result that was, or will be, is the one that counts
    except OSError as error:
        raise _recorded(CheckFailed(f"the rollback cannot be checked: {cli.unexpected(error)}")) from error
    except Failure as failure:
        raise _recorded(failure) from failure.__cause__


def _confirmed(town: Spec, names: Btrfs) -> btrfs.Subvolume:
    _refuse_confirmed(town)
    with suppress(FileNotFoundError):
        os.unlink(_run(DEVICE))
    found, source, bare = _checked(town, names)
    if bare:
        _make_ballast(source, names)
    _use_up(found, source)
    with suppress(FileNotFoundError):
        os.unlink(_run("rollback.failed"))
    return found


def _refuse_confirmed(town: Spec) -> None:
    """Raises Confirmed when a person asks again for what this start has and uses.

    Never when systemd starts the check: then it is another start (a soft-reboot), whatever an agent kept mounted.
    """
    left = proof.read()
    if _is_a_start() or not left.used or proof.doubt(town, left) is not None or not proof.is_taken(left):
        return
    where = shown(str(town.town.agents_dir))
    raise Confirmed(
        f"the proof of the rollback was confirmed already, and its homes are in use at {where}",
        hint="nothing to do: persist status shows how they are",
    )


def _is_a_start() -> bool:
    return os.environ.get("SYSTEMD_EXEC_PID") == str(os.getpid())  # systemd.exec(5)


def _recorded(failure: Failure) -> Failure:
    left = proof.read()
    if left.proof is not None or not left.failed:  # the hook's own reason says more
        proof.record(failure)
    return failure


def _make_ballast(source: str, names: Btrfs) -> None:
    """Make the ballast that the hook gave up, before any agent can take the room that it left."""
    from persist import ballast

    try:
        with btrfs.top_level(source) as top:
            ballast.make(top, names, tight=True)
    except Failure as failure:  # the boot goes on: it is the next one that may lack room
        cli.warn("persist", failure.what, failure.hint)


def _checked(town: Spec, names: Btrfs) -> tuple[btrfs.Subvolume, str, bool]:
    """The subvolume that the proof is of, the device that it lies on, and whether that has no ballast."""
    left = proof.read()
    if left.proof is not None:
        left = replace(left, failed="")  # of an earlier try, which may have come before the disk
    proof.refuse(proof.doubt_of_boot(town, left))
    if left.used:
        raise _used(town)
    source = device.awaited(names.device, names.wait_seconds)
    with btrfs.top_level(source) as top:
        found = _blank(top, names.subvolume, town)
        bare = _there(top, names.ballast) is None
    proof.refuse(proof.doubt_of_homes(town, left, found, "the disk"))
    return found, source, bare


def _there(top: int, name: str) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=top, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _blank(top: int, name: str, town: Spec) -> btrfs.Subvolume:
    try:
        fd = files.enter(top, name)
    except (FileNotFoundError, NotADirectoryError, Unsafe) as error:
        raise NotBlank(f"{shown(name)} is no subvolume of this disk any more", hint=proof.again(town)) from error
    with files.opened(fd):
        found = os.fstat(fd)
        if not btrfs.is_subvolume(fd):
            raise NotBlank(f"{shown(name)} is a plain directory, not a subvolume", hint=proof.again(town))
        if (found.st_uid, found.st_gid, found.st_mode & 0o7777) != (0, 0, 0o755):
            raise NotBlank(f"{shown(name)} is not root:root 0755 any more", hint=proof.again(town))
        if next(files.scan(fd), None) is not None:
            raise NotBlank(f"{shown(name)} is not empty any more: it was used since", hint=proof.again(town))
        return btrfs.info(fd)


def _use_up(found: btrfs.Subvolume, source: str) -> None:
    # The mark before the link: cut off in between, nothing can be mounted.
    text = proof.taken(str(found.uuid)).encode()
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with files.opened(os.open(_run("rollback.used"), flags, 0o600)) as fd:
        files.write_all(fd, text)
        os.fchmod(fd, 0o644)
    os.symlink(source, _run(DEVICE))


def _run(name: str) -> Path:
    return rollback.RUN / name


def _used(town: Spec) -> Used:
    return Used(
        "the proof of the rollback was used up by an earlier start: homes that were in use are not mounted as new ones",
        hint=proof.again(town),
    )
