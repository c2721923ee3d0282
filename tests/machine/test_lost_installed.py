"""What `identity install` brings is no loss, and what lies beside it is: `persist lost` in homes of that town."""

import json
import os
import subprocess
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest

from persist import cli, keybox
from tests.machine.homeinstalls import ADA, Town, made, town
from tests.scale import SEED, times

__all__ = ["made", "town"]
pytestmark = pytest.mark.root


@pytest.fixture
def home(town: Town) -> Path:
    town.installed()
    return town.home("ada")


def lost(town: Town, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    assert cli.main(["--spec", str(town.spec), "lost", "ada", "--json"]) == 0
    (agent,) = json.loads(capsys.readouterr().out)["agents"]
    return agent


def paths(town: Town, capsys: pytest.CaptureFixture[str]) -> list[str]:
    return sorted(entry["path"]["text"] for entry in lost(town, capsys)["entries"])


def as_ada(home: Path, *argv: str, feed: str = "") -> str:
    env = {"HOME": str(home), "PATH": os.environ["PATH"], "GIT_CONFIG_NOSYSTEM": "1"}
    ids: dict[str, Any] = {"user": ADA.uid, "group": ADA.gid, "extra_groups": []}
    done = subprocess.run(argv, env=env, cwd=home, input=feed, capture_output=True, text=True, check=True, **ids)
    return done.stdout


def own_key(home: Path) -> str:
    """A key that ada makes; its keygrip's file."""
    before = set(home.glob(".gnupg/private-keys-v1.d/*"))
    words = ["--batch", "--passphrase", "", "--quick-gen-key", "Mine <m@x.org>", "ed25519", "sign", "0"]
    as_ada(home, "gpg", *words)
    (made,) = set(home.glob(".gnupg/private-keys-v1.d/*")) - before
    return str(made.relative_to(home))


def test_a_fresh_home_that_nobody_touched_loses_nothing(
    town: Town, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    agent = lost(town, capsys)
    assert [entry["path"]["text"] for entry in agent["entries"]] == []
    files = [path for path in home.rglob("*") if path.is_file()]
    assert agent["regenerated"] == {"bytes": sum(path.stat().st_size for path in files), "files": len(files)}
    assert (home / ".profile") in files


def test_a_home_that_works_with_its_keys_loses_what_it_wrote_alone(
    town: Town, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    as_ada(home, "git", "init", "-q", "work")
    as_ada(home, "git", "-C", "work", "commit", "-q", "--allow-empty", "-m", "signed")  # starts a gpg-agent
    as_ada(home, "gpg", "--check-trustdb")
    assert any(path.is_socket() for path in (home / ".gnupg").iterdir())
    found = paths(town, capsys)
    as_ada(home, "gpgconf", "--kill", "all")
    assert [path for path in found if not path.startswith("work/")] == []
    town.installed()  # once more, in the same home
    assert [path for path in paths(town, capsys) if not path.startswith("work/")] == []


def test_the_profile_is_a_loss_once_the_agent_changed_it(
    town: Town, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (home / ".profile").open("a") as file:
        file.write("umask 077\n")
    assert paths(town, capsys) == [".profile"]
    town.installed()
    assert paths(town, capsys) == [".profile"]


def test_a_key_of_the_agents_own_is_a_loss_and_the_installed_one_is_not(
    town: Town, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = own_key(home)
    (revocation,) = (str(path.relative_to(home)) for path in home.glob(".gnupg/openpgp-revocs.d/*"))
    wanted = {mine, revocation, ".gnupg/pubring.kbx", ".gnupg/trustdb.gpg"}
    assert set(paths(town, capsys)) - {".gnupg/pubring.kbx~"} == wanted
    town.installed()  # the record is not made from what lies there
    assert set(paths(town, capsys)) - {".gnupg/pubring.kbx~"} == wanted
    as_ada(home, "gpgconf", "--kill", "all")


def test_a_public_key_that_the_agent_took_in_is_a_loss(
    town: Town, home: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    other = Path(str(town.root) + "-other")
    other.mkdir(mode=0o700)
    os.chown(other, ADA.uid, ADA.gid)
    own_key(other)
    as_ada(home, "gpg", "--batch", "--import", feed=as_ada(other, "gpg", "--armor", "--export"))
    for each in (home, other):
        as_ada(each, "gpgconf", "--kill", "all")
    subprocess.run(["rm", "-rf", str(other)], check=True)
    assert set(paths(town, capsys)) == {".gnupg/pubring.kbx", ".gnupg/trustdb.gpg"}


def test_gpgs_own_seed_is_no_loss_and_what_else_lies_there_is(
    town: Town, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for size, wanted in ((600, []), (601, [".gnupg/random_seed"])):  # libgcrypt writes 600 bytes
        (home / ".gnupg/random_seed").write_bytes(bytes(size))
        assert paths(town, capsys) == wanted


def test_another_key_in_the_file_of_the_installed_one_is_a_loss(
    town: Town, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (installed,) = home.glob(".gnupg/private-keys-v1.d/*.key")
    installed.write_bytes(b"something else")
    assert paths(town, capsys) == [str(installed.relative_to(home))]


def test_where_nothing_is_recorded_nothing_comes_back(
    town: Town, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (record,) = (town.root / "p/.nuketown/installed").glob("ada.json")
    record.unlink()
    found = paths(town, capsys)
    assert {".ssh/id_ed25519", ".gnupg/pubring.kbx", ".claude/CLAUDE.md"} <= set(found)
    assert ".config/nuketown/identity.toml" not in found


def test_a_keybox_says_which_keys_are_in_it(home: Path) -> None:
    own_key(home)
    listed = as_ada(home, "gpg", "--with-colons", "--list-keys").splitlines()
    wanted = [after.split(":")[9] for line, after in pairwise(listed) if line.startswith("pub:")]
    as_ada(home, "gpgconf", "--kill", "all")
    data = (home / ".gnupg/pubring.kbx").read_bytes()
    assert sorted(keybox.primaries(data)) == sorted(wanted)
    assert len(wanted) == 2


def test_bytes_that_are_no_keybox_are_refused(home: Path) -> None:
    data, random = (home / ".gnupg/pubring.kbx").read_bytes(), Random(SEED)
    for cut in (0, 8, 31, len(data) - 1):
        with pytest.raises(ValueError, match=r"."):
            keybox.primaries(data[:cut])
    for _ in range(times(300)):
        damaged = bytearray(data)
        for _ in range(random.randrange(1, 6)):
            damaged[random.randrange(len(data))] = random.randrange(256)
        try:
            assert len(keybox.primaries(bytes(damaged))) < 100
        except ValueError:
            continue
