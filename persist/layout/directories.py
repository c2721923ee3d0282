"""Root's directories on this machine: agents_dir, persist_dir, persist_dir/agents and the town's own records."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from persist import ground
from persist.layout.actions import ADOPTING, CLOSED, PASSED_THROUGH, Findings, MakeDirectory
from town import files, mounts
from town.failure import Unsafe
from town.spec import Spec
from town.terminal import shell_word, shown

OTHERS_WRITE, OTHERS_ENTER, OTHERS_ALL = 0o022, 0o011, 0o077


def look(spec: Spec, found: Findings, *, adopt: bool) -> None:
    """Plan the directories that are missing; name those that an agent could lead astray."""
    for path, mode in _wanted(spec):
        if path == spec.town.agents_dir and _is_covered(path):
            continue  # the directory below is not seen: homes are mounted over the cover
        # What `way` takes over, and what the next rollback replaces, is nobody's fault.
        if not adopt or not (_adopted(spec, path) or _shows_homes(spec, path)):
            _directory(path, mode, found, f"{ADOPTING}; else " if _adopted(spec, path) and not adopt else "")


def _wanted(spec: Spec) -> Iterator[tuple[Path, int]]:
    yield spec.town.agents_dir, 0o755
    if spec.town.persist_dir is not None:
        yield spec.town.persist_dir, PASSED_THROUGH
        yield spec.town.persist_dir / "agents", PASSED_THROUGH
    yield spec.state_dir, CLOSED


def _is_covered(path: Path) -> bool:
    try:
        with files.opened(files.open_dir(path)) as fd:
            return ground.is_cover(mounts.of(fd))
    except files.Unreadable:
        return False


def _adopted(spec: Spec, path: Path) -> bool:
    persist_dir = spec.town.persist_dir
    return persist_dir is not None and path == persist_dir / "agents" and os.path.lexists(path)


def _shows_homes(spec: Spec, path: Path) -> bool:
    """Whether it is agents_dir and @agents is mounted there: then it is not the directory that is seen."""
    if path != spec.town.agents_dir or spec.town.btrfs is None:
        return False
    try:
        with files.opened(files.open_dir(path)) as fd:
            ground.refuse_wrong_mount(spec, fd)
    except (files.Unreadable, ground.NotMounted):
        return False
    return True


def _directory(path: Path, mode: int, found: Findings, first: str) -> None:
    """A directory that is there may be stricter or more open than what init makes, as long as it keeps its promise."""
    try:
        with root() as slash, files.opened(files.open_beneath(slash, str(path.relative_to("/")))) as fd:
            wrong, cure = _wrong(path, mode, os.fstat(fd))
    except FileNotFoundError:
        found.actions.append(MakeDirectory(path, mode))
        return
    except NotADirectoryError:
        wrong, cure = "goes through something that is not a directory", "move it away"
    except Unsafe as error:
        wrong, cure = "goes through a symlink", error.hint
    if wrong:
        found.wrong.append((f"{shown(str(path))} {wrong}", f"{first}{cure}"))


def _wrong(path: Path, mode: int, entry: os.stat_result) -> tuple[str, str]:
    word = shell_word(str(path))
    private = mode & OTHERS_ALL == 0
    if entry.st_uid != 0:
        return f"belongs to uid {entry.st_uid}, not to root", f"look whose it is; then chown 0:0 {word}"
    if entry.st_mode & (OTHERS_ALL if private else OTHERS_WRITE):
        does = "open to others" if private else "writable for others"
        return f"is {does} than root", f"chmod {mode:04o} {word}, after a look at what is in it"
    if not private and entry.st_mode & OTHERS_ENTER != OTHERS_ENTER:
        return "cannot be entered by the agents", f"chmod {mode:04o} {word}"
    return "", ""


@contextmanager
def root() -> Iterator[int]:
    """The root directory of this machine, open."""
    with files.opened(os.open("/", files.DIRECTORY)) as fd:
        yield fd
