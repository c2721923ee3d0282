"""The public facts about an agent's keys: what documents, the lock and checks speak of."""

import base64
import hashlib
from dataclasses import dataclass
from datetime import datetime

from town.failure import Failure
from town.terminal import shown


class BadKey(Failure):
    """A text that should be a key is none, or not one of the kind that belongs there."""


@dataclass(frozen=True, slots=True)
class SshKey:
    """A public ed25519 key: `ssh-ed25519 AAAA…`, without a comment."""

    public: str

    @property
    def fingerprint(self) -> str:
        """As `ssh-keygen -l` prints it: SHA256:… (RFC 4253 blob, base64 without padding)."""
        digest = hashlib.sha256(base64.b64decode(self.public.split()[1])).digest()
        return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


@dataclass(frozen=True, slots=True)
class GpgKey:
    """An OpenPGP key: fingerprints in upper-case hex, times in UTC; `expires` is the signing subkey's."""

    primary: str
    signing: str
    created: datetime
    expires: datetime | None


@dataclass(frozen=True, slots=True)
class Halves:
    """The public halves of the keys that one agent uses. None: there is none, or it was revoked."""

    ssh: SshKey | None
    gpg: GpgKey | None = None


def ssh_key(line: str, name: str) -> SshKey:
    """A line `ssh-ed25519 AAAA… comment` as a key; `name` is for the message. Raises BadKey."""
    words = line.split()
    try:
        if words[0] != "ssh-ed25519":
            raise ValueError
        blob = base64.b64decode(words[1], validate=True)
    except (IndexError, ValueError) as error:
        raise BadKey(f"{shown(name)} holds no line that begins with ssh-ed25519 and a key") from error
    # RFC 8709: two length-prefixed strings, the name and 32 bytes.
    if len(blob) != 51 or not blob.startswith(b"\0\0\0\x0bssh-ed25519\0\0\0\x20"):
        raise BadKey(f"{shown(name)} holds no ed25519 key of 32 bytes")
    return SshKey(f"ssh-ed25519 {base64.b64encode(blob).decode()}")
