# ruff: noqa: E501 - long lists of odd values
"""No input, however broken, ends in anything but a Spec or a BadSpec; what is written and read is equal.

NUKETOWN_SCALE multiplies how many examples are tried: NUKETOWN_SCALE=100 for a long search.
"""

import copy
import datetime
import re
import string
import tomllib
from pathlib import Path
from typing import Any

import tomlkit
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.scale import times
from town import grammar, presets, spec, terminal
from town.failure import BadSpec
from town.spec import Spec

EXAMPLE = Path(__file__).parent.parent / "fixtures/town.toml"
TREE = tomllib.loads(EXAMPLE.read_text())
FILE = Path("/etc/nuketown/town.toml")
bounded = settings(
    max_examples=times(150),
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)

HOSTILE = st.sampled_from(
    ["", " ", ".", "..", "/", "~", "a\nb", "a\0b", "\x1b[2J", "\u202eb", "\ufeff", "\u2028", "a'\"\\", "${x}`x`", "a/../b", "%", "é" * 300, "x" * 5000,
     "sops", "no", "root", "ada", "vox", "none", "true", "AGE-SECRET-KEY-1QQQQQQQQQQQQ", "-----BEGIN PRIVATE KEY-----", "/agents", "/persist/agents/x",
     "s3://a@b?c", "s3://[", "file://", "file:///agents", "http://[::1", "1e999min", "99999999999999999999%", "age1", "ssh-ed25519 ", "0" * 40,
     "UUID=", "LABEL=x/y", "ada/ssh-key", "ada/ssh-key/x", "\U000e0041", "\U0010ffff"]
)  # fmt: skip
STRINGS = HOSTILE | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
SCALARS = (
    st.booleans()
    | st.integers()
    | st.sampled_from([0, 1000, 1100, 1101, 60000, 60001, 1 << 63, 1 << 2000])
    | st.floats()
    | STRINGS
    | st.datetimes()
    | st.dates()
    | st.times()
)
ODD = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(STRINGS, inner, max_size=3), max_leaves=5
)
KEYS = STRINGS | st.sampled_from(
    ["uid", "via", "class", "path", "store", "persist_dir", "keep", "preset", "gpg_key", "gid"]
)


def outcome(data: bytes) -> Spec | BadSpec:
    """What reading gives; every other exception fails the test."""
    try:
        found = spec.parse(data, FILE)
    except BadSpec as bad:
        return _fit_to_print(bad)
    again = spec.parse(spec.dump(found).encode(), FILE)
    assert again == found
    return found


def _fit_to_print(bad: BadSpec) -> BadSpec:
    assert bad.problems
    for problem in bad.problems:
        said = f"{bad.file} {problem} {problem.cure}".replace("\\", "")
        assert terminal.shown(said) == said
    return bad


def places(tree: object) -> list[tuple[Any, Any]]:
    """Every (container, key) of a tree."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [place for key, value in items for place in ((tree, key), *places(value))]


def mutated(data: st.DataObject) -> dict[str, Any]:
    """The example with a few keys dropped, replaced or added."""
    tree = copy.deepcopy(TREE)
    for _ in range(data.draw(st.integers(1, 3))):
        found = places(tree)
        if not found:
            break
        container, key = data.draw(st.sampled_from(found))
        match data.draw(st.sampled_from(["drop", "replace", "odd", "add"])):
            case "drop":
                del container[key]
            case "replace":
                other, at = data.draw(st.sampled_from(found))
                container[key] = copy.deepcopy(other[at]) if _has(other, at) else data.draw(STRINGS)
            case "odd":
                container[key] = data.draw(ODD)
            case "add" if isinstance(container[key], dict):
                container[key][data.draw(KEYS)] = data.draw(ODD)
            case _:
                container[key] = data.draw(STRINGS)
    return tree


def _has(container: Any, key: Any) -> bool:
    return key in container if isinstance(container, dict) else key < len(container)


def toml(tree: dict[str, Any]) -> bytes:
    """The tree as TOML; what the writer cannot say stands as text that no spec takes."""
    try:
        return tomlkit.dumps(tree).encode()
    except (ValueError, TypeError, OverflowError):
        return repr(tree).encode()


@bounded
@given(st.binary(max_size=200))
def test_bytes_of_any_kind_are_a_spec_or_a_told_mistake(data: bytes) -> None:
    outcome(data)


@bounded
@given(st.binary(max_size=20), st.integers(0, EXAMPLE.stat().st_size), st.integers(0, 30))
def test_an_example_with_a_hole_or_a_splinter_is_a_spec_or_a_told_mistake(splinter: bytes, at: int, cut: int) -> None:
    data = EXAMPLE.read_bytes()
    outcome(data[:at] + splinter + data[at + cut :])


WORDS = st.sampled_from(
    ["[town]", "[agents.ada]", "[[agents.ada.persist]]", "[", "]", "{", "}", "=", ",", ".", "\n", '"', '"""', "'", "#", "uid = 1100", "persist",
     "store = ", "true", "nan", "1979-05-27T07:32:00Z", "0x", "\\u0000", "[agents.ada.prompts.settings]", "a.b.c = 1", "\r\n", "\t"]
)  # fmt: skip


