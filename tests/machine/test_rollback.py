"""The hook against every state of a disk: status 0 only when @agents is blank and durable; nothing is ever lost."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import initrd as source
from tests.machine import rollbackdisk as disk
from tests.machine import scenariostates as states
from town import btrfs, files, process

pytestmark = pytest.mark.root

ADA = 1100


@pytest.fixture(params=disk.SHELLS)
def initrd(request: pytest.FixtureRequest, tmp_path: Path) -> disk.Initrd:
    """The programs of an initrd, under each shell that one has."""
    return disk.make_initrd(tmp_path / "initrd", request.param)


def _used(top: int) -> None:
    """A home with content, ada's own."""
    with disk.subvolume(top, "@agents") as homes:
        os.close(btrfs.create(homes, "ada"))
        with disk.subvolume(homes, "ada") as home:
            os.fchown(home, ADA, ADA)
    disk.put(top, "@agents/ada/notes", b"what ada wrote")


# ---- what agents leave


def many(top: int) -> None:
    """300 subvolumes with names that break whatever reads a listing line by line."""
    _used(top)
    with disk.subvolume(top, "@agents/ada") as home:
        for number in range(300):
            os.close(btrfs.create(home, f"s{number}\n\tParent UUID: -\nid \x1b[2J"))
    disk.put(top, "@agents/ada/s7\n\tParent UUID: -\nid \x1b[2J/payload", b"in one of many")


# ---- what an interrupted run, or a person, leaves


def between_the_renames(top: int) -> None:
    _used(top)
    states.snapshot(top, "@agents.new")
    os.mkdir("@agents-old", 0o700, dir_fd=top)
    os.rename("@agents", "@agents-old/20010101T000000Z-x", src_dir_fd=top, dst_dir_fd=top)


def homes_are_a_link(top: int) -> None:
    _used(top)
    states.gone(top, "@agents")
    os.symlink("elsewhere @agents", "@agents", dir_fd=top)


def dirty(top: int) -> None:
    _used(top)


# scenario, how many things are set aside
SET_ASIDE: list[tuple[Callable[[int], None], int]] = [
    (dirty, 1),
    (states.nested_read_only_and_writable_to_depth_50, 1),
    (many, 1),
    (states.subvolumes_below_a_path_longer_than_path_max, 1),
    (states.a_home_set_read_only_by_its_agent, 1),
    (states.agents_read_only, 1),
    (states.touched_and_empty_again, 1),
    (states.agents_a_child_of_something_else, 1),
    (states.a_new_one_read_only, 1),
    (states.a_new_one_writable, 1),
    (between_the_renames, 1),
    (states.no_agents, 0),
    (states.an_old_home_under_the_new_name, 1),
    (states.a_new_one_that_is_no_child_of_blank, 2),
    (states.a_new_one_that_is_a_file, 1),
    (states.a_new_one_that_is_an_empty_directory, 1),
    (states.a_new_one_that_is_a_link, 1),
    (homes_are_a_link, 1),
    (states.agents_a_directory, 1),
    (states.agents_a_file, 1),
]


