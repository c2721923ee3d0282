"""Where a sync's snapshots lie, shown by what mounts: with it a sync needs no mount and no device of its own."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from persist import ground, snapshots
from persist.leftovers import SNAPSHOTS
from tests.machine import stores, towns
from tests.machine.towns import AS_ADA, Town, as_agent, town
from town import btrfs, files, kernel, mounts

pytestmark = pytest.mark.root
__all__ = ["town"]


@pytest.fixture
def shown(town: Town, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Shown as at boot, below a /run of the test's own."""
    place = tmp_path / "run/nuketown/snapshots"
    place.parent.parent.mkdir()
    monkeypatch.setattr(snapshots, "SHOWN", place)
    _show(town)
    yield place
    towns.undo(place)


def _show(town: Town) -> None:
    with ground.opened(town.spec) as here:
        snapshots.show(fd for fd in here if fd is not None)


def test_one_directory_of_each_filesystem_is_shown_once_and_no_more(town: Town, shown: Path) -> None:
    _show(town)
    (mount,) = mounts.below(shown)
    assert mount.root == f"/{SNAPSHOTS}".encode()
    assert {"nosuid", "nodev", "noexec"} <= mount.options
    assert list(shown.iterdir()) == [Path(os.fsdecode(mount.target))]


def test_no_agent_gets_in(town: Town, shown: Path) -> None:
    (place,) = shown.iterdir()
    done = as_agent(AS_ADA, Path("/"), f"import os; os.listdir({str(place)!r})", check=False)
    assert b"PermissionError" in done.err


def test_a_snapshot_is_made_without_a_mount(town: Town, shown: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "mount_detached", _none)
    with files.opened(files.open_dir(town.agents)) as agents:
        found = snapshots.shown(agents)
        assert found is not None
        with files.opened(found), files.opened(btrfs.snapshot(agents, found, "x", read_only=True)) as taken:
            assert btrfs.info(taken).parent_uuid == btrfs.info(agents).uuid
            btrfs.delete(found, "x")


def test_a_sync_takes_its_snapshot_there_and_leaves_nothing(
    town: Town, shown: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores.with_store(town)
    assert town.persist("init", "--store").status == 0
    assert town.persist("restore").status == 0
    (stores.source(town) / "a").write_text("a")
    taken = []
    snapshot = btrfs.snapshot
    monkeypatch.setattr(kernel, "mount_detached", _none)
    monkeypatch.setattr(btrfs, "snapshot", lambda *words, **more: taken.append(words) or snapshot(*words, **more))
    said = town.persist("sync", "ada")
    assert (said.status, said.err) == (0, "")
    assert "1 file, 1 B" in said.out
    assert len(taken) == 1, "the files were not read as they change"
    (place,) = shown.iterdir()
    assert list(place.iterdir()) == []


def _none(*_: object) -> int:
    raise AssertionError("a mount was made")


@pytest.mark.parametrize("what", ["directory", "other", "top"])
def test_what_lies_there_and_is_not_that_directory_is_not_taken_for_it(town: Town, shown: Path, what: str) -> None:
    (place,) = shown.iterdir()
    towns.undo(shown)
    if what == "other":
        kernel.mount("tmpfs", str(place), "tmpfs", 0, "mode=0700")
    elif what == "top":
        kernel.mount(town.device, str(place), "btrfs", 0, "subvolid=5")
        place.chmod(0o700)
    with files.opened(files.open_dir(town.agents)) as agents:
        assert snapshots.shown(agents) is None
