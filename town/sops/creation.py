"""The creation rules of .sops.yaml: who a new file is encrypted to, found as sops 3 finds them (config/config.go)."""

import os
from pathlib import Path
from typing import Any

from town import files
from town.sops import nodes
from town.sops.errors import BadSopsFile
from town.sops.goregex import BadPattern, GoRegex
from town.sops.nodes import MAX_BYTES
from town.sops.recipients import canonical
from town.terminal import shown

_MAX_DEPTH = 100
_OTHER_KINDS = ("kms", "gcp_kms", "hckms", "azure_keyvault", "hc_vault_transit_uri", "hc_vault")


def creation_recipients(file: Path, *, start: Path) -> tuple[str, ...] | None:
    """The recipients that .sops.yaml gives for `file`, as `canonical` writes them; None without such rules.

    The configuration is $SOPS_CONFIG, else the nearest .sops.yaml in `start` (the current directory, for sops) or
    above it. The first rule counts whose path_regex is found in the path relative to the configuration's folder.
    Raises BadSopsFile, BadRecipient, Unreadable.
    """
    found = _configuration(start)
    if found is None:
        return None
    _, root = nodes.parse(files.read_bounded(found, MAX_BYTES), str(found), aliases=True)
    rules = nodes.plain(root, str(found)).get("creation_rules")
    if rules is None:  # only destination rules: sops goes on as if there were no configuration
        return None
    reader = _Rules(found)
    return reader.recipients(*reader.matching(rules, file))


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

    def matching(self, rules: Any, file: Path) -> tuple[str, dict[str, Any]]:
        """The first rule for a file, and what to call it."""
        if not isinstance(rules, list) or not all(isinstance(rule, dict) for rule in rules):
            raise self._bad("creation_rules is not a list of maps")
        folder = os.path.dirname(os.path.abspath(self.file)).rstrip("/") + "/"
        path = os.path.abspath(file).removeprefix(folder)
        for position, rule in enumerate(rules):
            if self._matches(rule.get("path_regex"), path, position):
                return f"creation_rules[{position}]", rule
        raise self._bad(
            f"no creation rule matches {shown(path)}", "add a rule with a path_regex for it, or [town.recipients]"
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

    def recipients(self, where: str, rule: dict[str, Any]) -> tuple[str, ...]:
        """Who the rule names, age before pgp."""
        groups = rule.get("key_groups")
        if groups:
            if not isinstance(groups, list) or not all(isinstance(group, dict) for group in groups):
                raise self._bad(f"{where}.key_groups is not a list of maps")
            if len(groups) > 1:
                raise self._bad(
                    f"{where}.key_groups has several groups (Shamir), which is not supported", "use one group"
                )
            rule, where = groups[0], f"{where}.key_groups[0]"
        for kind in (*_OTHER_KINDS, "merge"):
            if rule.get(kind):
                raise self._bad(f"{where}.{kind} is not supported", "use age and pgp recipients")
        named = [*self._keys(rule, "age", where), *self._keys(rule, "pgp", where)]
        if not named:
            raise self._bad(f"{where} names no age or pgp recipient")
        return tuple(dict.fromkeys(map(canonical, named)))

    def _keys(self, rule: dict[str, Any], kind: str, where: str) -> list[str]:
        """Strings in a list, or in one string with commas between them; both at once, too."""
        value = rule.get(kind)
        items = [] if value is None else [value] if isinstance(value, str) else value
        if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
            raise self._bad(f"{where}.{kind} is neither a string nor a list of strings")
        return [part.strip() for item in items for part in item.split(",") if part.strip()]
