"""What this machine remembers of the store: opening it asks for nothing, and what does not fit any more is noticed."""

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from persist.bucket import keyfile, lock, opening, remembered
from persist.bucket.opening import open_bucket
from persist.store import KeyMismatch, StoreUnreachable
from persist.store.directory import DirectoryStore
from tests.machine.keystores import identity, named, objects, spec, town
from tests.machine.towns import Town

__all__ = ["town"]
pytestmark = pytest.mark.root


def state(town: Town) -> Path:
    return town.spec.state_dir / remembered.DIRECTORY


def age(town: Town, seconds: float) -> None:
    """Make what is remembered that much older."""
    was = (state(town) / "url").stat().st_mtime
    os.utime(state(town) / "url", (was - seconds, was - seconds))


def test_opening_again_sends_no_request(town: Town) -> None:
    first = open_bucket(town.spec)
    second = open_bucket(town.spec)
    assert first.asked
    assert first.store.requests > 0
    assert not second.asked
    assert second.store.requests == 0
    assert (second.key, second.earlier) == (first.key, first.earlier)


def test_who_asks_is_answered_by_the_store(town: Town) -> None:
    open_bucket(town.spec)
    assert open_bucket(town.spec, ask=True).asked


def test_what_is_kept_is_the_encrypted_file_and_roots_only(town: Town) -> None:
    bucket = open_bucket(town.spec)
    kept = {path.name: path.read_bytes() for path in state(town).iterdir()}
    assert kept == {
        "config": objects(town)["config"],
        "key-0000000000000001": objects(town)[keyfile.name(1)],
        "url": (town.spec.town.store or "").encode(),
    }
    assert bucket.key.secret.hex().encode() not in b"".join(kept.values())
    for path in (state(town), *state(town).iterdir()):
        assert (path.stat().st_uid, stat.S_IMODE(path.stat().st_mode) & 0o077) == (0, 0)


def test_who_is_told_to_remember_nothing_writes_nothing(town: Town) -> None:
    assert open_bucket(town.spec, remember=False).asked
    assert not state(town).exists()


@pytest.mark.parametrize("name", ["config", "url", "key-0000000000000001"])
@pytest.mark.parametrize("damage", ["gone", "cut", "changed", "empty", "directory", "fifo", "link", "huge"])
def test_what_is_damaged_is_fetched_anew(town: Town, name: str, damage: str) -> None:
    before = open_bucket(town.spec)
    path = state(town) / name
    data = path.read_bytes()
    path.unlink()
    match damage:
        case "cut":
            path.write_bytes(data[: len(data) // 2])
        case "changed":
            path.write_bytes(data.replace(b"e", b"f"))
        case "empty":
            path.touch()
        case "directory":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
        case "link":
            path.symlink_to(town.base / "store" / "config")
        case "huge":
            path.write_bytes(data + b"#" * (1 << 20))
    found = open_bucket(town.spec)
    assert found.asked
    assert found.key == before.key


def test_what_was_remembered_of_another_url_does_not_count(town: Town) -> None:
    open_bucket(town.spec)
    (town.base / "store").rename(town.base / "moved")
    town.file.write_text(town.file.read_text().replace(f"{town.base}/store", f"{town.base}/moved"))
    assert open_bucket(town.spec).asked
    assert (state(town) / "url").read_text() == f"file://{town.base}/moved"
    assert not open_bucket(town.spec).asked


def test_a_lock_that_names_a_newer_key_makes_it_ask(town: Town) -> None:
    """The key was rotated on another machine, and its lock came with the spec."""
    open_bucket(town.spec)
    kept = town.base / "kept"
    shutil.copytree(state(town), kept)
    town.persist("key", "rotate")
    shutil.rmtree(state(town))
    kept.rename(state(town))
    found = open_bucket(town.spec)
    assert (found.asked, found.key.epoch) == (True, 2)
    assert not open_bucket(town.spec).asked
    assert [path.name for path in state(town).glob("key-*")] == ["key-0000000000000002"]


def test_the_store_is_asked_once_a_day_so_that_what_others_changed_is_noticed(town: Town) -> None:
    open_bucket(town.spec)
    kept = {path.name: path.read_bytes() for path in state(town).iterdir()}
    town.persist("key", "add", identity(town.base, "new"))  # as another machine would: this one did not see it
    shutil.rmtree(state(town))
    state(town).mkdir(0o700)
    for name, data in kept.items():
        (state(town) / name).write_bytes(data)
    age(town, opening.ASK - 60)
    assert not open_bucket(town.spec).asked
    age(town, 120)
    assert open_bucket(town.spec).asked
    assert (state(town) / "key-0000000000000002").exists()
    assert not open_bucket(town.spec).asked


def test_a_rotation_elsewhere_is_said_within_a_day_where_the_lock_did_not_come(town: Town) -> None:
    open_bucket(town.spec)
    old = (town.base / lock.NAME).read_bytes()
    shutil.copytree(state(town), town.base / "kept")
    town.persist("key", "rotate")
    (town.base / lock.NAME).write_bytes(old)
    shutil.rmtree(state(town))
    (town.base / "kept").rename(state(town))
    assert not open_bucket(town.spec).asked
    age(town, opening.ASK)
    with pytest.raises(KeyMismatch, match="was rotated"):
        open_bucket(town.spec)


def test_a_time_in_the_future_makes_it_ask(town: Town) -> None:
    open_bucket(town.spec)
    age(town, -3600)
    assert open_bucket(town.spec).asked


def test_what_is_a_day_old_is_enough_while_the_store_cannot_be_reached(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_bucket(town.spec)
    age(town, opening.ASK)

    def away(*_: object) -> bytes:
        raise StoreUnreachable("nobody answers")

    monkeypatch.setattr(DirectoryStore, "get", away)
    assert not open_bucket(town.spec).asked


def test_a_state_directory_that_others_can_change_is_not_believed(town: Town) -> None:
    open_bucket(town.spec)
    state(town).chmod(0o755)
    assert open_bucket(town.spec).asked


def test_a_store_that_was_made_anew_is_not_taken_for_a_changed_one(town: Town) -> None:
    open_bucket(town.spec)
    shutil.rmtree(town.base / "store")
    (town.base / lock.NAME).unlink()
    assert town.persist("init", "--store").status == 0
    assert open_bucket(town.spec).asked
    assert not open_bucket(town.spec).asked


def test_a_machine_whose_key_was_changed_is_told_so(town: Town) -> None:
    open_bucket(town.spec)
    identity(town.base, "new")
    spec(town, key="new")
    said = town.persist("log")
    assert said.status == 1
    assert "no key at hand opens the store's key file" in said.err
    assert named(town, "here") in said.err


def test_opening_by_what_is_remembered_imports_neither_boto3_nor_gnupg(town: Town) -> None:
    open_bucket(town.spec)
    program = (
        "import sys, pathlib\nfrom town import spec\nfrom persist.bucket.opening import open_bucket\n"
        f"assert not open_bucket(spec.load(pathlib.Path({str(town.file)!r}))).asked\n"
        "print(*(name for name in ('boto3', 'botocore', 'gnupg', 'zstandard', 'blake3', 'tomlkit', 'rich') "
        "if name in sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=Path.cwd())
    assert (ran.stdout, ran.stderr) == ("\n", "")
