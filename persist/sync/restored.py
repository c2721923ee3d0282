"""What a restore tells the index of, so that the first sync after it costs what changed since.

The rows go from the restore's plan into the index within sqlite: a directory is numbered there as the plan does, from
a first number on. What the plan does not know are inodes and generations, which come by functions.
"""

import os
from array import array
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from persist.sync import declared, rows, volumes
from persist.sync.index import Index
from persist.sync.rows import Directory, Rows
from town import btrfs, files, subvolumes

_LINK = b'"link":"'  # a quote within a string has a backslash before it, so this is the key
_NO_RULE = "\0"  # no spec says this: the next sync reads the path in full
_CACHE = 16_000  # KiB of the plan's pages
_TOP = 0  # what a plan calls the directory that it fills
_DIR = 1  # the kind of a directory there
_LINKED = "instr(line, :link) > 0"
_SUMS = f"SELECT dir, COUNT(*), SUM(size), SUM({_LINKED}) FROM plan.entries WHERE kind != {_DIR} GROUP BY dir"  # noqa: S608
_ENTRIES = f"""
INSERT INTO main.entries
SELECT :first + dir, name, made_inode(no), 0, CASE kind WHEN {_DIR} THEN :first + no END,
    CASE kind WHEN {_DIR} THEN made_files(no) ELSE 1 END, CASE kind WHEN {_DIR} THEN made_bytes(no) ELSE size END,
    CASE kind WHEN {_DIR} THEN made_links(no) ELSE {_LINKED} END, line
FROM plan.entries INDEXED BY names ORDER BY dir, name
"""  # noqa: S608 - constants
_DIRECTORIES = f"""
INSERT INTO main.dirs
SELECT :first + no, :tree, :volume, made_inode(no), made_born(no), :first + dir, name, made_prunes(name)
FROM plan.entries WHERE kind = {_DIR} ORDER BY no
"""  # noqa: S608 - constants
_LINKS = f"""
INSERT OR IGNORE INTO main.links SELECT :tree, :volume, made_inode(no), :first + dir, name
FROM plan.entries WHERE kind != {_DIR} AND {_LINKED}
"""  # noqa: S608 - constants

Sums = dict[int, tuple[int, int, int]]  # directory: files, bytes, names of linked files, at and below it


def forget(index: Index, path: PurePosixPath) -> None:
    """Forget what the index knew of a declared path.

    In a transaction before that of `Restored`: what is written to pages that were free when it began needs no journal.
    """
    if index.db.execute("SELECT 1 FROM trees WHERE path != ?", (str(path),)).fetchone() is None:
        index.clear(blobs=False)  # whole tables at once: row by row takes as long as writing them
    elif (known := rows.find_tree(index, str(path))) is not None:
        rows.drop_tree(index, known[0])


class Restored:
    """The rows of one declared path that was restored."""

    def __init__(self, index: Index, path: PurePosixPath, commit: str, into: int) -> None:
        entry = next((entry for entry in declared.entries(index.agent) if entry.path == path), None)
        self._left_out = declared.left_out(entry) if entry else frozenset()
        self._rows: Rows = rows.new_tree(index, str(path), declared.rule(self._left_out) if entry else _NO_RULE)
        self._index, self._commit = index, commit
        self._volume = volumes.volume(index, _uuid(into))
        self._first = self._rows.fresh()  # nobody else asks for numbers in this transaction

    def take(self, plan: Path, top: tuple[bytes, bytes], inodes: "array[int]", born: "array[int]") -> None:
        """All that was made of a plan (`persist.fill.plan`). `top`: name and line of the declared path itself.

        `inodes` and `born` (generations) by the plan's numbers. The plan stays attached until the index is closed.
        """
        database = self._index.db
        database.execute("ATTACH ? AS plan", (os.fspath(plan),))
        database.execute(f"PRAGMA plan.cache_size = -{_CACHE}")
        sums = self._sums()
        self._functions(sums, inodes, born)
        said = {"first": self._first, "tree": self._rows.tree, "volume": self._volume, "link": _LINK}
        for statement in (_ENTRIES, _DIRECTORIES, _LINKS):
            database.execute(statement, {key: value for key, value in said.items() if f":{key}" in statement})
        name, line = top
        tree = self._rows.tree
        self._rows.put(-tree, (name, inodes[_TOP], 0, self._first, *sums.get(_TOP, (0, 0, 0)), line))
        self._rows.add_directory(Directory(self._first, tree, self._volume, inodes[_TOP], born[_TOP], -tree, name,
                                           bool(self._left_out)))  # fmt: skip
        self._rows.flush()

    def _sums(self) -> Sums:
        """Of every directory that holds anything. One that lies in another has the higher number: from the last up."""
        sums: Sums = {}
        for directory, *own in self._index.db.execute(_SUMS, {"link": _LINK}):
            sums[directory] = (own[0], own[1], own[2])
        for number, above in self._index.db.execute(
            f"SELECT no, dir FROM plan.entries WHERE kind = {_DIR} ORDER BY no DESC"  # noqa: S608 - constants
        ):
            if (below := sums.get(number)) is not None:
                held = sums.get(above, (0, 0, 0))
                sums[above] = (held[0] + below[0], held[1] + below[1], held[2] + below[2])
        return sums

    def _functions(self, sums: Sums, inodes: "array[int]", born: "array[int]") -> None:
        """What the statements ask of a number."""
        database, none = self._index.db, (0, 0, 0)
        firsts = {os.fsencode(path.parts[0]) for path in self._left_out}
        asked: dict[str, Callable[..., int]] = {
            "made_inode": inodes.__getitem__,
            "made_born": born.__getitem__,
            "made_files": lambda number: sums.get(number, none)[0],
            "made_bytes": lambda number: sums.get(number, none)[1],
            "made_links": lambda number: sums.get(number, none)[2],
            # Whether something below could be left out: the top, and the first components of what is.
            "made_prunes": lambda name: name in firsts,
        }
        for name, function in asked.items():
            database.create_function(name, 1, function)

    def finish(self, into: int) -> None:
        """Everything was given, and is on the disk below the open directory `into`."""
        transid = btrfs.commit(into) if btrfs.is_btrfs(into) else 0
        self._rows.set_part(self._first, self._volume, transid)
        self._rows.set_state(self._commit)
        if self._holds_left_out():
            self._rows.set_rule(_NO_RULE)

    def _holds_left_out(self) -> bool:
        """Whether the state holds what is left out by now: then the next sync reads the path in full."""
        return any(self._row(tuple(map(os.fsencode, path.parts))) for path in self._left_out)

    def _row(self, names: tuple[bytes, ...]) -> bool:
        top = self._rows.top()
        at = top.id if top else 0
        for name in names:
            row = self._rows.get(at, name)
            if row is None:
                return False
            at = row[3] or 0
        return True


def _uuid(fd: int) -> bytes:
    """Of the subvolume; what is no btrfs has an empty one."""
    if not btrfs.is_btrfs(fd):
        return b""
    with files.opened(subvolumes.root_of(fd)) as root:
        return btrfs.info(root).uuid.bytes
