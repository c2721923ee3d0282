"""What in a home looks worth keeping, what comes back by itself, how a person reads the rest: all of it as data.

Names are matched as bytes, as a home holds them. Nothing here opens a file, and git is never run.
"""

from typing import Literal

Worth = Literal["git work tree", "database", "session", "notes"]
ORDER: tuple[Worth, ...] = ("git work tree", "session", "notes", "database")

# A directory that holds one of these names is of that kind; git first, since a work tree also holds notes.
_MARKS: tuple[tuple[Worth, tuple[bytes, ...]], ...] = (
    ("git work tree", (b".git",)),
    ("session", (b"*.jsonl", b"*.session", b"sessions")),
    ("notes", (b"*.md", b"*.org", b"*.ipynb", b"*.tex")),
    ("database", (b"*.db", b"*.sqlite", b"*.sqlite3", b"*.duckdb", b"*.kdbx")),
)
_EXACT: dict[bytes, Worth] = {pattern: kind for kind, patterns in _MARKS for pattern in patterns if b"*" not in pattern}
_SUFFIX: dict[bytes, Worth] = {
    pattern[1:]: kind for kind, patterns in _MARKS for pattern in patterns if pattern.startswith(b"*.")
}

# Below these nothing is worth a proposal: they are filled again by the program that made them.
REMADE = frozenset(
    {
        b".cache", b".npm", b".pnpm-store", b".yarn", b".gradle", b".m2", b".rustup", b".cargo", b".nv", b".ccache",
        b"node_modules", b"__pycache__", b".venv", b"venv", b".tox", b".mypy_cache", b".pytest_cache", b".ruff_cache",
        b"target", b"build", b"dist", b"Trash", b"tmp", b".tmp", b".dbus", b".direnv",
    }
)  # fmt: skip

# Directories that people read one level further: their children get a line each.
OPENED = frozenset({b".config", b".local", b".local/share", b".local/state", b".local/lib"})

# What nobody but `identity install` writes, into each fresh home. What else it brings, its record says.
REGENERATED = frozenset({b".config/nuketown/identity.toml", b".config/nuketown/environment.sh"})


def marked(name: bytes) -> Worth | None:
    """What kind of directory this name in it tells of."""
    if (kind := _EXACT.get(name)) is not None:
        return kind
    _, dot, suffix = name.rpartition(b".")
    return _SUFFIX.get(b"." + suffix) if dot else None


def marked_file(name: bytes) -> Worth | None:
    """What a file of that name is, where it is worth keeping by itself."""
    return None if name in _EXACT else marked(name)


def better(one: Worth | None, other: Worth | None) -> Worth | None:
    """The kind that comes first in ORDER."""
    known = [kind for kind in ORDER if kind in (one, other)]
    return known[0] if known else None
