"""One contract, every store: what `persist.store.Store` promises, proven on each. A new store is one more parameter."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from persist.store import BadKey, ObjectExists, ObjectMissing, Store, StoreDamaged, limited, whole
from persist.store.directory import DirectoryStore
from persist.store.memory import MemoryStore
from tests.store.servers import Server

Again = Callable[[], Store]  # the same store, opened once more
STORES = ["directory", "memory", "moto below a prefix", "rclone", "directory at a pace"]
if "S3_ENDPOINT" in os.environ:
    STORES += ["given", "given below a prefix"]
# Without conditional writes nobody is promised to be the only one: test_s3.py says what is.
one_wins = pytest.mark.parametrize("kind", [name for name in STORES if "rclone" not in name])
RATE = 1 << 30  # bytes a second: nothing waits, and every byte goes through the pace


@pytest.fixture(params=STORES)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def again(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Again]:
    name = kind.partition(" ")[0]
    opened: list[Store] = []

    def remembered(one: Store) -> Store:
        opened.append(limited(one, RATE) if kind.endswith("at a pace") else one)
        return opened[-1]

    match name:
        case "memory":
            one = MemoryStore()
            yield lambda: one
        case "directory":
            DirectoryStore.make(tmp_path / "store")
            yield lambda: remembered(DirectoryStore(tmp_path / "store"))
        case _:
            server: Server = request.getfixturevalue(name)
            place = server.bucket("towns/signi" if kind.endswith("prefix") else "")
            yield lambda: remembered(server.store(place, state=tmp_path))
    for store in opened:
        getattr(store, "close", lambda: None)()


@pytest.fixture
def store(again: Again) -> Store:
    return again()


def test_what_was_put_is_got_whole_or_in_part(store: Store) -> None:
    store.put("packs/a1/b", b"0123456789")
    assert store.get("packs/a1/b") == b"0123456789"
    assert store.get("packs/a1/b", 3, 4) == b"3456"
    assert store.get("packs/a1/b", 8, 100) == b"89"
    assert store.get("packs/a1/b", 10) == b""
    assert store.get("packs/a1/b", 50, 5) == b""
    assert store.size("packs/a1/b") == 10


def test_what_was_put_is_seen_by_another_client(again: Again) -> None:
    again().put("key", b"x" * 100_000)
    assert again().get("key") == b"x" * 100_000


def test_an_empty_object_is_an_object(store: Store) -> None:
    store.put("empty", b"")
    assert (store.get("empty"), store.size("empty")) == (b"", 0)
    assert not store.put_if_absent("empty", b"")


@one_wins
def test_nothing_is_overwritten(store: Store) -> None:
    store.put("a", b"first")
    with pytest.raises(ObjectExists):
        store.put("a", b"second")
    assert not store.put_if_absent("a", b"third")
    assert store.get("a") == b"first"


def test_what_is_missing_is_named(store: Store) -> None:
    for ask in (lambda: store.get("no/such"), lambda: store.size("no/such"), lambda: whole(store, "no/such", 10)):
        with pytest.raises(ObjectMissing, match="no/such"):
            ask()


def test_a_key_below_an_object_is_missing_too(store: Store) -> None:
    store.put("a", b"x")
    with pytest.raises(ObjectMissing):
        store.get("a/b")


def test_an_object_larger_than_it_may_be_is_refused_before_it_is_read(store: Store) -> None:
    store.put("config", b"x" * 1000)
    assert whole(store, "config", 1000) == b"x" * 1000
    with pytest.raises(StoreDamaged, match="larger"):
        whole(store, "config", 999)


def test_replacing_needs_the_bytes_that_are_there(store: Store) -> None:
    assert not store.replace_if_unchanged("lease", b"", b"one")
    store.put("lease", b"one")
    assert not store.replace_if_unchanged("lease", b"other", b"two")
    assert store.get("lease") == b"one"
    assert store.replace_if_unchanged("lease", b"one", b"two")
    assert store.get("lease") == b"two"


def test_a_listing_is_of_a_prefix_and_in_order(store: Store) -> None:
    for key in ("commits/b/2", "commits/a/10", "commits/a/1", "commits/ab", "config"):
        store.put(key, key.encode())
    assert [found.key for found in store.list("commits/a")] == ["commits/a/1", "commits/a/10", "commits/ab"]
    assert [(one.key, one.size) for one in store.list("commits/a/")] == [("commits/a/1", 11), ("commits/a/10", 12)]
    assert [found.key for found in store.list("")] == [
        "commits/a/1", "commits/a/10", "commits/ab", "commits/b/2", "config",
    ]  # fmt: skip
    assert list(store.list("nothing/here")) == []


@pytest.mark.parametrize("kind", ["memory", "rclone"])
def test_a_listing_of_more_than_a_page_is_whole(store: Store) -> None:
    keys = [f"packs/{number:04}" for number in range(1010)]  # a page of S3 is 1,000
    in_threads(4, lambda one: [store.put(key, b"x") for key in keys[one::4]])
    assert [found.key for found in store.list("packs/")] == keys


def test_an_objects_time_is_by_the_clock_of_the_store(store: Store) -> None:
    before = store.now()
    store.put("a", b"x")
    (found,) = store.list("")
    assert before - 2 <= found.modified <= store.now() + 2
    assert abs(store.now() - time.time()) < 5


def test_requests_are_counted(store: Store) -> None:
    store.put("a", b"x")
    before = store.requests
    store.get("a")
    assert store.requests == before + 1


def test_what_many_threads_put_and_get_at_once_is_not_confused(store: Store) -> None:
    def work(number: int) -> None:
        for turn in range(5):
            data = bytes([number]) * (1000 * turn + number)
            store.put(f"t{number}/{turn}", data)
            assert store.get(f"t{number}/{turn}") == data

    in_threads(6, work)
    assert len(list(store.list("t"))) == 30


def test_deleting_is_done_once_and_never_an_error(store: Store) -> None:
    store.put("a/b/c", b"x")
    store.put("a/b/d", b"y")
    store.delete("a/b/c")
    store.delete("a/b/c")
    store.delete("x/y/z")
    assert [found.key for found in store.list("")] == ["a/b/d"]
    store.put("a/b/c", b"again")


@pytest.mark.parametrize(
    "key",
    ["", "/etc/passwd", "..", "a/../b", "a//b", "a/", "./a", ".lock", "a/.new-1", "A", "a\n", "a\0b", "é", "x" * 201],
)
def test_a_key_that_would_leave_the_store_is_refused_everywhere(store: Store, key: str) -> None:
    for call in (
        lambda: store.get(key), lambda: store.put(key, b""), lambda: store.put_if_absent(key, b""),
        lambda: store.replace_if_unchanged(key, b"", b""), lambda: store.delete(key), lambda: store.size(key),
    ):  # fmt: skip
        with pytest.raises(BadKey):
            call()
    assert list(store.list("")) == []


def in_threads(count: int, act: Callable[[int], object]) -> None:
    """`act(number)` in so many threads at once; what one of them raises is raised here."""
    start, wrong = threading.Barrier(count), []

    def run(number: int) -> None:
        start.wait()
        try:
            act(number)
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if wrong:
        raise wrong[0]


@one_wins
def test_of_many_threads_exactly_one_puts(again: Again) -> None:
    stores = [again() for _ in range(4)]
    for turn in range(5):
        won: list[int] = []
        key = f"head/{turn}"
        in_threads(4, lambda n, k=key, w=won: stores[n].put_if_absent(k, b"%d" % n) and w.append(n))  # type: ignore[misc]
        assert len(won) == 1
        assert stores[0].get(key) == b"%d" % won[0]


@one_wins
def test_of_many_threads_at_most_one_replaces(again: Again) -> None:
    stores = [again() for _ in range(4)]
    for turn in range(5):
        won: list[int] = []
        key = f"lease/{turn}"
        stores[0].put(key, b"old")
        in_threads(
            4,
            lambda n, k=key, w=won: stores[n].replace_if_unchanged(k, b"old", b"%d" % n) and w.append(n),  # type: ignore[misc]
        )
        assert len(won) == 1
        assert stores[0].get(key) == b"%d" % won[0]


def test_whoever_is_told_that_it_put_or_replaced_finds_its_bytes_when_nobody_else_is_there(store: Store) -> None:
    assert store.put_if_absent("head", b"one")
    assert not store.put_if_absent("head", b"two")
    assert not store.put_if_absent("head", b"one")
    assert store.replace_if_unchanged("head", b"one", b"two")
    assert not store.replace_if_unchanged("head", b"one", b"three")
    assert not store.replace_if_unchanged("none", b"", b"three")
    assert store.get("head") == b"two"


def in_children(count: int, act: Callable[[int], bool]) -> list[bool]:
    """What `act(number)` said in each of so many processes at once."""
    go_read, go_write = os.pipe()
    children = []
    for number in range(count):
        child = os.fork()
        if child == 0:
            status = 30
            try:
                os.close(go_write)
                os.read(go_read, 1)  # until the parent closes its end: all start together
                status = 10 if act(number) else 20
            finally:
                os._exit(status)
        children.append(child)
    os.close(go_read)
    os.close(go_write)
    statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert set(statuses) <= {10, 20}
    return [status == 10 for status in statuses]


def test_of_many_processes_exactly_one_puts(tmp_path: Path) -> None:
    DirectoryStore.make(tmp_path / "store")
    for turn in range(10):
        won = in_children(4, lambda n, t=turn: DirectoryStore(tmp_path / "store").put_if_absent(f"head/{t}", b"%d" % n))  # type: ignore[misc]
        assert won.count(True) == 1
        assert DirectoryStore(tmp_path / "store").get(f"head/{turn}") == b"%d" % won.index(True)


def test_of_many_processes_at_most_one_replaces(tmp_path: Path) -> None:
    DirectoryStore.make(tmp_path / "store").put("lease", b"0")
    for turn in range(10):
        old, new = b"%d" % turn, b"%d" % (turn + 1)
        won = in_children(
            4, lambda _, o=old, n=new: DirectoryStore(tmp_path / "store").replace_if_unchanged("lease", o, n)
        )  # type: ignore[misc]
        assert won.count(True) == 1
