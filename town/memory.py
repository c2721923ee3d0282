"""What this process knows stays in its memory: no core dump, no swap, no look from another process of the same user."""

import os
import re
from contextlib import suppress

from town import kernel

_IPC_LOCK, _RESOURCE = 14, 24  # CAP_IPC_LOCK, CAP_SYS_RESOURCE (may raise a hard limit): linux/capability.h


def keep() -> None:
    """For a process that is about to hold private keys. Where a part of it cannot be had, it goes on without.

    Children begin with the limit on core dumps only: what they hold is theirs to protect (gpg does).
    """
    no_dump()
    if _may_lock():
        with suppress(OSError):
            kernel.mlockall(kernel.MCL_CURRENT | kernel.MCL_FUTURE | kernel.MCL_ONFAULT)


def no_dump() -> None:
    """A crash of this process, or of a child, leaves no memory on a disk."""
    import resource

    # 1 and not 0: a core that is piped to a program (core_pattern `|…`) has no limit, but for the value 1, which the
    # kernel takes as "never" (fs/coredump.c). A file of one byte it does not write either.
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    if hard == 0 and _capable(_RESOURCE):
        hard = 1
    resource.setrlimit(resource.RLIMIT_CORE, (min(1, hard) if hard != resource.RLIM_INFINITY else 1, hard))
    kernel.not_dumpable()


def _may_lock() -> bool:
    """Whether any amount may be locked: else a later allocation would fail for the limit."""
    import resource

    return _capable(_IPC_LOCK) or resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] == resource.RLIM_INFINITY


def _capable(number: int) -> bool:
    """Whether this process has a capability (proc(5), CapEff)."""
    with suppress(OSError), open("/proc/self/status", "rb", buffering=0) as file:
        found = re.search(rb"^CapEff:\s*([0-9a-f]+)", file.read(), re.MULTILINE)
        return found is not None and bool(int(found[1], 16) >> number & 1)
    return os.geteuid() == 0
