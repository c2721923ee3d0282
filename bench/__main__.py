"""`make bench`: what the initrd grows by, the hook beside bare ioctls, what quotas and `persist lost` cost, sync and
restore beside peers.

It runs on a private machine, as root. `python -m bench sync` (or PARTS="hook sync") runs some parts alone.

    FILES=100589   the whole corpus of the figures (else 20,000 files)
    SYNCS=1000     that many syncs of 100 files before the prune (else 20)
    MILLION=1      also a million files: some 30 GB of disk, so name one with IMAGES
    IMAGES=DIR     where the disks of the machine and of the server lie (else in memory)
    RESTIC=FILE    another restic than the one on PATH
    S3_ENDPOINT=URL with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY: a server on this machine with a bucket `bench`
                   (bench/ceph.py starts one); else `rclone serve s3`
    STORE=file     the store in a directory, for comparison
    PROFILE=1      a profile of every row that can run again, not only of those that missed
"""

import compileall
import os
import sys
from collections.abc import Callable
from pathlib import Path

import initrd
from bench import hook, lost, quota, server, sync
from demo import private
from demo.story import CHECKOUT
from tests.boot import growth, image
from town import files

PARTS = ("initrd", "hook", "quota", "lost", "sync")


def main(argv: list[str]) -> int:
    """Run the parts that were named, or all; the tables go to standard output."""
    parts = argv or os.environ.get("PARTS", "").split() or list(PARTS)
    if unknown := [part for part in parts if part not in PARTS]:
        print(f"bench: error: no part is called {unknown[0]}; there are: {', '.join(PARTS)}", file=sys.stderr)
        return os.EX_USAGE
    if os.geteuid() != 0:
        print("bench: error: it needs root: sudo make bench", file=sys.stderr)
        return os.EX_NOPERM
    if "initrd" in parts:
        _initrd()  # before: a process that had a private machine can start no other
    inside = [part for part in parts if part != "initrd"]
    if not inside:
        return 0
    # As where it is installed: on the private machine the checkout is read-only, and each start would compile it anew.
    compileall.compile_dir(CHECKOUT / "persist", quiet=1)
    compileall.compile_dir(CHECKOUT / "town", quiet=1)
    place = os.environ.get("IMAGES")
    if "S3_ENDPOINT" in os.environ:  # the private machine has a network of its own
        os.environ[server.NETWORK] = str(os.open("/proc/self/ns/net", os.O_RDONLY))
    images = None if place is None else files.open_dir(Path(place))
    return private.run(lambda: _all(inside, images), CHECKOUT)


def _all(parts: list[str], images: int | None) -> int:
    os.environ["PATH"] = f"{CHECKOUT}/.venv/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    os.environ["HOME"] = "/town"
    for name in ("/town", "/backup", "/images"):
        Path(name).mkdir()
    # Not /proc/self: mkfs.btrfs, another process, looks there too.
    place = Path("/images") if images is None else Path(f"/proc/{os.getpid()}/fd/{images}")
    run: dict[str, Callable[[], None]] = {
        "hook": hook.compare,
        "quota": quota.compare,
        "lost": lambda: lost.measure(place),
        "sync": lambda: sync.measure(place),
    }
    for part in parts:
        run[part]()
    return 0


def _initrd() -> None:
    """What the hook adds to an initrd, as the distribution's own programs make it; in a Debian tree of its own."""
    print("initrd: how much larger it is with the hook (zstd)", flush=True)
    try:
        for kind in initrd.KINDS:
            print(f"{kind:<18}{growth.growth(kind) / 1e6:5.2f} MB", flush=True)
    except image.Unavailable as reason:
        print(f"not measured: {reason}")
    print()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
