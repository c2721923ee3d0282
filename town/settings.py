"""Claude Code's settings in a spec, held against what is published of them: data (`claude-settings.toml`).

Claude Code leaves out a file with a wrong kind of value, and passes over a key that it does not know. So what is wrong
for certain is refused with the spec, and everything about `permissions`, where a rule with a slip in it protects
nothing. A key that is merely not known here is a doubt: a newer Claude Code may have it.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from town.failure import Problem
from town.grammar import quoted
from town.spec import Agent
from town.table import Place, kind

_MOST = 20  # doubts of one agent's settings
_PERMISSIONS = "permissions"
_OUTSIDE = 'write it as in settings.permissions = { defaultMode = "acceptEdits" }'
_RULE = 'write it as in "Bash(npm run *)", "Read" or "mcp__github"'


class _Judged(NamedTuple):
    """One thing about a value, and whether it is wrong for certain."""

    problem: Problem
    certain: bool


class _At(NamedTuple):
    """A key path twice: as messages say it, and below `settings` as the data file does; and whether doubts count."""

    place: Place
    path: str = ""
    doubts: bool = False  # to look for what a thousand unknown keys might have meant takes long

    def key(self, key: str) -> "_At":
        return self._replace(place=self.place.key(key), path=f"{self.path}.{key}" if self.path else key)

    def item(self, index: int) -> "_At":
        return self._replace(place=self.place.item(index))

    @property
    def permission(self) -> bool:
        return self.path.partition(".")[0] == _PERMISSIONS

    def wrong(self, what: str, cure: str) -> _Judged:
        return _Judged(Problem(self.place.where, what, cure), certain=True)

    def doubtful(self, what: str, cure: str) -> _Judged:
        return _Judged(Problem(self.place.where, what, cure), certain=self.permission)


def refuse(settings: dict[str, Any], place: Place) -> None:
    """Note on `place` what is wrong for certain in settings that JSON can carry."""
    for judged in _table(settings, _data()["settings"], _At(place)):
        if judged.certain:
            Place(judged.problem.where, place.problems).wrong(judged.problem.what, judged.problem.cure)


def doubts(agents: Iterable[Agent]) -> Iterator[Problem]:
    """What Claude Code would pass over, and what does nothing: for a person to look at."""
    for agent in agents:
        yield from _doubts(agent, Place("agents", []).key(agent.name).key("prompts"))


def _doubts(agent: Agent, place: Place) -> Iterator[Problem]:
    prompts, settings = agent.prompts, agent.prompts.settings
    for key, said in (("settings", settings), ("tools", prompts.tools)):
        if said and "claude-code" not in prompts.runtimes:
            what = "does nothing: only claude-code reads it, and prompts.runtimes leaves claude-code out"
            yield Problem(place.key(key).where, what, f'add "claude-code" to runtimes, or leave {key} out')
    if settings:
        judged = _table(settings, _data()["settings"], _At(place.key("settings"), doubts=True))
        yield from (one.problem for one in islice(judged, _MOST))
    for number, tool in enumerate(prompts.tools[:_MOST]):
        at = _At(place.key("tools").item(number), doubts=True)
        yield from (one.problem for one in _tool(tool, at))


@cache
def _data() -> dict[str, Any]:
    import tomllib

    return tomllib.loads(Path(__file__).with_name("claude-settings.toml").read_text(encoding="utf-8"))


def _table(tree: object, known: dict[str, Any], at: _At) -> Iterator[_Judged]:
    if not isinstance(tree, dict):
        yield at.wrong(f"is {kind(tree)}, not a table", _OUTSIDE if at.permission else "write { KEY = VALUE }")
        return
    for key, value in tree.items():
        yield from _value(value, known[key], at.key(key)) if key in known else _unknown(key, known, at)


def _value(value: object, wanted: Any, at: _At) -> Iterator[_Judged]:
    match wanted:
        case dict():
            yield from _table(value, wanted, at)
        case list():
            yield from _one_of(value, wanted, at)
        case _:
            yield from _KINDS[wanted](value, at)


def _unknown(key: str, known: dict[str, Any], at: _At) -> Iterator[_Judged]:
    here, data = at.key(key), _data()
    if key in data["mistaken"]:
        meant = data["mistaken"][key]
        yield here.wrong("is not a key of Claude Code's", f'write {_PERMISSIONS}.defaultMode = "{meant}"')
    elif here.path in data["managed"]:
        yield here.doubtful(
            "does nothing here: Claude Code reads it in managed settings only",
            "put it into /etc/claude-code/managed-settings.json",
        )
    elif not at.path and key in data["settings"][_PERMISSIONS]:
        yield here.wrong(f"does nothing outside of {_PERMISSIONS}", f"write it as {_PERMISSIONS}.{key}")
    elif here.permission or here.doubts:
        yield here.doubtful("is not a key that Claude Code is known to read", _near(key, list(known)))


def _near(text: str, known: list[str]) -> str:
    from difflib import get_close_matches

    lower = {name.lower(): name for name in known}
    near = get_close_matches(text[:100].lower(), list(lower), n=1)
    return f"did you mean {lower[near[0]]}?" if near else "it passes over what it does not know: look at its spelling"


def _one_of(value: object, choices: list[str], at: _At) -> Iterator[_Judged]:
    if not isinstance(value, str):
        yield at.wrong(f"is {kind(value)}, not a string", f"write one of {', '.join(choices)}")
    elif value not in choices:
        from difflib import get_close_matches

        near = _data()["mistaken"].get(value) or next(iter(get_close_matches(value[:60], choices, n=1)), None)
        listed = ", ".join(choices)
        cure = f"did you mean {near}? It is one of {listed}" if near else f"write one of {listed}"
        yield at.doubtful(f"{quoted(value)} is not known", cure)


def _simple(name: str, *types: type) -> Callable[[object, _At], Iterator[_Judged]]:
    def check(value: object, at: _At) -> Iterator[_Judged]:
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            yield at.wrong(f"is {kind(value)}, not {name}", f"write {name} here")

    return check


def _all(items: Callable[[object, _At], Iterator[_Judged]]) -> Callable[[object, _At], Iterator[_Judged]]:
    def check(value: object, at: _At) -> Iterator[_Judged]:
        if not isinstance(value, list):
            yield at.wrong(f"is {kind(value)}, not an array", "write [ … ], with one thing or more in it")
            return
        for index, item in enumerate(value):
            yield from items(item, at.item(index))

    return check


def _variables(value: object, at: _At) -> Iterator[_Judged]:
    if not isinstance(value, dict):
        yield at.wrong(f"is {kind(value)}, not a table", 'write { NAME = "value" }')
        return
    for name, item in value.items():
        here = at.key(name)
        yield from _string(item, here)
        if at.path == "env" and name in _data()["secret"] and item:
            what = "would stand in clear, in the spec and in settings.json"
            yield here.doubtful(what, "name a secret of secrets.extra for it in secrets.env")


def _rule(value: object, at: _At) -> Iterator[_Judged]:
    if not isinstance(value, str):
        yield at.wrong(f"is {kind(value)}, not a string", _RULE)
    elif not value.strip() or ("(" in value) != value.endswith(")") or value.endswith("()"):
        yield at.wrong(f"{quoted(value)} is no permission rule", _RULE)
    else:
        # A rule for a tool of tomorrow is nobody's mistake.
        yield from (one._replace(certain=False) for one in _tool(value, at))


def _tool(text: str, at: _At) -> Iterator[_Judged]:
    name, tools = text.partition("(")[0], _data()["tools"]
    if at.doubts and name not in tools and not name.startswith("mcp__"):
        yield at.doubtful(f"{quoted(name)} is not a tool that Claude Code is known to have", _near(name, tools))


_string = _simple("a string", str)
_KINDS: dict[str, Callable[[object, _At], Iterator[_Judged]]] = {
    "any": lambda *_: iter(()),
    "boolean": _simple("a boolean", bool),
    "integer": _simple("an integer", int),
    "number": _simple("a number", int, float),
    "rules": _all(_rule),
    "string": _string,
    "strings": _all(_string),
    "table": _simple("a table", dict),
    "tables": _all(_simple("a table", dict)),
    "variables": _variables,
}
