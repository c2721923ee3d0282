"""`persist failed UNIT`: the agent, what happened to it, what to type next, on one line."""

import pytest

from persist import cli
from tests.boot.rendered import S3, town


def told(unit: str, capsys: pytest.CaptureFixture[str], **environment: str) -> str:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("INVOCATION_ID", "MONITOR_SERVICE_RESULT", "MONITOR_EXIT_STATUS"):
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
        ("open@ada", "ada stays out: ", "persist status ada && "),
        ("close@ada", "the account of ada is not closed, or not open, as it should be ", "persist account;"),
        ("sync@ada", "ada works; ", "persist sync ada;"),
        ("leave@ada", "ada left without a last sync; ", "persist sync ada;"),
        ("homes", "agents without a home or a directory of theirs stay out, ", "persist restore;"),
        ("sweep", "agents of which something was left outside their homes stay out", "persist sweep;"),
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
