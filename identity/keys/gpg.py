"""OpenPGP keys made and taken apart by gpg in a throw-away home: 0700, in memory, gone whatever happens.

The primary key only certifies and lives in the recovery file. What the agent gets is a signing subkey of two years.
"""

import logging
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from identity.halves import BadKey
from identity.keys import openpgp
from town import files, kernel, process
from town.failure import Failure, ToolFailed
from town.terminal import shown

SUBKEY_LASTS = "2y"
# Where a home may lie: in memory, and with a path that leaves room for a socket (108 bytes, unix(7)).
_MEMORY = ("/dev/shm", "/run")  # noqa: S108 - looked at for being tmpfs, and mkdtemp makes the name
_TMPFS, _RAMFS = 0x01021994, 0x858458F6  # linux/magic.h
_QUIET = ["gpg", "--batch", "--no-tty", "--quiet", "--pinentry-mode", "loopback", "--passphrase-fd", "0"]
# Waits until its standard input closes, which the kernel does when this process dies in whatever way.
_GUARD = 'cat >/dev/null; gpgconf --homedir "$1" --kill all 2>/dev/null; rm -rf -- "$1"'


class NoMemory(Failure):
    """There is no place in memory for a key on its way: it would have to touch a disk."""


@dataclass(frozen=True, slots=True)
class NewKey:
    """Everything that is left of a new key, each armored."""

    subkeys: str  # for the agent: the primary's private numbers are not in it
    public: str
    whole: str  # for the recovery file
    revocation: str


def in_memory(path: str | os.PathLike[str]) -> bool:
    """Whether a directory lies on tmpfs or ramfs; False when it cannot be opened."""
    try:
        with files.opened(os.open(path, files.DIRECTORY & ~os.O_NOFOLLOW)) as fd:
            return kernel.filesystem_type(fd) in (_TMPFS, _RAMFS)
    except OSError:
        return False


@contextmanager
def throw_away_home() -> Iterator[Path]:
    """A GnuPG home that ends with this block, or with this process, even by SIGKILL. Raises NoMemory."""
    place = next((place for place in _MEMORY if in_memory(place) and os.access(place, os.W_OK)), None)
    if place is None:
        raise NoMemory(
            f"no tmpfs at {' or '.join(_MEMORY)} that can be written to: private keys would touch a disk",
            hint="mount one: mount -t tmpfs -o mode=1777 tmpfs /dev/shm",
        )
    home = Path(tempfile.mkdtemp(prefix="nuketown-gpg-", dir=place))
    try:
        guard = subprocess.Popen(
            ["sh", "-c", _GUARD, "sh", str(home)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=process.environment(),
            cwd="/",
            start_new_session=True,  # Ctrl-C is for this process; the guard tidies up after it
        )
    except BaseException:
        shutil.rmtree(home)
        raise
    try:
        yield home
    finally:
        assert guard.stdin is not None
        guard.stdin.close()
        guard.wait()


def generate(home: Path, name: str, email: str) -> NewKey:
    """A certify-only ed25519 primary key with a signing subkey. Raises BadKey, ToolFailed."""
    user_id_is_plain(name, email)
    gpg = _gnupg(home)
    sheet = gpg.gen_key_input(
        key_type="EDDSA", key_curve="ed25519", key_usage="cert", name_real=name, name_email=email,
        expire_date=0, no_protection=True,
    )  # fmt: skip
    primary = _fingerprint(gpg.gen_key(sheet), "primary key")
    _fingerprint(gpg.add_subkey(primary, "", algorithm="ed25519", usage="sign", expire=SUBKEY_LASTS), "subkey")
    revocation = (home / "openpgp-revocs.d" / f"{primary}.rev").read_text(encoding="utf-8")
    return NewKey(
        _export(home, "--export-secret-subkeys", primary),
        _export(home, "--export", primary),
        _export(home, "--export-secret-keys", primary),
        # GnuPG puts a colon before the armor so that nobody imports it by accident; in the recovery file it is safe.
        revocation.replace("\n:-----", "\n-----"),
    )


def public(home: Path, private: str, name: str) -> str:
    """The public half of an armored private key. Raises BadKey; `name` says in messages where it came from."""
    fingerprint = openpgp.facts(private, name).primary
    try:
        process.run([*_QUIET, "--import"], feed=b"\n" + private.encode(), env={"GNUPGHOME": str(home)})
    except ToolFailed as failure:
        raise BadKey(f"{shown(name)} is refused by gpg: {failure.what}") from failure
    return _export(home, "--export", fingerprint)


def user_id_is_plain(name: str, email: str) -> None:
    """Refuse what gpg would read as more than a name and an address. Raises BadKey.

    In gpg's parameter file a newline begins the next parameter; `<` in a name begins another address.
    """
    for text in (name, email):
        if not text.strip() or any(
            ord(character) < 0x20 or character in "<>\x7f\x85\u2028\u2029" for character in text
        ):
            raise BadKey(
                f"{shown(text) or 'an empty text'} cannot stand in the user id of an OpenPGP key",
                hint="change git.name or git.email of the agent in the spec",
            )


def _gnupg(home: Path):  # type: ignore[no-untyped-def]  # python-gnupg has no types
    import gnupg

    logging.getLogger("gnupg").setLevel(logging.WARNING)  # at DEBUG it logs the bytes of secret keys
    gpg = gnupg.GPG(gnupghome=str(home), env=process.environment({"GNUPGHOME": str(home)}))
    gpg.encoding = "utf-8"  # its default is latin-1
    return gpg


def _fingerprint(result: object, what: str) -> str:
    # python-gnupg does not raise: an empty fingerprint is all that tells of a failure.
    fingerprint = getattr(result, "fingerprint", None)
    if not fingerprint:
        said = str(getattr(result, "stderr", "")).encode()
        raise ToolFailed(f"gpg made no {what}: {process.last_words(said)}")
    return str(fingerprint)


def _export(home: Path, verb: str, fingerprint: str) -> str:
    done = process.run([*_QUIET, "--armor", verb, fingerprint], feed=b"\n", env={"GNUPGHOME": str(home)})
    if not done.out:  # gpg ends with 0 when it exports nothing
        raise ToolFailed(f"gpg {verb} gave nothing for {fingerprint}: {process.last_words(done.err)}")
    return done.out.decode("ascii")
