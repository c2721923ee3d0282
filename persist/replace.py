"""`persist recall --replace`: a kept home takes the place of the present one, which is kept as a snapshot first.

The copy is made beside that snapshot, in @agents-snapshots/AGENT/NAME, and changes places with the living home in one
exchange. What lived stands in the snapshot's entry then, and takes the snapshot's place there: the very home, with all
that was nested in it. What the agent declared is not part of it: it stays as it is now, as at a boot.
"""

import argparse
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout, suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from persist import (
    copied,
    device,
    fitting,
    kept,
    nested,
    recopied,
    shelving,
    stopping,
    swapping,
    taking,
    underway,
)
from persist import plain as plain_
from persist.alone import alone
from persist.fitting import Fitted
from persist.kept import HOME, Kept
from persist.restore import staging
from persist.swapping import Scene, Swapped
from persist.underway import Underway
from town import btrfs, cli, files, kernel, locks, subvolumes
from town.btrfs import BtrfsFailed
from town.failure import DONE, Failure
from town.spec import Spec
from town.terminal import say, shell_word, shown

_BESIDE = "replacing"  # in the entry of the snapshot: the copy before the exchange, what lived after it


@dataclass(frozen=True, slots=True)
class Wish:
    """What a person wants: which kept home, with its keys and logins or not, and may the agent be stopped."""

    home: Kept
    secrets: bool
    stop: bool

    @property
    def verb(self) -> str:
        """The command, as a person types it."""
        return f"recall {shell_word(self.home.name)} --replace"


def command(town: Spec, arguments: argparse.Namespace) -> int:
    """Put a kept home into the place of the present one, and say what that is called now."""
    agent = town.agent(kept.parse(arguments.home)[0].partition(".")[0])
    with nullcontext() if town.town.btrfs is not None else device.top(town), swapping.scene(town, agent) as at:
        wish = Wish(_chosen(at, arguments.home), not arguments.without_secrets, arguments.stop)
        if arguments.dry_run:
            lines = plan(at, wish)
            cli.put_json({"dry_run": True, "actions": lines}) if arguments.json else print("\n".join(lines))
            return DONE
        with redirect_stdout(sys.stderr):  # the result is the name alone
            done, fitted = replace(at, wish)
        _tell(at, wish, done, fitted)
        if arguments.json:
            cli.put_json(_json(at, wish, done, fitted))
        elif done.kept:
            print(done.kept)
    return DONE


def _chosen(at: Scene, wanted: str) -> Kept:
    """The kept home that is meant: also one that an earlier run began with, and that is gone since."""
    try:
        return kept.chosen(kept.every(at.town, at.top, at.here.agents), wanted)
    except kept.NoSuchHome:
        begun = underway.read(at.agent)
        if begun is None or begun.source != wanted:
            raise
        agent, key = map(os.fsencode, kept.parse(wanted))
        return Kept("snapshot", agent, key, None, "", False, ())


def plan(at: Scene, wish: Wish) -> list[str]:
    """What a replacement would do, a line for each thing; refuses what it would refuse, and changes nothing."""
    if swapping.begun(at, wish.verb) is not None:
        return ["finish    what an interrupted replacement began"]
    swapping.refuse(at, wish.verb, stop=wish.stop)
    home, stood = shown(str(at.town.home(at.agent))), stopping.stood(at.agent)
    return [
        *swapping.ends(at, stood),
        *([f"snapshot  {home} -> {at.agent.name}@{_place(at)}"] if swapping.lives(at, stop=wish.stop) else []),
        f"snapshot  {wish.home.name}{'' if wish.secrets else ', without keys and logins'}",
        f"exchange  that and {home}, and restore into it what is declared, as it is now",
        *(f"start     {what}" for what in stopping.again(at.agent, stood)),
    ]


def _place(at: Scene) -> str:
    assert at.top is not None, "a town with [town.btrfs]"
    with shelving.agent(at.town, at.top, at.agent.name) as above:
        return shelving.free_name(above, kept.stamp(_now()))


def _now() -> datetime:
    return datetime.fromtimestamp(time.time(), UTC)


