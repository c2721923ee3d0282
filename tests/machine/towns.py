"""A small town on a real btrfs, below the test's own directory: @agents mounted, persist_dir on a subvolume beside it.

A module that uses the fixture `town` imports it by that name. Everything it mounts is gone when the test ends.
"""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from persist import cli, proof
from tests.reach import PYTHON
from town import btrfs, files, kernel, mounts, process, spec, standing
from town.process import Person

ADA, VOX = 41100, 41101
AS_ADA, AS_VOX = Person(ADA, ADA), Person(VOX, VOX)


@dataclass(frozen=True)
class Said:
    """What a command left."""

    status: int
    out: str
    err: str


@dataclass(frozen=True)
class Town:
    """One town: its spec file, where things are mounted, and the commands on it."""

    base: Path
    device: str
    capsys: pytest.CaptureFixture[str]

    @property
    def file(self) -> Path:
        return self.base / "town.toml"

    @property
    def agents(self) -> Path:
        return self.base / "agents"

    @property
    def persisted(self) -> Path:
        return self.base / "persist"

    @property
    def proof(self) -> Path:
        """What the hook leaves in /run on a machine: each test has its own place for it."""
        return self.base / "hook/rollback"

    @property
    def spec(self) -> spec.Spec:
        return spec.load(self.file)

    def write(self, ada: str, vox: str = "[]", town: str = "", *, btrfs_device: str | None = None) -> None:
        """The spec, with what ada and vox persist as TOML arrays and `town` as further keys of [town]."""
        device = self.device if btrfs_device is None else btrfs_device
        on_btrfs = f'[town.btrfs]\ndevice = "{device}"\n' if device else ""
        self.file.write_text(
            f'[town]\nagents_dir = "{self.agents}"\npersist_dir = "{self.persisted}"\n{town}\n{on_btrfs}'
            f"[agents.ada]\nuid = {ADA}\npersist = {ada}\n[agents.vox]\nuid = {VOX}\npersist = {vox}\n"
        )

    def persist(self, *words: str) -> Said:
        """The command `persist`, in this process."""
        self.capsys.readouterr()
        status = cli.main(["--spec", str(self.file), *words])
        said = self.capsys.readouterr()
        return Said(status, said.out, said.err)

    def prove(self, **changed: str) -> None:
        """The hook's proof for what is mounted now, but for `changed`; an empty value leaves a key out."""
        with files.opened(files.open_dir(self.agents)) as fd:
            there = btrfs.info(fd)
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        right = {"version": "1", "boot_id": boot, "subvolume": "@agents", "uuid": str(there.uuid), "id": str(there.id)}
        lines = [f"{key}={value}\n" for key, value in (right | changed).items() if value]
        self.proof.parent.mkdir(exist_ok=True)
        self.proof.write_text("".join(lines))

    def boot(self, key: str) -> None:
        """What the hook does: @agents aside under @agents-old/KEY, a blank one in its place, mounted; its proof."""
        undo(self.agents)
        with btrfs.top_level(self.device) as top:
            os.rename("@agents", f"@agents-old/{key}", src_dir_fd=top, dst_dir_fd=top)
            os.close(btrfs.create(top, "@agents"))
            btrfs.commit(top)
        self.mount()
        self.prove()

    def mount(self) -> None:
        kernel.mount(self.device, str(self.agents), "btrfs", 0, "subvol=@agents")


def as_agent(person: Person, home: Path, program: str, *, check: bool = True) -> process.Done:
    """Python source run as the agent, in its home."""
    return process.run([PYTHON, "-c", program], person=person, cwd=home, check=check, env={"HOME": str(home)})


def undo(path: Path) -> None:
    """Unmount everything at and below `path`, however often something was mounted there."""
    for found in mounts.below(path):
        kernel.umount(os.fsdecode(found.target), kernel.MNT_DETACH)
    while mounts.at(path) is not None:
        kernel.umount(str(path), kernel.MNT_DETACH)


@contextlib.contextmanager
def made(base: Path, device: str, capsys: pytest.CaptureFixture[str]) -> Iterator[Town]:
    """A town on the filesystem on `device`, everything below `base`."""
    town = Town(base, device, capsys)
    with btrfs.top_level(device) as top:
        for name in ("@agents", "@agents-blank", "@persist"):
            os.close(btrfs.create(top, name))
        os.mkdir("@agents-old", 0o700, dir_fd=top)
    for path, subvolume in ((town.agents, "@agents"), (town.persisted, "@persist")):
        path.mkdir()
        kernel.mount(device, str(path), "btrfs", 0, f"subvol={subvolume}")
    town.write('["projects"]')
    town.prove()
    try:
        yield town
    finally:
        undo(base)


@pytest.fixture
def town(btrfs_device: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Town]:
    """The town of a test: ada persists `projects`, vox nothing, until the test writes another spec."""
    base = tmp_path / "town"
    base.mkdir()
    # Not the test's own monkeypatch: a test that undoes its changes keeps its proof.
    with made(base, btrfs_device, capsys) as there, pytest.MonkeyPatch.context() as ours:
        ours.setattr(proof, "PROOF", there.proof)
        ours.setattr(standing, "RUN", base / "run")
        yield there


def facts(path: Path) -> list[tuple[str, int, int, int, int, int]]:
    """Every directory and file at and below `path`: name, inode, mode, owner, size, mtime in ns."""
    found = []
    for above, directories, names in os.walk(path):
        for name in [".", *directories, *names]:
            entry = os.lstat(os.path.join(above, name))
            found.append(
                (os.path.join(above, name), entry.st_ino, entry.st_mode, entry.st_uid, entry.st_size, entry.st_mtime_ns)
            )
    return sorted(found)


def is_subvolume(path: Path) -> bool:
    with files.opened(files.open_dir(path)) as fd:
        return btrfs.is_subvolume(fd)
