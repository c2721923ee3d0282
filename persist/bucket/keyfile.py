"""`keys/<number>`: a SOPS file that holds the town's keys. A new one is written beside the old; the highest counts.

SOPS seals values, not the list of recipients, and does not say who wrote a file. So the number and the recipients are
sealed values too, and whether the keys are the town's, the lock beside the spec says (`persist.bucket.lock`).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from persist.bucket.keys import SIZE, TownKey
from persist.store import ObjectMissing, Store, StoreDamaged, whole
from town.terminal import shown

if TYPE_CHECKING:
    from town.sops import Document, Keys

PREFIX = "keys/"
KEY = "store-key"  # in the SOPS file: the newest key; those of earlier epochs have `-<epoch>` behind it
NUMBER, RECIPIENTS = "number", "recipients"
LIMIT = 1 << 20  # bytes of a SOPS file
_NUMBER = re.compile(r"[0-9a-f]{16}")
_EARLIER = re.compile(rf"{KEY}-([0-9a-f]{{16}})")
_EPOCHS = 4096  # at most


@dataclass(frozen=True, slots=True)
class KeyFile:
    """What a key file holds. `recipients`: who it was sealed for, as its writer said; `listed`: as it stands there."""

    number: int
    key: TownKey
    earlier: tuple[TownKey, ...] = ()  # of earlier epochs, oldest first
    recipients: tuple[str, ...] = ()
    listed: tuple[str, ...] = field(default=(), compare=False)
    says: str = field(default="", compare=False)  # its number, as its writer sealed it

    @property
    def name(self) -> str:
        """The object."""
        return name(self.number)

    def check_number(self) -> None:
        """Raise StoreDamaged when it was written under another number than it lies under."""
        if self.says != f"{self.number:016x}":
            raise StoreDamaged(
                f"{self.name} in the store was written under another name: somebody put an older key file there",
                hint="look who wrote it, then remove it: the one below it counts again",
            )

    @property
    def tree(self) -> dict[str, str]:
        """The values that the SOPS file seals."""
        epochs = {f"{KEY}-{old.epoch:016x}": old.secret.hex() for old in self.earlier}
        told = {NUMBER: f"{self.number:016x}", RECIPIENTS: " ".join(self.recipients)}
        return {KEY: self.key.secret.hex(), **epochs, **told}


def name(number: int) -> str:
    """The object of the key file of that number, 1 or more."""
    return f"{PREFIX}{number:016x}"


def numbers(store: Store) -> list[int]:
    """The numbers of all key files, ascending. Raises StoreDamaged for a name that is none."""
    found = [one.key.removeprefix(PREFIX) for one in store.list(PREFIX)]
    for text in found:
        if not _NUMBER.fullmatch(text) or int(text, 16) == 0:
            raise StoreDamaged(
                f"{PREFIX} in the store holds {shown(text)}, which is no key file",
                hint="nuketown did not write it: look at it, then remove it",
            )
    return sorted(int(text, 16) for text in found)


def newest(store: Store) -> tuple[int, bytes]:
    """The number and the bytes of the key file that counts. Raises ObjectMissing, StoreDamaged."""
    found = numbers(store)
    if not found:
        raise ObjectMissing(
            "the store has no key any more",
            hint=f"put {PREFIX}<number> back from a copy of the store, or from store/key-<number> in the state "
            "directory of a machine of this town",
        )
    return found[-1], whole(store, name(found[-1]), LIMIT)


def sealed(file: KeyFile, now: datetime) -> bytes:
    """The object: a SOPS file for `file.recipients`. Raises BadRecipient."""
    from town import sops

    return sops.create(file.tree, file.recipients, now=now)


def opened(data: bytes, number: int, keys: "Keys") -> KeyFile:
    """What a key file of that number holds. Raises StoreDamaged, and what sops raises: BadSopsFile, NoKey, Tampered.

    Whether its keys are the town's is not asked here.
    """
    from town import sops

    try:
        document = sops.load(data, f"the store's key file {name(number)}", keys)
    except sops.NoKey as failure:
        raise sops.NoKey(failure.what, hint=_let_in(keys)) from failure
    earlier = _earlier(document.tree, number)
    return KeyFile(
        number,
        parsed(document.get(KEY), len(earlier) + 1, number),
        earlier,
        _recipients(document),
        tuple(map(_canonical, document.recipients)),
        document.get(NUMBER) or "",
    )


def _let_in(keys: "Keys") -> str:
    """How to be among those who open it. Nobody edits an object of the store: the next key file is for one more."""
    first = f"{keys.cure}; then, " if keys.cure else "use one of those keys, or, "
    return f"{first}where somebody or a machine can open it: persist key add RECIPIENT"


def _earlier(tree: Mapping[str, object], number: int) -> tuple[TownKey, ...]:
    found = {int(match[1], 16): value for key, value in tree.items() if (match := _EARLIER.fullmatch(key))}
    if len(found) >= _EPOCHS or sorted(found) != list(range(1, len(found) + 1)):
        raise StoreDamaged(f"the store's key file {name(number)} opens, but lacks keys of earlier epochs")
    return tuple(parsed(value, epoch, number) for epoch, value in sorted(found.items()))


def parsed(text: object, epoch: int, number: int) -> TownKey:
    """A key as the SOPS file holds it: 64 hex digits. Raises StoreDamaged."""
    if not isinstance(text, str) or not re.fullmatch(rf"[0-9a-f]{{{2 * SIZE}}}", text):
        raise StoreDamaged(f"the store's key file {name(number)} opens, but holds no key of 256 bits")
    return TownKey(bytes.fromhex(text), epoch)


def _recipients(document: "Document") -> tuple[str, ...]:
    return tuple((document.get(RECIPIENTS) or "").split())


def _canonical(recipient: str) -> str:
    """A recipient as a file lists it, in the form in which it is compared; one of another kind as it stands."""
    from town import sops

    try:
        return sops.canonical(recipient)
    except sops.BadRecipient:
        return recipient
