"""`persist init --store` and `persist key` on S3, with a server that has conditional writes and one that has none."""

import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from persist import rotation
from persist.bucket import keyfile, lock, opening
from persist.bucket.keys import TownKey
from persist.bucket.opening import open_bucket
from persist.rotation import KeyChanged
from persist.store import KeyMismatch, Store, StoreMissing, open_store
from tests.machine.keystores import identity, named
from tests.machine.towns import Town
from tests.store.servers import Server, url

pytestmark = pytest.mark.root


@pytest.fixture(params=["moto", "rclone"])
def server(request: pytest.FixtureRequest) -> Server:
    found: Server = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def town(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Town:
    """A town with a store on the server: a human `person`, this machine `here`."""
    base = tmp_path / "town"
    (base / "persist").mkdir(parents=True)
    made = Town(base, "", capsys)
    server.credentials(base / "s3")
    person, here = identity(base, "person"), identity(base, "here")
    made.write(
        '["projects"]',
        town=f'store = "{url(server.bucket("a/town"))}"\nstore_credentials = "{base}/s3"\n'
        f'recipients = {{ humans = ["{person}"], hosts = {{ here = "{here}" }} }}\n'
        f'host_key = {{ age = "{base}/here.age", ssh = "{base}/none" }}\n',
    )
    said = made.persist("init", "--store")
    assert said.status == 0, said.err
    return made


def keys(store: Store) -> list[str]:
    return [found.key for found in store.list("")]


def test_a_store_is_made_once_and_opens(town: Town) -> None:
    bucket = open_bucket(town.spec)
    assert {"config", keyfile.name(1)} <= set(keys(bucket.store))
    again = town.persist("init", "--store")
    assert again.status == 1
    assert "it is there and opens" in again.err


def test_opening_again_sends_no_request_and_does_not_import_boto3(town: Town) -> None:
    open_bucket(town.spec)
    program = (
        "import sys, pathlib\nfrom town import spec\nfrom persist.bucket.opening import open_bucket\n"
        f"bucket = open_bucket(spec.load(pathlib.Path({str(town.file)!r})))\n"
        "print(bucket.asked, bucket.store.requests, 'boto3' in sys.modules, 'botocore' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=Path.cwd())
    assert ran.stdout == "False 0 False False\n"


def test_recipients_come_and_go_and_the_key_is_rotated(town: Town) -> None:
    first = open_bucket(town.spec).key
    assert town.persist("key", "add", identity(town.base, "new")).status == 0
    assert town.persist("key", "remove", named(town, "new")).status == 0
    assert town.persist("key", "rotate").status == 0
    bucket = open_bucket(town.spec, ask=True)
    assert bucket.earlier == (first,)
    assert keyfile.numbers(bucket.store) == [1, 2, 3, 4]


def test_an_emptied_bucket_is_an_error(town: Town) -> None:
    store = open_bucket(town.spec).store
    for key in keys(store):
        store.delete(key)
    with pytest.raises(StoreMissing):
        open_bucket(town.spec, ask=True)
    with pytest.raises(StoreMissing):
        opening.prove(town.spec, open_bucket(town.spec))
    assert town.persist("restore").status != 0
    assert town.persist("init", "--store").status == 1
    assert keys(store) == []


def test_a_swapped_key_file_is_refused(town: Town) -> None:
    store = open_bucket(town.spec).store
    other = keyfile.KeyFile(1, TownKey.random(), (), (named(town, "here"),))
    store.delete(keyfile.name(1))
    store.put(keyfile.name(1), keyfile.sealed(other, datetime.now(UTC)))
    with pytest.raises(KeyMismatch):
        open_bucket(town.spec, ask=True)


def test_of_many_at_once_each_is_in_or_is_told(town: Town, server: Server) -> None:
    """Where the server has no conditional writes several may be let in; then what counts is one that was not told."""
    spec, locked = town.spec, lock.read(town.spec)
    file, _ = opening.read(spec, open_store(spec), locked)
    people = [identity(town.base, f"person{number}") for number in range(4)]
    told: list[str] = []
    start = threading.Barrier(len(people))

    def add(one: str) -> None:
        store = open_store(spec)
        new = keyfile.KeyFile(2, file.key, (), (*file.recipients, one))
        start.wait()
        try:
            rotation.write(spec, store, new, datetime.now(UTC))
        except KeyChanged:
            told.append(one)

    threads = [threading.Thread(target=add, args=(one,)) for one in people]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    after = open_bucket(spec, ask=True) if server.conditional else None
    number, data = keyfile.newest(open_store(spec))
    found = keyfile.opened(data, number, opening.keys_at_hand(spec))
    (added,) = set(found.recipients) - set(file.recipients)
    assert added not in told
    if server.conditional:
        assert after is not None
        assert len(told) == len(people) - 1
