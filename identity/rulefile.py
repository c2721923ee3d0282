"""The creation rules of .sops.yaml that are in force for a town's files: who they name, and the edit of them."""

from pathlib import Path

from identity.audience import nobody
from identity.lists import Unforeseen
from identity.naming import (
    AddHost,
    AddHuman,
    Asked,
    Edit,
    LocksOut,
    NotEditable,
    Remove,
    not_editable,
    refuse_not_ours,
    said,
)
from identity.places import Places
from identity.readers import rule as line
from identity.rewrapping import Wanted
from identity.ruletext import Rule
from town import files, sops
from town.failure import Failure
from town.sops.nodes import MAX_BYTES
from town.spec import Spec
from town.terminal import shown


class OneRuleForBoth(Failure):
    """The recovery file has the same rule as the secrets, so a host that is added there could open it."""


def adjusted(now: tuple[str, ...], asked: Asked, *, recovery: bool) -> tuple[str, ...]:
    """Who shall open a file, from those who may now."""
    match asked:
        case AddHost() if recovery:
            return now
        case AddHuman(one) | AddHost(_, one):
            return tuple(dict.fromkeys([*now, sops.canonical(one)]))
        case Remove(one):
            return tuple(other for other in now if other != one)


def in_rules(spec: Spec, where: Places, asked: Asked) -> Edit | None:
    """The edit of the rules that are in force; None where they say so already.

    Raises NoRecipients where there is no rule, OneRuleForBoth, LocksOut, NotEditable.
    """
    config, positions = _in_force(spec, where, asked)
    before = files.read_bounded(config, MAX_BYTES)
    text = before.decode()
    try:
        for position in positions:
            text = _changed(Rule(text, str(config), position), asked)
        if text.encode() == before:
            return None
        refuse_not_ours(config, before)
    except NotEditable:
        print("\n".join(f"creation_rules[{position}]: {said(asked)}" for position in positions), flush=True)
        raise
    return Edit(config, before, text.encode(), said(asked))


def _changed(rule: Rule, asked: Asked) -> str:
    try:
        now = rule.recipients
        wanted = adjusted(now, asked, recovery=False)
        if set(wanted) == set(now):
            return rule.text
        if not wanted:
            raise LocksOut(
                f"{said(asked)}: nobody else is named in creation_rules[{rule.position}] of {shown(rule.name)}",
                hint="add another first: identity recipients add --human age1…",
            )
        match asked:
            case AddHuman(one) | AddHost(_, one):
                return rule.with_recipient(sops.canonical(one))
            case Remove(one):
                return rule.without(one)
    except Unforeseen as error:
        raise not_editable(Path(rule.name), "has a layout that is not changed here") from error


def _in_force(spec: Spec, where: Places, asked: Asked) -> tuple[Path, list[int]]:
    """The configuration, and the rules of it that the change is for. Raises NoRecipients, OneRuleForBoth."""
    secrets = _rule(where, where.secrets)
    if not where.path(where.recovery).exists() and not any(agent.secrets.gpg_key for agent in spec.agents):
        return secrets.config, [secrets.position]  # there is no recovery file, and nothing that belongs into one
    recovery = _rule(where, where.recovery)
    if not isinstance(asked, AddHost):
        return secrets.config, list(dict.fromkeys([secrets.position, recovery.position]))
    if recovery.position == secrets.position:
        raise OneRuleForBoth(
            f"{secrets.where} is for {shown(str(where.recovery))} too, which is for humans only",
            hint=f"put one for that file before it: {line(where.recovery, recovery.sharing.recipients)}",
        )
    return secrets.config, [secrets.position]


def wanted(where: Places, file: Path, asked: Asked | None) -> Wanted:
    """Who shall open a file by its rule, once what is asked for is done. Raises NoRecipients, sops.NoRule."""
    sharing = _rule(where, file).sharing
    if asked is None:
        return Wanted(sharing.recipients, sharing.groups, sharing.threshold)
    return Wanted(adjusted(sharing.recipients, asked, recovery=file == where.recovery))


def _rule(where: Places, file: Path) -> sops.CreationRule:
    found = sops.creation_rule(where.path(file), start=where.root)
    if found is None:
        raise nobody(file)
    return found
