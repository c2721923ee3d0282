"""Regular expressions as Go reads them: RE2, which Go's `regexp` shares its syntax and its linear time with.

A SOPS file brings its own rule, and the file may come from a hostile bucket: Python's `re` backtracks, so one long key
could keep it busy for years.
"""

from typing import Any

MAX_PATTERN = 1_000  # characters
MAX_MEMORY = 1 << 20  # bytes for a compiled pattern


class BadPattern(ValueError):
    """Not a regular expression that Go's sops would take. Says why."""


class GoRegex:
    """A compiled pattern. Raises BadPattern."""

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        if len(pattern) > MAX_PATTERN:
            raise BadPattern(f"it is longer than {MAX_PATTERN} characters")
        if r"\C" in pattern.replace(r"\\", ""):  # RE2 in C++ has it, Go has not
            raise BadPattern(r"invalid escape sequence: \C")
        self._compiled = _compiled(pattern)

    def search(self, text: str) -> bool:
        """Whether the pattern matches anywhere in `text`, in time linear in its length."""
        return self._compiled.search(text) is not None


def _compiled(pattern: str) -> Any:
    import re2

    options = re2.Options()
    options.max_mem = MAX_MEMORY
    options.log_errors = False
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        why = error.args[0] if error.args else "unknown"
        words = why.decode("utf-8", "replace") if isinstance(why, bytes) else str(why)
        raise BadPattern(f"{words} (Go's RE2 has no lookaround and no backreferences)") from error
