"""An agent's GnuPG home: the signing subkey, its trust, and subkeys that go. Runs as the agent, in its home.

The home may have been kept from boot to boot with whatever the agent wrote there. No configuration in it is read: gpg
and gpg-agent run with --no-options, so none names a program, a log, or an option that keeps them from starting.
"""

import os
import re
import select
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from identity.pieces import Keyring, Order, Piece, What, digest
from town import files, process
from town.failure import Failure

# --no-autostart: the one gpg-agent that is asked is the one that was started here.
_GPG = ["gpg", "--no-options", "--no-autostart", "--batch", "--no-tty", "--quiet", "--pinentry-mode", "loopback"]
_AGENT = ["gpg-agent", "--no-options", "--disable-scdaemon", "--no-allow-external-cache", "--quiet", "--daemon"]
_PATH_LIMIT = 86  # characters of a GnuPG home that leave room for its sockets in sun_path (unix(7))
_LOCK_LIMIT = 4096  # bytes
_SECONDS = 20.0
_MOST = 1 << 20  # bytes that a program says here; a false gpg-agent may say anything
_Env = dict[str, str]


class NotImported(Failure):
    """gpg did not take the key."""


class _Subkey(NamedTuple):
    """What gpg lists of a subkey: whether its private half is there, whether its primary is trusted, its keygrip."""

    private: bool
    trusted: bool
    grip: str


def bring(home: Path, fd: int, order: Order, dry: bool) -> Piece:
    """Have a signing subkey in `home`/.gnupg, trusted as one's own, not the `dropped` ones, and revocations known.

    Raises NotImported, ToolFailed.
    """
    directory, keyring = home / ".gnupg", order.keyring
    if len(os.fsencode(directory)) > _PATH_LIMIT:
        raise NotImported(f"the path of {directory} is too long for gpg's sockets: {_PATH_LIMIT} bytes at most")
    there = _exists(fd)
    if not there and (dry or keyring is None):
        return Piece(".gnupg", "absent" if keyring is None else "made")
    kept: tuple[tuple[str, str], ...] = ()
    with files.opened(_made(fd)) as keys, _agent({"HOME": str(home), "GNUPGHOME": str(directory)}) as env:
        if not dry:
            _unlock(keys)
        gone = [_drop(env, keys, one, dry) for one in order.dropped]
        what: What = "removed" if any(gone) else "kept"
        if keyring is not None:
            what = _add(env, keys, keyring, dry)
            kept = tuple(_digests(env, keys, keyring.primary))
        if order.published and not dry:
            process.run([*_GPG, "--import"], feed=order.published, env=env, timeout=_SECONDS, most=_MOST)
    return Piece(".gnupg", what if keyring is not None or any(gone) else "absent", keys=kept)


def _exists(fd: int) -> bool:
    try:
        os.close(files.open_beneath(fd, ".gnupg"))
        return True
    except FileNotFoundError:
        return False


def _made(fd: int) -> int:
    keys = files.make_dirs(fd, PurePosixPath(".gnupg"), mode=0o700, owner=(os.getuid(), os.getgid()))
    if stat.S_IMODE(os.fstat(keys).st_mode) != 0o700:
        os.fchmod(keys, 0o700)
    return keys


def _unlock(keys: int) -> None:
    """Remove what a gpg that was cut off, by a power cut say, left locked.

    gpg does so where no process has the number in the lock; here also where one has it that is not this agent's.
    """
    for name in map(os.fsdecode, files.names(keys)):
        if name.endswith(".lock") and _cut_off(keys, name):
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=keys)


def _cut_off(keys: int, name: str) -> bool:
    """Whether nobody holds a lock: in it stand a process's number and its machine's name (GnuPG's common/dotlock.c)."""
    with suppress(OSError, ValueError, Failure):
        with files.opened(files.open_beneath(keys, name, os.O_RDONLY | os.O_NONBLOCK)) as fd:
            pid, machine = files.read_fd(fd, _LOCK_LIMIT, name).split(b"\n")[:2]
        if os.fsdecode(machine) == os.uname().nodename:
            return not _own(int(pid))
    return False


def _own(pid: int) -> bool:
    try:
        return os.stat(f"/proc/{pid}").st_uid == os.getuid()
    except FileNotFoundError:
        return False


@contextmanager
def _agent(env: _Env) -> Iterator[_Env]:
    """A gpg-agent for this block, one that runs already (the agent's own, at work) or a new one that ends with it."""
    running = _pid(env) is not None
    if not running:
        process.run([*_AGENT], env=env, timeout=_SECONDS, most=_MOST)
    try:
        yield env
    finally:
        if not running:
            _end(env)


