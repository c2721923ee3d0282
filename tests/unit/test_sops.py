"""SOPS files: what Go sops wrote is read, what is written holds what was given, and no damage goes unseen."""

import base64
import logging
import os
import re
import shutil
import subprocess
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pyrage
import pytest
from ruamel.yaml import YAML

from town import sops
from town.sops.scalars import Time, resolve

FIXTURES = Path(__file__).parent.parent / "fixtures" / "sops"
HOST = "age13du3mtpekxl6wrdydf8n23vwqvyypr95qm0cs8zrymeqcv04svlqtmkpt5"
ADMIN = "age122tdud7k2y8d4nsmnu8ymmh8x64pv42vya3xr9x59ljeuw2vevgsz6e2xk"
NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
TREE = {"ada": {"ssh-key": "line 1\nline 2\n", "gpg-key": "ünïcödé ✓"}, "vox": {"ssh-key": "single line"}}


@pytest.fixture
def keys() -> sops.Keys:
    return sops.Keys.of_age_file(FIXTURES / "keys" / "age-host.txt")


def fixture(name: str) -> bytes:
    return (FIXTURES / name).read_bytes()


def plaintext() -> dict[str, Any]:
    return dict(YAML(typ="safe", pure=True).load(fixture("plaintext.yaml")))


def made(keys: sops.Keys, tree: dict[str, Any] = TREE) -> sops.Document:
    return sops.load(sops.create(tree, [HOST], now=NOW), "made.yaml", keys)


@pytest.mark.parametrize(
    "name", ["age-two-recipients.yaml", "age-and-pgp.yaml", "encrypted-regex.yaml", "unencrypted-regex.yaml"]
)
def test_what_go_sops_wrote_is_read(name: str, keys: sops.Keys) -> None:
    assert sops.load(fixture(name), name, keys).tree == plaintext()


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("refuse-duplicate-key.yaml", sops.BadSopsFile, "line 5: the key ada stands twice"),
        ("refuse-no-mac.yaml", sops.BadSopsFile, r"sops\.mac is missing"),
        ("refuse-no-version.yaml", sops.BadSopsFile, r"sops\.version is missing"),
        ("refuse-swapped-values.yaml", sops.Tampered, "ada/ssh-key was changed, or moved"),
        ("refuse-tampered-plain.yaml", sops.Tampered, "seal over the whole file"),
        ("plaintext.yaml", sops.BadSopsFile, "no sops metadata"),
    ],
)
def test_a_file_that_must_be_refused_is_refused_with_the_reason(
    name: str, error: type[Exception], words: str, keys: sops.Keys
) -> None:
    with pytest.raises(error, match=words) as caught:
        sops.load(fixture(name), name, keys)
    assert str(caught.value).startswith(f"{name}: ") or str(caught.value).startswith(f"{name} ")


def test_every_refused_fixture_is_tested() -> None:
    source = Path(__file__).read_text()
    assert all(f'("{file.name}"' in source for file in FIXTURES.glob("refuse-*"))


def test_recipients_are_known_without_a_key() -> None:
    assert sops.recipients_of(fixture("age-two-recipients.yaml"), "f") == (ADMIN, HOST)
    assert sops.recipients_of(fixture("age-and-pgp.yaml"), "f") == (HOST, "9E10F7F9A82E35A49B07963E54DFBA02A1784D17")


def test_what_is_created_is_read_back_by_every_recipient(keys: sops.Keys) -> None:
    data = sops.create(TREE, [HOST, ADMIN, HOST], now=NOW)
    admin = sops.Keys.of_age_file(FIXTURES / "keys" / "age-admin.txt")
    assert sops.load(data, "f", keys).tree == sops.load(data, "f", admin).tree == TREE
    assert sops.recipients_of(data, "f") == (HOST, ADMIN)


def test_no_value_stands_in_clear_in_a_new_file(keys: sops.Keys) -> None:
    text = sops.create(TREE, [HOST], now=NOW).decode()
    assert not any(word in text for word in ("line 1", "ünïcödé", "single"))
    assert made(keys).get("ada/gpg-key") == "ünïcödé ✓"


