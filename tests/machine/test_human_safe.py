"""What the spec names as the agents' must be theirs: the human's own root is never set aside, nor a copy's disk."""

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from demo import loopback
from persist import device, elsewhere
from tests.machine import rollbackdisk as disk
from tests.machine import towns
from tests.machine.towns import ADA, Town
from town import btrfs, files, kernel, mounts, process

pytestmark = pytest.mark.root
SUBVOLUMES = ("below", ".snapshots")


@pytest.fixture
def town(btrfs_device: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Town]:
    """A machine with a btrfs that holds nothing yet; its spec names what `names` says."""
    there = Town(tmp_path, btrfs_device, capsys)
    names(there)
    try:
        yield there
    finally:
        towns.undo(tmp_path)


def names(town: Town, more: str = "", agents: str = f"[agents.ada]\nuid = {ADA}\n") -> None:
    town.file.write_text(
        f'[town]\nagents_dir = "{town.agents}"\npersist_dir = "{town.persisted}"\n'
        f'[town.btrfs]\ndevice = "{town.device}"\n{more}\n{agents}'
    )


def system(town: Town, name: str = "@root", below: tuple[str, ...] = ("etc", "usr", "home")) -> None:
    """A subvolume at the top level with directories of root's in it."""
    with btrfs.top_level(town.device) as top, files.opened(btrfs.create(top, name)) as made:
        os.fchmod(made, 0o755)
        for each in below:
            os.close(btrfs.create(made, each)) if each in SUBVOLUMES else os.mkdir(each, dir_fd=made)
        btrfs.commit(top)


def shown_at(town: Town, subvolume: str, place: str = "human") -> Path:
    target = town.base / place
    target.mkdir(exist_ok=True)
    kernel.mount(town.device, str(target), "btrfs", 0, f"subvol={subvolume}")
    return target


def tree(town: Town) -> str:
    """A tree that `persist install --root` can set up."""
    for name in ("usr/lib/systemd", "etc"):
        (town.base / "tree" / name).mkdir(parents=True, exist_ok=True)
    (town.base / "tree/usr/lib/systemd/systemd").touch()
    return str(town.base / "tree")


def at_top(town: Town) -> list[bytes]:
    with btrfs.top_level(town.device) as top:
        return files.names(top)


@pytest.mark.parametrize("words", [("init",), ("init", "--adopt"), ("init", "--adopt", "--dry-run")])
@pytest.mark.parametrize("mounted", [True, False])
def test_a_root_of_somebody_is_never_taken_for_homes(town: Town, words: tuple[str, ...], mounted: bool) -> None:
    system(town)
    names(town, 'subvolume = "@root"')
    if mounted:
        shown_at(town, "@root")
    before = at_top(town)
    said = town.persist(*words)
    assert said.status == 1
    assert "@root holds etc, usr: it looks like a system's root" in said.err
    assert ("@root is mounted at" in said.err) == mounted
    assert at_top(town) == before


def test_a_root_that_is_a_snapshot_of_its_blank_is_no_home_either(town: Town) -> None:
    system(town, "root-blank", ())
    with btrfs.top_level(town.device) as top, disk.subvolume(top, "root-blank") as blank:
        os.close(btrfs.snapshot(blank, top, "root", read_only=False))
        os.makedirs(f"/proc/self/fd/{top}/root/nix/store")
    names(town, 'subvolume = "root"\nblank = "root-blank"')
    said = town.persist("init", "--adopt")
    assert said.status == 1
    assert "root holds nix: it looks like a system's root" in said.err


def test_homes_of_agents_are_no_system_whatever_their_names(town: Town) -> None:
    names(town, agents=f"[agents.nix]\nuid = {ADA}\n")
    assert town.persist("init").status == 0
    with btrfs.top_level(town.device) as top, disk.subvolume(top, "@agents") as homes:
        for name, owner in (("nix", 0), ("usr", ADA + 1)):  # `usr` is of an agent that the spec had once
            os.mkdir(name, dir_fd=homes)
            os.chown(name, owner, owner, dir_fd=homes)
        os.mkdir(".recalled", 0o700, dir_fd=homes)
    said = town.persist("init")
    assert (said.status, said.out) == (0, "nothing to do: everything is there and as it should be\n"), said.err


def test_what_no_rollback_made_and_no_agent_has_is_taken_over_only_when_that_is_asked_for(town: Town) -> None:
    system(town, "@agents", ("music", "ada"))
    said = town.persist("init")
    assert said.status == 1
    assert "@agents was made by no rollback, and holds what no agent of the spec is called: music\n" in said.err
    assert "--adopt: the next rollback sets that aside" in said.err
    assert at_top(town) == [b"@agents"]
    assert town.persist("init", "--adopt").status == 0


