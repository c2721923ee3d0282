"""The store cannot be reached at a boot: down, hanging, slow. Who synced last goes on with what lies here."""

import json
import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from persist.restore import question
from persist.sync import local
from persist.sync import run as run_
from tests.machine.lineages import (
    BOTH,
    boot,
    degraded,
    kept,
    no_packs,
    ok,
    record,
    run,
    second,
    synced,
    town,
    uuid,
    work,
    write,
)  # fmt: skip
from tests.machine.stores import with_store
from tests.machine.towns import Town
from tests.store.servers import Server, url
from town import btrfs, files

__all__ = ["kept", "town"]
pytestmark = pytest.mark.root


@contextmanager
def away(town: Town) -> Iterator[None]:
    """The store's disk is not there."""
    (town.base / "store").rename(town.base / "elsewhere")
    try:
        yield
    finally:
        (town.base / "elsewhere").rename(town.base / "store")


def test_without_the_store_the_machine_that_synced_last_goes_on_and_status_says_degraded(kept: Town) -> None:
    write(kept, "a")
    synced(kept)
    write(kept, "b")
    boot(kept)
    with away(kept):
        said = ok(kept, "restore", "ada")
        assert "persist: warning: ada: work: degraded: " in said.err
        assert sorted(os.listdir(work(kept))) == ["a", "b"]
        (path, note), *_ = degraded(kept).items()
        assert path == "work"
        assert note["since"]
        assert "is not there" in note["why"]
        status = kept.persist("status", "ada")
        assert status.status == 3
        assert "work: degraded since" in status.out
        ok(kept, "restore", "ada")
        assert degraded(kept)["work"]["since"] == note["since"]
    assert "it has none" in ok(kept, "restore", "ada").out
    assert degraded(kept) == {}
    assert synced(kept)["committed"]


def test_a_sync_that_reaches_the_store_takes_the_note_away_also_with_nothing_to_send(kept: Town) -> None:
    write(kept, "a")
    synced(kept)
    boot(kept)
    with away(kept):
        ok(kept, "restore", "ada")
        assert kept.persist("sync", "ada").status in (1, 75)
        assert degraded(kept)
    assert synced(kept)["committed"] is False
    assert degraded(kept) == {}
    assert record(kept)["work"][0]["settled"] is True


def swapped(town: Town) -> None:
    """Ada puts a subvolume of her own, a copy of hers, in the place of the declared one, and writes in it."""
    run(town, "import os; os.rename('work', 'old')")
    with (
        files.opened(files.open_dir(town.agents / "ada/old")) as old,
        files.opened(files.open_dir(town.agents / "ada")) as home,
    ):
        os.close(btrfs.snapshot(old, home, "work", read_only=False))
    write(town, "b")


@pytest.mark.parametrize("asks", [True, False])  # before it looks, or only once there is something to send
def test_a_subvolume_that_the_agent_put_there_is_brought_over_though_no_sync_reached_the_store(
    kept: Town, monkeypatch: pytest.MonkeyPatch, *, asks: bool
) -> None:
    write(kept, "a")
    synced(kept)
    swapped(kept)
    if asks:
        monkeypatch.setattr(run_, "LISTED", 0.0)
    with away(kept):
        said = kept.persist("sync", "ada")
        assert said.status in (1, 75)
        assert "is not there" in said.err
        assert record(kept)["work"][0]["uuid"] == uuid(work(kept))
        write(kept, "c")
        boot(kept)
        ok(kept, "restore", "ada")
        assert sorted(os.listdir(work(kept))) == ["a", "b", "c"]
    boot(kept)
    ok(kept, "restore", "ada")
    assert sorted(os.listdir(work(kept))) == ["a", "b", "c"]
    assert synced(kept)["committed"]


def test_who_gave_the_lease_back_at_a_clean_shutdown_goes_on_too(kept: Town) -> None:
    write(kept, "a")
    synced(kept, "--release")
    boot(kept)
    with away(kept):
        ok(kept, "restore", "ada")
        assert os.listdir(work(kept)) == ["a"]
    write(kept, "b")
    assert synced(kept)["committed"]


