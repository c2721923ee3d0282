"""What can go wrong with a SOPS file. Messages name files, paths and recipients; never a value."""

from town.failure import Failure


class BadSopsFile(Failure):
    """The file, or the tree to be written, is not what SOPS 3 reads, or uses what this version does not know."""


class NoRule(BadSopsFile):
    """.sops.yaml has creation rules, and none of them is for this file."""


class NoKey(Failure):
    """None of the private keys at hand opens the file."""


class Tampered(Failure):
    """A value, its place or the whole does not match what was sealed with the data key."""


class BadRecipient(Failure):
    """Nothing can be encrypted to this recipient: of an unknown kind, mistyped, or its public key is not at hand."""


class WouldBeClear(Failure):
    """The file's own rule would leave a new value unencrypted."""
