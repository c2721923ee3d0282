"""A town on plain directories, synced: what tests of the store begin from; and the scene that `tampering` works on."""

import os
import shutil
from pathlib import Path

import pytest

from persist.bucket import agents, leases, tombs
from persist.bucket.opening import open_bucket
from persist.bucket.tombs import Tomb
from tests.machine.stores import source, with_store
from tests.machine.tampering import Scene
from tests.machine.towns import ADA, VOX, Town, undo


def plain(base: Path, capsys: pytest.CaptureFixture[str]) -> Town:
    """A town without btrfs whose agents have a project each, synced once."""
    base.mkdir(mode=0o755)
    there = Town(base, "", capsys)
    there.agents.mkdir()
    with_store(there, '["projects"]', '["projects"]')
    for agent, uid in (("ada", ADA), ("vox", VOX)):
        path = source(there, agent=agent)
        path.mkdir(parents=True)
        os.chown(path, uid, uid)
        (path / "dir").mkdir()
        (path / "dir/f").write_bytes(os.urandom(2000))
        (path / "g").write_text(agent * 1000)
    for above in (there.persisted, there.persisted / "agents"):
        above.chmod(0o755)
    assert there.persist("init", "--store").status == 0
    assert there.persist("sync").status == 0
    return there


def objects(town: Town, prefix: str) -> list[Path]:
    """Every object of the store below a prefix."""
    return sorted(path for path in (town.base / "store" / prefix).rglob("*") if path.is_file())


def homes(town: Town) -> Path:
    """Where ada's projects lie when they are declared `via = "store"`."""
    return town.agents / "ada/projects"


def scene(base: Path, capsys: pytest.CaptureFixture[str]) -> tuple[Town, Scene]:
    """A town whose agents keep their projects in the store alone; three commits, a branch, leases, tombs, two keys."""
    base.mkdir(mode=0o755)
    there = Town(base, "", capsys)
    there.agents.mkdir()
    there.persisted.mkdir(mode=0o755)
    with_store(there, '[{ path = "projects", via = "store" }]', '[{ path = "projects", via = "store" }]')
    ok(there, "init", "--store")
    ok(there, "restore")
    for number in range(3):
        for agent, uid in (("ada", ADA), ("vox", VOX)):
            path = there.agents / agent / "projects"
            (path / f"d{number}").mkdir()
            (path / f"d{number}/f").write_bytes(os.urandom(3000))
            (path / "changing").write_text(f"{agent} {number}")
            for made in (path / f"d{number}", path / f"d{number}/f", path / "changing"):
                os.chown(made, uid, uid)
        ok(there, "sync")
        if number == 0:
            shutil.copytree(there.base / "store", there.base / "older")
    bucket = open_bucket(there.spec)
    for name in ("ada", "ada", "vox"):
        tombs.write(bucket.store, bucket.keys(name), Tomb(frozenset({os.urandom(32).hex()})))
    held = leases.current(agents.listed(bucket.store, bucket.keys("ada")))
    assert held is not None
    leases.write(bucket.store, bucket.keys("ada"), held.sequence + 1, held.machine, "keep", "another host")
    ok(there, "key", "add", another())
    _branch(there)
    other = Town(base / "other", "", capsys)
    other.base.mkdir()
    other.agents.mkdir()
    other.persisted.mkdir()
    with_store(other)
    ok(other, "init", "--store")
    ok(other, "restore")
    ok(other, "sync")
    undo(other.base)
    return there, Scene(there.base / "store", open_bucket(there.spec), there.base / "older", other.base / "store")


def another() -> str:
    """A recipient that nobody has."""
    import pyrage

    return str(pyrage.x25519.Identity.generate().to_public())


def ok(town: Town, *words: str) -> None:
    """A command that must end well."""
    said = town.persist(*words)
    assert said.status == 0, said


def _branch(town: Town) -> None:
    """What a machine writes that has lost its lease: the newest commit once more, as a branch."""
    from persist.bucket import commits
    from persist.bucket.commits import Name

    bucket = open_bucket(town.spec)
    keys = bucket.keys("ada")
    head = Name.parsed(max(path.name for path in (town.base / "store/agents" / keys.place).glob("commit-*")))
    commits.write(bucket.store, keys, commits.read(bucket.store, keys, head), kind="branch")
