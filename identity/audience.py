"""Whoever is to open a new file: the recipients of the spec, else those of .sops.yaml."""

from contextlib import suppress
from pathlib import Path

from identity import readers
from identity.places import Places
from town import cli, files, sops
from town.failure import Failure, Unsafe
from town.spec import Agent, Spec
from town.terminal import shown

_PUBLIC = 16 << 10  # bytes of a public key


class NoRecipients(Failure):
    """Nobody is named for whom the secrets would be encrypted."""


class NotForHumans(Failure):
    """This machine would open the recovery file, which is for humans only."""


def refuse_unnamed(spec: Spec, agents: tuple[Agent, ...], where: Places) -> None:
    """Whoever may open a file that is to be made must be known before anything is.

    Warns where the recovery file would perhaps be for a machine. Raises NoRecipients, NotForHumans where it is certain.
    """
    if not where.path(where.secrets).exists():
        everybody(spec, where)
    if any(agent.secrets.gpg_key for agent in agents) and not where.path(where.recovery).exists():
        named = humans(spec, where)
        if spec.town.recipients is None:
            _refuse_machine(spec, where, named)


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


def _refuse_machine(spec: Spec, where: Places, named: tuple[str, ...]) -> None:
    """A rule of .sops.yaml does not say who is human. Raises NotForHumans for the key of this machine."""
    rule = sops.creation_rule(where.path(where.recovery), start=where.root)
    assert rule is not None, "its recipients were found"
    name = shown(str(where.recovery))
    if own := (this_machine(spec) | _public_half(spec)) & set(named):
        raise NotForHumans(
            f"{name} is for humans only, and {rule.where} names the key of this machine ({', '.join(sorted(own))})",
            hint=_own_rule(where, tuple(one for one in named if one not in own))
            if _serves_both(where) is not None
            else f"take that recipient out of creation_rules[{rule.position}]",
        )
    if (shared := one_rule(where)) is not None:
        what = f"{name} is for humans only, and {rule.where} is for the secrets of all machines too"
        cli.warn("identity", what, own_rule(where, shared))


def one_rule(where: Places) -> sops.CreationRule | None:
    """The rule of .sops.yaml that is for both files and names several, of whom some will be machines.

    Raises as sops.creation_rule does, but for NoRule.
    """
    rule = _serves_both(where)
    return rule if rule is not None and len(rule.sharing.recipients) > 1 else None


def _serves_both(where: Places) -> sops.CreationRule | None:
    with suppress(sops.NoRule):
        secrets = sops.creation_rule(where.path(where.secrets), start=where.root)
        recovery = sops.creation_rule(where.path(where.recovery), start=where.root)
        if secrets is not None and recovery is not None and secrets.position == recovery.position:
            return recovery
    return None


def own_rule(where: Places, shared: sops.CreationRule) -> str:
    """The cure for one rule for both files; who of those it names is a machine is not known."""
    return f"{_own_rule(where, shared.sharing.recipients)}, without those that are machines"


def _own_rule(where: Places, named: tuple[str, ...]) -> str:
    return f"put one for that file before it: {readers.rule(where.recovery, named or ('age1…',))}"


def this_machine(spec: Spec) -> set[str]:
    """What the machine's own key is as a recipient; empty when it cannot be read here. OpenPGP keys are not asked."""
    try:
        return set(sops.Keys.of_host(spec.town.host_key._replace(gnupg=None)).recipients)
    except (files.Unreadable, Unsafe, sops.NoKey):
        return set()


def _public_half(spec: Spec) -> set[str]:
    """The machine's SSH key as a recipient, by the file that everybody may read."""
    ssh = spec.town.host_key.ssh
    with suppress(files.Unreadable, sops.BadRecipient, UnicodeDecodeError):
        return {sops.canonical(files.read_bounded(ssh.with_name(f"{ssh.name}.pub"), _PUBLIC).decode())}
    return set()


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
