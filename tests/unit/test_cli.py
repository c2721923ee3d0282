"""Options before or after the verb, statuses and words: the same for both commands."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from town import cli
from town.failure import BadSpec, Failure, Problem, TryLater


def _program(act: cli.Verb) -> cli.Parser:
    top, verbs = cli.parser("persist", "A test.")
    cli.verb(verbs, "do", act, says="do it", example="persist do", agents="*")
    return top


def _run(act: cli.Verb, *words: str) -> int:
    return cli.run("persist", _program(act), words)


def _failing(failure: BaseException) -> cli.Verb:
    def act(_: object) -> int:
        raise failure

    return act


def test_the_spec_is_found_before_the_verb_after_it_in_the_environment_else_in_etc(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[Path] = []

    def act(arguments: object) -> int:
        seen.append(cli.spec_file(arguments))  # type: ignore[arg-type]
        return 0

    monkeypatch.delenv("NUKETOWN_SPEC", raising=False)
    _run(act, "--spec", "a", "do")
    _run(act, "do", "--spec", "b")
    _run(act, "do")
    monkeypatch.setenv("NUKETOWN_SPEC", "c")
    _run(act, "do")
    _run(act, "--spec", "d", "do", "ada")
    assert [str(path) for path in seen] == ["a", "b", "/etc/nuketown/town.toml", "c", "d"]


def test_a_failure_is_an_error_line_a_hint_line_and_its_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(_failing(TryLater("the store is away", hint="wait")), "do") == 75
    out, err = capsys.readouterr()
    assert (out, err) == ("", "persist: error: the store is away\npersist: hint: wait\n")


def test_every_problem_of_a_spec_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    problems = (Problem("agents.ada.uid", "is missing", "add uid = 1100"), Problem("line 3", "is odd"))
    assert _run(_failing(BadSpec("town.toml", problems)), "do") == 78
    assert capsys.readouterr().err.splitlines() == [
        "persist: error: town.toml: agents.ada.uid: is missing",
        "persist: hint: add uid = 1100",
        "persist: error: town.toml: line 3: is odd",
    ]


@pytest.mark.parametrize("words", [[], ["nope"], ["do", "--nope"], ["--spec"]])
def test_wrong_usage_is_status_2_without_a_traceback(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(lambda _: 0, *words) == 2
    err = capsys.readouterr().err
    assert err.startswith("persist: error: ")
    assert "Traceback" not in err


def test_an_unexpected_error_has_a_traceback_only_with_debug(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(_failing(RuntimeError("odd\n\x1b[0m")), "do") == 1
    err = capsys.readouterr().err
    assert "persist: error: RuntimeError: odd\\n\\x1b[0m" in err
    assert "Traceback" not in err
    assert _run(_failing(Failure("known")), "do", "--debug") == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_reader_that_went_away_is_no_failure(tmp_path: Path) -> None:
    script = "import sys; from persist import cli; sys.exit(cli.main(['--help']))"
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-c", script], stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("program", ["persist", "identity"])
def test_every_verb_has_a_help_with_an_example(program: str) -> None:
    import argparse
    import importlib

    top = importlib.import_module(f"{program}.cli").parser()
    verbs = next(action for action in top._actions if isinstance(action, argparse._SubParsersAction))
    assert verbs.choices
    for name, made in verbs.choices.items():
        text = made.format_help()
        assert f"example:\n  {program} " in text, name


def test_the_boot_path_imports_nothing_heavy(tmp_path: Path) -> None:
    heavy = "boto3 botocore cryptography gnupg tomlkit ruamel rich zstandard blake3 pyfastcdc"
    spec = Path(__file__).parent.parent / "fixtures" / "town.toml"
    script = (
        "import sys, pathlib, persist.cli, town.spec, persist.restore;"
        f"town.spec.load(pathlib.Path({str(spec)!r}));"
        f"print(*sorted(set({heavy!r}.split()) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True)
    assert done.stdout.split() == []


def test_a_sync_that_finds_nothing_imports_nothing_that_it_does_not_use() -> None:
    heavy = "dataclasses inspect subprocess platform uuid hashlib secrets traceback shutil lzma concurrent boto3"
    spec = Path(__file__).parent.parent / "fixtures" / "town.toml"
    script = (
        "import sys, pathlib, persist.cli, town.spec, persist.sync, persist.sync.marker;"
        "persist.cli.parser().parse_known_args(['sync', 'ada', '--json']);"
        f"town.spec.load(pathlib.Path({str(spec)!r}));"
        f"print(*sorted(set({heavy!r}.split()) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True)
    assert done.stdout.split() == []


def _command(script: str) -> subprocess.CompletedProcess[str]:
    spec = Path(__file__).parent.parent / "fixtures" / "town.toml"
    argv = [
        "bash",
        "-o",
        "pipefail",
        "-c",
        f'"$0" -m persist.cli --spec "$1" check {script}',
        sys.executable,
        str(spec),
    ]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    done.stderr = "".join(line for line in done.stderr.splitlines(True) if not line.startswith("persist: note: "))
    return done


@pytest.mark.parametrize("streams", [">&-", "<&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_standard_stream_is_no_failure(streams: str) -> None:
    done = _command(streams)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_reader_that_goes_away_does_not_end_the_work() -> None:
    done = _command("| true")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_full_disk_behind_standard_output_is_said_once_with_its_cure() -> None:
    done = _command(">/dev/full")
    assert done.stderr.splitlines() == [
        "persist: error: No space left on device",
        "persist: hint: make room there, then run it again: what was begun is finished",
    ]
    assert done.returncode != 0


def test_words_of_the_command_line_are_escaped_in_usage_errors(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(lambda _: 0, "do", "--\x1b[31m\u202e") == 2
    assert "\\x1b[31m\\u202e" in capsys.readouterr().err
