"""Names that somebody else chose cannot act on the terminal, and what is offered for pasting can be pasted."""

import subprocess
import tomllib

from hypothesis import example, given
from hypothesis import strategies as st

from town import terminal

HOSTILE = b"a\nb\x1b[31m\x00\x7f\xff\xe2\x80\xae\xe2\x80\x8b\xc2\x85 ' \" \\ $(x)"


def test_control_bidi_and_stray_bytes_are_escaped() -> None:
    assert terminal.shown(HOSTILE) == "a\\nb\\x1b[31m\\x00\\x7f\\xff\\u202e\\u200b\\u0085 ' \" \\\\ $(x)"


def test_ordinary_names_stay_as_they_are() -> None:
    for name in ("projects", "Ünïcødé", "日本", "a b", "~x", "[1]"):
        assert terminal.shown(name) == name


@given(st.binary(max_size=40), st.binary(max_size=40))
@example(b"\\n", b"\n")
@example(b"\xff", b"\\xff")
@example(b"\xc2\x80", b"\x80")
def test_two_different_names_never_look_the_same(one: bytes, other: bytes) -> None:
    assert (terminal.shown(one) == terminal.shown(other)) == (one == other)


@given(st.binary(max_size=40))
@example(HOSTILE)
def test_a_shown_name_is_one_printable_line(name: bytes) -> None:
    shown = terminal.shown(name)
    assert shown.isprintable()
    assert "\n" not in shown


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_a_toml_string_reads_back(text: str) -> None:
    assert tomllib.loads(f"x = {terminal.toml_string(text)}")["x"] == text


def test_a_shell_word_reads_back() -> None:
    names = [
        HOSTILE.replace(b"\0", b""),
        b"plain",
        b"it's",
        b"",
        b"-n",
        b"\xff",
        b"a b",
        "日本".encode(),
        b"\n",
        b"\\",
        b"\xc2\x85",
    ]
    script = " ".join(["printf '%s\\0'", *(terminal.shell_word(name) for name in names)])
    assert "\n" not in script
    done = subprocess.run(["bash", "-c", script], capture_output=True, check=True)
    assert done.stdout.split(b"\0")[:-1] == names


def test_sizes_read_as_a_person_reads_them() -> None:
    assert [terminal.size(n) for n in (0, 999, 1000, 1_234_567, 5 * 10**12)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "1.2 MB",
        "5.0 TB",
    ]


def test_what_is_invisible_is_escaped_for_reading_and_for_pasting() -> None:
    for character in "\u3164\u2800\ufe0f\U000e0100\u00a0\u200b\u202e":
        assert character not in terminal.shown(f"a{character}")
        assert character not in terminal.toml_string(f"a{character}")
        assert tomllib.loads(f"x = {terminal.toml_string(character)}")["x"] == character
