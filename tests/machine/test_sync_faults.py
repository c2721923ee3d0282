"""Whole syncs and restores over S3, on a server with conditional writes and on one without, through a bad network.

What must hold, whatever one request meets: a command ends well or says what went wrong; every state that was committed
is whole; nothing else is ever restored; and when the network is good again, so is everything.
"""

import os
import re
from collections.abc import Callable, Iterator
from random import Random

import pytest

from persist.store.s3 import S3Store
from tests.machine import stopping, stores
from tests.machine.homes import Home
from tests.machine.stores import Fact, with_store
from tests.machine.towns import ADA, Said, Town, town
from tests.scale import SEED, times
from tests.store import servers
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
    Shorten,
    Stale,
    Status,
    Swap,
    Twice,
)
from tests.store.servers import QUICK, Server

__all__ = ["town"]
pytestmark = pytest.mark.root
Facts = dict[bytes, Fact]
FAULTS: dict[str, Fault] = {
    "refused": Refuse(),
    "hangs": Hang(0.3),
    "hangs when it is done": Hang(0.3, after=True),
    "answer lost": Lose(),
    "500": Status(500, "InternalError"),
    "500 when it is done": Status(500, "InternalError", after=True),
    "503 slow down": Status(503, "SlowDown"),
    "503 when it is done": Status(503, "SlowDown", after=True),
    "a page to log in": Page(),
    "a page that says 200": Page(200, b"<html>hello</html>"),
    "body cut": Cut(20),
    "body cut at once": Cut(0),
    "body shortened": Shorten(30),
    "body swapped": Change(lambda body: os.urandom(len(body))),
    "one bit": Change(lambda body: bytes([body[0] ^ 4]) + body[1:] if body else body),
    "body grown": Change(lambda body: body + b"x"),
    "stale": Stale(),
    "repeated reply": Repeat(),
    "replies reordered": Swap(),
    "sent twice": Twice(),
    "a date long gone": Date("Thu, 01 Jan 1998 00:00:00 GMT"),
}


@pytest.fixture(params=["moto", "rclone"])
def server(request: pytest.FixtureRequest) -> Server:
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Server)
    return found


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    with Proxy(server.endpoint) as there:
        yield there


def on_s3(town: Town, server: Server, proxy: Proxy | None = None) -> Home:
    """The town's store is a new bucket on that server, by way of the proxy; ada's projects lie in it alone."""
    place = server.bucket()
    url = servers.url(place)
    if proxy is not None:
        url = url.replace(server.endpoint, proxy.endpoint)
    credentials = server.credentials(town.base / "s3")
    with_store(town, '[{ path = "projects", via = "store" }]', more=f'store_credentials = "{credentials}"\n')
    text = town.file.read_text()
    town.file.write_text(text.replace(f'"file://{town.base}/store"', f'"{url}"'))
    home = Home(town)
    home.ok("init", "--store")
    home.ok("restore", "ada")
    return home


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that does not wait a minute for what a script never answers."""
    monkeypatch.setattr("persist.store.s3.PATIENCE", QUICK)


@pytest.mark.parametrize("where", ["moto", "rclone", "a directory"])
def test_a_torture_tree_comes_back_byte_for_byte(town: Town, where: str, request: pytest.FixtureRequest) -> None:
    if where == "a directory":
        with_store(town, '[{ path = "projects", via = "store" }]')
        home = Home(town)
        home.ok("init", "--store")
        home.ok("restore", "ada")
    else:
        home = on_s3(town, request.getfixturevalue(where))
    stores.torture(home.projects, deep=300, big=9 << 20, small=300)
    before = stores.facts(home.projects)
    home.ok("sync", "ada")
    home.reboot()
    home.ok("restore", "ada")
    assert stores.facts(home.projects) == before
    for name, most in (("sparse", 400_000), ("all hole", 4096)):
        assert (home.projects / name).stat().st_blocks * 512 <= most, "a hole was filled"
    said = home.ok("sync", "ada")
    assert "nothing new" in said.out


class Faulty:
    """Ada's home by way of a proxy, and what each committed state holds."""

    def __init__(self, home: Home, proxy: Proxy) -> None:
        self.home, self.proxy, self.random = home, proxy, Random(SEED)
        self.states: dict[str, Facts] = {}

    def edit(self) -> None:
        for _ in range(3):
            path = self.home.projects / f"f{self.random.randrange(12)}"
            path.write_bytes(self.random.randbytes(self.random.randrange(1, 200_000)))
            os.chown(path, ADA, ADA)

    def run(self, words: tuple[str, ...], fault: Fault, at: int) -> Said:
        """The command, whose request `at` meets the fault; and, when it is to be swapped, the next one too."""
        first = len(self.proxy.seen) + at
        meets = {first, first + 1} if isinstance(fault, Swap) else {first}
        self.proxy.script = lambda request: fault if request.number in meets else None
        said = self.home.run(*words)
        self.proxy.script = lambda _: None
        assert "Traceback" not in said.err
        assert "report it" not in said.err, said.err
        return said

    def settle(self, now: Facts) -> None:
        """Every state is one that was committed, the newest of them is complete after one more sync."""
        held = [state["snapshot"] for state in self.home.log()]
        assert set(self.states) <= set(held), "a committed state is gone"
        for snapshot in set(held) - set(self.states):
            self.states[snapshot] = now
        self.home.ok("sync", "ada")
        self.states[self.home.head] = now
        assert self.home.got(self.home.head) == now


