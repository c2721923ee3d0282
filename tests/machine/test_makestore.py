"""`persist init --store`: once, whole, and finished after an interruption without a second key."""

import fcntl
import os
import stat
from pathlib import Path

import pytest

from persist.bucket import keyfile, lock
from persist.bucket.opening import open_bucket
from persist.store.directory import DirectoryStore
from tests.machine.keystores import Cut, cut_at, empty_store, objects
from tests.machine.stores import with_store
from tests.machine.towns import Town
from town import sops

pytestmark = pytest.mark.root
KEY = keyfile.name(1)


@pytest.fixture
def town(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Town:
    base = tmp_path / "town"
    base.mkdir()
    made = Town(base, "", capsys)
    with_store(made)
    return made


def test_it_makes_a_key_for_the_recipients_and_a_lock_that_fits(town: Town) -> None:
    said = town.persist("init", "--store")
    assert (said.status, said.err) == (0, "")
    assert sorted(objects(town)) == ["config", KEY]
    assert sops.recipients_of(objects(town)[KEY], "key") == ((town.base / "recipient").read_text(),)
    found = lock.read(town.spec)
    assert found is not None
    assert found.fits(open_bucket(town.spec).key)
    assert open_bucket(town.spec).key.secret.hex() not in lock.NAME.name + found.text
    assert not (town.base / lock.BEGUN).exists()


def test_no_text_of_it_shows_the_key(town: Town) -> None:
    town.persist("init", "--store")
    bucket = open_bucket(town.spec)
    text = f"{bucket!r} {bucket.keys('ada')!r} {bucket.key!r}"
    assert bucket.key.secret.hex() not in text
    assert repr(bucket.key.secret)[2:-1] not in text
    assert repr(bucket.keys("ada").pack)[2:-1] not in text


def test_a_second_run_is_refused_and_changes_nothing(town: Town) -> None:
    town.persist("init", "--store")
    before = objects(town), (town.base / lock.NAME).read_bytes()
    said = town.persist("init", "--store")
    assert said.status == 1
    assert "the town has a store already" in said.err
    assert (objects(town), (town.base / lock.NAME).read_bytes()) == before


def test_a_lock_without_a_store_is_no_reason_to_make_one(town: Town) -> None:
    town.persist("init", "--store")
    empty_store(town)
    said = town.persist("init", "--store")
    assert said.status == 1
    assert objects(town) == {}


@pytest.mark.parametrize("name", [KEY, "config", "holiday.jpg"])
def test_a_place_that_holds_something_is_refused(town: Town, name: str) -> None:
    DirectoryStore.make(town.base / "store").put(name, b"not ours")
    said = town.persist("init", "--store")
    assert said.status == 1
    assert f"the place is taken: it holds {name}" in said.err
    assert objects(town) == {name: b"not ours"}
    assert lock.read(town.spec) is None


def test_a_dry_run_makes_nothing(town: Town) -> None:
    said = town.persist("init", "--store", "--dry-run")
    assert said.status == 0
    assert "store.lock.toml" in said.out
    assert not (town.base / "store").exists()
    assert not (town.base / "identities").exists()


def test_without_recipients_nothing_is_made(town: Town) -> None:
    town.write('["projects"]', town=f'store = "file://{town.base}/store"\n')
    said = town.persist("init", "--store")
    assert said.status == 1
    assert "at least one human" in said.err
    assert not (town.base / "store").exists()


def test_creation_rules_name_the_recipients_too(town: Town) -> None:
    recipient = (town.base / "recipient").read_text()
    (town.base / ".sops.yaml").write_text(f"creation_rules:\n  - path_regex: secrets/\n    age: {recipient}\n")
    town.write('["projects"]', town=f'store = "file://{town.base}/store"\nhost_key.age = "{town.base}/host.age"\n')
    assert town.persist("init", "--store").status == 0
    assert open_bucket(town.spec)


def test_a_machine_that_could_not_use_its_own_store_says_so(town: Town) -> None:
    (town.base / "host.age").unlink()
    said = town.persist("init", "--store")
    assert said.status == 0
    assert "this machine cannot use the store" in said.err


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(
    ("where", "name", "number"),
    [
        (DirectoryStore, "put_if_absent", 1),
        (DirectoryStore, "put_if_absent", 2),
        (lock, "write", 1),
        (lock, "write", 2),
    ],
)
def test_cut_off_anywhere_it_is_finished_by_the_next_run(
    town: Town, monkeypatch: pytest.MonkeyPatch, where: object, name: str, number: int, after: bool
) -> None:
    with monkeypatch.context() as patch:
        cut_at(patch, where, name, number, after=after)
        with pytest.raises(Cut):
            town.persist("init", "--store")
    key = objects(town).get(KEY)
    assert town.persist("sync").status == 1 or lock.read(town.spec) is not None
    assert town.persist("init", "--store").status == 0
    assert key in (None, objects(town)[KEY])  # never a second key
    assert open_bucket(town.spec)
    assert not (town.base / lock.BEGUN).exists()
    assert town.persist("init", "--store").status == 1


def test_a_key_that_somebody_put_there_meanwhile_is_not_adopted(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        cut_at(patch, DirectoryStore, "put_if_absent", 1, after=False)
        with pytest.raises(Cut):
            town.persist("init", "--store")
    assert lock.read(town.spec, lock.BEGUN) is not None
    recipient = (town.base / "recipient").read_text()
    from datetime import UTC, datetime

    planted = sops.create({keyfile.KEY: "11" * 32}, [recipient], now=datetime.now(UTC))
    DirectoryStore(town.base / "store").put(KEY, planted)
    said = town.persist("init", "--store")
    assert said.status == 1
    assert "not the one that the interrupted" in said.err
    assert lock.read(town.spec) is None
    assert "config" not in objects(town)


def test_an_emptied_store_with_a_lock_gets_no_second_key_also_when_a_leftover_lies_there(town: Town) -> None:
    town.persist("init", "--store")
    found = lock.read(town.spec)
    assert found is not None
    lock.write(town.spec, found, lock.BEGUN)
    empty_store(town)
    assert town.persist("init", "--store").status == 1
    assert objects(town) == {}


def test_the_lock_belongs_to_whom_the_spec_belongs(town: Town) -> None:
    os.chown(town.base, 1000, 1000)
    (town.base / "store").mkdir(mode=0o700)
    try:
        lock.write(town.spec, lock.StoreLock("00" * 32, "now"))
        assert (town.base / lock.NAME).stat().st_uid == 1000
        assert (town.base / lock.NAME).parent.stat().st_uid == 1000
    finally:
        os.chown(town.base, 0, 0)


@pytest.mark.parametrize("text", ["", "x", "format = 1", 'format = "nuketown-store"\nversion = 2\ncommitment = "00"'])
def test_a_lock_that_is_none_is_named(town: Town, text: str) -> None:
    town.persist("init", "--store")
    (town.base / lock.NAME).write_text(text)
    said = town.persist("log")
    assert said.status == 1
    assert "store.lock.toml" in said.err


def test_without_a_key_no_bucket_is_asked_for_anything(town: Town) -> None:
    recipient = (town.base / "recipient").read_text()
    town.write("[]", town=f'store = "s3://agents/x"\nrecipients = {{ humans = ["{recipient}"] }}\n')
    said = town.persist("init", "--store")
    assert said.status == 1
    assert "nothing says with which key the store is to be asked" in said.err
    assert "town.store_credentials" in said.err


@pytest.mark.parametrize("words", [("init", "--store"), ("init", "--store", "--dry-run"), ("sync",)])
def test_in_a_town_without_a_store_the_spec_must_change_first(town: Town, words: tuple[str, ...]) -> None:
    town.write('["projects"]')  # nor recipients: the store is what is missed first
    said = town.persist(*words)
    assert (said.status, said.out) == (78, "")
    assert "the town has no store" in said.err
    assert "hint: set town.store" in said.err


@pytest.mark.parametrize("above", ["backupp", "a/b"])
def test_a_directory_that_is_missing_above_the_store_is_not_made(town: Town, above: str) -> None:
    """A misspelt one, or a disk that is not mounted: the store would lie on another disk than was meant."""
    town.file.write_text(
        town.file.read_text().replace(f"file://{town.base}/store", f"file://{town.base}/{above}/store")
    )
    said = town.persist("init", "--store")
    assert said.status == 1
    assert f"{town.base}/{above}, where the store" in said.err
    assert f"mkdir -p {town.base}/{above}" in said.err
    assert not (town.base / above.split("/", maxsplit=1)[0]).exists()
    (town.base / above).mkdir(parents=True)
    assert town.persist("init", "--store").status == 0
    assert stat.S_IMODE((town.base / above / "store").stat().st_mode) == 0o700


def test_what_is_there_is_said_to_who_inits_again(town: Town) -> None:
    town.persist("init", "--store")
    assert "it is there and opens: nothing is left to make" in town.persist("init", "--store").err
    (town.base / "store").rename(town.base / "elsewhere")
    for words in (("init", "--store"), ("init", "--store", "--dry-run")):
        said = town.persist(*words)
        assert said.status == 1
        assert f"hint: it cannot be used: the store {town.base}/store is not there" in said.err
        assert f"rm {town.base / lock.NAME}" in said.err
        assert not (town.base / "store").exists(), "nothing is made for a store that there is already"


def test_a_mount_point_without_its_store_is_not_told_to_be_closed_but_to_be_mounted(town: Town) -> None:
    town.persist("init", "--store")
    (town.base / "store").rename(town.base / "elsewhere")
    (town.base / "store").mkdir(mode=0o755)
    said = town.persist("log")
    assert said.status == 1
    assert f"{town.base}/store is empty, so it is not the store" in said.err
    assert "hint: mount what holds it" in said.err
    assert "chmod" not in said.err


def test_a_lock_that_anybody_may_take_does_not_make_it_wait(town: Town) -> None:
    directory = os.open(town.file.parent, os.O_RDONLY)  # any local user may open it, and lock what it opened
    fcntl.flock(directory, fcntl.LOCK_SH)
    try:
        said = town.persist("init", "--store")
    finally:
        os.close(directory)
    assert said.status == 75
    assert "lslocks" in said.err
    assert town.persist("init", "--store").status == 0