def test_who_gave_it_back_and_goes_on_beside_another_is_told_and_keeps_a_branch(kept: Town) -> None:
    write(kept, "a")
    synced(kept, "--release")
    two = second(kept)
    ok(two, "restore", "ada")
    write(two, "theirs")
    ok(two, "sync", "ada")
    boot(kept)
    with away(kept):
        ok(kept, "restore", "ada")
    write(kept, "mine")
    said = kept.persist("sync", "ada")
    assert said.status == 1
    assert "has taken over ada" in said.err
    log = json.loads(ok(kept, "log", "ada", "--json").out)["agents"][0]["states"]
    assert [state["kind"] for state in log].count("branch") == 1


def test_who_saw_another_machine_take_the_lease_does_not_start_without_the_store(kept: Town) -> None:
    write(kept, "a")
    synced(kept)
    two = second(kept)
    ok(two, "restore", "--take-over", "ada")
    write(two, "b")
    ok(two, "sync", "ada")
    write(kept, "c")
    assert kept.persist("sync", "ada").status == 1
    boot(kept)
    with away(kept):
        said = kept.persist("restore", "ada")
        assert said.status in (1, 75)
        assert "degraded" not in said.err
        assert degraded(kept) == {}
    assert sorted(os.listdir(work(kept))) == ["a", "c"]


def test_who_never_synced_does_not_start_without_the_store(kept: Town) -> None:
    write(kept, "a")
    shutil.rmtree(kept.persisted / ".nuketown/sync")
    boot(kept)
    with away(kept):
        assert kept.persist("restore", "ada").status in (1, 75)
    assert os.listdir(work(kept)) == ["a"]


def test_what_is_not_required_is_used_and_noted(kept: Town) -> None:
    write(kept, "a")
    with_store(kept, BOTH.replace(" }", ", required = false }"))
    shutil.rmtree(kept.persisted / ".nuketown/sync")
    boot(kept)
    with away(kept):
        ok(kept, "restore", "ada")
    assert "work" in degraded(kept)


def test_the_way_to_have_what_the_store_has_does_not_bring_back_what_lies_here(kept: Town) -> None:
    write(kept, "a", "in the store")
    synced(kept, "--release")
    shutil.rmtree(kept.spec.state_dir / "sync")  # what says that this machine wrote it; the lineage stays
    write(kept, "a", "of this machine")
    said = kept.persist("sync", "ada")
    assert said.status == 1
    ok(kept, *said.err.split("stop the agent, then: persist ")[1].partition(";")[0].split())
    assert (work(kept) / "a").read_text() == "in the store"
    (aside,) = (kept.agents / "ada").glob("work.before-*")
    assert [file.read_text() for file in aside.rglob("a")] == ["of this machine"]
    ok(kept, "sync", "ada")


def test_a_store_that_was_emptied_is_no_store_that_is_away(kept: Town) -> None:
    write(kept, "a")
    synced(kept)
    boot(kept)
    store = kept.base / "store"
    for below in store.iterdir():
        shutil.rmtree(below) if below.is_dir() else below.unlink()
    (store / "something").write_text("else")
    said = kept.persist("restore", "ada")
    assert said.status == 1
    assert degraded(kept) == {}
    assert os.listdir(work(kept)) == ["a"]


# ---- a network


@pytest.fixture
def remote(town: Town, moto: Server) -> Iterator[tuple[Town, "Line"]]:
    """The town with its store on a server, reached through a line that can be cut."""
    with Line(moto.endpoint) as line:
        server = moto.through(line.endpoint)
        bucket = moto.bucket("a/town")
        server.credentials(town.base / "s3")
        with_store(town, BOTH, more=f'store_credentials = "{town.base}/s3"\n')
        text = town.file.read_text()
        place = bucket._replace(endpoint=line.endpoint)
        town.file.write_text(text.replace(f'"file://{town.base}/store"', f'"{url(place)}"'))
        ok(town, "init", "--store")
        ok(town, "restore")
        yield town, line