def replace(at: Scene, wish: Wish) -> tuple[Swapped, Fitted]:
    """Put the kept home into the present one's place. Raises Busy, and what `swapping` and `stopping` raise."""
    done, fitted = Swapped(), Fitted()
    with alone(at.town, at.agent):
        swapping.uncover(at, wish.verb, stop=wish.stop)
        before = swapping.begun(at, wish.verb)
        done.finished = before is not None and before.home != swapping.identity(at)
        if before is None or not done.finished:
            before = _begun(at, wish, before)
            fitted = _swapped(at, wish, before, done)
        done.kept = f"{at.agent.name}@{before.place}" if before.home else ""
        _follow(at, before)
        swapping.settle(at, before.stood, done)  # declared directories are brought over from what lived until now
        _keep(at, before)
    swapping.start(at, before.stood, done)
    return done, fitted


def _begun(at: Scene, wish: Wish, earlier: Underway | None) -> Underway:
    """Write down what is about to be done. What an earlier run kept is older than the home may be: it is kept anew."""
    if earlier is None:
        swapping.refuse(at, wish.verb, stop=wish.stop)
    else:
        swapping.unkeep(at, earlier)
        if swapping.is_hopeless(at, earlier) and earlier.source == wish.home.name:
            swapping.back(at, earlier.stood)
            what = f"{wish.home.name} is gone; the home is as it was"
            raise kept.NoSuchHome(what, hint=f"persist homes {at.agent.name} lists what is kept")
    stood = stopping.stood(at.agent) if earlier is None else earlier.stood
    before = Underway(wish.verb, swapping.identity(at), _place(at), stood, wish.home.name)
    underway.write(at.agent, before)
    return before


def _swapped(at: Scene, wish: Wish, before: Underway, done: Swapped) -> Fitted:
    """Stop the agent and exchange, or leave all as it was. Raises what `swapping` raises."""
    try:
        done.ended = swapping.still(at, before.stood, before.verb, stop=wish.stop)
        began = time.monotonic()
        fitted = _exchanged(at, wish, before)
        done.seconds = time.monotonic() - began
    except BaseException as error:
        swapping.unkeep(at, before)
        swapping.back(at, before.stood)
        if isinstance(error, (OSError, BtrfsFailed)):
            raise swapping.failed(at, error) from error
        raise
    return fitted


def _exchanged(at: Scene, wish: Wish, before: Underway) -> Fitted:
    """Keep the present home, then exchange it and a copy of the other."""
    if before.home:
        message = f"before {wish.home.name} took its place"
        assert at.top is not None, "a town with [town.btrfs]"
        taking.take(at.town, at.agent, at.top, name=before.place, message=message, now=_now(), of=wish.home.name)
    fitted: list[Fitted] = []
    with _entry(at, before) as entry, swapping.homes(at) as agents:
        swapping.with_room(at, lambda: fitted.append(_one(at, wish, (agents, entry), before)))
    return fitted[-1]


@contextmanager
def _entry(at: Scene, before: Underway) -> Iterator[int | None]:
    """The entry of the snapshot, open, and nobody's to take away meanwhile; None when there was no home to keep."""
    assert at.top is not None, "a town with [town.btrfs]"
    if not before.home:
        yield None
        return
    with (
        shelving.agent(at.town, at.top, at.agent.name) as above,
        files.opened(files.enter(above, before.place)) as entry,
    ):
        if not locks.free(entry):
            raise recopied.InUse(f"{at.agent.name}@{before.place} is being read", hint="try again when that has ended")
        yield entry


def _one(at: Scene, wish: Wish, places: tuple[int, int | None], before: Underway) -> Fitted:
    """One try: the copy is made, made ready, and changes places."""
    agents, entry = places
    plain = not before.home or entry is None or not _is_subvolume(agents, at.agent.name)
    where = agents if plain or entry is None else entry
    name = staging.hidden(at.agent.name) if plain else _BESIDE  # a restore removes such a name that is left over
    with suppress(FileNotFoundError):
        subvolumes.remove(where, name)
    try:
        with (
            kept.opened(at.town, at.top, wish.home, at.here.agents) as home,
            recopied.snapshot(where, wish.home, home, name) as copy,
        ):
            owner = os.fstat(home.fd)
            if copy.inside:
                fitting.raised(copy)
            less, now = not wish.secrets, _now()
            fitted = fitting.fit(at.town, at.agent, wish.home, copy, owner, without_secrets=less, now=now)
        if plain and before.home and entry is not None:
            plain_.keep(agents, entry, at.agent.name, _BESIDE)
        if not before.home:
            kernel.renameat2(agents, name, agents, at.agent.name)
            swapping.durable(at)
        else:
            swapping.exchange(at, agents, where, name)
    except BaseException:
        if swapping.identity(at) == before.home:
            with suppress(OSError, Failure):
                subvolumes.remove(where, name)
        raise
    if plain and before.home:
        with suppress(OSError, BtrfsFailed):  # the same is kept beside the snapshot; a restore removes it, too
            subvolumes.remove(agents, name)
    return fitted


