"""What a crash may leave of recorded writes: whole flush epochs, then any of the next one's writes, one of them torn.

A write that was not flushed may be on the disk or not, whichever order it was issued in, and may be there in part: any
of its pieces (tests/replay/log.py), and of a piece the first sectors. btrfs counts on a superblock being written whole,
so that one is never cut.
"""

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass

from tests.replay.image import SUPERBLOCKS
from tests.replay.log import Log, Write

SECTOR = 512


@dataclass(frozen=True, slots=True)
class State:
    """So many whole epochs, these writes of the next one by their numbers, and the first sectors of another."""

    epoch: int
    kept: tuple[int, ...] = ()
    torn: tuple[int, int] | None = None  # the write, how many sectors of it

    def __str__(self) -> str:
        """As `parse` reads it: 2/17,19/20:3 is epochs 0 and 1, the writes 17 and 19, three sectors of 20."""
        torn = "" if self.torn is None else f"/{self.torn[0]}:{self.torn[1]}"
        return f"{self.epoch}/{','.join(map(str, self.kept))}{torn}"


def parse(text: str) -> State:
    """The state that `str` wrote."""
    epoch, kept, *torn = text.split("/")
    write, sectors = map(int, torn[0].split(":")) if torn else (0, 0)
    return State(int(epoch), tuple(int(word) for word in kept.split(",") if word), (write, sectors) if torn else None)


def writes(log: Log, state: State) -> Iterator[tuple[int, bytes]]:
    """What to write on the base to have the state: (offset, data), in order."""
    for epoch in log.epochs[: state.epoch]:
        yield from ((write.offset, write.data) for write in epoch)
    torn, sectors = state.torn or (-1, 0)
    for write in log.epochs[state.epoch] if state.epoch < len(log.epochs) else ():
        if write.number in state.kept:
            yield write.offset, write.data
        elif write.number == torn:
            yield write.offset, write.data[: sectors * SECTOR]


def commits(log: Log) -> list[State]:
    """The start of each epoch, and the end."""
    return [State(number) for number in range(len(log.epochs) + 1)]


def prefixes(log: Log) -> list[State]:
    """Every moment of the recording, were writes never reordered: after no write, after one, …, after all."""
    found = []
    for number, epoch in enumerate(log.epochs):
        # All writes of an epoch are the next one's start: it has that name only.
        found += [State(number, tuple(write.number for write in epoch[:count])) for count in range(len(epoch))]
    return [*found, State(len(log.epochs))]


def torn(log: Log, dice: random.Random) -> Iterator[State]:
    """A write cut short, after all or some of those before it; without end, and a state may come again."""
    cuttable = [
        (number, write) for number, epoch in enumerate(log.epochs) for write in epoch if any(True for _ in _cuts(write))
    ]
    while cuttable:
        number, write = dice.choice(cuttable)
        others = [other.number for other in log.epochs[number] if other.number != write.number]
        before = [other for other in others if other < write.number]
        kept = before if dice.random() < 0.5 else [other for other in others if dice.random() < 0.7]
        yield State(number, tuple(kept), (write.number, dice.choice(list(_cuts(write)))))


def subsets(log: Log, dice: random.Random) -> Iterator[State]:
    """Some writes of an epoch that are no prefix of it: reordered by the disk; without end, with repetitions."""
    ragged = [(number, epoch) for number, epoch in enumerate(log.epochs) if len(epoch) > 1]
    while ragged:
        number, epoch = dice.choice(ragged)
        share = dice.random()
        kept = [write.number for write in epoch if dice.random() < share]
        if kept and kept != [write.number for write in epoch[: len(kept)]]:
            yield State(number, tuple(kept))


def sample(log: Log, dice: random.Random, count: int, *, every_prefix: bool = False) -> list[State]:
    """About `count` different states: half of them prefixes (or all there are), the others torn and reordered.

    Fewer where the log has no more. The moment after the last write is always among them.
    """
    whole = prefixes(log)
    some = whole if every_prefix else [*dice.sample(whole[:-1], min(count // 2, len(whole) - 1)), whole[-1]]
    found = dict.fromkeys(some)
    both = (state for pair in zip(torn(log, dice), subsets(log, dice), strict=False) for state in pair)
    more = 0
    for state in itertools.islice(both, 50 * count):
        if more >= count - count // 2:
            break
        more += state not in found
        found[state] = None
    return list(found)


def _cuts(write: Write) -> Iterator[int]:
    """After how many sectors a write may be cut: anywhere but inside a superblock."""
    for sectors in range(1, len(write.data) // SECTOR):
        at = write.offset + sectors * SECTOR
        if not any(start < at < start + size for start, size in SUPERBLOCKS):
            yield sectors
