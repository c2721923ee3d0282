"""The scenarios of a disk that is full: of data, or of metadata as an agent can fill it; with a ballast and without.

Like those of scenariotable.py; run by test_rollback_scenarios.py.
"""

import os
from collections.abc import Callable
from dataclasses import replace

from tests.machine import rollbackdisk as disk
from tests.machine import scenarios
from tests.machine import scenariostates as states
from tests.machine.scenarios import ADA, DUP, MIXED, NAMES, Disk, home
from tests.machine.scenariotable import Closed, Either, Scenario, Works
from town import btrfs, files

NOWHERE = "/dev/nuketown-is-not-here"


# ---------------------------------------------------------------- full


def full_of_data(made: Disk) -> None:
    """All the room for data is taken, and no more metadata than that needs."""
    with made.top() as top:
        home(top)
    scenarios.fill(made, "data", ends=True)


def full(name: str, *shapes: str, change: Callable[[int], None] = states.untouched) -> Callable[[Disk], None]:
    """Metadata filled by an agent, after `change` at the top level."""

    def make(made: Disk) -> None:
        with made.top() as top:
            home(top)
            change(top)
        scenarios.fill(made, *shapes)

    make.__name__ = f"metadata_full_{name}"
    return make


def _old_homes(top: int, within: Callable[[int], None] = states.untouched) -> None:
    """Three kept homes of two agents each, with 4 MiB of metadata; the ballast is gone."""
    scenarios.without_ballast(top)
    for number in range(3):
        name = f"@agents-old/2001010{number}T000000Z-x"
        with disk.subvolume(top, "@agents-old") as above, files.opened(btrfs.create(above, name[12:])) as old:
            for agent in ("ada", "vox"):
                with files.opened(btrfs.create(old, agent)) as fd:
                    for count in range(128):
                        os.setxattr(fd, f"trusted.{count}", bytes(16000))
                    files.write_beneath(fd, "notes", b"%d" % number)
            within(old)
    btrfs.commit(top)


def _nested_in_ada(old: int) -> None:
    with disk.subvolume(old, "ada") as fd, files.opened(btrfs.create(fd, "nested")) as nested:
        files.write_beneath(nested, "payload", b"in a subvolume that an agent made")


def _old_homes_with_nested(top: int) -> None:
    _old_homes(top, _nested_in_ada)


def _hidden_in_old_homes(top: int) -> None:
    """As after a recall, or a restore that was cut off: a subvolume below a name that no glob shows."""

    def hide(old: int) -> None:
        os.mkdir(".recalled", dir_fd=old)
        with files.opened(files.open_beneath(old, ".recalled")) as above:
            os.close(btrfs.create(above, "ada@x"))

    _old_homes(top, hide)


def _small_ballast_and_old_homes(top: int) -> None:
    _old_homes(top)
    os.close(btrfs.create(top, NAMES.ballast))


def _ballast_file(top: int) -> None:
    scenarios.without_ballast(top)
    disk.put(top, NAMES.ballast, b"a file")


def _ballast_link_to_blank(top: int) -> None:
    scenarios.without_ballast(top)
    os.symlink(NAMES.blank, NAMES.ballast, dir_fd=top)


def _ballast_link_to_an_old_home(top: int) -> None:
    scenarios.without_ballast(top)
    with disk.subvolume(top, "@agents-old") as old:
        os.close(btrfs.create(old, "20010101T000000Z-x"))
    disk.put(top, "@agents-old/20010101T000000Z-x/payload", b"kept")
    os.symlink("@agents-old/20010101T000000Z-x", NAMES.ballast, dir_fd=top)


def _ballast_directory(top: int) -> None:
    scenarios.without_ballast(top)
    os.mkdir(NAMES.ballast, dir_fd=top)
    disk.put(top, f"{NAMES.ballast}/payload", b"in a plain directory")


def _ballast_read_only(top: int) -> None:
    states.read_only(top, NAMES.ballast)


def _ballast_of_an_agent(top: int) -> None:
    with disk.subvolume(top, NAMES.ballast) as fd:
        os.fchown(fd, ADA, ADA)
        os.fchmod(fd, 0o777)


def _ballast_with_a_subvolume(top: int) -> None:
    with disk.subvolume(top, NAMES.ballast) as fd:
        os.close(btrfs.create(fd, "inner"))


def full_with_the_ballast_mounted(made: Disk) -> None:
    full("", "data")(made)
    scenarios.mounted(made, f"subvol={NAMES.ballast}")


