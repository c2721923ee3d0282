"""QR codes (ISO/IEC 18004) in a terminal. For public facts only."""

import os
import sys
from collections.abc import Sequence

from town.failure import ToolMissing

_QUIET = 4  # light modules around a code, as the standard wants
_COLOURS = ("\x1b[30;107m", "\x1b[0m")  # black on bright white, whatever the terminal's own are


def put(title: str, text: str) -> None:
    """Print a code of `text` under its title on standard output. Raises ToolMissing."""
    code = modules(text)
    on, off = _COLOURS if sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb" else ("", "")
    try:
        _FULL.encode(sys.stdout.encoding or "ascii")
        rows = lines(code, inverted=not on)
    except UnicodeEncodeError:
        rows = ["".join("  " if dark else "##" for dark in row) for row in code]
        on = off = ""
    print(title)
    for row in rows:
        print(f"{on}{row}{off}")


def modules(text: str) -> list[list[bool]]:
    """The code with its quiet zone, row by row; True is dark. Raises ToolMissing."""
    try:
        import segno
    except ImportError as error:
        raise ToolMissing(
            "segno, which draws QR codes, is not installed", hint="install it with: pip install segno"
        ) from error
    code = segno.make(text, error="m", micro=False)
    return [[bool(module) for module in row] for row in code.matrix_iter(border=_QUIET)]


def lines(rows: Sequence[Sequence[bool]], *, inverted: bool) -> list[str]:
    """Two rows of modules in one line of half blocks. `inverted`: for light text on dark ground, as most terminals."""
    even = [*rows, [False] * len(rows[0])][: len(rows) + len(rows) % 2]
    pairs = [zip(even[at], even[at + 1], strict=True) for at in range(0, len(even), 2)]
    return ["".join(_BLOCKS[above != inverted, below != inverted] for above, below in pair) for pair in pairs]


_FULL = "█"
_BLOCKS = {(False, False): " ", (True, False): "▀", (False, True): "▄", (True, True): _FULL}
