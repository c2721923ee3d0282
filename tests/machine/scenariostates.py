"""What agents, runs that were cut off and people leave at the top level: changes of a fresh town.

Each is a line of scenariotable.py, which says what must hold after it.
"""

import os

from tests.machine import rollbackdisk as disk
from tests.machine import scenarios
from tests.machine.scenarios import ADA, NAMES, home
from town import btrfs, files


def gone(top: int, name: str) -> None:
    os.rename(name, f"elsewhere {name}", src_dir_fd=top, dst_dir_fd=top)


def snapshot(top: int, name: str, *, read_only: bool = False) -> None:
    with disk.subvolume(top, NAMES.blank) as blank:
        os.close(btrfs.snapshot(blank, top, name, read_only=read_only))


def read_only(top: int, path: str, value: bool = True) -> None:
    with disk.subvolume(top, path) as fd:
        btrfs.set_read_only(fd, value)


# ---------------------------------------------------------------- what agents leave


def untouched(top: int) -> None:
    """A boot at which no home was made."""


def dirty(top: int) -> None:
    home(top)
    home(top, "vox", ADA + 1, b"what vox wrote")


def touched_and_empty_again(top: int) -> None:
    disk.put(top, "@agents/x", b"")
    with disk.subvolume(top, "@agents") as homes:
        os.unlink("x", dir_fd=homes)
    btrfs.commit(top)


def nested_read_only_and_writable_to_depth_50(top: int) -> None:
    home(top)
    trail = [files.open_beneath(top, "@agents/ada")]
    for depth in range(50):
        trail.append(btrfs.create(trail[-1], f"n{depth}"))
        files.write_beneath(trail[-1], "payload", b"at depth %d" % depth)
    for depth, fd in enumerate(trail[1:]):
        btrfs.set_read_only(fd, depth % 2 == 0)
    for fd in trail:
        os.close(fd)


def nested_beside(top: int) -> None:
    """The same, a few levels, beside what is there."""
    with disk.subvolume(top, "@agents/ada") as mine, files.opened(btrfs.create(mine, "nested")) as outer:
        os.close(btrfs.create(outer, "inner"))
        files.write_beneath(outer, "payload", b"nested")
        btrfs.set_read_only(outer, True)


def hostile_beside(top: int) -> None:
    with disk.subvolume(top, "@agents/ada") as mine:
        for name in HOSTILE:
            _hostile(mine, name, 1)


def new_beside(top: int) -> None:
    snapshot(top, "@agents.new")


def written_beside(top: int) -> None:
    snapshot(top, "@agents.new")
    disk.put(top, "@agents.new/payload", b"an old home where names were exchanged")


def two_thousand_subvolumes(top: int) -> None:
    home(top)
    with disk.subvolume(top, "@agents/ada") as fd:
        for number in range(2000):
            os.close(btrfs.create(fd, f"s{number}\n\tUUID: -\nID {number} gen 1 top level 5 path @agents-blank"))


def subvolumes_below_a_path_longer_than_path_max(top: int) -> None:
    """`btrfs subvolume list` ends with an error for the whole filesystem."""
    home(top)
    fd = files.open_beneath(top, "@agents/ada")
    for _ in range(20):
        os.mkdir("d" * 250, dir_fd=fd)
        below = files.open_beneath(fd, "d" * 250)
        os.close(fd)
        fd = below
    with files.opened(fd):
        with files.opened(btrfs.create(fd, "hidden")) as hidden:
            files.write_beneath(hidden, "payload", b"where no path leads")
        with disk.subvolume(top, NAMES.blank) as blank:
            os.close(btrfs.snapshot(blank, fd, "child of blank", read_only=True))


def a_home_set_read_only_by_its_agent(top: int) -> None:
    home(top)
    read_only(top, "@agents/ada")


def agents_read_only(top: int) -> None:
    home(top)
    read_only(top, "@agents")


def agents_untouched_but_read_only(top: int) -> None:
    read_only(top, "@agents")


def agents_of_another_owner_and_mode(top: int) -> None:
    home(top)
    with disk.subvolume(top, "@agents") as homes:
        os.fchmod(homes, 0o777)
        os.fchown(homes, ADA, ADA)


HOSTILE = [b"\n", b"a\nnuketown: error: b", b"...", b".. ", b"..\n", b"-rf", b"--", b" ", b"\xff\xfe", b"\x1b[2J\x07",
           b"n" * 255, b"\n" * 255, b"$(touch pwned)", b"`touch pwned`", b"*", b"'\"\\", b"@agents", b"@agents-blank",
           b"%s%n", b"\xe2\x80\xae", b"old=@agents-old"]  # fmt: skip


def hostile_names_at_every_level(top: int) -> None:
    """Each name as a subvolume, in it a directory, in it a file and a link, and the name again in a subvolume of it."""
    home(top)
    with disk.subvolume(top, "@agents/ada") as mine:
        for name in HOSTILE:
            _hostile(mine, name, 2)


def _hostile(directory: int, name: bytes, levels: int) -> None:
    with files.opened(btrfs.create(directory, os.fsdecode(name))) as made:
        os.mkdir(b"d" + name[:254], dir_fd=made)
        with files.opened(files.open_beneath(made, b"d" + name[:254])) as below:
            os.close(os.open(name, os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=below))
            os.symlink(b"/" + name[:200], b"l" + name[:254], dir_fd=below)
        if levels > 1:
            _hostile(made, name, levels - 1)


# ---------------------------------------------------------------- what a run that was cut off leaves, or a person


