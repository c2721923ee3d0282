"""This boot's id, the same for all that runs in it, also in a sandbox."""

import os
import re
from pathlib import Path

from town import files

_FILE = Path("/proc/sys/kernel/random/boot_id")
_LIMIT = 4096
# systemd's word for it, %b, which nuketown's units pass on, without dashes (sd_id128_get_boot(3)). A unit with a /proc
# of its own sees no file there, or in a container that of the machine below.
_VARIABLE = "NUKETOWN_BOOT_ID"
_PLAIN = re.compile(r"([0-9a-f]{8})([0-9a-f]{4})([0-9a-f]{4})([0-9a-f]{4})([0-9a-f]{12})")


def text() -> str:
    """The id as /proc/sys/kernel/random/boot_id prints it, without the newline. Raises files.Unreadable."""
    if (told := _PLAIN.fullmatch(os.environ.get(_VARIABLE, ""))) is not None:
        return "-".join(told.groups())
    return files.read_bounded(_FILE, _LIMIT).decode("ascii", "replace").strip()
