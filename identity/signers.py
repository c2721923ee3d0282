"""What verifiers read of the lock: identities/allowed_signers (ssh-keygen(1)) and identities/revoked.krl.

Both are functions of the lock alone, so that check can tell a file that somebody changed.
"""

import base64
import hashlib
import struct
from collections.abc import Iterator
from datetime import UTC, datetime

from identity.halves import BadKey, SshKey
from identity.lock import Entry, KeptSsh, Lock
from town.failure import Failure
from town.terminal import shown


class Forgotten(Failure):
    """The lock no longer says of a key that it was revoked."""


def allowed_signers(lock: Lock) -> str:
    """The file that `gpg.ssh.allowedSignersFile` names (ssh-keygen(1), ALLOWED SIGNERS). Raises BadKey."""
    lines = [line for _, entry in sorted(lock.items()) for line in _lines(entry)]
    # ssh-keygen before 9.1 gives up at a time in UTC: whoever was never rotated stands before it.
    return "".join(sorted(lines, key=lambda line: "valid-" in line))


def principal(email: str) -> str:
    """An address as a principal that matches itself and nothing else. Raises BadKey."""
    # The field is a list of patterns: `*@x` would speak for everybody, `a,b` for two.
    if not email or any(character in '*?!,"#\\' or character.isspace() or ord(character) < 0x21 for character in email):
        raise BadKey(
            f"{shown(email)} cannot stand in allowed_signers: it would be read as a pattern",
            hint="change git.email of the agent in the spec",
        )
    return email


def krl(lock: Lock) -> bytes:
    """The key revocation list that `gpg.ssh.revocationFile` and ssh-keygen -Q read; also where nothing is revoked.

    PROTOCOL.krl of OpenSSH, of one section KRL_SECTION_EXPLICIT_KEY. ssh-keygen -k would put the time of its run into
    it; here its time is that of the newest revocation and its version how many there are.
    """
    revoked = _revoked(lock)
    newest = max(revoked.values(), default=None)
    made = int(newest.timestamp()) if newest is not None else 0
    head = struct.pack(">QIQQQ", _KRL_MAGIC, 1, len(revoked), made, 0) + _string(b"") + _string(b"")
    keys = b"".join(_string(blob) for blob in sorted(_blob(key) for key in revoked))
    return head + (struct.pack(">B", _KRL_EXPLICIT_KEY) + _string(keys) if keys else b"")


def refuse_forgotten(lock: Lock, listed: bytes) -> None:
    """A list that revokes what the lock does not say of: written anew it would revoke less. Raises Forgotten.

    That happens when the lock was lost or is older than the list, or when somebody made the list with ssh-keygen -k:
    it can name keys by their hashes, and certificates, which the lock does not hold.
    """
    revoked = {_blob(key) for key in _revoked(lock)}
    for blob in _listed(listed):
        if blob not in revoked:
            raise Forgotten(
                f"{_FILE} revokes {_fingerprint(blob)}, and keys.lock.toml does not",
                hint="a revocation is never taken back: bring the lock that belongs to it back from git, or, where the "
                "list is the newer one, bring that back, and revoke the key with identity revoke",
            )


_FILE = "identities/revoked.krl"
_KRL_MAGIC, _KRL_EXPLICIT_KEY = 0x5353484B524C0A00, 2  # "SSHKRL\n\0"
_SECTIONS = {1: "certificates", 3: "keys by their SHA-1", 4: "a signature", 5: "keys by their SHA-256"}


def _listed(data: bytes) -> Iterator[bytes]:
    """The keys of a list that has nothing but keys (PROTOCOL.krl of OpenSSH). Raises Forgotten."""
    if not data.strip():
        return
    try:
        magic, version, *_ = struct.unpack_from(">QI", data)
        if (magic, version) != (_KRL_MAGIC, 1):
            raise _not_ours("is no list of the form that identity writes")
        _, at = _taken(data, 36)  # after the numbers: a reserved text and a comment
        _, at = _taken(data, at)
        while at < len(data):
            kind = data[at]
            section, at = _taken(data, at + 1)
            if kind != _KRL_EXPLICIT_KEY:
                raise _not_ours(f"holds {_SECTIONS.get(kind, f'a section of the kind {kind}')}")
            inner = 0
            while inner < len(section):
                blob, inner = _taken(section, inner)
                yield blob
    except (struct.error, ValueError) as error:
        raise _not_ours("is cut off or damaged") from error


def _taken(data: bytes, at: int) -> tuple[bytes, int]:
    (size,) = struct.unpack_from(">I", data, at)
    if at + 4 + size > len(data):
        raise ValueError("a length leads past the end")
    return data[at + 4 : at + 4 + size], at + 4 + size


def _not_ours(what: str) -> Forgotten:
    return Forgotten(
        f"{_FILE} {what}, and would lose that if it were written anew",
        hint=f"a revocation is never taken back: see what it revokes with ssh-keygen -Q -l -f {_FILE}, bring back the "
        "last list that identity wrote with git, then revoke those keys with: identity revoke AGENT --key FINGERPRINT",
    )


def _fingerprint(blob: bytes) -> str:
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def _revoked(lock: Lock) -> dict[SshKey, datetime]:
    return {kept.key: kept.revoked for entry in lock.values() for kept in entry.ssh if kept.revoked is not None}


def _blob(key: SshKey) -> bytes:
    return base64.b64decode(key.public.split()[1])


def _string(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def _lines(entry: Entry) -> Iterator[str]:
    for kept in entry.ssh:
        yield f"{principal(entry.email)} {','.join(_options(kept))} {kept.key.public}\n"


def _options(kept: KeptSsh) -> Iterator[str]:
    if kept.revoked is not None:
        # The key stays known, so that git asks the KRL about it, and is good for nothing where git has no KRL.
        yield 'namespaces="revoked"'
        return
    yield 'namespaces="git"'
    if kept.since is not None:
        yield f'valid-after="{_time(kept.since)}"'
    if kept.until is not None:
        yield f'valid-before="{_time(kept.until)}"'


def _time(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y%m%d%H%M%SZ}"
