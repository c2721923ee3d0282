"""What a spec says to Claude Code and Codex, and they would pass over, is told by the commands that write it."""

import json

import pytest

from tests.machine.gentown import Town, nothing_is_left, town
from town.failure import ATTENTION, BAD_CONFIG, DONE

__all__ = ["nothing_is_left", "town"]

SSH = 'uid = 41100\ngit = { signing = "ssh" }\n'
SLIP = SSH + 'prompts.settings = { modle = "opus" }'


def findings(town: Town, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[dict[str, str]]]:
    capsys.readouterr()
    status = town.identity("check", "--json")
    return status, json.loads(capsys.readouterr().out)["findings"]


def test_a_slip_in_the_settings_is_told_by_gen_and_by_check(town: Town, capsys: pytest.CaptureFixture[str]) -> None:
    town.write({"ada": SLIP})
    assert town.identity("gen", "--all") == DONE
    said = capsys.readouterr().err
    assert "warning:" in said
    assert "agents.ada.prompts.settings.modle" in said
    assert "did you mean model?" in said
    status, found = findings(town, capsys)
    assert status == ATTENTION
    assert [one["where"] for one in found if one["level"] != "unchecked"] == ["agents.ada.prompts.settings.modle"]


def test_what_is_wrong_for_certain_is_refused_before_anything_is_made(
    town: Town, capsys: pytest.CaptureFixture[str]
) -> None:
    town.write({"ada": SSH + 'prompts.settings.permissions.defaultMode = "allowEdits"'})
    assert town.identity("gen", "--all") == BAD_CONFIG
    assert "did you mean acceptEdits?" in capsys.readouterr().err
    assert town.bytes() == {}


def test_a_description_longer_than_codex_reads_is_written_whole_and_told(
    town: Town, capsys: pytest.CaptureFixture[str]
) -> None:
    runtimes = 'prompts.runtimes = ["claude-code", "agents-md", "codex", "gemini", "opencode"]'
    town.write({"ada": f'{SSH}description = "{"long " * 20_000}"\n{runtimes}'})
    assert town.identity("gen", "--all") == DONE
    for name in ("AGENTS.md", "codex/AGENTS.md", "gemini/GEMINI.md", "opencode/AGENTS.md", "identity.toml"):
        assert "long " * 20_000 in (town.root / "identities/ada" / name).read_text()
    status, found = findings(town, capsys)
    assert status == ATTENTION
    (one,) = [one for one in found if one["level"] == "warning"]
    assert one["where"] == "identities/ada/codex/AGENTS.md"
    assert "Codex" in one["what"]
