"""Who can open a SOPS file, held against the recipients of the spec; and the rule of .sops.yaml that names them."""

import re
from collections.abc import Iterator
from pathlib import Path

from identity.finding import Finding
from identity.vault import Vault
from town import sops
from town.terminal import shown

SYNC = "identity recipients sync"  # the command that brings the files to the recipients that are named


def recipients(vault: Vault, humans: tuple[str, ...], hosts: tuple[str, ...]) -> Iterator[Finding]:
    """What differs between a file's recipients and those of the spec. Raises sops.BadSopsFile."""
    assert vault.data is not None
    there = set(map(canonical, sops.recipients_of(vault.data, str(vault.path))))
    if not there & set(map(canonical, humans)):
        yield Finding("error", vault.name, "no human of the spec can open it", SYNC)
    for one in humans:
        if canonical(one) not in there:
            yield Finding("warning", vault.name, f"{shown(one)} (human) cannot open it", SYNC)
    for one in hosts:
        if canonical(one) not in there:
            yield Finding("error", vault.name, f"{shown(one)} (host) cannot open it: install would fail", SYNC)
    for one in sorted(there - set(map(canonical, (*humans, *hosts)))):
        yield Finding("warning", vault.name, f"{shown(one)} can open it and is not in the spec", SYNC)


def hosts_of_recovery(vault: Vault, hosts: tuple[tuple[str, str], ...]) -> Iterator[Finding]:
    """Hosts that can open a file for humans only. Raises sops.BadSopsFile."""
    assert vault.data is not None
    names = {canonical(one): name for name, one in hosts}
    for one in sops.recipients_of(vault.data, str(vault.path)):
        if (name := names.get(canonical(one))) is not None:
            what = f"the host {shown(name)} can open it: it is for humans only"
            yield Finding("error", vault.name, what, f"{SYNC}, which says what must be rotated then")


def rule(file: Path, wanted: tuple[str, ...]) -> str:
    """The creation rule of .sops.yaml for one file, as one line of YAML."""
    pgp = [one for one in wanted if re.fullmatch("[0-9A-F]+", one)]
    age = [one for one in wanted if one not in pgp]
    pattern = re.sub(r"([.+*?()\[\]{}|^$\\])", r"\\\1", file.name)
    keys = {"path_regex": f"(^|/){pattern}$", "age": ",".join(age), "pgp": ",".join(pgp)}
    return "- {" + ", ".join(f"{key}: {_quoted(value)}" for key, value in keys.items() if value) + "}"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def canonical(recipient: str) -> str:
    """A recipient in the one form in which it is compared; one of a key service stands for itself."""
    try:
        return sops.canonical(recipient)
    except sops.BadRecipient:
        return recipient