def test_a_new_file_has_the_layout_of_sops() -> None:
    lines = sops.create({"ada": {"ssh-key": "x"}, "n": ["y"]}, [HOST], now=NOW).decode().splitlines()
    shape = [re.sub(r"ENC\[.*\]", "ENC", line) for line in lines if not re.search(r"^ {12}\S", line)]
    assert shape == [
        "ada:",
        "    ssh-key: ENC",
        '"n":',
        "    - ENC",
        "sops:",
        "    age:",
        "        - enc: |",
        f"          recipient: {HOST}",
        '    lastmodified: "2026-11-21T12:00:00Z"',
        "    mac: ENC",
        "    unencrypted_suffix: _unencrypted",
        "    version: 3.13.2",
    ]


def test_all_types_come_back(keys: sops.Keys) -> None:
    tree = {
        "s": ["", "ENC[AES256_GCM,not really]", "null", " a ", "\0\x7f\ufeff\u2028"],
        "numbers": [0, -1, 2**63 - 1, -(2**63), 1.0, 0.1, 1e21, 2.5e-7, -0.0],
        "others": [True, False, None, {}, [], [[1], {"a": {"b": [{"c": "d"}]}}]],
        "yes": {"1": {"a: b": "#", "": "empty", "~": "x", "é\n": "y"}},
        "clear_unencrypted": {"a": 'to\nbe "seen" \U0001f600', "b": [1, 1.5, True, None, "0777", "2020-01-01", "no"]},
    }
    assert made(keys, tree).tree == tree
    assert 'a: "to\\nbe \\"seen\\" \U0001f600"' in sops.create(tree, [HOST], now=NOW).decode()


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ({"sops": {}}, "reserved"),
        ({"a": float("nan")}, "a is not a finite number"),
        ({"a": {"b": 2**63}}, "a/b is an integer beyond 64 bits"),
        ({"a": b"bytes"}, "a is of type bytes"),
        ({"a": Time("yesterday")}, "a is no time such as"),
        ({1: "x"}, "the tree has a key that is no string"),
        ({"a": {"\ud800": "x"}}, "a has a key that is not valid Unicode"),
        ({"a": "\ud800"}, "a is not valid Unicode"),
        ({"k" * 300: "x"}, "at most 256"),
    ],
)
def test_a_tree_that_cannot_be_stored_is_refused_by_path(tree: dict[Any, Any], words: str) -> None:
    with pytest.raises(sops.BadSopsFile, match=words):
        sops.create(tree, [HOST], now=NOW)


def test_a_tree_that_is_too_deep_is_refused() -> None:
    tree: dict[str, Any] = {}
    for _ in range(5000):
        tree = {"a": tree}
    with pytest.raises(sops.BadSopsFile, match="nested more than"):
        sops.create(tree, [HOST], now=NOW)


def test_a_time_with_another_zone_is_written_in_utc(keys: sops.Keys) -> None:
    data = sops.create(TREE, [HOST], now=datetime(2026, 11, 21, 14, tzinfo=timezone(timedelta(hours=2))))
    assert b'lastmodified: "2026-11-21T12:00:00Z"' in data
    with pytest.raises(ValueError, match="time zone"):
        sops.create(TREE, [HOST], now=datetime(2026, 11, 21))


def test_get_gives_strings_and_never_takes_another_value_for_a_missing_one(keys: sops.Keys) -> None:
    document = sops.load(fixture("age-two-recipients.yaml"), "f.yaml", keys)
    assert document.get("vox/ssh-key") == "single line"
    assert document.get("vox/empty") == ""
    assert [document.get(path) for path in ("vox/none", "nobody/x/y", "vox/nothing")] == [None, None, None]
    for path in ("vox/answer", "vox/hosts", "vox", "vox/answer/deeper", "sops/mac", "", "/vox", "vox/"):
        with pytest.raises(sops.BadSopsFile):
            document.get(path)


def lines_of(data: bytes) -> list[bytes]:
    return [line for line in data.split(b"\n") if not line.startswith((b"    lastmodified:", b"    mac:"))]


