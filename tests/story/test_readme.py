"""Every command of the README is run, in its order, on a private machine: a command that is shown works."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from persist import program
from town import process

pytestmark = pytest.mark.root
CHECKOUT = Path(__file__).parent.parent.parent
_BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)

# The private machine of the demo, with an empty disk where the README says /dev/sdX.
_INSIDE = """
import os, sys
from pathlib import Path
from demo import loopback, private
from demo.story import CHECKOUT
from town import process

def story():
    os.environ["PATH"] = f"{CHECKOUT}/.venv/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    os.environ["HOME"] = "/josh"
    for name in ("/josh", "/images"):
        Path(name).mkdir()
    os.chdir(CHECKOUT)
    with open("/images/disk", "wb") as disk:
        disk.truncate(256 << 20)
    with loopback.attached(Path("/images/disk")) as device:
        script = Path("/images/script")
        script.write_text(sys.stdin.read().replace("/dev/sdX", device))
        Path("/mnt-readme").mkdir()
        return os.waitstatus_to_exitcode(os.system(f"sh -ex {script} 2>&1"))

sys.exit(private.run(story, CHECKOUT))
"""


def blocks() -> list[str]:
    """The shell blocks of the README."""
    return _BLOCK.findall((CHECKOUT / "README.md").read_text())


def test_the_commands_of_the_readme_work_in_their_order() -> None:
    script = "".join(blocks()).replace("/mnt", "/mnt-readme")
    try:
        program.refuse(f"{CHECKOUT}/.venv/bin/persist")
    except program.OthersProgram:  # this checkout is a person's: install would refuse it, as the README says
        script = script.replace("persist install\n", "persist install --program /usr/bin/env\n")
    done = subprocess.run(
        [sys.executable, "-c", _INSIDE], cwd=CHECKOUT, input=script, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "+ persist homes" in done.stdout  # the last one was reached


def test_the_readme_begins_with_the_two_commands() -> None:
    first = (CHECKOUT / "README.md").read_text().splitlines()[:5]
    assert any(line.strip().startswith("make demo") for line in first)
    assert any(line.strip().startswith("make test") for line in first)
    for target in ("demo", "test"):
        process.run(["make", "-n", "-C", CHECKOUT, target])
