# ruff: noqa: E501 - a table reads better with one case on a line
"""The spec against real accounts: /etc/passwd and /etc/group of a private mount namespace, read by the C library."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import reach
from town import btrfs, kernel, process

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
        btrfs = {{ device = "/dev/not-there" }}
        [agents.ada]
        uid = 1100
    """
    status, problems, warnings = check(tmp_path, text, "", "")
    assert (status, problems) == (3, [])
    missing = ["agents_dir", "persist_dir", "btrfs.device", "host_key", "store_credentials", "human.user"]
    assert [warning["where"] for warning in warnings] == [f"town.{key}" for key in missing]
    for name in ("agents", "persist"):
        (tmp_path / name).mkdir()
    _, _, warnings = check(tmp_path, text, "", "")
    said = _but_for_the_disk(warnings)
    assert [warning["what"] for warning in said if warning["where"] == "town.persist_dir"] == [
        f"{tmp_path}/persist/agents is not there: nothing is kept yet"
    ]
    assert [warning["what"] for warning in warnings if warning["where"] == "town.btrfs"] == [
        f"{tmp_path}/agents is not the mounted subvolume @agents: it is no mount of its own"
    ]
    (tmp_path / "persist/agents").mkdir()
    for name in ("credentials", "key"):
        (tmp_path / name).write_text("x")
        (tmp_path / name).chmod(0o400)
    text = text.replace("btrfs = { device", "#").replace("kim", "josh")
    _, problems, warnings = check(tmp_path, text, "", "")
    assert (problems, _but_for_the_disk(warnings)) == ([], [])
    (tmp_path / "key").chmod(0o440)
    (tmp_path / "agents").chmod(0o777)
    _, _, warnings = check(tmp_path, text, "", "")
    assert [warning["where"] for warning in _but_for_the_disk(warnings)] == ["town.agents_dir", "town.host_key.age"]


PLACES = """
    [town]
    agents_dir = "{at}/agents"
    persist_dir = "{at}/persist"
    host_key = {{ age = "{at}/key" }}
    {btrfs}
    [agents.ada]
    uid = 1100
"""


def _warnings(at: Path, btrfs: str = "") -> list[tuple[str, str, str]]:
    _, problems, warnings = check(at, PLACES.format(at=at, btrfs=btrfs), "", "")
    assert problems == []
    return [(warning["where"], warning["what"], warning["cure"]) for warning in _but_for_the_disk(warnings)]


def _but_for_the_disk(warnings: list[dict[str, str]]) -> list[dict[str, str]]:
    """Without the one that the directory of a test lies on the disk of this machine: tests/machine/test_quota.py."""
    return [warning for warning in warnings if "lies on the filesystem of /, which" not in warning["what"]]


@pytest.fixture
def places(tmp_path: Path) -> Path:
    """A machine where nothing is missing."""
    (tmp_path / "agents").mkdir()
    (tmp_path / "persist/agents").mkdir(parents=True)
    (tmp_path / "key").write_text("x")
    (tmp_path / "key").chmod(0o400)
    assert _warnings(tmp_path) == []
    return tmp_path


@pytest.mark.parametrize(
    ("name", "mode", "owner"),
    [(".", 0o1777, 0), (".", 0o775, 0), (".", 0o755, 5555), ("agents", 0o777, 0), ("agents", 0o755, 5555)],
)
def test_a_persist_dir_that_others_can_change_is_a_warning(places: Path, name: str, mode: int, owner: int) -> None:
    path = places / "persist" / name
    os.chown(path, owner, owner)
    path.chmod(mode)
    ((where, what, cure),) = _warnings(places)
    assert where == "town.persist_dir"
    assert what.startswith(f"{path} may be changed by others than root")
    assert cure


def test_where_a_user_may_not_look_nothing_is_called_missing(places: Path) -> None:
    import shutil

    (places / "persist").chmod(0o700)
    with reach.checkout() as (place, packages):
        mine = place.parent / f"{place.name}.town"
        shutil.copytree(places / "persist", mine / "closed/persist", copy_function=shutil.copy)
        (mine / "agents").mkdir()
        (mine / "town.toml").write_text(PLACES.format(at=mine, btrfs="").replace("/persist", "/closed/persist"))
        (mine / "closed").chmod(0o700)
        try:
            argv = [reach.PYTHON, "-m", "persist.cli", "--spec", mine / "town.toml", "check", "--machine", "--json"]
            done = process.run(argv, person=process.Person(41100, 41100), env=packages, cwd=place, check=False)
        finally:
            shutil.rmtree(mine)
    warnings = json.loads(done.out)["warnings"]
    assert [one for one in warnings if one["where"] == "town.persist_dir"] == []


def test_another_subvolume_than_the_specs_on_agents_dir_is_a_warning(
    places: Path, btrfs_device: str, btrfs_top: int
) -> None:
    for name in ("@agents", "@other"):
        os.close(btrfs.create(btrfs_top, name))
    table = f'btrfs = {{ device = "{btrfs_device}" }}'
    for name in ("@other", "@agents"):
        kernel.mount(btrfs_device, str(places / "agents"), "btrfs", 0, f"subvol={name}")
        found = _warnings(places, table)
        kernel.umount(str(places / "agents"))
        if name == "@agents":
            assert found == []
        else:
            ((where, what, cure),) = found
            assert (where, "/@other" in what) == ("town.btrfs", True)
            assert cure.startswith(f"umount -R {places}/agents && mount -t btrfs -o subvol=@agents")
