"""`persist failed UNIT`: the agent, what happened to it, what to type next, on one line."""

import os
import shlex
from pathlib import Path

import pytest

from persist import cli
from tests.boot.rendered import S3, town


def told(unit: str, capsys: pytest.CaptureFixture[str], **environment: str) -> str:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("INVOCATION_ID", "MONITOR_INVOCATION_ID", "MONITOR_SERVICE_RESULT", "MONITOR_EXIT_STATUS"):
            patch.delenv(name, raising=False)
        for name, value in environment.items():
            patch.setenv(name, value)
        assert cli.main(["failed", unit]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("unit", "what", "command"),
    [
        ("restore@ada", "ada stays out: what it keeps in the store was not fetched", "persist restore ada && "),
        ("bind@b-x", "b-x stays out: ", "persist restore b-x && systemctl start nuketown-agent@b-x.target"),
        ("identity@ada", "ada stays out: ", "identity install ada && systemctl start nuketown-agent@ada.target"),
        ("open@ada", "ada stays out: ", "persist status ada; systemctl start nuketown-agent@ada.target"),
        ("close@ada", "the account of ada is not closed, or not open, as it should be ", "persist account;"),
        ("sync@ada", "ada works; ", "persist sync ada;"),
        ("leave@ada", "ada left without a last sync; ", "persist sync ada;"),
        (
            "homes",
            "agents without a home or a directory of theirs stay out, ",
            "persist restore && systemctl start 'nuketown-agent@*.target' --all",
        ),
        (
            "sweep",
            "agents of which something was left outside their homes stay out",
            "persist sweep --missing && systemctl start 'nuketown-agent@*.target' --all",
        ),
        ("rollback", "no agent starts: ", "persist status;"),
        ("mount", "no agent starts: ", "persist status;"),
        ("tidy", "old homes stay on the disk", "persist tidy;"),
    ],
)
def test_a_failure_names_the_agent_and_the_next_command(
    unit: str, what: str, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    said = told(f"nuketown-{unit}.service", capsys)
    assert said.startswith(f"nuketown: {what}")
    assert f"; next: {command}" in said
    assert said.endswith(f"; more: journalctl -b -u nuketown-{unit}.service\n")
    assert said.count("\n") == 1


def test_every_unit_that_tells_its_failure_has_words_for_it(capsys: pytest.CaptureFixture[str]) -> None:
    from persist import units

    for unit in units.render(town(S3), program="/p", file="/t", in_initrd=True):
        if "\nOnFailure=" in unit.text:
            assert told(unit.name.replace("@.", "@ada."), capsys).startswith("nuketown: ")


@pytest.mark.parametrize(
    ("environment", "why"),
    [
        ({"MONITOR_EXIT_STATUS": "75"}, "not now, a later try may do"),
        ({"MONITOR_EXIT_STATUS": "78"}, "the spec is wrong: persist check"),
        ({"MONITOR_EXIT_STATUS": "KILL"}, "it ended with KILL"),
        ({"MONITOR_EXIT_STATUS": "\x1b[2J"}, "it ended with \\x1b[2J"),
        ({"MONITOR_SERVICE_RESULT": "timeout"}, "it did not end in time"),
        ({}, "it failed"),
    ],
)
def test_how_a_unit_ended_is_said(environment: dict[str, str], why: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"(nuketown-sync@ada.service: {why})" in told("nuketown-sync@ada.service", capsys, **environment)


@pytest.mark.parametrize(("result", "said"), [({}, 0), ({"MONITOR_SERVICE_RESULT": "success"}, 0),
                                              ({"MONITOR_SERVICE_RESULT": "exit-code"}, 1)])  # fmt: skip
def test_a_unit_that_never_ran_says_nothing_of_itself(
    result: dict[str, str], said: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """What it requires failed, and has told it."""
    environment = {"INVOCATION_ID": "0" * 32, **result}
    assert told("nuketown-open@ada.service", capsys, **environment).count("\n") == said


@pytest.mark.parametrize("unit", ["ssh.service", "nuketown-agent@ada.target", "nuketown-x@ada.service", "", "\x1b[2J"])
def test_what_is_no_unit_of_ours_is_wrong_usage(unit: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["failed", unit]) == 2
    assert "is no unit of nuketown's that can fail" in capsys.readouterr().err


def test_a_spec_elsewhere_is_named_in_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--spec", "/srv/t.toml", "failed", "nuketown-restore@ada.service"]) == 0
    assert "next: persist restore --spec /srv/t.toml ada" in capsys.readouterr().out


# ---- what the unit said itself

RUN = "0123456789abcdef" * 2


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory for programs that answer as systemd's own do, first on PATH."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return tmp_path


def answers(machine: Path, name: str, **replies: str) -> None:
    """A program that has an answer for each case of its last words, and none but these."""
    cases = "".join(f"{words}) printf %s {shlex.quote(reply)} ;;\n" for words, reply in replies.items())
    (machine / name).write_text(f'#!/bin/sh\ncase "$*" in\n{cases}*) echo "not asked for: $*" >&2; exit 1 ;;\nesac\n')
    (machine / name).chmod(0o755)


def journal(machine: Path, text: str, run: str = RUN) -> None:
    answers(machine, "journalctl", **{f"*' _SYSTEMD_INVOCATION_ID={run}'": text})


def failed(unit: str, capsys: pytest.CaptureFixture[str], run: str = RUN) -> str:
    environment = {"INVOCATION_ID": "f" * 32, "MONITOR_SERVICE_RESULT": "exit-code", "MONITOR_INVOCATION_ID": run}
    return told(unit, capsys, **environment)


@pytest.mark.parametrize(
    "hint",
    ["identity gen ada", "persist restore ada", "persist sync --force ada", "persist tidy", "persist status b-x"],
)
def test_the_hint_of_a_unit_that_is_a_plain_command_is_what_to_type(
    hint: str, machine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    journal(machine, f"identity: error: no value\nidentity: hint: {hint}\n")
    said = failed("nuketown-identity@ada.service", capsys)
    assert "(nuketown-identity@ada.service: no value)" in said
    assert f"; next: {hint} && systemctl start nuketown-agent@ada.target; more: " in said


@pytest.mark.parametrize(
    "hint",
    [
        "look at it, then: persist restore ada",
        "persist restore ada, or persist sync ada",
        "persist restore ada; reboot",
        "persist restore $(reboot)",
        "persist restore --at=x ada",
        "persist restore ada b-x",
        "rm -rf /srv",
        "persist restore ../ada",
        "persist restore \x1b[2J",
        "persist  restore",
        "",
    ],
)
def test_a_hint_that_is_more_than_that_is_not_and_the_command_of_the_unit_is(
    hint: str, machine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    journal(machine, f"identity: error: no value\nidentity: hint: {hint}\n")
    said = failed("nuketown-identity@ada.service", capsys)
    assert "; next: identity install ada && systemctl start nuketown-agent@ada.target; more: " in said


def test_of_several_errors_the_last_is_told_with_its_own_hint(
    machine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    journal(machine, "persist: error: a\npersist: hint: persist tidy\npersist: error: \x1bb\npersist: note: c\n")
    said = failed("nuketown-sync@ada.service", capsys)
    assert "(nuketown-sync@ada.service: \\x1bb); next: persist sync ada; more: " in said


def test_only_the_journal_of_the_run_that_failed_is_asked(machine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    journal(machine, "persist: error: a\npersist: hint: persist tidy\n", run="f" * 32)
    assert "; next: persist sync ada; more: " in failed("nuketown-sync@ada.service", capsys)
    assert "; next: persist tidy; more: " in failed("nuketown-sync@ada.service", capsys, "f" * 32)
    answers(machine, "journalctl", **{"*": "persist: error: a\n"})
    for run in ("", "f" * 31, "f" * 32 + " -f"):
        assert "(nuketown-sync@ada.service: it failed)" in failed("nuketown-sync@ada.service", capsys, run)


def test_a_spec_elsewhere_is_named_in_the_hint_too(
    machine: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    journal(machine, "persist: error: a\npersist: hint: persist sweep ada\n")
    monkeypatch.setenv("MONITOR_INVOCATION_ID", RUN)
    assert cli.main(["--spec", "/srv/t.toml", "failed", "nuketown-sweep.service"]) == 0
    assert "; next: persist sweep --spec /srv/t.toml ada && systemctl " in capsys.readouterr().out


# ---- a unit that was never started


def systemctl(machine: Path, unit: str, **states: str) -> None:
    """What `systemctl show` says of the units that one requires: (systemctl(1), "show")."""
    facts = "\n\n".join(f"Id={name}\nActiveState={state}" for name, state in states.items())
    asked = {f"'show --property=Requires --value {unit}'": f"{' '.join(states)}\n"}
    if states:
        asked[shlex.quote(f"show --property=Id,ActiveState {' '.join(states)}")] = f"{facts}\n"
    answers(machine, "systemctl", **asked)


def unstarted(unit: str, capsys: pytest.CaptureFixture[str]) -> str:
    return told(unit, capsys, INVOCATION_ID="f" * 32)


def test_a_unit_whose_dependency_failed_says_which_and_what_to_type(
    machine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    states = {"nuketown-identity@ada.service": "failed", "-.mount": "active", "persist.mount": "failed"}
    systemctl(machine, "nuketown-open@ada.service", **states)
    assert unstarted("nuketown-open@ada.service", capsys) == (
        "nuketown: ada stays out: something that it must have is missing "
        "(nuketown-open@ada.service: not started, as persist.mount failed); next: "
        "systemctl start persist.mount && systemctl start nuketown-agent@ada.target; "
        "more: journalctl -b -u persist.mount\n"
    )


def test_a_unit_of_all_agents_is_itself_what_to_start_again(machine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    systemctl(machine, "nuketown-homes.service", **{"persist.mount": "failed"})
    said = unstarted("nuketown-homes.service", capsys)
    assert "; next: systemctl start persist.mount && systemctl start nuketown-homes.service; more: " in said


def test_the_name_of_a_mount_is_one_word_for_a_shell(machine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    systemctl(machine, "nuketown-homes.service", **{"srv-my\\x20disk.mount": "failed"})
    said = unstarted("nuketown-homes.service", capsys)
    command = said.partition("; next: ")[2].partition(" && ")[0]
    assert shlex.split(command) == ["systemctl", "start", "srv-my\\x20disk.mount"]


@pytest.mark.parametrize(
    ("unit", "states"),
    [
        ("nuketown-open@ada.service", {"nuketown-identity@ada.service": "failed", "persist.mount": "active"}),
        ("nuketown-open@ada.service", {"persist.mount": "inactive"}),
        ("nuketown-open@ada.service", {}),
        ("nuketown-identity@ada.service", {"persist.mount": "failed"}),  # nuketown-open@ says it, once
    ],
)
def test_what_another_unit_has_told_is_not_told_again(
    unit: str, states: dict[str, str], machine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    systemctl(machine, unit, **states)
    assert unstarted(unit, capsys) == ""


def test_where_systemd_does_not_answer_nothing_is_said_that_is_not_known(
    machine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answers(machine, "systemctl")
    assert unstarted("nuketown-open@ada.service", capsys) == ""


@pytest.mark.parametrize(
    "hint",
    [
        "persist restore ada && systemctl start nuketown-agent@ada.target",
        "persist restore --spec /srv/t.toml ada && identity install --spec /srv/t.toml ada",
    ],
)
def test_the_gates_own_commands_are_what_to_type(hint: str, machine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    journal(machine, f"persist: error: ada stays out: projects is not in its place\npersist: hint: {hint}\n")
    said = failed("nuketown-open@ada.service", capsys)
    assert f"; next: {hint}" in said
    assert said.count("systemctl start nuketown-agent@ada.target") == 1