LATER = NOW + timedelta(days=1)
GOOD = ["age-two-recipients.yaml", "age-and-pgp.yaml", "encrypted-regex.yaml", "unencrypted-regex.yaml"]


@pytest.mark.parametrize("name", GOOD)
def test_an_update_leaves_every_other_byte(name: str, keys: sops.Keys) -> None:
    before = fixture(name)
    after = sops.update(sops.load(before, name, keys), {"vox/ssh-key": "new", "zoe/ssh-key": "z"}, now=LATER)
    changed = [line for line in lines_of(before) if line not in lines_of(after)]
    added = [line for line in lines_of(after) if line not in lines_of(before)]
    assert len(changed) == 1
    assert changed[0].startswith(b"    ssh-key: ENC[")
    assert [line.split(b":")[0] for line in added] == [b"    ssh-key", b"zoe", b"    ssh-key"]
    expected = plaintext()
    expected["vox"]["ssh-key"] = "new"
    assert sops.load(after, name, keys).tree == expected | {"zoe": {"ssh-key": "z"}}


def test_a_new_agent_stands_at_the_end_before_the_metadata(keys: sops.Keys) -> None:
    after = sops.update(made(keys), {"zoe/ssh-key": "z", "zoe/gpg-key": "g"}, now=LATER)
    tops = re.findall(rb"^\w+(?=:)", after, re.MULTILINE)
    assert tops == [b"ada", b"vox", b"zoe", b"sops"]
    assert b'lastmodified: "2026-11-22T12:00:00Z"' in after


def test_equal_values_change_no_byte(keys: sops.Keys) -> None:
    document = made(keys)
    assert sops.update(document, {"ada/ssh-key": TREE["ada"]["ssh-key"]}, now=LATER) == document.data
    assert sops.update(document, {}, now=LATER) == document.data


def test_comments_stay_where_they_are(keys: sops.Keys) -> None:
    text = made(keys).data.decode()
    text = text.replace("vox:\n", "# about vox\nvox: # the second\n").replace(
        "sops:\n", "    # last of vox\n\n# end\nsops:\n"
    )
    document = sops.load(text.encode(), "f", keys)
    after = sops.update(document, {"vox/gpg-key": "g", "zoe/ssh-key": "z", "ada/ssh-key": "a"}, now=LATER).decode()
    shape = re.sub(r"ENC\[.*?\]", "ENC", after[: after.index("sops:")])
    assert shape == (
        "ada:\n    ssh-key: ENC\n    gpg-key: ENC\n# about vox\nvox: # the second\n    ssh-key: ENC\n    gpg-key: ENC\n"
        "zoe:\n    ssh-key: ENC\n    # last of vox\n\n# end\n"
    )


@pytest.mark.parametrize(
    "layout",
    [
        "ada: {}\nSOPS",
        "ada:\n  ssh-key: ''\n  # c\nSOPS",
        'ada:\n  ssh-key: "" # c\nSOPS',
        "ada:\n  ssh-key:\n  other: null\nSOPS",
        "ada: {ssh-key: , other: ''}\nSOPS",
        "SOPSada:\n      ssh-key: ''\n",
        "SOPS",
        "SOPSada:\n  ssh-key: ''",
        "---\n? ada\n: {other: null}\nSOPS",
        "ada:\r\n    other: ''\r\nSOPS",
        "l:\n- - {}\n- a: ~\n  b: []\nSOPS",
    ],
)
def test_an_update_finds_its_place_in_any_layout(layout: str, keys: sops.Keys) -> None:
    # Nulls, empty strings and empty collections are not part of the MAC: an empty file's metadata fits all of these.
    block = sops.create({}, [HOST], now=NOW).decode()
    document = sops.load(layout.replace("SOPS", block).encode(), "f", keys)
    after = sops.load(sops.update(document, {"ada/ssh-key": "new", "zoe/k": "z"}, now=LATER), "f", keys)
    assert (after.get("ada/ssh-key"), after.get("zoe/k")) == ("new", "z")
    assert {key: value for key, value in after.tree.items() if key not in ("ada", "zoe")} == {
        key: value for key, value in document.tree.items() if key != "ada"
    }


