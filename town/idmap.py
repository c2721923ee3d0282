"""Whose files appear to be whose in one mount: a user namespace that is nothing but two tables of ids.

A mount takes it by mount_setattr(2) with MOUNT_ATTR_IDMAP. On the disk everything keeps its owner. Sources:
mount_setattr(2), user_namespaces(7), Documentation/filesystems/idmappings.rst of Linux.
"""

import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from town import files, kernel

Ids = Mapping[int, int]  # on the disk: in the mount


@contextmanager
def namespace(uids: Ids, gids: Ids) -> Iterator[int]:
    """A user namespace with these ids, open. An id that is in neither column appears as nobody's. Raises OSError."""
    made, ready = os.pipe()
    waits, go = os.pipe()
    child = os.fork()
    if child == 0:
        _live(made, ready, waits, go)
    try:
        os.close(ready)
        os.close(waits)
        if number := int.from_bytes(os.read(made, 4), "little"):
            raise OSError(number, os.strerror(number))
        Path(f"/proc/{child}/uid_map").write_text(_lines(uids))
        Path(f"/proc/{child}/gid_map").write_text(_lines(gids))
        opened = os.open(f"/proc/{child}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(made)
        os.close(go)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    with files.opened(opened) as fd:
        yield fd


def _live(made: int, ready: int, waits: int, go: int) -> None:
    """In the child: a new user namespace, until it is ended."""
    try:
        os.close(made)
        os.close(go)
        try:
            kernel.unshare(kernel.CLONE_NEWUSER)
            number = 0
        except OSError as error:
            number = error.errno or 1
        os.write(ready, number.to_bytes(4, "little"))
        os.read(waits, 1)
    finally:
        os._exit(0)


def _lines(ids: Ids) -> str:
    return "".join(f"{disk} {seen} 1\n" for disk, seen in ids.items())
