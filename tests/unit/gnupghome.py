"""A gpg home for one test, with no agent left behind."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def gnupg_home(*keys: Path) -> Iterator[Path]:
    """A home with these keys; its path is short, because the sockets of gpg-agent lie in it."""
    home = Path(tempfile.mkdtemp(prefix="gpg", dir="/tmp"))
    try:
        for key in keys:
            subprocess.run(["gpg", "--batch", "--homedir", home, "--import", key], capture_output=True, check=True)
        yield home
    finally:
        subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=True)
        shutil.rmtree(home, ignore_errors=True)  # the agent removes its sockets at the same time
