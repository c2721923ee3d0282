"""Two trees gone through at once, directory by directory; what differs is told to `found`.

Where both lie in subvolumes that were one (`Common`), only what was written since is looked at, and a file or directory
is known by its inode: one that stands elsewhere was moved. A directory that took another's place under its name is
compared with that one. Where nothing tells, things are compared by their paths.
"""

from contextlib import ExitStack
from typing import Any, NamedTuple

from persist.difference import ancestry, holding, things
from persist.difference.ancestry import Common
from persist.difference.disk import Disk, Noted
from persist.difference.found import Found, Slot
from persist.difference.nodes import Child, Node, Nothing, Tree
from persist.difference.stored import Stored


class _Task(NamedTuple):
    """A directory of both sides, or of one: what it does not have is None.

    `common`: what the two subvolumes were, if they were one; `part`: a number for those two, `roots`: where they begin.
    """

    one: Node | None
    other: Node | None
    common: Common | None
    part: int
    roots: tuple[Node, Node]


class Pairs:
    """One comparison of two trees; `number` tells it from others that tell the same `found`."""

    def __init__(self, number: int, one: Tree, other: Tree, found: Found, noted: Noted) -> None:
        self.number, self.trees, self._found, self._noted = number, (one, other), found, noted
        self._stack = ExitStack()
        self._parts = 0
        self._left: list[_Task] = []
        self._slots = number << 40
        self.looked = 0  # at so many names

    def run(self, *, roots: bool = True) -> None:
        """Compare them; `roots`: also what the two directories themselves are. Raises OSError, StoreDamaged."""
        one, other = self.trees
        with self._stack:
            for side, (tree, beside) in enumerate(((one, other), (other, one))):
                if isinstance(beside, Nothing) and roots:
                    self._found.alone(side, (tree.root, b""), tree.thing, pair=self.number)
            if roots and Nothing not in map(type, self.trees) and (what := things.differences(one.thing, other.thing)):
                self._found.changed((other.root, b""), other.thing, what)
            self._begin(one.root, other.root)
            while self._left:
                task = self._left.pop()
                if task.one is not None and task.other is not None:
                    self._pair(task, task.one, task.other)
                else:
                    self._alone(task)

    def _begin(self, one: Node, other: Node) -> None:
        """A directory of both sides is to be compared, where two subvolumes may begin."""
        here, there = self.trees
        common = None
        if isinstance(here, Disk) and isinstance(there, Disk) and here.filesystem is not None is not there.filesystem:
            common = self._stack.enter_context(ancestry.common(here.at(one), there.at(other)))
        self._parts += 1
        self._push(_Task(one, other, common, self._parts, (one, other)))

    def _push(self, task: _Task) -> None:
        deep = next((node for node in task[:2] if node is not None and node.too_deep), None)
        if deep is not None:
            self._noted("directories lie too deep: what is below was not compared", _last(deep).path())
            return
        self._left.append(task)

    def _pair(self, task: _Task, one: Node, other: Node) -> None:
        common, (here, there) = task.common, self.trees
        names = None if common is None else common.names(one.inode, other.inode)
        if names is not None:
            for name in sorted(names, reverse=True):  # the last that is pushed comes first
                self._both(task, (one, self._child(0, one, name)), (other, self._child(1, other, name)))
            return
        if _same_listing(one, other, here, there):
            return
        first, second = here.listing(one), there.listing(other)
        for name in sorted(first.keys() | second.keys(), reverse=True):
            items = first.get(name), second.get(name)
            if common is not None and common.untouched((one.inode, other.inode), name, items):
                continue
            left = None if items[0] is None else self._child(0, one, name, items[0])
            right = None if items[1] is None else self._child(1, other, name, items[1])
            self._both(task, (one, left), (other, right))

    def _child(self, side: int, node: Node, name: bytes, item: Any = None) -> Child | None:
        tree = self.trees[side]
        if tree.leave and node.deep is None and node.path(name) in tree.leave:
            return None
        self.looked += 1
        return tree.child(node, name, item)

    def _both(self, task: _Task, one: tuple[Node, Child | None], other: tuple[Node, Child | None]) -> None:
        """What has one name in a directory of both sides."""
        first, second = one[1], other[1]
        if first is not None and second is not None and self._is_pair(task.common, first, second):
            self._same(task, (one[0], first), (other[0], second))
            return
        slot = None
        if first is not None and second is not None:  # one of them has other names too, or stands elsewhere
            self._slots += 1
            slot = Slot(self._slots, self._differences((one[0], first), (other[0], second)))
        for side, (node, child) in enumerate((one, other)):
            if child is not None:
                self._only(task, side, (node, child), slot)

    def _is_pair(self, common: Common | None, one: Child, other: Child) -> bool:
        """Whether they are to be compared: they are one thing, or one took the other's place; else one was moved."""
        if common is None or (not one.boundary and not other.boundary and common.same(one.inode, other.inode)):
            return True
        moved = not one.boundary and common.lives(0, one.inode)
        return not moved and not (not other.boundary and common.lives(1, other.inode))

    def _same(self, task: _Task, one: tuple[Node, Child], other: tuple[Node, Child]) -> None:
        """Two things that are compared with each other."""
        (above, first), (beside, second) = one, other
        dirs = first.thing.is_directory, second.thing.is_directory
        if all(dirs) and "stub" in (first.boundary, second.boundary):
            if first.boundary != second.boundary:
                self._noted("a nested subvolume that one of the two does not hold: not compared", _path(above, first))
            return
        if what := self._differences(one, other):
            self._found.changed((beside, second.name), second.thing, what)
        if all(dirs) and (first.boundary or second.boundary):
            self._begin(first.node(above), second.node(beside))
        elif any(dirs):
            here = first.node(above) if dirs[0] else None
            self._push(task._replace(one=here, other=second.node(beside) if dirs[1] else None))

    def _differences(self, one: tuple[Node, Child], other: tuple[Node, Child]) -> tuple[str, ...]:
        first, second = one[1], other[1]
        what: tuple[str, ...] = things.differences(first.thing, second.thing)
        files = first.thing.kind == second.thing.kind == "file"
        if files and not holding.same(*self.trees, (one, other)):
            what = ("content", *what)
        return what

    def _alone(self, task: _Task) -> None:
        """A directory that one side alone has, with all in it; what of that the other has elsewhere was moved."""
        side = 0 if task.one is not None else 1
        node = task.one or task.other
        assert node is not None
        for name, item in sorted(self.trees[side].listing(node).items(), reverse=True):
            if (child := self._child(side, node, name, item)) is not None:
                self._only(task, side, (node, child))

    def _only(self, task: _Task, side: int, where: tuple[Node, Child], slot: Slot | None = None) -> None:
        """A name that only one side has: what has it is elsewhere in the other side, or nowhere."""
        node, child = where
        common = None if child.boundary else task.common
        if common is not None and common.lives(side, child.inode):
            place = common.place(1 - side, child.inode, task.roots[1 - side])
            if place is not None and (found := self.trees[1 - side].child(*place)) is not None:
                self._moved(task, side, where, (place[0], found), slot)
                return
        if child.boundary == "stub":
            self._noted("a nested subvolume that is not part of it: not compared", _path(node, child))
        pair = self.number if common is None else None
        self._found.alone(side, (node, child.name), child.thing, pair=pair, slot=slot)
        if child.thing.is_directory and child.boundary != "stub":
            below = child.node(node)
            self._push(task._replace(one=None if side else below, other=below if side else None, common=common))

    def _moved(
        self, task: _Task, side: int, here: tuple[Node, Child], there: tuple[Node, Child], slot: Slot | None
    ) -> None:
        """It is elsewhere in the other side. The two are compared once: when the second side is looked at."""
        (node, child), what = here, tuple[str, ...]()
        key = b"%d %d %d" % (self.number, task.part, child.inode)
        if side == 1:
            what = self._differences(there, here)
            if child.thing.is_directory:
                self._push(task._replace(one=there[1].node(there[0]), other=child.node(node)))
        self._found.alone(side, (node, child.name), child.thing, what=what, key=key, slot=slot)


