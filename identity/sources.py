"""Where this machine finds its secrets: the SOPS file with the host's key, and what systemd hands over as credentials.

Credentials (systemd.exec(5), LoadCredential=) are files below $CREDENTIALS_DIRECTORY that only the service sees:
nuketown.host-key, in place of town.host_key; nuketown.secrets, in place of town.sops_file; nuketown.AGENT.NAME, in
place of a value of secrets.extra.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from identity import lost
from identity.places import Places
from identity.vault import Vault
from town import files, sops
from town.failure import Failure
from town.sops.keys import refuse_shared
from town.spec import Agent, HostKey, Spec
from town.terminal import shown

HOST_KEY, SECRETS = "nuketown.host-key", "nuketown.secrets"
_LIMIT = 1 << 20  # bytes
_CURE = "let who has one of those keys add this machine's: identity host init prints how"


class NoSecret(Failure):
    """The secrets file has no value at a path that the spec names."""


class Closed(Failure):
    """No value of the secrets file can be had; `cause` says why. The same for every agent."""

    def __init__(self, cause: Failure) -> None:
        super().__init__(cause.what, hint=cause.hint)
        self.cause = cause


def credential(name: str) -> Path | None:
    """The credential of that name, where systemd handed one over. Raises Unsafe when others could have put it there."""
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    if not directory or not (path := Path(directory, name)).exists():
        return None
    refuse_shared(path)
    return path


def host_keys(host_key: HostKey) -> sops.Keys:
    """The machine's private keys. Raises Unsafe, files.Unreadable, sops.NoKey."""
    given = credential(HOST_KEY)
    if given is None:
        own = sops.Keys.of_host(host_key)
        return replace(own, cure=own.cure or _CURE)
    if files.read_bounded(given, _LIMIT).lstrip().startswith(b"-----BEGIN"):
        return sops.Keys.of_ssh_file(given)
    return sops.Keys.of_age_file(given)


@dataclass
class Source:
    """The secrets of a town. `known`: the lock names keys that the file held."""

    vault: Vault
    known: bool
    where: Places
    _closed: Closed | None = None

    @classmethod
    def of(cls, spec: Spec, where: Places, *, known: bool) -> "Source":
        """The secrets file, to be opened with the host's keys alone: at boot there are no others. Opens nothing yet."""
        path = credential(SECRETS) or where.path(where.secrets)
        return cls(Vault(str(where.secrets), path, lambda: host_keys(spec.town.host_key)), known, where)

    def value(self, path: str, cure: Callable[[str], str]) -> str:
        """A value in clear; `cure` is told the file's name. Raises NoSecret, sops.BadSopsFile; Closed for the file."""
        self._open()
        if path not in self.vault.names:
            name = self.vault.name
            raise NoSecret(f"{shown(name)} has no value at {shown(path)}", hint=cure(name))
        return self.vault.get(path)

    def extra_value(self, agent: Agent, name: str, path: str) -> bytes:
        """A value of `secrets.extra`. Raises as `value` does, and files.Unreadable."""
        if (given := credential(f"nuketown.{agent.name}.{name}")) is not None:
            return files.read_bounded(given, _LIMIT)
        return self.value(path, lambda _: f"put it there with: identity secret set {agent.name} {name}").encode()

    def _open(self) -> None:
        """Raises Closed, each time for the same reason: a file is not tried again for each value."""
        if self._closed is None and "document" not in vars(self.vault):
            try:
                self._read()
            except Failure as failure:
                self._closed = Closed(failure)
        if self._closed is not None:
            raise self._closed

    def _read(self) -> None:
        if self.vault.data is None:
            what = f"{shown(str(self.vault.path))} is not there"
            raise NoSecret(what, hint=lost.file(self.vault.name, self.known))
        _ = self.vault.names, self.vault.document