def _room(made: Disk) -> None:
    """A person deletes what the agent filled the disk with."""
    with made.top() as top:
        for where in ("@agents/ada", "@agents.new/ada"):
            try:
                mine = files.open_beneath(top, where)
            except FileNotFoundError:
                continue
            with files.opened(mine):
                for name in files.names(mine):
                    if name.startswith((b"data", b"inline")) or len(name) == 230:
                        os.unlink(name, dir_fd=mine)
        btrfs.commit(top)


NO_ROOM = Closed("No space left on device", _room, changes=True)
WITH_BALLAST = Works(1, ballast_may_go=True)
PERHAPS = Either(Works(1, ballast_may_go=True), NO_ROOM)
HOMES_MAKE_ROOM = Works(1, ballast_may_go=True, oldest_may_go=True)
AT_A_COST = Either(Works(1, oldest_may_go=True), replace(NO_ROOM, oldest_may_go=True))

FULL = [
    Scenario(full_of_data, WITH_BALLAST),
    Scenario(full("single", "data"), WITH_BALLAST, always=True),
    Scenario(full("dup", "data"), WITH_BALLAST, mkfs=DUP, always=True),
    Scenario(full("mixed", "data"), WITH_BALLAST, mkfs=MIXED, always=True),
    Scenario(full("of_inline_files", "data", "inline"), WITH_BALLAST, mkfs=DUP),
    Scenario(full("of_attributes_single", "attributes"), WITH_BALLAST, dear=True),
    Scenario(full("of_attributes_dup", "attributes"), WITH_BALLAST, mkfs=DUP, dear=True),
    Scenario(full("of_attributes_mixed", "attributes"), WITH_BALLAST, mkfs=MIXED, dear=True),
    Scenario(full("nested", "data", change=states.nested_beside), WITH_BALLAST),
    Scenario(full("hostile_names", "data", change=states.hostile_beside), WITH_BALLAST),
    Scenario(full("a_new_one_beside", "data", change=states.new_beside), WITH_BALLAST),
    Scenario(full("an_old_home_beside", "data", change=states.written_beside), Works(2, ballast_may_go=True)),
    Scenario(full("no_old", "data", change=lambda top: os.rmdir(NAMES.old, dir_fd=top)), WITH_BALLAST),
    Scenario(full("no_ballast", "data", change=scenarios.without_ballast), PERHAPS, dear=True),
    Scenario(full("no_ballast_dup", "data", change=scenarios.without_ballast), PERHAPS, mkfs=DUP, dear=True),
    Scenario(full("no_ballast_mixed", "data", change=scenarios.without_ballast), PERHAPS, mkfs=MIXED, dear=True),
    Scenario(full("small_ballast", "data", change=scenarios.small_ballast), PERHAPS, mkfs=DUP, dear=True),
    Scenario(
        full("small_ballast_and_old_homes", "data", change=_small_ballast_and_old_homes), HOMES_MAKE_ROOM, mkfs=DUP
    ),
    Scenario(full("no_ballast_and_hidden_in_old_homes", "data", change=_hidden_in_old_homes), PERHAPS, mkfs=DUP),
    Scenario(full("no_ballast_but_old_homes", "data", change=_old_homes), AT_A_COST, mkfs=DUP, always=True),
    Scenario(
        full("no_ballast_and_nested_in_old_homes", "data", change=_old_homes_with_nested),
        PERHAPS,
        mkfs=DUP,
        dear=True,
    ),
    Scenario(full("ballast_a_file", "data", change=_ballast_file), PERHAPS, mkfs=DUP, dear=True),
    Scenario(full("ballast_a_link_to_blank", "data", change=_ballast_link_to_blank), PERHAPS, mkfs=DUP, dear=True),
    Scenario(
        full("ballast_a_link_to_an_old_home", "data", change=_ballast_link_to_an_old_home),
        AT_A_COST,
        mkfs=DUP,
        dear=True,
    ),
    Scenario(full("ballast_a_directory", "data", change=_ballast_directory), PERHAPS, mkfs=DUP, dear=True),
    Scenario(full("ballast_read_only", "data", change=_ballast_read_only), WITH_BALLAST),
    Scenario(full("ballast_of_an_agent", "data", change=_ballast_of_an_agent), WITH_BALLAST),
    Scenario(full("ballast_with_a_subvolume", "data", change=_ballast_with_a_subvolume), PERHAPS, dear=True),
    Scenario(full_with_the_ballast_mounted, PERHAPS, dear=True),
]
