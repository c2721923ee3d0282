"""`persist key`: who can open the store, and a new key; never a changed or a removed object."""

import json
import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from persist import rotation
from persist.bucket import keyfile, lock, opening
from persist.bucket.keys import TownKey
from persist.bucket.opening import open_bucket
from persist.store import KeyMismatch, StoreMissing
from persist.store.directory import DirectoryStore
from tests.machine.keystores import Cut, cut_at, empty_store, identity, named, objects, spec, town
from tests.machine.towns import Said, Town
from town import process, sops

__all__ = ["town"]
pytestmark = pytest.mark.root
NEXT = keyfile.name(2)


def key(town: Town, *words: str) -> Said:
    return town.persist("key", *words)


def shown(town: Town) -> dict[str, Any]:
    said = key(town, "show", "--json")
    assert said.status == 0
    found: dict[str, Any] = json.loads(said.out)
    return found


def test_show_names_who_can_open_it_and_the_commitments(town: Town) -> None:
    said = key(town, "show")
    assert (said.status, said.err) == (0, "")
    locked = lock.read(town.spec)
    assert locked is not None
    assert said.out.splitlines() == [
        "keys/0000000000000001, epoch 1",
        f"  {named(town, 'person')} (human)",
        f"  {named(town, 'here')} (host here, this machine)",
        f"epoch 1: commitment {locked.commitment}",
        "this machine opens it: yes",
        "a human can open it: yes",
    ]


def test_show_tells_a_machine_that_cannot_open_it(town: Town) -> None:
    identity(town.base, "new")
    spec(town, hosts=("here", "new"), key="new")
    said = key(town, "show")
    assert said.status == 0
    assert "this machine opens it: no" in said.out
    assert "this machine cannot open the store's key" in said.err
    assert f"persist key add {named(town, 'new')}" in said.err.replace(f" --spec {town.file}", "")
    assert shown(town)["opens_here"] is False


def test_add_writes_the_next_key_file_and_leaves_the_old_one(town: Town) -> None:
    before, bucket = objects(town), open_bucket(town.spec)
    new = identity(town.base, "new")
    said = key(town, "add", new)
    assert (said.status, said.err) == (0, "")
    after = objects(town)
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == {NEXT}
    assert set(sops.recipients_of(after[NEXT], "")) == {named(town, "person"), named(town, "here"), new}
    spec(town, key="new")
    assert open_bucket(town.spec, ask=True).key == bucket.key


def test_who_can_open_it_already_is_not_added_again(town: Town) -> None:
    before = objects(town)
    said = key(town, "add", named(town, "person"))
    assert said.status == 0
    assert "already" in said.out
    assert objects(town) == before


@pytest.mark.parametrize(("do", "who"), [("add", "new"), ("remove", "person2"), ("rotate", "")])
def test_a_dry_run_writes_nothing(town: Town, do: str, who: str) -> None:
    identity(town.base, "new")
    key(town, "add", identity(town.base, "person2"))
    kept = objects(town), (town.base / lock.NAME).read_bytes()
    said = key(town, do, *([named(town, who)] if who else []), "--dry-run")
    assert said.status == 0
    assert said.out.startswith("write  keys/0000000000000003")
    assert (objects(town), (town.base / lock.NAME).read_bytes()) == kept
    assert not (town.base / lock.BEGUN).exists()


def test_a_removed_one_cannot_open_the_next_key_file_and_rotating_is_advised(town: Town) -> None:
    gone = identity(town.base, "gone")
    key(town, "add", gone)
    said = key(town, "remove", gone)
    assert said.status == 0
    assert "still opens all that was and will be written in epoch 1" in said.err
    assert "begin a new epoch: persist key " in said.err
    assert gone not in sops.recipients_of(objects(town)[keyfile.name(3)], "")
    spec(town, key="gone")
    assert shown(town)["opens_here"] is False
    assert town.persist("log").status == 1


def test_the_last_human_and_this_machine_are_not_removed_unasked(town: Town) -> None:
    before = objects(town)
    for who, words in (("person", "the last human"), ("here", "is this machine")):
        said = key(town, "remove", named(town, who))
        assert said.status == 1
        assert words in said.err
        assert f"--lock-out {named(town, who)}" in said.err
    assert objects(town) == before
    assert key(town, "remove", named(town, "here"), "--lock-out").status == 0
    assert shown(town)["opens_here"] is False


