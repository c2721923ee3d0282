"""The benchmark's instruments: a corpus that is the same each time, a counter that counts, a clock of one process."""

import hashlib
import http.client
import os
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from bench import clock, corpus, counter
from bench.counter import Traffic


def digest(top: Path) -> str:
    """Of every path, and of what is there."""
    found = hashlib.sha256()
    for path in sorted(top.rglob("*")):
        found.update(os.fsencode(path.relative_to(top)) + b"\0")
        found.update(os.readlink(path).encode() if path.is_symlink() else b"" if path.is_dir() else path.read_bytes())
    return found.hexdigest()


def made(top: Path, count: int, processes: int) -> corpus.Made:
    top.mkdir()
    return corpus.make(top, count, owner=os.geteuid(), processes=processes)


def test_a_corpus_is_the_same_each_time_however_many_make_it(tmp_path: Path) -> None:
    one, two = made(tmp_path / "one", 700, 1), made(tmp_path / "two", 700, 3)
    assert one == two
    assert digest(tmp_path / "one") == digest(tmp_path / "two")
    assert one.files == 700
    assert one.directories == pytest.approx(700 * 16_700 / 100_589, rel=0.02)
    assert one.bytes == pytest.approx(700 * 901e6 / 100_589, rel=0.02)


def test_touching_changes_just_so_many_files(tmp_path: Path) -> None:
    made(tmp_path / "top", 300, 2)
    before = {path: path.read_bytes() for path in (tmp_path / "top").rglob("*") if path.is_file()}
    assert 0 < corpus.touch(tmp_path / "top", 10) < 2_000_000
    assert sum(path.read_bytes() != data for path, data in before.items()) in (10, 11)  # a link to one of them too


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_PUT(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as there:
        threading.Thread(target=there.serve_forever, args=(0.05,), daemon=True).start()
        yield there
        there.shutdown()


def test_the_counter_counts_requests_and_bytes_and_changes_none(server: ThreadingHTTPServer) -> None:
    with counter.between(("127.0.0.1", server.server_port)) as counting:
        connection = http.client.HTTPConnection("127.0.0.1", counting.port)
        for size in (0, 10, 3_000_000):
            body = os.urandom(size)
            connection.request("PUT", "/x", body)
            assert connection.getresponse().read() == body
        connection.close()
        passed = counting.now()
    assert passed.requests == 3
    assert 3_000_010 < passed.sent < 3_001_000
    assert 3_000_010 < passed.received < 3_001_000
    assert passed - passed == Traffic(0, 0, 0)


def test_the_clock_shows_the_memory_of_the_process_alone() -> None:
    ballast = bytearray(os.urandom(1 << 20)) * 80  # ours must not show
    small = clock.run([sys.executable, "-S", "-c", "pass"])
    large = clock.run(
        [sys.executable, "-S", "-c", "x = bytearray(60_000_000)\nfor at in range(0, 60_000_000, 4096): x[at] = 1"]
    )
    assert small.peak < 30
    assert 60 < large.peak < 90
    assert large.wall > 0
    assert len(ballast) == 80 << 20
    with pytest.raises(clock.Failed, match=r"status 3: .*Nope"):
        clock.run([sys.executable, "-S", "-c", "import sys; print('Nope', file=sys.stderr); sys.exit(3)"])