def no_agents(top: int) -> None:
    btrfs.delete(top, "@agents")


def agents_away_and_no_new_one(top: int) -> None:
    """Cut off after @agents was set aside."""
    home(top)
    os.rename("@agents", "@agents-old/20010101T000000Z-x", src_dir_fd=top, dst_dir_fd=top)


def agents_away_and_a_new_one_beside(top: int) -> None:
    agents_away_and_no_new_one(top)
    snapshot(top, "@agents.new")


def agents_away_and_a_read_only_one_in_its_place(top: int) -> None:
    agents_away_and_no_new_one(top)
    snapshot(top, "@agents", read_only=True)


def a_new_one_read_only(top: int) -> None:
    home(top)
    snapshot(top, "@agents.new", read_only=True)


def a_new_one_writable(top: int) -> None:
    home(top)
    snapshot(top, "@agents.new")


def a_new_one_beside_an_untouched_one(top: int) -> None:
    snapshot(top, "@agents.new")


def an_old_home_under_the_new_name(top: int) -> None:
    snapshot(top, "@agents.new")
    disk.put(top, "@agents.new/payload", b"an old home where names were exchanged")


def a_new_one_that_is_no_child_of_blank(top: int) -> None:
    home(top)
    os.close(btrfs.create(top, "@agents.new"))


def a_new_one_that_is_a_file(top: int) -> None:
    disk.put(top, "@agents.new", b"a file")


def a_new_one_that_is_an_empty_directory(top: int) -> None:
    os.mkdir("@agents.new", dir_fd=top)


def a_new_one_that_is_a_link(top: int) -> None:
    os.symlink(NAMES.blank, "@agents.new", dir_fd=top)


def agents_a_file(top: int) -> None:
    gone(top, "@agents")
    disk.put(top, "@agents", b"a file")


def agents_a_directory(top: int) -> None:
    gone(top, "@agents")
    os.mkdir("@agents", 0o755, dir_fd=top)
    disk.put(top, "@agents/payload", b"in a plain directory")


def agents_an_empty_directory(top: int) -> None:
    gone(top, "@agents")
    os.mkdir("@agents", 0o755, dir_fd=top)


def agents_a_link_to_blank(top: int) -> None:
    gone(top, "@agents")
    os.symlink(NAMES.blank, "@agents", dir_fd=top)


def agents_a_link_to_an_old_home(top: int) -> None:
    home(top)
    os.rename("@agents", "@agents-old/kept", src_dir_fd=top, dst_dir_fd=top)
    os.symlink("@agents-old/kept", "@agents", dir_fd=top)


def agents_a_child_of_something_else(top: int) -> None:
    gone(top, "@agents")
    with disk.subvolume(top, "elsewhere @agents") as other:
        os.close(btrfs.snapshot(other, top, "@agents", read_only=False))


def no_old(top: int) -> None:
    home(top)
    os.rmdir(NAMES.old, dir_fd=top)


def no_ballast(top: int) -> None:
    home(top)
    scenarios.without_ballast(top)


def a_ballast_that_was_not_finished(top: int) -> None:
    home(top)
    os.rename(NAMES.ballast, f"{NAMES.ballast}.new", src_dir_fd=top, dst_dir_fd=top)


# ---------------------------------------------------------------- what no rollback may begin with


def _writable_blank(top: int) -> int:
    fd = files.open_beneath(top, NAMES.blank)
    btrfs.set_read_only(fd, False)
    return fd


def blank_read_write_but_empty(top: int) -> None:
    home(top)
    os.close(_writable_blank(top))


def blank_missing(top: int) -> None:
    home(top)
    gone(top, NAMES.blank)


def blank_holds_a_file(top: int) -> None:
    home(top)
    with files.opened(_writable_blank(top)) as blank:
        files.write_beneath(blank, "...", b"in blank")
        btrfs.set_read_only(blank, True)


def blank_holds_a_subvolume(top: int) -> None:
    home(top)
    with files.opened(_writable_blank(top)) as blank:
        os.close(btrfs.create(blank, "x"))


def blank_of_an_agent(top: int) -> None:
    home(top)
    with files.opened(_writable_blank(top)) as blank:
        os.fchown(blank, ADA, ADA)


def blank_open_to_all(top: int) -> None:
    home(top)
    with files.opened(_writable_blank(top)) as blank:
        os.fchmod(blank, 0o777)


def blank_a_directory(top: int) -> None:
    blank_missing(top)
    os.mkdir(NAMES.blank, 0o755, dir_fd=top)


def blank_a_link(top: int) -> None:
    blank_missing(top)
    os.symlink(f"elsewhere {NAMES.blank}", NAMES.blank, dir_fd=top)


def blank_a_file(top: int) -> None:
    blank_missing(top)
    disk.put(top, NAMES.blank, b"")


def old_a_file(top: int) -> None:
    no_old(top)
    disk.put(top, NAMES.old, b"a file")


def old_a_link(top: int) -> None:
    no_old(top)
    os.mkdir("elsewhere", 0o700, dir_fd=top)
    os.symlink("elsewhere", NAMES.old, dir_fd=top)


def old_a_subvolume(top: int) -> None:
    no_old(top)
    with files.opened(btrfs.create(top, NAMES.old)) as fd:
        os.fchmod(fd, 0o700)


def old_open_to_others(top: int) -> None:
    home(top)
    os.chmod(NAMES.old, 0o755, dir_fd=top)


def old_of_an_agent(top: int) -> None:
    home(top)
    os.chown(NAMES.old, ADA, ADA, dir_fd=top)
