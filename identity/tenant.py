"""Work in an agent's home, done as the agent: root opens the home itself and nothing in it.

A forked child drops to the agent's ids for good and works below the open home. A symlink planted there can lead the
agent's own process to the agent's own files and nowhere else; and it is refused all the same.
"""

import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

from identity import pieces
from identity.pieces import Order, Piece
from town import accounts, files, kernel, mounts
from town.failure import Failure
from town.process import Person
from town.terminal import shown

TIMEOUT = 60.0  # seconds for one home: an agent can stop its own processes, but not the next agent's installation
_REPORT_LIMIT = 1 << 20  # bytes
_SHORT = Path("/run/nuketown/home")  # root's, empty; the home appears there in a mount namespace of the child's own
_END = "end"  # the key of the report's last line: empty, or the error that ended the work
_GRACE = 2.0  # seconds for the kernel to take a killed child apart


class NoHome(Failure):
    """The agent's home is not there, or is not the agent's."""


class HomeFailed(Failure):
    """The work in a home did not come to its end."""


Work = Callable[[Path], Iterable[Piece]]  # told by which path programs reach the home
Act = Callable[[], Piece]


def install(home: Path, person: Person, order: Order, *, dry: bool) -> Iterator[Piece]:
    """Bring every piece of an order into a home, each by itself, and tell what became of it, also of one that fails.

    Raises NoHome, and HomeFailed after the pieces that came to their end before it.
    """
    # Imported now: the child sees its home over /tmp, and may not be allowed to read where this program lies.
    from identity import keyrings  # noqa: F401

    with files.opened(_open_home(home, person)) as fd:
        yield from _as_person(person, fd, lambda here: _work(here, fd, order, dry), home)


def _open_home(home: Path, person: Person) -> int:
    over = mounts.at(home)
    if over is not None and over.kind.startswith("fuse"):  # whoever opens it waits for an answer, and this one is root
        path = shown(str(home))
        raise NoHome(f"a FUSE file system of somebody's is mounted over {path}", hint=f"umount -l {path}")
    try:
        fd = files.open_dir(home)
    except files.Unreadable as failure:
        hint = f"persist restore {shown(home.name)}"
        raise NoHome(f"{failure.what}: there is no home to install into", hint=hint) from failure
    owner = os.fstat(fd).st_uid
    if owner != person.uid:
        os.close(fd)
        raise NoHome(f"{shown(str(home))} belongs to {_who(owner)}, not to uid {person.uid}", hint=_cure(home, owner))
    return fd


def _who(uid: int) -> str:
    account = accounts.by_uid(uid)
    return f"uid {uid} ({shown(account.name)})" if account else f"uid {uid}"


def _cure(home: Path, owner: int) -> str:
    name = shown(home.name)
    return (
        f"if it is the home of {name}, set agents.{name}.uid = {owner} in the spec; "
        f"if not, move it out of {shown(str(home.parent))} and run: persist restore {name}"
    )


def _as_person(person: Person, home: int, work: Work, path: Path) -> Iterator[Piece]:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        _child(person, home, writing, work, path)
    os.close(writing)
    report = bytearray()
    try:
        status = _awaited(child, reading, report)
    except HomeFailed:
        yield from _pieces(report)  # what was written is written
        raise
    yield from _pieces(report)
    _require_end(report, status)


def _awaited(child: int, reading: int, report: bytearray) -> int:
    try:
        with files.opened(reading):
            _read_all(reading, time.monotonic() + TIMEOUT, report)
    finally:
        status = _ended(child)
    return status


def _ended(child: int) -> int:
    """How the child ended: by itself, or now. Raises HomeFailed when not even SIGKILL ends it in time."""
    os.kill(child, signal.SIGKILL)
    until = time.monotonic() + _GRACE
    while time.monotonic() < until:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return status
        time.sleep(0.005)
    # A request to a FUSE server of the agent's that never answers: the next agent does not wait for it.
    raise HomeFailed(
        "the work in the home hangs in the kernel: something in it is mounted and does not answer",
        hint="look at what is mounted there (findmnt) and unmount it: umount -l",
    )


def _child(person: Person, home: int, writing: int, work: Work, path: Path) -> NoReturn:
    try:
        os.setsid()
        os.umask(0o077)
        here = _SHORT if _bound(home) else path
        os.setgroups(list(person.groups))
        os.setresgid(person.gid, person.gid, person.gid)
        os.setresuid(person.uid, person.uid, person.uid)
        # This memory was root's: no process of the agent may trace it or have it dumped.
        kernel.not_dumpable()
        kernel.no_new_privileges()
        kernel.die_with_parent(signal.SIGKILL)  # after the ids: changing them clears it
        os.fchdir(home)
        # What is loaded is root's. Nothing is looked for any more, so no file of the agent's is ever taken for code.
        sys.meta_path.clear()
        for piece in work(here):
            _tell(writing, asdict(piece))
        _tell(writing, {_END: ""})
        os._exit(0)
    except BaseException as error:
        _tell(writing, {_END: f"{type(error).__name__}: {error}"})
    finally:
        os._exit(1)


