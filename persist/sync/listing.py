"""The end of a scan: what hangs on several directories is settled, and every listing that differs is written again.

First what left the tree is dropped, then names of one file are told to each other, then listings, from the deepest up:
each from the lines in the index, and its own line in the directory above by what it holds now.
"""

import heapq
import json
import re

from persist.bucket import records, trees
from persist.bucket.content import Content
from persist.sync import contents
from persist.sync.rows import Directory, Row, Rows
from town.btrfs import EMPTY_INODE, FIRST_INODE

_NOTHING = Content(())
_LISTED = re.compile(rb'\{"content":\[[^\]]*\](,"depth":[0-9]+)?(?=[,}])')


class Dirty:
    """What a scan leaves to be done for one declared path."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._ids: set[int] = set()  # directories whose listing differs
        self._orphans: set[int] = set()  # directories that are not where they were
        self._stash: dict[int, Row] = {}  # the rows that those had
        self.nested: list[int] = []  # nested subvolumes that nobody has read yet
        self.nested_known = {part.dir for part in rows.parts()}

    def __bool__(self) -> bool:
        return bool(self._ids or self._orphans or self._rows.touched)

    def add(self, directory: int) -> None:
        """The listing of a directory differs from what the index says of it."""
        if directory > 0:
            self._ids.add(directory)

    def gone(self, directory: int, name: bytes) -> None:
        """A name is not there any more, or stands for something else."""
        row = self._rows.get(directory, name)
        if row is None:
            return
        if row[3] is not None:
            self._orphans.add(row[3])
            self._stash[row[3]] = row
        self._rows.remove(directory, name, linked=bool(row[6]) and row[3] is None)

    def row_of(self, directory: Directory) -> Row | None:
        """The row of a directory, also of one whose name is gone."""
        row = self._rows.get(directory.parent, directory.name)
        return row if row is not None and row[3] == directory.id else self._stash.get(directory.id)

    def move(self, directory: Directory, parent: int, name: bytes) -> Row | None:
        """A directory stands under another name now, with all below it; its row there, but for the place."""
        row = self.row_of(directory)
        if row is None:
            return None
        if row[6]:
            self._rows.touch(self._rows.links_below(directory.id))
        self._rows.move(directory.id, parent, name)
        return (name, *row[1:7], renamed(row[7], name))

    def begin_nested(self, parent: int, name: bytes) -> Row:
        """The row of a nested subvolume that is new: an empty directory until its part is read."""
        number = self._rows.fresh()
        self._rows.add_directory(Directory(number, self._rows.tree, 0, FIRST_INODE, 0, parent, name, prunes=False))
        self.nested.append(number)
        return name, EMPTY_INODE, 0, number, 0, 0, 0, trees.line(name, "dir", 0o700, 0, content=_NOTHING)

    def settle(self, sink: contents.Sink) -> None:
        """Bring every row and listing of the tree up to date."""
        self.drop()
        self._link()
        self._write(sink)

    def drop(self) -> None:
        """Forget the directories that left, with all below them; those that were put elsewhere stay."""
        for number in self._orphans:
            directory = self._rows.directory(number)
            if directory is None:
                continue  # it lay in another
            row = self._rows.get(directory.parent, directory.name)
            if row is None or row[3] != number:
                self._rows.touch(self._rows.links_below(number))
                self._rows.drop(number)
        self._orphans.clear()

    def _link(self) -> None:
        """Names of one file share a hash of one of their paths; a file with one name in this tree shares nothing.

        It follows from what lies where, and not from what happened before: a lost index changes no listing.
        """
        for volume, inode in self._rows.all_links() if self._rows.touched is None else sorted(self._rows.touched):
            names = self._rows.linked(volume, inode)
            said = min((self._rows.hashed(*each), each) for each in names) if names else None
            if said is None:
                continue
            first = self._rows.get(*said[1])
            assert first is not None
            link = said[0].hex() if len(names) > 1 else ""
            for directory, name in names:
                self._say(directory, name, first, link)
        self._rows.touched = set()

    def _say(self, directory: int, name: bytes, first: Row, link: str) -> None:
        row = self._rows.get(directory, name)
        assert row is not None
        line = renamed(first[7], name, link=link)
        if line != row[7]:
            self._rows.put(directory, (name, row[1], row[2], None, 1, first[5], 1, line))
            self.add(directory)

    def _write(self, sink: contents.Sink) -> None:
        depths: dict[int, int] = {}
        self._rows.flush()
        heap = [(-self._rows.depth(number, depths), number) for number in self._ids if self._rows.there(number)]
        heapq.heapify(heap)
        waiting = {number for _, number in heap}
        self._ids.clear()
        last = 0
        while heap:
            depth, number = heapq.heappop(heap)
            if depth != last:  # what a listing holds was written by those one deeper, all of which are done
                self._rows.flush()
                last = depth
            waiting.discard(number)
            parent = self._listed(sink, number)
            if parent > 0 and parent not in waiting:
                waiting.add(parent)
                heapq.heappush(heap, (depth + 1, parent))

    def _listed(self, sink: contents.Sink, number: int) -> int:
        """Write the listing of a directory; the one above, whose listing differs then, or 0."""
        content = trees.write_lines(sink.writer, self._rows.lines(number))
        files, size, links = self._rows.sums(number)
        parent, row = self._rows.above(number)
        line = relisted(row[7], content)
        if (files, size, links, line) == row[4:]:
            return 0
        self._rows.put(parent, (*row[:4], files, size, links, line))
        return parent


def renamed(line: bytes, name: bytes, *, link: str | None = None) -> bytes:
    """A line of a listing with another name, and another `link` (empty: none) where one is given."""
    fields = json.loads(line)
    fields["name"] = records.text(name)
    if link is not None:
        fields.pop("link", None)
        if link:
            fields["link"] = link
    return records.written(fields)


def relisted(line: bytes, content: Content) -> bytes:
    """The line of a directory that holds another listing."""
    # Keys are sorted, and a directory has no `data`: what changes stands first.
    if (rest := _LISTED.match(line)) is not None:
        return records.written(content.record)[:-1] + line[rest.end() :]
    fields = json.loads(line)
    fields.pop("depth", None)
    return records.written(fields | content.record)


def content_of(line: bytes) -> Content:
    """The content that a line of a listing names."""
    return Content.parsed(json.loads(line))
