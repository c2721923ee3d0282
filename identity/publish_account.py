"""What stands in a person's account at GitHub: three lists of public keys, each known by its fingerprint.

Source: GitHub's REST API, version 2022-11-28: /user, /user/keys, /user/ssh_signing_keys, /user/gpg_keys. A title says
nothing: whoever holds the account can give any key any title.
"""

import base64
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from identity.halves import BadKey
from identity.keys import openpgp
from identity.publish_wire import Need, NoApi, Wire
from town.failure import Failure
from town.terminal import shown

_PAGES, _PAGE = 100, 100  # so many pages at most, of so many keys
_LOGIN = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]{0,99}")


class NotKept(Failure):
    """The account says that it took a key, and shows another one."""


@dataclass(frozen=True, slots=True)
class Shelf:
    """One of the account's lists: what its keys are called, where it is, and what a token needs for it."""

    noun: str
    path: str
    need: Need

    def __str__(self) -> str:
        return self.noun


SSH = Shelf("SSH key", "/user/keys", Need("admin:public_key", "Git SSH keys: write"))
SIGNING = Shelf("SSH signing key", "/user/ssh_signing_keys", Need("admin:ssh_signing_key", "SSH signing keys: write"))
GPG = Shelf("OpenPGP key", "/user/gpg_keys", Need("admin:gpg_key", "GPG keys: write"))


@dataclass(frozen=True, slots=True)
class Standing:
    """A key that stands in the account: SHA256:… of SSH, the primary's upper-case hex of OpenPGP; empty: unreadable."""

    number: int
    fingerprint: str
    packets: frozenset[tuple[int, bytes]] = frozenset()  # of OpenPGP; empty when the account does not keep the upload
    parts: frozenset[str] = frozenset()  # fingerprints of the primary key and its subkeys
    emails: tuple[tuple[str, bool], ...] = ()  # with whether the account has proved each


@dataclass(frozen=True, slots=True, repr=False)
class Account:
    """The account that a token acts in."""

    wire: Wire
    login: str

    def __str__(self) -> str:
        return f"{self.wire.api}, account {self.login}"

    def keys(self, shelf: Shelf) -> list[Standing]:
        """Every key of a list, over all its pages. Raises as Wire.ask does."""
        return [_standing(shelf, item, self.wire) for item in self._items(shelf)]

    def _items(self, shelf: Shelf) -> Iterator[Any]:
        for page in range(1, _PAGES + 1):
            # By number, not by the address in the answer: the token goes to no address that somebody sends.
            answer = self.wire.ask("GET", f"{shelf.path}?per_page={_PAGE}&page={page}", shelf.need)
            if not isinstance(answer.value, list) or len(answer.value) > _PAGE:
                raise _strange(self.wire)
            yield from answer.value
            if not answer.more:
                return
        raise NoApi(f"{self.wire.api} lists {shelf}s without end: {_PAGES} pages were read")

    def add(self, shelf: Shelf, title: str, text: str, fingerprint: str) -> Standing:
        """Upload a public key. Raises NotKept when another one came back, and as Wire.ask does."""
        fields = {"name": title, "armored_public_key": text} if shelf is GPG else {"title": title, "key": text}
        kept = _standing(shelf, self.wire.ask("POST", shelf.path, shelf.need, fields).value, self.wire)
        if kept.fingerprint != fingerprint:
            raise NotKept(
                f"{self} was sent the {shelf} {fingerprint} and keeps {kept.fingerprint or 'what cannot be read'}",
                hint="look at the account's keys in a browser and remove what is not the agent's",
            )
        return kept

    def remove(self, shelf: Shelf, number: int) -> None:
        """Take a key out. Raises as Wire.ask does."""
        self.wire.ask("DELETE", f"{shelf.path}/{number}", shelf.need)


def account(wire: Wire) -> Account:
    """Whose token it is. Raises as Wire.ask does."""
    value = wire.ask("GET", "/user", SSH.need).value
    login = value.get("login") if isinstance(value, dict) else None
    if not isinstance(login, str) or not _LOGIN.fullmatch(login) or wire.token.text in login:
        raise _strange(wire)
    return Account(wire, login)


def _strange(wire: Wire) -> NoApi:
    return NoApi(f"{wire.api} answers with something else than GitHub's API has", hint="look at what --api names")


def _standing(shelf: Shelf, item: Any, wire: Wire) -> Standing:
    if not isinstance(item, dict) or type(item.get("id")) is not int or item["id"] < 0:
        raise _strange(wire)
    if shelf is GPG:
        return _pgp(item)
    return Standing(item["id"], ssh_fingerprint(str(item.get("key", ""))))


def ssh_fingerprint(line: str) -> str:
    """`SHA256:…` of a public key of any type, as `ssh-keygen -l` prints it; empty when the line is no key."""
    try:
        blob = base64.b64decode(line.split()[1], validate=True)
    except (IndexError, ValueError):
        return ""
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def _pgp(item: dict[str, Any]) -> Standing:
    # `raw_key` is what was uploaded; older entries have none, only the bare packet of each key (`public_key`).
    raw = item.get("raw_key")
    emails = tuple(_emails(item.get("emails")))
    try:
        if isinstance(raw, str) and raw:
            parts, packets = openpgp.parts(raw, "a key"), frozenset(openpgp.packets(raw, "a key"))
            return Standing(
                item["id"], parts[0].fingerprint, packets, frozenset(part.fingerprint for part in parts), emails
            )
        bare = [_bare(one) for one in (item, *_dicts(item.get("subkeys")))]
    except BadKey:  # of a kind that is not ours
        return Standing(item["id"], "")
    return Standing(item["id"], bare[0], frozenset(), frozenset(bare), emails)


def _bare(item: dict[str, Any]) -> str:
    begin, end = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n", "\n-----END PGP PUBLIC KEY BLOCK-----\n"
    return openpgp.parts(f"{begin}{item.get('public_key')}{end}", "a key")[0].fingerprint


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _emails(value: Any) -> Iterator[tuple[str, bool]]:
    for one in _dicts(value):
        yield shown(str(one.get("email", ""))), one.get("verified") is True
