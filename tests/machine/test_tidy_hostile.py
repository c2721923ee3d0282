"""`persist tidy` against what an agent can leave in an old home, and beside what is in use."""

import os
import subprocess
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from persist import aside, prune
from tests.machine import olds, towns
from tests.machine.towns import town
from town import btrfs, files, kernel, mounts, subvolumes

__all__ = ["town"]
pytestmark = pytest.mark.root
HOSTILE = (b"a\nb", b"..x", b"...", b"\xff\xfe", b"x" * 255, b"-rf", b" ", b"a\rb", b"\\n", b"@agents")


@pytest.fixture
def file(btrfs_device: str, btrfs_top: int, tmp_path: Path) -> Path:
    """A spec that keeps one home, on a filesystem with @agents-old; `keep` is the newest in it."""
    made = tmp_path / "town.toml"
    olds.write_spec(made, btrfs_device)
    olds.lay_out(btrfs_top)
    os.close(btrfs.create(btrfs_top, "@agents-ballast"))
    return made


@pytest.fixture
def doomed(btrfs_top: int, file: Path) -> Iterator[int]:
    """An old home that the next tidy deletes, open, with the home of an agent in it; a newer one stays."""
    fd = olds.add(btrfs_top, olds.key(2))
    olds.put(btrfs_top, olds.key(1))
    with files.opened(fd):
        yield fd


def gone(top: int, file: Path) -> bool:
    """Whether a tidy leaves the newer home alone, and no subvolume of the other anywhere."""
    os.sync()
    status = olds.tidy(file)
    # @agents, @agents-blank, @agents-ballast, the newer home
    return (status, olds.names(top), olds.subvolume_count(top)) == (0, [olds.key(1)], 4)


def test_read_only_ones_nested_fifty_deep_go(btrfs_top: int, file: Path, doomed: int) -> None:
    at, all_ = os.dup(doomed), []
    for number in range(50):
        at = btrfs.create(at, f"s{number}")
        os.close(btrfs.create(at, "beside"))
        all_.append(at)
    for fd in all_:
        btrfs.set_read_only(fd, True)
        os.close(fd)
    btrfs.set_read_only(doomed, True)
    assert gone(btrfs_top, file)


def test_names_change_nothing(btrfs_top: int, file: Path, doomed: int) -> None:
    for name in HOSTILE:
        with files.opened(btrfs.create(doomed, os.fsdecode(name))) as outer:
            os.mkdir(name, dir_fd=outer)
            with files.opened(files.open_beneath(outer, name)) as inner:
                os.close(btrfs.create(inner, os.fsdecode(name)))
    assert gone(btrfs_top, file)


def test_one_below_a_path_that_is_too_long_to_exist_goes(btrfs_top: int, file: Path, doomed: int) -> None:
    with files.opened(olds.deep(doomed, 60, "n" * 250)) as inner, files.opened(btrfs.create(inner, "s")) as hidden:
        os.close(btrfs.create(hidden, "t"))
        btrfs.set_read_only(hidden, True)
    assert gone(btrfs_top, file)


def test_one_below_ten_thousand_directories_goes_with_few_descriptors(btrfs_top: int, file: Path, doomed: int) -> None:
    with files.opened(olds.deep(doomed, 10_000)) as inner:
        os.close(btrfs.create(inner, "s"))
    with olds.at_most_files(64):
        assert gone(btrfs_top, file)


def test_more_levels_than_python_recurses_go(btrfs_top: int, file: Path, doomed: int) -> None:
    at = os.dup(doomed)
    for _ in range(1100):
        below = btrfs.create(at, "s")
        os.close(at)
        at = below
    os.close(at)
    assert gone(btrfs_top, file)


