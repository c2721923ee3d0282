"""A tree that will be a machine, and `persist install` on it. A module that uses the fixture `tree` imports it."""

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

import initrd
from persist import cli
from tests.machine.towns import Said

SPEC = '[town]\nagents_dir = "{agents}"\n[town.btrfs]\ndevice = "LABEL=x"\nwait = "{wait}"\n[agents.ada]\nuid = 51100\n'
UNITS = "etc/systemd/system"


@dataclass(frozen=True)
class Tree:
    """A tree that will be a machine."""

    root: Path
    capsys: pytest.CaptureFixture[str]

    def spec(self, agents: str = "/agents", wait: str = "30s") -> None:
        (self.root / "etc/nuketown/town.toml").write_text(SPEC.format(agents=agents, wait=wait))

    def persist(self, verb: str, *words: str) -> Said:
        self.capsys.readouterr()
        spec_file = str(self.root / "etc/nuketown/town.toml")
        status = cli.main(["--spec", spec_file, verb, "--root", str(self.root), *words])
        said = self.capsys.readouterr()
        return Said(status, said.out, said.err)

    def has(self, *names: str) -> None:
        """Files that are there, empty."""
        for name in names:
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            (self.root / name).touch()

    def facts(self) -> dict[str, object]:
        """Every name in the tree with all that could change of it."""
        found: dict[str, object] = {}
        for path in sorted(self.root.rglob("*")):
            entry = path.lstat()
            holds = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else b""
            found[str(path.relative_to(self.root))] = (entry.st_ino, entry.st_mode, entry.st_mtime_ns, holds)
        return found


@pytest.fixture
def tree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Tree:
    """A tree with systemd and nothing that makes initrds."""
    root = tmp_path / "root"
    for name in ("etc/nuketown", "usr/lib/systemd", "usr/sbin"):
        (root / name).mkdir(parents=True)
    (root / "usr/lib/systemd/systemd").touch()
    tree = Tree(root, capsys)
    tree.spec()
    return tree


def rebuild(kind: str) -> str:
    """The command that makes initrds of a kind anew."""
    return " ".join(initrd.rebuild("dracut" if kind == "dracut" else "initramfs-tools"))
