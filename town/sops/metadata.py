"""The `sops:` block of a file: who can open it, what its rule encrypts, and the seal over the whole."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import NoReturn

from town.sops.errors import BadSopsFile
from town.sops.goregex import BadPattern, GoRegex
from town.sops.nodes import Mapping, Node, Plain, Scalar, Sequence
from town.sops.values import Path
from town.terminal import shown

RULES = ("unencrypted_suffix", "encrypted_suffix", "unencrypted_regex", "encrypted_regex")
COMMENT_RULES = ("unencrypted_comment_regex", "encrypted_comment_regex")
# Key services that this program does not speak, and what names a key of each.
OTHER_KINDS = {
    "kms": "arn",
    "gcp_kms": "resource_id",
    "hckms": "key_id",
    "azure_kv": "vault_url",
    "hc_vault": "vault_address",
}
MAX_RECIPIENTS = 256  # each PGP entry costs a run of gpg
_KNOWN = {"age", "pgp", "lastmodified", "mac", "version", "mac_only_encrypted", "shamir_threshold", "key_groups"}
_VERSION = re.compile(r"\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?")
_RFC3339 = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.\d{1,9})?(Z|[+-]\d\d:\d\d)")


@dataclass(frozen=True, slots=True)
class Wrapped:
    """The data key, encrypted to one recipient. `kind` is age, pgp or a key service."""

    kind: str
    recipient: str
    enc: str


@dataclass(frozen=True, slots=True)
class Rule:
    """Which values are encrypted: one suffix or regular expression, held against every key of a value's path."""

    name: str = "unencrypted_suffix"
    argument: str = "_unencrypted"
    matches: Callable[[str], bool] = lambda key: key.endswith("_unencrypted")

    def encrypts(self, path: Path) -> bool:
        """Whether the value at this path is stored encrypted."""
        return any(map(self.matches, path)) == self.name.startswith("encrypted")


@dataclass(frozen=True, slots=True)
class Metadata:
    """What stands in `sops:`, checked. `sealed_at` is lastmodified as the MAC's additional data."""

    wrapped: tuple[Wrapped, ...]
    rule: Rule
    mac: Scalar
    lastmodified: Scalar
    sealed_at: str
    mac_only_encrypted: bool

    @property
    def recipients(self) -> tuple[str, ...]:
        """Every recipient as the file writes it; those of key services with the service's name in front."""
        return tuple(
            one.recipient if one.kind in ("age", "pgp") else f"{one.kind}:{one.recipient}" for one in self.wrapped
        )


def read(root: Mapping, name: str) -> Metadata:
    """The metadata of a parsed file. Raises BadSopsFile that names the key."""
    block = root.get("sops")
    if block is None:
        raise BadSopsFile(
            f"{shown(name)} has no sops metadata: it is not encrypted, or it is cut off",
            hint="encrypt it with `sops encrypt`, or bring back the last good version",
        )
    if not isinstance(block, Mapping):
        _refuse(name, "", "is not a map")
    return _Reader(block, name).metadata()


def _refuse(name: str, key: str, what: str, hint: str = "") -> NoReturn:
    raise BadSopsFile(f"{shown(name)}: sops{'.' + shown(key) if key else ''} {what}", hint=hint)


