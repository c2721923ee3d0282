"""The boot hook's word that this boot began with a blank @agents: read, and held against the machine and the spec.

The format, and who writes it, is in docs/formats/disk.md. An agent cannot write there; what can be wrong is that the
proof is an older boot's, another town's, was used before, or is of a subvolume that is not the one that is there.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from persist.ground import is_cover, is_mount_point, mounting, refuse_others, unmounting
from town import bootid, btrfs, files, mounts
from town.failure import ATTENTION, BROKEN, Failure, Unsafe
from town.spec import Spec
from town.terminal import shown

PROOF = Path("/run/nuketown/rollback")  # beside it: rollback.failed says why there is none, rollback.used who took it
VERSION = "1"
_LIMIT = 64 << 10


class Unproven(Failure):
    """Nobody can say that the homes were made blank at this boot. A reboot or a rollback cures it, nothing else."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that a person should know, how much it matters, and the next command."""

    level: int  # ATTENTION or BROKEN
    what: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Rollback:
    """What the boot hook left in /run: its proof (key, value), or why it failed; all of it safe to print.

    `unread` says why a proof that is there cannot be read; `used`, that the host's check took it.
    """

    proof: tuple[tuple[str, str], ...] | None
    failed: str = ""
    unread: str = ""
    used: bool = False

    @property
    def reason(self) -> tuple[str, str]:
        """Why it failed, and the cure, without the words before them that the file has."""
        what, _, cure = self.failed.partition("; hint: ")
        return what.removeprefix("error: "), cure

    @property
    def facts(self) -> dict[str, list[str]]:
        """Every key of the proof with its values, in order."""
        pairs = self.proof or ()
        return {key: [value for other, value in pairs if other == key] for key, _ in pairs}


def read() -> Rollback:
    """What the boot hook left. Raises nothing."""
    failed, unread_failed = _left(".failed")
    text, unread = _left("")
    pairs = None
    if text is not None and not (unread := _malformed(text)):
        pairs = tuple(_pair(line) for line in text.split("\n")[:-1])
    said = "; ".join(shown(line) for line in (failed or ("" if unread else unread_failed)).splitlines())
    used = os.path.lexists(_beside(".used"))
    return Rollback(pairs, said or ("it gave no reason" if failed is not None else ""), unread, used)


def doubt(spec: Spec, rollback: Rollback) -> Trouble | None:
    """Why nobody can say that homes were made blank at this boot; None when the proof fits, or without [town.btrfs]."""
    if (trouble := doubt_of_boot(spec, rollback)) is not None or spec.town.btrfs is None:
        return trouble
    path = spec.town.agents_dir
    try:
        with files.opened(files.open_dir(path)) as fd:
            if not is_mount_point(fd, path):
                what = f"{shown(spec.town.btrfs.subvolume)} is not mounted at {shown(str(path))} yet"
                return Trouble(ATTENTION, what, mounting(spec))
            return doubt_of_homes(spec, rollback, btrfs.info(fd), shown(str(path)))
    except Failure as failure:
        return _misfit(spec, [f"the mounted subvolume cannot be asked for its uuid: {failure.what}"])


def doubt_of_boot(spec: Spec, rollback: Rollback) -> Trouble | None:
    """What `doubt` finds without a look at the homes: no proof, or one that is another boot's or another town's."""
    if spec.town.btrfs is None:
        return None
    if rollback.failed:
        what, cure = rollback.reason
        return Trouble(BROKEN, f"the rollback of this boot failed: {what}", cure or again(spec))
    if rollback.unread:
        return Trouble(BROKEN, f"the proof of the rollback cannot be read: {rollback.unread}", again(spec))
    if rollback.proof is None:
        what = f"this boot left no proof in {PROOF} that homes were made blank"
        return Trouble(ATTENTION, what, f"{_who_should_have()}; {again(spec)}")
    return _misfit(spec, _misfits_of_boot(spec, rollback.facts))


def doubt_of_homes(spec: Spec, rollback: Rollback, found: btrfs.Subvolume, where: str) -> Trouble | None:
    """Whether the proof is of the subvolume `found`, which is what `where` shows."""
    said = rollback.facts
    there = (("uuid", str(found.uuid)), ("id", str(found.id)))
    wrong = [f"it is of {key} {_said(said, key)}, {where} shows {is_}" for key, is_ in there if said.get(key) != [is_]]
    return _misfit(spec, wrong)


def refuse(trouble: Trouble | None) -> None:
    """Raises Unproven when there is a doubt."""
    if trouble is not None:
        raise Unproven(trouble.what, hint=trouble.hint)


