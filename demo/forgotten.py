"""What a town of the real machine left in /etc, /usr and /var/lib, taken out of the copies: the new one has none."""

import os
import shutil
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

import initrd
from persist import units

_TABLES = ("passwd", "shadow", "group", "gshadow", "subuid", "subgid")  # each line begins with a name and a colon


def forget(root: Path, places: Collection[str]) -> None:
    """Take out of root/etc the spec and keys, the units, the accounts and mounts that lie in `places` of the root."""
    shutil.rmtree(root / "etc/nuketown", ignore_errors=True)
    _forget_units(root / "etc/systemd/system")
    _forget_accounts(root / "etc", tuple(f"/{name}/" for name in places))
    _forget_mounts(root / "etc/fstab", {f"/{name}" for name in places})
    _forget_placed(root, "/etc/")
    with suppress(OSError):  # no copy, for want of overlayfs
        _forget_placed(root, "/usr/")  # what makes an initrd hold the hook
    shutil.rmtree(root / "var/lib/nuketown", ignore_errors=True)


def _forget_placed(root: Path, below: str) -> None:
    for placed in (placed for kind in initrd.KINDS for placed in initrd.glue(kind)):
        if placed.target.startswith(below):
            (root / placed.target.lstrip("/")).unlink(missing_ok=True)


def _forget_units(folder: Path) -> None:
    files = [path for path in folder.glob("*") if path.is_file() and not path.is_symlink()]
    ours = {path.name for path in files if path.read_bytes().startswith(units.MARK)}
    for path in folder.rglob("*"):
        if path.name in ours and (path.is_symlink() or path.parent == folder):
            path.unlink()


def _forget_accounts(etc: Path, homes: tuple[str, ...]) -> None:
    entries = [line.split(":") for line in (etc / "passwd").read_text().splitlines()]
    gone = {entry[0] for entry in entries if len(entry) > 5 and f"{entry[5]}/".startswith(homes)}
    for table in map(etc.joinpath, _TABLES):
        if table.is_file():
            _keep(table, [line for line in _lines(table) if line.split(":")[0] not in gone])


def _forget_mounts(fstab: Path, places: set[str]) -> None:
    if fstab.is_file():
        _keep(
            fstab, [line for line in _lines(fstab) if not places & {os.path.normpath(at) for at in line.split()[1:2]}]
        )


def _lines(file: Path) -> list[str]:
    return file.read_text(errors="surrogateescape").splitlines(keepends=True)


def _keep(file: Path, lines: list[str]) -> None:
    file.write_text("".join(lines), errors="surrogateescape")