def test_a_layout_that_cannot_be_changed_in_place_is_refused_and_not_spoiled(keys: sops.Keys) -> None:
    block = sops.create({}, [HOST], now=NOW)
    document = sops.load(b"ada: {ssh-key}\n" + block, "f", keys)
    with pytest.raises(sops.BadSopsFile, match="f cannot be changed where it stands") as caught:
        sops.update(document, {"ada/ssh-key": "new"}, now=LATER)
    assert "sops edit" in caught.value.hint


def test_a_literal_block_in_clear_is_replaced_whole(keys: sops.Keys) -> None:
    document = made(keys, {"note_unencrypted": "one\ntwo\n", "z": "z"})
    text = document.data.decode().replace('"one\\ntwo\\n"', "|\n    one\n    two\n\n# after")
    document = sops.load(text.encode(), "f", keys)
    after = sops.update(document, {"note_unencrypted": "three: '#'"}, now=LATER)
    assert after.startswith(b"note_unencrypted: \"three: '#'\"\n\n# after\nz: ENC[")


def test_a_file_in_flow_style_is_updated_too(keys: sops.Keys) -> None:
    tree = YAML(typ="safe", pure=True).load(made(keys).data)
    import json

    document = sops.load(json.dumps(tree).encode(), "f", keys)
    after = sops.update(document, {"ada/ssh-key": "a", "vox/new": "b", "zoe/x": "c"}, now=LATER)
    assert sops.load(after, "f", keys).tree == {
        "ada": {**TREE["ada"], "ssh-key": "a"},
        "vox": {**TREE["vox"], "new": "b"},
        "zoe": {"x": "c"},
    }


def test_a_new_value_that_the_rule_would_leave_in_clear_is_refused(keys: sops.Keys) -> None:
    document = sops.load(fixture("encrypted-regex.yaml"), "f.yaml", keys)
    with pytest.raises(
        sops.WouldBeClear, match=r"f.yaml: ada/anthropic-key would be stored in clear: .*encrypted_regex"
    ):
        sops.update(document, {"ada/anthropic-key": "sk-secret"}, now=LATER)
    with pytest.raises(sops.WouldBeClear):
        sops.update(made(keys), {"ada_unencrypted/ssh-key": "x"}, now=LATER)


def test_a_value_that_is_in_clear_stays_in_clear_under_the_files_rule(keys: sops.Keys) -> None:
    document = sops.load(fixture("encrypted-regex.yaml"), "f.yaml", keys)
    after = sops.update(document, {"vox/note_unencrypted": "new: note", "vox/gpg-key": "secret"}, now=LATER)
    assert b'    note_unencrypted: "new: note"\n    gpg-key: ENC[' in after
    assert sops.load(after, "f", keys).get("vox/gpg-key") == "secret"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ada": "x"}, "ada is a map or a list"),
        ({"ada/ssh-key/deeper": "x"}, "ada/ssh-key is a value"),
        ({"zoe": "x", "zoe/a": "y"}, "zoe is a value"),
        ({"zoe/a": "x", "zoe": "y"}, "zoe is set twice"),
        ({"sops/mac": "x"}, "no path of a secret"),
        ({"ada//x": "x"}, "no path of a secret"),
        ({"ada/x": "\ud800"}, "ada/x is not valid Unicode"),
        ({"ada/\ud800": "x"}, "no path of a secret"),
        ({"ada/" + "x" * 257: "x"}, "no path of a secret"),
    ],
)
def test_an_update_that_does_not_fit_is_refused(changes: dict[str, str], words: str, keys: sops.Keys) -> None:
    with pytest.raises(sops.BadSopsFile, match=words):
        sops.update(made(keys), changes, now=LATER)