def test_two_thousand_go_in_the_memory_that_twenty_take(btrfs_top: int, file: Path) -> None:
    assert olds.tidy(file, "--dry-run") == 0  # what is imported once does not count
    peaks = []
    for count in (20, 2000):
        olds.put(btrfs_top, f"old {count}")
        with (
            files.opened(files.open_beneath(btrfs_top, "@agents-old")) as old,
            files.opened(files.open_beneath(old, f"old {count}")) as home,
        ):
            for number in range(count):
                os.close(btrfs.create(home, f"{number:0200}"))
        olds.put(btrfs_top, f"newer than {count}")
        tracemalloc.start()
        assert olds.tidy(file) == 0
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert olds.names(btrfs_top) == [f"newer than {count}"]
    assert peaks[1] - peaks[0] < 50_000  # the names alone are 400,000 bytes long


def test_what_an_agent_made_read_only_and_undeletable_for_itself_goes(btrfs_top: int, file: Path, doomed: int) -> None:
    with files.opened(btrfs.create(doomed, "ada")) as home, files.opened(btrfs.create(home, "s")) as nested:
        os.fchmod(nested, 0)
        os.mkdir("d", 0, dir_fd=home)
        os.fchmod(home, 0o1000)
        os.fchown(home, 41100, 41100)
        btrfs.set_read_only(nested, True)
        btrfs.set_read_only(home, True)
    assert gone(btrfs_top, file)


# ---- what is in use, and what is not below @agents-old


@contextmanager
def mounted(device: str, at: Path, subvolume: str) -> Iterator[Path]:
    at.mkdir(exist_ok=True)
    kernel.mount(device, str(at), "btrfs", 0, f"subvol={subvolume}")
    try:
        yield at
    finally:
        while mounts.at(at) is not None:
            kernel.umount(str(at), kernel.MNT_DETACH)


