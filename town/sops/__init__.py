"""SOPS files: YAML or JSON, encrypted to age and OpenPGP recipients, as Go sops 3 reads and writes them.

Format: docs/formats/sops.md. Heavy libraries are imported in the functions that need them.
"""

from town.sops.change import update
from town.sops.creation import CreationRule, creation_recipients, creation_rule
from town.sops.document import Document, groups_of, load, outline, recipients_of
from town.sops.errors import BadRecipient, BadSopsFile, NoKey, NoRule, Tampered, WouldBeClear
from town.sops.keys import Keys
from town.sops.newfile import create
from town.sops.recipients import canonical
from town.sops.rewrapping import rewrap

__all__ = [
    "BadRecipient",
    "BadSopsFile",
    "CreationRule",
    "Document",
    "Keys",
    "NoKey",
    "NoRule",
    "Tampered",
    "WouldBeClear",
    "canonical",
    "create",
    "creation_recipients",
    "creation_rule",
    "groups_of",
    "load",
    "outline",
    "recipients_of",
    "rewrap",
    "update",
]