def test_mac_only_encrypted_is_read_and_written_back(keys: sops.Keys) -> None:
    # The seed is sha256("sops"); values in clear may then change without the MAC noticing.
    document = made(keys, {})
    text = document.data.decode().replace(
        "    unencrypted_suffix", "    mac_only_encrypted: true\n    unencrypted_suffix"
    )
    with pytest.raises(sops.Tampered, match="seal over the whole"):
        sops.load(text.encode(), "f", keys)
    change = sops.Document("f", {}, (HOST,), text.encode(), document.data_key)
    sealed = sops.update(change, {"ada/ssh-key": "x"}, now=LATER)
    assert sops.load(sealed, "f", keys).get("ada/ssh-key") == "x"
    clear = sealed.replace(b"sops:\n", b"note_unencrypted: anything\nsops:\n")
    assert sops.load(clear, "f", keys).get("note_unencrypted") == "anything"


def test_the_time_of_the_seal_is_taken_as_go_formats_it(keys: sops.Keys) -> None:
    data = made(keys).data
    for text in (b"2026-11-21T12:00:00+00:00", b"2026-11-21T12:00:00-00:00", b"2026-11-21T12:00:00.123456789Z"):
        assert sops.load(data.replace(b"2026-11-21T12:00:00Z", text), "f", keys).tree == TREE
    with pytest.raises(sops.Tampered):  # the same moment, but other bytes
        sops.load(data.replace(b"2026-11-21T12:00:00Z", b"2026-11-21T14:00:00+02:00"), "f", keys)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *[
            ("0777", 511),
            ("0o17", 15),
            ("0x1F", 31),
            ("0b101", 5),
            ("-0x10", -16),
            ("+5", 5),
            ("1_000", 1000),
            ("-0", 0),
        ],
        *[
            ("08", 8.0),
            ("1.50", 1.5),
            (".5", 0.5),
            ("1.", 1.0),
            ("-1e3", -1000.0),
            ("1e", "1e"),
            (".", "."),
            ("1.2.3", "1.2.3"),
        ],
        *[("yes", "yes"), ("n", "n"), ("True", True), ("tRUE", "tRUE"), ("~", None), ("", None), ("nULL", "nULL")],
        *[("-", "-"), ("12:30", "12:30"), ("2020-01", "2020-01"), (".5_0", ".5_0"), ("0b12", "0b12"), ("=", "=")],
    ],
)
def test_plain_scalars_mean_what_gos_yaml_makes_of_them(text: str, value: object) -> None:
    found = resolve(text)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *[("2026-11-21", "2026-11-21T00:00:00Z"), ("2026-1-2", "2026-01-02T00:00:00Z")],
        *[("2026-11-21T12:00:00Z", "2026-11-21T12:00:00Z"), ("2026-11-21t1:2:3+00:00", "2026-11-21T01:02:03Z")],
        *[("2026-11-21T12:00:00.5000-05:30", "2026-11-21T12:00:00.5-05:30")],
        *[("2026-11-21 12:00:00", "2026-11-21T12:00:00Z"), ("2026-11-21 12:00:00.000", "2026-11-21T12:00:00Z")],
    ],
)
def test_dates_without_quotes_are_times_as_for_gos_yaml(text: str, value: str, keys: sops.Keys) -> None:
    found = resolve(text)
    assert (found, type(found)) == (value, Time)
    data = sops.create({"day_unencrypted": Time(value), "k": "v"}, [HOST], now=NOW)
    assert f"day_unencrypted: {value}\n".encode() in data
    assert sops.load(data.replace(value.encode(), text.encode(), 1), "f", keys).tree["day_unencrypted"] == value


@pytest.mark.parametrize("text", ["2026-13-01", "2026-11-21T12:00:00", "2026-11-21 12:00:00Z", "2026-11-21T24:00:00Z"])
def test_dates_that_programs_read_differently_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="an unquoted date"):
        resolve(text)


def flipped(text: str, position: int) -> str:
    """Another character of the same kind, so that the frame stays an ENC[…] as long as it can."""
    old = text[position]
    return text[:position] + ("B" if old != "B" else "C") + text[position + 1 :]


def test_one_changed_byte_in_any_value_is_noticed_and_named(keys: sops.Keys) -> None:
    text = made(keys, {"ada": {"k": "v"}}).data.decode()
    value = re.search(r"ENC\[.*\]", text)
    assert value is not None
    for position in range(*value.span()):
        with pytest.raises(sops.Tampered, match="f: ada/k "):
            sops.load(flipped(text, position).encode(), "f", keys)


