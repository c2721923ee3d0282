"""The store in a bucket, through a network that fails: what it promises stays true, or it says why not."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace

import pytest

from persist.store import NotAStore, ObjectExists, ObjectMissing, StoreDamaged, StoreUnreachable, s3
from persist.store.s3 import S3Store
from persist.store.s3.patience import Patience
from tests.store.faults import (
    Change,
    Cut,
    Date,
    Fault,
    Hang,
    Lose,
    Page,
    Proxy,
    Refuse,
    Repeat,
    Request,
    Script,
    Shorten,
    Stale,
    Status,
    Swap,
    Twice,
    in_turn,
)
from tests.store.servers import Server
from town.store_url import Bucket

SLOW_DOWN = Status(503, "SlowDown")
BROKEN = Status(500, "InternalError", after=True)
SHORT = Patience(connect=2, read=0.3, tries=3, total=0.5, pause=0.01, longest=0.02)
FAST = Patience(connect=5, read=15, tries=3, total=0.3, pause=0.01, longest=0.05)


@pytest.fixture(params=["moto", "rclone"])
def server(request: pytest.FixtureRequest) -> Server:
    one: Server = request.getfixturevalue(request.param)
    return one


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    with Proxy(server.endpoint) as one:
        yield one


@pytest.fixture
def place(server: Server) -> Bucket:
    return server.bucket()


@pytest.fixture
def straight(server: Server, place: Bucket) -> Iterator[S3Store]:
    """The same bucket without the proxy."""
    store = server.store(place)
    yield store
    store.close()


@pytest.fixture
def store(server: Server, proxy: Proxy, place: Bucket) -> Iterator[S3Store]:
    one = server.store(place._replace(endpoint=proxy.endpoint), patience=FAST)
    one.conditions()
    yield one
    one.close()


def puts(request: Request) -> bool:
    return request.method == "PUT"


def gets(request: Request) -> bool:
    return request.method == "GET"


def every(fault: Fault, of: Callable[[Request], bool]) -> Script:
    return lambda request: fault if of(request) else None


ONCE = [Refuse(), Lose(), SLOW_DOWN, BROKEN, Status(500, "InternalError"), Page(502), Page(200), Twice(), Repeat()]


@pytest.mark.parametrize("fault", ONCE, ids=repr)
def test_a_put_that_met_a_fault_is_there_once_and_whole(
    fault: Fault, store: S3Store, proxy: Proxy, straight: S3Store
) -> None:
    store.put("before", b"another answer to repeat")
    proxy.script = in_turn(fault, fault, of=puts)
    if isinstance(fault, Twice):
        # A proxy that sends twice makes a first try meet itself; where the store can tell, it says that a key is taken.
        with suppress(ObjectExists):
            store.put("packs/a", b"x" * 5000)
    else:
        store.put("packs/a", b"x" * 5000)
    assert straight.get("packs/a") == b"x" * 5000
    assert [found.key for found in straight.list("")] == ["before", "packs/a"]


@pytest.mark.parametrize("fault", [Lose(), BROKEN, Hang(1, after=True)], ids=repr)
def test_an_unknown_outcome_of_put_if_absent_is_settled_by_reading(
    fault: Fault, server: Server, place: Bucket, proxy: Proxy, straight: S3Store
) -> None:
    store = server.store(place._replace(endpoint=proxy.endpoint), patience=SHORT)
    store.conditions()
    proxy.script = in_turn(fault, of=puts)
    assert store.put_if_absent("head", b"mine")
    assert straight.get("head") == b"mine"
    assert not store.put_if_absent("head", b"theirs")
    store.close()


@pytest.mark.parametrize("fault", [Lose(), BROKEN], ids=repr)
def test_an_unknown_outcome_of_replace_is_settled_by_reading(
    fault: Fault, store: S3Store, proxy: Proxy, straight: S3Store
) -> None:
    store.put("lease", b"one")
    proxy.script = in_turn(fault, of=puts)
    assert store.replace_if_unchanged("lease", b"one", b"two")
    assert straight.get("lease") == b"two"


def test_a_lost_answer_after_another_won_is_no_win(moto: Server) -> None:
    place = moto.bucket()
    straight = moto.store(place)
    with Proxy(moto.endpoint) as proxy:
        store = moto.store(place._replace(endpoint=proxy.endpoint))
        store.conditions()

        def script(request: Request) -> Fault | None:
            if request.method == "PUT" and request.key.endswith("head") and not list(straight.list("head")):
                straight.put("head", b"theirs")
                return Refuse()
            return None

        proxy.script = script
        assert not store.put_if_absent("head", b"mine")
        store.close()
    assert straight.get("head") == b"theirs"
    straight.close()


def test_a_put_whose_answers_are_all_lost_is_found_in_the_end(store: S3Store, proxy: Proxy, straight: S3Store) -> None:
    proxy.script = every(Lose(), puts)
    store.put("packs/a", b"here")
    assert straight.get("packs/a") == b"here"


def test_a_put_that_never_arrives_fails_and_leaves_nothing(store: S3Store, proxy: Proxy, straight: S3Store) -> None:
    proxy.script = every(Refuse(), puts)
    with pytest.raises(StoreUnreachable) as caught:
        store.put("packs/a", b"nowhere")
    assert (caught.value.status, list(straight.list(""))) == (75, [])


@pytest.mark.parametrize("fault", [Page(), Status(200, "Odd"), Repeat()], ids=repr)
def test_what_does_not_say_that_it_took_the_object_is_not_believed(
    fault: Fault, store: S3Store, proxy: Proxy, straight: S3Store
) -> None:
    store.put("before", b"its answer is repeated")
    proxy.script = every(fault, puts)
    with pytest.raises(StoreUnreachable):
        store.put("packs/a", b"x")
    assert [found.key for found in straight.list("")] == ["before"]


def test_answers_to_two_puts_that_were_exchanged_lose_neither(store: S3Store, proxy: Proxy, straight: S3Store) -> None:
    proxy.script = in_turn(Swap(), Swap(), of=puts)
    threads = [threading.Thread(target=store.put, args=(f"packs/{n}", b"%d" % n * 100)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [straight.get(f"packs/{n}") for n in range(2)] == [b"0" * 100, b"1" * 100]


@pytest.mark.parametrize(
    "fault", [Refuse(), Lose(), SLOW_DOWN, Cut(0), Cut(700), Page(200), Page(503), Status(429, "TooMany")], ids=repr
)
def test_a_get_that_met_a_fault_gives_all_of_it(fault: Fault, store: S3Store, proxy: Proxy) -> None:
    store.put("packs/a", bytes(range(256)) * 20)
    for ask, want in (((), slice(None)), ((100, 1000), slice(100, 1100)), ((5000, 1000), slice(5000, 6000))):
        proxy.script = in_turn(fault, of=gets)
        assert store.get("packs/a", *ask) == (bytes(range(256)) * 20)[want]


@pytest.mark.parametrize("fault", [Cut(99), Cut(0), Shorten(99), Shorten(0)], ids=repr)
def test_a_range_that_never_comes_whole_is_an_error_never_a_shorter_one(
    fault: Fault, store: S3Store, proxy: Proxy
) -> None:
    store.put("packs/a", b"x" * 1000)
    proxy.script = every(fault, gets)
    with pytest.raises(StoreUnreachable, match=r"cut off|whole"):
        store.get("packs/a", 0, 500)


def test_a_whole_object_that_is_cut_is_an_error(store: S3Store, proxy: Proxy) -> None:
    store.put("packs/a", b"x" * 1000)
    proxy.script = every(Cut(999), gets)
    with pytest.raises(StoreUnreachable, match="cut off after 999 bytes of 1,000"):
        store.get("packs/a")


def test_a_server_that_does_not_know_ranges_is_understood(store: S3Store, proxy: Proxy, place: Bucket) -> None:
    store.put("packs/a", bytes(range(200)))

    class Whole(Proxy):
        def _asked(self, request: Request):  # type: ignore[no-untyped-def]
            kept = tuple(one for one in request.headers if one[0].lower() != "range")
            # moto checks no signature, so a header may go.
            return super()._asked(replace(request, headers=kept))

    from tests.store.servers import KEYS

    if not store.conditions().absent:
        return  # rclone knows ranges, and that the request was changed
    with Whole(proxy.endpoint) as whole:
        other = Server(whole.endpoint, conditional=True, keys=KEYS).store(
            Bucket(place.bucket, "", whole.endpoint, "us-east-1")
        )
        assert other.get("packs/a", 50, 20) == bytes(range(50, 70))
        assert other.get("packs/a", 190, 20) == bytes(range(190, 200))
        assert other.get("packs/a", 300, 20) == b""
        assert other.size("packs/a") == 200
        other.close()


def test_no_more_is_taken_than_was_asked_for(store: S3Store, proxy: Proxy) -> None:
    store.put("a", b"x" * 100)
    proxy.script = every(Change(lambda body: body + b"y" * 5_000_000), gets)
    assert store.get("a", 0, 10) == b"x" * 10
    proxy.script = every(Change(lambda _: b"<a>" * 10_000_000), gets)
    with pytest.raises(StoreDamaged, match="30,000,000 bytes where at most"):
        list(store.list(""))


def test_a_listing_that_answers_something_else_is_asked_again(store: S3Store, proxy: Proxy) -> None:
    store.put("agents/a/commit-1", b"x")
    assert list(store.list("other/")) == []
    proxy.script = in_turn(Repeat(), Page(200), Cut(30), of=lambda request: request.is_listing)
    assert [found.key for found in store.list("agents/a/")] == ["agents/a/commit-1"]


def test_a_page_in_xhtml_is_no_empty_store(store: S3Store, proxy: Proxy) -> None:
    store.put("a", b"x")
    page = b'<?xml version="1.0"?><html xmlns="http://www.w3.org/1999/xhtml"><body/></html>'
    proxy.script = every(Page(200, page), gets)
    with pytest.raises(NotAStore):
        list(store.list(""))
    proxy.script = every(Page(200, b"<?xml version='1.0'?><other/>"), gets)
    with pytest.raises(NotAStore):
        list(store.list(""))


def test_a_listing_that_does_not_end_is_an_error(store: S3Store, proxy: Proxy) -> None:
    store.put("a", b"x")

    more = b"<IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken>"
    proxy.script = every(Page(200, b"<ListBucketResult><Prefix/>" + more + b"</ListBucketResult>"), gets)
    with pytest.raises(StoreDamaged, match="does not end"):
        list(store.list(""))


def paging(keys: int) -> Script:
    """A listing without an end: a fresh token with every page, and so many new keys, one of them left out."""

    def script(request: Request) -> Fault | None:
        told = "".join(
            f"<Contents><Key>{'.' if n == 0 else ''}{request.number}-{n}</Key><Size>1</Size>"
            "<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
            for n in range(keys)
        )
        more = f"<IsTruncated>true</IsTruncated><NextContinuationToken>{request.number}</NextContinuationToken>"
        return Page(200, f"<ListBucketResult><Prefix/>{told}{more}</ListBucketResult>".encode())

    return script


@pytest.mark.parametrize(("keys", "said"), [(0, "0 keys in 40 pages"), (1, "40 keys in 40"), (100, "1,100 keys in 11")])
def test_a_listing_of_ever_new_pages_is_an_error_that_names_its_cure(
    keys: int, said: str, store: S3Store, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "_KEYS", 1000)
    monkeypatch.setattr(s3, "_PAGES", 40)
    proxy.script = paging(keys)
    before = len(proxy.seen)
    with pytest.raises(StoreDamaged, match=f"does not end: {said}") as caught:
        list(store.list(""))
    assert len(proxy.seen) - before <= 40
    assert caught.value.hint is not None
    assert "endpoint" in caught.value.hint


def test_as_many_keys_and_pages_as_are_allowed_are_a_listing(
    store: S3Store, straight: S3Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(6):
        straight.put(f"k{number}", b"x")
    real = store._objects.page
    monkeypatch.setattr(store._objects, "page", lambda prefix, token="": real(prefix, token, 2))
    monkeypatch.setattr(s3, "_KEYS", 6)
    monkeypatch.setattr(s3, "_PAGES", 3)
    assert len(list(store.list(""))) == 6
    straight.put("k6", b"x")
    with pytest.raises(StoreDamaged, match="does not end"):
        list(store.list(""))


def test_a_page_of_more_keys_than_were_asked_for_is_an_error_that_names_its_cure(store: S3Store, proxy: Proxy) -> None:
    proxy.script = paging(1001)
    before = len(proxy.seen)
    with pytest.raises(StoreDamaged, match="1,001 keys in a page of its listing where 1,000 were asked for") as caught:
        list(store.list(""))
    assert len(proxy.seen) - before == 1
    assert caught.value.hint is not None
    assert "max-keys" in caught.value.hint


def test_a_stale_answer_is_what_the_store_said_then(store: S3Store, proxy: Proxy) -> None:
    with pytest.raises(ObjectMissing):
        store.get("a")
    store.put("a", b"x")
    proxy.script = in_turn(Stale(), of=gets)
    with pytest.raises(ObjectMissing):
        store.get("a")
    assert store.get("a") == b"x"


def test_an_error_that_no_store_sends_is_not_missing(store: S3Store, proxy: Proxy) -> None:
    proxy.script = every(Page(404), gets)
    with pytest.raises(NotAStore, match="web page"):
        store.get("a")


def test_deleting_is_done_though_its_answer_is_lost(store: S3Store, proxy: Proxy, straight: S3Store) -> None:
    store.put("a", b"x")
    proxy.script = in_turn(Lose(), SLOW_DOWN, of=lambda request: request.method == "DELETE")
    store.delete("a")
    assert list(straight.list("")) == []
    straight.put("a", b"x")
    proxy.script = every(Page(200), lambda request: request.method == "DELETE")
    with pytest.raises(NotAStore):
        store.delete("a")


def test_the_clock_is_that_of_the_last_answer(store: S3Store, proxy: Proxy) -> None:
    proxy.script = every(Date("Sat, 01 Jan 2000 00:00:10 GMT"), lambda _: True)
    list(store.list(""))
    assert 946684810 <= store.now() < 946684815
    proxy.script = every(Date("nonsense"), lambda _: True)
    list(store.list(""))
    assert 946684810 <= store.now() < 946684820


def test_a_server_that_hangs_is_waited_for_so_long_and_tried_again(server: Server, place: Bucket, proxy: Proxy) -> None:
    store = server.store(place._replace(endpoint=proxy.endpoint), patience=SHORT)
    store.put("a", b"x")
    proxy.script = in_turn(Hang(2), of=gets)
    assert store.get("a") == b"x"
    proxy.script = every(Hang(2), gets)
    began = time.monotonic()
    with pytest.raises(StoreUnreachable, match=r"no answer within 0\.3 s"):
        store.get("a")
    assert time.monotonic() - began < 3
    store.close()


def test_a_server_that_is_busy_is_tried_for_so_long_not_for_ever(store: S3Store, proxy: Proxy) -> None:
    list(store.list(""))
    proxy.script = every(SLOW_DOWN, gets)
    began, before = time.monotonic(), len(proxy.seen)
    with pytest.raises(StoreUnreachable, match="SlowDown"):
        store.get("a")
    assert FAST.total - 0.1 < time.monotonic() - began < FAST.total + 3
    assert len(proxy.seen) - before > FAST.tries
