"""A town with a store in a directory, a host key that opens it, and trees to put into it."""

import os
import socket
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

from persist import fetch
from persist.fetch import Held, Totals
from tests.machine.towns import ADA, Town
from town import files
from town.process import Person

Fact = tuple[object, ...]


def with_store(town: Town, ada: str = '["projects"]', vox: str = "[]", *, more: str = "") -> None:
    """Write the spec with a store below the town, and make the age key that opens it."""
    import pyrage

    key = town.base / "host.age"
    if not key.exists():
        made = pyrage.x25519.Identity.generate()
        key.write_text(f"{made}\n")
        key.chmod(0o400)
        (town.base / "recipient").write_text(str(made.to_public()))
    recipient = (town.base / "recipient").read_text()
    town.write(
        ada,
        vox,
        town=f'store = "file://{town.base}/store"\nrecipients = {{ humans = ["{recipient}"] }}\n'
        f'host_key = {{ age = "{key}", ssh = "{town.base}/none" }}\n{more}',
    )


def source(town: Town, path: str = "projects", agent: str = "ada") -> Path:
    """Where a bound directory's data lies."""
    return town.persisted / "agents" / agent / path


def held(town: Town, agent: str = "ada") -> Held:
    """The newest state of an agent, which must be there."""
    found = fetch.newest(town.spec, town.spec.agent(agent))
    assert found is not None
    return found


@contextmanager
def fetched(town: Town, into: Path, path: str = "projects", agent: str = "ada") -> Iterator[Path]:
    """A declared path of the newest state, in a fresh directory of root's."""
    into_new(held(town, agent), into, path)
    yield into


def into_new(state: Held, into: Path, path: str = "projects", owner: Person | None = None) -> Totals:
    """Fetch into a directory that is made for it."""
    from pathlib import PurePosixPath

    into.mkdir(mode=0o700)
    with files.opened(files.open_dir(into)) as fd:
        return fetch.fetch(state, PurePosixPath(path), fd, owner or Person(ADA, ADA))


def facts(top: Path) -> dict[bytes, Fact]:
    """Everything that a restore must bring back, by path below `top`: what it is, and which names are one file."""
    found: dict[bytes, Fact] = {}
    inodes: dict[int, list[bytes]] = {}
    for path, fd, name in _entries(top):
        entry = os.stat(name, dir_fd=fd, follow_symlinks=False) if name else os.fstat(fd)
        place = os.fsencode(f"/proc/self/fd/{fd}/") + name
        kind = stat.S_IFMT(entry.st_mode)
        link = kind == stat.S_IFLNK
        names = [] if link else sorted(map(os.fsencode, os.listxattr(place, follow_symlinks=False)))
        kept = [one for one in names if not one.startswith(b"security.")]
        xattrs = tuple((one, os.getxattr(place, one, follow_symlinks=False)) for one in kept)
        held = os.readlink(name, dir_fd=fd) if link else _bytes(os.fsdecode(place)) if kind == stat.S_IFREG else None
        found[path] = (oct(entry.st_mode), entry.st_uid, entry.st_gid, entry.st_mtime_ns, xattrs, held)
        if kind != stat.S_IFDIR and entry.st_nlink > 1:
            inodes.setdefault(entry.st_ino, []).append(path)
    found[b"/names of one file/"] = tuple(sorted(tuple(sorted(names)) for names in inodes.values()))
    return found


def _bytes(path: str) -> bytes:
    return Path(path).read_bytes()


def _entries(top: Path) -> Iterator[tuple[bytes, int, bytes]]:
    """(path, directory, name) of everything below `top`, however deep; of `top` itself with an empty name."""
    with files.opened(files.open_dir(top)) as fd:
        yield b"", fd, b""
    pending = [(b"", os.open(top, files.DIRECTORY))]
    while pending:
        path, fd = pending.pop()
        with files.opened(fd):
            for name in files.names(fd):
                yield path + b"/" + name, fd, name
                if stat.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
                    pending.append((path + b"/" + name, os.open(name, files.DIRECTORY, dir_fd=fd)))


