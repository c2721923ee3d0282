"""What every writer of documents raises."""

from town.failure import Failure


class BadText(Failure):
    """A text of the spec cannot be written in this format so that it is read back the same. Nothing is written."""
