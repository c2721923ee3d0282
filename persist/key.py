"""`persist key show|add|remove|rotate`: who can open the store's key, and when a new one begins.

No object is replaced or deleted: a change writes one more key file, under the next number (`persist.bucket.keyfile`).
"""

import argparse
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime

from persist import rotation
from persist.bucket import keyfile, lock, opening
from persist.bucket.keyfile import KeyFile
from persist.rotation import Holder
from persist.store import Store, open_store
from town import cli, recipients, sops, trust
from town import spec as specs
from town.failure import DONE, Failure, WrongUsage
from town.grammar import Wrong, quoted
from town.spec import Spec
from town.terminal import shell_word, shown


class LocksOut(Failure):
    """Without that recipient no human, or this machine itself, could open the store's key any more."""


class NoSuchRecipient(Failure):
    """The store's key is not sealed for that recipient."""


@dataclass(frozen=True, slots=True)
class Report:
    """What `persist key show` says. `altered`: the file's list is not the one that its writer sealed."""

    file: str
    epoch: int
    recipients: tuple[Holder, ...]
    commitments: tuple[str, ...]  # of all epochs, oldest first
    opens_here: bool
    why_not: str
    a_human_can: bool
    altered: bool
    missing: tuple[Holder, ...]  # named in the spec, and cannot open it

    @property
    def lines(self) -> list[str]:
        """For people."""
        return [
            f"{self.file}, epoch {self.epoch}",
            *(f"  {holder}" for holder in self.recipients),
            *(f"epoch {number}: commitment {one}" for number, one in enumerate(self.commitments, 1)),
            f"this machine opens it: {'yes' if self.opens_here else 'no'}",
            f"a human can open it: {'yes' if self.a_human_can else 'no'}",
        ]


def command(arguments: argparse.Namespace) -> int:
    """What `arguments.do` says. Raises WrongUsage, LocksOut, KeyChanged, and what opening a store raises."""
    spec = specs.load(cli.spec_file(arguments))
    if (arguments.recipient is None) == (arguments.do in ("add", "remove")):
        raise WrongUsage(
            f"persist key {arguments.do} takes {'one recipient' if arguments.recipient is None else 'no recipient'}",
            hint="persist key show | add RECIPIENT | remove RECIPIENT | rotate",
        )
    trust.refuse(spec)
    match arguments.do:
        case "show":
            return show(spec, json=arguments.json)
        case "rotate":
            return rotation.rotate(spec, dry_run=arguments.dry_run, json=arguments.json)
        case "add":
            return _change(spec, arguments, _with)
        case _:
            return _change(spec, arguments, lambda file, one: _without(spec, file, one, sure=arguments.lock_out))


def show(spec: Spec, *, json: bool) -> int:
    """Who can open the store's key, on standard output; what is wrong with that on standard error."""
    found = report(spec)
    if json:
        cli.put_json(asdict(found))
    else:
        print("\n".join(found.lines))
    if not found.opens_here:
        cli.warn("persist", f"this machine cannot open the store's key: {found.why_not}", "persist key add, elsewhere")
    if not found.a_human_can:
        cli.warn("persist", "no human can open the store's key: with this machine, all data in it is lost", _ADD)
    if found.altered:
        what = f"the list of recipients of {found.file} was changed since it was sealed"
        cli.warn("persist", what, "somebody changed it in the store; any `persist key add` writes it anew")
    for one in found.missing:
        cli.warn(
            "persist", f"the spec names {one}, who cannot open the store's key", f"persist key add {one.recipient}"
        )
    return DONE


def report(spec: Spec) -> Report:
    """What is to be known of the store's key. Raises as opening a store does, but for NoKey: that is in the report."""
    store, locked = open_store(spec), lock.read(spec)
    try:
        file, data = opening.read(spec, store, locked)
        listed, why_not, number = file.listed, "", file.number
    except sops.NoKey as failure:
        number, data = keyfile.newest(store)
        file, listed, why_not = None, sops.recipients_of(data, keyfile.name(number)), failure.what
    assert locked is not None, "opening refuses a store without its lock"
    holders = rotation.holders(spec, listed)
    named = () if spec.town.recipients is None else spec.town.recipients.all
    return Report(
        file=keyfile.name(number),
        epoch=locked.epoch,
        recipients=holders,
        commitments=locked.all,
        opens_here=file is not None,
        why_not=why_not,
        a_human_can=any(holder.human for holder in holders),
        altered=file is not None and sorted(file.recipients) != sorted(listed),
        missing=tuple(one for one in rotation.holders(spec, named) if one.recipient not in listed),
    )


