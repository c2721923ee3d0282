"""Words for people: names that an agent or a store chose are shown so that they cannot act on the terminal.

Everything printed goes through `shown` first when its bytes came from elsewhere: control characters, bidirectional
overrides, invisible formatting and bytes that are not UTF-8 are escaped, so one name is one word on one line.
"""

import os
import sys
import unicodedata
from contextlib import suppress

# Cc control, Cf format (bidi, zero width, tags), Cs surrogate, Co private, Cn unassigned, Zl/Zp line separators.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
# Shown as nothing or as a space, though they are letters, marks or symbols (Unicode: Default_Ignorable_Code_Point, and
# the blank Braille pattern): two names that differ only in them would read the same.
_INVISIBLE = frozenset(
    map(chr, (0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x180B, 0x180C, 0x180D, 0x180F, 0x2800, 0x3164, 0xFFA0))
) | frozenset(map(chr, (*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))))
_SHORT = {"\n": "\\n", "\t": "\\t", "\r": "\\r", "\\": "\\\\"}


def shown(name: str | bytes) -> str:
    """`name` as one safe line: `a\\nb` for a newline, `\\x9f` for a stray byte, `\\u202e` for an override.

    Reversible: a backslash is doubled, so two different names never look the same.

    >>> shown(b"ok \\xff\\n")
    'ok \\\\xff\\\\n'
    """
    text = name.decode("utf-8", "surrogateescape") if isinstance(name, bytes) else name
    if text.isascii() and text.isprintable() and "\\" not in text:
        return text
    return "".join(map(_shown_character, text))


def _shown_character(character: str) -> str:
    if character in _SHORT:
        return _SHORT[character]
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that was not UTF-8 (PEP 383)
        return f"\\x{code - 0xDC00:02x}"
    if _hidden(character):
        if code < 0x100:
            return f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}"
        return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
    return character


def _hidden(character: str) -> bool:
    category = unicodedata.category(character)
    # Spaces other than U+0020 look like it: two names that differ would read the same.
    return category in _HIDDEN or character in _INVISIBLE or (category == "Zs" and character != " ")


def shell_word(name: str | bytes) -> str:
    """`name` quoted for pasting into a shell; `$'…'` (POSIX 2024, bash) where a plain quote would not be one line."""
    raw = name if isinstance(name, bytes) else name.encode("utf-8", "surrogateescape")
    text = raw.decode("utf-8", "surrogateescape")
    if shown(text.replace("\\", "")) == text.replace("\\", ""):
        from shlex import quote

        return quote(text)
    return "$'" + "".join(_ansi_c(byte) for byte in raw) + "'"


def _ansi_c(byte: int) -> str:
    if byte in b"\\'":
        return "\\" + chr(byte)
    return chr(byte) if 0x20 <= byte < 0x7F else f"\\x{byte:02x}"


def toml_string(text: str) -> str:
    """`text` as a TOML basic string, valid wherever a string may stand."""
    return '"' + "".join(map(_toml_character, text)) + '"'


def _toml_character(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    code = ord(character)
    if _hidden(character) and not 0xD800 <= code <= 0xDFFF:
        return f"\\u{code:04X}" if code < 0x10000 else f"\\U{code:08X}"
    return character


def say(line: str) -> None:
    """One line of words for the person: standard error, so that standard output stays the result."""
    print(line, file=sys.stderr, flush=True)


def columns() -> int:
    """How wide the terminal is that standard output goes to: $COLUMNS, else what it says, else 80."""
    with suppress(KeyError, ValueError):
        if (said := int(os.environ["COLUMNS"])) > 0:
            return said
    with suppress(OSError):  # it goes to no terminal
        return os.get_terminal_size(1).columns or 80
    return 80


def counted(number: int, word: str) -> str:
    """`1 file`, `2,000 files`: a number with its word, which takes an s."""
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def size(bytes_: int) -> str:
    """Bytes as a person reads them, decimal units: `1.2 GB`."""
    value = float(bytes_)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"
