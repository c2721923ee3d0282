"""Objects of a repository: the tree that a commit of the index would have, and the one that the last commit has."""

import hashlib
import zlib
from collections.abc import Sequence
from contextlib import suppress

from persist.git import Clock, Unknown
from persist.git.index import Entry
from persist.git.place import Place, read
from town import files
from town.failure import Failure

_MOST = 1 << 20  # bytes of a commit, compressed or not
_DIRECTORY = 0o40000
_DIRECTORIES, _PATHS = 250_000, 64 << 20  # directories of an index, and bytes of all their paths


def name(hash_: str, kind: bytes, data: bytes) -> bytes:
    """What git calls an object."""
    return hashlib.new(hash_, b"%b %d\0" % (kind, len(data)) + data, usedforsecurity=False).digest()


def tree(hash_: str, entries: Sequence[Entry], clock: Clock) -> bytes:
    """The name of the tree that these entries of an index make: directories from the innermost outwards."""
    directories: dict[bytes, dict[bytes, tuple[int, bytes]]] = {b"": {}}
    held = 0
    for number, entry in enumerate(entries):
        if number % 64 == 0:
            clock.check()
        above, _, last = entry.path.rpartition(b"/")
        directories.setdefault(above, {})[last] = entry.mode, entry.hash
        while above:
            above = above.rpartition(b"/")[0]
            if above in directories:
                break
            directories[above] = {}
            held += len(above)
            if len(directories) > _DIRECTORIES or held > _PATHS:
                raise Unknown("its index has too many directories")
    for path in sorted(directories, key=lambda path: -path.count(b"/") - bool(path)):
        clock.check()
        made = name(hash_, b"tree", _listed(directories[path]))
        if not path:
            return made
        above, _, last = path.rpartition(b"/")
        directories[above][last] = _DIRECTORY, made
    raise AssertionError("the top comes last")


def _listed(names: dict[bytes, tuple[int, bytes]]) -> bytes:
    def order(item: tuple[bytes, tuple[int, bytes]]) -> bytes:
        return item[0] + b"/" if item[1][0] == _DIRECTORY else item[0]

    return b"".join(b"%o %b\0%b" % (mode, last, made) for last, (mode, made) in sorted(names.items(), key=order))


def none(place: Place) -> bool:
    """Whether nothing was ever added to the repository. Raises OSError, Unsafe."""
    try:
        with files.opened(files.enter(place.shared, "objects")) as objects:
            return all(_is_empty(objects, name) for name in files.names(objects))
    except FileNotFoundError:
        return True


def _is_empty(objects: int, name: bytes) -> bool:
    try:
        with files.opened(files.enter(objects, name)) as below:
            return not files.names(below)
    except NotADirectoryError:
        return False


def tree_of(place: Place, commit: bytes) -> bytes | None:
    """The tree of a commit (hexadecimal); None where the commit is in a pack, or not there."""
    with suppress(OSError, Failure, Unknown, zlib.error):
        packed = read(place.shared, b"objects/%b/%b" % (commit[:2], commit[2:]), _MOST)
        text = zlib.decompressobj().decompress(packed, _MOST)
        head, _, text = text.partition(b"\0")
        said = text.partition(b"\n")[0]
        if head.startswith(b"commit ") and said.startswith(b"tree "):
            with suppress(ValueError):
                return bytes.fromhex(said.removeprefix(b"tree ").decode("ascii", "replace"))
    return None
