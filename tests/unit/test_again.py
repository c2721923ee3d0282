"""Hints name commands that do what was meant: with sudo's other PATH, with the spec and the words that were typed."""

import argparse
import importlib
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from town import again, cli
from town.failure import Failure

SPEC = "/srv/my town.toml"


def _hint(*words: str, hint: str | Callable[[], str], capsys: pytest.CaptureFixture[str]) -> str:
    """What a command that was typed with `words` says as its hint."""

    def act(_: object) -> int:
        raise Failure("x", hint=hint if isinstance(hint, str) else hint())

    top, verbs = cli.parser("persist", "A test.")
    made = cli.verb(verbs, "rollback", act, says="do it", example="persist rollback", agents="*")
    made.add_argument("--dry-run", action="store_true")
    assert cli.run("persist", top, words) == 1
    return capsys.readouterr().err.splitlines()[1].removeprefix("persist: hint: ")


@pytest.mark.parametrize(
    ("hint", "said"),
    [
        ("persist restore ada", "persist restore --spec '/srv/my town.toml' ada"),
        ("identity secret set ada x", "identity secret --spec '/srv/my town.toml' set ada x"),
        ("run `persist init --store`", "run `persist init --spec '/srv/my town.toml' --store`"),
        ("the agents' homes: persist sync", "the agents' homes: persist sync --spec '/srv/my town.toml'"),
        ("the store's: persist sync", "the store's: persist sync --spec '/srv/my town.toml'"),
        ("persist what is dear", "persist what is dear"),
        ("the identity of ada", "the identity of ada"),
        ("mv 'a persist sync' b", "mv 'a persist sync' b"),
        ("rm /a/'x persist sync'", "rm /a/'x persist sync'"),
        ("mv 'it'\"'\"'s; persist sync' b", "mv 'it'\"'\"'s; persist sync' b"),
        ("mv $'it\\'s persist sync \\n' b", "mv $'it\\'s persist sync \\n' b"),
        ("sudo /opt/bin/persist sync", "sudo /opt/bin/persist sync"),
    ],
)
def test_the_commands_of_a_hint_read_the_spec_that_was_read(
    hint: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _hint("--spec", SPEC, "rollback", hint=hint, capsys=capsys) == said
    assert _hint("rollback", f"--spec={SPEC}", hint=hint, capsys=capsys) == said


def test_a_spec_that_the_environment_names_is_named_and_the_default_one_is_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NUKETOWN_SPEC", "/srv/t")
    assert _hint("rollback", hint="persist sync", capsys=capsys) == "persist sync --spec /srv/t"
    monkeypatch.delenv("NUKETOWN_SPEC")
    assert _hint("rollback", hint="persist sync", capsys=capsys) == "persist sync"
    assert _hint("rollback", "--spec", str(cli.DEFAULT_SPEC), hint="persist sync", capsys=capsys) == "persist sync"


def test_the_commands_of_a_hint_work_where_the_files_were_put(capsys: pytest.CaptureFixture[str]) -> None:
    def hint(prog: str, *words: str) -> str:
        def act(_: object) -> int:
            raise Failure("x", hint="identity gen --all, then identity host init, then persist sync")

        top, verbs = cli.parser(prog, "A test.")
        cli.verb(verbs, "check", act, says="do it", example="x").add_argument("--out")
        assert cli.run(prog, top, words) == 1
        return capsys.readouterr().err.splitlines()[1].partition("hint: ")[2]

    where = "--out '/a b'"
    last = "then identity host init, then persist sync"
    assert hint("identity", "check", "--out", "/a b") == f"identity gen {where} --all, {last}"
    spec = "--spec /srv/t"
    assert hint("identity", "check", "--out=/a b", "--spec", "/srv/t") == (
        f"identity gen {spec} {where} --all, then identity host {spec} init, then persist sync {spec}"
    )
    assert hint("persist", "check", "--out", "/a b") == f"identity gen --all, {last}"  # something else, of its own


def test_what_calls_identity_with_a_spec_that_goes_away_is_what_hints_say(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NUKETOWN_IDENTITY", "nix run .#identity -- --host signi")

    def said(*words: str) -> str:
        def act(_: object) -> int:
            raise Failure("x", hint=f"identity gen 'identity gen', persist sync; {again.as_root('identity', 'host')}")

        top, verbs = cli.parser("identity", "A test.")
        for verb in ("host", "install"):
            made = cli.verb(verbs, verb, act, says="do it", example="x")
            made.add_argument("words", nargs="*")
            made.add_argument("--out")
        assert cli.run("identity", top, ["--spec", "/tmp/private/town.toml", *words]) == 1
        return capsys.readouterr().err.splitlines()[1].partition("hint: ")[2]

    here = "nix run .#identity -- --host signi"
    begins = f"{here} gen 'identity gen', persist sync; sudo {here}"
    assert said("host", "init") == f"{begins} host init"
    assert said("install", "--out", "/a b", "it's") == f"{begins} install 'it'\"'\"'s'"


def test_after_a_command_nothing_of_it_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    _hint("--spec", SPEC, "rollback", hint="x", capsys=capsys)
    assert again.with_spec("persist sync") == "persist sync"
    assert again.as_root("persist", "sync") == "sudo persist sync"


def test_as_root_it_is_the_same_command_line_word_by_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    program = tmp_path / "my bin/persist"
    program.parent.mkdir()
    program.touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["my bin/persist"])

    def as_root() -> str:
        return again.as_root("persist", "rollback")

    words = ["--spec", SPEC, "rollback", "--dry-run", "it's", "$(x)"]
    assert shlex.split(_hint(*words, hint=as_root, capsys=capsys)) == ["sudo", str(program), *words]
    words = ["rollback", "--spec", SPEC]
    assert shlex.split(_hint(*words, hint=as_root, capsys=capsys)) == ["sudo", str(program), *words]
    monkeypatch.setenv("NUKETOWN_SPEC", SPEC)  # sudo drops it
    assert shlex.split(_hint("rollback", hint=as_root, capsys=capsys)) == [
        "sudo", str(program), "--spec", SPEC, "rollback",
    ]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["/somewhere/pytest"])
    assert shlex.split(_hint("rollback", hint=as_root, capsys=capsys))[:4] == [
        "sudo",
        sys.executable,
        "-m",
        "persist.cli",
    ]


