"""`identity recipients sync|add|remove`: who can open the SOPS files of a town, brought to what the spec says.

Where somebody leaves, the file gets a new data key and every value is encrypted anew; what they may have kept must be
made anew too, and is listed. The file that names the recipients is written first, the SOPS files follow as one step.
"""

import argparse
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, assert_never

from identity import due, journal, naming, places, rulefile
from identity.audience import everybody, humans
from identity.due import Due
from identity.gen import unproven
from identity.guard import locked, no_core_dump
from identity.naming import AddHost, AddHuman, Asked, Edit, Remove
from identity.places import Places
from identity.rewrapping import Rewrap, Wanted, rewrap
from identity.vault import Vault, vaults
from town import again, cli, sops, trust
from town import spec as specs
from town.failure import DONE, Failure, WrongUsage
from town.spec import Spec
from town.terminal import say, shell_word, shown

Action = Edit | Rewrap


class NobodyOfThatName(Failure):
    """The recipient to be removed is named nowhere and opens none of the files."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done, in order; what somebody who leaves may know; the SOPS files as they will be."""

    actions: tuple[Action, ...]
    due: tuple[Due, ...]
    writes: tuple[journal.Write, ...]
    unproven: tuple[Vault, ...]

    @property
    def rewraps(self) -> tuple[Rewrap, ...]:
        """The changes of SOPS files."""
        return tuple(one for one in self.actions if isinstance(one, Rewrap))

    @property
    def edits(self) -> tuple[Edit, ...]:
        """The changes of what names the recipients."""
        return tuple(one for one in self.actions if isinstance(one, Edit))

    @property
    def left(self) -> tuple[str, ...]:
        """Who can open one file less."""
        return _each(one for change in self.rewraps for one in change.left)

    def secrets(self, name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Who joined and who left the secrets file, of that name: nobody is of the town by the recovery file alone."""
        found = [change for change in self.rewraps if change.name == name]
        return (_each(one for change in found for one in change.joined), _each(one for c in found for one in c.left))


def command(arguments: argparse.Namespace) -> int:
    """`identity recipients sync|add|remove`."""
    spec = specs.load(cli.spec_file(arguments))
    trust.refuse(spec)
    asked = _asked(arguments, spec)
    where = places.places(spec, None if arguments.out is None else Path(arguments.out))
    no_core_dump()
    with ExitStack() as stack:
        if not arguments.dry_run:
            stack.enter_context(locked(where))
            journal.finish(where)
        elif journal.pending(where):
            say("identity: hint: a run was interrupted; what comes after it is planned when it is finished")
            return DONE
        plan = prepare(spec, where, asked, datetime.now(UTC))
        # First: what must be rotated is known now, and to nobody once a run that was killed is finished by the next.
        _tell(plan, json=arguments.json)
        sys.stdout.flush()
        if not arguments.dry_run:
            apply(plan, where)
    _advise(spec, plan)
    return DONE


def _asked(arguments: argparse.Namespace, spec: Spec) -> Asked | None:
    """What the words of the command line mean; None: sync. Raises WrongUsage."""
    given, host = arguments.recipient, arguments.host
    match (arguments.act_on, given is not None, host is not None, arguments.human):
        case ("sync", False, False, False):
            return None
        case ("add", True, False, True):
            return AddHuman(naming.recipient(given))
        case ("add", True, True, False):
            return AddHost(naming.host_name(host), naming.recipient(given))
        case ("remove", True, False, False):
            return Remove(sops.canonical(naming.recipient(given)))
        case ("remove", False, True, False):
            return Remove(sops.canonical(_of_host(spec, host)))
    raise WrongUsage(
        f"recipients {arguments.act_on} cannot be told that way whom it is about",
        hint="identity recipients sync; add RECIPIENT --human; add RECIPIENT --host NAME; remove RECIPIENT; "
        "or remove --host NAME",
    )


def _of_host(spec: Spec, name: str) -> str:
    """The recipient of a host by its name, which only the spec knows. Raises WrongUsage."""
    hosts = {} if spec.town.recipients is None else dict(spec.town.recipients.hosts)
    if name not in hosts:
        cure = f"it has {', '.join(hosts)}" if hosts else "name its recipient instead"
        raise WrongUsage(f"the spec has no host {shown(name)} in town.recipients", hint=cure)
    return hosts[name]


def prepare(spec: Spec, where: Places, asked: Asked | None, now: datetime) -> Plan:
    """Everything that is to be done. Opens and rewraps in memory; writes nothing.

    Raises what opening and rewrapping a SOPS file raises, and what the edit of the names raises.
    """
    edit, after = _edited(spec, where, asked)
    changes: list[tuple[Vault, Rewrap]] = []
    for vault, audience in zip(vaults(spec, where.root), (everybody, humans), strict=True):
        if vault.data is None:
            continue
        if after.town.recipients is None:
            wanted = rulefile.wanted(where, Path(vault.name), asked)
        else:
            wanted = Wanted(audience(after, where))
        if (change := rewrap(vault, wanted, _called(spec, after))) is not None:
            changes.append((vault, change))
    _refuse_nobody(asked, edit, changes)
    texts = [(vault.name, _rewrapped(vault, change, now)) for vault, change in changes]
    return Plan(
        actions=(*([] if edit is None else [edit]), *(change for _, change in changes)),
        due=tuple(_due(spec, where, changes)),
        writes=tuple(journal.write(where, name, text) for name, text in texts),
        unproven=tuple(vault for vault, _ in changes if not vault.proven),
    )


def _rewrapped(vault: Vault, change: Rewrap, now: datetime) -> str:
    groups, threshold = change.groups, change.threshold
    return vault.rewrapped(change.recipients, now, fresh=change.fresh, groups=groups, threshold=threshold)


def _edited(spec: Spec, where: Places, asked: Asked | None) -> tuple[Edit | None, Spec]:
    """The edit of the file that names the recipients, and the spec as it is afterwards."""
    if asked is None:
        return None, spec
    if spec.town.recipients is not None:
        return naming.in_spec(spec, asked)
    return rulefile.in_rules(spec, where, asked), spec


def _called(*known: Spec) -> dict[str, str]:
    """What people call the recipients that a spec names, before the change or after it."""
    named = [spec.town.recipients for spec in known if spec.town.recipients is not None]
    hosts = {sops.canonical(one): f"host {shown(name)}" for each in named for name, one in each.hosts}
    return hosts | {sops.canonical(one): "human" for each in named for one in each.humans}


def _refuse_nobody(asked: Asked | None, edit: Edit | None, changes: list[tuple[Vault, Rewrap]]) -> None:
    if isinstance(asked, Remove) and edit is None and not any(asked.recipient in one.left for _, one in changes):
        what = f"{shown(asked.recipient)} is named nowhere and opens none of the files"
        raise NobodyOfThatName(what, hint="who does is what check tells: identity check")


def _due(spec: Spec, where: Places, changes: list[tuple[Vault, Rewrap]]) -> Iterator[Due]:
    lost = [vault for vault, change in changes if change.left]
    primary = any(vault.name == str(where.recovery) for vault in lost)
    for vault in lost:
        if vault.name == str(where.recovery):
            yield from due.of_recovery(spec, vault.name, vault.names)
        else:
            yield from due.of_secrets(spec, vault.name, vault.names, recovery=str(where.recovery) if primary else None)


def apply(plan: Plan, where: Places) -> None:
    """Do it. The names first: killed behind them, the files lag behind what is said, as check sees and sync mends."""
    for action in plan.actions:
        match action:
            case Edit():
                naming.write(action)
            case Rewrap():
                pass  # all of them at once, below
            case _:
                assert_never(action)
    if plan.writes:
        journal.commit(where, list(plan.writes))


def _tell(plan: Plan, *, json: bool) -> None:
    if json:
        cli.put_json(_tree(plan))
        return
    for action in plan.actions:
        print(action)
    for one in plan.due:
        print(again.with_spec(str(one)))
    if not plan.actions:
        print("nothing to do")


def _tree(plan: Plan) -> dict[str, Any]:
    return {
        "edited": [str(one.file) for one in plan.edits],
        "files": [
            {"name": one.name, "joined": one.joined, "left": one.left, "new_data_key": one.fresh}
            for one in plan.rewraps
        ],
        "rotate": [asdict(one) | {"command": again.with_spec(one.command)} for one in plan.due],
    }


def _advise(spec: Spec, plan: Plan) -> None:
    """What this command cannot do itself."""
    for vault in plan.unproven:
        cli.advise("identity", unproven(vault))
    if plan.left:
        cli.warn(
            "identity", "who left may have kept what they could read, and git's history stays readable to them",
            "make anew what is listed under `rotate`, with the commands beside it" if plan.due else "",
        )  # fmt: skip
    if plan.due:
        cli.advise(
            "identity",
            "what `identity rotate` replaces is still believed, under an older date: where who left may sign with it, "
            "revoke it after that, with --key: identity revoke AGENT",
        )
    joined, left = plan.secrets(str(spec.town.sops_file))
    if set(left) & set(_this_machine(spec)):
        what = "this machine's own key is among those that left: identity install fails here from now on"
        cli.warn("identity", what, "take its key away, or add it again: identity host init prints how")
    if spec.town.store is None:
        return
    for one in joined:
        cli.advise("identity", f"for the store's key too: persist key add {shell_word(one)}")
    for one in left:
        both = f"persist key remove {shell_word(one)}, then persist key rotate"
        cli.advise("identity", f"for the store's key too: {both}")


def _this_machine(spec: Spec) -> tuple[str, ...]:
    """The recipients of this machine's key, as far as this user may read it."""
    with suppress(Failure):
        return sops.Keys.of_host(spec.town.host_key._replace(gnupg=None)).recipients
    return ()


def _each(found: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(found))
