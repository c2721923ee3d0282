"""Regular expressions in Go's syntax: the same answers as RE2, in linear time, and clear refusals."""

import re
import time
import warnings
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.scale import times
from town.sops.goregex import BadPattern, GoRegex


@pytest.mark.parametrize(
    ("pattern", "text", "answer"),
    [
        ("^(ssh-key|gpg-key)$", "ssh-key", True),
        ("^(ssh-key|gpg-key)$", "ssh-keys", False),
        ("key", "ssh-key-2", True),
        ("^hosts$", "hosts\n", False),  # Python's $ also matches before a last newline, Go's does not
        ("", "", True),
        ("()*|x", "", True),
        ("a.c", "a\nc", False),
        ("(?s)a.c", "a\nc", True),
        ("(?i)KEY", "ssh-key", True),
        ("((?i)K)EY", "kEY", True),
        ("((?i)K)EY", "key", False),
        ("(?i:K)ey", "key", True),
        ("(?P<name>a)(?<other>b)", "ab", True),
        ("[]a]+$", "x]", True),
        ("[^]a]", "]", False),
        ("[a-]", "-", True),
        (r"[a\-z]", "b", False),
        ("[[a]", "[", True),
        ("[&&|~-]", "&", True),
        (r"[\w.-]+@x{2,3}$", "a-b@xx", True),
        (r"\d", "٣", False),  # Go's classes are ASCII
        (r"\s", "\v", False),
        (r"\S", "\v", True),
        ("x{,2}", "x{,2}", True),  # no repeat in Go, but characters
        ("x{2}$", "xx", True),
        ("^x{2}$", "xxx", False),
        ("^(?:ab){2,}$", "ababab", True),
        (r"\bkey\b", "a key b", True),
        (r"\Bkey", "akey", True),
        (r"\Ax\z", "x", True),
        (r"\x41\.\/", "A./", True),
        ("^(a|b)*?c", "ababc", True),
        ("ü✓", "ü✓", True),
    ],
)
def test_patterns_match_as_in_go(pattern: str, text: str, answer: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert GoRegex(pattern).search(text) is answer


@pytest.mark.parametrize(
    "pattern",
    [
        *(
            "(?=a)",
            "(?!a)",
            "(?<=a)",
            "(?<!a)",
            r"(a)\1",
            "(?P=x)",
            "(?P<a>x)(?P=a)",
            "a*+",
            "a++",
            "a?+",
            "a{1}+",
            "a**",
        ),
        *(r"\C", r"\u1234", r"\Z", r"\N{DASH}"),
        *(
            "(",
            "(a",
            ")",
            "a)",
            "[",
            "[a",
            "[]",
            "*a",
            "|*",
            "a{2,1}",
            "a{1001}",
            "\\",
            "[z-a]",
            "(?#c)a",
            "(?>a)",
            "(?",
        ),
        *("a" * 1001, "((a{1000}){1000}){1000}", "(" * 500),
    ],
)
def test_what_go_does_not_have_is_refused(pattern: str) -> None:
    with pytest.raises(BadPattern):
        GoRegex(pattern)


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|a)*$", "(a*)*b", "(.*)(.*)(.*)(.*)x$", "(a?){50}a{50}$"])
def test_patterns_that_keep_pythons_re_busy_for_years_are_answered_at_once(pattern: str) -> None:
    began = time.monotonic()
    GoRegex(pattern).search("a" * 500 + "!")
    assert time.monotonic() - began < 2


piece = st.sampled_from(["a", "b", ".", "[ab]", "[^a]", "(a|b)", "(?:ab)", "^", "$", r"\b", "x", "(a|)", r"\w"])
pattern = st.lists(st.tuples(piece, st.sampled_from(["", "", "*", "+", "?", "{2}", "{1,2}"])), max_size=6).map(
    lambda parts: "".join(p + (q if p not in ("^", "$", r"\b") else "") for p, q in parts)
)


@settings(max_examples=times(300), deadline=None)
@given(pattern, st.text("abx", max_size=8))
def test_the_answers_are_those_of_python_where_the_two_agree(text_of_pattern: str, text: str) -> None:
    expected = re.search(text_of_pattern, text, re.ASCII) is not None
    assert GoRegex(text_of_pattern).search(text) is expected


@settings(max_examples=times(300), deadline=None)
@given(st.text(r"ab()[]{}*+?|\^$.-:<>=!P,12is&~", max_size=20), st.text("ab-", max_size=8))
def test_no_text_breaks_the_parser(any_text: str, text: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with suppress(BadPattern):
            GoRegex(any_text).search(text)
