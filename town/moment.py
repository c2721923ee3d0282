"""Several btrfs snapshots of one moment: all in one transaction of the filesystem, which nothing is written between.

A snapshot is taken when its transaction commits, with all others that were asked for in it. So they are asked for at
once, by a thread each, in directories of their own (the kernel holds a directory locked until its snapshot is made),
right after a commit was started: whoever comes while that one is being written waits for its end, in one transaction.
"""

import ctypes
import struct
from collections.abc import Sequence
from threading import Barrier, Thread
from typing import NamedTuple

from town import btrfs, files, kernel, subvolumes
from town.btrfs import BtrfsFailed
from town.terminal import shown

MOST = 8  # at once: a thread each
_SNAP_CREATE_V2, _START_SYNC, _FS_INFO = 0x50009417, 0x80089418, 0x8400941F  # include/uapi/linux/btrfs.h
_READ_ONLY = 1 << 1
_ARGUMENTS = struct.Struct("=qQQ32x4040s")
_ATTEMPTS = 10  # of some milliseconds; one in twenty does not find all in one transaction

_ioctl = kernel.libc["ioctl"]  # unlike fcntl.ioctl with a buffer of that size, it lets the other threads go on
_ioctl.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_char_p)


class Wanted(NamedTuple):
    """Snapshot the subvolume whose root `source` has open as `name` in an open directory."""

    source: int
    directory: int
    name: str
    read_only: bool


def taken(wanted: Sequence[Wanted]) -> list[int]:
    """Take them; the transaction that each is of, the same for all where that could be. Durable.

    Every directory is another, and all lie on one filesystem. Raises BtrfsFailed; then none of them is there.
    """
    assert 0 < len(wanted) <= MOST
    for attempt in range(_ATTEMPTS):
        _at_once(wanted)
        transids = [_transid(one) for one in wanted]
        if len(set(transids)) == 1 or attempt == _ATTEMPTS - 1:
            break
        _drop(wanted)
    return transids


def filesystem(fd: int) -> bytes:
    """The UUID of the btrfs that `fd` lies on. Raises BtrfsFailed."""
    buffer = ctypes.create_string_buffer(1024)
    try:
        kernel.checked(_ioctl(fd, _FS_INFO, buffer))
    except OSError as error:
        raise BtrfsFailed(f"btrfs: {error.strerror}") from error
    return buffer.raw[16:32]  # struct btrfs_ioctl_fs_info_args


def _at_once(wanted: Sequence[Wanted]) -> None:
    start, failed = Barrier(len(wanted) + 1), list[tuple[Wanted, OSError]]()

    def take(one: Wanted) -> None:
        flags = _READ_ONLY if one.read_only else 0
        arguments = ctypes.create_string_buffer(_ARGUMENTS.pack(one.source, 0, flags, one.name.encode()))
        start.wait()
        try:
            kernel.checked(_ioctl(one.directory, _SNAP_CREATE_V2, arguments))
        except OSError as error:
            failed.append((one, error))

    threads = [Thread(target=take, args=(one,)) for one in wanted]
    for thread in threads:
        thread.start()
    _ioctl(wanted[0].directory, _START_SYNC, ctypes.create_string_buffer(8))  # fails where nothing waits to be written
    start.wait()
    for thread in threads:
        thread.join()
    if failed:
        _drop([one for one in wanted if one not in [which for which, _ in failed]])
        one, error = failed[0]
        raise BtrfsFailed(f"btrfs: {shown(one.name)}: {error.strerror}") from error


def _transid(one: Wanted) -> int:
    with files.opened(files.enter(one.directory, one.name)) as fd:
        return btrfs.info(fd).origin_generation


def _drop(wanted: Sequence[Wanted]) -> None:
    for one in wanted:
        subvolumes.remove(one.directory, one.name)
