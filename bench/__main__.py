"""`make bench`: the hook beside the bare ioctls, sync and restore beside restic and tar; on a private machine, as root.

Peers that are not installed are left out, and the table says so. FILES=100000 gives the large corpus.
"""

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import initrd
from bench import clock, corpus, hook
from demo import loopback, private
from demo.story import CHECKOUT
from tests.boot import growth, image
from town import kernel, process

FILES = int(os.environ.get("FILES", "20000"))
_SPEC = """
[town]
domain = "bench.local"
agents_dir = "{root}/agents"
persist_dir = "{root}/persist"
store = "file:///backup/store"
host_key.age = "/town/age.key"
[town.recipients]
humans = ["{key}"]
hosts = {{ bench = "{key}" }}
[agents.ada]
uid = 41100
persist = ["projects"]
"""


def main() -> int:
    """Run everything; the table goes to standard output."""
    if os.geteuid() != 0:
        print("bench: error: it needs root: sudo make bench", file=sys.stderr)
        return os.EX_NOPERM
    _initrd()  # before: a process that had a private machine can start no other
    return private.run(_all, CHECKOUT)


def _all() -> int:
    os.environ["PATH"] = f"{CHECKOUT}/.venv/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    os.environ["HOME"] = "/town"
    for name in ("/town", "/backup", "/images"):
        Path(name).mkdir()
    hook.compare()
    with _disk_at(""), _disk_at("/second"):
        _sync()
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


@contextmanager
def _disk_at(root: str) -> Iterator[None]:
    image = Path("/images", root.strip("/") or "first")
    with image.open("wb") as file:
        file.truncate(8 << 30)
    process.run(["mkfs.btrfs", "--quiet", image])
    for name in ("agents", "persist"):
        Path(root, name).mkdir(parents=True)
    with loopback.attached(image) as device:
        kernel.mount(device, f"{root}/persist", "btrfs", 0)
        try:
            yield
        finally:
            process.run(["umount", "--recursive", "--lazy", f"{root}/agents"], check=False)
            process.run(["umount", "--recursive", "--lazy", f"{root}/persist"])


def _sync() -> None:
    process.run(["age-keygen", "-o", "/town/age.key"])
    Path("/town/age.key").chmod(0o400)
    key = process.run(["age-keygen", "-y", "/town/age.key"]).out.decode().strip()
    for root in ("", "/second"):
        Path(f"/town/town{root.strip('/')}.toml").write_text(_SPEC.format(root=root, key=key))
    first, second = ["persist", "--spec", "/town/town.toml"], ["persist", "--spec", "/town/townsecond.toml"]
    process.run([*first, "init", "--store"])
    process.run([*first, "restore"])
    top = Path("/persist/agents/ada/projects")
    size = corpus.make(top, FILES)
    for path in [top, *top.rglob("*")]:
        os.chown(path, 41100, 41100)
    print(f"\n{FILES} files, {size / 1e6:.0f} MB; wall, CPU with children, peak memory of one process")
    peers = _peers(top)
    _row("first sync", [*first, "sync"], peers, 0)
    _row("nothing changed", [*first, "sync"], peers, 0)
    corpus.touch(top, 100)
    _row("100 changed", [*first, "sync"], peers, 0)
    _row("restore", [*second, "restore"], peers, 1)


Peers = dict[str, tuple[list[str], list[str]]]


def _peers(top: Path) -> Peers:
    """{name: (command that backs up, command that restores)}"""
    peers: Peers = {}
    if shutil.which("zstd"):
        peers["tar | zstd -1"] = (
            ["sh", "-c", f"tar -C {top} -cf - . | zstd -1 -q -f -o /backup/tar.zst && sync /backup/tar.zst"],
            ["sh", "-c", "zstd -dc /backup/tar.zst | tar -C /second/persist/agents -xf -"],
        )
    restic = os.environ.get("RESTIC") or shutil.which("restic")
    if restic:
        Path("/town/password").write_text("bench")
        base = [restic, "--quiet", "--repo", "/backup/restic", "--password-file", "/town/password", "--no-cache"]
        process.run([*base, "init"])
        version = process.run([restic, "version"]).out.decode().split()[1]
        peers[f"restic {version}"] = (
            [*base, "backup", str(top)],
            [*base, "restore", "latest", "--target", "/second/persist/agents/restic"],
        )
    if not peers:
        print("no peer is installed (restic, zstd): times alone say little")
    return peers


def _row(name: str, argv: list[str], peers: Peers, side: int) -> None:
    ours = clock.run(argv)
    print(f"{name:<18}{'persist':<16}{ours}", flush=True)
    for peer, commands in peers.items():
        theirs = clock.run(commands[side])
        print(f"{'':<18}{peer:<16}{theirs}  ratio {ours.wall / theirs.wall:.2f}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
