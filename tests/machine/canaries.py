"""What lies outside an agent's own places, to the byte: another agent's home, root's, the human's, all that is shared.

Each file holds a word of its own that nobody can guess: where it turns up in the agent's places, something was read
for the agent that is not the agent's.
"""

import hashlib
import os
import secrets
import stat
from dataclasses import dataclass, field
from pathlib import Path

from tests.machine.towns import ADA, VOX, Town
from town import files, mounts

HUMAN = 1000
_ROOTS = ("store", "identities", "hook", "passwd", "fuse.conf")  # below the town's base: root's work, that tests do
_SMALL = 1 << 20  # bytes of a file that are looked through for a word

Fact = tuple[object, ...]


@dataclass
class Outside:
    """The canaries of a town, and what is there besides."""

    town: Town
    words: dict[Path, bytes] = field(default_factory=dict)
    before: dict[bytes, Fact] = field(default_factory=dict)
    mounted: set[bytes] = field(default_factory=set)
    homes: bool = True  # whether homes of others are those of before

    @property
    def shared(self) -> Path:
        """Where everybody may look, and root alone may write: what appears there, root made."""
        return self.town.base / "shared"

    @property
    def roots(self) -> Path:
        return self.town.base / "root"

    @property
    def human(self) -> Path:
        return self.town.base / "human"

    def lay_out(self) -> None:
        """Make the canaries. Homes must be there; vox has one, and data under persist_dir."""
        for path, uid, mode in ((self.shared, 0, 0o755), (self.roots, 0, 0o700), (self.human, HUMAN, 0o755)):
            path.mkdir()
            _give(path, uid, mode)
        vox, kept = self.town.agents / "vox", self.town.persisted / "agents/vox/notes"
        for path, uid, mode in (
            (self.shared / "open", 0, 0o666),
            (self.roots / "secret", 0, 0o600),
            (self.roots / "projects", 0, 0o600),
            (self.human / "notes", HUMAN, 0o640),
            (self.human / "open", HUMAN, 0o666),
            (self.human / "setuid", HUMAN, 0o4755),
            (vox / "secret", VOX, 0o600),
            (vox / "open", VOX, 0o666),
            (kept / "secret", VOX, 0o600),
        ):
            self.add(path, uid, mode)
        os.setxattr(self.human / "notes", "user.colour", b"blue")

    def add(self, path: Path, uid: int, mode: int = 0o600) -> None:
        """One more canary."""
        self.words[path] = secrets.token_hex(16).encode()
        path.write_bytes(self.words[path] + b"\n")
        _give(path, uid, mode)

    def remember(self) -> None:
        """What is there now is what must be there later."""
        self.before, self.mounted = self._facts(), self._mounts()

    def homes_gone(self) -> None:
        """A boot took the homes, canaries in them too."""
        agents = bytes(self.town.agents) + b"/"
        self.homes = False
        self.before = {path: fact for path, fact in self.before.items() if not path.startswith(agents)}
        self.words = {path: word for path, word in self.words.items() if not bytes(path).startswith(agents)}

    def check(self) -> None:
        """Nothing outside was changed, made, given away, mounted or read for ada."""
        after = self._facts()
        changed = {path for path in after.keys() | self.before.keys() if after.get(path) != self.before.get(path)}
        assert not changed, f"changed outside: {sorted(changed)}"
        assert self._mounts() <= self.mounted, "something was mounted outside"
        assert self.leaked() == []

    def _facts(self) -> dict[bytes, Fact]:
        found: dict[bytes, Fact] = {}
        for above, directories, names in os.walk(os.fsencode(self.town.base)):
            for name in [*directories, *names]:
                path = above + b"/" + name
                found[path] = _fact(path)
            directories[:] = [name for name in directories if not self._own(above + b"/" + name)]
        agents = bytes(self.town.agents) + b"/"
        looked = {path: fact for path, fact in found.items() if self.homes or not path.startswith(agents)}
        return {path: fact for path, fact in looked.items() if not self._own(path)}

    def _own(self, path: bytes) -> bool:
        """What is ada's, and root's records of it, which no agent may look at."""
        mine = (self.town.agents / "ada", self.town.persisted / "agents/ada", self.town.agents / ".old")
        roots = (self.town.spec.state_dir, self.town.file, *(self.town.base / name for name in _ROOTS))
        return os.path.realpath(path) in {os.fsencode(os.path.realpath(one)) for one in (*mine, *roots)}

    def _mounts(self) -> set[bytes]:
        """Targets of mounts in the town that are not in ada's home."""
        own = bytes(self.town.agents / "ada") + b"/"
        return {mount.target for mount in mounts.below(self.town.base) if not mount.target.startswith(own)}

    def leaked(self) -> list[bytes]:
        """Files of ada's that hold a canary's word, but for names of the canary itself."""
        known = {(path.lstat().st_dev, path.lstat().st_ino) for path in self.words}
        found = []
        for top in (self.town.agents / "ada", self.town.persisted / "agents/ada"):
            if top.is_dir():
                found += [path for path, entry, data in held(top) if self.tells(data) and entry not in known]
        return found

    def tells(self, data: bytes) -> bool:
        """Whether something holds a canary's word."""
        return any(word in data for word in self.words.values())


def held(top: Path) -> list[tuple[bytes, tuple[int, int], bytes]]:
    """The beginning of every regular file below a directory, however deep: path, (device, inode), bytes."""
    found = []
    pending = [(bytes(top), os.open(top, files.DIRECTORY))]
    while pending:
        path, fd = pending.pop()
        with files.opened(fd):
            for name in files.names(fd):
                entry = os.stat(name, dir_fd=fd, follow_symlinks=False)
                if stat.S_ISDIR(entry.st_mode):
                    pending.append((path + b"/" + name, os.open(name, files.DIRECTORY, dir_fd=fd)))
                elif stat.S_ISREG(entry.st_mode):
                    with files.opened(os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=fd)) as file:
                        found.append((path + b"/" + name, (entry.st_dev, entry.st_ino), os.read(file, _SMALL)))
    return found


def _give(path: Path, uid: int, mode: int) -> None:
    os.chown(path, uid, uid)
    path.chmod(mode)


def _fact(path: bytes) -> Fact:
    entry = os.lstat(path)
    kind = stat.S_IFMT(entry.st_mode)
    names = () if kind == stat.S_IFLNK else sorted(os.listxattr(path, follow_symlinks=False))
    xattrs = tuple((name, os.getxattr(path, name, follow_symlinks=False)) for name in names)
    about: Fact = (oct(entry.st_mode), entry.st_uid, entry.st_gid, xattrs)
    if kind == stat.S_IFDIR:
        return about
    if kind == stat.S_IFREG:
        with open(path, "rb") as file:
            about = (*about, hashlib.sha256(file.read()).hexdigest())
    return (*about, entry.st_ino, entry.st_nlink, entry.st_size, entry.st_mtime_ns)


__all__ = ["ADA", "HUMAN", "Outside", "held"]
