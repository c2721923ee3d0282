"""What in a home looks worth keeping, what comes back by itself, how a person reads the rest: all of it as data.

Names are matched as bytes, as a home holds them. Nothing here opens a file, and git is never run.
"""

import re
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

# What `identity install` writes into each fresh home, file by file: it is back after the boot without being declared.
# A directory of such a name, or anything else that lies beside these files, is a loss like all others.
REGENERATED = (
    b".config/nuketown/identity.toml", b".config/nuketown/environment.sh", b".config/git/config",
    b".config/git/allowed_signers", b".config/git/revoked.krl", b".config/environment.d/50-nuketown.conf",
    b".config/systemd/user/service.d/50-nuketown.conf", b".ssh/id_ed25519",
    b".ssh/id_ed25519.pub", b".claude/CLAUDE.md", b".claude/AGENTS.md", b".codex/AGENTS.md", b".gemini/GEMINI.md",
    b"AGENTS.md", b".config/opencode/AGENTS.md",
    # gpg's own files around the signing subkey
    b".gnupg/pubring.kbx", b".gnupg/pubring.kbx~", b".gnupg/trustdb.gpg", b".gnupg/private-keys-v1.d/*.key",
)  # fmt: skip
_REGENERATED = re.compile(b"|".join(re.escape(path).replace(rb"\*", rb"[0-9A-F]{40}") for path in REGENERATED))


def regenerated(path: bytes) -> bool:
    """Whether a file of that path in a home is one that `identity install` writes again."""
    return _REGENERATED.fullmatch(path) is not None


def marked(name: bytes) -> Worth | None:
    """What kind of directory this name in it tells of."""
    if (kind := _EXACT.get(name)) is not None:
        return kind
    _, dot, suffix = name.rpartition(b".")
    return _SUFFIX.get(b"." + suffix) if dot else None


def better(one: Worth | None, other: Worth | None) -> Worth | None:
    """The kind that comes first in ORDER."""
    known = [kind for kind in ORDER if kind in (one, other)]
    return known[0] if known else None