def test_nobody_is_left_is_refused_even_so(town: Town) -> None:
    assert key(town, "remove", named(town, "person"), "--lock-out").status == 0
    assert shown(town)["a_human_can"] is False
    assert "no human can open" in key(town, "show").err
    said = key(town, "remove", named(town, "here"), "--lock-out")
    assert said.status == 1
    assert "the last who can open" in said.err


def test_who_was_never_there_cannot_be_removed(town: Town) -> None:
    said = key(town, "remove", identity(town.base, "stranger"))
    assert said.status == 1
    assert "is not sealed for" in said.err


@pytest.mark.parametrize("words", [["add"], ["remove"], ["show", "age1x"], ["rotate", "age1x"], ["add", "age1x"]])
def test_a_command_line_that_does_not_fit_is_usage(town: Town, words: list[str]) -> None:
    assert key(town, *words).status == 2


def test_a_private_key_on_the_command_line_is_not_repeated(town: Town) -> None:
    secret = named(town, "person.age").strip()
    said = key(town, "add", secret)
    assert said.status == 2
    assert "private key" in said.err
    assert secret[20:] not in said.err + said.out


def test_an_ssh_recipient_is_added_as_the_age_recipient_of_its_key(town: Town, tmp_path: Path) -> None:
    process.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "id")])
    public = (tmp_path / "id.pub").read_text().strip()
    assert key(town, "add", public).status == 0
    assert sops.canonical(public) in sops.recipients_of(objects(town)[NEXT], "")
    assert key(town, "remove", public).status == 0


def test_rotate_begins_an_epoch_and_keeps_the_earlier_keys(town: Town) -> None:
    first = open_bucket(town.spec)
    said = key(town, "rotate")
    assert (said.status, said.err) == (0, "")
    second = open_bucket(town.spec)
    assert second.key != first.key
    assert second.earlier == (first.key,)
    assert second.older("ada") == (first.keys("ada"),)
    assert (second.keys("ada").epoch, first.keys("ada").epoch) == (2, 1)
    assert second.keys("ada").place != first.keys("ada").place
    locked = lock.read(town.spec)
    assert locked is not None
    assert locked.all == (first.key.commitment, second.key.commitment)
    assert not (town.base / lock.BEGUN).exists()
    assert key(town, "rotate").status == 0
    assert [keys.epoch for keys in open_bucket(town.spec).older("ada")] == [2, 1]
    assert shown(town)["epoch"] == 3


def test_no_text_of_rotate_shows_a_key(town: Town) -> None:
    said, as_json = key(town, "rotate"), key(town, "rotate", "--json")
    bucket = open_bucket(town.spec)
    text = f"{said} {as_json} {bucket!r} {(town.base / lock.NAME).read_text()}"
    for one in (bucket.key, *bucket.earlier):
        assert one.secret.hex() not in text
        assert repr(one.secret)[2:-1] not in text


def test_a_machine_with_the_lock_of_before_says_what_to_bring(town: Town) -> None:
    before = (town.base / lock.NAME).read_bytes()
    key(town, "rotate")
    (town.base / lock.NAME).write_bytes(before)
    said = town.persist("log")
    assert said.status == 1
    assert "the store's key was rotated: it is in epoch 2" in said.err
    assert "bring" in said.err


def test_a_store_of_before_the_rotation_is_refused_by_the_new_lock(town: Town) -> None:
    key(town, "rotate")
    (town.base / "store" / NEXT).unlink()
    said = key(town, "show")
    assert said.status == 1
    assert "shows a key of epoch 1" in said.err


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(
    ("where", "name", "number"),
    [(lock, "write", 1), (DirectoryStore, "put_if_absent", 1), (lock, "write", 2), (os, "unlink", 2)],
)
def test_a_rotation_that_was_cut_off_is_finished_or_begun_anew(
    town: Town, monkeypatch: pytest.MonkeyPatch, where: object, name: str, number: int, after: bool
) -> None:
    first = open_bucket(town.spec)
    with monkeypatch.context() as patch:
        cut_at(patch, where, name, number, after=after)
        with pytest.raises(Cut):
            key(town, "rotate")
    before = objects(town)
    assert key(town, "rotate").status == 0
    after_all = objects(town)
    assert {one: after_all[one] for one in before} == before
    bucket = open_bucket(town.spec)
    assert bucket.earlier[0] == first.key
    assert bucket.key != first.key
    assert not (town.base / lock.BEGUN).exists()