@pytest.mark.parametrize("which", ["", "/ada", "/ada/d/s"])
def test_a_home_that_is_mounted_stays_whole_and_goes_when_it_is_not(
    btrfs_device: str, btrfs_top: int, file: Path, doomed: int, tmp_path: Path, which: str,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    with files.opened(btrfs.create(doomed, "ada")) as home:
        os.mkdir("d", dir_fd=home)
        with files.opened(files.open_beneath(home, "d")) as inner:
            os.close(btrfs.create(inner, "s"))
    before = olds.subvolume_count(btrfs_top)
    with (
        mounted(btrfs_device, tmp_path / "look\n\rhere", f"@agents-old/{olds.key(2)}{which}"),
        monkeypatch.context() as patched,
    ):
        patched.setattr(prune, "_marked", None)  # it is not even renamed
        assert olds.tidy(file, "--dry-run") == 0
        said = capsys.readouterr()
        assert (said.out, "it stays" in said.err) == ("nothing to do: nothing that is kept has to go\n", True)
        assert olds.tidy(file) == 0
        assert f"{olds.key(2)} is in use: mounted at {tmp_path}/look\\n\\rhere: it stays" in capsys.readouterr().err
        assert olds.names(btrfs_top) == sorted([olds.key(1), olds.key(2)])
        assert olds.subvolume_count(btrfs_top) == before
    assert gone(btrfs_top, file)


def test_a_bind_of_a_directory_in_it_and_a_mount_on_one_count_too(
    btrfs_device: str, btrfs_top: int, file: Path, doomed: int, tmp_path: Path
) -> None:
    os.mkdir("d", dir_fd=doomed)
    with mounted(btrfs_device, tmp_path / "top", "/") as top:
        inside = top / "@agents-old" / olds.key(2) / "d"
        kernel.mount("tmpfs", str(inside), "tmpfs", 0)
        assert olds.tidy(file) == 0
        assert len(olds.names(btrfs_top)) == 2
        kernel.umount(str(inside))
        bound = tmp_path / "bound"
        bound.mkdir()
        kernel.mount(str(inside), str(bound), None, 4096)  # MS_BIND
    try:
        assert olds.tidy(file) == 0
        assert len(olds.names(btrfs_top)) == 2
    finally:
        kernel.umount(str(bound))
    assert gone(btrfs_top, file)


def test_a_mount_that_comes_while_it_begins_is_seen_under_the_new_name(
    btrfs_device: str, btrfs_top: int, file: Path, doomed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marked = prune._marked

    def mount_then_mark(old: prune.Old, entry: aside.Aside) -> bytes:
        kernel.mount(btrfs_device, str(tmp_path), "btrfs", 0, f"subvol=@agents-old/{olds.key(2)}")
        return marked(old, entry)

    monkeypatch.setattr(prune, "_marked", mount_then_mark)
    assert olds.tidy(file) == 0
    kernel.umount(str(tmp_path))
    assert olds.names(btrfs_top) == sorted([olds.key(1), olds.key(2)])


def test_a_home_whose_name_only_begins_like_the_one_that_is_mounted_goes(
    btrfs_device: str, btrfs_top: int, file: Path, doomed: int, tmp_path: Path
) -> None:
    olds.put(btrfs_top, f"{olds.key(2)}.1")
    with mounted(btrfs_device, tmp_path / "look", f"@agents-old/{olds.key(2)}.1"):
        assert olds.tidy(file) == 0
    assert olds.names(btrfs_top) == [f"{olds.key(2)}.1"]


def test_a_subvolume_that_is_moved_out_meanwhile_is_left_alone(
    btrfs_top: int, file: Path, doomed: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with files.opened(btrfs.create(doomed, "ada")) as home:
        files.write_beneath(home, "precious", b"x")
        os.close(btrfs.create(home, "s"))
    destroy = subvolumes.destroy

    def rescue(directory: int, name: bytes) -> None:
        destroy(directory, name)
        if name == b"s":
            os.rename("ada", "rescued", src_dir_fd=doomed, dst_dir_fd=btrfs_top)

    monkeypatch.setattr(subvolumes, "destroy", rescue)
    assert olds.tidy(file) == 1
    assert "rescued was moved while it was being deleted" in capsys.readouterr().err
    assert b"rescued" in files.names(btrfs_top)
    with files.opened(files.open_beneath(btrfs_top, "rescued")) as fd:
        assert files.names(fd) == [b"precious"]


def test_who_goes_on_making_subvolumes_does_not_hold_a_tidy_for_ever(
    btrfs_top: int, file: Path, doomed: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with files.opened(btrfs.create(doomed, "ada")) as home:
        number = 0

        def another(directory: int, name: bytes) -> None:
            nonlocal number
            number += 1
            os.close(btrfs.create(home, f"n{number}"))
            destroy(directory, name)

        os.close(btrfs.create(home, "first"))
        destroy = subvolumes.destroy
        monkeypatch.setattr(subvolumes, "destroy", another)
        monkeypatch.setattr(prune, "_PATIENCE", 20)
        assert olds.tidy(file) == 1
        assert "new subvolumes appear" in capsys.readouterr().err
        monkeypatch.setattr(subvolumes, "destroy", destroy)
    assert gone(btrfs_top, file)


def test_a_mount_in_a_namespace_of_an_agents_own_keeps_nothing(
    btrfs_device: str, btrfs_top: int, file: Path, doomed: int, tmp_path: Path
) -> None:
    script = 'mount -t btrfs -o "subvol=$1" "$2" "$3" && echo there && read -r _'
    argv = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh",
            f"@agents-old/{olds.key(2)}", btrfs_device, str(tmp_path)]  # fmt: skip
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holding:
        assert holding.stdout is not None
        assert holding.stdout.readline() == b"there\n"
        assert gone(btrfs_top, file)
        holding.communicate(b"\n")


def test_a_copy_that_a_person_recalled_outlives_the_old_home(town: towns.Town, btrfs_top: int, tmp_path: Path) -> None:
    (town.agents / "ada").mkdir()
    (town.agents / "ada/precious").write_text("x")
    town.boot(olds.key(2))
    town.boot(olds.key(1))
    olds.write_spec(tmp_path / "tidy.toml", town.device, agents=str(town.agents))
    look = tmp_path / "look"
    said = town.persist("recall", f"ada@{olds.key(2)}", "--to", str(look))
    try:
        assert (said.status, (look / "precious").read_text()) == (0, "x")
        assert olds.tidy(tmp_path / "tidy.toml") == 0
        assert olds.names(btrfs_top) == [olds.key(1)]
        assert (look / "precious").read_text() == "x"
    finally:
        towns.undo(look)
