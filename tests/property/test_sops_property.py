"""SOPS files, on random trees and random damage: nothing is lost, nothing else changes, nothing ends in a traceback."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.scale import times
from town import sops
from town.sops import jsontext, shamir
from town.sops.nodes import plain
from town.sops.scalars import resolve
from town.sops.values import float_text

FIXTURES = Path(__file__).parent.parent / "fixtures" / "sops"
ADMIN = "age122tdud7k2y8d4nsmnu8ymmh8x64pv42vya3xr9x59ljeuw2vevgsz6e2xk"
HOST = "age13du3mtpekxl6wrdydf8n23vwqvyypr95qm0cs8zrymeqcv04svlqtmkpt5"
KEYS = sops.Keys.of_age_file(FIXTURES / "keys" / "age-host.txt")
OTHERS = sops.Keys.of_age_file(FIXTURES / "keys" / "age-admin.txt")
NOW, LATER = datetime(2026, 11, 21, 12, tzinfo=UTC), datetime(2026, 11, 22, 12, tzinfo=UTC)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
names = st.one_of(
    texts, st.sampled_from(["y", "no", "null", "~", "1", "0x1", "a: b", "#", "- x", "x_unencrypted", "é", ""])
)
leaves = st.one_of(
    texts,
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
    st.none(),
)
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3), max_leaves=8
)
trees = st.dictionaries(names.filter(lambda name: name != "sops"), values, max_size=4)

parts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/"), min_size=1, max_size=12)
agents = parts.filter(lambda part: part != "sops" and not part.endswith("_unencrypted"))
paths = st.tuples(agents, parts.filter(lambda part: not part.endswith("_unencrypted"))).map("/".join)


@settings(max_examples=times(60), deadline=None)
@given(trees)
def test_what_is_created_is_loaded_again(tree: dict[str, Any]) -> None:
    loaded = sops.load(sops.create(tree, [HOST], now=NOW), "f", KEYS).tree
    assert loaded == tree
    assert repr(loaded) == repr(tree)  # True is not 1, 1.0 is not 1, and the order is the same


def as_json(tree: Any) -> Any:
    """A tree as it is after a file in JSON, where a whole float in clear has become a whole number."""
    return json.loads(json.dumps(tree))


@settings(max_examples=times(60), deadline=None)
@given(trees)
def test_what_is_created_as_json_is_loaded_again_and_laid_out_as_sops_does(tree: dict[str, Any]) -> None:
    data = sops.create(tree, [HOST], now=NOW, name="f.json")
    assert sops.load(data, "f.json", KEYS).tree == as_json(tree)
    assert jsontext.tidied(data.decode(), "f") == data.decode()
    assert list(json.loads(data)) == [*tree, "sops"]


@settings(max_examples=times(60), deadline=None)
@given(
    trees,
    st.booleans(),
    st.sampled_from(["f.yaml", "f.json"]),
    st.sampled_from([(None, None), ([[ADMIN], [HOST]], None), ([[HOST], [ADMIN], [HOST, ADMIN]], 2)]),
)
def test_a_rewrapped_tree_is_the_same_and_keeps_every_byte_that_is_not_about_keys(
    tree: dict[str, Any], fresh: bool, name: str, shared: tuple[list[list[str]] | None, int | None]
) -> None:
    before = sops.load(sops.create(tree, [HOST], now=NOW, name=name), name, KEYS)
    groups, threshold = shared
    after = sops.rewrap(before, [ADMIN, HOST], now=LATER, fresh=fresh, groups=groups, threshold=threshold)
    read = sops.load(after, name, OTHERS | KEYS)
    assert repr(read.tree) == repr(before.tree)
    body = [sops.outline(data, name) for data in (before.data, after)]
    assert fresh or body[0] == body[1]
    back = sops.load(sops.rewrap(read, [HOST], now=LATER, fresh=False, groups=[[HOST]]), name, KEYS)
    assert repr(back.tree) == repr(before.tree)


@settings(max_examples=times(60), deadline=None)
@given(
    st.dictionaries(paths, texts, min_size=1, max_size=6),
    st.data(),
    st.dictionaries(paths, texts, max_size=2),
    st.sampled_from(["f.yaml", "f.json"]),
)
def test_what_is_removed_is_gone_and_the_rest_stays(
    first: dict[str, str], data: st.DataObject, changes: dict[str, str], name: str
) -> None:
    document = sops.load(sops.update(empty(name), first, now=NOW), name, KEYS)
    gone = data.draw(st.lists(st.sampled_from(sorted({*first, *(path.split("/")[0] for path in first)}))))
    after = sops.load(sops.update(document, changes, now=LATER, remove=gone), name, KEYS)
    stays = {
        path: value for path, value in first.items() if not f"{path}/".startswith(tuple(f"{one}/" for one in gone))
    }
    tree: dict[str, dict[str, str]] = {}
    for path, value in (stays | changes).items():
        agent, part = path.split("/")
        tree.setdefault(agent, {})[part] = value
    assert after.tree == tree


@settings(max_examples=times(40), deadline=None)
@given(st.binary(min_size=1, max_size=40), st.integers(2, 8), st.data())
def test_any_shares_that_are_enough_give_the_secret(secret: bytes, parts: int, data: st.DataObject) -> None:
    threshold = data.draw(st.integers(2, parts))
    shares = shamir.split(secret, parts, threshold)
    some = data.draw(st.permutations(shares))[: data.draw(st.integers(threshold, parts))]
    assert shamir.combine(some) == secret


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=10,
)


@settings(max_examples=times(100), deadline=None)
@given(st.dictionaries(texts, json_values, max_size=4), st.booleans(), st.sampled_from([None, 0, 3, "\t"]))
def test_json_is_read_as_other_programs_read_it(tree: dict[str, Any], ascii_only: bool, indent: Any) -> None:
    text = json.dumps(tree, ensure_ascii=ascii_only, indent=indent)
    root = jsontext.parse(text.encode(), "f")[1]
    assert repr(plain(root, "f")) == repr(tree)
    tidied = jsontext.tidied(text, "f")
    assert json.loads(tidied) == tree
    assert jsontext.tidied(tidied, "f") == tidied


@settings(max_examples=times(150), deadline=None)
@given(st.text('{}[]:,"\\u0aeE+-.1tn \n', max_size=20).map(lambda text: '{"a":' + text))
def test_what_is_no_json_is_refused(text: str) -> None:
    try:
        expected = json.loads(text)
    except ValueError:
        expected = None
    try:
        root = jsontext.parse(text.encode(), "f")[1]
    except sops.BadSopsFile:
        return  # more is refused than no JSON: a key that stands twice, a number that is not finite
    assert expected is not None
    assert plain(root, "f") == expected


def kept(before: bytes, after: bytes) -> Iterator[bytes]:
    """The lines of `before` that are not in `after`, but for the two that every change renews."""
    there = set(after.split(b"\n"))
    for line in before.split(b"\n"):
        if line not in there and not line.startswith((b"    mac: ", b"    lastmodified: ")):
            yield line


@settings(max_examples=times(60), deadline=None)
@given(st.dictionaries(paths, texts, max_size=6), st.dictionaries(paths, texts, min_size=1, max_size=4))
def test_an_update_adds_and_sets_and_leaves_every_other_line(first: dict[str, str], changes: dict[str, str]) -> None:
    document = sops.load(sops.update(empty(), first, now=NOW), "f", KEYS)
    after = sops.update(document, changes, now=LATER)
    loaded = sops.load(after, "f", KEYS)
    assert all(loaded.get(path) == value for path, value in (first | changes).items())
    replaced = [path for path, value in changes.items() if path in first and first[path] != value]
    assert len(list(kept(document.data, after))) <= len(replaced)


def empty(name: str = "f") -> sops.Document:
    return sops.load(sops.create({}, [HOST], now=NOW, name=name), name, KEYS)


@settings(max_examples=times(40), deadline=None)
@given(st.dictionaries(paths, texts, min_size=1, max_size=3))
def test_an_update_of_a_file_by_go_sops_leaves_every_other_line(changes: dict[str, str]) -> None:
    before = (FIXTURES / "age-two-recipients.yaml").read_bytes()
    after = sops.update(sops.load(before, "f", KEYS), changes, now=LATER)
    assert list(kept(before, after)) == []
    assert all(sops.load(after, "f", KEYS).get(path) == value for path, value in changes.items())


damage = st.lists(
    st.tuples(
        st.integers(0, 4000),
        st.integers(0, 40),
        st.one_of(
            st.binary(max_size=6),
            st.sampled_from(
                [
                    b"&a ",
                    b"*a",
                    b"!!binary ",
                    b"---\n",
                    b"? ",
                    b": ",
                    b"- ",
                    b"|9\n",
                    b">\n",
                    b"<<: ",
                    b"\n",
                    b"\t",
                    b'"',
                ]
            ),
        ),
    ),
    min_size=1,
    max_size=4,
)
GOOD = [(FIXTURES / name).read_bytes() for name in ("age-two-recipients.yaml", "encrypted-regex.yaml")]
GOOD.append(sops.create(sops.load(GOOD[0], "f", KEYS).tree, [HOST], now=NOW, name="f.json"))


@settings(max_examples=times(150), deadline=None)
@given(st.sampled_from(GOOD), damage)
@example(GOOD[0], [(0, 4000, b"")])
def test_a_damaged_file_is_refused_or_still_says_the_same(good: bytes, edits: list[tuple[int, int, bytes]]) -> None:
    data = good
    for start, removed, added in edits:
        data = data[:start] + added + data[start + removed :]
    try:
        document = sops.load(data, "f", KEYS)
    except (sops.BadSopsFile, sops.NoKey, sops.Tampered):
        return
    # Only what no seal covers (comments, nulls, empty values) can differ: never a secret.
    for path in ("ada/ssh-key", "ada/gpg-key", "vox/ssh-key"):
        assert document.get(path) == sops.load(good, "f", KEYS).get(path)


@settings(max_examples=times(100), deadline=None)
@given(st.binary(max_size=300))
def test_no_bytes_end_in_a_traceback(data: bytes) -> None:
    for text in (data, b"sops:\n" + data, GOOD[0] + data):
        try:
            sops.load(text, "f", KEYS)
        except (sops.BadSopsFile, sops.NoKey, sops.Tampered):
            continue


@settings(max_examples=times(200), deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_float_is_written_without_an_exponent_and_read_back_equal(number: float) -> None:
    text = float_text(number)
    assert "e" not in text.lower()
    assert float(text) == number


@settings(max_examples=times(200), deadline=None)
@given(st.text("+-.0123456789_xXoObBeEaAfFiInN~TZ:<", max_size=12))
def test_every_plain_scalar_is_resolved_or_refused(text: str) -> None:
    try:
        value = resolve(text)
    except ValueError:
        return
    assert value is None or isinstance(value, str | int | float)
