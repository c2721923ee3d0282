"""Names of systemd's units for paths: what `systemd-escape --path` prints (systemd.unit(5), "String Escaping")."""

import os
from pathlib import Path

from town.failure import Failure
from town.terminal import shown

_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:_.")
_MAX = 255  # UNIT_NAME_MAX without its terminating byte


class NameTooLong(Failure):
    """A path whose escaped form is longer than the name of a unit may be."""


def escaped(path: Path) -> str:
    """An absolute, normal path as a part of a unit's name: `/srv/a-b` is `srv-a\\x2db`, `/` is `-`."""
    raw = os.fsencode(path).strip(b"/")
    if not raw:
        return "-"
    return "".join(
        "-" if byte == 0x2F else chr(byte) if byte in _PLAIN and (position or byte != 0x2E) else f"\\x{byte:02x}"
        for position, byte in enumerate(raw)
    )


def mount(path: Path) -> str:
    """The name of the unit that mounts something at `path`. Raises NameTooLong."""
    name = f"{escaped(path)}.mount"
    if len(name) > _MAX:
        raise NameTooLong(
            f"{shown(str(path))} makes the name of a unit longer than {_MAX} characters", hint="choose a shorter path"
        )
    return name
