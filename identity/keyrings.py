"""An agent's GnuPG home: the signing subkey and its trust. Runs as the agent, in its home."""

import os
import stat
from pathlib import Path, PurePosixPath

from identity.tenant import Keyring, What
from town import files, process
from town.failure import Failure

# --no-options: a gpg.conf that lies in a persisted .gnupg cannot name other programs for this import.
_GPG = ["gpg", "--no-options", "--batch", "--no-tty", "--quiet", "--pinentry-mode", "loopback"]
_PATH_LIMIT = 86  # characters of a GnuPG home that leave room for its sockets in sun_path (unix(7))
_SECONDS = 20.0


class NotImported(Failure):
    """gpg did not take the key."""


def add(home: Path, fd: int, keyring: Keyring, dry: bool) -> What:
    """Bring a signing subkey into `home`/.gnupg and trust it as one's own. Raises NotImported, ToolFailed."""
    directory = home / ".gnupg"
    if len(os.fsencode(directory)) > _PATH_LIMIT:
        raise NotImported(f"the path of {directory} is too long for gpg's sockets: {_PATH_LIMIT} bytes at most")
    if dry and not _exists(fd):
        return "made"
    with files.opened(
        files.make_dirs(fd, PurePosixPath(".gnupg"), mode=0o700, owner=(os.getuid(), os.getgid()))
    ) as keys:
        if stat.S_IMODE(os.fstat(keys).st_mode) != 0o700:
            os.fchmod(keys, 0o700)
    env = {"HOME": str(home), "GNUPGHOME": str(directory)}
    try:
        if _holds(keyring, env):
            return "kept"
        if not dry:
            _import(keyring, env)
        return "made"
    finally:
        # gpg started it for this and it would stay; the agent's own gpg starts one again when it needs it.
        process.run(["gpgconf", "--kill", "gpg-agent"], env=env, check=False, timeout=_SECONDS)


def _exists(fd: int) -> bool:
    try:
        os.close(files.open_beneath(fd, ".gnupg"))
        return True
    except FileNotFoundError:
        return False


def _import(keyring: Keyring, env: dict[str, str]) -> None:
    process.run([*_GPG, "--import"], feed=keyring.armored, env=env, timeout=_SECONDS)
    process.run([*_GPG, "--import-ownertrust"], feed=f"{keyring.primary}:6:\n".encode(), env=env, timeout=_SECONDS)
    if not _holds(keyring, env):
        raise NotImported(f"gpg imported {keyring.primary} but does not list its signing subkey {keyring.signing}")


def _holds(keyring: Keyring, env: dict[str, str]) -> bool:
    """Whether the private signing subkey is there and trusted (GnuPG's doc/DETAILS: fields 1, 9, 10 and 15)."""
    done = process.run(
        [*_GPG, "--with-colons", "--list-secret-keys", keyring.primary], env=env, check=False, timeout=_SECONDS
    )
    trusted, token = False, ""
    for line in done.out.decode("utf-8", "replace").splitlines():
        fields = line.split(":")
        if fields[0] == "sec":
            trusted = fields[8] == "u"
        elif fields[0] == "ssb":
            token = fields[14]
        elif fields[0] == "fpr" and fields[9] == keyring.signing and token == "+":  # noqa: S105 - `#`: stub only
            return trusted
    return False
