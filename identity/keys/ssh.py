"""SSH keys: ed25519, in the form that ssh-keygen writes and all readers take (OpenSSH PEM, newline at the end)."""

from typing import TYPE_CHECKING

from identity.halves import BadKey, SshKey, ssh_key
from town.terminal import shown

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


def generate() -> str:
    """A new private key. It exists in memory only."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return _pem(Ed25519PrivateKey.generate())


def rewritten(private: str) -> str:
    """A private key that `public` takes, without its comment and whatever else its file said."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_ssh_private_key

    key = load_ssh_private_key(private.encode(), password=None)
    assert isinstance(key, Ed25519PrivateKey)
    return _pem(key)


def _pem(key: "Ed25519PrivateKey") -> str:
    from cryptography.hazmat.primitives import serialization

    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    return pem.decode()


def public(private: str, name: str) -> SshKey:
    """The public half of a private key; `name` says in messages where it came from. Raises BadKey."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization

    if not private.startswith("-----BEGIN OPENSSH PRIVATE KEY-----\n") or not private.endswith("-----\n"):
        # ssh-keygen refuses a key without its last newline, and nothing here reads PKCS#8.
        raise BadKey(
            f"{shown(name)} is no private key in OpenSSH form with a newline at its end",
            hint="convert it with: ssh-keygen -p -N '' -f FILE",
        )
    try:
        key = serialization.load_ssh_private_key(private.encode(), password=None)
        line = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # `from None`: what the library says may quote the key.
        raise BadKey(f"{shown(name)} is no SSH private key without a passphrase") from None
    return ssh_key(line.decode(), name)
