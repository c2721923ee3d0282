"""Go's sops, where a machine has it: no package of Debian does."""

import os
import re
import shutil
import subprocess
from functools import cache


@cache
def go_sops() -> str | None:
    """Go sops 3, from $SOPS_BIN or PATH: the package `sops` of Python brings a program of the same name."""
    found = os.environ.get("SOPS_BIN") or shutil.which("sops")
    env = {**os.environ, "SOPS_DISABLE_VERSION_CHECK": "1"}  # else it asks the network
    asked = found and subprocess.run([found, "--version"], capture_output=True, text=True, env=env, check=False).stdout
    return found if found and re.match(r"sops 3\.", asked or "") else None
