"""Real S3 servers for tests, on loopback: moto (conditional writes) and `rclone serve s3` (none, but it checks keys).

`from tests.store.servers import Server`; the fixtures `moto` and `rclone` are in tests/conftest.py for every suite, one
server for a whole session each. `server.bucket()` makes an empty bucket of its own.
"""

import itertools
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from persist.store.s3 import S3Store
from persist.store.s3.credentials import Access, Keys
from persist.store.s3.patience import Patience
from town.store_url import Bucket

KEYS = Keys("AKIDNUKETOWNTESTS", "the/secret+of-the-tests")
# Enough for a server on loopback that two cores share with others; short where a test waits for its end.
QUICK = Patience(connect=5, read=15, tries=3, total=2, pause=0.02, longest=0.1)
_NUMBERS = itertools.count(1)
_START = 30.0  # seconds until a server answers


@dataclass(frozen=True, slots=True)
class Server:
    """An S3 server that runs: where, the key that it accepts, and whether it honours conditional writes."""

    endpoint: str
    conditional: bool
    keys: Keys = KEYS

    def bucket(self, prefix: str = "", *, name: str = "") -> Bucket:
        """A new, empty bucket on it."""
        place = Bucket(name or f"town-{next(_NUMBERS)}-{os.getpid()}", prefix, self.endpoint, "us-east-1")
        store = self.store(place)
        store._client.ask("PUT")
        store.close()
        return place

    def store(self, place: Bucket, *, state: Path | None = None, patience: Patience = QUICK) -> S3Store:
        """A client of a bucket on it."""
        return S3Store(place, lambda: Access(self.keys), state=state, patience=patience)

    def through(self, endpoint: str) -> "Server":
        """The same server, reached by way of a proxy."""
        return replace(self, endpoint=endpoint)

    def credentials(self, path: Path) -> Path:
        """Its key as a file for town.store_credentials."""
        path.touch(0o600)
        path.write_text(
            f"[default]\naws_access_key_id = {self.keys.access}\naws_secret_access_key = {self.keys.secret}\n"
        )
        path.chmod(0o400)
        return path


def url(place: Bucket) -> str:
    """A bucket as town.store names it."""
    prefix = f"/{place.prefix}" if place.prefix else ""
    return f"s3://{place.bucket}{prefix}?endpoint={place.endpoint}&region={place.region}"


@contextmanager
def moto_server(log: Path) -> Iterator[Server]:
    """moto's S3, in memory. It accepts every key."""
    port = free_port()
    program = Path(sys.executable).parent / "moto_server"
    with _running([program, "-H", "127.0.0.1", "-p", str(port)], port, log):
        yield Server(f"http://127.0.0.1:{port}", conditional=True)


@contextmanager
def rclone_server(directory: Path, log: Path, *, port: int | None = None) -> Iterator[Server]:
    """rclone's S3 over a directory, where each bucket is a directory. It ignores If-None-Match and If-Match."""
    port = port or free_port()
    auth = f"{KEYS.access},{KEYS.secret}"
    program = Path(sys.executable).parent / "rclone"
    # What is changed in the directory behind its back it sees after a second.
    words = [program, "serve", "s3", "--addr", f"127.0.0.1:{port}", "--auth-key", auth, directory]
    with _running([*words, "--dir-cache-time", "1s", "--config", os.devnull], port, log):
        yield Server(f"http://127.0.0.1:{port}", conditional=False)


@pytest.fixture(scope="session")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that honours conditional writes, and accepts every key."""
    with moto_server(tmp_path_factory.mktemp("moto") / "log") as server:
        yield server


@pytest.fixture(scope="session")
def rclone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server without conditional writes, which checks keys and Content-MD5."""
    base = tmp_path_factory.mktemp("rclone")
    (base / "data").mkdir()
    with rclone_server(base / "data", base / "log") as server:
        yield server


@pytest.fixture(scope="session")
def given() -> Server:
    """A server that was started by hand, such as by `python -m bench.ceph --suite`: $S3_ENDPOINT and a key."""
    keys = Keys(os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"])
    return Server(os.environ["S3_ENDPOINT"], conditional=True, keys=keys)


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _running(words: list[str | Path], port: int, log: Path) -> Iterator[None]:
    with log.open("wb") as out:
        # A session of its own: what it starts is killed with it. It does not outlive a run that is killed (prctl(2)).
        server = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *words],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            cwd=log.parent,
            start_new_session=True,
        )
    try:
        _wait(server, port, log)
        yield
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _wait(server: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    until = time.monotonic() + _START
    while time.monotonic() < until and server.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5):
                return
        except urllib.error.HTTPError as error:  # it answers, though not to a stranger
            error.close()
            return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(f"the server did not start: {log.read_text(errors='replace')[-2000:]}")
