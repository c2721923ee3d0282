"""Which of the real boots a run makes: a seeded sample, all of them with NUKETOWN_SCALE=10."""

import random
from typing import TypeVar

import initrd
from tests import scale
from tests.boot import guest, story

T = TypeVar("T")

CRYPTS: tuple[guest.Crypt, ...] = ("plain", "luks")


def chance(purpose: str) -> random.Random:
    """Each purpose has its own: what one test draws changes nothing for another."""
    return random.Random(f"{scale.SEED} {purpose}")


def kind(purpose: str) -> initrd.Kind:
    """One of the two for a test that needs only one."""
    return chance(purpose).choice(initrd.KINDS)


def cases(of: initrd.Kind) -> list[tuple[guest.Crypt, tuple[str, str]]]:
    """Disk and cut of each round: one in a small run (the other maker gets the other disk), both disks in a full one.

    NUKETOWN_SCALE=20 makes every cut, on the two disks in turn.
    """
    crypts = CRYPTS if chance("crypt").random() < 0.5 else CRYPTS[::-1]
    cuts = chance(of).sample(story.CUTS, len(story.CUTS))
    if scale.SCALE < 10:
        return [(crypts[initrd.KINDS.index(of)], cuts[0])]
    if scale.SCALE < 20:
        return list(zip(CRYPTS, cuts, strict=False))
    return [(CRYPTS[number % 2], cut) for number, cut in enumerate(cuts)]


def some(purpose: str, of: list[T]) -> list[T]:
    """One of them in a small run, all of them in a full one."""
    return of if scale.SCALE >= 10 else [chance(purpose).choice(of)]


def other_kind(purpose: str, of: list[str]) -> list[initrd.Kind]:
    """In a small run, the kind that `some(purpose, of)` is not tested with; else both."""
    if scale.SCALE >= 10:
        return list(initrd.KINDS)
    (chosen,) = some(purpose, of)
    return [each for each in initrd.KINDS if each != kind(f"{purpose} {chosen}")]
