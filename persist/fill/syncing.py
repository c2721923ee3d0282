"""What was written goes to the disk while something else is done."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from town import kernel


@contextmanager
def syncing(fd: int) -> Iterator[None]:
    """What the filesystem of `fd` holds when the block begins is on the disk when it ends. Raises OSError."""
    failed: list[OSError] = []

    def sync() -> None:
        try:
            kernel.syncfs(fd)
        except OSError as error:
            failed.append(error)

    running = threading.Thread(target=sync, name="persist-syncfs")
    running.start()
    try:
        yield
    finally:
        running.join()
    if failed:
        raise failed[0]
