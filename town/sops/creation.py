"""The creation rules of .sops.yaml: who a new file is encrypted to, found as sops 3 finds them (config/config.go)."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from town import files
from town.sops import nodes, sharing
from town.sops.errors import BadSopsFile, NoRule
from town.sops.goregex import BadPattern, GoRegex
from town.sops.nodes import MAX_BYTES
from town.sops.rules import COMMENT_RULES, RULES, Rule
from town.sops.rules import rule as rule_of
from town.sops.sharing import Sharing
from town.terminal import shown

_MAX_DEPTH = 100
_OTHER_KINDS = ("kms", "gcp_kms", "hckms", "azure_keyvault", "hc_vault_transit_uri", "hc_vault")


@dataclass(frozen=True, slots=True)
class CreationRule:
    """What .sops.yaml says of a new file: the rule at `position` (from 0) of the configuration `config`."""

    config: Path
    position: int
    sharing: Sharing
    rule: Rule
    mac_only_encrypted: bool

    @property
    def where(self) -> str:
        """File and rule, for messages."""
        return f"{shown(str(self.config))}: creation_rules[{self.position}]"


def creation_rule(file: Path, *, start: Path, config: Path | None = None) -> CreationRule | None:
    """The rule of .sops.yaml for `file`, with recipients as `canonical` writes them; None without such rules.

    The configuration is `config` (the option --config), else $SOPS_CONFIG, else the nearest .sops.yaml in `start` (the
    current directory, for sops) or above it. The first rule counts whose path_regex is found in the path relative to
    the configuration's folder. Raises BadSopsFile, NoRule when none is, BadRecipient, Unreadable.
    """
    found = config or _configuration(start)
    if found is None:
        return None
    _, root = nodes.parse(files.read_bounded(found, MAX_BYTES), str(found), aliases=True)
    rules = nodes.plain(root, str(found)).get("creation_rules")
    if rules is None:  # only destination rules: sops goes on as if there were no configuration
        return None
    reader = _Rules(found)
    return reader.read(*reader.matching(rules, file))


def creation_recipients(file: Path, *, start: Path, config: Path | None = None) -> tuple[str, ...] | None:
    """The recipients that .sops.yaml gives for `file`, each of whom opens it alone; as `creation_rule` otherwise.

    Raises BadSopsFile also for several groups, which open a file only together.
    """
    found = creation_rule(file, start=start, config=config)
    if found is not None and len(found.sharing.groups) > 1:
        raise BadSopsFile(
            f"{found.where}.key_groups has several groups (Shamir): nobody could open this file alone",
            hint="use one group for it",
        )
    return None if found is None else found.sharing.recipients


def _configuration(start: Path) -> Path | None:
    if named := os.environ.get("SOPS_CONFIG"):
        return Path(named)
    folder = Path(os.path.abspath(start))
    for candidate in [folder, *folder.parents][:_MAX_DEPTH]:
        if (candidate / ".sops.yaml").exists():
            return candidate / ".sops.yaml"
    return None


class _Rules:
    def __init__(self, file: Path) -> None:
        self.file = file

    def _bad(self, what: str, hint: str = "") -> BadSopsFile:
        return BadSopsFile(f"{shown(str(self.file))}: {what}", hint=hint)

    def matching(self, rules: Any, file: Path) -> tuple[int, dict[str, Any]]:
        """The first rule for a file, and which it is."""
        if not isinstance(rules, list) or not all(isinstance(rule, dict) for rule in rules):
            raise self._bad("creation_rules is not a list of maps")
        folder = os.path.dirname(os.path.abspath(self.file)).rstrip("/") + "/"
        path = os.path.abspath(file).removeprefix(folder)
        for position, rule in enumerate(rules):
            if self._matches(rule.get("path_regex"), path, position):
                return position, rule
        raise NoRule(
            f"{shown(str(self.file))}: no creation rule matches {shown(path)}",
            hint="add a rule with a path_regex for it, or [town.recipients]",
        )

    def _matches(self, pattern: Any, path: str, position: int) -> bool:
        if pattern is None or pattern == "":
            return True
        if not isinstance(pattern, str):
            raise self._bad(f"creation_rules[{position}].path_regex is not a string")
        try:
            return GoRegex(pattern).search(path)
        except BadPattern as error:
            raise self._bad(f"creation_rules[{position}].path_regex cannot be used: {shown(str(error))}") from error

    def read(self, position: int, rule: dict[str, Any]) -> CreationRule:
        """What one rule says."""
        where = f"creation_rules[{position}]"
        flag = rule.get("mac_only_encrypted")
        if flag not in (None, True, False):
            raise self._bad(f"{where}.mac_only_encrypted is neither true nor false")
        return CreationRule(self.file, position, self._sharing(where, rule), self._rule(where, rule), bool(flag))

    def _sharing(self, where: str, rule: dict[str, Any]) -> Sharing:
        """Who the rule names, age before pgp."""
        groups = rule.get("key_groups")
        if not groups:
            return sharing.among([self._group(where, rule)])
        if not isinstance(groups, list) or not all(isinstance(group, dict) for group in groups):
            raise self._bad(f"{where}.key_groups is not a list of maps")
        threshold = rule.get("shamir_threshold") or None
        if threshold is not None and type(threshold) is not int:
            raise self._bad(f"{where}.shamir_threshold is not a number")
        named = [self._group(f"{where}.key_groups[{at}]", group) for at, group in enumerate(groups)]
        return sharing.among(named, threshold)

    def _group(self, where: str, group: dict[str, Any]) -> list[str]:
        named = self._members(where, group)
        if not named:
            raise self._bad(f"{where} names no age or pgp recipient")
        return named

    def _members(self, where: str, group: dict[str, Any]) -> list[str]:
        for kind in _OTHER_KINDS:
            if group.get(kind):
                raise self._bad(f"{where}.{kind} is not supported", "use age and pgp recipients")
        merged = group.get("merge") or []
        if not isinstance(merged, list) or not all(isinstance(one, dict) for one in merged):
            raise self._bad(f"{where}.merge is not a list of maps")
        below = [one for at, group in enumerate(merged) for one in self._members(f"{where}.merge[{at}]", group)]
        return [*below, *self._keys(group, "age", where), *self._keys(group, "pgp", where)]

    def _keys(self, rule: dict[str, Any], kind: str, where: str) -> list[str]:
        """Strings in a list, or in one string with commas between them; both at once, too."""
        value = rule.get(kind)
        items = [] if value is None else [value] if isinstance(value, str) else value
        if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
            raise self._bad(f"{where}.{kind} is neither a string nor a list of strings")
        return [part.strip() for item in items for part in item.split(",") if part.strip()]

    def _rule(self, where: str, given: dict[str, Any]) -> Rule:
        named = [name for name in (*RULES, *COMMENT_RULES) if given.get(name)]
        if len(named) > 1:
            raise self._bad(f"{where}.{named[1]} stands beside {named[0]}: one rule at most")
        if not named:
            return Rule()
        if named[0] in COMMENT_RULES:
            raise self._bad(f"{where}.{named[0]} is not supported", f"use one of {', '.join(RULES)}")
        argument = given[named[0]]
        if not isinstance(argument, str):
            raise self._bad(f"{where}.{named[0]} is not a string")
        return rule_of(named[0], argument, f"{shown(str(self.file))}: {where}.{named[0]}")