def test_what_an_interrupted_rotation_sent_late_is_adopted_and_never_stands_in_the_way(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[tuple[str, bytes]] = []
    real = DirectoryStore.put_if_absent

    def lost(_: DirectoryStore, name: str, data: bytes) -> bool:
        sent.append((name, data))
        raise Cut

    def after_it_arrived(store: DirectoryStore, name: str, data: bytes) -> bool:
        real(store, *sent[0])
        return real(store, name, data)

    with monkeypatch.context() as patch:
        patch.setattr(DirectoryStore, "put_if_absent", lost)
        with pytest.raises(Cut):
            key(town, "rotate")
        patch.setattr(DirectoryStore, "put_if_absent", after_it_arrived)
        assert key(town, "rotate").status == 75
    assert key(town, "rotate").status == 0
    assert open_bucket(town.spec, ask=True).key.epoch == 2
    assert objects(town)[NEXT] == sent[0][1]


def test_of_two_at_once_one_is_told_to_try_again(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = identity(town.base, "one"), identity(town.base, "two")
    real = DirectoryStore.put_if_absent

    def late(store: DirectoryStore, name: str, data: bytes) -> bool:
        monkeypatch.setattr(DirectoryStore, "put_if_absent", real)
        assert key(town, "add", two).status == 0
        return real(store, name, data)

    monkeypatch.setattr(DirectoryStore, "put_if_absent", late)
    said = key(town, "add", one)
    assert said.status == 75
    assert "somebody else wrote keys/0000000000000002" in said.err
    assert key(town, "add", one).status == 0
    assert {one, two} < set(sops.recipients_of(objects(town)[keyfile.name(3)], ""))


def test_of_two_at_once_in_a_store_that_overwrites_one_is_told(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    real = DirectoryStore.put_if_absent

    def overwritten(store: DirectoryStore, name: str, data: bytes) -> bool:
        real(store, name, data)
        (town.base / "store" / name).write_bytes(b"of another")
        return True

    monkeypatch.setattr(DirectoryStore, "put_if_absent", overwritten)
    assert key(town, "rotate").status == 75
    assert not (town.base / lock.BEGUN).exists()


def test_a_recipient_that_was_taken_out_of_the_list_in_the_store_is_noticed(town: Town) -> None:
    """SOPS does not seal the list: whoever runs the store could lock the human out unseen."""
    path = town.base / "store" / keyfile.name(1)
    text = path.read_text()
    start = text.index("        - enc: |")
    end = text.index("recipient: " + named(town, "person")) + len("recipient: " + named(town, "person")) + 1
    path.write_text(text[:start] + text[end:])
    found = shown(town)
    assert found["altered"] is True
    assert found["a_human_can"] is False
    assert "was changed since it was sealed" in key(town, "show").err
    assert key(town, "add", named(town, "person")).status == 0
    assert shown(town)["altered"] is False


def planted(town: Town, data: bytes, name: str = NEXT) -> None:
    DirectoryStore(town.base / "store").put(name, data)


def sealed(town: Town, secret: bytes, number: int, *earlier: TownKey) -> bytes:
    file = keyfile.KeyFile(number, TownKey(secret, len(earlier) + 1), earlier, (named(town, "here"),))
    return keyfile.sealed(file, datetime.now(UTC))


def test_a_key_file_of_another_key_is_refused(town: Town) -> None:
    planted(town, sealed(town, b"1" * 32, 2))
    said = key(town, "show")
    assert said.status == 1
    assert "another town's store, or a swapped key" in said.err


def test_a_next_epoch_that_the_lock_does_not_name_is_refused_though_its_writer_knew_the_key(town: Town) -> None:
    """A recipient who was removed knows the key of before: the lock decides, not the store."""
    planted(town, sealed(town, b"1" * 32, 2, open_bucket(town.spec).key))
    with pytest.raises(KeyMismatch):
        open_bucket(town.spec, ask=True)
    assert key(town, "rotate").status == 1


def test_an_older_key_file_under_a_new_number_is_refused(town: Town) -> None:
    key(town, "add", identity(town.base, "new"))
    planted(town, objects(town)[keyfile.name(1)], keyfile.name(3))
    said = key(town, "show")
    assert said.status == 1
    assert "keys/0000000000000003 in the store was written under another name" in said.err


def test_a_newer_key_file_that_was_seen_here_and_is_gone_is_noticed(town: Town) -> None:
    key(town, "add", identity(town.base, "new"))
    (town.base / "store" / NEXT).unlink()
    said = key(town, "show")
    assert said.status == 1
    assert "keys/0000000000000002 was seen here" in said.err
    copy = town.spec.state_dir / "store" / "key-0000000000000002"
    planted(town, copy.read_bytes())
    assert key(town, "show").status == 0


def test_a_key_file_that_was_changed_since_it_was_seen_is_noticed(town: Town) -> None:
    planted(town, sealed(town, open_bucket(town.spec).key.secret, 2))
    open_bucket(town.spec, ask=True)
    (town.base / "store" / NEXT).write_bytes(sealed(town, open_bucket(town.spec).key.secret, 2))
    said = key(town, "show")
    assert said.status == 1
    assert "was changed since this machine saw it" in said.err


SEALED = b"ENC[AES256_GCM,data:"
BAD: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "truncated": lambda data: data[: len(data) // 2],
    "huge": lambda data: data + b"#" * (1 << 20),
    "no SOPS file": lambda _: b"a: b\n",
    "a wrong seal": lambda data: data.replace(b"    mac: ENC[AES256_GCM,data:", b"    mac: ENC[AES256_GCM,data:A"),
    "a changed value": lambda data: data.replace(
        b"store-key: ENC[AES256_GCM,data:", b"store-key: ENC[AES256_GCM,data:A"
    ),
    "a value in clear": lambda data: data.replace(b"number: ENC", b"other_unencrypted: x\nnumber: ENC"),
    "another version": lambda data: data.replace(b"version: 3", b"version: x"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_key_file_that_is_damaged_is_refused(town: Town, what: str) -> None:
    path = town.base / "store" / keyfile.name(1)
    bad = BAD[what](path.read_bytes())
    assert bad != path.read_bytes()
    path.write_bytes(bad)
    for words in (("log",), ("key", "show"), ("key", "rotate")):
        said = town.persist(*words)
        assert said.status == 1, words
        assert said.out == ""


def test_a_key_file_for_other_recipients_is_named(town: Town) -> None:
    other = identity(town.base, "other")
    path = town.base / "store" / keyfile.name(1)
    file = keyfile.KeyFile(1, open_bucket(town.spec).key, (), (other,))
    path.write_bytes(keyfile.sealed(file, datetime.now(UTC)))
    shutil.rmtree(town.spec.state_dir / "store")
    said = town.persist("log")
    assert said.status == 1
    assert f"no key at hand opens the store's key file keys/0000000000000001: it is encrypted to {other}" in said.err


def test_an_emptied_store_is_an_error_and_never_nothing(town: Town) -> None:
    bucket = open_bucket(town.spec)
    empty_store(town)
    remembered = open_bucket(town.spec)
    assert not remembered.asked
    with pytest.raises(StoreMissing, match="the store is empty"):
        opening.prove(town.spec, remembered)
    opening.prove(town.spec, bucket)  # it was asked when it was opened
    for words in (("key", "show"), ("key", "add", named(town, "person")), ("key", "rotate"), ("log",)):
        assert town.persist(*words).status == 1, words
    assert objects(town) == {}


def test_another_towns_store_is_refused(town: Town, tmp_path: Path) -> None:
    other = Town(tmp_path / "other", "", town.capsys)
    (other.base / "persist").mkdir(parents=True)
    for name in ("person", "here"):
        (other.base / name).write_text(named(town, name))
    spec(other)
    other.file.write_text(other.file.read_text().replace(f"{other.base}/here.age", f"{town.base}/here.age"))
    assert other.persist("init", "--store").status == 0
    open_bucket(town.spec)
    (town.base / "store").rename(town.base / "away")
    (other.base / "store").rename(town.base / "store")
    with pytest.raises(KeyMismatch, match="another town's store"):
        opening.prove(town.spec, open_bucket(town.spec))
    assert "another town's store" in key(town, "show").err
    assert "another town's store" in key(town, "rotate").err


@pytest.mark.parametrize("name", ["x", "0000000000000000", "000000000000000g", "1", "0000000000000001/x"])
def test_a_name_below_keys_that_is_no_number_is_refused(town: Town, name: str) -> None:
    if "/" in name:
        (town.base / "store" / keyfile.name(1)).rename(town.base / "store" / "keys" / "was")
    planted(town, b"", f"keys/{name}")
    said = key(town, "show")
    assert said.status == 1
    assert "which is no key file" in said.err


def test_holders_are_all_humans_but_this_machine_where_the_spec_names_nobody(town: Town) -> None:
    person, here = named(town, "person"), named(town, "here")
    text = town.file.read_text().splitlines()
    town.file.write_text("\n".join(line for line in text if not line.startswith("recipients")))
    assert [(one.human, one.here) for one in rotation.holders(town.spec, [person, here])] == [
        (True, False),
        (False, True),
    ]
