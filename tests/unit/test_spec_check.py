# ruff: noqa: E501 - a table reads better with its cases close
"""`persist check`: statuses, words, JSON; a broken file never ends in a traceback."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from persist import cli
from tests import reach
from town import process

EXAMPLE = Path(__file__).parent.parent / "fixtures/town.toml"
LEAST = b"[agents.ada]\nuid = 1100\n"
BROKEN = [
    b"", b" ", b"\0", b"\xff", b"\xef\xbb\xbf", b"[", b"]", b"[[", b"=", b"a", b"a=", b"a=1", b"\r", b'"', b"'''", b"[town", b"[agents]", b"agents=1",
    b"agents=[]", b"agents.ada=1", b"[agents.ada]", b"[agents.ada]\nuid=1", b"[agents.ada]\nuid=nan", b"[agents.ada]\nuid=1979-05-27",
    b"a=" + b"[" * 9999, b"a=" + b"9" * 9999, b"a." * 9999 + b"a=1", b"x" * (1 << 20), b"#" * (1 << 21), LEAST + b"persist=[[]]", LEAST + b"persist=['']",
    LEAST + b'persist=["\\u0000"]', LEAST + b"git=1", LEAST + b"git={signing=inf}", LEAST + b"secrets=''", LEAST + b"prompts.settings=1",
    LEAST + b"[agents.ada]\n", LEAST + b"[town]\nstore='s3://['", LEAST + b"[town]\nbtrfs=true", LEAST + b"[agents.'\x1b[2J']\nuid=1101",
    LEAST + b"[agents.\"\\u202e\"]\nuid=1101", LEAST + "[town]\ndomain='é'".encode(),
]  # fmt: skip


def check(file: Path, *options: str) -> int:
    return cli.main(["--spec", str(file), "check", *options])


def test_the_example_is_right_and_said_in_a_few_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert check(EXAMPLE) == 0
    said = capsys.readouterr()
    first, ada, vox = said.out.splitlines()
    assert first.endswith("is right: 2 agents, homes in /agents, data in /persist, store s3://agents/signi")
    assert ada.split()[:3] == ["ada", "uid", "1100"]
    assert "here and in the store: projects, .claude, notes; in the store: scratch/results; here: models (cache)" in ada
    assert vox.split()[:3] == ["vox", "uid", "1101"]
    assert all(line.startswith("persist: note: ") for line in said.err.splitlines())


NOTED = ["agents.ada.sudo", "agents.ada.devices"]


def test_what_is_read_and_not_carried_out_is_noted_and_changes_no_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert check(EXAMPLE) == 0
    lines = capsys.readouterr().err.splitlines()
    assert [line.removeprefix("persist: note: ").partition(": ")[0] for line in lines] == NOTED
    assert check(EXAMPLE, "--json") == 0
    found = json.loads(capsys.readouterr().out)["notes"]
    assert [note["where"] for note in found] == NOTED
    assert lines == [f"persist: note: {note['where']}: {note['what']}" for note in found]


def test_a_town_without_btrfs_is_told_that_no_boot_rolls_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "town.toml").write_bytes(LEAST)
    assert check(tmp_path / "town.toml") == 0
    said = capsys.readouterr()
    assert (
        said.err
        == "persist: note: town.btrfs: is left out: no boot rolls homes back, the first restore of each sets them aside\n"
    )


@pytest.mark.root
def test_a_spec_that_one_may_not_read_asks_for_sudo(tmp_path: Path) -> None:
    file = tmp_path / "town.toml"
    file.write_bytes(LEAST)
    file.chmod(0o600)
    with reach.checkout() as (place, packages):
        away = place.parent / f"{place.name}.toml"
        file.rename(away)
        try:
            argv = [reach.PYTHON, "-m", "persist.cli", "--spec", away, "check"]
            done = process.run(argv, person=process.Person(41100, 41100), env=packages, cwd=place, check=False)
        finally:
            away.unlink()
    assert done.status == 78
    assert done.err.decode().splitlines() == [
        f"persist: error: {away}: cannot be read: Permission denied",
        "persist: hint: run it as root (sudo): this user may not read it",
    ]


def test_json_says_what_is_right(capsys: pytest.CaptureFixture[str]) -> None:
    assert check(EXAMPLE, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["ok"], found["problems"], found["warnings"]) == (True, [], [])
    assert [agent["uid"] for agent in found["agents"]] == [1100, 1101]


def test_every_problem_is_told_with_file_key_and_cure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "town.toml"
    file.write_text("[agents.ada]\nuid = 7\nrol = 'x'\n")
    assert check(file) == 78
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines() == [
        f"persist: error: {file}: agents.ada.uid: 7 is outside 1000-60000",
        "persist: hint: write a number from 1000 to 60000",
        f"persist: error: {file}: agents.ada.rol: is not a key that is known here",
        "persist: hint: did you mean role?",
    ]


def test_json_says_what_is_wrong_with_the_same_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "town.toml"
    file.write_text("[agents.ada]\nuid = 7\n")
    assert check(file, "--json") == 78
    assert json.loads(capsys.readouterr().out) == {
        "ok": False,
        "problems": [
            {"where": "agents.ada.uid", "what": "7 is outside 1000-60000", "cure": "write a number from 1000 to 60000"}
        ],
        "warnings": [],
    }


@pytest.mark.parametrize("data", BROKEN, ids=range(len(BROKEN)))
def test_a_broken_file_ends_with_78_and_words(data: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "town.toml"
    file.write_bytes(data)
    for options in ((), ("--json",), ("--machine",)):
        assert check(file, *options) == 78
        said = capsys.readouterr()
        assert f"persist: error: {file}: " in said.err
        assert "persist: hint: " in said.err
        assert "Traceback" not in said.err
        assert all(line.isprintable() for line in said.err.splitlines())


@pytest.mark.timeout(30)
@pytest.mark.parametrize("kind", ["missing", "directory", "fifo", "/dev/zero", "/dev/null", "/proc/self/mem"])
def test_what_is_no_file_ends_with_78_in_a_process_of_its_own(kind: str, tmp_path: Path) -> None:
    file = Path(kind) if kind.startswith("/") else tmp_path / "town.toml"
    if kind == "directory":
        file.mkdir()
    if kind == "fifo":
        os.mkfifo(file)
    done = subprocess.run(
        [sys.executable, "-m", "persist.cli", "check", "--spec", file], capture_output=True, text=True, check=False
    )
    assert done.returncode == 78
    assert done.stderr.startswith(f"persist: error: {file}: ")
    assert "Traceback" not in done.stderr


@pytest.mark.root
@pytest.mark.parametrize(
    ("mode", "owner", "words"),
    [
        (0o646, (0, 0), "town.toml can be written by everybody"),
        (0o600, (1100, 0), "town.toml belongs to the agent ada"),
        (0o664, (0, 1101), "town.toml can be written by the group of the agent vox"),
    ],
)
def test_a_spec_that_an_agent_can_change_is_a_warning(
    mode: int, owner: tuple[int, int], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "town.toml"
    file.write_bytes(EXAMPLE.read_bytes())
    os.chown(file, *owner)
    file.chmod(mode)
    assert check(file, "--json") == 3
    said = capsys.readouterr()
    (warning,) = json.loads(said.out)["warnings"]
    assert words in warning["what"]
    assert words in said.err
    assert "persist: hint: chown" in said.err


@pytest.mark.root
def test_a_directory_above_the_spec_counts_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "open"
    (folder / "below").mkdir(parents=True)
    (folder / "below/town.toml").write_bytes(EXAMPLE.read_bytes())
    folder.chmod(0o777)
    assert check(folder / "below/town.toml") == 3
    assert f"{folder} can be written by everybody" in capsys.readouterr().err
    folder.chmod(0o1777)
    assert check(folder / "below/town.toml") == 0


def test_a_terminal_without_utf8_gets_every_line(tmp_path: Path) -> None:
    file = tmp_path / "town.toml"
    file.write_bytes(LEAST + 'persist = ["projéts"]'.encode())
    done = subprocess.run(
        [sys.executable, "-m", "persist.cli", "check", "--spec", file],
        capture_output=True, text=True, check=False, env=os.environ | {"PYTHONIOENCODING": "ascii"},
    )  # fmt: skip
    assert done.returncode == 0
    assert "proj\\xe9ts" in done.stdout
