"""SOPS files: YAML, encrypted to age and OpenPGP recipients, as Go sops 3 reads and writes them.

Format: docs/formats/sops.md. Heavy libraries are imported in the functions that need them.
"""

from town.sops.creation import creation_recipients
from town.sops.document import Document, create, load, recipients_of, update
from town.sops.errors import BadRecipient, BadSopsFile, NoKey, Tampered, WouldBeClear
from town.sops.keys import Keys
from town.sops.recipients import canonical

__all__ = [
    "BadRecipient",
    "BadSopsFile",
    "Document",
    "Keys",
    "NoKey",
    "Tampered",
    "WouldBeClear",
    "canonical",
    "create",
    "creation_recipients",
    "load",
    "recipients_of",
    "update",
]