@pytest.mark.parametrize("prog", ["persist", "identity"])
def test_every_verb_is_known(prog: str) -> None:
    top = importlib.import_module(f"{prog}.cli").parser()
    verbs = next(action for action in top._actions if isinstance(action, argparse._SubParsersAction))
    assert sorted(verbs.choices) == sorted(again._VERBS[prog].split())


@pytest.mark.root
@pytest.mark.parametrize(("prog", "words"), [("persist", ["rollback", "--dry-run"]), ("identity", ["install", "ada"])])
def test_a_hint_for_nobody_can_be_pasted(tmp_path: Path, prog: str, words: list[str]) -> None:
    from tests import reach

    file = tmp_path / "town.toml"
    file.write_text('[town]\n[town.btrfs]\ndevice = "LABEL=x"\n[agents.ada]\nuid = 51100\n')
    with reach.checkout() as (place, packages), file.open("rb") as spec:
        argv = [reach.PYTHON, "-m", f"{prog}.cli", "--spec", f"/proc/self/fd/{spec.fileno()}", *words]
        done = subprocess.run(
            argv, cwd=place, env=packages, user=65534, group=65534, extra_groups=[], pass_fds=(spec.fileno(),),
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert shlex.split(done.stderr.splitlines()[-1].partition("hint: ")[2]) == ["sudo", *argv]


@pytest.mark.parametrize("prog", ["persist", "identity"])
def test_the_help_has_the_exit_statuses(prog: str) -> None:
    text = " ".join(importlib.import_module(f"{prog}.cli").parser().format_help().split())
    for status in ("0 done", "1 failed", "2 wrong usage", "75 try again later", "78 the spec is wrong"):
        assert status in text
    assert "of status and check also 3 needs attention, 4 does not work" in text