@pytest.mark.parametrize(("scenario", "kept"), SET_ASIDE, ids=[made.__name__ for made, _ in SET_ASIDE])
def test_homes_are_set_aside_whole_and_agents_is_blank(
    initrd: disk.Initrd, btrfs_device: str, btrfs_top: int, scenario: Callable[[int], None], kept: int
) -> None:
    disk.lay_out(btrfs_top)
    scenario(btrfs_top)
    before = disk.payloads(btrfs_top)
    done = initrd(btrfs_device)
    assert done.status == 0, done.err
    assert disk.is_blank(btrfs_top)
    assert disk.payloads(btrfs_top) == before
    assert len(disk.old_homes(btrfs_top)) == kept
    assert b"@agents.new" not in files.names(btrfs_top)
    assert sorted(os.listdir(initrd.run / "nuketown")) == [".clock", ".id", ".words", "rollback", "top"]
    fresh, proof = disk.info(btrfs_top, "@agents"), initrd.proof()
    assert proof is not None
    assert (proof["uuid"], proof["id"]) == (str(fresh.uuid), str(fresh.id))
    assert proof["boot_id"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()

    again = initrd(btrfs_device)
    assert again.status == 0, again.err
    assert disk.info(btrfs_top, "@agents").uuid == fresh.uuid
    assert disk.payloads(btrfs_top) == before
    assert len(disk.old_homes(btrfs_top)) == kept


@pytest.mark.parametrize("read_only", [False, True])
def test_an_untouched_home_stays_and_no_old_one_is_made(
    initrd: disk.Initrd, btrfs_device: str, btrfs_top: int, read_only: bool
) -> None:
    disk.lay_out(btrfs_top)
    before = disk.info(btrfs_top, "@agents")
    if read_only:
        states.read_only(btrfs_top, "@agents")
    done = initrd(btrfs_device)
    assert done.status == 0, done.err
    assert disk.info(btrfs_top, "@agents").uuid == before.uuid
    assert disk.is_blank(btrfs_top)
    assert disk.old_homes(btrfs_top) == []
    proof = initrd.proof()
    assert proof is not None
    assert "old" not in proof
    assert proof["uuid"] == str(before.uuid)


def test_a_name_that_is_taken_is_not_replaced(initrd: disk.Initrd, btrfs_device: str, btrfs_top: int) -> None:
    disk.lay_out(btrfs_top)
    for number in range(4):
        disk.put(btrfs_top, "@agents/payload", b"home %d" % number)
        assert initrd(btrfs_device).status == 0
    assert len(disk.old_homes(btrfs_top)) == 4
    assert disk.payloads(btrfs_top) == [b"home %d" % number for number in range(4)]


def test_a_disk_full_of_data_is_rolled_back(initrd: disk.Initrd, btrfs_device: str, btrfs_top: int) -> None:
    disk.lay_out(btrfs_top)
    os.mkdir(
        "@agents-old", 0o700, dir_fd=btrfs_top
    )  # as `persist init` makes it beforehand: a full disk has no room for it
    _used(btrfs_top)
    with disk.subvolume(btrfs_top, "@agents/ada") as home:
        size, number = 16 << 20, 0
        while size >= 4096:
            fd = os.open(f"full{number}", os.O_WRONLY | os.O_CREAT, 0o600, dir_fd=home)
            try:
                os.posix_fallocate(fd, 0, size)
            except OSError:
                size //= 2
            os.close(fd)
            number += 1
    btrfs.commit(btrfs_top)
    done = initrd(btrfs_device)
    assert done.status == 0, done.err
    assert disk.is_blank(btrfs_top)


def test_a_blank_that_is_writable_but_empty_is_set_read_only_with_a_warning(
    initrd: disk.Initrd, btrfs_device: str, btrfs_top: int
) -> None:
    disk.lay_out(btrfs_top)
    with disk.subvolume(btrfs_top, "@agents-blank") as blank:
        btrfs.set_read_only(blank, False)
    _used(btrfs_top)
    done = initrd(btrfs_device)
    assert done.status == 0
    assert b"nuketown: warning: @agents-blank was empty but not read-only" in done.err
    assert disk.info(btrfs_top, "@agents-blank").read_only
    assert disk.is_blank(btrfs_top)


def test_a_blank_that_came_by_receive_is_used(
    initrd: disk.Initrd, btrfs_device: str, btrfs_dir: Path, tmp_path: Path
) -> None:
    with files.opened(files.open_dir(btrfs_dir)) as top:
        os.mkdir(btrfs_dir / "from")
        with disk.subvolume(top, "from") as sender, files.opened(btrfs.create(sender, "@agents-blank")) as made:
            os.fchmod(made, 0o755)
            btrfs.set_read_only(made, True)
        words = ["btrfs", "-q", "send", "-f", tmp_path / "stream", btrfs_dir / "from/@agents-blank"]
        process.run(words)
        process.run(["btrfs", "-q", "receive", "-f", tmp_path / "stream", btrfs_dir])
        for _ in range(2):
            done = initrd(btrfs_device)
            assert done.status == 0, done.err
            proof = initrd.proof()
            assert proof is not None
            assert proof["uuid"] == str(disk.info(top, "@agents").uuid)
            disk.put(top, "@agents/x", b"x")


# ---- what fails closed


def _blank_open(top: int) -> int:
    fd = files.open_beneath(top, "@agents-blank")
    btrfs.set_read_only(fd, False)
    return fd


def blank_missing(top: int) -> None:
    states.gone(top, "@agents-blank")


def blank_holds_a_file(top: int) -> None:
    with files.opened(_blank_open(top)) as blank:
        files.write_beneath(blank, ".payload", b"in blank")
        btrfs.set_read_only(blank, True)


def blank_holds_a_subvolume(top: int) -> None:
    with files.opened(_blank_open(top)) as blank:
        os.close(btrfs.create(blank, "..."))


def blank_is_open_to_all(top: int) -> None:
    with files.opened(_blank_open(top)) as blank:
        os.fchmod(blank, 0o777)


def blank_is_an_agents(top: int) -> None:
    with files.opened(_blank_open(top)) as blank:
        os.fchown(blank, ADA, ADA)


def blank_is_a_directory(top: int) -> None:
    states.gone(top, "@agents-blank")
    os.mkdir("@agents-blank", 0o755, dir_fd=top)


def blank_is_a_link(top: int) -> None:
    states.gone(top, "@agents-blank")
    os.symlink("elsewhere @agents", "@agents-blank", dir_fd=top)


def old_is_a_link(top: int) -> None:
    os.mkdir("elsewhere", 0o700, dir_fd=top)
    os.symlink("elsewhere", "@agents-old", dir_fd=top)


def old_is_open_to_others(top: int) -> None:
    os.mkdir("@agents-old", 0o755, dir_fd=top)


def old_is_an_agents(top: int) -> None:
    os.mkdir("@agents-old", 0o700, dir_fd=top)
    os.chown("@agents-old", ADA, ADA, dir_fd=top)


def old_is_a_subvolume(top: int) -> None:
    with files.opened(btrfs.create(top, "@agents-old")) as fd:
        os.fchmod(fd, 0o700)


def old_is_a_file(top: int) -> None:
    disk.put(top, "@agents-old", b"a file")


# scenario, a word of the reason
FAILING: list[tuple[Callable[[int], None], str]] = [
    (blank_missing, "the blank subvolume @agents-blank is missing"),
    (blank_holds_a_file, "@agents-blank is not empty"),
    (blank_holds_a_subvolume, "@agents-blank is not empty"),
    (blank_is_open_to_all, "@agents-blank is not root:root 0755"),
    (blank_is_an_agents, "@agents-blank is not root:root 0755"),
    (blank_is_a_directory, "@agents-blank is not a subvolume"),
    (blank_is_a_link, "@agents-blank is not a subvolume"),
    (old_is_a_link, "@agents-old is not a directory of root:root with mode 0700"),
    (old_is_open_to_others, "@agents-old is not a directory of root:root with mode 0700"),
    (old_is_an_agents, "@agents-old is not a directory of root:root with mode 0700"),
    (old_is_a_subvolume, "@agents-old is a subvolume"),
    (old_is_a_file, "@agents-old is not a directory of root:root with mode 0700"),
]


@pytest.mark.parametrize(("scenario", "reason"), FAILING, ids=[made.__name__ for made, _ in FAILING])
def test_what_should_not_be_there_fails_closed_and_changes_nothing(
    initrd: disk.Initrd, btrfs_device: str, btrfs_top: int, scenario: Callable[[int], None], reason: str
) -> None:
    disk.lay_out(btrfs_top)
    assert initrd(btrfs_device).status == 0  # so there is a proof of an earlier run
    _used(btrfs_top)
    for name in ("@agents-old",) if b"@agents-old" in files.names(btrfs_top) else ():
        os.rmdir(name, dir_fd=btrfs_top)
    scenario(btrfs_top)
    names, before, home = (
        files.names(btrfs_top), disk.payloads(btrfs_top), disk.info(btrfs_top, "@agents").uuid,
    )  # fmt: skip
    done = initrd(btrfs_device)
    assert done.status == 1
    assert f"nuketown: error: {reason}".encode() in done.err
    assert b"nuketown: hint: " in done.err
    assert initrd.proof() is None
    assert reason in (initrd.reason() or "")
    assert (files.names(btrfs_top), disk.payloads(btrfs_top)) == (names, before)
    assert disk.info(btrfs_top, "@agents").uuid == home


def test_a_success_ends_the_reason_of_an_earlier_failure(
    initrd: disk.Initrd, btrfs_device: str, btrfs_top: int
) -> None:
    assert initrd(btrfs_device).status == 1
    assert initrd.reason() is not None
    disk.lay_out(btrfs_top)
    assert initrd(btrfs_device).status == 0
    assert initrd.reason() is None
    assert initrd.proof() is not None


@pytest.mark.parametrize("name", ["../x", "a/b", ".", "..", "/", "a\nb", "x" * 201])
@pytest.mark.parametrize("variable", ["NUKETOWN_SUBVOLUME", "NUKETOWN_BLANK"])
def test_a_name_that_is_no_plain_name_is_refused(
    initrd: disk.Initrd, btrfs_device: str, variable: str, name: str
) -> None:
    done = initrd(btrfs_device, **{variable: name})
    assert done.status == 1
    assert variable.encode() in done.err
    assert initrd.proof() is None


def test_other_names_are_used_throughout(initrd: disk.Initrd, btrfs_device: str, btrfs_top: int) -> None:
    with files.opened(btrfs.create(btrfs_top, "the blank")) as blank:
        os.fchmod(blank, 0o755)
    names = {"NUKETOWN_SUBVOLUME": "our homes*", "NUKETOWN_BLANK": "the blank"}
    assert initrd(btrfs_device, **names).status == 0
    disk.put(btrfs_top, "our homes*/payload", b"x")
    assert initrd(btrfs_device, **names).status == 0
    assert files.names(btrfs_top) == [b"our homes*", b"our homes*-old", b"the blank"]
    assert disk.payloads(btrfs_top) == [b"x"]
    assert initrd(btrfs_device, NUKETOWN_BLANK="@agents-old").status == 1


@pytest.mark.parametrize("device", ["", "nonsense", "UUID=", "LABEL=", "/dev/does-not-exist", "/dev/null",
                                    "UUID=11111111-2222-3333-4444-555555555555", "LABEL=no such label",
                                    "11111111-2222-3333-4444-555555555555", "LABEL=a/b", "/dev/x\ny"])  # fmt: skip
def test_a_device_that_is_not_there_fails_closed(initrd: disk.Initrd, device: str) -> None:
    done = initrd(device)
    assert done.status == 1
    assert b"nuketown: error: " in done.err
    assert b"nuketown: hint: " in done.err
    assert initrd.reason() is not None
    assert sorted(os.listdir(initrd.run / "nuketown")) in (
        ["rollback.failed", "top"],
        [".words", "rollback.failed", "top"],
    )


@pytest.mark.parametrize("form", ["UUID={}", "{}"])
def test_a_uuid_finds_its_filesystem_in_either_case(
    initrd: disk.Initrd, btrfs_device: str, btrfs_top: int, form: str
) -> None:
    disk.lay_out(btrfs_top)
    uuid = process.run(["blkid", "-p", "-s", "UUID", "-o", "value", btrfs_device]).out.decode().strip()
    for spelled in (uuid, uuid.upper()):
        disk.put(btrfs_top, "@agents/payload", b"x")
        done = initrd(form.format(spelled))
        assert done.status == 0, done.err


@pytest.mark.parametrize("program", disk.PROGRAMS)
def test_a_program_that_is_missing_is_named_before_anything_is_done(
    initrd: disk.Initrd, btrfs_device: str, btrfs_top: int, program: str
) -> None:
    disk.lay_out(btrfs_top)
    _used(btrfs_top)
    (initrd.run / "nuketown/top/fs").mkdir(parents=True)  # as after a first run: mkdir is needed for nothing else
    (initrd.path / program).unlink()
    names = files.names(btrfs_top)
    done = initrd(btrfs_device)
    assert done.status == 1
    assert f"the program {program} is not here".encode() in done.err
    assert files.names(btrfs_top) == names


def test_a_run_directory_that_is_not_roots_is_refused(
    initrd: disk.Initrd, btrfs_device: str, btrfs_top: int, tmp_path: Path
) -> None:
    disk.lay_out(btrfs_top)
    there = initrd.run / "nuketown"
    (tmp_path / "elsewhere").mkdir()
    there.symlink_to(tmp_path / "elsewhere")
    assert initrd(btrfs_device).status == 1
    there.unlink()
    there.mkdir()
    os.chown(there, ADA, ADA)
    assert initrd(btrfs_device).status == 1
    os.chown(there, 0, 0)
    for mode in (0o757, 0o775, 0o777, 0o733):
        there.chmod(mode)
        assert initrd(btrfs_device).status == 1, oct(mode)
    for mode in (0o755, 0o711, 0o700, 0o750):
        there.chmod(mode)
        done = initrd(btrfs_device)
        assert done.status == 0, done.err
    assert os.listdir(tmp_path / "elsewhere") == []


def test_the_hook_is_clean_under_shellcheck() -> None:
    assert shutil.which("shellcheck"), "apt install shellcheck"
    done = process.run(["shellcheck", "--shell=sh", source.hook()], check=False)
    assert done.status == 0, done.out.decode()
