"""A town in a directory in which `identity` works: its files, its keys, and the command in this process or another.

A module that uses the fixtures `town` and `nothing_is_left` imports them by these names.
"""

import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from copy import copy
from datetime import UTC, datetime
from pathlib import Path

import pytest

from identity import cli
from town import sops
from town.process import run

CHECKOUT = Path(cli.__file__).parents[1]


class Town:
    """A town in a directory, with one human's and one host's age key."""

    def __init__(self, root: Path, agents: dict[str, str] | None = None) -> None:
        self.root, self.spec = root, root / "town.toml"
        self.human, self.host = root / "human.key", root / "host.key"
        humans, hosts = age_key(self.human), age_key(self.host)
        self.head = (
            f'[town]\ndomain = "signi.local"\nagents_dir = "{root}/agents"\npersist_dir = "{root}/persist"\n'
            f'[town.recipients]\nhumans = ["{humans}"]\nhosts = {{ signi = "{hosts}" }}\n'
            f'[town.host_key]\nage = "{self.host}"\nssh = "{root}/none"\n'
        )
        self.write(agents or {"ada": "uid = 41100", "vox": 'uid = 41101\ngit = { signing = "ssh" }'})

    def copied(self, root: Path) -> "Town":
        """The same town with the same keys below another directory."""
        shutil.copytree(self.root, root, dirs_exist_ok=True)
        other = copy(self)
        other.root, other.spec, other.human, other.host = (
            root / path.relative_to(self.root) for path in (self.root, self.spec, self.human, self.host)
        )
        other.head = self.head.replace(str(self.root), str(root))
        other.spec.write_text(self.spec.read_text().replace(str(self.root), str(root)))
        return other

    def write(self, agents: dict[str, str]) -> None:
        self.spec.write_text(self.head + "".join(f"[agents.{name}]\n{body}\n" for name, body in agents.items()))

    @property
    def environment(self) -> dict[str, str]:
        """For the command in another process: with the human's key."""
        return {**os.environ, "SOPS_AGE_KEY_FILE": str(self.human), "PYTHONPATH": str(CHECKOUT)}

    def identity(self, *words: str) -> int:
        return cli.main(["--spec", str(self.spec), *words])

    def bytes(self) -> dict[str, str]:
        files = (path for top in ("secrets", "identities") for path in (self.root / top).rglob("*") if path.is_file())
        return {str(path.relative_to(self.root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    def opened(self, file: str) -> sops.Document:
        return sops.load((self.root / file).read_bytes(), file, sops.Keys.of_age_file(self.human))

    def set_secrets(self, changes: dict[str, str]) -> None:
        document = self.opened("secrets/agents.yaml")
        (self.root / "secrets/agents.yaml").write_bytes(sops.update(document, changes, now=datetime.now(UTC)))


def age_key(path: Path) -> str:
    """A new age key in a file; its recipient."""
    run(["age-keygen", "-o", path])
    return run(["age-keygen", "-y", path]).out.decode().strip()


@pytest.fixture
def town(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Town:
    made = Town(tmp_path)
    monkeypatch.setenv("SOPS_AGE_KEY_FILE", str(made.human))
    return made


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Town:
    """A town in which gen has run, once for all tests of a module: never changed, only copied."""
    found = Town(tmp_path_factory.mktemp("made"))
    assert found.identity("gen", "--all") == 0
    return found


@pytest.fixture
def full(made: Town, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Town:
    """A copy of `made`, to be changed."""
    copied = made.copied(tmp_path)
    monkeypatch.setenv("SOPS_AGE_KEY_FILE", str(copied.human))
    return copied


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """No gpg home and no gpg-agent of ours, whatever the test did."""
    yield
    for _ in range(50):
        if not (left := list(Path("/dev/shm").glob("nuketown-gpg-*"))):
            break
        time.sleep(0.1)
    assert left == []
    assert not [line for line in command_lines() if b"gpg-agent" in line and b"nuketown-gpg-" in line]


def command_lines() -> list[bytes]:
    """Of every process that is there."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes())
        except OSError:
            continue
    return found
