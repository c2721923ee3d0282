"""The data key of a file, opened with the private keys at hand: whole, or put together from shares of it."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from town.sops import gpg, shamir
from town.sops.errors import BadSopsFile, NoKey
from town.sops.metadata import Group, Wrapped
from town.sops.values import KEY_BYTES
from town.terminal import shown

if TYPE_CHECKING:
    from town.sops.keys import Keys


def data_key(keys: "Keys", groups: Sequence[Group], threshold: int, name: str) -> bytes:
    """The data key (32 bytes): age entries first, for gpg may ask for a passphrase. Raises NoKey, BadSopsFile."""
    _refuse_services_only(groups, threshold, name)
    found = _Found(keys, KEY_BYTES + (1 if len(groups) > 1 else 0), threshold)
    for way in (found.by_age, found.by_gpg):
        for group in groups:
            found.take(group, way)
        if found.enough:
            return found.parts[groups[0]] if len(groups) == 1 else _combined(found, name)
    raise _no_key(keys, groups, threshold, found, name)


class _Found:
    """What was opened of which group, and why the rest was not."""

    def __init__(self, keys: "Keys", size: int, threshold: int) -> None:
        self.identities = _identities(keys)
        self.homes = keys.gnupg_homes
        self.size = size
        self.threshold = threshold
        self.parts: dict[Group, bytes] = {}
        self.refusals: list[str] = []

    @property
    def enough(self) -> bool:
        return len(self.parts) >= self.threshold

    def take(self, group: Group, way: Callable[[Wrapped], bytes | None]) -> None:
        """Open a group by one kind of key, if that is needed and can be done."""
        if self.enough or group in self.parts:
            return
        for one in group:
            if (part := way(one)) is not None:
                self.parts[group] = part
                return

    def by_age(self, one: Wrapped) -> bytes | None:
        """What an age entry holds for these identities."""
        if one.kind != "age" or not self.identities:
            return None
        import pyrage

        try:
            opened: bytes = pyrage.decrypt(one.enc.encode(), self.identities)
        except pyrage.DecryptError:
            return None
        return opened if len(opened) == self.size else None

    def by_gpg(self, one: Wrapped) -> bytes | None:
        """What an OpenPGP entry holds for the keys of these homes."""
        for home in self.homes if one.kind == "pgp" else ():
            found = gpg.decrypt(one.enc, home)
            if isinstance(found, bytes) and len(found) == self.size:
                return found
            self.refusals.append(found if isinstance(found, str) else f"the key for {shown(one.recipient)} is damaged")
        return None


def _identities(keys: "Keys") -> list[object]:
    import pyrage

    return [
        pyrage.x25519.Identity.from_str(one.material)
        if one.kind == "age"
        else pyrage.ssh.Identity.from_buffer(one.material.encode())
        for one in keys.secrets
    ]


def _combined(found: _Found, name: str) -> bytes:
    try:
        return shamir.combine(list(found.parts.values()))
    except ValueError:
        raise BadSopsFile(
            f"{shown(name)}: the shares of its data key do not belong together",
            hint="bring back the last good version of the file",
        ) from None


def _refuse_services_only(groups: Sequence[Group], threshold: int, name: str) -> None:
    """A file that only key services can open; which of them, the message says."""
    closed = [group for group in groups if all(one.kind not in ("age", "pgp") for one in group)]
    if len(groups) - len(closed) < threshold:
        kinds = ", ".join(sorted({one.kind for group in closed for one in group}))
        where = "a group of its keys" if len(groups) > 1 else "it"
        raise BadSopsFile(
            f"{shown(name)}: only key services ({kinds}) can open {where}, which is not supported",
            hint="add an age or OpenPGP recipient to it: sops updatekeys",
        )


def _no_key(keys: "Keys", groups: Sequence[Group], threshold: int, found: _Found, name: str) -> NoKey:
    recipients = ", ".join(dict.fromkeys(shown(one.recipient) for group in groups for one in group))
    several = f" in {len(groups)} groups, of which {threshold} are needed and {len(found.parts)} could be opened"
    looked = ", ".join(map(shown, keys.looked)) or "no place"
    notes = "".join(f"; {note}" for note in dict.fromkeys([*keys.notes, *found.refusals]))
    return NoKey(
        f"no key at hand opens {shown(name)}: it is encrypted to {recipients}{several if len(groups) > 1 else ''}; "
        f"looked in {looked}{notes}",
        hint=keys.cure or "use one of those keys, or let who has one add a recipient: sops updatekeys",
    )
