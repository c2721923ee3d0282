"""The recovery file is for humans only: gen makes none that this machine would open, and says where it cannot know."""

import json
from pathlib import Path

import pytest

from tests.machine.checked import AGENTS, Town
from town import sops
from town.process import run


@pytest.fixture
def town(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Town:
    """A spec without recipients, on the machine whose key is `host`."""
    town = Town(tmp_path)
    town.root.mkdir()
    for key in town.keys.values():
        run(["age-keygen", "-o", key])
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "ssh"])
    town.spec.write_text(
        f"""
[town]
domain = "signi.local"
agents_dir = "/nonexistent/agents"
persist_dir = "/nonexistent/persist"
[town.host_key]
age = "{town.keys["host"]}"
ssh = "{tmp_path / "ssh"}"
{AGENTS}"""
    )
    monkeypatch.setenv("SOPS_AGE_KEY_FILE", str(town.keys["human"]))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SOPS_CONFIG", raising=False)
    return town


def _rules(town: Town, *rules: dict[str, str]) -> None:
    (town.root / ".sops.yaml").write_text(json.dumps({"creation_rules": rules}))


def _for(town: Town, *names: str) -> str:
    return ",".join(map(town.recipient, names))


@pytest.mark.parametrize("words", [["--all"], ["--all", "--dry-run"]])
def test_one_rule_that_names_this_machine_is_refused_with_the_rule_that_is_missing(
    town: Town, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    everything = {"age": _for(town, "human", "host")}
    _rules(town, everything)
    assert town.identity("gen", *words) == 1
    error, hint = capsys.readouterr().err.splitlines()
    assert f"creation_rules[0] names the key of this machine ({town.recipient('host')})" in error
    assert not (town.root / "secrets").exists()
    assert not (town.root / "identities").exists()
    from ruamel.yaml import YAML

    (rule,) = YAML(typ="safe").load(hint.partition("before it: ")[2])
    assert rule["age"] == town.recipient("human")
    _rules(town, rule, everything)
    assert town.identity("gen", "--all") == 0
    assert sops.recipients_of(town.recovery.read_bytes(), "r") == (town.recipient("human"),)
    assert [one["what"] for level in town.found(capsys)[1].values() for one in level] == [
        "secrets/agents.yaml has no ada/token, which is to become token"
    ]


def test_a_rule_of_its_own_that_names_this_machine_is_refused_too(
    town: Town, capsys: pytest.CaptureFixture[str]
) -> None:
    _rules(
        town,
        {"path_regex": "recovery", "age": _for(town, "human", "host")},
        {"age": _for(town, "human", "host")},
    )  # fmt: skip
    assert town.identity("gen", "--all") == 1
    assert "take that recipient out of creation_rules[0]" in capsys.readouterr().err
    _rules(town, {"age": _for(town, "host")})
    assert town.identity("gen", "--all") == 1
    assert "age1…" in capsys.readouterr().err


def test_the_public_half_of_the_machines_ssh_key_is_enough_to_know_it(
    town: Town, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    town.change(str(town.keys["host"]), "/nonexistent/age")
    (tmp_path / "ssh").unlink()  # as for somebody who may not read it
    public = (tmp_path / "ssh.pub").read_text()
    _rules(town, {"age": f"{town.recipient('human')},{sops.canonical(public)}"})
    assert town.identity("gen", "--all") == 1
    assert "the key of this machine" in capsys.readouterr().err


def test_one_rule_for_several_whose_machines_are_not_known_is_a_warning(
    town: Town, capsys: pytest.CaptureFixture[str]
) -> None:
    _rules(town, {"age": _for(town, "human", "stranger")})
    assert town.identity("gen", "--all") == 0
    err = capsys.readouterr().err
    assert "warning: secrets/recovery.yaml is for humans only" in err
    assert "path_regex" in err
    assert town.identity("gen", "--all") == 0
    assert "humans only" not in capsys.readouterr().err  # that the file is so is what check tells


def test_one_rule_for_one_human_is_not_talked_about(town: Town, capsys: pytest.CaptureFixture[str]) -> None:
    _rules(town, {"age": _for(town, "human")})
    assert town.identity("gen", "--all") == 0
    assert "humans only" not in capsys.readouterr().err


def test_agents_without_openpgp_keys_need_no_rule_for_a_recovery_file(town: Town) -> None:
    _rules(town, {"age": _for(town, "human", "host")})
    assert town.identity("gen", "vox") == 0


def test_a_human_of_the_spec_may_use_the_machines_key(town: Town) -> None:
    town.change("[town.host_key]", f'[town.recipients]\nhumans = ["{town.recipient("host")}"]\n[town.host_key]')
    assert town.identity("gen", "--all") == 0
