"""One change of keys that exist: read, decided, made in memory, proved, written as one step through the journal."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from identity import gen, journal
from identity.found import Found
from identity.guard import locked, no_core_dump
from identity.places import Places
from identity.texts import Text
from town import cli
from town.failure import DONE
from town.terminal import say, shown


@dataclass(frozen=True, slots=True)
class Amended:
    """What a run decided (`plan`, one line each), what it writes, and what a person has to know after it."""

    plan: Sequence[object]
    texts: Sequence[Text]
    hints: Sequence[str] = ()


Amend = Callable[[datetime], Amended]  # from the time of the run, in whole seconds, UTC
Made = Callable[[datetime], bool]  # whether the keys in use are of a run that began to write at that time


def carry_out(where: Places, run: str, amend: Amend, *, dry: bool, made: Made = lambda _: False) -> int:
    """Amend and write, or say what would be written. `run` names this run for the next one, should it be killed.

    A killed run of the same name is finished. Where `made` says that its keys are those in use now, nothing is amended
    beside it: it has done what was asked for.
    """
    no_core_dump()
    now = datetime.now(UTC).replace(microsecond=0)
    if dry:
        return _say(where, run, amend, now)
    with locked(where):
        began = journal.written_at(where) if journal.interrupted(where) == run else None
        written = journal.finish(where)
        if began is not None and made(began):
            say("identity: hint: an interrupted run had made this change already; it is finished now")
            amended = Amended((), ())
        else:
            amended = amend(now)
        if writes := _writes(where, amended):
            journal.commit(where, writes, run)
    for one in [*written, *writes]:
        print(shown(one.name))
    if not written and not writes:
        print("nothing to do")
    _advise(amended)
    return DONE


def _say(where: Places, run: str, amend: Amend, now: datetime) -> int:
    if left := journal.pending(where):
        for one in left:
            print(f"finish  {shown(one.name)}")
        if journal.interrupted(where) != run:
            say("identity: hint: a run was interrupted; what comes after it is planned when it is finished")
        return DONE
    amended = amend(now)
    for step in amended.plan:
        print(shown(str(step)))
    for one in (writes := _writes(where, amended)):
        print(f"{'remove' if one.data is None else 'write':<7} {shown(one.name)}")
    if not writes:
        print("nothing to do")
    _advise(amended)
    return DONE


def _writes(where: Places, amended: Amended) -> list[journal.Write]:
    return [one for one in (journal.write(where, *text) for text in amended.texts) if one.changes]


def _advise(amended: Amended) -> None:
    for hint in amended.hints:
        cli.advise("identity", hint)


def unproven(found: Found) -> list[str]:
    """What is said of files that were written and could not be decrypted again."""
    return [gen.unproven(vault) for vault in (found.recovery, found.secrets) if not vault.proven]
