"""`persist tidy` killed at any step, and the power cut then: what looks like a home is whole, the next run finishes."""

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from demo import loopback
from persist import kept as kept_
from tests.machine import killing, olds
from tests.scale import SEED, times
from town import btrfs, files, process, spec

pytestmark = pytest.mark.root
AGENTS, NESTED = ("ada", "vox"), 3
STAYING = 3 + 1 + len(AGENTS) * (1 + 2 * NESTED)  # subvolumes: @agents, blank, ballast, and one old home with its own


@pytest.fixture
def file(btrfs_device: str, btrfs_top: int, tmp_path: Path) -> Path:
    """A spec that keeps one home."""
    made = tmp_path / "town.toml"
    olds.write_spec(made, btrfs_device)
    olds.lay_out(btrfs_top)
    return made


def add(top: int, name: str) -> None:
    """An old home with the homes of two agents, and in each some read-only subvolumes that hold another."""
    with files.opened(olds.add(top, name)) as old:
        for agent in AGENTS:
            with files.opened(btrfs.create(old, agent)) as home:
                files.write_beneath(home, "precious", name.encode())
                for number in range(NESTED):
                    with files.opened(btrfs.create(home, f"n{number}")) as nested:
                        os.close(btrfs.create(nested, "inner"))
                        btrfs.set_read_only(nested, True)
    btrfs.commit(top)


def check(file: Path, top: int, newest: str) -> None:
    """What looks like a home is a whole one, with all that its agents had, and the newest is there."""
    kept = kept_.every(spec.load(file), top, None)
    for home in kept:
        path = f"@agents-old/{os.fsdecode(home.key)}/{os.fsdecode(home.agent)}/precious"
        with files.opened(files.open_beneath(top, path, os.O_RDONLY)) as precious:
            assert files.read_fd(precious, 100, path) == home.key
        assert len(home.nested) == NESTED
    for key in {home.key for home in kept}:
        assert [os.fsdecode(home.agent) for home in kept if home.key == key] == list(AGENTS)
    assert newest.encode() in {home.key for home in kept}


def check_finished(file: Path, top: int, newest: str) -> None:
    """A run to the end leaves the newest home, the ballast, and nothing else."""
    assert olds.tidy(file) == 0
    check(file, top, newest)
    assert olds.names(top) == [newest]
    assert files.names(top) == [b"@agents", b"@agents-ballast", b"@agents-blank", b"@agents-old"]
    assert olds.subvolume_count(top) == STAYING


def test_a_tidy_killed_at_any_step_leaves_whole_homes_and_the_next_one_finishes(
    btrfs_image: Path, btrfs_top: int, file: Path, tmp_path: Path
) -> None:
    chance = random.Random(SEED)
    add(btrfs_top, "home 0")
    add(btrfs_top, "home 1")
    moments = {True: killing.count(lambda: olds.tidy(file))}
    check_finished(file, btrfs_top, "home 1")
    add(btrfs_top, "home 2")
    moments[False] = killing.count(lambda: olds.tidy(file))
    assert moments[True] > moments[False] + 1024 > 1200  # the ballast's attributes are steps too
    died, rounds = 0, times(24)
    for number in range(3, 3 + rounds):
        newest = f"home {number}"
        add(btrfs_top, newest)
        if with_ballast := number % 4 == 0:
            btrfs.delete(btrfs_top, "@agents-ballast")
        # How often it looks whether the cleaner is done is not the same each time: some end before their moment.
        died += killing.tried(lambda: olds.tidy(file), chance.randrange(moments[with_ballast]))
        check(file, btrfs_top, newest)
        if number % 6 == 0:
            _check_after_a_power_cut(btrfs_image, newest, tmp_path)
        check_finished(file, btrfs_top, newest)
    assert died > rounds // 2


def test_what_was_deleted_is_gone_after_a_power_cut_right_after_the_tidy(
    btrfs_image: Path, btrfs_top: int, file: Path, tmp_path: Path
) -> None:
    add(btrfs_top, "home 0")
    assert olds.tidy(file) == 0  # makes the ballast
    add(btrfs_top, "home 1")
    assert olds.tidy(file) == 0
    with _after_a_power_cut(btrfs_image, tmp_path) as (_, top):
        assert olds.names(top) == ["home 1"]
        assert olds.subvolume_count(top) == STAYING


def _check_after_a_power_cut(image: Path, newest: str, tmp_path: Path) -> None:
    with _after_a_power_cut(image, tmp_path) as (device, top):
        other = tmp_path / "cut.toml"
        olds.write_spec(other, device)
        check(other, top, newest)
        check_finished(other, top, newest)


@contextmanager
def _after_a_power_cut(image: Path, tmp_path: Path) -> Iterator[tuple[str, int]]:
    """What the disk holds at this moment, on another device: what was not committed is not there."""
    copy = tmp_path / "cut.img"
    process.run(["cp", "--sparse=always", image, copy])
    process.run(["btrfstune", "-m", "-f", copy])  # two of one UUID cannot both be mounted
    with loopback.attached(copy) as device, btrfs.top_level(device) as top:
        yield device, top