def test_one_changed_byte_in_the_mac_or_its_time_is_noticed(keys: sops.Keys) -> None:
    text = made(keys, {"ada": {"k": "v"}}).data.decode()
    mac = re.search(r"(?<=mac: )ENC\[.*\]", text)
    assert mac is not None
    for position in range(*mac.span()):
        with pytest.raises(sops.Tampered, match="seal over the whole file"):
            sops.load(flipped(text, position).encode(), "f", keys)
    with pytest.raises(sops.Tampered, match="seal over the whole file"):
        sops.load(text.replace("12:00:00Z", "12:00:01Z").encode(), "f", keys)


def test_a_removed_added_moved_or_cleared_value_is_noticed(keys: sops.Keys) -> None:
    lines = made(keys, {"a": "1", "b": "2", "l": ["x", "y"]}).data.decode().split("\n")
    attacks = {
        "removed": lines[1:],
        "reordered": [lines[1], lines[0], *lines[2:]],
        "list reordered": [*lines[:3], lines[4], lines[3], *lines[5:]],
        "added in clear": ["c_unencrypted: x", *lines],
        "added": [lines[0].replace("a:", "c:"), *lines],
        "swapped": [lines[0].replace("a:", "b:"), lines[1].replace("b:", "a:"), *lines[2:]],
        "emptied": ['a: ""', *lines[1:]],
        "nulled": ["a: null", *lines[1:]],
        "cleared": ["a: one", *lines[1:]],
        "a number": ["a: 1", *lines[1:]],
    }
    for attack, text in attacks.items():
        with pytest.raises(sops.Tampered):
            print(attack, sops.load("\n".join(text).encode(), "f", keys))


def test_a_value_from_another_file_of_the_same_recipient_is_noticed(keys: sops.Keys) -> None:
    ours, theirs = made(keys, {"a": "1"}).data.split(b"\n"), made(keys, {"a": "2"}).data.split(b"\n")
    with pytest.raises(sops.Tampered, match="f: a was changed"):
        sops.load(b"\n".join([theirs[0], *ours[1:]]), "f", keys)


