"""What the verbs of the store say when something is in the way: the cure that is named is one that works."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from persist.bucket.opening import open_bucket
from persist.progress import Progress
from persist.store import StoreFull
from persist.store.directory import DirectoryStore
from persist.sync import history, local
from tests.machine.hostile import objects, plain
from tests.machine.stores import source
from tests.machine.test_sync_machines import another, bring, listing
from tests.machine.towns import Town, undo
from town import kernel

pytestmark = pytest.mark.root
Pair = tuple[Town, Town]


@pytest.fixture
def one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Town]:
    yield plain(tmp_path / "one", capsys)
    undo(tmp_path)


@pytest.fixture
def lost(one: Town, tmp_path: Path) -> Pair:
    """Two machines; the second took ada over, and the first was told so."""
    two = another(one, tmp_path / "two")
    bring(two)
    (source(two) / "g").write_text("changed on two")
    assert two.persist("sync", "ada").status == 0
    (source(one) / "g").write_text("changed on one")
    return one, two


def test_init_asks_the_store_itself_whether_it_is_there(one: Town) -> None:
    open_bucket(one.spec)  # this machine remembers its key
    store = DirectoryStore(one.base / "store")
    for found in list(store.list("")):
        store.delete(found.key)
    store.put("other", b"not empty: the directory is mounted")
    said = one.persist("init", "--store")
    assert said.status == 1
    assert "it is there and opens" not in said.err
    assert "hint: it cannot be used" in said.err


def test_who_cannot_open_the_key_is_told_to_be_let_in_and_to_edit_nothing(one: Town) -> None:
    key = one.base / "host.age"
    key.unlink()
    subprocess.run(["age-keygen", "-o", key], check=True, capture_output=True)
    said = one.persist("log")
    assert said.status == 1
    assert "can open it: persist key " in said.err
    assert "add RECIPIENT" in said.err
    assert "updatekeys" not in said.err


def test_status_tells_that_another_machine_has_it_until_this_one_goes_on(lost: Pair) -> None:
    one, two = lost
    said = one.persist("sync", "ada")
    assert said.status == 1
    (branch,) = listing(one).branches
    said = one.persist("status", "ada")
    assert "ada: good" not in said.out
    assert f"kept as the branch {branch.short}, and not synced" in said.out
    assert one.persist("sync", "--take-over", "ada").status == 0
    assert "and not synced" not in one.persist("status", "ada").out
    assert two.persist("sync", "ada").status != 0


def test_who_lost_it_gets_what_the_store_has_by_the_command_that_is_named(lost: Pair) -> None:
    one, _ = lost
    said = one.persist("sync", "ada")
    command = said.err.split("what the store has: persist ")[1].split(" (what lies here")[0]
    words = command.split()
    assert words[0] == "restore"
    assert one.persist(*words).status == 0
    assert (source(one) / "g").read_text() == "changed on two"
    assert one.persist("sync", "ada").status == 0
    assert "and not synced" not in one.persist("status", "ada").out


def test_who_may_not_restore_yet_is_told_how_with_the_state_that_was_asked_for(one: Town, tmp_path: Path) -> None:
    two = another(one, tmp_path / "two")
    (source(one) / "g").write_text("more")
    assert one.persist("sync", "ada").status == 0
    (at, *_) = sorted(name.short for name in listing(one).commits)
    said = two.persist("restore", "--at", at, "ada")
    assert said.status == 75
    assert "--release gives the lease back" in " ".join(said.err.split())
    assert "clean shutdown" not in said.err
    assert f"--take-over --at {at} ada" in said.err


def test_a_release_that_fails_says_what_was_synced_first(one: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    (source(one) / "g").write_text("more")

    def fails(*_: object) -> bool:
        raise StoreFull("no room for a lease", hint="make room")

    monkeypatch.setattr(history, "release", fails)
    said = one.persist("sync", "--release", "ada")
    assert said.status == 1
    assert said.out.startswith("ada: ")
    assert "no room for a lease" in said.err
    said = one.persist("sync", "--release", "--json", "ada")
    assert said.status == 1
    assert '"agent": "ada"' in said.out


def test_what_was_sent_for_a_path_that_stopped_is_no_new_state(one: Town) -> None:
    for name in ("w", "x", "y", "z"):
        (source(one) / name).write_bytes(os.urandom(100_000))
    assert one.persist("sync", "ada").status == 0
    before = listing(one).commits
    packs = objects(one, "packs/")
    for path in [path for path in source(one).iterdir() if path.name != "z"]:
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    (source(one) / "z").write_bytes(os.urandom(200_000))
    said = one.persist("sync", "ada")
    assert said.status != 0
    assert objects(one, "packs/") != packs, "something was sent for it"
    assert listing(one).commits == before


@pytest.mark.parametrize("words", [("get", "ada", "projects"), ("verify",), ("prune",), ("sync",), ("restore",)])
def test_a_rate_that_is_none_is_wrong_usage(one: Town, words: tuple[str, ...]) -> None:
    said = one.persist(*words, "--limit-rate", "fast")
    assert said.status == 2
    assert "--limit-rate" in said.err
    assert "10M" in said.err


@pytest.mark.parametrize(
    "words", [("verify", "--read-data", "100%", "ada"), ("get", "ada", "projects/big", "--to", "{}")]
)
def test_a_rate_slows_what_reads_the_store_down(one: Town, words: tuple[str, ...]) -> None:
    (source(one) / "big").write_bytes(os.urandom(600_000))
    assert one.persist("sync", "ada").status == 0
    began = time.monotonic()
    said = one.persist(*(word.format(one.base / "look") for word in words), "--limit-rate", "500K")
    assert said.status == 0, said.err
    assert time.monotonic() - began > 1


def test_a_rate_slows_a_prune_down(one: Town) -> None:
    took = []
    for more in ((), ("--limit-rate", "1K")):
        began = time.monotonic()
        assert one.persist("prune", *more, "ada").status == 0
        took.append(time.monotonic() - began)
    assert took[1] > took[0] + 0.5


def test_a_sync_that_reads_all_again_knows_how_much_is_to_come(one: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = list[tuple[int | None, int | None]]()
    monkeypatch.setattr(Progress, "expect", lambda _, files, bytes_: expected.append((files, bytes_)))
    (source(one) / "g").write_text("changed")
    assert one.persist("sync", "ada").status == 0
    assert set(expected) == {(None, None)}, "who reads a little knows nothing of the rest"
    (one.spec.state_dir / "index/ada.sqlite").unlink()
    held = local.record(one.spec, one.spec.agent("ada")).last
    assert held is not None
    assert one.persist("sync", "ada").status == 0
    assert expected[-1] == (held.files, held.bytes)


@pytest.mark.parametrize("number", ["-5", "x", "1.5", "٣"])
def test_a_generation_that_is_none_is_wrong_usage(one: Town, number: str) -> None:
    said = one.persist("restore", "--at-least", number, "ada")
    assert said.status == 2
    assert "at-least" in said.err


def test_a_recipient_that_is_none_is_repeated_unless_it_may_be_a_secret(one: Town) -> None:
    said = one.persist("key", "add", "jo\x1bsh")
    assert said.status == 2
    said = one.persist("key", "add", "josh")
    assert (said.status, 'the recipient "josh" is no recipient' in said.err) == (2, True)
    said = one.persist("key", "add", "AGE-SECRET-KEY-1QQQQ")
    assert said.status == 2
    assert "1QQQQ" not in said.err


def test_a_full_disk_is_named_with_where_room_is_wanted(tmp_path: Path) -> None:
    place = tmp_path / "full"
    place.mkdir()
    kernel.mount("tmpfs", str(place), "tmpfs", kernel.MOUNT_NOSUID, "size=1m,mode=0700")
    try:
        store = DirectoryStore.make(place / "store")
        with pytest.raises(StoreFull) as caught:
            store.put("a", os.urandom(2 << 20))
        assert f"make room in {place}/store" in caught.value.hint
        del store
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def test_an_output_that_is_full_is_told_as_that(one: Town) -> None:
    (source(one) / "big").write_bytes(os.urandom(1 << 20))
    assert one.persist("sync", "ada").status == 0
    with Path("/dev/full").open("wb") as full:
        argv = [sys.executable, "-m", "persist.cli", "--spec", str(one.file), "get", "ada", "projects/big"]
        done = subprocess.run(argv, check=False, stdout=full, stderr=subprocess.PIPE, cwd=Path(__file__).parents[2])
    assert done.returncode == 1
    assert b"standard output: No space left on device" in done.stderr
    assert b"make room where standard output goes" in done.stderr
