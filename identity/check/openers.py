"""The two SOPS files: whether they are there, and whether those can open them who should, and nobody else.

The spec's recipients are held against the files, and .sops.yaml against them, for a person's `sops` goes by that. Where
the spec names none, .sops.yaml is what files are held against. No key is needed for any of it.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from identity import audience, host, lost, plan, readers
from identity.finding import Finding, caught
from identity.lock import Lock
from identity.places import Places
from identity.vault import Vault
from town import sops
from town.failure import Failure
from town.sops import metadata, nodes, plainform
from town.spec import Recipients, Spec
from town.terminal import shown

_RULES = "make .sops.yaml name the same recipients as [town.recipients], or remove its rule for this file"


def findings(spec: Spec, where: Places, lock: Lock, secrets: Vault, recovery: Vault) -> Iterator[Finding]:
    """What is to be said of both files; of the recovery file only where there are OpenPGP keys."""
    yield from caught(secrets.name, lambda: _secrets(spec, where, lock, secrets))
    if any(agent.secrets.gpg_key for agent in spec.agents):
        yield from caught(recovery.name, lambda: _recovery(spec, where, lock, recovery))
        if spec.town.recipients is None:
            yield from caught(secrets.name, lambda: _humans_of_recovery(secrets, recovery))


def _secrets(spec: Spec, where: Places, lock: Lock, vault: Vault) -> Iterator[Finding]:
    if vault.data is None:
        yield Finding("error", vault.name, "is not there", lost.file(vault.name, bool(lock)))
        return
    vault.names  # noqa: B018 - reads it: an unreadable file is a finding
    wanted = spec.town.recipients
    if wanted is not None:
        yield from readers.recipients(vault, wanted.humans, tuple(one for _, one in wanted.hosts))
        yield from _groups(vault, wanted)
        named = canonical(wanted.all)
        yield from _other_rules(where, vault, where.secrets, wanted.all)
    else:
        yield from _by_rules(where, vault, where.secrets)
        named = canonical(sops.creation_recipients(where.path(where.secrets), start=where.root) or ())
    if not audience.this_machine(spec) & named:
        yield from _opens_here(spec, vault)


def _recovery(spec: Spec, where: Places, lock: Lock, vault: Vault) -> Iterator[Finding]:
    if vault.data is None:
        known = plan.with_primary(lock)
        cure = lost.recovery(vault.name, known) if known else lost.file(vault.name, False)
        yield Finding("error", vault.name, "is not there", cure)
        return
    vault.names  # noqa: B018 - as above
    wanted = spec.town.recipients
    if wanted is not None:
        yield from readers.recipients(vault, wanted.humans, ())
        yield from readers.hosts_of_recovery(vault, wanted.hosts)
        yield from _other_rules(where, vault, where.recovery, wanted.humans)
    else:
        yield from _by_rules(where, vault, where.recovery)
        yield from _one_rule(where)
    yield from _this_machine(spec, vault)


def _groups(vault: Vault, wanted: Recipients) -> Iterator[Finding]:
    """Where the data key is split between groups, a host must be in enough of them, and so must the humans together."""
    assert vault.data is not None
    root = plainform.read(vault.data) or nodes.parse(vault.data, str(vault.path))[1]
    about = metadata.read(root, str(vault.path))
    groups = [canonical(one.label for one in group) for group in about.groups]
    who = {f"the host {shown(name)}": canonical([one]) for name, one in wanted.hosts}
    who["all humans together"] = canonical(wanted.humans)
    for name, recipients in who.items() if len(groups) > 1 else ():
        if (there := sum(bool(group & recipients) for group in groups)) < about.threshold:
            what = f"its key is split: {name} can open {there} of the {about.threshold} groups that are needed"
            yield Finding("error", vault.name, what, "put who must open it alone into that many key_groups")


def _other_rules(where: Places, vault: Vault, file: Path, wanted: Iterable[str]) -> Iterator[Finding]:
    """Who uses sops on a file that the spec names recipients for is led by .sops.yaml: the two must agree."""
    try:
        ruled = sops.creation_recipients(where.path(file), start=where.root)
    except sops.NoRule:
        return
    except Failure as failure:
        yield Finding("warning", ".sops.yaml", f"{failure.what}: sops would refuse {vault.name}", failure.hint)
        return
    if ruled is None:
        return
    there, meant = canonical(ruled), canonical(wanted)
    for one in sorted(meant - there):
        what = f"has no {shown(one)} for {vault.name}, which the spec names: sops updatekeys would take it away"
        yield Finding("warning", ".sops.yaml", what, _RULES)
    for one in sorted(there - meant):
        what = f"names {shown(one)} for {vault.name}, and the spec does not: sops updatekeys would let it open the file"
        yield Finding("warning", ".sops.yaml", what, _RULES)


def _by_rules(where: Places, vault: Vault, file: Path) -> Iterator[Finding]:
    assert vault.data is not None
    ruled = canonical(sops.creation_recipients(where.path(file), start=where.root) or ())
    if not ruled:
        what = "nobody is named who may open it: there is neither [town.recipients] nor a .sops.yaml with rules"
        yield Finding("error", vault.name, what, 'name at least one human: humans = ["age1…"]')
        return
    there = canonical(sops.recipients_of(vault.data, str(vault.path)))
    for one in sorted(ruled - there):
        yield Finding("error", vault.name, f"{shown(one)} cannot open it, and .sops.yaml names it", readers.SYNC)
    for one in sorted(there - ruled):
        yield Finding("warning", vault.name, f"{shown(one)} can open it, and .sops.yaml does not name it", readers.SYNC)


def _one_rule(where: Places) -> Iterator[Finding]:
    """One rule for both files cannot name a machine and keep it from the recovery file."""
    if (rule := audience.one_rule(where)) is not None:
        files = f"{shown(str(where.secrets))} and for {shown(str(where.recovery))}"
        what = f"creation_rules[{rule.position}] is for {files}, which is for humans only"
        yield Finding("warning", ".sops.yaml", what, audience.own_rule(where, rule))


def _humans_of_recovery(secrets: Vault, recovery: Vault) -> Iterator[Finding]:
    """.sops.yaml does not say who is human: those are who can open the recovery file."""
    if secrets.data is None or recovery.data is None:
        return
    humans = canonical(sops.recipients_of(recovery.data, str(recovery.path)))
    if not humans & canonical(sops.recipients_of(secrets.data, str(secrets.path))):
        what = f"nobody who can open {recovery.name} can open it, so it seems to be for machines only"
        yield Finding("error", secrets.name, what, "name a human for both files in .sops.yaml or in [town.recipients]")


def _this_machine(spec: Spec, vault: Vault) -> Iterator[Finding]:
    """The key of this machine, if it can be read here, opens nothing that is for humans only."""
    assert vault.data is not None
    wanted = spec.town.recipients or Recipients(())
    known = canonical(wanted.all)  # of a host of the spec it is said already, and a human may use the machine's key
    for one in canonical(sops.recipients_of(vault.data, str(vault.path))) & audience.this_machine(spec) - known:
        what = f"the key of this machine opens it ({shown(one)}): it is for humans only"
        yield Finding("error", vault.name, what, "take that recipient out of its rule, and rotate what is in the file")


def _opens_here(spec: Spec, vault: Vault) -> Iterator[Finding]:
    """The key that lies here, if it can be read, opens the secrets. Whom the spec or .sops.yaml names was told of."""
    assert vault.data is not None
    own, key = audience.this_machine(spec), spec.town.host_key
    if not own or key.gnupg is not None or own & canonical(sops.recipients_of(vault.data, str(vault.path))):
        return
    if os.path.lexists(key.age) or _is_of_the_town(spec):
        one = min(own)
        what = f"the key of this machine ({one}) cannot open it: install fails here"
        yield Finding("warning", vault.name, what, host.joins(spec, one))


def _is_of_the_town(spec: Spec) -> bool:
    """Whether agents live here: every machine has an SSH key, and only `host init` makes the other."""
    hosts = () if spec.town.recipients is None else spec.town.recipients.hosts
    return spec.town.agents_dir.is_dir() or host.host_name() in dict(hosts)


def canonical(recipients: Iterable[str]) -> set[str]:
    """Recipients in the one form in which they are compared."""
    return set(map(readers.canonical, recipients))
