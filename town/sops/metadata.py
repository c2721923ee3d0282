"""The `sops:` block of a file: who can open it, what its rule encrypts, and the seal over the whole."""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import NoReturn

from town.sops.errors import BadSopsFile
from town.sops.nodes import Mapping, Node, Scalar, Sequence
from town.sops.rules import COMMENT_RULES, RULES, Rule
from town.sops.rules import rule as rule_of
from town.sops.scalars import Plain, Time
from town.sops.shamir import MOST as MOST_GROUPS
from town.terminal import shown

# Key services that this program does not speak, and what names a key of each.
OTHERKINDS = {
    "kms": "arn",
    "gcp_kms": "resource_id",
    "hckms": "key_id",
    "azure_kv": "vault_url",
    "hc_vault": "vault_address",
}
KINDS = {"age", "pgp", *OTHERKINDS}
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

    @property
    def label(self) -> str:
        """The recipient as a file's list of recipients names it: those of key services with the service in front."""
        return self.recipient if self.kind in ("age", "pgp") else f"{self.kind}:{self.recipient}"


Group = tuple[Wrapped, ...]


@dataclass(frozen=True, slots=True)
class Metadata:
    """What stands in `sops:`, checked. `sealed_at` is lastmodified as the MAC's additional data.

    With one group each of its entries holds the data key; with several a share of it (`town.sops.shamir`), the same for
    all of a group, and `threshold` shares give the key.
    """

    groups: tuple[Group, ...]
    threshold: int
    rule: Rule
    mac: Scalar
    lastmodified: Scalar
    sealed_at: str
    mac_only_encrypted: bool

    @property
    def recipients(self) -> tuple[str, ...]:
        """Every recipient as the file writes it; those of key services with the service's name in front."""
        return tuple(dict.fromkeys(one.label for group in self.groups for one in group))


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
        groups = self._groups()
        return Metadata(
            groups=groups,
            threshold=self._threshold(len(groups)),
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
            if known in COMMENT_RULES:
                _refuse(self.name, known, "is not supported", hint=f"use one of {', '.join(RULES)}")
            if known not in _KNOWN and known not in RULES and known not in OTHERKINDS:
                _refuse(self.name, known, "is not known to this version")

    def _version(self) -> None:
        version = self._string("version")
        if not _VERSION.fullmatch(str(version.value)):
            _refuse(self.name, "version", "is not of the form X.Y.Z")

    def _string(self, key: str) -> Scalar:
        node = self.block.get(key)
        if node is None or (isinstance(node, Scalar) and node.value in (None, "")):
            _refuse(self.name, key, "is missing", hint="bring back the last good version of the file")
        if not isinstance(node, Scalar) or not isinstance(node.value, str) or isinstance(node.value, Time):
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
        return rule_of(given[0], argument, f"{shown(self.name)}: sops.{given[0]}")

    def _groups(self) -> tuple[Group, ...]:
        one, several = self._wrapped(self.block, ""), self.block.get("key_groups")
        if one and not _empty(several):
            _refuse(self.name, "key_groups", "stands beside recipients of the whole key: a file has either")
        groups = (one,) if _empty(several) else self._several(several)
        if not any(groups):
            _refuse(self.name, "", "names no recipient", hint="bring back the last good version of the file")
        if sum(map(len, groups)) > MAX_RECIPIENTS:
            _refuse(self.name, "", f"names more than {MAX_RECIPIENTS} recipients")
        return groups

    def _several(self, node: Node | None) -> tuple[Group, ...]:
        if not isinstance(node, Sequence) or len(node.items) > MOST_GROUPS:
            _refuse(self.name, "key_groups", f"is not a list of at most {MOST_GROUPS} groups")
        groups = []
        for position, item in enumerate(node.items):
            where = f"key_groups[{position}]"
            if not isinstance(item, Mapping):
                _refuse(self.name, where, "is not a map")
            if unknown := [str(key.value) for key, value in item.items if key.value not in KINDS and not _empty(value)]:
                _refuse(self.name, f"{where}.{unknown[0]}", "is not known to this version")
            groups.append(self._wrapped(item, f"{where}."))
            if not groups[-1]:
                _refuse(self.name, where, "names no recipient", hint="bring back the last good version of the file")
        return tuple(groups)

    def _threshold(self, groups: int) -> int:
        """How many shares are needed; sops takes all groups when none is named (UpdateMasterKeysWithKeyServices)."""
        value = self._value("shamir_threshold")
        if value in (None, 0) or groups == 1:
            return groups
        if isinstance(value, bool) or not isinstance(value, int) or not 2 <= value <= groups:
            _refuse(
                self.name, "shamir_threshold", f"is no number from 2 to {groups}, which is how many groups there are"
            )
        return value

    def _wrapped(self, block: Mapping, where: str) -> Group:
        kinds = {"age": "recipient", "pgp": "fp", **OTHERKINDS}
        return tuple(one for kind, label in kinds.items() for one in self._entries(block, kind, label, where))

    def _entries(self, block: Mapping, kind: str, label: str, where: str) -> list[Wrapped]:
        node = block.get(kind)
        if _empty(node):
            return []
        if not isinstance(node, Sequence):
            _refuse(self.name, where + kind, "is not a list")
        return [self._entry(kind, label, item, f"{where}{kind}[{at}]") for at, item in enumerate(node.items)]

    def _entry(self, kind: str, label: str, item: Node, where: str) -> Wrapped:
        if not isinstance(item, Mapping):
            _refuse(self.name, where, "is not a map")
        fields: dict[str, str] = {}
        for wanted in (label, "enc") if kind in ("age", "pgp") else (label,):
            value = item.get(wanted)
            if not isinstance(value, Scalar) or not isinstance(value.value, str) or not value.value.strip():
                _refuse(self.name, where, f"has no {wanted}, or one that is not a string")
            fields[wanted] = value.value
        created = item.get("created_at")
        if kind == "pgp":
            if not isinstance(created, Scalar) or isinstance(created.value, Time):
                _refuse(self.name, where, "has no created_at, or one that is not in quotes")
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
