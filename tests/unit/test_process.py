"""The door to other programs: a small environment, clear failures, nothing secret in sight."""

import os

import pytest

from town import process
from town.failure import ToolFailed, ToolMissing


def test_a_program_sees_only_the_environment_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_DIR", "/elsewhere")
    monkeypatch.setenv("LD_PRELOAD", "")
    out = process.run(["env"], env={"HOME": "/h"}).out.decode().split()
    names = {line.split("=")[0] for line in out}
    assert "HOME" in names
    assert not names & {"GIT_DIR", "LD_PRELOAD"}


def test_a_secret_goes_in_by_a_pipe_and_its_bytes_come_back_whole() -> None:
    secret = os.urandom(1 << 20)
    assert process.run(["cat"], feed=secret).out == secret


def test_a_missing_program_is_named_with_its_package() -> None:
    with pytest.raises(ToolMissing) as caught:
        process.run(["no-such-program-here"])
    assert "no-such-program-here" in caught.value.what
    assert "apt install" in caught.value.hint


def test_a_missing_folder_is_not_taken_for_a_missing_program() -> None:
    with pytest.raises(ToolFailed, match="no/such/folder"):
        process.run(["true"], cwd="/no/such/folder")


def test_a_failing_program_is_quoted_with_its_bytes_escaped() -> None:
    with pytest.raises(ToolFailed) as caught:
        process.run(["sh", "-c", "printf 'bad \\033[31m name' >&2; exit 3"])
    assert caught.value.what == "sh failed with status 3: bad \\x1b[31m name"


def test_a_program_that_hangs_is_ended() -> None:
    with pytest.raises(ToolFailed, match="did not finish"):
        process.run(["sleep", "60"], timeout=0.2)
