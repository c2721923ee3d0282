"""The store in a directory: what it leaves on the disk, and what it refuses."""

import os
import stat
import time
from pathlib import Path

import pytest

from persist.store import ObjectMissing, StoreMissing, open_store
from persist.store.directory import DirectoryStore
from town.failure import Failure, Unsafe
from town.spec import Btrfs, HostKey, Spec, Sync, Town


@pytest.fixture
def path(tmp_path: Path) -> Path:
    DirectoryStore.make(tmp_path / "store")
    return tmp_path / "store"


def test_nothing_in_it_can_be_read_by_others(path: Path) -> None:
    old = os.umask(0)
    try:
        store = DirectoryStore(path)
        store.put("packs/a/b", b"secret")
        store.put("lease", b"1")
        store.replace_if_unchanged("lease", b"1", b"2")
    finally:
        os.umask(old)
    for found in [path, *path.rglob("*")]:
        assert stat.S_IMODE(found.stat().st_mode) == (0o700 if found.is_dir() else 0o600), found


def test_a_symlink_in_it_is_not_followed(path: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"outside")
    (path / "link").symlink_to(tmp_path / "secret")
    (path / "packs").symlink_to(tmp_path)
    store = DirectoryStore(path)
    with pytest.raises(Unsafe):
        store.get("link")
    with pytest.raises(Unsafe):
        store.get("packs/secret")
    with pytest.raises(Unsafe):
        store.put("packs/new", b"x")
    assert not store.put_if_absent("link", b"x")
    assert not (tmp_path / "new").exists()
    assert (tmp_path / "secret").read_bytes() == b"outside"


def test_a_fifo_in_it_does_not_hang(path: Path) -> None:
    os.mkfifo(path / "config")
    with pytest.raises(Failure, match="not a regular file"):
        DirectoryStore(path).get("config")


def test_a_store_that_is_not_there_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(StoreMissing) as caught:
        DirectoryStore(tmp_path / "none")
    assert "persist init --store" in caught.value.hint
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreMissing):
        DirectoryStore(tmp_path / "file")


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o755])
def test_a_store_that_others_can_look_into_or_change_is_refused(path: Path, mode: int) -> None:
    DirectoryStore(path).put("a", b"x")
    path.chmod(mode)
    with pytest.raises(Unsafe, match="others can"):
        DirectoryStore(path)


@pytest.mark.parametrize("mode", [0o777, 0o755, 0o710])
def test_an_empty_directory_that_is_open_to_others_is_a_place_to_mount_at(path: Path, mode: int) -> None:
    path.chmod(mode)
    with pytest.raises(StoreMissing, match="is empty, so it is not the store") as caught:
        DirectoryStore(path)
    assert "mount" in caught.value.hint
    with pytest.raises(Unsafe, match="others can"):
        DirectoryStore.make(path)


def test_only_the_last_component_is_made(tmp_path: Path) -> None:
    with pytest.raises(StoreMissing, match=r"none, where the store .*none/store would lie, is not there"):
        DirectoryStore.make(tmp_path / "none/store")
    assert not (tmp_path / "none").exists()


def test_a_store_below_a_directory_that_others_can_change_is_refused(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    DirectoryStore.make(tmp_path / "open/store")
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(Unsafe, match="others can change"):
        DirectoryStore(tmp_path / "open/store")


@pytest.mark.root
def test_a_store_in_the_home_of_an_agent_is_refused(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    DirectoryStore.make(tmp_path / "home/store")
    os.chown(tmp_path / "home", 1100, 1100)
    with pytest.raises(Unsafe, match="others can change"):
        DirectoryStore(tmp_path / "home/store")


def test_a_half_written_object_is_none_and_is_swept_when_it_is_old(path: Path) -> None:
    store = DirectoryStore(path)
    store.put("packs/a", b"x")
    old, young = path / "packs/.new-old", path / "packs/.new-young"
    for left in (old, young):
        left.write_bytes(b"half")
    os.utime(old, (time.time() - 90_000,) * 2)
    assert [found.key for found in store.list("")] == ["packs/a"]
    DirectoryStore(path).put("packs/b", b"y")
    assert not old.exists()
    assert young.exists()


def test_a_writer_that_is_killed_leaves_no_object(path: Path) -> None:
    child = os.fork()
    if child == 0:
        try:
            os.link = lambda *_a, **_k: os.kill(os.getpid(), 9)  # type: ignore[assignment]
            DirectoryStore(path).put("packs/a", b"x" * 1000)
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -9
    store = DirectoryStore(path)
    assert list(store.list("")) == []
    with pytest.raises(ObjectMissing):
        store.get("packs/a")
    store.put("packs/a", b"whole")


def spec_with(store: str | None, tmp_path: Path) -> Spec:
    town = Town(
        "t.local", Path("/agents"), None, store, Path("s.yaml"), Path("r.yaml"), None, None, None, HostKey(),
        Btrfs("/dev/x"), Sync(),
    )  # fmt: skip
    return Spec(town, (), tmp_path / "town.toml")


def test_a_town_without_a_store_must_change_its_spec(tmp_path: Path) -> None:
    with pytest.raises(StoreMissing, match="no store") as none:
        open_store(spec_with(None, tmp_path))
    assert none.value.status == 78


def test_the_directory_of_a_url_is_opened(path: Path, tmp_path: Path) -> None:
    DirectoryStore(path).put("a", b"x")
    assert open_store(spec_with(f"file://{path}", tmp_path)).get("a") == b"x"