def test_a_blank_that_is_gone_is_made_anew_whatever_the_homes_hold(town: Town) -> None:
    assert town.persist("init").status == 0
    with btrfs.top_level(town.device) as top:
        disk.put(top, "@agents/of-yesterday", b"left by somebody who is in the spec no more")
        btrfs.delete(top, "@agents-blank")
    said = town.persist("init")
    assert said.status == 0, said.err
    assert "@agents-blank" in said.out


def test_init_goes_on_with_an_agents_of_another_that_holds_agents_alone(town: Town) -> None:
    system(town, "@agents", ("ada",))
    said = town.persist("init")
    assert said.status == 0, said.err


@pytest.mark.parametrize(
    ("made", "more", "mounted", "says"),
    [
        ("@data", 'subvolume = "@data"', "@data", "@data is mounted at"),
        ("@data", 'blank = "@data"', "@data", "@data is mounted at"),
        ("@data", 'blank = "@data"', "@data/below", "something in @data is mounted at"),
    ],
)
def test_what_is_mounted_elsewhere_is_refused_by_init_install_and_check(
    town: Town, made: str, more: str, mounted: str, says: str
) -> None:
    system(town, made, ("below",) if "/" in mounted else ())
    names(town, more)
    place = shown_at(town, mounted)
    for words in (("init",), ("init", "--adopt"), ("init", "--json")):
        said = town.persist(*words)
        assert said.status == 1
        assert f"{says} {place}" in said.err + said.out
    said = town.persist("install", "--root", tree(town), "--initrd", "none")
    assert said.status == 78
    assert f"{says} {place}" in said.err
    assert not (town.base / "tree/etc/nuketown").exists()
    said = town.persist("check", "--machine", "--json")
    assert said.status == 78
    (problem,) = json.loads(said.out)["problems"]
    assert problem["what"].startswith(f"{says} {place}")
    assert f"umount {place}" in problem["cure"]
    towns.undo(place)
    assert town.persist("install", "--root", tree(town), "--initrd", "none").status == 0


def test_the_systems_own_place_inside_of_it_counts_and_a_recalled_copy_does_not(town: Town) -> None:
    system(town, "@", (".snapshots",))
    names(town, 'subvolume = "@"')
    with btrfs.top_level(town.device) as top:
        found = [*elsewhere.mounted(town.spec, top).values()]
        shown_at(town, "@/.snapshots", "look")
        found += [*elsewhere.mounted(town.spec, top).values()]
        kernel.mount(town.device, "/boot", "btrfs", 0, "subvol=@/.snapshots")  # the tests' own namespace
        try:
            found += [*elsewhere.mounted(town.spec, top).values()]
        finally:
            kernel.umount("/boot")
    assert found == ["subvolume"]


def test_homes_where_they_belong_are_no_hindrance(town: Town) -> None:
    assert town.persist("init").status == 0
    town.mount()
    with btrfs.top_level(town.device) as top:
        assert elsewhere.mounted(town.spec, top) == {}
    assert town.persist("init").status == 0
    assert town.persist("install", "--root", tree(town), "--initrd", "none").status == 0


def test_the_same_names_on_another_filesystem_say_nothing(town: Town, tmp_path: Path) -> None:
    other = tmp_path / "other.img"
    other.write_bytes(b"")
    os.truncate(other, 128 << 20)
    process.run(["mkfs.btrfs", "--quiet", other])
    with loopback.attached(other) as second:
        there = Town(tmp_path, second, town.capsys)
        system(there, "@agents", ())
        place = shown_at(there, "@agents", "another")
        said = town.persist("init")
        assert said.status == 0, said.err
        towns.undo(place)


