"""The boot hook's word that this boot began with a blank @agents: read, and held against the machine and the spec.

The format, and who writes it, is in docs/formats/disk.md. An agent cannot write there; what can be wrong is that the
proof is an older boot's, another town's, or of a subvolume that is not the one that is mounted.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from persist.ground import mounting
from town import btrfs, files
from town.failure import ATTENTION, BROKEN, Failure
from town.spec import Spec
from town.terminal import shell_word, shown

PROOF = Path("/run/nuketown/rollback")  # rollback.failed beside it says why there is none
VERSION = "1"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_LIMIT = 64 << 10


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that a person should know, how much it matters, and the next command."""

    level: int  # ATTENTION or BROKEN
    what: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Rollback:
    """What the boot hook left in /run: its proof (key, value), or why it failed; all of it safe to print.

    `unread` says why a proof that is there cannot be read.
    """

    proof: tuple[tuple[str, str], ...] | None
    failed: str = ""
    unread: str = ""

    @property
    def facts(self) -> dict[str, list[str]]:
        """Every key of the proof with its values, in order."""
        pairs = self.proof or ()
        return {key: [value for other, value in pairs if other == key] for key, _ in pairs}


def read() -> Rollback:
    """What the boot hook left. Raises nothing."""
    failed, unread_failed = _text(PROOF.with_name(PROOF.name + ".failed"))
    text, unread = _text(PROOF)
    pairs = None if text is None else tuple(_pair(line) for line in text.splitlines() if "=" in line)
    said = "; ".join(shown(line) for line in (failed or unread_failed).splitlines())
    return Rollback(pairs, said or ("it gave no reason" if failed is not None else ""), unread)


def doubt(spec: Spec, rollback: Rollback) -> Trouble | None:
    """Why nobody can say that homes were made blank at this boot; None when the proof fits, or without [town.btrfs]."""
    if spec.town.btrfs is None:
        return None
    if rollback.failed:
        return Trouble(BROKEN, f"the rollback of this boot failed: {rollback.failed}", _again(spec))
    if rollback.unread:
        return Trouble(BROKEN, f"the proof of the rollback cannot be read: {rollback.unread}", _again(spec))
    if rollback.proof is None:
        what = f"this boot left no proof in {PROOF} that homes were made blank"
        return Trouble(ATTENTION, what, f"see that the initrd runs the hook; {_again(spec)}")
    if wrong := "; ".join(_misfits(spec, rollback.facts)):
        return Trouble(BROKEN, f"the proof of the rollback does not fit: {wrong}", _again(spec))
    return None


def _misfits(spec: Spec, facts: dict[str, list[str]]) -> Iterator[str]:
    if (version := facts.get("version", [])) != [VERSION]:
        yield f"its version is {_said(version)}, this program knows {VERSION}"
        return
    assert spec.town.btrfs is not None
    if (boot := facts.get("boot_id", [])) != [now := _boot_id()]:
        yield f"it is of boot {_said(boot)}, this boot is {now}"
    if (name := facts.get("subvolume", [])) != [shown(spec.town.btrfs.subvolume)]:
        yield f"it is of the subvolume {_said(name)}, the spec says {shown(spec.town.btrfs.subvolume)}"
    try:
        mounted = _uuid(spec.town.agents_dir)
    except Failure as failure:
        yield f"the mounted subvolume cannot be asked for its uuid: {failure.what}"
        return
    if (uuid := facts.get("uuid", [])) != [mounted]:
        yield f"it is of uuid {_said(uuid)}, {shown(str(spec.town.agents_dir))} shows {mounted}"


def _said(values: list[str]) -> str:
    return ", ".join(values) or "missing"


def _boot_id() -> str:
    text, unread = _text(_BOOT_ID)
    return shown(text.strip()) if text is not None else f"unknown ({unread or 'no boot id'})"


def _uuid(agents_dir: Path) -> str:
    with files.opened(files.open_dir(agents_dir)) as fd:
        return str(btrfs.info(fd).uuid)


def _again(spec: Spec) -> str:
    agents = shell_word(os.fspath(spec.town.agents_dir))
    return (
        f"reboot, or stop the agents, then: umount -R {agents}; persist rollback && {mounting(spec)} && persist restore"
    )


def _pair(line: str) -> tuple[str, str]:
    key, _, value = line.partition("=")
    return shown(key), shown(value)


def _text(path: Path) -> tuple[str | None, str]:
    """What a file holds, or None and why it cannot be read; no reason when it is not there."""
    try:
        return files.read_bounded(path, _LIMIT).decode("utf-8", "surrogateescape"), ""
    except files.Unreadable as error:
        return None, "" if isinstance(error.__cause__, FileNotFoundError) else error.what
