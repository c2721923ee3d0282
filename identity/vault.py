"""A SOPS file on its way: what it holds by name (no key needed), what it holds in clear, what is to be added."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from town import files, sops
from town.failure import Failure, Unsafe
from town.sops import layout, metadata
from town.spec import Spec
from town.terminal import shown

_LIMIT = 8 << 20  # bytes
_CURE = "name the file with the age key of a human of the spec in $SOPS_AGE_KEY_FILE, as for sops"


class Unproven(Failure):
    """What was encrypted does not decrypt to what was meant. Nothing is written."""


@dataclass
class Vault:
    """One SOPS file: `name` as the spec writes it, `path` where it lies, `keys` looks for what may open it."""

    name: str
    path: Path
    keys: Callable[[], sops.Keys]
    added: dict[str, str] = field(default_factory=dict)
    removed: set[str] = field(default_factory=set)  # paths that shall go; one that is added too is replaced
    proven: bool = True  # False once something was encrypted that no key at hand could decrypt again

    @cached_property
    def data(self) -> bytes | None:
        """The file's bytes, or None when there is none. Raises files.Unreadable."""
        return files.read_bounded(self.path, _LIMIT) if self.path.exists() else None

    @cached_property
    def names(self) -> frozenset[str]:
        """The paths (`ada/ssh-key`) of its values, read without a key. Raises sops.BadSopsFile."""
        return frozenset() if self.data is None else frozenset(_paths(sops.outline(self.data, str(self.path))))

    @cached_property
    def document(self) -> sops.Document:
        """The file, opened. Raises sops.NoKey, sops.Tampered, sops.BadSopsFile."""
        assert self.data is not None
        return sops.load(self.data, str(self.path), self.keys())

    @property
    def opens(self) -> bool:
        """Whether there is a file that an age or SSH key at hand opens: a gpg keyring might ask for a passphrase.

        Raises sops.Tampered, sops.BadSopsFile.
        """
        if self.data is None:
            return False
        if "document" not in vars(self):
            try:
                self.document = sops.load(self.data, str(self.path), replace(self.keys(), gnupg_homes=()))
            except sops.NoKey:
                return False
        return True

    def get(self, path: str) -> str:
        """A value in clear. Raises as `document` does, and BadSopsFile when the value is no text."""
        value = self.document.get(path)
        if not isinstance(value, str):
            raise sops.BadSopsFile(f"{shown(str(self.path))}: {shown(path)} is no text")
        return value

    @property
    def modified(self) -> datetime | None:
        """When the file was last written, as it says itself; None when there is none. Raises sops.BadSopsFile."""
        if self.data is None:
            return None
        said = metadata.read(layout.root(self.data, str(self.path)), str(self.path)).sealed_at
        try:
            return datetime.fromisoformat(said).astimezone(UTC)
        except OverflowError:
            raise sops.BadSopsFile(f"{shown(str(self.path))} has a lastmodified out of all time") from None

    def sealed(self, recipients: tuple[str, ...], now: datetime, *, fresh: bool = False) -> str:
        """The whole file with what was added and without what was removed.

        `fresh`: with a new data key, for those who can open it now. Decrypted again and compared where a key at hand
        can do so. Raises as `document` does, and sops.BadRecipient.
        """
        if self.data is None:
            data = sops.create(_tree(self.added), recipients, now=now, name=self.path.name)
        else:
            data = sops.update(self.document, self.added, now=now, remove=sorted(self.removed))
        if fresh and self.data is not None and data != self.data:
            data = self._fresh(data, now)
        self._prove(data)
        return data.decode()

    def _fresh(self, data: bytes, now: datetime) -> bytes:
        groups, threshold = sops.groups_of(data, str(self.path))
        every = list(dict.fromkeys(one for group in groups for one in group))
        document = sops.load(data, str(self.path), self.keys())
        several = len(groups) > 1
        try:
            return sops.rewrap(
                document, every, now=now, fresh=True,
                groups=groups if several else None, threshold=threshold if several else None,
            )  # fmt: skip
        except sops.BadRecipient as error:  # of a key service, say
            raise sops.BadRecipient(
                f"{shown(str(self.path))} holds no key that keys.lock.toml names, so it needs a new data key, and that "
                f"cannot be made for all who can open it: {error.what}",
                hint="make the file one for the recipients that are named beside it: identity recipients sync",
            ) from error

    def rewrapped(
        self,
        recipients: tuple[str, ...],
        now: datetime,
        *,
        fresh: bool,
        groups: tuple[tuple[str, ...], ...] | None = None,
        threshold: int | None = None,
    ) -> str:
        """The whole file as it is, for other recipients; `fresh` when anyone leaves (see sops.rewrap).

        Raises as `document` does, and BadRecipient.
        """
        data = sops.rewrap(self.document, recipients, now=now, fresh=fresh, groups=groups, threshold=threshold)
        self._prove(data, changed=False)
        return data.decode()

    def _prove(self, data: bytes, *, changed: bool = True) -> None:
        try:
            read = sops.load(data, str(self.path), self.keys())
        except sops.NoKey:
            self.proven = False
            return
        # Every value, the old ones too: an update must not lose what was there.
        if dict(_leaves(read.tree)) != (self._wanted() if changed else dict(_leaves(self.document.tree))):
            raise Unproven(
                f"what was encrypted for {shown(str(self.path))} does not decrypt to what was meant",
                hint="this is an error of this program: report it",
            )

    def _wanted(self) -> dict[str, Any]:
        """Every value that the file shall hold, by path."""
        old = {} if self.data is None else dict(_leaves(self.document.tree))
        gone = tuple(f"{path}/" for path in self.removed)
        return {path: value for path, value in old.items() if not f"{path}/".startswith(gone)} | self.added


def vaults(spec: Spec, root: Path) -> tuple[Vault, Vault]:
    """The town's secrets and its recovery file, with the keys of this person and of this host."""
    keys = cache(lambda: replace(sops.Keys.of_person() | _of_host(spec), cure=_CURE))
    secrets, recovery = spec.town.sops_file, spec.town.recovery_file
    return Vault(str(secrets), root / secrets, keys), Vault(str(recovery), root / recovery, keys)


def _of_host(spec: Spec) -> sops.Keys:
    try:
        return sops.Keys.of_host(spec.town.host_key)
    except (files.Unreadable, Unsafe, sops.NoKey):
        return sops.Keys()  # a person who may not read the host's key uses their own


def _tree(values: Mapping[str, str]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, value in values.items():
        *above, last = path.split("/")
        place = tree
        for key in above:
            place = place.setdefault(key, {})
        place[last] = value
    return tree


def _leaves(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{above}{key}/")
        else:
            yield f"{above}{key}", value


def _paths(tree: Mapping[str, Any]) -> Iterator[str]:
    yield from (path for path, value in _leaves(tree) if value not in ("", None))