def _is_subvolume(directory: int, name: str) -> bool:
    with files.opened(files.enter(directory, name)) as fd:
        return btrfs.is_subvolume(fd)


def _keep(at: Scene, before: Underway) -> None:
    """What lived takes the place of the snapshot of it: it also has what was left out of that. Told where it fails."""
    try:
        with _entry(at, before) as entry:
            if entry is None:
                return
            with suppress(FileNotFoundError):
                if _is_what_lived(entry, before):
                    kernel.renameat2(entry, _BESIDE, entry, HOME, kernel.RENAME_EXCHANGE)
                with suppress(FileNotFoundError):
                    subvolumes.remove(entry, _BESIDE)
            with files.opened(files.enter(entry, HOME)) as home:
                nested.close(home, most=nested.MOST)
            swapping.durable(at)
    except (OSError, Failure) as error:
        what = error.what if isinstance(error, Failure) else cli.unexpected(error)
        cli.warn("persist", f"{at.agent.name}@{before.place}: more than a snapshot lies in it: {what}")


def _follow(at: Scene, before: Underway) -> None:
    """What was declared is brought over from what was made of a home that was a plain directory."""
    if not copied.is_plain(before.home):
        return
    with suppress(FileNotFoundError), _entry(at, before) as entry:
        assert entry is not None, "there was a home"
        name = HOME
        with suppress(FileNotFoundError):
            name = _BESIDE if _is_what_lived(entry, before) else HOME
        with files.opened(files.enter(entry, name)) as home:
            plain_.follow(at.town, at.agent, before.home, home)


def _is_what_lived(entry: int, before: Underway) -> bool:
    """Whether what lies beside the snapshot is the home that lived: itself, or of a plain one what was made of it."""
    with files.opened(files.enter(entry, _BESIDE)) as fd, files.opened(files.enter(entry, HOME)) as taken:
        if copied.is_plain(before.home):
            return btrfs.number(fd) > btrfs.number(taken)  # the snapshot was made first
        return copied.of_home(fd).home == before.home


# ---- words


def _tell(at: Scene, wish: Wish, done: Swapped, fitted: Fitted) -> None:
    from persist.recall import secret_lines

    for line in swapping.lines(at.agent, done, "replacement"):
        say(line)
    say(f"{at.agent.name} lives in a copy of {wish.home.name}")
    for line in _declared_lines(wish.home, fitted):
        say(line)
    if fitted.moved:
        say(f"note: stood where declared data belongs, and has another name now: {', '.join(fitted.moved)}")
    if fitted.left:
        say(f"note: {fitted.left:,} nested subvolumes, with what lies in them, are not in the copy")
    for line in secret_lines(fitted.found, left_out=not wish.secrets):
        say(line)
    if done.kept:
        say(f"what it had is kept; to have it back: persist recall {shell_word(done.kept)} --replace")


def _declared_lines(home: Kept, fitted: Fitted) -> Iterator[str]:
    """What of the old home is not lived in, and how to have it."""
    stays, older = (", ".join(shown(str(path)) for path in paths) for paths in (fitted.stays, fitted.older))
    anew = ", ".join(shown(path) for path in fitted.anew)
    if stays:
        yield f"note: what is declared stays as it is now: {stays}"
    if anew:
        yield f"note: identity install writes these anew, without what was changed in them: {anew}"
    if older or anew:
        both = ", ".join(filter(None, (older, anew)))
        yield f"as of then: persist recall {shell_word(home.name)} --to DIR, and copy from there: {both}"


def _json(at: Scene, wish: Wish, done: Swapped, fitted: Fitted) -> dict[str, object]:
    return {
        "agent": at.agent.name,
        "of": wish.home.name,
        **swapping.as_json(done),
        "declared_stays": [str(path) for path in fitted.stays],
        "older": [str(path) for path in fitted.older],
        "installed_anew": [cli.named(path) for path in fitted.anew],
        "moved": fitted.moved,
        "secrets": {
            "left_out": not wish.secrets,
            "found": fitted.found.secrets.count,
            "first": [cli.named(path) for path in fitted.found.secrets.first],
            "whole": fitted.found.whole,
            "too_deep": fitted.found.deep,
        },
        "nested_left_out": fitted.left,
    }
