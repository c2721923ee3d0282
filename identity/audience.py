"""Whoever is to open a new file: the recipients of the spec, else those of .sops.yaml."""

from pathlib import Path

from identity.places import Places
from town import sops
from town.failure import Failure
from town.spec import Agent, Spec
from town.terminal import shown


class NoRecipients(Failure):
    """Nobody is named for whom the secrets would be encrypted."""


def refuse_unnamed(spec: Spec, agents: tuple[Agent, ...], where: Places) -> None:
    """Whoever may open a file that is to be made must be known before anything is. Raises NoRecipients."""
    if not where.path(where.secrets).exists():
        everybody(spec, where)
    if any(agent.secrets.gpg_key for agent in agents) and not where.path(where.recovery).exists():
        humans(spec, where)


def everybody(spec: Spec, where: Places) -> tuple[str, ...]:
    """Who may open the secrets file: the spec's recipients, else those of .sops.yaml. Raises NoRecipients."""
    if spec.town.recipients is not None:
        return spec.town.recipients.all
    return _of_rules(where, where.secrets)


def humans(spec: Spec, where: Places) -> tuple[str, ...]:
    """Who may open the recovery file: humans only. Raises NoRecipients."""
    if spec.town.recipients is not None:
        return spec.town.recipients.humans
    return _of_rules(where, where.recovery)


def _of_rules(where: Places, file: Path) -> tuple[str, ...]:
    found = sops.creation_recipients(where.path(file), start=where.root)
    if not found:
        raise nobody(file)
    return tuple(found)


def nobody(file: Path) -> NoRecipients:
    """The failure for a file that nobody is named for."""
    return NoRecipients(
        f"nobody is named who may open {shown(str(file))}",
        hint='name at least one human in town.recipients of the spec: humans = ["age1…"], or write .sops.yaml',
    )
