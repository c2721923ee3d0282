"""What a plain (unquoted) YAML scalar means to go.yaml.in/yaml/v3 (`resolve.go`), which sops reads with."""

import math
import re
from datetime import datetime

INT64 = range(-(1 << 63), 1 << 63)


class Time(str):
    """A point in time as Go's `time.MarshalText` gives it, such as `2026-11-21T12:00:00Z`: a value of type time."""


Plain = str | bytes | int | float | bool | None  # bytes: what a sealed value holds when it is no UTF-8

_WORDS: dict[str, Plain] = {
    **dict.fromkeys(["true", "True", "TRUE"], True),
    **dict.fromkeys(["false", "False", "FALSE"], False),
    **dict.fromkeys(["", "~", "null", "Null", "NULL"], None),
}
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_INTEGER = re.compile(r"[-+]?(0[xX][0-9a-fA-F]+|0[bB][01]+|0[oO]?[0-7]+|0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_DATE = re.compile(r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}([Tt ].*)?")
_TIMESTAMP = re.compile(
    r"(\d{4})-(\d\d?)-(\d\d?)(?:(?P<t>[Tt ])(\d\d?):(\d\d?):(\d\d?)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)?)?", re.ASCII
)


def resolve(text: str) -> Plain:
    """What a plain scalar means. Raises ValueError for what libraries disagree on.

    Infinities, NaN, half-written dates and integers beyond 64 bits are refused; `yes` and `no` are strings, `0777` is
    octal, a date is a Time.

    >>> resolve("0x10"), resolve("yes"), resolve("1.50"), resolve("~"), resolve("2026-11-21")
    (16, 'yes', 1.5, None, '2026-11-21T00:00:00Z')
    """
    if text in _WORDS:
        return _WORDS[text]
    if _NOT_FINITE.fullmatch(text):
        raise ValueError("a number that is not finite is not supported")
    if text == "<<":
        raise ValueError("merge keys (<<) are not supported")
    if not text or text[0] not in "+-.0123456789":
        return text
    if _DATE.fullmatch(text):
        return _time(text)
    return _number(text)


def resolves_to_itself(text: str) -> bool:
    """Whether a plain scalar is read as this very string."""
    try:
        found = resolve(text)
    except ValueError:
        return False
    return found == text and not isinstance(found, Time)


def _time(text: str) -> Time:
    """yaml.v3 takes `T` with a zone, a blank without one, or a date alone; else it is a string there."""
    found = _TIMESTAMP.fullmatch(text)
    if found is None or (found["t"] in ("T", "t")) != (found[9] is not None):
        raise ValueError("an unquoted date in this form is read differently by different programs")
    year, month, day, hour, minute, second = (int(found[group] or 0) for group in (1, 2, 3, 5, 6, 7))
    try:
        moment = datetime(year, month, day, hour, minute, second)
    except ValueError:
        raise ValueError("an unquoted date that is in no calendar is not supported") from None
    zone = "Z" if found[9] is None or found[9][1:] == "00:00" else found[9]
    if zone != "Z" and not (int(zone[1:3]) < 24 and int(zone[4:]) < 60):
        raise ValueError("an unquoted date that is in no calendar is not supported")
    fraction = (found[8] or "").rstrip("0")
    return Time(moment.isoformat() + (f".{fraction}" if fraction else "") + zone)


def _number(text: str) -> Plain:
    digits = text if text[0] == "." else text.replace("_", "")
    if len(digits) > 400 and _FLOAT.fullmatch(digits):
        raise ValueError("a number with more than 400 digits is not supported")
    if _INTEGER.fullmatch(digits):
        sign, bare = (digits[0], digits[1:]) if digits[0] in "+-" else ("", digits)
        octal = len(bare) > 1 and bare[0] == "0" and bare[1] in "01234567"
        value = int(sign + ("0o" + bare[1:] if octal else bare), 0)
        if value not in INT64:
            raise ValueError("an integer beyond 64 bits is not supported")
        return value
    if _FLOAT.fullmatch(digits):
        number = float(digits)
        if not math.isfinite(number):
            raise ValueError("a number that is not finite is not supported")
        return number
    return text