class Line:
    """TCP to a server. `how`: `open`, `closed` (refused), `silent` (accepted, nothing comes), `slow` (byte by byte)."""

    def __init__(self, endpoint: str) -> None:
        host, port = endpoint.removeprefix("http://").split(":")
        self._server = (host, int(port))
        self.how = "open"
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._port = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        self.endpoint = f"http://127.0.0.1:{self._port}"
        self._done = False

    def __enter__(self) -> "Line":
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done = True
        self.cut("closed")

    def cut(self, how: str) -> None:
        """From now on; connections that are open end."""
        self.how = how
        for one in self._open:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        if how == "closed":
            with suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()

    def _accept(self, listener: socket.socket) -> None:
        while not self._done:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            self._open.append(client)
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError):
            if self.how == "silent":
                client.recv(1 << 16)
                time.sleep(60)
            elif self.how == "slow":
                client.recv(1 << 16)
                client.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/xml\r\nContent-Length: 100000\r\n\r\n")
                for _ in range(600):
                    client.sendall(b" ")
                    time.sleep(0.1)
            else:
                with socket.create_connection(self._server) as server:
                    self._open.append(server)
                    back = threading.Thread(target=_pump, args=(server, client), daemon=True)
                    back.start()
                    _pump(client, server)
                    back.join()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while piece := source.recv(1 << 16):
            target.sendall(piece)
        target.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize("how", ["closed", "silent", "slow"])
def test_a_store_that_does_not_answer_holds_nobody_up(
    remote: tuple[Town, Line], how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    town, line = remote
    write(town, "a")
    synced(town)
    write(town, "b")
    boot(town)
    line.cut(how)
    assert question.SECONDS == 20
    monkeypatch.setattr(question, "SECONDS", 2.5)
    before, began = children(), time.monotonic()
    said = ok(town, "restore", "ada")
    assert time.monotonic() - began < 6
    assert "degraded" in said.err
    assert "work" in degraded(town)
    assert sorted(os.listdir(work(town))) == ["a", "b"]
    assert children() == before


def children() -> set[str]:
    """The processes that this one started."""
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


def test_who_does_not_hold_the_lease_waits_for_a_store_that_hangs(
    remote: tuple[Town, Line], monkeypatch: pytest.MonkeyPatch
) -> None:
    town, line = remote
    write(town, "a")
    synced(town)
    agent = town.spec.agent("ada")
    local.change(town.spec, agent, lambda now: now._replace(lease=None))
    boot(town)
    line.cut("silent")
    monkeypatch.setattr(question, "SECONDS", 1.0)
    said = town.persist("restore", "--fetch", "ada")
    assert said.status == 1, "no home yet"
    ok(town, "restore", "--local", "ada")
    said = town.persist("restore", "--fetch", "ada")
    assert said.status == 75
    assert "did not answer within 1 s" in said.err
    assert degraded(town) == {}


def test_the_question_is_asked_once_for_all_paths_of_an_agent(kept: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    with_store(kept, '[{ path = "work", via = "store" }, { path = "b", via = "store" }, { path = "c", via = "store" }]')
    ok(kept, "restore", "ada")
    write(kept, "a")
    synced(kept)
    boot(kept)
    forks = []
    real = os.fork

    def counted() -> int:
        forks.append(1)
        return real()

    monkeypatch.setattr(os, "fork", counted)
    with no_packs(kept):
        ok(kept, "restore", "ada")
    assert len(forks) == 1


def test_a_question_that_is_cut_off_counts_as_no_answer(kept: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    synced(kept)
    boot(kept)

    def dies(_site: object) -> dict[str, object]:
        os.kill(os.getpid(), 9)
        raise AssertionError

    monkeypatch.setattr(question, "_put", dies)
    assert "cut off" in ok(kept, "restore", "ada").err
    assert Path(kept.persisted / ".nuketown/degraded/ada.json").exists()
