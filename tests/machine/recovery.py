"""The programs of docs/recovery.md, run as by somebody who has neither this program nor its packages."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.reach import CHECKOUT

PYTHON = "/usr/bin/python3"  # Debian's, with its own python3-cryptography and python3-zstandard; not the environment's
DOC = (CHECKOUT / "docs/recovery.md").read_text()
PROGRAMS = {
    re.findall(r"python3 (\w+)\.py", block)[0]: block
    for block in re.findall(r"```py(?:thon)?\n(.*?)```", DOC, re.DOTALL)
}


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """The doc's code blocks as files."""
    for name, text in PROGRAMS.items():
        (tmp_path / f"{name}.py").write_text(text)
    return tmp_path


def ran(argv: list[str], feed: str = "", **more: str) -> subprocess.CompletedProcess[str]:
    """A program with nothing of this environment."""
    env = {"PATH": os.environ["PATH"], "HOME": "/nonexistent"} | more
    return subprocess.run(argv, input=feed, capture_output=True, text=True, check=False, env=env)
