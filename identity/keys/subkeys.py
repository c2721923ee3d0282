"""What the primary key of the recovery file does for an OpenPGP key later: subkeys made, prolonged and revoked.

Each function takes what is published (gpg.asc: every subkey that ever was, and primary keys that were revoked) and
gives all of it back, so that what was signed once can still be judged from that file alone.
"""

import time
from dataclasses import dataclass, replace
from pathlib import Path

from identity.halves import BadKey
from identity.keys import gpg, openpgp
from town import process
from town.failure import ToolFailed
from town.terminal import shown

_SKEW = 5.0  # seconds that are waited for
_EDIT = ["gpg", "--no-tty", "--quiet", "--pinentry-mode", "loopback", "--status-fd", "2", "--command-fd", "0"]


@dataclass(frozen=True, slots=True, repr=False)
class Changed:
    """An OpenPGP key after a change, each armored. `subkeys` is for the agent: "" where it has none left."""

    subkeys: str
    public: str
    whole: str


def rotated(home: Path, whole: str, published: str) -> Changed:
    """A new signing subkey of two years, which the agent gets instead of those before it.

    The older ones no longer expire: once one has, gpg calls all that it ever signed expired, and git refuses it.
    Subkeys of other uses that expire get two more years. Raises BadKey, ToolFailed.
    """
    key = _taken(home, whole, published)
    primary = key[0].fingerprint
    _refuse_future(key)
    _wait_past(max(part.created.timestamp() for part in key))
    gpg.add_signing(home, primary)
    for part in (part for part in key[1:] if not part.revoked):
        if part.expires is not None:
            _expire(home, primary, "never" if part.signs else gpg.SUBKEY_LASTS, part.fingerprint)
    return _given(home, primary, published)


def prolonged(home: Path, whole: str, published: str) -> Changed:
    """The same subkeys, for two years from now. Raises BadKey, ToolFailed."""
    key = _taken(home, whole, published)
    primary, last = key[0].fingerprint, _last(key)
    for part in key[1:]:
        if part.expires is not None and not part.revoked and (part.fingerprint == last or not part.signs):
            _expire(home, primary, gpg.SUBKEY_LASTS, part.fingerprint)
    return _given(home, primary, published)


def without_subkey(home: Path, whole: str, published: str, subkey: str) -> Changed:
    """One signing subkey revoked; what the others signed stays as it is. Raises BadKey, ToolFailed."""
    primary = _taken(home, whole, published)[0].fingerprint
    # Reason 0, none, and no text. GnuPG has no --quick- command for it.
    said = [f"key {subkey}", "revkey", "y", "0", "", "y", "save"]
    process.run([*_EDIT, "--edit-key", primary], feed="\n".join([*said, ""]).encode(), env={"GNUPGHOME": str(home)})
    changed = _given(home, primary, published)
    key = next(key for key in openpgp.keys(changed.public, "gpg.asc") if key[0].fingerprint == primary)
    if not any(part.fingerprint == subkey and part.revoked for part in key):
        raise ToolFailed(f"gpg did not revoke the subkey {subkey}")
    return changed


def revoked(home: Path, whole: str, published: str, certificate: str, name: str) -> Changed:
    """The whole key revoked by its certificate, which is that at `name`. Raises BadKey, ToolFailed."""
    primary = _taken(home, whole, published)[0].fingerprint
    gpg.take(home, certificate, name)
    changed = _given(home, primary, published, agent=False)
    if any(key[0].fingerprint == primary and not key[0].revoked for key in openpgp.keys(changed.public, "gpg.asc")):
        raise BadKey(f"{shown(name)} does not revoke the OpenPGP key {primary}")
    return changed


def succeeded(home: Path, name: str, email: str, published: str, *, encryption: bool) -> gpg.NewKey:
    """A new key where those before it were revoked; `public` of it holds them too. Raises BadKey, ToolFailed."""
    gpg.take(home, published, "gpg.asc")
    made = gpg.generate(home, name, email, encryption=encryption)
    before = [key[0].fingerprint for key in openpgp.keys(published, "gpg.asc")]
    primary = openpgp.facts(made.subkeys, "the new key").primary
    return replace(made, public=gpg.export(home, "--export", *before, primary))


def _taken(home: Path, whole: str, published: str) -> list[openpgp.Part]:
    """The key as the home has it now: of the recovery file, with all subkeys that were published."""
    (key,) = openpgp.keys(whole, "the key in the recovery file")
    _refuse_future(key)
    gpg.take(home, published, "gpg.asc")
    gpg.take(home, whole, "the key in the recovery file")
    if not key[0].secret:
        raise BadKey("the key in the recovery file lacks the private primary key")
    (merged,) = openpgp.keys(gpg.export(home, "--export", key[0].fingerprint), "gpg.asc")
    return merged


def _given(home: Path, primary: str, published: str, *, agent: bool = True) -> Changed:
    every = dict.fromkeys([*(key[0].fingerprint for key in openpgp.keys(published, "gpg.asc")), primary])
    public = gpg.export(home, "--export", *every)
    key = next(key for key in openpgp.keys(public, "gpg.asc") if key[0].fingerprint == primary)
    last = _last(key)
    # The exclamation mark: this subkey and not its key. Older signing subkeys leave the agent.
    wanted = [f"{p.fingerprint}!" for p in key[1:] if not p.revoked and (p.fingerprint == last or not p.signs)]
    return Changed(
        gpg.export(home, "--export-secret-subkeys", *wanted) if agent and last is not None else "",
        public,
        gpg.export(home, "--export-secret-keys", primary),
    )


def _last(key: list[openpgp.Part]) -> str | None:
    """The signing subkey in use: the last that was made, unless it was revoked."""
    signing = openpgp.signing(key)
    newest = max(reversed(signing), key=lambda part: part.created, default=None)
    return None if newest is None or newest.revoked else newest.fingerprint


def _expire(home: Path, primary: str, when: str, subkey: str) -> None:
    gpg.run(home, "--quick-set-expire", primary, when, subkey)


def _refuse_future(key: list[openpgp.Part]) -> None:
    made = max(part.created for part in key)
    if made.timestamp() > time.time() + _SKEW:
        raise BadKey(
            f"the newest subkey was made on {made:%Y-%m-%d at %H:%M:%S} UTC, which this machine has yet to reach",
            hint="set its clock: gpg takes the newest subkey, and a new one would be older",
        )


def _wait_past(second: float) -> None:
    # gpg takes the newest subkey by a time in seconds: of two that are equally old it would take either.
    while time.time() < second + 1:
        time.sleep(0.02)
