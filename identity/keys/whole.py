"""OpenPGP keys that exist already: looked at, given the subkeys that are missing, taken apart as gen does its own.

Everything happens in a throw-away home (identity.keys.gpg).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from identity.halves import BadKey
from identity.keys import gpg, openpgp
from identity.keys.armor import armored, dearmored
from identity.keys.gpg import NewKey
from identity.keys.openpgp import Part
from town import process
from town.failure import ToolFailed
from town.terminal import shown

_PRIVATE, _PUBLIC = b"-----BEGIN PGP PRIVATE KEY BLOCK-----", b"-----BEGIN PGP PUBLIC KEY BLOCK-----"
# gpg asks for a revocation certificate in words, even with --batch: yes, no reason, no comment, yes.
_ANSWERS = b"y\n0\n\ny\n"
_ASKED = ["gpg", "--no-tty", "--quiet", "--yes", "--pinentry-mode", "loopback", "--command-fd", "0", "--status-fd", "2"]


@dataclass(frozen=True, slots=True, repr=False)
class Brought:
    """A whole OpenPGP key that somebody brings, with no passphrase: the text armored, and its parts."""

    text: str
    name: str  # of the file, for messages
    parts: tuple[Part, ...]

    @property
    def primary(self) -> str:
        """The primary key's fingerprint."""
        return self.parts[0].fingerprint

    def usable(self, now: datetime) -> Iterator[Part]:
        """The subkeys that can be used now, the newest first."""
        for part in sorted(self.parts[1:], key=lambda part: part.created, reverse=True):
            if part.secret and not part.revoked and (part.expires is None or part.expires > now):
                yield part

    def signing(self, now: datetime) -> Part | None:
        """The signing subkey that would be used from now on; None when the newest one cannot be."""
        signs = [part for part in self.parts[1:] if part.signs and not part.revoked]
        newest = max(reversed(signs), key=lambda part: part.created, default=None)
        return newest if newest in list(self.usable(now)) else None


def brought(data: bytes, name: str) -> Brought:
    """A key as `gpg --export-secret-keys` writes it, armored or not. Raises BadKey, with the cure."""
    text = _armored(data, name)
    keys = openpgp.keys(text, name)
    if len(keys) != 1:
        raise BadKey(f"{shown(name)} holds {len(keys)} OpenPGP keys", hint=_export(keys[0][0].fingerprint))
    parts = keys[0]
    if not parts[0].secret:
        raise BadKey(
            f"{shown(name)} holds subkeys without their primary key, which belongs into the recovery file",
            hint=_export(parts[0].fingerprint),
        )
    if any(part.protected for part in parts):
        cure = f"take it off in gpg's own keyring, gpg --passwd {parts[0].fingerprint}, and export it again"
        raise BadKey(f"the private keys in {shown(name)} have a passphrase", hint=cure)
    if parts[0].revoked:
        raise BadKey(f"the OpenPGP key in {shown(name)} was revoked", hint="let identity gen make a new one")
    return Brought(text, name, tuple(parts))


def taken(home: Path, key: Brought, now: datetime, *, encryption: bool) -> NewKey:
    """A brought key apart: the agent's subkeys, the public half, the whole, and a revocation certificate.

    A signing subkey of two years is added where the newest cannot be used, an encryption subkey where one is wanted and
    there is none. Raises BadKey, ToolFailed.
    """
    gpg.take(home, key.text, key.name)
    _refuse_expired(home, key)
    signs = key.signing(now)
    chosen = [gpg.add_signing(home, key.primary) if signs is None else signs.fingerprint]
    if encryption:
        there = next((part for part in key.usable(now) if part.encrypts), None)
        chosen.append(gpg.add_encryption(home, key.primary) if there is None else there.fingerprint)
    return NewKey(
        gpg.export(home, "--export-secret-subkeys", *(f"{one}!" for one in chosen)),
        gpg.export(home, "--export", key.primary),
        gpg.export(home, "--export-secret-keys", key.primary),
        _revocation(home, key.primary),
    )


def with_encryption(home: Path, whole: tuple[str, str], private: tuple[str, str], public: tuple[str, str]) -> NewKey:
    """A key of an agent with one subkey more, for encryption; each text with its name. No new revocation certificate.

    What the agent had it keeps; nothing that stands in `public` is lost. Raises BadKey, ToolFailed.
    """
    for text, name in (whole, private, public):
        gpg.take(home, text, name)
    primary = openpgp.facts(*private).primary
    kept = [part.fingerprint for part in openpgp.parts(*private) if part.secret and not part.primary]
    new = gpg.add_encryption(home, primary)
    return NewKey(
        gpg.export(home, "--export-secret-subkeys", *(f"{one}!" for one in (*kept, new))),
        gpg.export(home, "--export", *(key[0].fingerprint for key in openpgp.keys(*public))),
        gpg.export(home, "--export-secret-keys", *(key[0].fingerprint for key in openpgp.keys(*whole))),
        "",
    )


def user_ids(home: Path, primary: str) -> list[str]:
    """The names and addresses of a key in the home that are good, as gpg writes them (doc/DETAILS, field 10)."""
    return [fields[9] for fields in _listed(home, primary) if fields[0] == "uid" and fields[1] not in ("r", "e", "i")]


def _armored(data: bytes, name: str) -> str:
    if data.lstrip().startswith(_PUBLIC):
        raise BadKey(f"{shown(name)} holds a public key", hint="export the private one: gpg --export-secret-keys")
    if data[:1] >= b"\x80":  # RFC 4880, 4.2: the first bit of every packet is set
        return armored(data)
    text = data.decode("ascii", "replace")
    if not data.lstrip().startswith(_PRIVATE):
        raise BadKey(f"{shown(name)} is no OpenPGP key", hint="export one: gpg --armor --export-secret-keys NAME")
    if text.count("-----BEGIN ") > 1:
        raise BadKey(f"{shown(name)} holds more than one block", hint="leave the private key alone in it")
    try:
        return armored(dearmored(text))
    except ValueError:
        raise BadKey(f"{shown(name)} is no OpenPGP key that can be read: it is cut off or damaged") from None


def _export(fingerprint: str) -> str:
    return f"export that one key, whole, from the keyring that has it: gpg --armor --export-secret-keys {fingerprint}"


def _refuse_expired(home: Path, key: Brought) -> None:
    # Of the primary key only gpg knows it: the last self-signature of its user ids tells.
    state = next(fields[1] for fields in _listed(home, key.primary) if fields[0] == "sec")
    if state in ("e", "r", "i", "n"):
        raise BadKey(
            f"the OpenPGP key in {shown(key.name)} cannot be used any more: gpg calls it {shown(state)!r}",
            hint=f"if it has expired, first: gpg --quick-set-expire {key.primary} 0 - and export it again",
        )


def _listed(home: Path, primary: str) -> list[list[str]]:
    argv = ["gpg", "--batch", "--no-tty", "--with-colons", "--list-secret-keys", primary]
    done = process.run(argv, env={"GNUPGHOME": str(home)})
    return [line.split(":") for line in done.out.decode("utf-8", "replace").splitlines()]


def _revocation(home: Path, primary: str) -> str:
    done = process.run([*_ASKED, "--armor", "--gen-revoke", primary], feed=_ANSWERS, env={"GNUPGHOME": str(home)})
    if not done.out.startswith(_PUBLIC):
        raise ToolFailed(f"gpg made no revocation certificate for {primary}: {process.last_words(done.err)}")
    return done.out.decode("ascii")
