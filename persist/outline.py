"""`persist lost --tree`: directories with their sizes, the largest first, each below the one that holds it."""

from collections.abc import Iterator

from persist.fold import DEEPEST, Node, Tree
from town.terminal import shown, size

_INDENT = "  "


def lines(tree: Tree) -> Iterator[str]:
    """The tree, safe to print; `tree.sum()` was called.

    What programs make again is one line, and so is what lies deeper than anybody reads.
    """
    left = [(node, 1) for node in _sorted(tree, tree.root)]
    yield from _loose(tree.root, 1)
    while left:
        node, depth = left.pop()
        closed = node.remade or node.directory.depth >= DEEPEST
        kind = "subvolume" if node.directory.subvolume else node.worth
        name = shown(node.directory.name) + ("/…" if closed and node.below else "/")
        said = f"  ({kind})" if kind and not closed else ""
        yield f"{_INDENT * depth}{name}  {counted(node.bytes, node.files)}{said}"
        if not closed:
            if node.below:
                yield from _loose(node, depth + 1)
            left += [(below, depth + 1) for below in _sorted(tree, node)]


def counted(bytes_: int, files: int) -> str:
    """`1.2 GB, 8,112 files`."""
    return f"{size(bytes_)}, {files:,} file{'' if files == 1 else 's'}"


def _sorted(tree: Tree, node: Node) -> list[Node]:
    """Those below that hold anything, the largest last: they are taken from the end."""
    there = [below for below in node.below if below.aside is None]
    found = [below for below in there if below.files or (below.directory.subvolume and not tree.part)]
    return sorted(found, key=lambda below: (below.bytes, below.files, below.directory.name))


def _loose(node: Node, depth: int) -> Iterator[str]:
    if node.own_files:
        yield f"{_INDENT * depth}*  {counted(node.own_bytes, node.own_files)}"
