"""System calls that Python 3.11 has no name for. The one door to them; numbers are those of x86_64 and aarch64 alike.

Sources: openat2(2), open_tree(2), move_mount(2), mount_setattr(2), fsopen(2), renameat2(2), unshare(2),
include/uapi/linux/{openat2,mount,fcntl}.h.
"""

import ctypes
import os
import struct

_OPEN_TREE, _MOVE_MOUNT, _FSOPEN, _FSCONFIG, _FSMOUNT, _OPENAT2, _MOUNT_SETATTR = (
    428,
    429,
    430,
    431,
    432,
    437,
    442,
)

RESOLVE_NO_XDEV, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, RESOLVE_BENEATH = 0x01, 0x02, 0x04, 0x08
AT_EMPTY_PATH, AT_RECURSIVE = 0x1000, 0x8000
OPEN_TREE_CLONE, OPEN_TREE_CLOEXEC = 1, os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH, MOVE_MOUNT_T_EMPTY_PATH = 0x04, 0x40
MOUNT_RDONLY, MOUNT_NOSUID, MOUNT_NODEV, MOUNT_NOEXEC, MOUNT_NOATIME, MOUNT_NOSYMFOLLOW = (
    1,
    2,
    4,
    8,
    0x10,
    0x200000,
)
MOUNT_IDMAP = 0x100000
RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2
CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = (
    0x00020000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000,
)  # fmt: skip
MS_PRIVATE, MS_REC, MNT_DETACH, UMOUNT_NOFOLLOW = 1 << 18, 1 << 14, 2, 8
MCL_CURRENT, MCL_FUTURE, MCL_ONFAULT = 1, 2, 4
_FSCONFIG_SET_FLAG, _FSCONFIG_SET_STRING, _FSCONFIG_CMD_CREATE = 0, 1, 6
_AT_FDCWD = -100
_IN_DELETE_SELF = 0x400
_STATX_BTIME = 0x800

libc = ctypes.CDLL(None, use_errno=True)
_open_by_handle_at = libc.open_by_handle_at  # called for each file: with its types said once it takes half the time
_open_by_handle_at.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int)


