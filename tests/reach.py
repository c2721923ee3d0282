"""What another uid may run and read, wherever the checkout lies: root's own home, say, is closed to everybody else."""

import os
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from town import files, kernel, mounts

PYTHON = os.path.realpath(sys.executable)  # the interpreter behind the checkout's environment, without its packages
CHECKOUT = Path(__file__).parent.parent


@contextmanager
def checkout() -> Iterator[tuple[Path, dict[str, str]]]:
    """The checkout at a path that everybody may enter, and the environment in which PYTHON finds its packages."""
    site = Path(sysconfig.get_path("purelib")).relative_to(CHECKOUT)
    place = Path(tempfile.mkdtemp(prefix="nuketown-reach-", dir="/tmp"))
    place.chmod(0o755)
    with files.opened(files.open_dir(CHECKOUT)) as source, files.opened(files.open_dir(place)) as target:
        mounts.bind(source, target)
    packages = place / site
    try:
        yield place, {"PYTHONPATH": f"{place}:{packages}"}
    finally:
        kernel.umount(str(place), kernel.MNT_DETACH)
        place.rmdir()
