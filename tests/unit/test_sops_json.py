"""SOPS files in JSON: read as sops reads them, and written to the letter as sops writes them."""

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.unit.gnupghome import gnupg_home
from town import sops
from town.sops import jsontext
from town.sops.nodes import plain

FIXTURES = Path(__file__).parent.parent / "fixtures" / "sops"
HOST = "age13du3mtpekxl6wrdydf8n23vwqvyypr95qm0cs8zrymeqcv04svlqtmkpt5"
ADMIN = "age122tdud7k2y8d4nsmnu8ymmh8x64pv42vya3xr9x59ljeuw2vevgsz6e2xk"
NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
LATER = NOW + timedelta(days=1)
TREE: dict[str, Any] = {"ada": {"ssh-key": "one\ntwo\n", "n": 1}, "vox": {"list": ["a", {"b": True}], "none": None}}


@pytest.fixture
def keys() -> sops.Keys:
    return sops.Keys.of_age_file(FIXTURES / "keys" / "age-host.txt")


def created(tree: dict[str, Any]) -> bytes:
    return sops.create(tree, [HOST], now=NOW, name="f.json")


def made(keys: sops.Keys, tree: dict[str, Any] = TREE) -> sops.Document:
    return sops.load(created(tree), "f.json", keys)


def test_what_go_sops_wrote_is_read_and_laid_out_as_it_was() -> None:
    data = (FIXTURES / "upstream" / "format.json").read_bytes()
    with gnupg_home(FIXTURES / "upstream" / "functional-tests.asc") as home:
        document = sops.load(data, "format.json", sops.Keys.of_gnupg_home(home))
    assert document.tree == {"foo": "bar"}
    assert jsontext.tidied(data.decode(), "f").encode() == data
    after = sops.update(document, {"ada/ssh-key": "<new>"}, now=LATER).splitlines()
    gone = [line for line in data.splitlines() if line not in after]
    assert [line.split(b'": ')[0] for line in gone] == [b'\t\t"lastmodified', b'\t\t"mac']
    assert after[2:5:2] == [b'\t"ada": {', b"\t},"]


def test_a_new_file_has_the_layout_of_sops() -> None:
    text = re.sub(
        r"ENC\[[^]]*\]|-----BEGIN.*-----\\n", "X", created({"ada": {"k": "v", "e": {}}, "l": ["a", []]}).decode()
    )
    lines = [
        *["{", '1"ada": {', '2"k": "X",', '2"e": {}', "1},", '1"l": [', '2"X",', "2[]", "1],"],
        *['1"sops": {', '2"age": [', "3{", '4"enc": "X",', f'4"recipient": "{HOST}"', "3}", "2],"],
        *['2"lastmodified": "2026-11-21T12:00:00Z",', '2"mac": "X",', '2"unencrypted_suffix": "_unencrypted",'],
        *['2"version": "3.13.2"', "1}", "}"],
    ]
    assert text == "".join(re.sub(r"^\d", lambda depth: "\t" * int(depth[0]), line) + "\n" for line in lines)


def test_all_types_come_back(keys: sops.Keys) -> None:
    tree = {
        "s": ["", "ENC[AES256_GCM,not really]", "null", " a ", "\0\x7f\ufeff\u2028<&>\U0001f600"],
        "numbers": [0, -1, 2**63 - 1, -(2**63), 1.5, 0.1, 1e21, 2.5e-7],
        "others": [True, False, None, {}, [], [[1], {"a": {"b": [{"c": "d"}]}}]],
        "keys": {"1": {"a: b": "#", "": "empty", "~": "x", 'é\n"\\': "y"}},
        "clear_unencrypted": {"a": 'to\nbe "seen" \U0001f600\u2029', "b": [1, 1.5, 1e21, 1e-7, True, None, "0777"]},
    }
    document = made(keys, tree)
    assert repr(document.tree) == repr(tree)
    assert json.loads(document.data)["clear_unencrypted"] == tree["clear_unencrypted"]


def test_a_whole_float_in_clear_is_a_whole_number_as_with_sops(keys: sops.Keys) -> None:
    document = made(keys, {"x_unencrypted": [1.0, 1e20, -0.0], "y": 1.0})
    assert b'"x_unencrypted": [\n\t\t1,\n\t\t100000000000000000000,\n\t\t-0.0\n\t]' in document.data
    assert document.tree["y"] == 1.0
    assert document.tree["x_unencrypted"] == [1, 1e20, 0]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *[(1e21, "1e+21"), (1e-6, "0.000001"), (1.5e-7, "1.5e-7"), (1e-10, "1e-10"), (123456789.125, "123456789.125")],
        *[(5e-324, "5e-324"), (1.7976931348623157e308, "1.7976931348623157e+308"), (-2.5e-9, "-2.5e-9"), (0.0, "0")],
    ],
)
def test_floats_are_written_as_gos_json_writes_them(value: float, text: str) -> None:
    assert jsontext.number(value) == text
    assert json.loads(text) == value


def test_strings_are_written_as_gos_json_writes_them() -> None:
    text = jsontext.block({'"\\\b\f\n\r\t\0\x1f\x7f<>&\u2028\u2029é\U0001f600': "x"})
    assert text == (
        '{\n\t"\\"\\\\\\b\\f\\n\\r\\t\\u0000\\u001f\x7f\\u003c\\u003e\\u0026\\u2028\\u2029é\U0001f600": "x"\n}\n'
    )