def test_a_changed_type_gives_an_error_or_a_value_that_reads_the_same(keys: sops.Keys) -> None:
    data = made(keys, {"a": "42"}).data
    for kind in (b"int", b"bool", b"float", b"bytes", b"time", b"comment", b"list"):
        try:
            document = sops.load(data.replace(b"type:str]", b"type:" + kind + b"]", 1), "f", keys)
        except sops.Tampered:
            continue
        assert str(document.tree["a"]).removesuffix(".0") == "42"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("    version: 3.13.2", "    version: 3"), r"sops\.version is not a string"),
        (("    version: 3.13.2", "    version: latest"), r"sops\.version is not of the form"),
        (('"2026-11-21T12:00:00Z"', "2026-11-21T12:00:00Z"), r"sops\.lastmodified is not a string"),
        (('"2026-11-21T12:00:00Z"', '"yesterday"'), r"sops\.lastmodified is not a time"),
        (('"2026-11-21T12:00:00Z"', '"2026-02-31T12:00:00Z"'), r"sops\.lastmodified is not a time"),
        (("    mac: ENC", "    mac: [] # ENC"), r"sops\.mac is not a string"),
        (("    age:\n", "    age: {}\n    kms:\n"), r"has no arn"),
        (("    age:\n", "    ages:\n"), r"sops\.ages is not known"),
        (("    age:\n", "    key_groups:\n"), r"key_groups\[0\]\.enc is not known"),
        (
            ("    unencrypted_suffix: _unencrypted", "    encrypted_comment_regex: x"),
            "encrypted_comment_regex is not supported",
        ),
        (("    unencrypted_suffix", "    encrypted_regex: x\n    unencrypted_suffix"), "one rule at most"),
        (
            ("    unencrypted_suffix: _unencrypted", "    encrypted_regex: '(?=x)'"),
            "encrypted_regex cannot be used: .*RE2",
        ),
        (("    unencrypted_suffix", "    mac_only_encrypted: maybe\n    unencrypted_suffix"), "neither true nor false"),
        (("          recipient: ", "          recipients: "), r"sops\.age\[0\] has no recipient"),
        (("sops:\n", "sops: []\nx:\n"), "sops is not a map"),
        (("sops:\n", "sops: ~\nx:\n"), "sops is not a map"),
    ],
)
def test_metadata_of_the_wrong_form_is_refused_by_key(change: tuple[str, str], words: str, keys: sops.Keys) -> None:
    text = made(keys).data.decode()
    assert change[0] in text
    with pytest.raises(sops.BadSopsFile, match=words):
        sops.load(text.replace(change[0], change[1], 1).encode(), "f", keys)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty"),
        (b" \n\n", "is empty"),
        (b"# only a comment\n", "is empty"),
        (b"\xff\xfe", "not UTF-8"),
        (b"\xef\xbb\xbfa: b\n", "byte order mark"),
        (b"a: " + b"x" * (4 << 20), "larger than"),
        (b"- a\n", "top level is not a map"),
        (b"just text\n", "top level is not a map"),
        (b"a: &x 1\nb: 2\n", "line 1: anchors"),
        (b"a: 1\nb: *x\n", "line 2: aliases"),
        (b"a: !!python/object:os.system x\n", "line 1: tags"),
        (b"a: !!str x\n", "line 1: tags"),
        (b"%YAML 1.1\n---\na: b\n", "directive"),
        (b"a: b\n---\nc: d\n", "second YAML document"),
        (b"1: b\n", "line 1: a key is not a string"),
        (b"null: b\n", "line 1: a key is not a string"),
        (b"[a]: b\n", "line 1: a key is not a string"),
        (b"a: {b: 1, b: 2}\n", "the key b stands twice"),
        (b"<<: {a: b}\n", "merge keys"),
        (b"a: .nan\n", "not finite"),
        (b"a: -.INF\n", "not finite"),
        (b"a: 1e999\n", "not finite"),
        (b"a: 9223372036854775808\n", "beyond 64 bits"),
        (b"a: 2020-01-01T12:00\n", "unquoted date in this form"),
        (b"a: 2020-02-30\n", "no calendar"),
        (b"2020-01-01: b\n", "a key is not a string"),
        (b"a: " + b"9" * 5000, "400 digits"),
        (b"a: 'cut off", "line 1 is not valid YAML"),
        (b"a:\n  - b\n c: d\n", "is not valid YAML"),
        (b"a: \x01\n", "is not valid YAML"),
        (b'a: "\\UFFFFFFFF"\n', "is not valid YAML"),
        (b"[" * 10_000, "nested more than"),
        (b"a: " + b"{b: " * 200, "nested more than"),
        (b"".join(b"k%d: v\n" % number for number in range(11_000)), "more than 20,000"),
    ],
)
def test_a_broken_or_hostile_file_is_refused_in_words(data: bytes, words: str, keys: sops.Keys) -> None:
    with pytest.raises(sops.BadSopsFile, match=words) as caught:
        sops.load(data, "f\x1b[31m", keys)
    assert "f\\x1b[31m" in str(caught.value)
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize("size", [0, 16, 31, 33, 64])
def test_a_data_key_of_the_wrong_size_opens_nothing(size: int, keys: sops.Keys) -> None:
    to = pyrage.x25519.Recipient.from_str(HOST)
    enc = pyrage.encrypt(b"k" * size, [to], armored=True).decode()
    with pytest.raises(sops.NoKey):
        sops.load(with_enc(made(keys).data, enc), "f", keys)


def with_enc(data: bytes, enc: str, recipient: str = HOST) -> bytes:
    """The file with another age entry."""
    body = "".join(f"            {line}\n" for line in enc.strip().split("\n"))
    entry = f"        - enc: |\n{body}          recipient: {recipient}\n"
    return re.sub(rb"        - enc: \|\n(            .*\n)+          recipient: .*\n", entry.encode(), data, count=1)