def _pid(env: _Env) -> int | None:
    """The gpg-agent of this home, if one answers."""
    found = re.match(rb"D (\d+)\n", _asked(env, "GETINFO pid"))
    return None if found is None else int(found[1])


def _end(env: _Env) -> None:
    """End it, and wait until it has removed its sockets."""
    pid = _pid(env)
    if pid is None:
        return
    with suppress(ProcessLookupError), files.opened(os.pidfd_open(pid)) as ended:
        _asked(env, "KILLAGENT")
        select.select([ended], [], [], 5)


def _asked(env: _Env, what: str) -> bytes:
    argv = ["gpg-connect-agent", "--no-autostart", what, "/bye"]
    return process.run(argv, env=env, check=False, timeout=_SECONDS, most=_MOST).out


def _add(env: _Env, keys: int, keyring: Keyring, dry: bool) -> What:
    found = _listed(env, keyring.primary).get(keyring.signing)
    if found is not None and found.private and found.trusted and _signs(env, keyring):
        return "kept"
    if not dry:
        if found is not None:  # gpg-agent keeps what it has, also where that is damaged or needs a passphrase
            _unlink(keys, found.grip)
        _import(env, keyring)
        _signs(env, keyring)  # gpg-agent writes an imported key anew when it is first used: now, and never again
    return "made" if found is None or not found.private else "rewritten"


def _import(env: _Env, keyring: Keyring) -> None:
    process.run([*_GPG, "--import"], feed=keyring.armored, env=env, timeout=_SECONDS, most=_MOST)
    process.run(
        [*_GPG, "--import-ownertrust"], feed=f"{keyring.primary}:6:\n".encode(), env=env, timeout=_SECONDS, most=_MOST
    )
    found = _listed(env, keyring.primary).get(keyring.signing)
    if found is None or not (found.private and found.trusted):
        raise NotImported(f"gpg imported {keyring.primary} but does not list its signing subkey {keyring.signing}")


def _signs(env: _Env, keyring: Keyring) -> bool:
    """Whether the subkey makes a signature. One that has expired cannot, and is believed."""
    if keyring.expires is not None and keyring.expires <= datetime.now(UTC):
        return True
    argv = [*_GPG, "--local-user", f"{keyring.signing}!", "--output", "-", "--detach-sign"]
    return process.run(argv, env=env, check=False, timeout=_SECONDS, most=_MOST).status == 0


def _drop(env: _Env, keys: int, signing: str, dry: bool) -> bool:
    """Take away the private half of a subkey. Whether it was there."""
    found = _listed(env, signing).get(signing)
    if found is None or not found.private:
        return False
    if not dry:
        _unlink(keys, found.grip)
    return True


def _digests(env: _Env, keys: int, primary: str) -> Iterator[tuple[str, str]]:
    """The files of the private keys that were brought, by path below the home."""
    with suppress(FileNotFoundError), files.opened(files.open_beneath(keys, "private-keys-v1.d")) as private:
        for subkey in _listed(env, primary).values():
            if subkey.private and (found := digest(private, f"{subkey.grip}.key")):
                yield f".gnupg/private-keys-v1.d/{subkey.grip}.key", found


def _unlink(keys: int, grip: str) -> None:
    with suppress(FileNotFoundError), files.opened(files.open_beneath(keys, "private-keys-v1.d")) as private:
        os.unlink(f"{grip}.key", dir_fd=private)


def _listed(env: _Env, key: str) -> dict[str, _Subkey]:
    """The private subkeys that gpg lists, by fingerprint (GnuPG's doc/DETAILS: fields 1, 9, 10 and 15)."""
    argv = [*_GPG, "--with-colons", "--with-keygrip", "--list-secret-keys", key]
    done = process.run(argv, env=env, check=False, timeout=_SECONDS, most=_MOST)
    found: dict[str, _Subkey] = {}
    trusted, token, fingerprint = False, "", ""
    for line in done.out.decode("utf-8", "replace").splitlines():
        fields = line.split(":")
        match fields[0]:
            case "sec":
                trusted, token = fields[8] == "u", ""
            case "ssb":
                token = fields[14]
            case "fpr":
                fingerprint = fields[9]
            case "grp" if token:
                found[fingerprint] = _Subkey(token == "+", trusted, fields[9])  # noqa: S105 - `#`: a stub only
    return found