@bounded
@given(st.lists(WORDS | STRINGS, max_size=30))
def test_words_of_toml_in_any_order_are_a_spec_or_a_told_mistake(words: list[str]) -> None:
    outcome("".join(words).encode())


@bounded
@given(st.data())
def test_the_example_with_keys_dropped_replaced_or_added_is_a_spec_or_a_told_mistake(data: st.DataObject) -> None:
    outcome(toml(mutated(data)))


@bounded
@given(ODD, st.sampled_from(range(len(places(TREE)))))
def test_any_value_at_any_key_is_a_spec_or_a_told_mistake(value: object, index: int) -> None:
    tree = copy.deepcopy(TREE)
    container, key = places(tree)[index]
    container[key] = value
    outcome(toml(tree))


@bounded
@given(STRINGS, STRINGS, st.sampled_from(range(len(places(TREE["agents"]["ada"])))), ODD)
def test_an_agent_of_any_name_with_any_value_below_it_is_told_in_plain_words(
    name: str, other: str, index: int, value: object
) -> None:
    ada = copy.deepcopy(TREE["agents"]["ada"])
    container, key = places(ada)[index]
    container[key] = value
    outcome(toml(TREE | {"agents": {name: ada, other: value}}))


@bounded
@given(st.from_regex(grammar._PRIVATE_KEY) | st.text(st.sampled_from("-AGESCRTKYPIVB 1qſKı"), max_size=40))
def test_a_private_key_is_found_where_its_pattern_finds_it(text: str) -> None:
    assert grammar.holds_secret(text) == bool(re.search(grammar._PRIVATE_KEY, text))


# Specs that are right, whatever they hold.
PLAIN = string.ascii_letters + string.digits
NAMES = st.from_regex(r"[a-z][a-z0-9-]{0,30}", fullmatch=True).filter(
    lambda name: name not in grammar.YAML_WORDS | {"sops", "root", "josh"} and not name.endswith("-unencrypted")
)
VISIBLE = st.characters(exclude_categories=["Cc", "Cf", "Cs", "Zl", "Zp"])
PROSE = st.text(
    st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]) | st.sampled_from("\n\t"), max_size=60
).filter(lambda text: not grammar.holds_secret(text))
LINE = st.text(VISIBLE, min_size=1, max_size=30).filter(lambda text: text == text.strip())
COMPONENT = st.text(VISIBLE.filter(lambda c: c != "/"), min_size=1, max_size=20).filter(
    lambda text: text not in (".", "..")
)
PATHS = st.lists(COMPONENT, min_size=1, max_size=4).map("/".join).filter(lambda path: path[0] != "~")
JSON = st.recursive(
    st.booleans() | st.integers(-(1 << 53), 1 << 53) | st.floats(allow_nan=False, allow_infinity=False) | PROSE,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(PROSE, inner, max_size=3),
    max_leaves=6,
)
FILES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True)


