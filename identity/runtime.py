"""Extra secrets for an agent's programs: /run/nuketown/secrets/AGENT/NAME, in memory, readable by the agent alone.

The directories are root's, so an agent cannot put a link where root will write. A link there is root's own: sops-nix
brings that secret.
"""

import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath

from identity.keys.gpg import in_memory
from identity.pieces import Piece, What
from identity.places import SECRETS
from town import files, kernel
from town.failure import Failure
from town.spec import Agent

_MODE = 0o400
_LIMIT = 1 << 20  # bytes
_ENVIRONMENT = ".environment"  # no name in `extra` begins with a dot
_LONGEST = 100_000  # bytes of a variable: with one of 128 KiB no program starts (execve(2), MAX_ARG_STRLEN)


class NoVariable(Failure):
    """A secret cannot be the value of a variable."""


def environment_file(agent: Agent) -> PurePosixPath:
    """Where the variables of `secrets.env` lie, as EnvironmentFile= of systemd.exec(5) reads them."""
    return SECRETS / agent.name / _ENVIRONMENT


def linked(agent: Agent, name: str) -> Path | None:
    """What the link of that name leads to, where root put one in the place of an extra secret."""
    path = Path(SECRETS / agent.name / name)
    return Path(os.readlink(path)) if path.is_symlink() else None


def deliver(agent: Agent, secrets: Mapping[str, bytes], *, dry: bool) -> Iterator[Piece]:
    """Write an agent's extra secrets, and take away those that the spec no longer names. Each by itself."""
    there = os.path.isdir(SECRETS / agent.name)
    if not agent.secrets.extra and not there:
        return
    if dry and not there:
        yield from (Piece(_path(agent, name), "made") for name in secrets)
        return
    if not dry:
        _mount()
    with files.opened(_directory(agent, dry)) as directory:
        yield from _secrets(directory, agent, secrets, dry)
        yield _environment(directory, agent, secrets, dry)
        yield from _stale(directory, agent, dry)


def forget(agents: Iterable[Agent], *, dry: bool) -> Iterator[Piece]:
    """Take away the secrets of agents that the spec no longer has."""
    if not os.path.isdir(SECRETS):
        return
    known = {agent.name for agent in agents}
    with files.opened(files.open_dir(SECRETS)) as top:
        for name in map(os.fsdecode, files.names(top)):
            if name not in known:
                if not dry:
                    files.remove_tree(top, name)
                yield Piece(str(SECRETS / name), "removed")


def _path(agent: Agent, name: str) -> str:
    return str(SECRETS / agent.name / name)


def _directory(agent: Agent, dry: bool) -> int:
    if dry:
        return files.open_dir(SECRETS / agent.name)
    with files.opened(files.open_dir(SECRETS)) as top:
        # Root's and the agent's group's: other agents cannot even list the names.
        directory = files.make_dirs(top, PurePosixPath(agent.name), mode=0o750, owner=(0, agent.gid))
    os.fchown(directory, 0, agent.gid)
    os.fchmod(directory, 0o750)
    return directory


def _secrets(directory: int, agent: Agent, secrets: Mapping[str, bytes], dry: bool) -> Iterator[Piece]:
    for name, _ in agent.secrets.extra:
        if (target := linked(agent, name)) is not None:
            yield Piece(_path(agent, name), "left", f"a link to {target}" if target.exists() else "")
        elif name in secrets:
            yield _attempt(directory, agent, name, secrets[name], dry)


def _attempt(directory: int, agent: Agent, name: str, value: bytes, dry: bool) -> Piece:
    try:
        return Piece(_path(agent, name), _put(directory, agent, name, value, dry))
    except OSError as error:
        return Piece(_path(agent, name), "failed", error.strerror or str(error))


def _put(directory: int, agent: Agent, name: str, value: bytes, dry: bool) -> What:
    owner = (agent.uid, agent.gid)
    try:
        with files.opened(files.open_beneath(directory, name, os.O_RDONLY | os.O_NONBLOCK)) as fd:
            found = os.fstat(fd)
            same = (found.st_uid, found.st_gid) == owner and stat.S_IMODE(found.st_mode) == _MODE
            if same and files.read_fd(fd, _LIMIT, name) == value:
                return "kept"
        what: What = "rewritten"
    except FileNotFoundError:
        what = "made"
    if not dry:
        files.write_beneath(directory, name, value, mode=_MODE, owner=owner)
    return what


def _environment(directory: int, agent: Agent, secrets: Mapping[str, bytes], dry: bool) -> Piece:
    path = str(environment_file(agent))
    if not agent.secrets.env:
        return Piece(path, "absent")  # what there was is stale
    if any(name not in secrets and linked(agent, name) is None for _, name in agent.secrets.env):
        return Piece(path, "absent")  # a value could not be had, which was told: what there was stays
    try:
        text = "".join(
            _assignment(variable, value)
            for variable, name in agent.secrets.env
            if (value := secrets.get(name, _of_link(agent, name))) is not None
        )
    except Failure as failure:
        return Piece(path, "failed", failure.what, failure.hint)
    done = _attempt(directory, agent, _ENVIRONMENT, text.encode(), dry)
    return done if done.what == "failed" else Piece(path, "absent")  # it follows from pieces that are told


def _of_link(agent: Agent, name: str) -> bytes | None:
    target = linked(agent, name)
    return None if target is None or not target.exists() else files.read_bounded(target, _LIMIT)


def _assignment(variable: str, value: bytes) -> str:
    """One line, or several where the value has them (systemd.exec(5), EnvironmentFile=). Raises NoVariable.

    Line breaks at the end are left out, as a shell's `$(cat FILE)` leaves them out.
    """
    hint = "take it out of secrets.env: programs read the file itself"
    if len(value) > _LONGEST:
        raise NoVariable(f"{variable} would have {len(value):,} bytes, with which no program starts", hint=hint)
    try:
        text = value.decode().rstrip("\n")
    except UnicodeDecodeError:
        raise NoVariable(f"the value of {variable} is no UTF-8 text", hint=hint) from None
    if "\0" in text:
        raise NoVariable(f"the value of {variable} holds a NUL byte", hint=hint)
    escaped = re.sub(r'[\\"$`]', r"\\\g<0>", text)
    return f'{variable}="{escaped}"\n'


def _stale(directory: int, agent: Agent, dry: bool) -> Iterator[Piece]:
    wanted = {name for name, _ in agent.secrets.extra} | ({_ENVIRONMENT} if agent.secrets.env else set())
    for name in map(os.fsdecode, files.names(directory)):
        if name not in wanted and not linked(agent, name):
            if not dry:
                files.remove_tree(directory, name)
            yield Piece(_path(agent, name), "removed")


def _mount() -> None:
    """Make sure that /run/nuketown/secrets is in memory: where /run is a disk, a small tmpfs is mounted there."""
    os.makedirs(SECRETS, exist_ok=True)
    # The agents must get through both, whatever umask they were made with.
    for path in (SECRETS.parent, SECRETS):
        os.chmod(path, stat.S_IMODE(os.stat(path).st_mode) | 0o711)  # noqa: S103 - search only
    if not in_memory(SECRETS):
        flags = kernel.MOUNT_NOSUID | kernel.MOUNT_NODEV | kernel.MOUNT_NOEXEC
        kernel.mount("tmpfs", str(SECRETS), "tmpfs", flags, "mode=0711,size=16m")