def _requests(faulty: Faulty, words: tuple[str, ...]) -> int:
    before = len(faulty.proxy.seen)
    faulty.home.ok(*words)
    return len(faulty.proxy.seen) - before


def test_whatever_a_request_meets_states_stay_whole(
    town: Town, server: Server, proxy: Proxy, record_property: Callable[[str, object], None]
) -> None:
    faulty = Faulty(on_s3(town, server, proxy), proxy)
    faulty.edit()
    faulty.settle(stores.facts(faulty.home.projects))
    faulty.edit()
    syncs = _requests(faulty, ("sync", "ada"))
    faulty.settle(stores.facts(faulty.home.projects))
    names = [*FAULTS] * times(1)
    faulty.random.shuffle(names)
    failed = 0
    for name in names[: times(6)]:
        faulty.edit()
        now = stores.facts(faulty.home.projects)
        said = faulty.run(("sync", "ada"), FAULTS[name], faulty.random.randrange(1, syncs + 1))
        failed += said.status != 0
        faulty.settle(now)
    record_property("faults met by a sync", len(names[: times(6)]))
    for state in faulty.home.log():
        assert faulty.home.got(state["snapshot"]) == faulty.states[state["snapshot"]]


def test_whatever_a_restore_meets_it_is_whole_or_nothing(
    town: Town, server: Server, proxy: Proxy, record_property: Callable[[str, object], None]
) -> None:
    faulty = Faulty(on_s3(town, server, proxy), proxy)
    for _ in range(3):
        faulty.edit()
        faulty.settle(stores.facts(faulty.home.projects))
    wanted = faulty.states[faulty.home.head]
    faulty.home.reboot()
    restores = _requests(faulty, ("restore", "ada"))
    names = [*FAULTS] * times(1)
    faulty.random.shuffle(names)
    for name in names[: times(6)]:
        faulty.home.reboot()
        said = faulty.run(("restore", "ada"), FAULTS[name], faulty.random.randrange(1, restores + 1))
        there = faulty.home.projects.is_dir() and os.listdir(faulty.home.projects)
        if said.status == 0 or there:
            assert stores.facts(faulty.home.projects) == wanted, name
        faulty.home.ok("restore", "ada")
        assert stores.facts(faulty.home.projects) == wanted, name
    record_property("faults met by a restore", len(names[: times(6)]))


def test_a_network_that_is_bad_all_the_time_is_said_and_costs_nothing(town: Town, moto: Server) -> None:
    with Proxy(moto.endpoint) as proxy:
        faulty = Faulty(on_s3(town, moto, proxy), proxy)
        faulty.edit()
        faulty.settle(stores.facts(faulty.home.projects))
        faulty.edit()
        for name in ("refused", "503 slow down", "a page to log in"):
            fault = FAULTS[name]
            proxy.script = lambda _, fault=fault: fault  # type: ignore[misc]
            said = faulty.home.run("sync", "ada")
            assert said.status == 75, said
            assert re.search(r"ada: .*(answer|reach|503|slow|page|HTML)", said.err, re.IGNORECASE), said.err
        proxy.script = lambda _: None
        faulty.settle(stores.facts(faulty.home.projects))


@pytest.mark.parametrize("verb", ["sync", "restore"])
def test_killed_at_any_request_over_s3_nothing_committed_is_lost(
    town: Town, server: Server, proxy: Proxy, verb: str, record_property: Callable[[str, object], None]
) -> None:
    faulty = Faulty(on_s3(town, server, proxy), proxy)
    faulty.edit()
    faulty.settle(stores.facts(faulty.home.projects))
    for _ in range(times(3)):
        if verb == "restore":
            faulty.home.reboot()
        else:
            faulty.edit()
        now = stores.facts(faulty.home.projects) if verb == "sync" else faulty.states[faulty.home.head]
        words = ["--spec", str(town.file), verb, "ada"]
        stopping.run(S3Store, words, faulty.random.randrange(5), faulty.random.choice(stopping.HOWS))
        if verb == "restore":
            there = faulty.home.projects.is_dir() and os.listdir(faulty.home.projects)
            assert not there or stores.facts(faulty.home.projects) == now
            faulty.home.ok("restore", "ada")
            assert stores.facts(faulty.home.projects) == now
        faulty.settle(now)
    record_property("kill points over S3", times(3))
