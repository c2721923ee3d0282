"""A private SSH key in a file that somebody brings: what kind it is, said before it is opened.

Source: PROTOCOL.key of OpenSSH. The kind and the cipher stand in clear at the beginning of the file.
"""

import base64
import binascii
import struct

from identity.halves import BadKey
from identity.keys import ssh
from town.terminal import shown

_HEAD, _TAIL = "-----BEGIN OPENSSH PRIVATE KEY-----", "-----END OPENSSH PRIVATE KEY-----"
_MAGIC = b"openssh-key-v1\0"
_TAKES = "only ed25519 keys are taken, as gen makes them"


def brought(data: bytes, name: str) -> str:
    """An ed25519 key without a passphrase, in the form that gen keeps; its comment is left out. Raises BadKey."""
    text = data.decode("utf-8", "replace").replace("\r\n", "\n").strip() + "\n"
    if not text.startswith(_HEAD):
        raise _other(text, name)
    cipher, kind = _said(text, name)
    if kind != "ssh-ed25519":
        what = f"{shown(name)} holds a key of the kind {shown(kind)}: {_TAKES}"
        raise BadKey(what, hint="make one with: ssh-keygen -t ed25519 -N '' -f FILE - or let identity gen make it")
    if cipher != "none":
        raise BadKey(
            f"the key in {shown(name)} has a passphrase, which nobody could type at boot",
            hint="take it off a copy in memory: cp FILE /dev/shm/key && ssh-keygen -p -N '' -f /dev/shm/key",
        )
    ssh.public(text, name)
    return ssh.rewritten(text)


def _said(text: str, name: str) -> tuple[str, str]:
    """The cipher, and the kind of the key."""
    try:
        blob = base64.b64decode("".join(text.split(_HEAD, 1)[1].split(_TAIL, 1)[0].split()), validate=True)
        if not blob.startswith(_MAGIC):
            raise ValueError
        cipher, at = _string(blob, len(_MAGIC))
        _, at = _string(blob, at)  # how the passphrase becomes a key
        _, at = _string(blob, at)
        public, _ = _string(blob, at + 4)  # after the number of keys
        return cipher.decode("ascii"), _string(public, 0)[0].decode("ascii")
    except (ValueError, IndexError, struct.error, binascii.Error):
        raise BadKey(f"{shown(name)} holds no OpenSSH key that can be read: it is cut off or damaged") from None


def _string(blob: bytes, at: int) -> tuple[bytes, int]:
    size = struct.unpack_from(">I", blob, at)[0]
    if at + 4 + size > len(blob):
        raise ValueError
    return blob[at + 4 : at + 4 + size], at + 4 + size


def _other(text: str, name: str) -> BadKey:
    if text.startswith(("ssh-", "ecdsa-", "sk-")):
        return BadKey(f"{shown(name)} holds a public key", hint="name the file beside it, without .pub")
    if text.startswith("PuTTY-User-Key-File"):
        cure = "convert it: puttygen FILE -O private-openssh-new -o KEY"
        return BadKey(f"{shown(name)} is in PuTTY's form, not in OpenSSH's", hint=cure)
    if text.startswith("-----BEGIN ") and "PRIVATE KEY-----" in text:
        cure = f"ssh-keygen -p -N '' -f COPY writes some forms in OpenSSH's; {_TAKES}, so let gen make a new one else"
        return BadKey(f"{shown(name)} is no private key in OpenSSH form", hint=cure)
    return BadKey(f"{shown(name)} holds no private SSH key", hint="name a file as ssh-keygen -t ed25519 makes it")
