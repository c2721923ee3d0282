"""A file that is there while packs may be on their way: a sync that finds one knows that the last did not end."""

import os
from contextlib import suppress

from persist.sync import schema
from town.spec import Agent, Spec


def mark(spec: Spec, agent: Agent) -> None:
    """From here on packs may be sent."""
    with suppress(FileExistsError):
        os.close(os.open(_place(spec, agent), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


def unmark(spec: Spec, agent: Agent) -> None:
    """The sync has ended well."""
    with suppress(FileNotFoundError):
        os.unlink(_place(spec, agent))


def interrupted(spec: Spec, agent: Agent) -> bool:
    """Whether a sync began to send and did not end."""
    return os.path.lexists(_place(spec, agent))


def _place(spec: Spec, agent: Agent) -> str:
    return str(schema.place(spec, agent).with_suffix(".begun"))
