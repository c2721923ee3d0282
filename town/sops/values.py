"""One value of a SOPS file: `ENC[AES256_GCM,data:…,iv:…,tag:…,type:…]`, as `aes/cipher.go` of sops 3 writes it."""

import base64
import binascii
import math
import re
import secrets
from decimal import Decimal

from town.sops.errors import Tampered
from town.sops.scalars import INT64, Plain, Time
from town.terminal import shown

IV_BYTES, TAG_BYTES, KEY_BYTES = 32, 16, 32
_VALUE = re.compile(r"ENC\[AES256_GCM,data:([^,\]]+),iv:([^,\]]+),tag:([^,\]]+),type:([a-z]+)\]")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")
_DECIMAL = re.compile(r"[+-]?[0-9]{1,400}")
_TRUE, _FALSE = ("1", "t", "T", "TRUE", "true", "True"), ("0", "f", "F", "FALSE", "false", "False")

Path = tuple[str, ...]


class Sealer:
    """Seals and opens the values of one file with its data key (32 bytes)."""

    def __init__(self, data_key: bytes) -> None:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        assert len(data_key) == KEY_BYTES
        self._cipher = AESGCM(data_key)

    def seal(self, value: Plain, aad: str) -> str:
        """The value as sops stores it. `""` stays `""`."""
        if value == "":
            return ""
        return self.seal_raw(leaf_bytes(value), _type(value), aad)

    def seal_raw(self, plain: bytes, kind: str, aad: str) -> str:
        """Bytes as a stored value of a type."""
        iv = secrets.token_bytes(IV_BYTES)
        sealed = self._cipher.encrypt(iv, plain, aad.encode())
        parts = (sealed[:-TAG_BYTES], iv, sealed[-TAG_BYTES:])
        data, iv_text, tag = (base64.b64encode(part).decode() for part in parts)
        return f"ENC[AES256_GCM,data:{data},iv:{iv_text},tag:{tag},type:{kind}]"

    def open(self, text: str, aad: str, where: str) -> Plain:
        """What was sealed. Raises Tampered that says `where`, never what."""
        if text == "":
            return ""
        return _typed(*self.raw(text, aad, where), where)

    def raw(self, text: str, aad: str, where: str) -> tuple[bytes, str]:
        """The bytes that were sealed, and the type that stands beside them. Raises Tampered."""
        from cryptography.exceptions import InvalidTag

        found = _VALUE.fullmatch(text)
        if found is None:
            raise Tampered(f"{where} is not an encrypted value, and the rule of the file says that it is", hint=_HINT)
        try:
            data, iv, tag = (_decoded(part) for part in found.groups()[:3])
            opened = self._cipher.decrypt(iv, data + tag, aad.encode()) if len(tag) == TAG_BYTES else None
        except (InvalidTag, ValueError, OverflowError):
            opened = None
        if opened is None:
            raise Tampered(f"{where} was changed, or moved here from elsewhere", hint=_HINT)
        return opened, found[4]


_HINT = "bring back the last good version of the file; to change a value, use `sops edit`"


def _decoded(text: str) -> bytes:
    try:
        decoded = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError("not base64") from error
    if base64.b64encode(decoded).decode() != text:  # two texts for one value: a change that nobody would notice
        raise ValueError("not canonical base64")
    return decoded


def _type(value: Plain) -> str:
    match value:
        case bool():
            return "bool"
        case int():
            return "int"
        case float():
            return "float"
        case Time():
            return "time"
        case str():
            return "str"
        case bytes():
            return "bytes"
        case None:
            raise AssertionError("null is never sealed")


def _typed(opened: bytes, kind: str, where: str) -> Plain:
    # The type is not sealed: who changes it gets an error here, at the MAC, or a value that reads the same (42, "42").
    try:
        text = opened.decode("utf-8")
    except UnicodeDecodeError:
        if kind in ("str", "bytes"):  # sops has strings of any bytes: !!binary of YAML
            return opened
        text = ""
    if kind in ("str", "bytes"):
        return text
    if kind == "time" and is_time(text):
        return Time(text)
    if kind == "int" and _DECIMAL.fullmatch(text) and int(text) in INT64:
        return int(text)
    if kind == "bool" and text in _TRUE + _FALSE:
        return text in _TRUE
    if kind == "float" and (number := _finite(text)) is not None:
        return number
    raise Tampered(f"{where} says that it is of type {shown(kind)}, and is not", hint=_HINT)


def is_time(text: str) -> bool:
    """Whether a text has the form of RFC 3339."""
    return _TIME.fullmatch(text) is not None


def _finite(text: str) -> float | None:
    try:
        number = float(text) if "_" not in text and len(text) <= 400 else None
    except ValueError:
        return None
    return number if number is not None and math.isfinite(number) else None


def leaf_bytes(value: Plain) -> bytes:
    """The bytes of a leaf for cipher and MAC, as `ToBytes` in sops.go gives them: True, 42, 0.25, text as UTF-8."""
    match value:
        case bytes():
            return value
        case str():
            return value.encode()
        case float():
            return float_text(value).encode()
        case None:
            raise AssertionError("null is no leaf")
        case _:
            return str(value).encode()  # True, False, 42


def float_text(value: float) -> str:
    """The shortest decimal form without an exponent, as Go's FormatFloat(value, 'f', -1, 64).

    >>> float_text(1e21), float_text(1.0), float_text(2.5e-7)
    ('1000000000000000000000', '1', '0.00000025')
    """
    return format(Decimal(repr(value)), "f").removesuffix(".0")


def aad(path: Path) -> str:
    """What binds a value to its place: map keys joined by `:` with a trailing `:`; list indices are not in it."""
    return ":".join(path) + ":"


def place(name: str, path: Path) -> str:
    """A value for a message: `secrets/agents.yaml: ada/ssh-key`."""
    return f"{shown(name)}: {shown('/'.join(path))}"
