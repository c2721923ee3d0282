"""One recipient more or less in a .sops.yaml that a person wrote: every other byte stays."""

import difflib
import re

import pytest

from identity.lists import Unforeseen
from identity.ruletext import Rule

A = "age122tdud7k2y8d4nsmnu8ymmh8x64pv42vya3xr9x59ljeuw2vevgsz6e2xk"
B = "age13du3mtpekxl6wrdydf8n23vwqvyypr95qm0cs8zrymeqcv04svlqtmkpt5"
NEW = "age165v32u9sayu63l7282jf05vkcecydxmpgcvrtay84j8mfysmq36sgj6pvy"
PGP = "9E10F7F9A82E35A49B07963E54DFBA02A1784D17"

LAYOUTS = {
    "a string": f"creation_rules:\n  - path_regex: a$\n    age: {A},{B}  # both\n  - age: {A}\n",
    "a quoted string": f"creation_rules:\n- age: '{A}, {B}'\n  path_regex: \"\"\n",
    "a folded string": f"creation_rules:\n  - path_regex: a$\n    age: >-\n      {A},\n      {B}\n\n    # next\n"
    f"  - pgp: {PGP}\n",
    "a list": f"keys:\n  - &josh {A} # the person\n  - &signi {B}\n\ncreation_rules:\n"
    "  - path_regex: a$\n    key_groups:\n    - age:\n      - *josh\n      - *signi # the machine\n      pgp:\n"
    f"      - {PGP}\n  - path_regex: b$\n    key_groups:\n    - age: [*josh]\n",
    "a list in brackets": f"creation_rules:\r\n  - {{path_regex: a$, age: [ {A} , '{B}' ]}}\r\n",
    "lines in brackets": f"creation_rules:\n  - age: [\n      {A}, # josh\n      {B}\n    ]\n    path_regex: a$\n",
    "an empty key": f"creation_rules:\n  - path_regex: a$\n    pgp: '{PGP}'\n    age:\n",
    "no line break at the end": f"creation_rules:\n  - age:\n      - {A}\n      - {B}",
}  # fmt: skip


@pytest.fixture(params=LAYOUTS.values(), ids=LAYOUTS.keys())
def rule(request: pytest.FixtureRequest) -> Rule:
    return Rule(request.param, ".sops.yaml", 0)


def _lost(old: str, new: str) -> str:
    blocks = difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
    return re.sub(r"[\s,]", "", "".join(old[i:j] for tag, i, j, _, _ in blocks if tag in ("delete", "replace")))


@pytest.mark.parametrize("new", [NEW, "A" * 40, "1234567890" * 4])
def test_one_more_is_named_and_nothing_else_is_different(rule: Rule, new: str) -> None:
    made = Rule(rule.with_recipient(new), rule.name, 0)
    assert set(made.recipients) == {*rule.recipients, new}
    assert _lost(rule.text, made.text) == ""


def test_who_was_put_in_is_taken_out_again(rule: Rule) -> None:
    made = Rule(rule.with_recipient(NEW), rule.name, 0)
    back = made.without(NEW)
    assert _bare(back) == _bare(rule.text)


def _bare(text: str) -> str:
    """Without spaces, the comma behind a last item, and a key that names nobody: those may be left."""
    return re.sub(r",(?=[\]#])|age:(\"\")?$", "", re.sub(r"\s", "", text))


def test_each_of_them_can_be_taken_out_and_nothing_else_is_different(rule: Rule) -> None:
    for gone in rule.recipients if len(rule.recipients) > 1 else ():
        made = Rule(rule.without(gone), rule.name, 0)
        assert set(made.recipients) == {*rule.recipients} - {gone}
        assert rule.text.count(gone) - made.text.count(gone) in (0, 1)  # an alias names what stands elsewhere
        assert not _lost(made.text, rule.text).replace('""', "")


def test_one_that_stands_twice_is_taken_out_twice() -> None:
    rule = Rule(f"creation_rules:\n  - age: [{A}, {B}, {A}]\n    path_regex: a$\n", "x", 0)
    assert rule.without(A) == f"creation_rules:\n  - age: [{B}]\n    path_regex: a$\n"


SEVERAL_GROUPS = f"creation_rules:\n  - key_groups:\n    - age: [{A}]\n    - age: [{B}]\n"
SHARED_LIST = f"all: &all\n  - {A}\n  - {B}\ncreation_rules:\n  - age: *all\n  - age: *all\n    path_regex: b\n"
TWO_IN_ONE = f"creation_rules:\n  - age: ['{A},{B}']\n"


@pytest.mark.parametrize("text", [SEVERAL_GROUPS, SHARED_LIST])
def test_a_rule_whose_change_would_mean_something_else_is_left_alone(text: str) -> None:
    """Which of the groups somebody joins is not said; what an alias stands for is other rules' too."""
    with pytest.raises(Unforeseen):
        Rule(text, "x", 0).with_recipient(NEW)
    with pytest.raises(Unforeseen):
        Rule(text, "x", 0).without(A)


def test_two_in_one_string_of_a_list_are_not_taken_apart() -> None:
    with pytest.raises(Unforeseen):
        Rule(TWO_IN_ONE, "x", 0).without(A)
    assert set(Rule(Rule(TWO_IN_ONE, "x", 0).with_recipient(NEW), "x", 0).recipients) == {A, B, NEW}
