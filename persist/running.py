"""Processes of an agent, and processes that hold one of its mounts: looked up in /proc, named, ended.

A process is an agent's when one of its four uids is, or when it lives in a user namespace that the agent made (there it
may have the uids that /etc/subuid gives the agent). What /proc says of one is read in persist/proc.py. Source: kill(2).
"""

import os
import select
import signal
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from persist import places, proc
from town import files, mounts
from town.failure import Failure
from town.terminal import shown

_COMMAND = 60  # characters of a command line that are shown
_FEW, _MANY = 8, 100
_PAUSE = 0.05
_NOBODYS = (1 << 32) - 2  # the highest uid there is: no account has it
GRACE, BOUND = 10.0, 15.0  # seconds that processes have to end, and that killing them may take


class NotEnded(Failure):
    """Processes of the agent go on, or come back as fast as they are killed."""


class Process(NamedTuple):
    """One process; `command` is safe to print, `unit` is the last part of its cgroup."""

    pid: int
    uid: int  # its real one
    command: str
    unit: str = ""

    def __str__(self) -> str:
        return f"{self.pid} ({self.command})"


class Mounts:
    """Mounts that are looked for, and their copies in other mount namespaces."""

    def __init__(self, wanted: Collection[mounts.Mount]) -> None:
        self._shown = {(mount.device, mount.root) for mount in wanted}
        self._numbers = {proc.namespace("self", "mnt"): {mount.id for mount in wanted}}

    def held_by(self, pid: str) -> bool:
        """Whether a process has a file or directory open, or mapped, or lives, in one of them. Raises OSError."""
        return any(map(self._holds, proc.faces(pid)))

    def _holds(self, face: str) -> bool:
        namespace = proc.namespace(face, "mnt")
        if namespace not in self._numbers:
            every = mounts.table(face)
            self._numbers[namespace] = {mount.id for mount in every if (mount.device, mount.root) in self._shown}
        numbers = self._numbers[namespace]
        return bool(numbers) and any(number in numbers for number in proc.in_use(face))


def of(uid: int) -> list[Process]:
    """Every process of the agent with that uid; none that has ended and only waits to be reaped.

    Some fork, and end, faster than /proc can be listed. Where a list holds none, all that the kernel knows of are
    stopped while another is made: nobody forks then.
    """
    if found := _listed(uid):
        return found
    _signal_all(uid, signal.SIGSTOP)
    try:
        return _listed(uid)
    finally:
        _signal_all(uid, signal.SIGCONT)


def _listed(uid: int) -> list[Process]:
    return [_process(pid, uids) for pid, uids in proc.every() if _is_of(pid, uids, uid)]


def holding(uid: int, wanted: Collection[mounts.Mount]) -> list[Process]:
    """Processes of anybody else that hold one of the mounts."""
    if not wanted:
        return []
    looked = Mounts(wanted)
    return [
        _process(pid, uids)
        for pid, uids in proc.every()
        if int(pid) != os.getpid() and not _is_of(pid, uids, uid) and _held(looked, pid)
    ]


def inside(uid: int, home: Path) -> list[Process]:
    """Processes of anybody else that live in a home, or have something in it open or mapped."""
    top = os.fsencode(places.resolved(home))
    return [
        _process(pid, uids)
        for pid, uids in proc.every()
        if int(pid) != os.getpid()
        and not _is_of(pid, uids, uid)
        and any(_lies_in(top, path) for path in proc.paths(pid))
    ]


def _lies_in(top: bytes, path: bytes) -> bool:
    return path == top or path.startswith(top + b"/")


def within(pid: int, uid: int) -> bool:
    """Whether a process lives in the slice of that user, whoever it is: it ends with the user's sessions."""
    with suppress(OSError):
        return f"/user-{uid}.slice/" in f"{proc.cgroup(str(pid))}/"
    return False


def holding_lock(fd: int) -> str:
    """Who has an open file locked (flock(2)), as the end of a sentence; empty where nobody, or nobody can say."""
    path, inode = os.fsencode(os.readlink(f"/proc/self/fd/{fd}")), b":%d" % os.fstat(fd).st_ino
    with suppress(OSError):
        for line in Path("/proc/locks").read_bytes().splitlines():
            words = line.split()  # proc_locks(5): number, FLOCK, ADVISORY, WRITE, pid, major:minor:inode, …
            if len(words) < 6 or words[1] != b"FLOCK" or not words[5].endswith(inode):
                continue
            pid = words[4].decode()
            if path in proc.paths(pid) and (uids := proc.uids(pid)):
                return f": {_process(pid, uids)}"
    return ""


def groups(uid: int) -> set[str]:
    """The cgroups in which processes of the agent live."""
    found = set[str]()
    for process in of(uid):
        with suppress(OSError):
            found.add(proc.cgroup(str(process.pid)))
    return found


def system_units(uid: int) -> list[str]:
    """The services of the machine's systemd in which processes of the agent live, whoever else does there."""
    outside = (group.split("/") for group in sorted(groups(uid)) if not group.startswith("/user.slice/"))
    return [name for parts in outside for name in parts if name.endswith(".service")][:_MANY]


def named(found: Sequence[Process]) -> str:
    """A few of them, and how many more there are."""
    more = f" and {len(found) - _FEW:,} more" if len(found) > _FEW else ""
    return ", ".join(map(str, found[:_FEW])) + more


