"""The S3 server of a benchmark: `rclone serve s3` on loopback, or the one that $S3_ENDPOINT names."""

import fcntl
import json
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from bench import counter
from bench.counter import Counter

BUCKET = "bench"
RCLONE = str(Path(sys.executable).parent / "rclone")
NETWORK = "NUKETOWN_BENCH_NETWORK"  # a descriptor of the network in which $S3_ENDPOINT is
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 1  # netdevice(7)


@dataclass(frozen=True, slots=True)
class Server:
    """Where the bucket is, behind the counter, and who may write to it."""

    name: str
    counter: Counter
    access: str
    secret: str

    @property
    def endpoint(self) -> str:
        """Its URL."""
        return f"http://127.0.0.1:{self.counter.port}"

    def url(self, prefix: str) -> str:
        """The spec's `store` for a town below a prefix of the bucket."""
        return f"s3://{BUCKET}/{prefix}?endpoint={self.endpoint}&region=us-east-1"

    @property
    def environment(self) -> dict[str, str]:
        """What restic, rclone and boto3 read; rclone's remote is `s3:`."""
        return {
            "AWS_ACCESS_KEY_ID": self.access,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_DEFAULT_REGION": "us-east-1",
            "RCLONE_CONFIG": "/dev/null",
            "RCLONE_CONFIG_S3_TYPE": "s3",
            "RCLONE_CONFIG_S3_PROVIDER": "Other",
            "RCLONE_CONFIG_S3_ENDPOINT": self.endpoint,
            "RCLONE_CONFIG_S3_ENV_AUTH": "true",
            "RCLONE_CONFIG_S3_REGION": "us-east-1",
        }

    def size(self, prefix: str) -> int:
        """Bytes of all objects below a prefix of the bucket."""
        argv = [RCLONE, "size", "--json", f"s3:{BUCKET}/{prefix}"]
        found = subprocess.run(argv, env=os.environ | self.environment, capture_output=True, check=True)
        return int(json.loads(found.stdout)["bytes"])


@contextmanager
def started(place: Path) -> Iterator[Server]:
    """The server that $S3_ENDPOINT names (keys in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY), else rclone's."""
    loopback_up()
    if endpoint := os.environ.get("S3_ENDPOINT"):
        access, secret = os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]
        found = urlsplit(endpoint)
        outside = int(os.environ[NETWORK]) if NETWORK in os.environ else None
        with counter.between((found.hostname or "127.0.0.1", found.port or 80), network=outside) as counting:
            yield Server(os.environ.get("S3_NAME", endpoint), counting, access, secret)
        return
    access, secret, port = "benchbench", "bench-secret-key", _free_port()
    (place / BUCKET).mkdir(parents=True)
    argv = [RCLONE, "serve", "s3", "--addr", f"127.0.0.1:{port}", "--auth-key", f"{access},{secret}", str(place)]
    with open(place.parent / "rclone.log", "wb") as log:
        running = subprocess.Popen(argv, stdout=log, stderr=log, env=os.environ | {"RCLONE_CONFIG": "/dev/null"})
    try:
        _wait(port)
        version = subprocess.run([RCLONE, "version"], capture_output=True, check=True, text=True).stdout.split()[1]
        with counter.between(("127.0.0.1", port)) as counting:
            yield Server(f"rclone serve s3 {version}", counting, access, secret)
    finally:
        running.kill()
        running.wait()


def loopback_up() -> None:
    """A network namespace of one's own begins with its loopback device down."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        fcntl.ioctl(one, _SIOCSIFFLAGS, struct.pack("16sh", b"lo", _IFF_UP) + bytes(22))


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])


def _wait(port: int) -> None:
    end = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except ConnectionRefusedError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)
