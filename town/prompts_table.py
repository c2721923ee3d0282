"""[agents.NAME.prompts]: which runtimes get documents, and what they say beyond the identity."""

import json
import math
import re
import unicodedata

from town import grammar, settings
from town.grammar import Wrong, quoted
from town.spec import Prompts
from town.table import Noted, Place, Table, array, kind, one_of, text

RUNTIMES = ("claude-code", "agents-md", "codex", "gemini", "opencode")
USUAL_RUNTIMES = ("claude-code", "agents-md")
INTEGERS = 1 << 53  # beyond it JSON's readers disagree (RFC 8259, section 6)


def prompts(value: object, place: Place, name: str, role: str) -> Prompts:
    """The whole table; every key has a default."""
    with Table(value, place, f"[{place.where}]") as table:
        return Prompts(
            table.take("runtimes", _runtimes, USUAL_RUNTIMES),
            table.take("name", text(grammar.prompt_name, '"ada-software"'), usual_name(name, role)),
            table.take("tools", array(text(_tool, '"Read"'), '["Read", "Edit"]'), ()),
            table.take("settings", _settings, "{}"),
            table.take("extra", text(grammar.prose, '"""…"""'), ""),
        )


def usual_name(name: str, role: str) -> str:
    """`NAME-ROLE`, the role in lower-case ASCII with hyphens; only NAME where nothing is left of the role."""
    plain = unicodedata.normalize("NFKD", role).encode("ascii", "ignore").decode().lower()
    slug = re.sub("[^a-z0-9]+", "-", plain).strip("-")[:32].strip("-")
    return f"{name}-{slug}" if slug else name


def _runtimes(value: object, place: Place) -> tuple[str, ...]:
    before = len(place.problems)
    found = array(text(one_of(RUNTIMES), '"claude-code"'), '["claude-code"]')(value, place)
    if len(set(found)) != len(found) and len(place.problems) == before:
        raise Wrong("names a runtime twice", "leave one of them out")
    return found


def _tool(found: str) -> str:
    """A tool, perhaps with what it may be used for: `Agent(worker, reader)`."""
    if "," in re.sub(r"\(.*\)", "", grammar.word(found)):
        raise Wrong(f"{quoted(found)} holds a comma, which makes two tools of it", 'write ["Read", "Edit"]')
    return found


def _settings(value: object, place: Place) -> str:
    """The table as canonical JSON, checked against what is published of Claude Code's settings."""
    if not isinstance(value, dict):
        raise Wrong(f"is {kind(value)}, not a table", 'write settings.permissions = { defaultMode = "acceptEdits" }')
    before = len(place.problems)
    _jsonable(value, place)
    if len(place.problems) == before:
        settings.refuse(value, place)
    if len(place.problems) > before:
        raise Noted
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _jsonable(value: object, place: Place) -> None:
    """Note every value that JSON cannot carry. The tree is at most as deep as `town.toml` lets it be."""
    match value:
        case dict():
            for key, item in value.items():
                _clean(str(key), place.key(str(key)))
                _jsonable(item, place.key(str(key)))
        case list():
            for index, item in enumerate(value):
                _jsonable(item, place.item(index))
        case str():
            _clean(value, place)
        case bool():
            pass
        case int() if abs(value) > INTEGERS:
            place.wrong("is an integer beyond 2^53, which JSON does not carry safely", "write it as a string")
        case float() if not math.isfinite(value):
            place.wrong(f"is {value}, which JSON cannot say", "write a finite number")
        case int() | float():
            pass
        case _:
            place.wrong("is a date or a time, which JSON cannot say", f"write it in quotes, as in {quoted(str(value))}")


def _clean(found: str, place: Place) -> None:
    try:
        grammar.prose(found)
    except Wrong as wrong:
        place.wrong(wrong.what, wrong.cure)