def _is_of(pid: str, uids: Sequence[int], uid: int) -> bool:
    # A service of root's that works as the agent for a moment is not the agent's, nor is who came into its namespace.
    return uids[0] == uid or (0 not in uids and (uid in uids or uid in proc.makers(pid)))


def _process(pid: str, uids: Sequence[int]) -> Process:
    command = ""
    with suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes()[:4096].rstrip(b"\0").replace(b"\0", b" ")
        command = shown(words or Path(f"/proc/{pid}/comm").read_bytes().rstrip(b"\n"))
    unit = ""
    with suppress(OSError):
        unit = proc.cgroup(pid).rsplit("/", 1)[-1]
    short = command if len(command) <= _COMMAND else command[:_COMMAND] + "…"
    return Process(int(pid), uids[0], short, unit)


def _held(looked: Mounts, pid: str) -> bool:
    try:
        return looked.held_by(pid)
    except OSError:  # gone meanwhile
        return False


# ---- ending them


def end(uid: int, *, grace: float = GRACE, bound: float = BOUND) -> list[Process]:
    """End every process of the agent: asked, and after `grace` seconds killed. Those that were there; NotEnded.

    The session manager is asked first, where there is one: it stops the agent's own services as it should.
    """
    if not (found := of(uid)):
        return []
    _ask_manager(uid)
    _signal(of(uid), signal.SIGTERM)
    _wait(uid, grace)
    _kill(uid, bound)
    return found


def _ask_manager(uid: int) -> None:
    """logind ends all sessions of the uid and its user@.service; what it says of a uid without any is no matter."""
    if os.path.isdir("/run/systemd/system"):
        from town import process

        with suppress(Failure):
            process.run(["loginctl", "terminate-user", str(uid)], check=False, timeout=30)


def _wait(uid: int, seconds: float) -> None:
    until = time.monotonic() + seconds
    while of(uid) and time.monotonic() < until:
        time.sleep(_PAUSE)


def _kill(uid: int, bound: float) -> None:
    """Kill until none is left, whatever they fork meanwhile. Raises NotEnded."""
    until = time.monotonic() + bound
    while left := of(uid):
        if time.monotonic() > until:
            units = ", ".join(sorted({process.unit for process in left if process.unit.endswith(".service")}))
            hint = f"systemctl stop {units}, then try again" if units else "try again; or stop what starts them"
            raise NotEnded(f"processes of uid {uid} cannot be ended: {named(left)}", hint=hint)
        for group in _own_groups(left):
            with suppress(OSError):
                (group / "cgroup.kill").write_text("1")  # all of it, and what it forks meanwhile
        _signal_all(uid, signal.SIGKILL)
        _signal(left, signal.SIGKILL)
        time.sleep(_PAUSE)


def _signal(found: Sequence[Process], number: int) -> None:
    for process in found:
        with suppress(OSError), files.opened(os.pidfd_open(process.pid)) as fd:
            # The number may be another's by now: the descriptor is of who has it, so look whose that is.
            if proc.uids(str(process.pid))[:1] == [process.uid]:
                signal.pidfd_send_signal(fd, number)
                if number != signal.SIGKILL:
                    signal.pidfd_send_signal(fd, signal.SIGCONT)


def _signal_all(uid: int, number: int) -> None:
    """kill(2) with -1, as the agent itself: the kernel reaches all its processes at once, and no fork in between.

    It does not say whether there was any: it counts those, too, whom the agent may not signal.
    """
    assert uid > 0
    if (child := os.fork()) == 0:
        status = 1
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            _become(uid)
            if os.geteuid() == uid and 0 not in os.getresuid():  # as root it would end the machine
                os.kill(-1, number)
                status = 0
        finally:
            os._exit(status)
    _await(child)


def _become(uid: int) -> None:
    """Take the agent's effective uid alone: that reaches its processes, and the other two keep them from this one."""
    try:
        os.setresuid(_NOBODYS, uid, _NOBODYS)
    except OSError:  # a container's user namespace does not have that uid
        os.setresuid(uid, uid, uid)


def _await(child: int) -> None:
    """Until it has ended. Whoever stopped it does not stop who waits for it."""
    with files.opened(os.pidfd_open(child)) as fd:
        while not select.select([fd], [], [], _PAUSE)[0]:
            signal.pidfd_send_signal(fd, signal.SIGCONT)
    os.waitpid(child, 0)


def _own_groups(found: Sequence[Process]) -> set[Path]:
    """The cgroups of processes that hold no process of anybody else."""
    ours = {process.pid for process in found}
    root = next((os.fsdecode(mount.target) for mount in mounts.table() if mount.kind == "cgroup2"), None)
    groups = set[Path]()
    for process in found if root is not None else ():
        with suppress(OSError, ValueError):
            path = proc.cgroup(str(process.pid)).strip("/")
            if path and ".." not in path:
                groups.add(Path(root or "") / path)
    return {group for group in groups if _only(group, ours)}


def _only(group: Path, ours: set[int]) -> bool:
    """Whether nobody else's process lives in a cgroup or below it. One that was forked meanwhile goes by its uid."""
    try:
        members = {
            int(line) for above, _, _ in os.walk(group) for line in (Path(above) / "cgroup.procs").read_text().split()
        }
    except (OSError, ValueError):
        return False
    owners = {uid for pid in members - ours for uid in proc.uids(str(pid))}
    return bool(members) and owners <= {_uid_of(pid) for pid in ours}


def _uid_of(pid: int) -> int:
    return next(iter(proc.uids(str(pid))), -1)
