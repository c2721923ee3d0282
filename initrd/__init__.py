"""The boot hook: one POSIX shell script, the same in every initrd and on a live system, and what starts it there."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, assert_never

HERE = Path(__file__).parent
UNIT = "nuketown-initrd-rollback.service"
LIB = "/usr/lib/nuketown"

Kind = Literal["dracut", "initramfs-tools"]
KINDS: tuple[Kind, ...] = ("dracut", "initramfs-tools")


@dataclass(frozen=True, slots=True)
class Placed:
    """A file of this package, and the absolute path and mode that it has on a machine."""

    source: Path
    target: str
    mode: int


def hook() -> Path:
    """The hook itself, `rollback.sh`, as it is installed beside this module."""
    return HERE / "rollback.sh"


def unit() -> Path:
    """The unit of an initrd with systemd; dracut's module puts it in, NixOS's does the same."""
    return HERE / "units" / UNIT


def glue(kind: Kind) -> tuple[Placed, ...]:
    """What makes an initrd of this kind run the hook: files for root:root. The next initrd that is made has it."""
    match kind:
        case "dracut":
            module = HERE / "dracut/90nuketown"
            where = "/usr/lib/dracut/modules.d/90nuketown"
            return (
                *_everywhere(),
                Placed(module / "module-setup.sh", f"{where}/module-setup.sh", 0o755),
                Placed(module / "pre-mount.sh", f"{where}/pre-mount.sh", 0o755),
                Placed(unit(), f"{where}/{UNIT}", 0o644),
            )
        case "initramfs-tools":
            where = "/etc/initramfs-tools"
            return (
                *_everywhere(),
                *(
                    Placed(HERE / "initramfs-tools" / name, f"{where}/{name}", 0o755)
                    for name in ("hooks/nuketown", "scripts/local-premount/nuketown")
                ),
            )
        case _:
            assert_never(kind)


def maker(kind: Kind) -> str:
    """The program whose presence on a machine means that its initrds are of this kind.

    Not mkinitramfs: initramfs-tools-core, which Debian leaves there beside dracut, has it and calls it for no kernel.
    """
    return {"dracut": "dracut", "initramfs-tools": "update-initramfs"}[kind]


def rebuild(kind: Kind) -> tuple[str, ...]:
    """The command that makes a machine's initrds anew."""
    match kind:
        case "dracut":
            return ("dracut", "--force", "--regenerate-all")
        case "initramfs-tools":
            return ("update-initramfs", "-u", "-k", "all")
        case _:
            assert_never(kind)


def _everywhere() -> tuple[Placed, ...]:
    return (
        Placed(hook(), f"{LIB}/rollback.sh", 0o755),
        Placed(HERE / "boot.sh", f"{LIB}/boot.sh", 0o755),
    )
