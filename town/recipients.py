"""Who may open a secret: age recipients, SSH keys, OpenPGP fingerprints. No message repeats what was given.

The text may be a private key, pasted by mistake.
"""

import re

from town.grammar import Wrong, line

_FINGERPRINT = r"[0-9A-F]{40}|[0-9A-F]{64}"
_SHORT_ID = r"(0X)?([0-9A-F]{8}|[0-9A-F]{16})"
_PRIVATE = ("AGE-SECRET-KEY-", "AGE-PLUGIN-", "-----BEGIN")
_CURE = "write age1…, ssh-ed25519 AAAA…, or the 40 hex digits that `gpg --fingerprint` shows"


def recipient(text: str) -> str:
    """A recipient in its one normal form: age1… lower case, ssh-ed25519 with its comment, a fingerprint upper case."""
    if text.lstrip().upper().startswith(_PRIVATE):
        raise Wrong(
            "is a private key, not a recipient",
            "take it out and make a new one: this one has been seen; `age-keygen -y` gives the public half of a key",
        )
    line(text)
    if text.lower().startswith("age1"):
        return _age(text)
    if text.startswith(("ssh-", "ecdsa-", "sk-")):
        return _ssh(text)
    return _fingerprint(text)


def _age(text: str) -> str:
    from pyrage import RecipientError, x25519

    try:
        return str(x25519.Recipient.from_str(text))
    except RecipientError as error:
        raise Wrong("is not an age recipient of the X25519 kind, or was cut", "copy it again, whole") from error


def _ssh(text: str) -> str:
    from pyrage import RecipientError, ssh

    words = text.split(" ")
    if words[0] != "ssh-ed25519":
        raise Wrong("is an SSH key of a kind that is not used here", "use an ssh-ed25519 key, or an age recipient")
    try:
        ssh.Recipient.from_str(text)
    except RecipientError as error:
        raise Wrong("is not an ssh-ed25519 public key", "copy the one line of the .pub file, whole") from error
    return text


def _fingerprint(text: str) -> str:
    digits = text.replace(" ", "").upper()
    if re.fullmatch(_FINGERPRINT, digits):
        return digits
    if re.fullmatch(_FINGERPRINT, digits.removeprefix("0X")):
        return digits.removeprefix("0X")
    if re.fullmatch(_SHORT_ID, digits):
        raise Wrong("is a short OpenPGP key id, which anybody can forge", "write the whole fingerprint: " + _CURE)
    raise Wrong("is no recipient", _CURE)
