"""OpenPGP by the gpg program: the data key goes in and out by pipes, and nothing in the home is changed.

gpg is run directly and not through python-gnupg, which logs secret bytes at DEBUG and starts its children by a
second door.
"""

import fcntl
import os
import re
import select
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from town import accounts, files, process
from town.sops.errors import BadRecipient
from town.terminal import shell_word, shown

# --trust-model always neither asks nor writes trustdb.gpg; without --no-random-seed-file gpg writes random_seed.
_QUIET = ("gpg", "--batch", "--no-tty", "--trust-model", "always", "--no-random-seed-file", "--no-auto-check-trustdb")
# What an agent needs to ask its person for a passphrase.
_SESSION = (
    "HOME",
    "GPG_TTY",
    "DISPLAY",
    "WAYLAND_DISPLAY",
    "XAUTHORITY",
    "XDG_RUNTIME_DIR",
    "DBUS_SESSION_BUS_ADDRESS",
)
_MAX_KEY = 4096  # bytes that a data key may take once opened: a compressed message cannot fill the memory


def home_of_caller() -> Path:
    """Where gpg of the caller keeps its keys: $GNUPGHOME, else ~/.gnupg."""
    return Path(os.environ.get("GNUPGHOME") or accounts.own_home() / ".gnupg")


def has_keys(home: Path) -> bool:
    """Whether there is a keyring at all. gpg would make an empty one, so it is not asked."""
    return any(os.path.exists(home / name) for name in ("pubring.kbx", "pubring.gpg", "public-keys.d"))


def encrypt(data_key: bytes, fingerprint: str, home: Path | None) -> str:
    """The data key as an armored OpenPGP message to one key of the keyring. Raises BadRecipient."""
    place = home if home is not None else home_of_caller()
    if not has_keys(place):
        raise _unknown(fingerprint, place)
    argv = [*_QUIET, "--no-encrypt-to", "--no-default-recipient", "--rfc4880", "--armor", "--encrypt"]
    done = process.run([*argv, "--recipient", fingerprint], feed=data_key, env=_environment(place), check=False)
    if done.status == 0 and done.out.startswith(b"-----BEGIN PGP MESSAGE-----"):
        return done.out.decode("ascii").strip()
    if b"No public key" in done.err:
        raise _unknown(fingerprint, place)
    raise BadRecipient(
        f"gpg cannot encrypt to {fingerprint}: {process.last_words(done.err)}",
        hint=f"look at it with: {_command(place)} --list-keys {fingerprint}",
    )


def _unknown(fingerprint: str, home: Path) -> BadRecipient:
    return BadRecipient(
        f"the public key of {fingerprint} is not in the keyring {shown(str(home))}",
        hint=f"import it: {_command(home)} --import KEY.asc",
    )


def _command(home: Path) -> str:
    return "gpg" if home == accounts.own_home() / ".gnupg" else f"gpg --homedir {shell_word(str(home))}"


def decrypt(message: str, home: Path) -> bytes | str:
    """What an armored message holds, or in words why no private key of this home opens it."""
    if not has_keys(home) or not any(os.path.exists(home / name) for name in ("private-keys-v1.d", "secring.gpg")):
        return f"{shown(str(home))} holds no private key"
    env = _environment(home)
    with _alone(home):
        running = _agent(env) is not None
        try:
            argv = [*_QUIET, "--quiet", "--max-output", str(_MAX_KEY), "--decrypt"]
            done = process.run(argv, feed=message.encode(), env=env, check=False, timeout=300)
        finally:
            if not running:
                _end_agent(env)
    return done.out if done.status == 0 and done.out else f"gpg says: {process.last_words(done.err)}"


@contextmanager
def _alone(home: Path) -> Iterator[None]:
    """While no other process of ours decrypts here: who found no gpg-agent ends the one that gpg started, for all."""
    try:
        fd = os.open(home, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:  # gpg says why
        yield
        return
    with files.opened(fd):
        with suppress(OSError):  # a filesystem without locks
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield


def _agent(env: dict[str, str]) -> int | None:
    """The pid of the home's gpg-agent, if one runs. None is started."""
    asked = process.run(["gpg-connect-agent", "--no-autostart", "GETINFO pid", "/bye"], env=env, check=False)
    found = re.match(rb"D (\d+)\n", asked.out)
    return None if found is None else int(found[1])


def _end_agent(env: dict[str, str]) -> None:
    """End the agent that gpg started for one message, and wait until it has removed its sockets."""
    pid = _agent(env)
    if pid is None:
        return
    with suppress(ProcessLookupError), files.opened(os.pidfd_open(pid)) as ended:
        process.run(["gpgconf", "--kill", "gpg-agent"], env=env, check=False)
        select.select([ended], [], [], 5)


def _environment(home: Path) -> dict[str, str]:
    session = {name: os.environ[name] for name in _SESSION if name in os.environ}
    return session | {"GNUPGHOME": str(home)}
