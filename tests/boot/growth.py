"""How much larger an initrd is with the product in it than without."""

from pathlib import Path

import initrd
from tests.boot import guest


def growth(kind: initrd.Kind) -> int:
    """Bytes between two initrds that are compressed with zstd, with the drivers that their maker takes by itself.

    A kilobyte or two, up or down, is the maker's own: it packs in the order of its directories. Raises
    image.Unavailable.
    """
    with guest.tree(kind) as root:
        guest.usual(root)
        guest.build(root, kind, "/boot/with.img", compress="zstd")
        guest.within(root, "persist", "uninstall")
        guest.build(root, kind, "/boot/without.img", compress="zstd")
        return _size(root / "boot/with.img") - _size(root / "boot/without.img")


def _size(file: Path) -> int:
    return file.stat().st_size