def again(spec: Spec) -> str:
    """The commands that give this boot a blank @agents and its proof."""
    path = spec.town.agents_dir
    mounted = mounts.at(Path(os.path.realpath(path)))
    first = "" if mounted is None or is_cover(mounted) else f"{unmounting(path)}; "
    return (
        f"reboot, or stop the agents, then: {first}persist rollback && {mounting(spec, afresh=True)} && persist restore"
    )


def _who_should_have() -> str:
    """Where the hook runs on this machine, as far as its `persist install` says, and what shows why it did not."""
    from persist import installed, placing

    try:
        with placing.tree(Path("/")) as there:
            record = installed.read(there)
    except (Failure, OSError):  # whatever it says, a rollback is the cure
        record = None
    if record is not None and record.initrd == "none":
        return "nuketown-rollback.service rolls back here: systemctl status nuketown-rollback.service"
    return "see that the initrd runs the hook"


def taken(uuid: str) -> str:
    """What is in rollback.used when the proof of the subvolume `uuid` was taken at this boot."""
    return f"boot_id={boot_id()}\nuuid={uuid}\n"


def is_taken(rollback: Rollback) -> bool:
    """Whether rollback.used is of this boot and of the very subvolume that the proof names."""
    text, _ = _left(".used")
    return text is not None and rollback.facts.get("uuid", []) != [] and text == taken(rollback.facts["uuid"][0])


def forget() -> None:
    """Remove the proof, and the link to what may be mounted by it: what comes now may end without. Raises OSError."""
    for path in (PROOF, PROOF.with_name("device")):
        with suppress(FileNotFoundError):
            os.unlink(path)


def record(failure: Failure) -> None:
    """Leave the reason of a failure where the hook leaves its own. Raises nothing: standard error has it as well."""
    text = "".join(f"{key}: {' '.join(said.split())}\n" for key, said in _words(failure))
    with suppress(OSError, Failure), files.opened(_directory()) as directory:
        files.write_beneath(directory, f"{PROOF.name}.failed", text.encode("utf-8", "surrogateescape"), owner=(0, 0))


def _words(failure: Failure) -> Iterator[tuple[str, str]]:
    yield "error", failure.what
    if failure.hint:
        yield "hint", failure.hint


def _misfit(spec: Spec, wrong: Iterator[str] | list[str]) -> Trouble | None:
    said = "; ".join(wrong)
    return Trouble(BROKEN, f"the proof of the rollback does not fit: {said}", again(spec)) if said else None


def _misfits_of_boot(spec: Spec, facts: dict[str, list[str]]) -> Iterator[str]:
    if facts.get("version") != [VERSION]:
        yield f"its version is {_said(facts, 'version')}, this program knows {VERSION}"
        return
    assert spec.town.btrfs is not None
    if facts.get("boot_id") != [now := boot_id()]:
        yield f"it is of boot {_said(facts, 'boot_id')}, this boot is {now}"
    if facts.get("subvolume") != [name := shown(spec.town.btrfs.subvolume)]:
        yield f"it is of the subvolume {_said(facts, 'subvolume')}, the spec says {name}"


def _said(facts: dict[str, list[str]], key: str) -> str:
    return ", ".join(facts.get(key, [])) or "missing"


def boot_id() -> str:
    """This boot's id, as the kernel prints it, safe to print."""
    try:
        return shown(bootid.text())
    except files.Unreadable as error:
        return f"unknown ({error})"


def _malformed(text: str) -> str:
    """Why a text cannot be a proof as the hook writes it, whole; empty when it can."""
    if not text.endswith("\n"):
        return "it is cut off" if text else "it is empty"
    return "" if all("=" in line for line in text.split("\n")[:-1]) else "a line of it is not key=value"


def _pair(line: str) -> tuple[str, str]:
    key, _, value = line.partition("=")
    return shown(key), shown(value)


def _beside(suffix: str) -> Path:
    return PROOF.with_name(PROOF.name + suffix)


def _directory() -> int:
    """/run/nuketown, open. Raises Unsafe when others than root may change it, Unreadable when it is not there."""
    fd = files.open_dir(PROOF.parent)
    try:
        refuse_others(fd, PROOF.parent)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _left(suffix: str) -> tuple[str | None, str]:
    """What a file of the hook's holds, or None and why it cannot be read; no reason when it is not there.

    Root wrote it, in a directory of root's, or it says nothing.
    """
    path = _beside(suffix)
    try:
        with (
            files.opened(_directory()) as directory,
            files.opened(files.open_beneath(directory, path.name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)) as fd,
        ):
            refuse_others(fd, path)
            return files.read_fd(fd, _LIMIT, shown(str(path))).decode("utf-8", "surrogateescape"), ""
    except FileNotFoundError:
        return None, ""
    except files.Unreadable as error:
        return None, "" if isinstance(error.__cause__, FileNotFoundError) else error.what
    except Unsafe as error:
        return None, error.what
    except OSError as error:
        return None, f"{shown(str(path))}: {error.strerror}"
