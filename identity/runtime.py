"""Extra secrets for an agent's programs: /run/nuketown/secrets/AGENT/NAME, in memory, readable by the agent alone.

The directories are root's, so an agent cannot put a link where root will write.
"""

import os
import stat
from pathlib import PurePosixPath

from identity.keys.gpg import in_memory
from identity.places import SECRETS
from identity.tenant import Piece, What
from town import files, kernel
from town.spec import Agent

_MODE = 0o400


def deliver(agent: Agent, secrets: dict[str, bytes], *, dry: bool) -> list[Piece]:
    """Write an agent's extra secrets, and take away those that the spec no longer names."""
    if not secrets and not os.path.isdir(SECRETS / agent.name):
        return []
    if dry:
        return [Piece(str(SECRETS / agent.name / name), "made") for name in secrets]
    _mount()
    with files.opened(files.open_dir(SECRETS)) as top:
        # Root's and the agent's group's: other agents cannot even list the names.
        directory = files.make_dirs(top, PurePosixPath(agent.name), mode=0o750, owner=(0, agent.gid))
    with files.opened(directory):
        os.fchown(directory, 0, agent.gid)
        os.fchmod(directory, 0o750)
        done = [
            Piece(str(SECRETS / agent.name / name), _put(directory, agent, name, secrets[name])) for name in secrets
        ]
        for name in files.names(directory):
            if os.fsdecode(name) not in secrets:
                os.unlink(name, dir_fd=directory)
    return done


def _put(directory: int, agent: Agent, name: str, value: bytes) -> What:
    owner = (agent.uid, agent.gid)
    try:
        with files.opened(files.open_beneath(directory, name, os.O_RDONLY | os.O_NONBLOCK)) as fd:
            found = os.fstat(fd)
            same = (found.st_uid, found.st_gid) == owner and stat.S_IMODE(found.st_mode) == _MODE
            if same and files.read_fd(fd, 1 << 20, name) == value:
                return "kept"
        what: What = "rewritten"
    except FileNotFoundError:
        what = "made"
    files.write_beneath(directory, name, value, mode=_MODE, owner=owner)
    return what


def _mount() -> None:
    """Make sure that /run/nuketown/secrets is in memory: where /run is a disk, a small tmpfs is mounted there."""
    os.makedirs(SECRETS, exist_ok=True)
    # The agents must get through both, whatever umask they were made with.
    for path in (SECRETS.parent, SECRETS):
        os.chmod(path, stat.S_IMODE(os.stat(path).st_mode) | 0o711)  # noqa: S103 - search only
    if not in_memory(SECRETS):
        flags = kernel.MOUNT_NOSUID | kernel.MOUNT_NODEV | kernel.MOUNT_NOEXEC
        kernel.mount("tmpfs", str(SECRETS), "tmpfs", flags, "mode=0711,size=16m")