_Plan = Callable[[KeyFile, str], tuple[str, ...]]


def _change(spec: Spec, arguments: argparse.Namespace, plan: _Plan) -> int:
    """Write the next key file for the recipients that `plan` gives; nothing when they are those of the last one."""
    one, store = _recipient(arguments.recipient), open_store(spec)
    file, _ = opening.read(spec, store, lock.read(spec))
    to = plan(file, one)
    if sorted(to) == sorted(file.recipients) == sorted(file.listed):
        return _said(arguments, file, f"{_who(spec, one)} can open {file.name} already: nothing to do", wrote=False)
    new = replace(file, number=file.number + 1, recipients=to, says="")
    if arguments.dry_run:
        return _said(arguments, new, f"write  {new.name}, for {', '.join(map(shown, to))}", wrote=False)
    _write(spec, store, new, arguments.do, one)
    return _said(arguments, new, f"wrote {new.name}, for {', '.join(map(shown, to))}", wrote=True)


def _write(spec: Spec, store: Store, new: KeyFile, do: str, one: str) -> None:
    rotation.write(spec, store, new, datetime.now(UTC))
    if do == "remove":
        cli.warn(
            "persist",
            f"with a copy of the key, {_who(spec, one)} still opens all that was and will be written in epoch "
            f"{new.key.epoch}",
            "begin a new epoch: persist key rotate",
        )


def _with(file: KeyFile, one: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys([*file.recipients, one]))


def _without(spec: Spec, file: KeyFile, one: str, *, sure: bool) -> tuple[str, ...]:
    if one not in (*file.recipients, *file.listed):
        raise NoSuchRecipient(f"{file.name} is not sealed for {shown(one)}", hint="persist key show")
    rest = tuple(other for other in file.recipients if other != one)
    (gone,), left = rotation.holders(spec, [one]), rotation.holders(spec, rest)
    if not left:
        raise LocksOut(f"{gone} is the last who can open the store's key", hint=_ADD)
    if gone.human and not any(holder.human for holder in left) and not sure:
        raise LocksOut(
            f"{gone} is the last human who can open the store's key",
            hint=f"{_ADD}; if that is meant: persist key remove --lock-out {shell_word(one)}",
        )
    if gone.here and not any(holder.here for holder in left) and not sure:
        raise LocksOut(
            f"{gone} is this machine: it could neither sync nor restore any more",
            hint="run it on another machine, or, if that is meant: persist key remove --lock-out " + shell_word(one),
        )
    return rest


def _recipient(text: str) -> str:
    """A recipient of the command line in the form in which files list it. Raises WrongUsage, BadRecipient."""
    try:
        return sops.canonical(recipients.recipient(text))
    except Wrong as wrong:
        raise WrongUsage(f"{_given(text)} {wrong.what}", hint=wrong.cure) from wrong


def _given(text: str) -> str:
    """What was given, for a message; not what may be a private key."""
    secret = any(word in text.upper() for word in ("SECRET", "PRIVATE", "AGE-", "BEGIN"))
    return "the recipient" if secret or len(text) > _SHOWN else f"the recipient {quoted(text)}"


def _who(spec: Spec, one: str) -> str:
    return str(*rotation.holders(spec, [one]))


def _said(arguments: argparse.Namespace, file: KeyFile, words: str, *, wrote: bool) -> int:
    if arguments.json:
        told = {"file": file.name, "epoch": file.key.epoch, "recipients": file.recipients, "wrote": wrote}
        cli.put_json(told)
    else:
        print(words)
    return DONE


_ADD = "add one: persist key add age1…"
_SHOWN = 100  # characters of a recipient that is none; what is longer is not repeated