def test_an_update_sets_adds_and_removes_and_every_other_line_stays(keys: sops.Keys) -> None:
    document = made(keys)
    changes = {"ada/ssh-key": "new", "ada/gpg-key": "g", "zoe/a/b": "z"}
    after = sops.update(document, changes, now=LATER, remove=["ada/n", "vox/list"])
    assert sops.load(after, "f.json", keys).tree == {
        "ada": {"ssh-key": "new", "gpg-key": "g"},
        "vox": {"none": None},
        "zoe": {"a": {"b": "z"}},
    }
    assert jsontext.tidied(after.decode(), "f") == after.decode()
    assert list(json.loads(after)) == ["ada", "vox", "zoe", "sops"]
    assert json.loads(after)["sops"]["age"] == json.loads(document.data)["sops"]["age"]
    assert sops.update(document, {"ada/ssh-key": "one\ntwo\n"}, now=LATER, remove=["nobody"]) == document.data


@pytest.mark.parametrize("fresh", [False, True])
def test_json_is_rewrapped_too(fresh: bool, keys: sops.Keys) -> None:
    document = made(keys)
    after = sops.rewrap(document, [ADMIN], now=LATER, fresh=fresh)
    admin = sops.Keys.of_age_file(FIXTURES / "keys" / "age-admin.txt")
    read = sops.load(after, "f.json", admin)
    assert read.tree == document.tree
    assert jsontext.tidied(after.decode(), "f") == after.decode()
    before, now = json.loads(document.data), json.loads(after)
    same = [before[name] == now[name] for name in ("ada", "vox")]
    assert same == [not fresh, not fresh]
    assert (before["sops"]["mac"] == now["sops"]["mac"]) is not fresh


def test_one_changed_byte_in_any_value_is_noticed_and_named(keys: sops.Keys) -> None:
    text = made(keys, {"ada": {"k": "v"}}).data.decode()
    value = re.search(r"ENC\[[^]]*\]", text)
    assert value is not None
    for position in range(*value.span()):
        changed = text[:position] + ("B" if text[position] != "B" else "C") + text[position + 1 :]
        with pytest.raises(sops.Tampered, match=r"f\.json: ada/k "):
            sops.load(changed.encode(), "f.json", keys)


def test_the_name_says_how_a_file_is_read_and_else_its_text(keys: sops.Keys) -> None:
    data = created(TREE)
    assert sops.load(data, "secrets", keys).tree == TREE
    flow = sops.update(sops.load(b" " + data.replace(b"\t", b""), "f.yaml", keys), {"ada/n2": "x"}, now=LATER)
    assert flow.startswith(b' {\n"ada": {\n')  # YAML in flow style: changed in place, not laid out
    assert sops.load(flow, "f.yaml", keys).get("ada/n2") == "x"
    yaml = sops.create(TREE, [HOST], now=NOW)
    with pytest.raises(sops.BadSopsFile, match=r"f\.json: line 1: the top level is not a map"):
        sops.load(yaml, "f.json", keys)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("[]", "top level is not a map"),
        ('"a"', "top level is not a map"),
        ('{"a": 1', "line 1: this is not valid JSON"),
        ('{"a": 1}}', "something follows the object"),
        ('{"a": 1}\n{"b": 2}', "line 2: something follows the object"),
        ('{"a": 1,}', "not valid JSON"),
        ('{,"a": 1}', "not valid JSON"),
        ('{"a" 1}', "not valid JSON"),
        ('{"a":: 1}', "not valid JSON"),
        ('{"a": }', "not valid JSON"),
        ('{"a": [1,]}', "not valid JSON"),
        ('{"a": [1 2]}', "not valid JSON"),
        ('{"a": [1}', "not valid JSON"),
        ("{a: 1}", "not valid JSON"),
        ("{1: 1}", "not valid JSON"),
        ("{'a': 1}", "not valid JSON"),
        ('{"a": 01}', "not valid JSON"),
        ('{"a": +1}', "not valid JSON"),
        ('{"a": .5}', "not valid JSON"),
        ('{"a": 1.}', "not valid JSON"),
        ('{"a": NaN}', "not valid JSON"),
        ('{"a": nullx}', "not valid JSON"),
        ('{"a": "\n"}', "not valid JSON"),
        ('{"a": "\\x41"}', "not valid JSON"),
        ('{"a": "\\ud800"}', "not valid Unicode"),
        ('{"a": 1e999}', "not finite"),
        ('{\n"a": 1,\n"a": 2}', "line 3: the key a stands twice"),
        ("// c\n{}", "top level is not a map"),
        ("\ufeff{}", "byte order mark"),
        ('{"a": ' + "[" * 5000, "nested more than"),
        ('{"a": [' + "1," * 30_000 + "1]}", "more than 20,000"),
        ('{"a": "b"}', "no sops metadata"),
        ('{"sops": 1}', "sops is not a map"),
    ],
)
def test_a_broken_or_hostile_file_is_refused_in_words(text: str, words: str, keys: sops.Keys) -> None:
    with pytest.raises(sops.BadSopsFile, match=words):
        sops.load(text.encode(), "f.json", keys)


def test_no_message_shows_what_stands_in_the_file(keys: sops.Keys) -> None:
    text = created({"note_unencrypted": "TOPSECRET"}).decode()
    for damage in ('"TOPSECRET" "TOPSECRET"', '"TOPSECRET', "TOPSECRET", '"TOPSECRET\x01"', '"TOPSECRET!"'):
        with pytest.raises((sops.BadSopsFile, sops.Tampered)) as caught:
            sops.load(text.replace('"TOPSECRET"', damage).encode(), "f.json", keys)
        assert "TOPSECRET" not in f"{caught.value} {caught.value.hint} {caught.value.__cause__}"


def test_what_is_read_is_what_the_json_of_python_reads() -> None:
    text = '{"a": [1, -0, 1.5e3, true, null, "\\u00e9\\ud83d\\ude00\\/"], "b": {"": {}}, "c": -9007199254740993}'
    assert plain(jsontext.parse(text.encode(), "f")[1], "f") == json.loads(text)
