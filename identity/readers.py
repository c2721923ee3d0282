"""Who can open a SOPS file, held against the recipients of the spec, and how the file is brought to them."""

import re
from collections.abc import Iterator
from pathlib import Path

from identity.finding import Finding
from identity.vault import Vault
from town import sops
from town.terminal import shell_word, shown


def recipients(vault: Vault, humans: tuple[str, ...], hosts: tuple[str, ...]) -> Iterator[Finding]:
    """What differs between a file's recipients and those of the spec. Raises sops.BadSopsFile."""
    assert vault.data is not None
    there = set(map(_canonical, sops.recipients_of(vault.data, str(vault.path))))
    cure = update(vault, (*humans, *hosts))
    if not there & set(map(_canonical, humans)):
        yield Finding("error", vault.name, "no human of the spec can open it", cure)
    for one in humans:
        if _canonical(one) not in there:
            yield Finding("warning", vault.name, f"{shown(one)} (human) cannot open it", cure)
    for one in hosts:
        if _canonical(one) not in there:
            yield Finding("error", vault.name, f"{shown(one)} (host) cannot open it: install would fail", cure)
    for one in sorted(there - set(map(_canonical, (*humans, *hosts)))):
        yield Finding("warning", vault.name, f"{shown(one)} can open it and is not in the spec", cure)


def hosts_of_recovery(vault: Vault, humans: tuple[str, ...], hosts: tuple[tuple[str, str], ...]) -> Iterator[Finding]:
    """Hosts that can open a file for humans only. Raises sops.BadSopsFile."""
    assert vault.data is not None
    names = {_canonical(one): name for name, one in hosts}
    for one in sops.recipients_of(vault.data, str(vault.path)):
        if (name := names.get(_canonical(one))) is not None:
            what = f"the host {shown(name)} can open it: it is for humans only"
            yield Finding("error", vault.name, what, f"{update(vault, humans)} - and then rotate what is in it")


def update(vault: Vault, wanted: tuple[str, ...]) -> str:
    """The steps that give a file these recipients: gen changes none of a file that exists, the program sops does."""
    folder = shown(str(_folder(vault)))
    return (
        f"this needs the program sops. In {folder}/.sops.yaml make this the first of the creation_rules: "
        f"{rule(vault, wanted)} - then, with a key that opens the file: "
        f"cd {shell_word(str(_folder(vault)))} && sops updatekeys {shell_word(vault.path.name)}"
    )


def rule(vault: Vault, wanted: tuple[str, ...]) -> str:
    """The creation rule for one file, as one line of YAML."""
    pgp = [one for one in wanted if re.fullmatch("[0-9A-F]+", one)]
    age = [one for one in wanted if one not in pgp]
    pattern = re.sub(r"([.+*?()\[\]{}|^$\\])", r"\\\1", vault.path.name)
    keys = {"path_regex": f"^{pattern}$", "age": ",".join(age), "pgp": ",".join(pgp)}
    return "- {" + ", ".join(f"{key}: {_quoted(value)}" for key, value in keys.items() if value) + "}"


def _folder(vault: Vault) -> Path:
    # sops looks for its configuration from where it runs, so the file's own folder serves whatever lies above it.
    return vault.path.absolute().parent


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _canonical(recipient: str) -> str:
    try:
        return sops.canonical(recipient)
    except sops.BadRecipient:
        return recipient  # a key service, say: it stands for itself