def acl(*entries: tuple[int, int, int]) -> bytes:
    """A POSIX ACL as its extended attribute: (tag, permissions, id) each."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


ODD = (b"new\nline", b"\xff\xfe bytes", b"-rf", b" ", b"\\", b"x" * 255, "ümläut \u202e".encode(), b"'\"$(id)")
MODES = {"many/f3": 0o000, "many/f4": 0o4755, "many/f5": 0o2711, "dir": 0o3770, "many/f6": 0o444}
NOBODY = 0xFFFFFFFF  # the id of entries that name nobody


def torture(top: Path, *, seed: int = 1, small: int = 100, deep: int = 10, big: int = 2 << 20) -> None:
    """Everything that a tree can hold, below `top`, all of it ada's but where it says so."""
    random = Random(seed)
    (top / "many").mkdir()
    for number in range(small):
        (top / f"many/f{number}").write_bytes(random.randbytes(random.randrange(3000)))
    (top / "big").write_bytes(random.randbytes(big))
    (top / "empty").touch()
    (top / "nothing in it").mkdir()
    for name in ODD:
        with open(os.fsencode(top) + b"/" + name, "wb") as file:
            file.write(name)
    with (top / "sparse").open("wb") as file:
        file.truncate(9 << 20)
        file.seek(3 << 20)
        file.write(b"in the middle" * 10_000)
    with (top / "all hole").open("wb") as file:
        file.truncate(5 << 20)
    os.symlink(b"/etc/pass\xffwd\n", top / "link")
    os.symlink("nothing in it", top / "link to directory")
    os.mkfifo(top / "fifo")
    (top / "dir").mkdir()
    (top / "dir/one").write_text("hard")
    os.link(top / "dir/one", top / "dir/two")
    os.link(top / "dir/one", top / "nothing in it/../three")
    os.link(top / "link", top / "dir/link", follow_symlinks=False)
    os.link(top / "fifo", top / "dir/fifo")
    os.setxattr(top / "dir/one", "user.colour", b"bl\0ue\xff")
    os.setxattr(top / "dir", "user.d", b"")
    access = acl((1, 6, NOBODY), (2, 4, ADA), (2, 6, 4242), (4, 4, NOBODY), (16, 6, NOBODY), (32, 0, NOBODY))
    os.setxattr(top / "empty", "system.posix_acl_access", access)
    os.setxattr(top / "dir", "system.posix_acl_default", access)
    os.setxattr(top / "fifo", "system.posix_acl_access", access)
    _deep(top, deep)
    _give(top, random)
    os.chown(top / "many/f1", 0, 0)
    os.chown(top / "many/f2", ADA, 0)
    for name, mode in MODES.items():
        (top / name).chmod(mode)


def _deep(top: Path, levels: int) -> None:
    fd = files.open_dir(top)
    for _ in range(levels):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", files.DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = below
    with files.opened(fd), open(os.open("bottom", os.O_WRONLY | os.O_CREAT, dir_fd=fd), "wb") as file:
        file.write(b"down here")


def _give(top: Path, random: Random) -> None:
    """Everything to ada, with odd times, deepest first."""
    for path, fd, name in reversed([(p, os.dup(f), n) for p, f, n in _entries(top) if p.count(b"/") < 50]):
        time = random.choice([random.randrange(2 * 10**18), 1, 10**9 - 1, 4 * 10**18])
        target = {"path": name or ".", "dir_fd": fd}
        os.chown(target["path"], ADA, ADA, dir_fd=fd, follow_symlinks=False)
        os.utime(target["path"], ns=(0, time), dir_fd=fd, follow_symlinks=False)
        os.close(fd)
        del path


def a_socket(path: Path) -> None:
    """A socket that nobody listens on any more."""
    # By a descriptor: the path may be longer than the 108 bytes of sun_path (unix(7)).
    with files.opened(files.open_dir(path.parent)) as directory, socket.socket(socket.AF_UNIX) as made:
        made.bind(f"/proc/self/fd/{directory}/{path.name}")
