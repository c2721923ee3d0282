"""OpenPGP keys made and taken apart by gpg in a throw-away home (identity.keys.home).

The primary key only certifies and lives in the recovery file. What the agent gets is a signing subkey of two years.
"""

import logging
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from identity.halves import BadKey
from identity.keys import openpgp
from identity.keys.home import NoMemory, in_memory, throw_away_home
from town import process
from town.failure import ToolFailed, ToolMissing
from town.terminal import shown

__all__ = ["NoMemory", "in_memory", "throw_away_home"]  # of every use of gpg

SUBKEY_LASTS = "2y"
_QUIET = ["gpg", "--batch", "--no-tty", "--quiet", "--pinentry-mode", "loopback", "--passphrase-fd", "0"]


@dataclass(frozen=True, slots=True)
class NewKey:
    """Everything that is left of a new key, each armored."""

    subkeys: str  # for the agent: the primary's private numbers are not in it
    public: str
    whole: str  # for the recovery file
    revocation: str


def generate(home: Path, name: str, email: str, *, encryption: bool = False) -> NewKey:
    """A certify-only ed25519 primary key with a signing subkey, and with one for encryption when that is asked for.

    Raises BadKey, ToolFailed.
    """
    user_id_is_plain(name, email)
    gpg = _gnupg(home)
    sheet = gpg.gen_key_input(
        key_type="EDDSA", key_curve="ed25519", key_usage="cert", name_real=name, name_email=email,
        expire_date=0, no_protection=True,
    )  # fmt: skip
    primary = _fingerprint(gpg.gen_key(sheet), "primary key")
    add_signing(home, primary)
    if encryption:
        add_encryption(home, primary)
    revocation = (home / "openpgp-revocs.d" / f"{primary}.rev").read_text(encoding="utf-8")
    return NewKey(
        export(home, "--export-secret-subkeys", primary),
        export(home, "--export", primary),
        export(home, "--export-secret-keys", primary),
        # GnuPG puts a colon before the armor so that nobody imports it by accident; in the recovery file it is safe.
        revocation.replace("\n:-----", "\n-----"),
    )


def add_signing(home: Path, primary: str) -> str:
    """A new signing subkey of two years under a primary key in the home; its fingerprint. Raises ToolFailed."""
    made = _gnupg(home).add_subkey(primary, "", algorithm="ed25519", usage="sign", expire=SUBKEY_LASTS)
    return _fingerprint(made, "signing subkey")


def add_encryption(home: Path, primary: str) -> str:
    """A new encryption subkey under a primary key in the home; its fingerprint. Raises ToolFailed.

    It does not expire: what was encrypted to it must stay readable, and the primary key can revoke it.
    """
    made = _gnupg(home).add_subkey(primary, "", algorithm="cv25519", usage="encrypt", expire=0)
    return _fingerprint(made, "encryption subkey")


def public(home: Path, private: str, name: str) -> str:
    """The public half of an armored private key. Raises BadKey; `name` says in messages where it came from."""
    fingerprint = openpgp.facts(private, name).primary
    take(home, private, name)
    return export(home, "--export", fingerprint)


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


@lru_cache(maxsize=1)  # it asks gpg for its version each time, and one home serves all keys of a run
def _gnupg(home: Path):  # type: ignore[no-untyped-def]  # python-gnupg has no types
    import gnupg

    logging.getLogger("gnupg").setLevel(logging.WARNING)  # at DEBUG it logs the bytes of secret keys
    try:
        gpg = gnupg.GPG(gnupghome=str(home), env=process.environment({"GNUPGHOME": str(home)}))
    except OSError as error:
        raise ToolMissing("gpg, which makes OpenPGP keys, cannot be run", hint="install gnupg") from error
    gpg.encoding = "utf-8"  # its default is latin-1
    return gpg


def _fingerprint(result: object, what: str) -> str:
    # python-gnupg does not raise: an empty fingerprint is all that tells of a failure.
    fingerprint = getattr(result, "fingerprint", None)
    if not fingerprint:
        said = str(getattr(result, "stderr", "")).encode()
        raise ToolFailed(f"gpg made no {what}: {process.last_words(said)}")
    return str(fingerprint)


def export(home: Path, verb: str, *fingerprints: str) -> str:
    """Keys of the home, armored as one text. Raises ToolFailed."""
    done = run(home, "--armor", verb, *fingerprints)
    if not done.out:  # gpg ends with 0 when it exports nothing
        raise ToolFailed(f"gpg {verb} gave nothing for {' '.join(fingerprints)}: {process.last_words(done.err)}")
    return done.out.decode("ascii")


def take(home: Path, armored: str, name: str) -> None:
    """Bring keys or certificates into the home; `name` says where they came from. Raises BadKey."""
    try:
        run(home, "--import", feed=armored)
    except ToolFailed as failure:
        raise BadKey(f"{shown(name)} is refused by gpg: {failure.what}") from failure


def run(home: Path, *arguments: str, feed: str = "") -> process.Done:
    """gpg in the home, asking nothing. Raises ToolFailed."""
    # The empty line is the passphrase, of which there is none.
    return process.run([*_QUIET, *arguments], feed=b"\n" + feed.encode(), env={"GNUPGHOME": str(home)})
