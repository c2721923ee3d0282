"""A town whose agents' homes are installed into: uids that have no account, keys made once for all tests."""

import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from identity import cli
from town.process import Done, Person, run

ADA, VOX = Person(41100, 41100), Person(41101, 41101)


class Town:
    """A town under a short path (gpg's sockets need one), with empty homes; its keys are those of `made`."""

    def __init__(self, root: Path, made: Path) -> None:
        self.root, self.spec = root, root / "town.toml"
        shutil.copytree(made, root, dirs_exist_ok=True)
        root.chmod(0o755)  # copytree takes the mode of pytest's directory too
        self.spec.write_text(self.spec.read_text().replace(str(made), str(root)))
        (root / "p").mkdir()
        for person, name in ((ADA, "ada"), (VOX, "vox")):
            home = root / "a" / name
            home.mkdir(parents=True)
            home.chmod(0o700)
            os.chown(home, person.uid, person.gid)

    def home(self, name: str) -> Path:
        return self.root / "a" / name

    def identity(self, *words: str) -> Done:
        """The command with a /run of its own, which is a disk: the machine's is not touched."""
        return run([*self.apart, *argv(self.spec), *words], env=env(), check=False)

    @property
    def apart(self) -> list[str]:
        (self.root / "run").mkdir(exist_ok=True)
        return ["unshare", "-m", "sh", "-ec", f'mount --bind {self.root}/run /run; exec "$@"', "sh"]

    def installed(self) -> Done:
        done = self.identity("install")
        assert (done.status, done.err) == (0, b"")
        return done

    def tree(self, name: str) -> dict[str, tuple[int, int, int, bytes]]:
        found = {}
        for path in self.home(name).rglob("*"):
            about = path.lstat()
            data = path.read_bytes() if stat.S_ISREG(about.st_mode) else b""
            found[str(path.relative_to(self.home(name)))] = (about.st_mode, about.st_uid, about.st_mtime_ns, data)
        return found


def respell(town: Town, old: str, new: str) -> None:
    text = town.spec.read_text()
    assert old in text
    town.spec.write_text(text.replace(old, new))


def script(town: Town, script: str, *, check: bool = True) -> Done:
    """A shell script whose "$@" is the command identity, with a /run of its own."""
    return run([*town.apart, "sh", "-c", script, "sh", *argv(town.spec)], env=env(), check=check)


def wrote(path: Path, text: str | bytes) -> None:
    """A file of ada's, and the directories above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    for one in (path, *path.parents):
        if one.parent.name == "a":  # the home itself; never further up
            break
        os.chown(one, ADA.uid, ADA.gid)


def argv(spec: Path) -> list[str]:
    return [sys.executable, "-m", "identity.cli", "--spec", str(spec)]


def env() -> dict[str, str]:
    return {"PYTHONPATH": str(Path(cli.__file__).parents[1])}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A town in which gen has run, once for all tests here."""
    root = tmp_path_factory.mktemp("made")
    run(["age-keygen", "-o", root / "host.key"])
    recipient = run(["age-keygen", "-y", root / "host.key"]).out.decode().strip()
    (root / "town.toml").write_text(
        f"""
        [town]
        domain = "signi.local"
        agents_dir = "{root}/a"
        persist_dir = "{root}/p"
        recipients = {{ humans = ["{recipient}"] }}
        host_key = {{ age = "{root}/host.key", ssh = "{root}/none" }}
        [agents.ada]
        uid = 41100
        secrets = {{ extra = {{ token = "ada/token" }}, env = {{ TOKEN = "token" }} }}
        prompts = {{ settings = {{ permissions = {{ defaultMode = "plan" }} }} }}
        [agents.vox]
        uid = 41101
        git = {{ signing = "ssh" }}
        """
    )
    run([*argv(root / "town.toml"), "gen", "--all"], env=env())
    run([*argv(root / "town.toml"), "secret", "set", "ada", "token"], env=env(), feed=b"tok-1\n")
    return root


@pytest.fixture
def town(made: Path) -> Iterator[Town]:
    root = Path(tempfile.mkdtemp(prefix="town-", dir="/tmp"))
    try:
        yield Town(root, made)
        left = [line for line in command_lines() if b"gpg-agent" in line and bytes(root) in line]
        assert left == [], "no gpg-agent of ours is left"
    finally:
        shutil.rmtree(root)


def command_lines() -> list[bytes]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes())
        except OSError:
            continue
    return found