@pytest.mark.parametrize("part", ["iv", "tag", "data"])
@pytest.mark.parametrize("text", ["AAAA", "!!!!", "A", "=", base64.b64encode(b"x" * 1000).decode()])
def test_parts_of_the_wrong_size_or_form_are_tampering(part: str, text: str, keys: sops.Keys) -> None:
    data = re.sub(rf"(?<={part}:)[^,]*".encode(), text.encode(), made(keys, {"a": "v"}).data, count=1)
    with pytest.raises(sops.Tampered, match="f: a was changed"):
        sops.load(data, "f", keys)


def test_a_tag_whose_first_byte_moved_into_the_data_is_tampering(keys: sops.Keys) -> None:
    data = made(keys, {"a": "value"}).data.decode()
    found = re.search(r"data:([^,]*),iv:[^,]*,tag:([^,]*)", data)
    assert found is not None
    sealed, tag = (base64.b64decode(part) for part in found.groups())
    moved = data.replace(found[1], base64.b64encode(sealed + tag[:1]).decode(), 1)
    moved = moved.replace(found[2], base64.b64encode(tag[1:]).decode(), 1)
    with pytest.raises(sops.Tampered, match="f: a was changed"):
        sops.load(moved.encode(), "f", keys)


def test_a_file_with_hundreds_of_recipients_is_refused_before_any_is_tried(keys: sops.Keys) -> None:
    data = made(keys).data
    entry = b"        - {created_at: '2026-11-21T12:00:00Z', enc: x, fp: y}\n"
    with pytest.raises(sops.BadSopsFile, match="more than 256 recipients"):
        sops.load(data.replace(b"sops:\n", b"sops:\n    pgp:\n" + entry * 256), "f", keys)


def test_no_message_and_no_text_of_an_object_shows_a_secret(keys: sops.Keys) -> None:
    document = made(keys, {"ada": {"k": "TOPSECRET"}, "note_unencrypted": "TOPSECRET"})
    private = (FIXTURES / "keys" / "age-host.txt").read_text().split()[-1]
    texts = [repr(document), str(document), repr(keys), repr(keys.secrets), f"{keys}"]
    for data in (
        document.data.replace(b'"TOPSECRET"', b"'TOPSECRET\n\n"),
        document.data.replace(b'"TOPSECRET"', b"TOPSECRET: TOPSECRET"),
        document.data.replace(b'"TOPSECRET"', b"TOPSECRET!"),
        document.data.replace(b'"TOPSECRET"', b"&TOPSECRET *TOPSECRET"),
    ):
        with pytest.raises((sops.BadSopsFile, sops.Tampered)) as caught:
            sops.load(data, "f", keys)
        error: BaseException | None = caught.value
        while error is not None:
            texts += [str(error), repr(error), getattr(error, "hint", "")]
            error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    assert not [text for text in texts if "TOPSECRET" in text or private in text]


def test_heavy_libraries_are_not_loaded_before_they_are_needed() -> None:
    code = (
        "import sys, town.sops; print([m for m in ('ruamel', 'cryptography', 'pyrage', 'gnupg') if m in sys.modules])"
    )
    done = subprocess.run(
        [shutil.which("python3") or "python3", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(sops.__file__).parents[2])},
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_nothing_is_logged(keys: sops.Keys, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        made(keys)
    assert caplog.records == []


def test_the_age_program_opens_what_is_written(tmp_path: Path) -> None:
    """A second implementation: `age` unwraps the data key, and it opens the value."""
    subprocess.run(["age-keygen", "-o", tmp_path / "key"], check=True, capture_output=True)
    recipient = re.findall(r"age1\w+", (tmp_path / "key").read_text())[0]
    data = sops.create({"a": "v"}, [recipient], now=NOW)
    enc = YAML(typ="safe", pure=True).load(data)["sops"]["age"][0]["enc"]
    opened = subprocess.run(["age", "-d", "-i", tmp_path / "key"], input=enc.encode(), capture_output=True, check=True)
    assert opened.stdout == sops.load(data, "f", sops.Keys.of_age_file(tmp_path / "key")).data_key
