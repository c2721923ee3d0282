"""An agent makes directories deeper than anybody goes through: its home is recalled and exported all the same."""

import json
import os
from pathlib import Path

import pyrage
import pytest

from persist import descent, secrets
from persist.fill import listings
from persist.sync import scan
from persist.walk import DEEPEST
from tests.machine import resets
from tests.machine.resets import AS_ADA, ok, say, still
from tests.machine.towns import Town, as_agent, town
from town import files

__all__ = ["still", "town"]
pytestmark = pytest.mark.root
_NOTE = "note: left out unseen: 1 tree of directories, deeper than"
_LEVELS = 300  # as if that were the most: twenty thousand take seconds each

# A chain of directories: at its end a login, and a nested subvolume with some more of it.
_CHAIN = """
import os
os.mkdir('deep'); fd = os.open('deep', 0)
for number in range({0}):
    os.mkdir('d', dir_fd=fd); below = os.open('d', 0, dir_fd=fd); os.close(fd); fd = below
os.close(os.open('.env', os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=fd))
"""


def _deep(town: Town, levels: int) -> Town:
    """Ada's home, kept as ada@deep."""
    say(town, **{"a/.env": "T=1", "z/.env": "T=1", "work": "w"})
    as_agent(AS_ADA, resets.home(town), _CHAIN.format(levels + 5))
    ok(town, "snapshot", "ada", "--name", "deep")
    return town


@pytest.fixture
def deep(still: Town, monkeypatch: pytest.MonkeyPatch) -> Town:
    for module in (descent, secrets, scan, listings):
        assert module.DEEPEST == DEEPEST
        monkeypatch.setattr(module, "DEEPEST", _LEVELS)
    return _deep(still, _LEVELS)


def _depth(home: Path) -> int:
    """How many directories lie in one another below `deep`."""
    fd, depth = os.open(home / "deep", os.O_RDONLY), 0
    try:
        while True:
            below = os.open("d", os.O_RDONLY, dir_fd=fd)
            os.close(fd)
            fd, depth = below, depth + 1
    except FileNotFoundError:
        return depth
    finally:
        os.close(fd)


def test_a_copy_without_keys_leaves_out_what_nobody_looks_through(deep: Town) -> None:
    look = deep.base / "look"
    said = ok(deep, "recall", "ada@deep", "--without-secrets", "--to", str(look), "--json")
    name, found = json.loads(said.out)["name"], json.loads(said.out)["secrets"]
    assert (found["found"], found["too_deep"], found["whole"]) == (2, 1, True)
    assert (look / "work").read_text() == "w"
    assert not (look / "a/.env").exists()
    assert not (look / "z/.env").exists()
    assert _depth(look) == _LEVELS - 1
    ok(deep, "recall", "--end", name)
    assert _NOTE in ok(deep, "recall", "ada@deep", "--without-secrets", "--to", str(look)).err


def test_a_copy_with_keys_has_all_and_points_out_the_others(deep: Town) -> None:
    look = deep.base / "look"
    said = json.loads(ok(deep, "recall", "ada@deep", "--to", str(look), "--json").out)["secrets"]
    assert (said["too_deep"], said["whole"]) == (0, False)
    assert _depth(look) == _LEVELS + 5
    with files.opened(files.open_dir(look)) as home:
        found = secrets.find(home, secrets.rules(deep.spec.agent("ada")), seconds=60)
    assert (found.secrets.count, found.whole) == (2, False)


def test_such_a_home_takes_the_place_of_the_present_one_without_keys(still: Town) -> None:
    _deep(still, DEEPEST)
    assert f"{_NOTE} 20,000 levels" in ok(still, "recall", "ada@deep", "--replace", "--without-secrets").err
    assert _depth(resets.home(still)) == DEEPEST - 1
    assert not (resets.home(still) / "a/.env").exists()


@pytest.mark.parametrize("more", [[], ["--without-secrets"]])
def test_such_a_home_is_exported_and_comes_back(deep: Town, tmp_path: Path, more: list[str]) -> None:
    """An import goes no deeper either: what lies there is left out of the file, and that is said."""
    identity, file, look = pyrage.x25519.Identity.generate(), tmp_path / "x", deep.base / "look"
    (tmp_path / "key").write_text(f"{identity}\n")
    (tmp_path / "key").chmod(0o600)
    said = ok(deep, "export", "ada@deep", str(file), "--to", str(identity.to_public()), *more)
    assert (_NOTE if more else "a directory that lies too deep: left out with all below it") in said.err
    name = json.loads(ok(deep, "import", str(file), "--key", str(tmp_path / "key"), "--json").out)["name"]
    ok(deep, "recall", name, "--to", str(look))
    assert _depth(look) == _LEVELS - 1
    assert (look / "a/.env").exists() is not bool(more)


def test_levels_count_through_nested_subvolumes(deep: Town, tmp_path: Path) -> None:
    half = _LEVELS // 2 + 5
    as_agent(
        AS_ADA,
        resets.home(deep),
        f"import os\n{_CHAIN.format(half).replace('deep', 'first')}\n"
        "import fcntl\nfcntl.ioctl(fd, 0x5000940E, bytearray(8) + bytearray(b's'.ljust(4088, b'\\0')))\n"
        f"os.fchdir(os.open('s', 0, dir_fd=fd))\n{_CHAIN.format(half)}",
    )
    ok(deep, "snapshot", "ada", "--name", "nested")
    identity, file = pyrage.x25519.Identity.generate(), tmp_path / "x"
    (tmp_path / "key").write_text(f"{identity}\n")
    (tmp_path / "key").chmod(0o600)
    said = ok(deep, "export", "ada@nested", str(file), "--to", str(identity.to_public()))
    assert "left out with all below it (and 1 more like it)" in said.err
    ok(deep, "import", str(file), "--key", str(tmp_path / "key"))