@st.composite
def entry(draw: st.DrawFn, path: str, via: bool) -> object:
    if draw(st.booleans()):
        return path
    class_ = draw(st.sampled_from(["data", "cache", "credential"]))
    made: dict[str, object] = {"path": path, "class": class_, "required": draw(st.booleans())}
    if via and class_ == "data" and draw(st.booleans()):
        made["via"] = draw(st.sampled_from(["bind", "store", "both"]))
    made["type"] = draw(st.sampled_from(["directory", "file"]))
    if via and class_ == "credential":
        made["upload"] = draw(st.booleans())
    if made["type"] == "directory" and draw(st.booleans()):
        made["preset"] = draw(st.sampled_from([name for name in presets.names() if not presets.preset(name).env]))
    return made


@st.composite
def agent(draw: st.DrawFn, name: str, uid: int, store: bool) -> dict[str, object]:
    paths: list[str] = []
    for path in draw(st.lists(PATHS, max_size=5)):
        owned = path.startswith((".nuketown", ".config", ".ssh"))
        if not owned and not any(f"{path}/".startswith(f"{o}/") or f"{o}/".startswith(f"{path}/") for o in paths):
            paths.append(path)
    extra = draw(st.lists(FILES, max_size=3, unique=True))
    return {
        "uid": uid,
        "gid": draw(st.sampled_from([uid, 2000])),
        "role": draw(LINE),
        "description": draw(PROSE),
        "persist": [draw(entry(path, store)) for path in paths],
        "git": {"name": "A" + draw(st.text(PLAIN + " .é'", max_size=9)).strip(), "signing": draw(st.sampled_from(["gpg", "ssh", False]))},
        "secrets": {
            "extra": {file: f"{name}/x{number}" for number, file in enumerate(extra)},
            "env": dict.fromkeys(draw(st.lists(st.from_regex(r"[A-Z_]{1,9}", fullmatch=True), max_size=2)), extra[0]) if extra else {},
        },
        "sudo": draw(st.booleans()),
        "quota": draw(st.sampled_from(["20G", "1M", "1.5T", "2048K"])),
        "devices": [{"subsystem": "usb", "attrs": {"product": value + "x"}} for value in draw(st.lists(LINE, max_size=2)) if not set(value) & set('"\\|[')],
        "prompts": {"extra": draw(PROSE), "tools": draw(st.lists(LINE.filter(lambda tool: "," not in tool), max_size=3)), "settings": draw(st.dictionaries(PROSE.filter(lambda k: k != "permissions"), JSON, max_size=3))},
    }  # fmt: skip


@st.composite
def town(draw: st.DrawFn) -> dict[str, object]:
    store = draw(st.booleans())
    return {
        "domain": draw(st.sampled_from(["signi.local", "a", "x-1.example.org"])),
        "store": draw(st.sampled_from(["file:///srv/store", "s3://agents/a/b?region=eu", "s3://agents"]))
        if store
        else "none",
        "human": {"user": "josh"},
        "btrfs": {"device": draw(st.sampled_from(["/dev/sda1", "LABEL=x y", "38b243a0-c875-4758-8998-cc6c6a4c451e"]))},
        "sync": {
            "every": draw(st.sampled_from(["15min", "1h 30min", "90"])),
            "keep": {"last": draw(st.integers(1, 99))},
        },
        "recipients": TREE["town"]["recipients"],
        "machine": draw(st.text("0123456789abcdef", min_size=32, max_size=32)),
    }


@bounded
@given(st.data())
def test_a_spec_that_is_right_is_accepted_and_what_is_written_and_read_is_equal(data: st.DataObject) -> None:
    made = data.draw(town())
    agents = {
        name: data.draw(agent(name, uid, made["store"] != "none"))
        for uid, name in enumerate(data.draw(st.lists(NAMES, min_size=1, max_size=3, unique=True)), 1000)
    }
    found = outcome(tomlkit.dumps({"town": made, "agents": agents}).encode())
    assert isinstance(found, Spec), found.problems
    assert [(one.name, one.uid, one.description) for one in found.agents] == [
        (name, one["uid"], one["description"]) for name, one in agents.items()
    ]
    assert [one.prompts.settings for one in found.agents] == [one["prompts"]["settings"] for one in agents.values()]


def test_the_odd_values_reach_every_kind_that_toml_has() -> None:
    tree = {"a": [True, 1, 1.5, "x", datetime.date(2026, 1, 1), datetime.time(1), {"b": []}]}
    assert tomllib.loads(toml(tree).decode()) == tree
