"""Parsers of verbs: made for the one that was typed, and then like any other of argparse."""

import argparse
import shutil

import pytest

from town import cli, parsers, terminal
from town.failure import WrongUsage


def _program() -> tuple[cli.Parser, dict[str, parsers.Later]]:
    top, verbs = cli.parser("persist", "A test.")
    for name in ("do", "undo"):
        made = cli.verb(verbs, name, lambda _: 0, says=f"{name} it", example=f"persist {name}", agents="*")
        made.add_argument("--rate", type=cli.count, default=3, metavar="N")
        half = made.add_mutually_exclusive_group()
        half.add_argument("--first", action="store_true", help="the first half")
        half.add_argument("--second", action="store_true")
    return top, verbs.choices  # type: ignore[return-value]


def _is_made(verb: parsers.Later) -> bool:
    return "_said" not in vars(verb)


def test_only_the_verb_that_was_typed_gets_a_parser() -> None:
    top, verbs = _program()
    assert not any(map(_is_made, verbs.values()))
    found, unknown = top.parse_known_args(["do", "ada", "--rate", "5", "--second"])
    assert {name for name, verb in verbs.items() if _is_made(verb)} == {"do"}
    assert unknown == []
    assert (found.verb, found.agents, found.rate, found.first, found.second) == ("do", ["ada"], 5, False, True)
    assert found.act(found) == 0


def test_a_default_holds_where_nothing_is_said() -> None:
    found, _ = _program()[0].parse_known_args(["undo"])
    assert (found.agents, found.rate) == ([], 3)


def test_of_two_that_exclude_each_other_the_second_is_refused() -> None:
    with pytest.raises(WrongUsage, match="argument --second: not allowed with argument --first"):
        _program()[0].parse_known_args(["do", "--first", "--second"])


def test_a_word_behind_an_option_finds_its_place() -> None:
    top, verbs = cli.parser("persist", "A test.")
    made = cli.verb(verbs, "account", lambda _: 0, says="do it", example="persist account")
    made.add_argument("do", nargs="?", choices=("list", "open"), default="list")
    made.add_argument("agent", nargs="?")
    made.add_argument("--force", action="store_true")
    for words in (["open", "--force", "ada"], ["open", "ada", "--force"], ["--force", "open", "ada"]):
        found, unknown = top.parse_known_args(["account", *words])
        assert (found.do, found.agent, found.force, unknown) == ("open", "ada", True, []), words
    assert top.parse_known_args(["account", "open", "--force", "ada", "vox"])[1] == ["vox"]
    assert top.parse_known_args(["account", "--no", "open"])[1] == ["--no"]


def test_a_verb_that_nobody_typed_has_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert "[--first | --second]" in _program()[1]["undo"].format_help()
    with pytest.raises(SystemExit):
        _program()[0].parse_known_args(["do", "--help"])
    assert "the first half" in capsys.readouterr().out


def test_what_a_parser_does_not_have_is_an_error() -> None:
    _, verbs = _program()
    with pytest.raises(AttributeError):
        verbs["do"].no_such_thing  # noqa: B018


@pytest.mark.parametrize("said", [None, "", "0", "-3", "61", "x"])
def test_a_help_is_as_wide_as_argparse_would_make_it(monkeypatch: pytest.MonkeyPatch, said: str | None) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    if said is not None:
        monkeypatch.setenv("COLUMNS", said)
    assert terminal.columns() == shutil.get_terminal_size().columns
    usual, ours = (
        argparse.ArgumentParser(prog="p", description="word " * 60, formatter_class=made).format_help()
        for made in (argparse.HelpFormatter, parsers.Help)
    )
    assert ours == usual
