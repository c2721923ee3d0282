"""A Ceph RGW of one's own on loopback: `sudo python -m bench.ceph`, from Debian's packages, in a directory that goes.

    sudo python -m bench.ceph --install        apt-get install radosgw ceph-mon ceph-osd ceph-mgr; apt asks first
    sudo python -m bench.ceph                  start it, say where it is, and wait: Ctrl-C ends it and removes its data
    sudo python -m bench.ceph --suite          the contract suite of tests/store against it
    sudo python -m bench.ceph -- make bench    a command, with S3_ENDPOINT, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY

One mon, one osd (bluestore in a sparse file), one mgr, one rgw: some 10 s and 1 GB of memory. It has a bucket `bench`.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.store.servers import Server, free_port

PACKAGES = ("radosgw", "ceph-mon", "ceph-osd", "ceph-mgr")
CHECKOUT = Path(__file__).parents[1]
_PATIENCE = 120.0  # seconds until each of them answers
# rgw asks a mon for secure connections by itself, which need the keys that a cluster without auth does not have: crc.
_CONF = """\
[global]
fsid = {fsid}
mon host = [v2:127.0.0.1:{v2},v1:127.0.0.1:{v1}]
public addr = 127.0.0.1
cluster addr = 127.0.0.1
auth cluster required = none
auth service required = none
auth client required = none
ms mon client mode = crc
ms mon service mode = crc
ms mon cluster mode = crc
run dir = {base}
admin socket = {base}/$name.asok
pid file = {base}/$name.pid
log file = {base}/$name.log
crash dir = {base}
mon data = {base}/mon
mgr data = {base}/mgr
osd data = {base}/osd
rgw data = {base}/rgw
osd objectstore = bluestore
bluestore block size = {size}
osd memory target = 1073741824
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pgp num = 4
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon max pg per osd = 1000
mgr initial modules =
rgw frontends = beast endpoint=127.0.0.1:{http}
rgw dynamic resharding = false
"""


class Failed(Exception):
    """It could not be brought up; the words say where to look."""


def main(argv: list[str] | None = None) -> int:
    """Start it, do what was asked, end it."""
    arguments = _arguments(argv)
    if arguments.install:
        return subprocess.run(["apt-get", "install", "--no-install-recommends", *PACKAGES], check=False).returncode
    if missing := [name for name in ("ceph", "radosgw", "ceph-mon", "ceph-osd", "ceph-mgr") if not shutil.which(name)]:
        print(f"ceph: error: {missing[0]} is not installed", file=sys.stderr)
        print("ceph: hint: sudo python -m bench.ceph --install", file=sys.stderr)
        return 1
    try:
        with running(arguments.data, arguments.size << 30) as (server, keys):
            return _used(server, keys, arguments)
    except Failed as failed:
        print(f"ceph: error: {failed}", file=sys.stderr)
        return 1


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    about = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m bench.ceph", description=__doc__, formatter_class=about)
    parser.add_argument("--install", action="store_true", help=f"apt-get install {' '.join(PACKAGES)}, and no more")
    parser.add_argument("--suite", action="store_true", help="run the contract suite against it")
    parser.add_argument("--data", type=Path, default=None, help="where its directory is made (default: $TMPDIR)")
    parser.add_argument("--size", type=int, default=20, help="GiB that it may hold (a sparse file; default: 20)")
    parser.add_argument("command", nargs="*", help="a command to run while it is up")
    return parser.parse_args(argv)


def _used(server: Server, keys: Path, arguments: argparse.Namespace) -> int:
    print(f"endpoint  {server.endpoint}\nkeys      {keys}\nbucket    bench", flush=True)
    command = list(arguments.command)
    if arguments.suite:
        command = [sys.executable, "-m", "pytest", "-n", "0", "-q", "tests/store/test_contract.py", "-k", "given"]
    if command:
        return subprocess.run(command, env=os.environ | environment(server), cwd=CHECKOUT, check=False).returncode
    try:
        signal.pause()
    except KeyboardInterrupt:
        return 0
    return 0


def environment(server: Server) -> dict[str, str]:
    """How the suites and the benchmarks are told of a server: a key that dies with it."""
    return {
        "S3_ENDPOINT": server.endpoint,
        "AWS_ACCESS_KEY_ID": server.keys.access,
        "AWS_SECRET_ACCESS_KEY": server.keys.secret,
    }


@contextmanager
def running(data: Path | None = None, size: int = 20 << 30) -> Iterator[tuple[Server, Path]]:
    """A server, and a file with its key, while the block lasts. Raises Failed."""
    base = Path(tempfile.mkdtemp(prefix="ceph-", dir=data))
    ceph = _Ceph(base, size)
    try:
        server = ceph.start()
        yield server, server.credentials(base / "keys")
    finally:
        ceph.stop()
        shutil.rmtree(base)


class _Ceph:
    """Four daemons in the foreground, and what makes them one cluster."""

    def __init__(self, base: Path, size: int) -> None:
        self._base = base
        self._fsid = str(uuid.uuid4())
        self._v1, self._v2, self._http = free_port(), free_port(), free_port()
        self._running: list[subprocess.Popen[bytes]] = []
        (base / "conf").write_text(
            _CONF.format(fsid=self._fsid, v1=self._v1, v2=self._v2, http=self._http, base=base, size=size)
        )
        for name in ("mon", "mgr", "osd", "rgw"):
            (base / name).mkdir()

    def start(self) -> Server:
        """Bring all of it up."""
        self._mon()
        self._daemon("ceph-mgr", "-i", "x")
        self._osd()
        self._daemon("radosgw", "-n", "client.rgw")
        return self._bucket(self._user())

    def stop(self) -> None:
        """End what was started, the last first."""
        for one in reversed(self._running):
            one.kill()
            one.wait()

    def _mon(self) -> None:
        where, monmap = f"[v2:127.0.0.1:{self._v2},v1:127.0.0.1:{self._v1}]", str(self._base / "monmap")
        self._run("monmaptool", "--create", "--fsid", self._fsid, "--addv", "a", where, monmap, conf=False)
        self._run("ceph-mon", "--mkfs", "-i", "a", "--monmap", monmap)
        self._daemon("ceph-mon", "-i", "a")
        self._until("the mon", "ceph", "--connect-timeout", "5", "status")

    def _osd(self) -> None:
        osd = str(uuid.uuid4())
        self._run("ceph", "osd", "new", osd)
        self._run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd)
        self._daemon("ceph-osd", "-i", "0")
        self._until("the osd", "ceph", "--connect-timeout", "5", "osd", "stat", says=b" 1 up")

    def _user(self) -> tuple[str, str]:
        said = self._until("rgw", "radosgw-admin", "user", "create", "--uid", "bench", "--display-name", "bench")
        key = json.loads(said)["keys"][0]
        return str(key["access_key"]), str(key["secret_key"])

    def _bucket(self, key: tuple[str, str]) -> Server:
        from persist.store.s3.credentials import Keys

        server = Server(f"http://127.0.0.1:{self._http}", conditional=True, keys=Keys(*key))
        until = time.monotonic() + _PATIENCE
        while True:
            try:
                server.bucket(name="bench")
                return server
            except Exception as error:
                if time.monotonic() > until:
                    raise Failed(f"rgw does not answer: {error}; {self._words('client.rgw')}") from error
                time.sleep(0.3)

    def _daemon(self, program: str, *words: str) -> None:
        with (self._base / f"{program}.out").open("ab") as out:
            self._running.append(
                subprocess.Popen(
                    ["setpriv", "--pdeathsig", "KILL", program, "-c", str(self._base / "conf"), "-f", *words],
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=out,
                    start_new_session=True,
                )
            )

    def _run(self, program: str, *words: str, conf: bool = True) -> bytes:
        first = ["-c", str(self._base / "conf")] if conf else []
        done = subprocess.run([program, *first, *words], capture_output=True, check=False, timeout=_PATIENCE)
        if done.returncode != 0:
            raise Failed(f"{program} failed: {done.stderr.decode(errors='replace')[-1000:]}")
        return done.stdout

    def _until(self, what: str, program: str, *words: str, says: bytes = b"") -> bytes:
        """Try until it works; what it said then."""
        until = time.monotonic() + _PATIENCE
        while True:
            try:
                if says in (said := self._run(program, *words)):
                    return said
                error = f"it says {said.decode(errors='replace')[:300]}"
            except Failed as failed:
                error = str(failed)
            if time.monotonic() > until:
                raise Failed(f"{what} does not come up: {error}")
            time.sleep(0.3)

    def _words(self, name: str) -> str:
        return (self._base / f"{name}.log").read_text(errors="replace")[-1000:]


if __name__ == "__main__":
    sys.exit(main())