def _tell(writing: int, item: dict[str, Any]) -> None:
    """One line of the report, as soon as it is known: it outlives whatever ends this process."""
    files.write_all(writing, json.dumps(item).encode() + b"\n")


def _bound(home: int) -> bool:
    """Whether the home appears at a short path now, for this process and its children alone.

    gpg's sockets need a path of at most 108 bytes whose parents the agent may search; agents_dir may be deeper.
    """
    with suppress(OSError):  # the agent must get through, whatever umask this was made with
        os.chmod(_SHORT.parent, 0o755)  # noqa: S103
    with suppress(OSError):  # the unit that this runs in has put it there already
        if os.path.samestat(os.stat(_SHORT), os.fstat(home)):
            return True
    flags = kernel.OPEN_TREE_CLONE | kernel.AT_EMPTY_PATH | kernel.AT_RECURSIVE  # with what is bound inside it
    try:
        os.makedirs(_SHORT, exist_ok=True)
        for directory in (_SHORT.parent, _SHORT):
            os.chmod(directory, 0o755)  # noqa: S103 - the agent must get through
        # Cloned first: a descriptor of the old namespace's mount cannot be cloned in the new one.
        with files.opened(kernel.open_tree(home, flags=flags)) as tree:
            kernel.unshare(kernel.CLONE_NEWNS)
            kernel.mount("none", "/", None, kernel.MS_PRIVATE | kernel.MS_REC)
            with files.opened(files.open_dir(_SHORT)) as target:
                kernel.move_mount(tree, target)
        return True
    except (OSError, files.Unreadable):  # a container that may not mount: the home by its own path, then
        return False


def _read_all(fd: int, until: float, report: bytearray) -> None:
    while len(report) <= _REPORT_LIMIT:
        ready, _, _ = select.select([fd], [], [], max(0.0, until - time.monotonic()))
        if not ready:
            raise HomeFailed(
                f"the work in the home did not end within {TIMEOUT:.0f} s",
                hint="stop the agent's processes, then run it again",
            )
        piece = os.read(fd, 1 << 16)
        if not piece:
            return
        report += piece


def _lines(report: bytearray) -> list[dict[str, Any]]:
    """The report's whole lines; what a killed child left of one is not counted."""
    try:
        return [dict(json.loads(line)) for line in bytes(report).split(b"\n")[:-1]]
    except (ValueError, TypeError) as error:
        raise HomeFailed("the work in the home gave a report that cannot be read", hint="run it again") from error


def _pieces(report: bytearray) -> list[Piece]:
    return [_piece(item) for item in _lines(report) if _END not in item]


def _piece(item: dict[str, Any]) -> Piece:
    return Piece(**{**item, "keys": tuple((path, digest) for path, digest in item["keys"])})


def _require_end(report: bytearray, status: int) -> None:
    last = (_lines(report) or [{}])[-1]
    if last.get(_END):
        raise HomeFailed(f"the work in the home was ended by an error of this program: {last[_END]}", hint=_AGAIN)
    if _END not in last:
        how = f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"status {os.WEXITSTATUS(status)}"
        raise HomeFailed(f"the work in the home was ended by {how}", hint=_AGAIN)


_AGAIN = "what is told before this was written, the rest was not: run it again, and report this if it comes again"


def _work(home: Path, fd: int, order: Order, dry: bool) -> Iterator[Piece]:
    yield from (pieces.left(fd, path) for path in order.left)
    for file in order.files:
        yield _attempt(str(file.path), lambda file=file: pieces.put(fd, file, dry))  # type: ignore[misc]
    for path, installed in order.gone:
        act = lambda path=path, installed=installed: pieces.remove(fd, PurePosixPath(path), installed, dry)  # noqa: E731
        yield _attempt(path, act)
    if order.keyring is not None or order.dropped or order.published:
        from identity import keyrings

        yield _attempt(".gnupg", lambda: keyrings.bring(home, fd, order, dry))


def _attempt(path: str, act: Act) -> Piece:
    try:
        return act()
    except Failure as failure:
        return Piece(path, "failed", failure.what, failure.hint)
    except OSError as error:
        return Piece(path, "failed", error.strerror or str(error))
