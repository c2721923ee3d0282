"""What /proc tells of one process: whose it is, where it lives, what it has open. Nothing is asked of a filesystem.

The first thread of a process may end while others go on. The process is a zombie then by its `State:`, and without
directories, files and memory of its own to look at; its other threads have all that. Sources: proc_pid_status(5),
proc_pid_task(5), ioctl_nsfs(2), cgroups(7).
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from town import files, mounts

_OWNER, _PARENT = 0xB704, 0xB702  # NS_GET_OWNER_UID, NS_GET_PARENT (include/uapi/linux/nsfs.h)
_NESTED = 40  # user namespaces within each other; the kernel allows 32
_ENDED = (b"Z", b"X")


def every() -> Iterator[tuple[str, list[int]]]:
    """The pids of all processes that run, with their four uids."""
    for name in os.listdir("/proc"):
        if name.isdigit() and (found := uids(name)):
            yield name, found


def uids(pid: str) -> list[int]:
    """Real, effective, saved and filesystem uid; none where the process is gone or ended."""
    found = _status(pid)
    return [] if _has_ended(pid, found) else [int(word) for word in found.get(b"Uid", b"").split()]


def _status(pid: str) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_bytes().split(b"\n"):
            key, _, value = line.partition(b":")  # the name comes first, and the kernel escapes newlines in it
            found.setdefault(key, value.strip())
    return found


def _has_ended(pid: str, status: dict[bytes, bytes]) -> bool:
    """Whether all threads have: one that has ended may still be counted while another traces it."""
    if not status.get(b"State", b"X").startswith(_ENDED):
        return False
    threads = int(status.get(b"Threads", b"0"))
    if threads <= 1:
        return True
    found = _threads(pid)
    return len(found) >= threads and not any(map(_goes_on, found))


def _threads(pid: str) -> list[str]:
    with suppress(OSError):
        return os.listdir(f"/proc/{pid}/task")
    return []


def _goes_on(thread: str) -> bool:
    return not _status(thread).get(b"State", b"X").startswith(_ENDED)


def faces(pid: str) -> list[str]:
    """Under which names in /proc to look for what a process has: its own, or those of the threads that go on.

    A thread has a directory of its own there, which no listing shows.
    """
    if not _status(pid).get(b"State", b"X").startswith(_ENDED):
        return [pid]
    return [thread for thread in _threads(pid) if _goes_on(thread)]


def makers(pid: str) -> Iterator[int]:
    """Who made the user namespace that a process lives in, and those around it."""
    try:
        fd = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        for _ in range(_NESTED):
            owner = bytearray(4)
            fcntl.ioctl(fd, _OWNER, owner)
            yield int.from_bytes(owner, "little")
            above = fcntl.ioctl(fd, _PARENT)
            os.close(fd)
            fd = above
    except OSError:  # EPERM: above lies what this process is not told of
        return
    finally:
        os.close(fd)


def namespace(pid: str, kind: str) -> int:
    """The number of a namespace of it. Raises OSError."""
    return os.stat(f"/proc/{pid}/ns/{kind}").st_ino


def cgroup(pid: str) -> str:
    """The cgroup it lives in, from the root of all. Raises OSError."""
    for line in Path(f"/proc/{pid}/cgroup").read_text(errors="replace").splitlines():
        if line.startswith("0::"):
            return line[3:]
    return ""


def paths(pid: str) -> Iterator[bytes]:
    """The names, as the kernel knows them, of what a process has."""
    for face in faces(pid):
        for name in ("cwd", "root", "exe", *_mapped(face), *_opened(face)):
            with suppress(OSError):
                yield os.readlink(os.fsencode(f"/proc/{face}/{name}"))


def in_use(face: str) -> Iterator[int]:
    """Ids of the mounts in which one of `faces` lives, or has something open or mapped."""
    for name in ("cwd", "root", "exe", *_mapped(face)):
        # With O_PATH nothing is asked of the filesystem.
        with suppress(OSError), files.opened(os.open(f"/proc/{face}/{name}", os.O_PATH | os.O_CLOEXEC)) as fd:
            yield mounts.mount_id(fd)
    with suppress(OSError):
        for fd_name in os.listdir(f"/proc/{face}/fdinfo"):
            with suppress(OSError):
                for line in Path(f"/proc/{face}/fdinfo/{fd_name}").read_bytes().split(b"\n"):
                    if line.startswith(b"mnt_id:"):
                        yield int(line.split()[1])


def _opened(face: str) -> list[str]:
    with suppress(OSError):
        return [f"fd/{name}" for name in os.listdir(f"/proc/{face}/fd")]
    return []


def _mapped(face: str) -> list[str]:
    with suppress(OSError):
        return [f"map_files/{name}" for name in os.listdir(f"/proc/{face}/map_files")]
    return []