class _Reader:
    def __init__(self, block: Mapping, name: str) -> None:
        self.block = block
        self.name = name

    def metadata(self) -> Metadata:
        self._refuse_unsupported()
        self._version()
        lastmodified, mac = self._string("lastmodified"), self._string("mac")
        return Metadata(
            wrapped=self._wrapped(),
            rule=self._rule(),
            mac=mac,
            lastmodified=lastmodified,
            sealed_at=self._time("lastmodified", lastmodified),
            mac_only_encrypted=self._flag("mac_only_encrypted"),
        )

    def _refuse_unsupported(self) -> None:
        for key, value in self.block.items:
            known = str(key.value)
            if _empty(value):
                continue
            if known == "key_groups":
                _refuse(self.name, known, "splits the data key between groups (Shamir), which is not supported")
            if known in COMMENT_RULES:
                _refuse(self.name, known, "is not supported", hint=f"use one of {', '.join(RULES)}")
            if known not in _KNOWN and known not in RULES and known not in OTHER_KINDS:
                _refuse(self.name, known, "is not known to this version")

    def _version(self) -> None:
        version = self._string("version")
        if not _VERSION.fullmatch(str(version.value)):
            _refuse(self.name, "version", "is not of the form X.Y.Z")

    def _string(self, key: str) -> Scalar:
        node = self.block.get(key)
        if node is None or (isinstance(node, Scalar) and node.value in (None, "")):
            _refuse(self.name, key, "is missing", hint="bring back the last good version of the file")
        if not isinstance(node, Scalar) or not isinstance(node.value, str):
            _refuse(self.name, key, "is not a string", hint="put it in double quotes")
        return node

    def _time(self, key: str, node: Scalar) -> str:
        """The time as Go formats it after parsing: without a fraction, `Z` where the offset is nought."""
        found = _RFC3339.fullmatch(str(node.value))
        try:
            if found is None:
                raise ValueError("not RFC 3339")
            datetime.fromisoformat(found[1] + found[2])
        except ValueError:
            _refuse(self.name, key, "is not a time such as 2026-11-21T11:38:15Z")
        return found[1] + ("Z" if found[2][1:] == "00:00" else found[2])

    def _flag(self, key: str) -> bool:
        value = self._value(key)
        if value is None or isinstance(value, bool):
            return bool(value)
        _refuse(self.name, key, "is neither true nor false")

    def _value(self, key: str) -> Plain:
        node = self.block.get(key)
        if node is None:
            return None
        if not isinstance(node, Scalar):
            _refuse(self.name, key, "is not a single value")
        return node.value

    def _rule(self) -> Rule:
        given = [key for key in RULES if not _empty(self.block.get(key))]
        if len(given) > 1:
            _refuse(self.name, given[1], f"stands beside {given[0]}: a file has one rule at most")
        if not given:
            return Rule()
        argument = str(self._string(given[0]).value)
        if given[0].endswith("_suffix"):
            return Rule(given[0], argument, lambda key: key.endswith(argument))
        return Rule(given[0], argument, self._pattern(given[0], argument))

    def _pattern(self, key: str, pattern: str) -> Callable[[str], bool]:
        def matches(text: str) -> bool:
            if text not in answers:
                try:
                    answers[text] = regex.search(text)
                except BadPattern as error:
                    _refuse(self.name, key, f"cannot be used: {error}")
            return answers[text]

        answers: dict[str, bool] = {}
        try:
            regex = GoRegex(pattern)
        except BadPattern as error:
            _refuse(self.name, key, f"cannot be used: {shown(str(error))}")
        return matches

    def _wrapped(self) -> tuple[Wrapped, ...]:
        found = [
            *self._group("age", "recipient"),
            *self._group("pgp", "fp"),
            *(one for kind, label in OTHER_KINDS.items() for one in self._group(kind, label)),
        ]
        if not found:
            _refuse(self.name, "", "names no recipient", hint="bring back the last good version of the file")
        if len(found) > MAX_RECIPIENTS:
            _refuse(self.name, "", f"names more than {MAX_RECIPIENTS} recipients")
        return tuple(found)

    def _group(self, kind: str, label: str) -> list[Wrapped]:
        node = self.block.get(kind)
        if _empty(node):
            return []
        if not isinstance(node, Sequence):
            _refuse(self.name, kind, "is not a list")
        return [self._entry(kind, label, item, position) for position, item in enumerate(node.items)]

    def _entry(self, kind: str, label: str, item: Node, position: int) -> Wrapped:
        where = f"{kind}[{position}]"
        if not isinstance(item, Mapping):
            _refuse(self.name, where, "is not a map")
        fields: dict[str, str] = {}
        for wanted in (label, "enc") if kind in ("age", "pgp") else (label,):
            value = item.get(wanted)
            if not isinstance(value, Scalar) or not isinstance(value.value, str) or not value.value:
                _refuse(self.name, where, f"has no {wanted}, or one that is not a string")
            fields[wanted] = value.value
        created = item.get("created_at")
        if kind == "pgp":
            if not isinstance(created, Scalar):
                _refuse(self.name, where, "has no created_at")
            self._time(f"{where}.created_at", created)
        return Wrapped(kind, fields[label].strip(), fields.get("enc", ""))


def _empty(node: Node | None) -> bool:
    match node:
        case None:
            return True
        case Scalar():
            return node.value in (None, "", False, 0)
        case Mapping() | Sequence():
            return not node.items
