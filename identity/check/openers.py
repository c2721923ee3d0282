"""The two SOPS files: whether they are there, and whether those can open them who should, and nobody else.

The spec's recipients are held against the files, and .sops.yaml against them, for a person's `sops` goes by that. Where
the spec names none, .sops.yaml is what files are held against. No key is needed for any of it.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from identity import lost, plan, readers
from identity.finding import Finding, caught
from identity.lock import Lock
from identity.places import Places
from identity.vault import Vault
from town import files, sops
from town.failure import Failure, Unsafe
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
        yield from _named_as_this_machine(spec, wanted)
        yield from _other_rules(where, vault, where.secrets, wanted.all)
    else:
        yield from _by_rules(where, vault, where.secrets)


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
    for one in canonical(sops.recipients_of(vault.data, str(vault.path))) & _own_recipients(spec) - known:
        what = f"the key of this machine opens it ({shown(one)}): it is for humans only"
        yield Finding("error", vault.name, what, "take that recipient out of its rule, and rotate what is in the file")


def _named_as_this_machine(spec: Spec, wanted: Recipients) -> Iterator[Finding]:
    """A host of the spec that is called as this machine has the key that lies here, if it can be read."""
    name, own = os.uname().nodename.partition(".")[0], _own_recipients(spec)
    meant = canonical([dict(wanted.hosts)[name]]) if name in dict(wanted.hosts) else set()
    if own and any(one.startswith("age1") for one in meant - own):
        what = f"town.recipients.hosts.{name} is not the key of this machine: install would fail here"
        yield Finding("warning", str(spec.file), what, f"identity recipients add --host {name} {min(own)}")


def _own_recipients(spec: Spec) -> set[str]:
    """What the machine's own key is as a recipient; empty when it cannot be read here. OpenPGP keys are not asked."""
    try:
        return set(sops.Keys.of_host(spec.town.host_key._replace(gnupg=None)).recipients)
    except (files.Unreadable, Unsafe, sops.NoKey):
        return set()


def canonical(recipients: Iterable[str]) -> set[str]:
    """Recipients in the one form in which they are compared."""
    return set(map(readers.canonical, recipients))