def test_what_only_process_1_has_mounted_is_seen(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    system(town, "@data", ())
    names(town, 'subvolume = "@data"')
    own = mounts.table
    with btrfs.top_level(town.device):  # as while process 1 has it mounted: the filesystem keeps its number
        outer = shown_at(town, "@data")
        seen = mounts.table()
        towns.undo(outer)
        # The kernel's own lines, of a namespace that was; a test cannot mount in that of process 1.
        monkeypatch.setattr(mounts, "table", lambda process="self": seen if process == 1 else own(process))
        assert "@data is mounted at" in town.persist("init").err


# ---------------------------------------------------------------- whose filesystem


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """Two empty loop devices."""
    with ExitStack() as ends:
        devices = []
        for name in ("a", "b"):
            image = tmp_path / f"{name}.img"
            image.write_bytes(b"")
            os.truncate(image, 128 << 20)
            ends.callback(image.unlink)
            devices.append(ends.enter_context(loopback.attached(image)))
        yield devices[0], devices[1]


def uuid_of(path: str) -> str:
    return process.run(["blkid", "-p", "-s", "UUID", "-o", "value", path]).out.decode().strip()


@pytest.mark.parametrize("turned", [False, True])
def test_a_rollback_goes_under_no_home_whichever_device_of_the_filesystem_a_mount_names(
    pair: tuple[str, str], turned: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = reversed(pair) if turned else pair
    process.run(["mkfs.btrfs", "--quiet", "--force", first, second])
    process.run(["btrfs", "device", "scan"])
    town = Town(tmp_path, f"UUID={uuid_of(first)}", capsys)
    names(town)
    with btrfs.top_level(first) as top:
        disk.lay_out(top)
        disk.put(top, "@agents/work", b"ada's")
    for through in (first, second):
        place = tmp_path / "homes"
        place.mkdir(exist_ok=True)
        kernel.mount(through, str(place), "btrfs", 0, "subvol=@agents")
        for words in (("rollback",), ("rollback", "--dry-run")):
            said = town.persist(*words)
            assert said.status == 75, said.err
            assert f"homes are in use: mounted at {place}" in said.err
        assert (place / "work").read_bytes() == b"ada's"
        towns.undo(place)
    assert town.persist("rollback").status == 0


def test_a_mount_of_another_filesystem_holds_no_rollback(town: Town, pair: tuple[str, str], tmp_path: Path) -> None:
    assert town.persist("init").status == 0
    process.run(["mkfs.btrfs", "--quiet", pair[0]])
    place = tmp_path / "other"
    place.mkdir()
    with btrfs.top_level(pair[0]) as top:
        os.close(btrfs.create(top, "@agents"))
    kernel.mount(pair[0], str(place), "btrfs", 0, "subvol=@agents")
    said = town.persist("rollback")
    towns.undo(place)
    assert said.status == 0, said.err


def test_the_number_of_a_filesystem_is_the_one_that_mountinfo_has(town: Town) -> None:
    system(town, "x", ())
    place = shown_at(town, "x")
    with btrfs.top_level(town.device) as top, files.opened(files.open_dir(place)) as inside:
        assert {mounts.device_of(top), mounts.device_of(inside)} == {mounts.of(inside).device}
        assert os.fstat(top).st_dev != os.fstat(inside).st_dev


def copied(pair: tuple[str, str], label: str) -> str:
    """A filesystem on the first device and all its bytes on the second; its UUID as a tag."""
    first, second = pair
    process.run(["mkfs.btrfs", "--quiet", "--force", "--label", label, first])
    process.run(["dd", f"if={first}", f"of={second}", "bs=4M", "conv=fsync,sparse"])
    return f"UUID={uuid_of(first)}"


def test_a_copy_of_the_disk_is_refused_until_it_has_a_uuid_of_its_own(pair: tuple[str, str]) -> None:
    tag, label = copied(pair, f"copied {os.getpid()}"), f"LABEL=copied {os.getpid()}"
    for name in (tag, label):
        with pytest.raises(device.DeviceAmbiguous) as failure:
            device.resolve(name)
        assert failure.value.what.startswith(f"{name} is the name of a filesystem and of a copy of it")
        assert all(path in failure.value.what for path in pair)
        assert "btrfstune -u" in failure.value.hint
    process.run(["btrfstune", "-f", "-u", pair[1]])
    assert device.resolve(tag) == pair[0]
    with pytest.raises(device.DeviceAmbiguous, match="of more than one filesystem"):
        device.resolve(label)


def test_the_second_device_of_a_filesystem_is_no_copy(pair: tuple[str, str]) -> None:
    process.run(["mkfs.btrfs", "--quiet", "--force", *pair])
    assert device.resolve(f"UUID={uuid_of(pair[0])}") in pair


def test_a_disk_and_the_mapping_that_is_made_of_it_are_one(
    pair: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tag = copied(pair, "mapped")  # two paths to the same bytes, as a multipath device and a path below it are
    numbers = [f"{os.major(found)}:{os.minor(found)}" for found in (os.stat(path).st_rdev for path in pair)]
    # What sysfs shows of a mapping of a mapping: this must pass on kernels without device-mapper.
    for above, below in ((numbers[0], "254:77"), ("254:77", numbers[1])):
        slave = tmp_path / "block" / above / "slaves/x"
        slave.mkdir(parents=True)
        (slave / "dev").write_text(f"{below}\n")
    monkeypatch.setattr(device, "_BLOCK", tmp_path / "block")
    assert device.resolve(tag) == pair[0]
