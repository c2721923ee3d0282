"""The boot hook: one POSIX shell script, the same in every initrd and on a live system."""

from pathlib import Path


def hook() -> Path:
    """The hook itself, `rollback.sh`, as it is installed beside this module."""
    return Path(__file__).with_name("rollback.sh")
