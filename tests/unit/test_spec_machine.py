# ruff: noqa: E501 - a table reads better with one case on a line
"""The spec against real accounts: /etc/passwd and /etc/group of a private mount namespace, read by the C library."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.root

PASSWD = "root:x:0:0::/root:/bin/sh\njosh:x:1000:1000::/home/josh:/bin/sh\n"
GROUP = "root:x:0:\njosh:x:1000:\n"
ADA = '[town]\nhuman = { user = "josh" }\n[agents.ada]\nuid = %d\n'


def check(tmp_path: Path, text: str, passwd: str, group: str) -> tuple[int, list[dict[str, str]], list[dict[str, str]]]:
    """Status, problems and warnings of `persist check --machine` where those are all accounts."""
    for name, data in (("passwd", PASSWD + passwd), ("group", GROUP + group), ("town.toml", text)):
        (tmp_path / name).write_text(data)
    script = 'mount --bind "$1/passwd" /etc/passwd && mount --bind "$1/group" /etc/group && shift && exec "$@"'
    command = [
        sys.executable,
        "-m",
        "persist.cli",
        "check",
        "--machine",
        "--json",
        "--spec",
        str(tmp_path / "town.toml"),
    ]
    argv = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", str(tmp_path), *command]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    found = json.loads(done.stdout)
    return done.returncode, found["problems"], found["warnings"]


@pytest.mark.parametrize(
    ("text", "passwd", "group", "where", "what"),
    [
        (ADA % 1000, "", "", "agents.ada.uid", "1000 is josh, the human of this town"),
        (ADA % 1100, "eve:x:1100:1100::/:/bin/sh\n", "", "agents.ada.uid", "1100 is the account eve"),
        (ADA % 1100, "ada:x:1100:1100::/:/x\neve:x:1100:1200::/:/x\n", "", "agents.ada.uid", "1100 is the account eve"),
        (ADA % 1100, "ada:x:1200:1200::/:/bin/sh\n", "", "agents.ada", "an account ada with uid 1200"),
        (ADA % 1100 + "gid = 1000\n", "", "", "agents.ada.gid", "1000 is the group of the account josh"),
        (ADA % 1100 + "gid = 1300\n", "eve:x:1300:1300::/:/x\n", "", "agents.ada.gid", "1300 is the group of the account eve"),
        (ADA % 1100 + "gid = 1300\n", "", "docker:x:1300:\n", "agents.ada.gid", "1300 is the group docker"),
        (ADA % 1100, "", "staff2:x:1100:\n", "agents.ada.gid", "1100 is the group staff2"),
    ],
)  # fmt: skip
def test_what_belongs_to_another_account_is_refused(
    text: str, passwd: str, group: str, where: str, what: str, tmp_path: Path
) -> None:
    status, problems, _ = check(tmp_path, text, passwd, group)
    assert status == 78
    found = [problem for problem in problems if problem["where"] == where]
    assert [what in problem["what"] for problem in found] == [True]
    assert all(problem["cure"] for problem in problems)


@pytest.mark.parametrize(
    ("passwd", "group"),
    [
        ("", ""),
        ("ada:x:1100:1100::/agents/ada:/bin/sh\n", "ada:x:1100:\n"),
        ("ada:x:1100:100::/agents/ada:/bin/sh\n", "users:x:100:\n"),
        ("eve:x:1101:1101::/:/bin/sh\n", "eve:x:1101:\n"),
    ],
)
def test_an_agent_may_be_an_account_of_its_own_or_none(passwd: str, group: str, tmp_path: Path) -> None:
    status, problems, _ = check(tmp_path, ADA % 1100, passwd, group)
    assert (status, problems) == (3, [])  # 3: nothing of the town is on this machine yet


def test_a_group_that_was_made_for_agents_may_be_shared(tmp_path: Path) -> None:
    text = ADA % 1100 + "gid = 2000\n[agents.vox]\nuid = 1101\ngid = 2000\n"
    accounts = "ada:x:1100:2000::/:/x\nvox:x:1101:2000::/:/x\n"
    assert check(tmp_path, text, accounts, "agents:x:2000:josh\n")[:2] == (3, [])


def test_what_is_missing_on_the_machine_is_a_warning(tmp_path: Path) -> None:
    text = f"""
        [town]
        agents_dir = "{tmp_path}/agents"
        persist_dir = "{tmp_path}/persist"
        store_credentials = "{tmp_path}/credentials"
        host_key = {{ age = "{tmp_path}/key", ssh = "{tmp_path}/none" }}
        human = {{ user = "kim" }}
        btrfs = {{ device = "/dev/sda1" }}
        [agents.ada]
        uid = 1100
    """
    status, problems, warnings = check(tmp_path, text, "", "")
    assert (status, problems) == (3, [])
    missing = ["agents_dir", "persist_dir", "host_key", "store_credentials", "human.user"]
    assert [warning["where"] for warning in warnings] == [f"town.{key}" for key in missing]
    for name in ("agents", "persist"):
        (tmp_path / name).mkdir()
    for name in ("credentials", "key"):
        (tmp_path / name).write_text("x")
        (tmp_path / name).chmod(0o400)
    text = text.replace("btrfs = { device", "#").replace("kim", "josh")
    assert check(tmp_path, text, "", "") == (0, [], [])
    (tmp_path / "key").chmod(0o440)
    (tmp_path / "agents").chmod(0o777)
    _, _, warnings = check(tmp_path, text, "", "")
    assert [warning["where"] for warning in warnings] == ["town.agents_dir", "town.host_key.age"]
