"""An agent that fills the metadata at every boot: each rollback works, at the cost of the ballast and of no home."""

import os
from contextlib import ExitStack
from pathlib import Path

import pytest

import initrd
from persist import ballast, cli
from tests.machine import rollbackdisk as disk
from tests.machine import scenarios
from tests.scale import times
from town import btrfs, files, process

pytestmark = pytest.mark.root
SPEC = """\
[town]
agents_dir = "{base}/agents"
persist_dir = "{base}/persist"
[town.btrfs]
device = "{device}"
wait = "0s"
keep = {{ homes = 9, free = "1%" }}
[agents.ada]
uid = 51100
"""


def _boots(at: Path, count: int, *after: str) -> list[bool]:
    """Whether the ballast was of full size at the end of each boot. Ada fills the disk at each of them."""
    whole = []
    with ExitStack() as ends:
        made = scenarios.make(at, ends, mkfs=scenarios.DUP)
        file = at / "town.toml"
        file.write_text(SPEC.format(base=at, device=made.device))
        for number in range(count):
            with made.top() as top:
                before = disk.old_homes(top)
                scenarios.home(top, data=b"%d" % number)
            scenarios.fill(made)  # metadata alone: with data full as well, nobody can write before a person helps
            done = process.run(["sh", initrd.hook()], env={"NUKETOWN_DEVICE": made.device}, check=False)
            assert done.status == 0, done.err
            assert b"@agents-ballast is given up for room" in done.err
            assert cli.main(["--spec", str(file), "rollback", "--confirm"]) == 0
            with made.top() as top:
                assert disk.is_blank(top)
                assert set(before) < set(disk.old_homes(top)), "no home was given up"
                assert number or not ballast.missing(top, scenarios.NAMES), "made anew before any agent starts"
            for verb in after:
                assert cli.main(["--spec", str(file), verb]) in (0, 1)
            with made.top() as top:
                whole.append(ballast.whole(top, scenarios.NAMES))
    return whole


def test_with_no_clock_the_oldest_home_goes_and_not_the_one_with_the_smallest_name(tmp_path: Path) -> None:
    names = ["20261119T000000Z-oldest", "20261120T000000Z-next", "19700101T000012Z-newest"]
    with ExitStack() as ends:
        made = scenarios.make(tmp_path, ends, mkfs=scenarios.DUP, with_ballast=False)
        with made.top() as top:
            scenarios.home(top)
            with disk.subvolume(top, "@agents-old") as above:
                for name in names:
                    with files.opened(btrfs.create(above, name)) as old, files.opened(btrfs.create(old, "ada")) as home:
                        for number in range(400):
                            os.setxattr(home, f"trusted.{number}", bytes(16000))
        scenarios.fill(made, "data")
        done = process.run(["sh", initrd.hook()], env={"NUKETOWN_DEVICE": made.device}, check=False)
        assert done.status == 0, done.err
        with made.top() as top:
            left = set(disk.old_homes(top))
        assert names[0] not in left
        assert names[2] in left


@pytest.mark.parametrize(
    ("shell", "present"),
    [
        ("dash", "made before the reset"), ("dash", "made after the reset"), ("busybox", "made after the reset"),
        ("bash", "made after the reset"),
    ],
)  # fmt: skip
def test_the_home_set_aside_first_goes_first_though_it_was_not_made_first(
    tmp_path: Path, shell: str, present: str
) -> None:
    """A reset's is made when it is set aside, an @agents a whole boot before."""
    boot, reset = "20261120T000000Z-a", "20261120T000000Z-b.reset"
    with ExitStack() as ends:
        made = scenarios.make(tmp_path, ends, mkfs=scenarios.DUP, with_ballast=False)
        with made.top() as top:
            _heavy(top, boot)
            if present == "made before the reset":  # the boot that is about to end began with setting `boot` aside
                _present(top)
                _heavy(top, reset)
            else:  # the reset was in the boot that ended with setting `boot` aside
                _heavy(top, reset)
                _present(top)
            scenarios.home(top)
        scenarios.fill(made, "data")
        hook = disk.make_initrd(tmp_path / "initrd", shell)
        done = hook(made.device)
        assert done.status == 0, done.err
        first = boot if present == "made before the reset" else reset
        given = [line for line in done.err.decode().splitlines() if "is given up for room" in line]
        assert given
        assert f"@agents-old/{first} " in given[0]


def _heavy(top: int, name: str) -> None:
    """An old home with some 6 MiB of metadata."""
    with (
        disk.subvolume(top, "@agents-old") as above,
        files.opened(btrfs.create(above, name)) as old,
        files.opened(btrfs.create(old, "ada")) as home,
    ):
        for number in range(400):
            os.setxattr(home, f"trusted.{number}", bytes(16000))
    btrfs.commit(top)


def _present(top: int) -> None:
    """A new @agents, as a boot makes it."""
    btrfs.delete(top, "@agents")
    with disk.subvolume(top, "@agents-blank") as blank:
        os.close(btrfs.snapshot(blank, top, "@agents", read_only=False))
    btrfs.commit(top)


def test_an_old_home_that_somebody_looks_at_is_not_given_up(tmp_path: Path) -> None:
    with ExitStack() as ends:
        made = scenarios.make(tmp_path, ends, mkfs=scenarios.DUP, with_ballast=False)
        with made.top() as top:
            scenarios.home(top)
            with (
                disk.subvolume(top, "@agents-old") as above,
                files.opened(btrfs.create(above, "20261119T000000Z-x")) as old,
            ):
                for number in range(400):
                    os.setxattr(old, f"trusted.{number}", bytes(16000))
        scenarios.mounted(made, "subvol=@agents-old/20261119T000000Z-x")
        scenarios.fill(made, "data")
        done = process.run(["sh", initrd.hook()], env={"NUKETOWN_DEVICE": made.device}, check=False)
        assert done.status == 1, done.err
        with made.top() as top:
            assert disk.old_homes(top) == ["20261119T000000Z-x"]


def test_two_boots_in_a_row_cost_no_home_before_any_tidy(tmp_path: Path) -> None:
    assert _boots(tmp_path, 1) == [False]


def test_with_a_tidy_it_goes_on_for_ever(tmp_path: Path) -> None:
    whole = _boots(tmp_path, min(2 + times(1), 6), "tidy")
    # What fills the disk is the newest home at first, which stays; one boot later it is not any more.
    assert whole[:2] == [False, True]