def checked(result: int, name: str = "") -> int:
    """The result of a C call, or OSError with its errno when it is negative."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name or None)
    return result


def _call(number: int, *arguments: object) -> int:
    return int(libc.syscall(ctypes.c_long(number), *arguments))


def openat2(dir_fd: int, path: str | bytes, flags: int, mode: int = 0, resolve: int = 0) -> int:
    """openat2(2): a new descriptor, always close-on-exec. `resolve` takes RESOLVE_* flags. Raises OSError."""
    how = struct.pack("=QQQ", flags | os.O_CLOEXEC, mode, resolve)
    name = os.fsencode(path)
    if b"\0" in name:
        raise ValueError("a path holds a NUL byte")
    return checked(_call(_OPENAT2, ctypes.c_int(dir_fd), name, how, ctypes.c_size_t(len(how))), os.fsdecode(name))


def open_by_handle_at(mount: int, handle: bytes, flags: int) -> int:
    """open_by_handle_at(2): `handle` is a struct file_handle; close-on-exec. Raises OSError, ESTALE when it is gone."""
    return checked(_open_by_handle_at(mount, handle, flags | os.O_CLOEXEC))


def open_tree(dir_fd: int, path: str = "", flags: int = OPEN_TREE_CLONE | AT_EMPTY_PATH) -> int:
    """open_tree(2): a detached clone of the mount at `path` (empty: at the descriptor itself)."""
    return checked(_call(_OPEN_TREE, ctypes.c_int(dir_fd), os.fsencode(path), ctypes.c_uint(flags | OPEN_TREE_CLOEXEC)))


def move_mount(from_fd: int, to_fd: int) -> None:
    """move_mount(2): attach the detached mount `from_fd` on the very directory that `to_fd` has open."""
    flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH
    checked(_call(_MOVE_MOUNT, ctypes.c_int(from_fd), b"", ctypes.c_int(to_fd), b"", ctypes.c_uint(flags)))


def mount_setattr(fd: int, *, add: int, recursive: bool = False, userns: int = 0) -> None:
    """mount_setattr(2): add MOUNT_* attributes to the mount that `fd` stands for.

    `userns`: with MOUNT_IDMAP, the user namespace (open) whose maps say who its owners appear to be.
    """
    attributes = struct.pack("=QQQQ", add, 0, 0, userns)
    flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    checked(
        _call(
            _MOUNT_SETATTR,
            ctypes.c_int(fd),
            b"",
            ctypes.c_uint(flags),
            attributes,
            ctypes.c_size_t(len(attributes)),
        )
    )


def mount_detached(kind: str, options: dict[str, str], attributes: int) -> int:
    """fsopen(2) to fsmount(2): a mount that has no path anywhere, gone with its last descriptor.

    `options` are strings, an empty one is a flag; `source` is the device. `attributes` are MOUNT_* flags.
    """
    context = checked(_call(_FSOPEN, kind.encode(), ctypes.c_uint(1)))
    try:
        for key, value in options.items():
            command = _FSCONFIG_SET_STRING if value else _FSCONFIG_SET_FLAG
            text = os.fsencode(value) if value else None
            checked(_call(_FSCONFIG, context, ctypes.c_uint(command), key.encode(), text, 0), f"{key}={value}")
        checked(
            _call(_FSCONFIG, context, ctypes.c_uint(_FSCONFIG_CMD_CREATE), None, None, 0),
            options.get("source", ""),
        )
        return checked(_call(_FSMOUNT, context, ctypes.c_uint(1), ctypes.c_uint(attributes)))
    finally:
        os.close(context)


def renameat2(from_fd: int, old: str | bytes, to_fd: int, new: str | bytes, flags: int = RENAME_NOREPLACE) -> None:
    """renameat2(2). RENAME_NOREPLACE fails with EEXIST; RENAME_EXCHANGE swaps two names that both exist."""
    number = {"x86_64": 316, "aarch64": 276}[os.uname().machine]
    arguments = (
        ctypes.c_int(from_fd),
        os.fsencode(old),
        ctypes.c_int(to_fd),
        os.fsencode(new),
        ctypes.c_uint(flags),
    )
    checked(_call(number, *arguments), os.fsdecode(new))


def filesystem_type(fd: int) -> int:
    """fstatfs(2) f_type, which os.statvfs leaves out: the magic number of the filesystem."""
    buffer = ctypes.create_string_buffer(256)
    checked(libc.fstatfs(ctypes.c_int(fd), buffer))
    return int(struct.unpack_from("=q", buffer.raw)[0])  # a long, first in struct statfs, on both machines


def born(fd: int) -> float | None:
    """When what an open descriptor is of was made, in seconds since the epoch; None where the filesystem keeps none.

    stx_btime of statx(2), which os.stat leaves out.
    """
    found = bytearray(256)
    buffer = (ctypes.c_char * len(found)).from_buffer(found)
    checked(libc.statx(ctypes.c_int(fd), b"", ctypes.c_int(AT_EMPTY_PATH), ctypes.c_uint(_STATX_BTIME), buffer))
    if not struct.unpack_from("=I", found)[0] & _STATX_BTIME:
        return None
    seconds, nanoseconds = struct.unpack_from("=qI", found, 80)
    return float(seconds + nanoseconds / 1e9)


def syncfs(fd: int) -> None:
    """syncfs(2): everything written to the filesystem of `fd` so far is on the disk at return, data included."""
    checked(libc.syncfs(ctypes.c_int(fd)))


def chown_open(fd: int, uid: int, gid: int) -> None:
    """fchownat(2) with AT_EMPTY_PATH: a new owner for what `fd` has open, O_PATH will do, and a symlink itself too."""
    checked(libc.fchownat(ctypes.c_int(fd), b"", ctypes.c_uint(uid), ctypes.c_uint(gid), ctypes.c_int(AT_EMPTY_PATH)))


def watch(directory: int) -> int:
    """inotify(7): a descriptor that watches an open directory for its own end. Raises OSError."""
    watching = checked(libc.inotify_init1(ctypes.c_int(os.O_CLOEXEC)))
    try:
        name = b"/proc/self/fd/%d" % directory
        checked(libc.inotify_add_watch(ctypes.c_int(watching), name, ctypes.c_uint32(_IN_DELETE_SELF)))
    except BaseException:
        os.close(watching)
        raise
    return watching


def unshare(flags: int) -> None:
    """unshare(2): leave the namespaces that CLONE_NEW* `flags` name for new ones."""
    checked(libc.unshare(ctypes.c_int(flags)))


def mount(source: str, target: str, kind: str | None, flags: int, data: str = "") -> None:
    """mount(2) by path: only for targets that nobody but root can change."""
    encoded = None if kind is None else kind.encode()
    checked(
        libc.mount(source.encode(), os.fsencode(target), encoded, ctypes.c_ulong(flags), data.encode() or None),
        target,
    )


def umount(target: str, flags: int = UMOUNT_NOFOLLOW) -> None:
    """umount2(2)."""
    checked(libc.umount2(os.fsencode(target), ctypes.c_int(flags)), target)


def pivot_root(new_root: str, put_old: str) -> None:
    """pivot_root(2)."""
    number = {"x86_64": 155, "aarch64": 41}[os.uname().machine]
    checked(_call(number, os.fsencode(new_root), os.fsencode(put_old)))


def die_with_parent(signal: int) -> None:
    """prctl(2) PR_SET_PDEATHSIG: this process gets `signal` when the thread that forked it ends."""
    checked(libc.prctl(1, ctypes.c_ulong(signal), 0, 0, 0))


def not_dumpable() -> None:
    """prctl(2) PR_SET_DUMPABLE 0: no core dump, and no process of the same uid may trace this one."""
    checked(libc.prctl(4, ctypes.c_ulong(0), 0, 0, 0))


def mlockall(flags: int) -> None:
    """mlockall(2): MCL_* flags; what is locked is never swapped out. Not inherited by children. Raises OSError."""
    checked(libc.mlockall(ctypes.c_int(flags)))


def no_new_privileges() -> None:
    """prctl(2) PR_SET_NO_NEW_PRIVS: no program started from here gains rights by set-uid bits or file capabilities."""
    checked(libc.prctl(38, ctypes.c_ulong(1), 0, 0, 0))
