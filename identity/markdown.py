"""Text of others inside Markdown, so that none of it can end the place it was put in. Source: CommonMark 0.31."""

import re

_BACKTICKS = re.compile("`+")


def code(text: str) -> str:
    """One line as a code span that shows exactly `text`.

    >>> code("a`b")
    '``a`b``'
    """
    assert "\n" not in text
    fence = "`" * (_longest(text) + 1)
    # A space at both ends is taken away by the reader (section 6.1), and a backtick there would join the fence.
    spaced = text.startswith(" ") and text.endswith(" ") and bool(text.strip(" "))
    pad = " " if spaced or text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def block(text: str, language: str = "text") -> str:
    """Lines as a fenced code block: only a longer run of backticks could end it (section 4.5)."""
    fence = "`" * max(3, _longest(text) + 1)
    end = "" if text.endswith("\n") else "\n"
    return f"{fence}{language}\n{text}{end}{fence}"


def _longest(text: str) -> int:
    return max((len(run) for run in _BACKTICKS.findall(text)), default=0)