def digest(pairs: Pairs, side: int, path: bytes) -> object:
    """What a file of one side holds, as something to compare; None where it is not found. Raises OSError."""
    found = _found(pairs.trees[side], path)
    return None if found is None else holding.digest(pairs.trees[side], found, pairs.trees[1 - side])


def differences(one: tuple[Pairs, bytes], other: tuple[Pairs, bytes]) -> tuple[str, ...]:
    """In what two files at those paths differ, of the first side and of the second, but for what they hold."""
    found = [_found(pairs.trees[side], path) for side, (pairs, path) in enumerate((one, other))]
    return () if found[0] is None or found[1] is None else things.differences(found[0][1].thing, found[1][1].thing)


def _found(tree: Tree, path: bytes) -> tuple[Node, Child] | None:
    """What is at a path of the home, in the directory that holds it."""
    node, child = tree.root, None
    rest = path[len(node.path()) :].lstrip(b"/") if node.name else path
    for name in rest.split(b"/"):
        node = node if child is None else child.node(node)
        if (child := tree.child(node, name)) is None:
            return None
    return None if child is None else (node, child)


def _same_listing(one: Node, other: Node, here: Tree, there: Tree) -> bool:
    """Whether two directories of states of the store are the same, with all below them: their listings have one id."""
    if not (isinstance(here, Stored) and isinstance(there, Stored)) or here.leave or there.leave:
        return False
    assert one.entry is not None
    assert other.entry is not None
    return here.keys.place == there.keys.place and one.entry.content == other.entry.content


def _last(node: Node) -> Node:
    """The last directory on the way to one that a program can name."""
    return node.deep or node


def _path(node: Node, child: Child) -> bytes:
    """Where something is, as far as a program can name it."""
    return node.path(child.name) if node.deep is None else node.deep.path()
