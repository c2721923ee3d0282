"""Which values of a file are encrypted: one suffix or regular expression, held against every key of a value's path."""

from collections.abc import Callable
from dataclasses import dataclass

from town.sops.errors import BadSopsFile
from town.sops.goregex import BadPattern, GoRegex
from town.sops.values import Path
from town.terminal import shown

RULES = ("unencrypted_suffix", "encrypted_suffix", "unencrypted_regex", "encrypted_regex")
COMMENT_RULES = ("unencrypted_comment_regex", "encrypted_comment_regex")


def _default(key: str) -> bool:
    return key.endswith("_unencrypted")


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule; `matches` says whether it speaks of a key. `rule` below makes one."""

    name: str = "unencrypted_suffix"
    argument: str = "_unencrypted"
    matches: Callable[[str], bool] = _default

    def encrypts(self, path: Path) -> bool:
        """Whether the value at this path is stored encrypted."""
        return any(map(self.matches, path)) == self.name.startswith("encrypted")


def rule(name: str, argument: str, where: str) -> Rule:
    """A rule of RULES with its suffix or pattern. Raises BadSopsFile that says `where` a pattern cannot be used."""
    if name.endswith("_suffix"):
        return Rule(name, argument, lambda key: key.endswith(argument))
    try:
        regex = GoRegex(argument)
    except BadPattern as error:
        raise BadSopsFile(f"{where} cannot be used: {shown(str(error))}") from error
    answers: dict[str, bool] = {}

    def matches(key: str) -> bool:
        if key not in answers:
            answers[key] = regex.search(key)
        return answers[key]

    return Rule(name, argument, matches)
