"""Every state in which a rollback can find a disk, and what must hold after it. Run by test_rollback_scenarios.py.

A scenario's `make` gets the disk of a fresh town, unmounted, and does to it what its docstring or name says.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass

from tests.machine import scenarios
from tests.machine import scenariostates as states
from tests.machine.scenarios import NAMES, Disk
from town import btrfs, files


@dataclass(frozen=True)
class Works:
    """Status 0, @agents blank, a proof that fits; what was there is in exactly one place."""

    aside: int  # how many more things lie in @agents-old
    ballast_may_go: bool = False
    warns: str = ""
    oldest_may_go: bool = False  # an old home may be deleted for its space, the oldest first, never the last one


@dataclass(frozen=True)
class Closed:
    """Status 1, no proof, a reason and a cure; nothing is lost or changed. After `cure`, a run works."""

    says: str
    cure: Callable[[Disk], None]
    aside: int = 1  # after the cure
    blind: bool = False  # whether the disk can be looked at only after the cure, which changes nothing on it
    mute: bool = False  # whether /run is what is wrong: it can hold no reason then
    changes: bool = False  # whether the failed run may have moved things (nothing is lost even so)
    oldest_may_go: bool = False  # as above; the reason names what was given up


@dataclass(frozen=True)
class Either:
    """Where it depends on how full is full: it works, or it fails closed and works after `cure`."""

    works: Works
    closed: Closed


Expected = Works | Closed | Either


@dataclass(frozen=True)
class Scenario:
    """One line of the table."""

    make: Callable[[Disk], None]
    expected: Expected
    mkfs: tuple[str, ...] = scenarios.SINGLE
    dear: bool = False  # takes ten seconds or more (the hook waits for the cleaner): by one runner, not in a sample
    always: bool = False  # in every sample

    @property
    def name(self) -> str:
        return self.make.__name__


def at_top(change: Callable[[int], None]) -> Callable[[Disk], None]:
    """A change at the top level, as a change of the disk."""

    def make(made: Disk) -> None:
        with made.top() as top:
            change(top)

    make.__name__ = change.__name__
    return make


# ---------------------------------------------------------------- the cures


def _cured(name: str, make: Callable[[int], None]) -> Callable[[Disk], None]:
    """A person moves away what stands at `name`, if anything does, and makes it as it should be."""

    def cure(made: Disk) -> None:
        with made.top() as top:
            if os.fsencode(name) in files.names(top):
                os.rename(name, f"moved away {name}", src_dir_fd=top, dst_dir_fd=top)
            make(top)

    return cure


def _new_blank(top: int) -> None:
    with files.opened(btrfs.create(top, NAMES.blank)) as blank:
        os.fchmod(blank, 0o755)
        btrfs.set_read_only(blank, True)


_blank_anew = _cured(NAMES.blank, _new_blank)
_old_anew = _cured(NAMES.old, lambda top: os.mkdir(NAMES.old, 0o700, dir_fd=top))
_NOT_OLD = "@agents-old is not a directory of root:root with mode 0700"

AT_TOP: list[tuple[Callable[[int], None], Expected]] = [
    (states.untouched, Works(0)),
    (states.dirty, Works(1)),
    (states.touched_and_empty_again, Works(1)),
    (states.subvolumes_below_a_path_longer_than_path_max, Works(1)),
    (states.a_home_set_read_only_by_its_agent, Works(1)),
    (states.agents_read_only, Works(1)),
    (states.agents_untouched_but_read_only, Works(0)),
    (states.agents_of_another_owner_and_mode, Works(1)),
    (states.hostile_names_at_every_level, Works(1)),
    (states.nested_read_only_and_writable_to_depth_50, Works(1)),
    (states.no_agents, Works(0)),
    (states.agents_away_and_no_new_one, Works(0)),
    (states.agents_away_and_a_new_one_beside, Works(0)),
    (states.agents_away_and_a_read_only_one_in_its_place, Works(0)),
    (states.a_new_one_read_only, Works(1)),
    (states.a_new_one_writable, Works(1)),
    (states.a_new_one_beside_an_untouched_one, Works(0)),
    (states.an_old_home_under_the_new_name, Works(1)),
    (states.a_new_one_that_is_no_child_of_blank, Works(2)),
    (states.a_new_one_that_is_a_file, Works(1)),
    (states.a_new_one_that_is_an_empty_directory, Works(1)),
    (states.a_new_one_that_is_a_link, Works(1)),
    (states.agents_a_file, Works(1)),
    (states.agents_a_directory, Works(1)),
    (states.agents_an_empty_directory, Works(1)),
    (states.agents_a_link_to_blank, Works(1)),
    (states.agents_a_link_to_an_old_home, Works(1)),
    (states.agents_a_child_of_something_else, Works(1)),
    (states.no_old, Works(1)),
    (states.no_ballast, Works(1)),
    (states.a_ballast_that_was_not_finished, Works(1)),
    (
        states.blank_read_write_but_empty,
        Works(1, warns="@agents-blank was empty but not read-only"),
    ),
    (states.blank_missing, Closed("the blank subvolume @agents-blank is missing", _blank_anew)),
    (states.blank_holds_a_file, Closed("@agents-blank is not empty", _blank_anew)),
    (states.blank_holds_a_subvolume, Closed("@agents-blank is not empty", _blank_anew)),
    (states.blank_of_an_agent, Closed("@agents-blank is not root:root 0755", _blank_anew)),
    (states.blank_open_to_all, Closed("@agents-blank is not root:root 0755", _blank_anew)),
    (states.blank_a_directory, Closed("@agents-blank is not a subvolume", _blank_anew)),
    (states.blank_a_link, Closed("@agents-blank is not a subvolume", _blank_anew)),
    (states.blank_a_file, Closed("@agents-blank is not a subvolume", _blank_anew)),
    (states.old_a_file, Closed(_NOT_OLD, _old_anew)),
    (states.old_a_link, Closed(_NOT_OLD, _old_anew)),
    (states.old_a_subvolume, Closed("@agents-old is a subvolume", _old_anew)),
    (states.old_open_to_others, Closed(_NOT_OLD, _old_anew)),
    (states.old_of_an_agent, Closed(_NOT_OLD, _old_anew)),
]

STATES = [Scenario(at_top(change), expected) for change, expected in AT_TOP]
STATES.append(Scenario(at_top(states.two_thousand_subvolumes), Works(1), dear=True))
