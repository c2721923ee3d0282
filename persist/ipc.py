"""System V IPC: shared memory, semaphores and message queues, which the kernel keeps until somebody removes them.

sysvipc(7), proc(5) for /proc/sysvipc. An object counts as an agent's when it is both its owner's and its maker's.
"""

import ctypes
import errno
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from persist.owners import Owners
from town import kernel
from town.spec import Agent

LISTS = Path("/proc/sysvipc")
_REMOVE = 0  # IPC_RMID, include/uapi/linux/ipc.h
_CALLS: dict[str, Callable[[int], int]] = {
    "shm": lambda number: int(kernel.libc.shmctl(ctypes.c_int(number), ctypes.c_int(_REMOVE), None)),
    "sem": lambda number: int(kernel.libc.semctl(ctypes.c_int(number), ctypes.c_int(0), ctypes.c_int(_REMOVE), None)),
    "msg": lambda number: int(kernel.libc.msgctl(ctypes.c_int(number), ctypes.c_int(_REMOVE), None)),
}
_IDS = {"shm": "shmid", "sem": "semid", "msg": "msqid"}


class Object(NamedTuple):
    """One object: `kind` is shm, sem or msg; `bytes` of shared memory, else 0."""

    kind: str
    id: int
    agent: Agent
    bytes: int

    @property
    def name(self) -> str:
        return f"{self.kind} {self.id}"


def found(owners: Owners) -> Iterator[Object]:
    """The agents' objects in this IPC namespace. A kernel without them has none."""
    for kind, key in _IDS.items():
        try:
            head, *lines = (LISTS / kind).read_text().splitlines()
        except (OSError, ValueError):
            continue
        names = head.split()
        for line in lines:
            said = dict(zip(names, map(int, line.split()), strict=False))
            agent = owners.of(said["uid"])
            if agent is not None and owners.of(said["cuid"]) is agent:
                yield Object(kind, said[key], agent, said.get("size", 0))


def remove(what: Object) -> None:
    """Remove one. An id is given again only after its number has gone round. Raises OSError."""
    try:
        kernel.checked(_CALLS[what.kind](what.id), what.name)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EIDRM):  # gone meanwhile
            raise
