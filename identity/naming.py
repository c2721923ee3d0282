"""Where it is said who can open the secrets, and the edit that adds or removes one: [town.recipients] of the spec."""

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from identity import specfile
from identity.lists import Unforeseen
from town import files, grammar, recipients, sops
from town import toml as toml_files
from town.failure import Failure, TryLater, WrongUsage
from town.grammar import Wrong
from town.spec import Recipients, Spec
from town.terminal import shown

_GENERATED = re.compile(rb"generated|do not edit|managed by", re.IGNORECASE)
_NIX = Path("/nix/store")


class NotEditable(Failure):
    """The file that names the recipients cannot be changed from here; the lines for it were printed."""


class LocksOut(Failure):
    """Without that recipient nobody, or no human, could open the files any more."""


class AlreadySomebody(Failure):
    """The recipient, or the name of the host, stands for something else already."""


class Meanwhile(TryLater):
    """A file was changed while this run worked. Nothing was written over it; trying again helps."""


@dataclass(frozen=True, slots=True)
class AddHuman:
    """Somebody who can also open the recovery file."""

    recipient: str


@dataclass(frozen=True, slots=True)
class AddHost:
    """A machine of that name."""

    name: str
    recipient: str


@dataclass(frozen=True, slots=True)
class Remove:
    """Whoever has this recipient, human or host; in the form of sops.canonical."""

    recipient: str


Asked = AddHuman | AddHost | Remove


@dataclass(frozen=True, slots=True)
class Edit:
    """Make `file`, which holds `before`, hold `after`; `says` is the difference in words."""

    file: Path
    before: bytes
    after: bytes
    says: str

    def __str__(self) -> str:
        return f"edit    {shown(str(self.file))}: {self.says}"


def recipient(text: str) -> str:
    """A recipient of the command line as a spec would have it. Raises WrongUsage that does not repeat a private key."""
    try:
        made = recipients.recipient(text)
        sops.canonical(made)
    except Wrong as wrong:
        raise WrongUsage(f"the recipient {wrong.what}", hint=wrong.cure) from wrong
    return made


def host_name(text: str) -> str:
    """The name of a host on the command line. Raises WrongUsage."""
    try:
        return grammar.host_name(text)
    except Wrong as wrong:
        raise WrongUsage(f"--host: {wrong.what}", hint=wrong.cure) from wrong


def in_spec(spec: Spec, asked: Asked) -> tuple[Edit | None, Spec]:
    """The edit of the spec's file, and the spec as it is afterwards; no edit where it says so already.

    Raises AlreadySomebody, LocksOut, NotEditable.
    """
    wanted = _wanted(spec, asked)
    if wanted == spec.town.recipients:
        return None, spec
    after = spec._replace(town=spec.town._replace(recipients=wanted))
    before = files.read_bounded(spec.file, toml_files.LIMIT)
    try:
        refuse_not_ours(spec.file, before)
        text = _edited(spec, before.decode(), asked)
    except NotEditable:
        print(specfile.lines(wanted), flush=True)
        raise
    return Edit(spec.file, before, text.encode(), said(asked)), after


def said(asked: Asked) -> str:
    """What is asked for, as a difference."""
    match asked:
        case AddHuman(one):
            return f"+ {shown(one)} (human)"
        case AddHost(name, one):
            return f"+ {shown(one)} (host {shown(name)})"
        case Remove(one):
            return f"- {shown(one)}"


def _wanted(spec: Spec, asked: Asked) -> Recipients:
    named = spec.town.recipients
    assert named is not None
    match asked:
        case AddHuman(one):
            return _with_human(named, one)
        case AddHost(name, one):
            return _with_host(named, name, one)
        case Remove(one):
            left = specfile.left(named, one)
            if not left.humans:
                raise LocksOut(
                    f"{shown(one)} is the last human of the spec: nobody could open the secrets without the machine",
                    hint="add another first: identity recipients add --human age1…",
                )
            return left


def _with_human(named: Recipients, one: str) -> Recipients:
    for name, other in named.hosts:
        if sops.canonical(other) == sops.canonical(one):
            raise AlreadySomebody(
                f"{shown(one)} is the host {name}: the recovery file is for humans only",
                hint="give the human a key of their own: age-keygen makes one",
            )
    if sops.canonical(one) in map(sops.canonical, named.humans):
        return named
    return named._replace(humans=(*named.humans, one))


def _with_host(named: Recipients, name: str, one: str) -> Recipients:
    if sops.canonical(one) in map(sops.canonical, named.humans):
        raise AlreadySomebody(
            f"{shown(one)} is a human's: a machine that has it opens the recovery file too",
            hint="make the machine's own key there: identity host init",
        )
    there = dict(named.hosts).get(name)
    if there is None:
        for other, known in named.hosts:
            if sops.canonical(known) == sops.canonical(one):
                raise AlreadySomebody(
                    f"{shown(one)} is the host {other} already",
                    hint=f"to have it called {name}, change that name in [town.recipients]",
                )
        return named._replace(hosts=(*named.hosts, (name, one)))
    if sops.canonical(there) != sops.canonical(one):
        raise AlreadySomebody(
            f"the host {name} has another recipient: {shown(there)}",
            hint=f"if its key is a new one, remove the old one first: identity recipients remove --host {name}",
        )
    return named


def _edited(spec: Spec, text: str, asked: Asked) -> str:
    try:
        match asked:
            case AddHuman(one):
                return specfile.with_human(spec, text, one)
            case AddHost(name, one):
                return specfile.with_host(spec, text, name, one)
            case Remove(one):
                return specfile.without(spec, text, one)
    except Unforeseen as error:
        raise not_editable(spec.file, "has [town.recipients] in a layout that is not changed here") from error


def refuse_not_ours(file: Path, data: bytes) -> None:
    """Refuse to change a file that something else writes, or that cannot be written. Raises NotEditable."""
    real = Path(os.path.realpath(file))
    if real.is_relative_to(_NIX):
        raise NotEditable(
            f"{shown(str(file))} comes from the configuration of NixOS: {shown(str(real))}",
            hint="write there what stands above, rebuild, and then: identity recipients sync",
        )
    if _GENERATED.search(b"\n".join(_comments(data))):
        raise not_editable(file, "is generated: its first lines say so")
    writable = os.access(real, os.W_OK) and os.access(real.parent, os.W_OK | os.X_OK)
    # Root may write everything: a file without any write permission is one that somebody does not want written.
    if not writable or not os.stat(real).st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH):
        raise not_editable(file, "cannot be written here")


def not_editable(file: Path, why: str) -> NotEditable:
    """The failure, with the way round it."""
    return NotEditable(
        f"{shown(str(file))} {why}",
        hint="write there what stands above, where that file is made, and then: identity recipients sync",
    )


def _comments(data: bytes) -> list[bytes]:
    """The comment that a file begins with."""
    found = []
    for line in data.splitlines():
        if line.strip() and not line.lstrip().startswith(b"#"):
            break
        found.append(line)
    return found


def write(edit: Edit) -> None:
    """Carry an edit out, with the mode and the owner that the file has. Raises Meanwhile, files.Unwritable."""
    real = Path(os.path.realpath(edit.file))
    if files.read_bounded(real, toml_files.LIMIT) != edit.before:
        raise Meanwhile(f"{shown(str(edit.file))} was changed meanwhile", hint="run it again")
    found = os.stat(real)
    owner = (found.st_uid, found.st_gid) if os.geteuid() == 0 else None
    files.write_whole(real, edit.after, mode=stat.S_IMODE(found.st_mode), owner=owner)
