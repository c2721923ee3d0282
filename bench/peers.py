"""What nuketown is measured beside, on the same server in the same run: restic, and `tar | zstd -1 | upload`."""

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bench.server import BUCKET, RCLONE, Server

NO_RESTIC = "restic is not installed: `apt-get install restic`, or RESTIC=/path/to/a/newer/restic; nothing beside it"


@dataclass(frozen=True, slots=True)
class Peer:
    """One program: how it backs a directory up, and how it restores; `name` has its version."""

    name: str
    backup: tuple[str, ...]
    restore: tuple[str, ...]
    environment: Mapping[str, str] = field(repr=False)
    prefix: str  # of its objects in the bucket


def found(server: Server, top: Path, into: Path) -> tuple[Peer | None, Peer | None]:
    """restic and tar, or None for one that is not installed; restic's repository is made."""
    return restic(server, top, into), tar(server, top, into)


def restic(server: Server, top: Path, into: Path, prefix: str = "restic") -> Peer | None:
    """restic, given by $RESTIC, else Debian's own."""
    program = os.environ.get("RESTIC") or shutil.which("restic")
    if not program:
        return None
    version = subprocess.run([program, "version"], capture_output=True, check=True, text=True).stdout.split()[1]
    environment = os.environ | server.environment | {"RESTIC_PASSWORD": "bench", "RESTIC_CACHE_DIR": f"/town/{prefix}"}
    base = (program, "--quiet", "--repo", f"s3:{server.endpoint}/{BUCKET}/{prefix}")
    subprocess.run([*base, "init"], env=environment, check=True, capture_output=True)
    return Peer(
        f"restic {version}",
        (*base, "backup", str(top)),
        (*base, "restore", "latest", "--target", str(into)),
        environment,
        prefix,
    )


def tar(server: Server, top: Path, into: Path) -> Peer | None:
    """The limit: one stream, no history, no encryption. Its restore ends with a sync, as ours does."""
    if not shutil.which("zstd"):
        return None
    upload = f"{RCLONE} --quiet --s3-chunk-size 16Mi rcat s3:{BUCKET}/tar/corpus.tar.zst"
    download = f"{RCLONE} --quiet cat s3:{BUCKET}/tar/corpus.tar.zst"
    return Peer(
        "tar | zstd -1",
        ("bash", "-c", f"set -o pipefail; tar -C {top} -cf - . | zstd -1 -q | {upload}"),
        ("bash", "-c", f"set -o pipefail; {download} | zstd -dc | tar -C {into} -xf - && sync -f {into}"),
        os.environ | server.environment,
        "tar",
    )
