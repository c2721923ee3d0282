"""SOPS files, on random trees and random damage: nothing is lost, nothing else changes, nothing ends in a traceback."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.scale import times
from town import sops
from town.sops.nodes import resolve
from town.sops.values import float_text

FIXTURES = Path(__file__).parent.parent / "fixtures" / "sops"
HOST = "age13du3mtpekxl6wrdydf8n23vwqvyypr95qm0cs8zrymeqcv04svlqtmkpt5"
KEYS = sops.Keys.of_age_file(FIXTURES / "keys" / "age-host.txt")
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


def empty() -> sops.Document:
    return sops.load(sops.create({}, [HOST], now=NOW), "f", KEYS)


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
