"""The quick way to read a SOPS file reads what the YAML library reads, or nothing."""

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from town import sops
from town.sops import nodes, plainform
from town.sops.errors import BadSopsFile
from town.sops.nodes import Mapping, Scalar, Sequence

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
HUMAN = "age1z2t7huzjfx4wn4w9dull8m0j4q4eh2t3cvsqjwquvuwhjqrgaajsdc2d0w"
FIXTURES = sorted((Path(__file__).parents[1] / "fixtures/sops").rglob("*.yaml"))
ARMOR = "-----BEGIN AGE ENCRYPTED FILE-----\n            YWdl+/Q=\n            -----END AGE ENCRYPTED FILE-----\n"
TEXT = (
    "store-key: ENC[AES256_GCM,data:aa+/,iv:bb==,tag:cc==,type:str]\n"
    'empty: ""\n'
    "sops:\n"
    "    age:\n"
    f"        - enc: |\n            {ARMOR}"
    f"          recipient: {HUMAN}\n"
    f"        - recipient: {HUMAN}\n"
    f"          enc: |\n            {ARMOR}"
    '    lastmodified: "2026-11-21T22:49:15Z"\n'
    "    unencrypted_suffix: _unencrypted\n"
    "    mac_only_encrypted: false\n"
    "    version: 3.13.2\n"
)


def meaning(node: nodes.Node) -> Any:
    """What a node says, with the types of its values and the order of its keys."""
    match node:
        case Scalar():
            return type(node.value).__name__, node.value
        case Sequence():
            return [meaning(item) for item in node.items]
        case Mapping():
            return {str(key.value): meaning(value) for key, value in node.items}, [key.value for key, _ in node.items]


def agree(data: bytes) -> bool:
    """Whether the quick way reads it; then the library must read the same."""
    quick = plainform.read(data)
    if quick is not None:
        assert meaning(quick) == meaning(nodes.parse(data, "file")[1])
    return quick is not None


def test_what_this_program_writes_is_read_quickly() -> None:
    tree = {"store-key": "ab" * 32, "number": "1", "recipients": "a b", "deep": {"one": {"two": "three"}}, "none": ""}
    assert agree(sops.create(tree, [HUMAN], now=NOW))
    assert agree(TEXT.encode())


def test_a_file_that_is_read_quickly_needs_no_yaml_library(tmp_path: Path) -> None:
    import pyrage

    identity = pyrage.x25519.Identity.generate()
    (tmp_path / "key").write_text(str(identity))
    (tmp_path / "file").write_bytes(sops.create({"a": "secret"}, [str(identity.to_public())], now=NOW))
    code = (
        "import sys; from pathlib import Path; from town import sops\n"
        f"keys = sops.Keys.of_age_file(Path({str(tmp_path / 'key')!r}))\n"
        f"data = Path({str(tmp_path / 'file')!r}).read_bytes()\n"
        "print(sops.load(data, 'f', keys).tree, 'ruamel' in ' '.join(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "{'a': 'secret'} False\n"


@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.name)
def test_every_file_of_sops_itself_means_the_same(path: Path) -> None:
    data = path.read_bytes()
    try:
        nodes.parse(data, path.name)
    except BadSopsFile:
        assert plainform.read(data) is None
    else:
        agree(data)


@pytest.mark.parametrize(
    "text",
    [
        "", "a", "a: b", "a: 'b'\n", "a: b \n", "a:\tb\n", "a: b # c\n", "# c\na: b\n", "a: &x b\n", "a: *x\n",
        "a: !!str b\n", "a: b\na: c\n", "a:\n", "a:\nb: c\n", "a: |\n", "a: |\nb: c\n", "a: |-\n  b\n", "a: >\n  b\n",
        "a: |\n  b\n\n",
        "a: |\n   b\n  c\n", "a: |\n    b\n  c: d\n", "a: {b: c}\n", "a: [b]\n", "a:\n- b: c\n", "a:\n  - b\n",
        "a:\n  - b: c\n   d: e\n", "a:\n  - - b: c\n", " a: b\n", "a: b\n c: d\n", "a:\n  b: c\n d: e\n", "a: b\r\n",
        "a: b\n---\nc: d\n", "--- \na: b\n", "a: b\n...\n", "%YAML 1.2\n---\na: b\n", "true: b\n", "null: b\n",
        "a: \"b\\n\"\n",
        "a: 2026-11-1T1:2\n", "a: .inf\n", "a: b: c\n", "a: ENC[x: y]\n", "a: ENC[x] y\n", "a: 'ENC[x]'\n", "- a: b\n",
        "  - a: b\n", "a: é\n", "a: \x85b\n", "<<: b\n", "a: <<\n", "a: \"b\" c\n", "a : b\n", "? a\n: b\n",
        "x:\n  a: |\n  b: c\n",
        "a: |\n\n  b\n", "a: |\n  b\n \n  c\n", f"{'a' * 101}: b\n",
    ],
)  # fmt: skip
def test_any_other_form_is_left_to_the_yaml_library(text: str) -> None:
    assert plainform.read(text.encode()) is None


@pytest.mark.parametrize(
    "text",
    ["a: yes\n", "a: 0x10\n", "a: 010\n", "a: 1.50\n", "a: true\n", "a: null\n", "a: 1e3\n", "a: 3.13.2\n", "a: b-c\n",
     'a: "# no: comment {x} [y] &z *w !v"\n', "a: |\n  b: c\n  - d\n  # e\n\n  ---\nf: g\n", "a: |\n  b   \nc: d\n",
     "a:\n  b:\n    - c: d\n      e: f\n    - c: g\n  h: i\nj: k\n", "y: n\n", "a: 1_000\n",
     "a: 0x1g\n", "a:\n    - b:\n        c: d\n"],
)  # fmt: skip
def test_words_and_layouts_that_it_reads_mean_the_same(text: str) -> None:
    assert agree(text.encode())


def test_a_file_that_is_too_large_or_too_deep_is_left_to_the_yaml_library() -> None:
    assert plainform.read(b"a: b\n" + b"c: d\n" * 60_000) is None
    assert plainform.read("".join(f"{' ' * at}a:\n" for at in range(20)).encode() + b" " * 20 + b"a: b\n") is None
    assert plainform.read("".join(f"a{at}: b\n" for at in range(4001)).encode()) is None


@settings(max_examples=300, deadline=None)
@given(at=st.integers(0, len(TEXT)), gone=st.integers(0, 12), put=st.text(' \n-:|>"#aENC[],=._\t\\1é', max_size=6))
@example(at=0, gone=0, put="")
def test_whatever_is_changed_in_a_file_both_read_the_same(at: int, gone: int, put: str) -> None:
    agree((TEXT[:at] + put + TEXT[at + gone :]).encode())


LINES = ["a: b", "c:", "- d: e", "f: |", "g", '"h"', 'i: "j"', "- k:", "l: ENC[x,y:z]", "", "- m", "n: 1", "  "]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.sampled_from(LINES)), max_size=9))
def test_whatever_lines_stand_together_both_read_the_same(lines: list[tuple[int, str]]) -> None:
    agree("".join(f"{' ' * indent}{line}\n" for indent, line in lines).encode())
