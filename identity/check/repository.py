"""What git tells of a work tree: what it tracks or would add there, what is staged, and how a file is marked.

git is asked with the person's own configuration, for its list of ignored files is part of the answer. It runs no
program that a repository names, fetches nothing and writes nothing.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from town import process
from town.failure import Failure
from town.terminal import shell_word

Staged = tuple[bytes, bytes]  # the name of a file, relative to the folder, and the id of its blob
# No program is run, no list of files is believed that git keeps; core.worktree may say that the files lie elsewhere.
_FIXED = ("-c", "core.fsmonitor=", "-c", "core.untrackedCache=false", "-c", "diff.relative=false")
_LINK, _MODULE, _NONE = b"120000", b"160000", b"000000"  # git's modes of what is no file
_SECONDS = 10.0  # for each run: a FIFO in the place of a file of ignored names never ends
_KEPT = ("HOME", "XDG_CONFIG_HOME", "SUDO_UID")  # whose configuration, and whom git takes root for


@dataclass(frozen=True, slots=True)
class Repository:
    """The part of a repository that lies below `folder`. Every method raises ToolFailed, ToolMissing."""

    folder: Path

    def index(self) -> Iterator[Staged]:
        """The files of git's index below the folder; one that is not merged has several blobs."""
        for entry in self._run("ls-files", "-z", "--stage").split(b"\0")[:-1]:
            (mode, blob, _), name = entry.split(b"\t", 1)[0].split(b" "), entry.split(b"\t", 1)[1]
            if mode not in (_LINK, _MODULE):
                yield name, blob

    def others(self) -> list[bytes]:
        """Names below the folder that git would add. Other repositories are directories there."""
        return self._run("ls-files", "-z", "--others", "--exclude-standard").split(b"\0")[:-1]

    def elsewhere(self) -> Iterator[Staged]:
        """What the next commit would change outside of the folder: the commit publishes that too."""
        inside = self._run("rev-parse", "--show-prefix").removesuffix(b"\n")
        if not inside:
            return
        words = ("diff-index", "--cached", "--raw", "-z", "--no-renames", "--ignore-submodules=all", self._last_tree())
        said = iter(self._run(*words).split(b"\0")[:-1])
        for about, name in zip(said, said, strict=True):
            _, mode, _, blob, _ = about.split(b" ")
            if mode not in (_LINK, _MODULE, _NONE) and blob.strip(b"0") and not name.startswith(inside):
                yield os.path.relpath(name, inside), blob

    def _last_tree(self) -> str:
        """What the next commit is compared with: the last one, else nothing at all."""
        head = self._run("rev-parse", "--quiet", "--verify", "HEAD^{commit}", check=False)
        return (head or self._run("hash-object", "-t", "tree", "--stdin")).decode().strip()

    def marked(self, names: Sequence[bytes], attribute: str) -> set[bytes]:
        """Those of the names that have the attribute set."""
        said = self._run("check-attr", "-z", "--stdin", attribute, feed=b"".join(name + b"\0" for name in names))
        words = said.split(b"\0")
        return {words[at] for at in range(0, len(words) - 2, 3) if words[at + 2] == b"set"}

    def sizes(self, blobs: Sequence[bytes]) -> list[int | None]:
        """The size of each blob in bytes; None for one that is not there."""
        said = [line.split(b" ") for line in self._run("cat-file", "--batch-check", feed=_lines(blobs)).splitlines()]
        return [int(words[2]) if len(words) == 3 and words[1] == b"blob" else None for words in said]

    def blobs(self, wanted: Sequence[tuple[bytes, int]]) -> Iterator[bytes]:
        """The contents of blobs, by id and size."""
        held, at = self._run("cat-file", "--batch", feed=_lines([one for one, _ in wanted])), 0
        for _, size in wanted:
            at = held.index(b"\n", at) + 1
            yield held[at : at + size]
            at += size + 1

    def _run(self, *words: str, feed: bytes = b"", check: bool = True) -> bytes:
        env = {name: os.environ[name] for name in _KEPT if name in os.environ} | {
            "LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0", "GIT_ALLOW_PROTOCOL": "none", "GIT_TERMINAL_PROMPT": "0",
        }  # fmt: skip
        if (index := _index_of_hook(self.folder)) is not None:
            env["GIT_INDEX_FILE"] = index
        argv = ["git", *_FIXED, f"--work-tree={top(self.folder) or self.folder}", *words]
        return process.run(argv, feed=feed, env=env, cwd=self.folder, check=check, timeout=_SECONDS).out


def top(folder: Path) -> Path | None:
    """The directory above or at `folder` that is a repository of git; None where it is in none."""
    here = Path(os.path.abspath(folder))
    return next((above for above in (here, *here.parents) if (above / ".git").exists()), None)


def cure(folder: Path, failure: Failure) -> str:
    """What makes git answer: it is installed, or takes the repository of another uid."""
    if "dubious ownership" in failure.what:
        return f"git config --global --add safe.directory {shell_word(os.path.realpath(top(folder) or folder))}"
    return failure.hint


def _lines(ids: Sequence[bytes]) -> bytes:
    return b"".join(one + b"\n" for one in ids)


def _index_of_hook(folder: Path) -> str | None:
    """The index that a commit under way is made from, when this runs as its hook: `commit -a` has one of its own."""
    if not (named := os.environ.get("GIT_INDEX_FILE")):
        return None
    index = Path(os.path.realpath(named))  # git gives it relative to the top of the work tree, where hooks run
    here = Path(os.path.realpath(folder))
    return str(index) if any(index.is_relative_to(above / ".git") for above in (here, *here.parents)) else None
