"""Hosts where nothing rolls back: the first restore of a boot sets homes aside, `persist tidy` deletes old ones."""

import json
import os
import stat
from pathlib import Path

import pytest

from persist import outgoing
from tests.machine.towns import ADA, AS_ADA, Town, as_agent, town
from town import bootid, btrfs, files, kernel, mounts, process, standing

__all__ = ["town"]
pytestmark = pytest.mark.root
BOOTS = ("11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222")


@pytest.fixture
def plain(town: Town, monkeypatch: pytest.MonkeyPatch) -> Town:
    """A town without [town.btrfs], at its first boot."""
    town.write('["projects"]', btrfs_device="")
    monkeypatch.setattr(bootid, "text", lambda: BOOTS[0])
    return town


def reboot(town: Town, monkeypatch: pytest.MonkeyPatch, boot: str) -> None:
    """Another boot: /run is empty, what was mounted in homes is not."""
    monkeypatch.setattr(bootid, "text", lambda: boot)
    for found in mounts.below(town.agents):
        kernel.umount(os.fsdecode(found.target), kernel.MNT_DETACH)


def old(town: Town) -> list[Path]:
    place = town.agents / ".old"
    return sorted(place.iterdir()) if place.exists() else []


def test_the_first_restore_of_a_boot_sets_the_home_aside_and_starts_an_empty_one(
    plain: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert plain.persist("restore", "ada").status == 0
    as_agent(AS_ADA, plain.agents / "ada", "open('kept', 'w').write('x'); open('projects/mine', 'w').write('y')")
    reboot(plain, monkeypatch, BOOTS[1])
    said = plain.persist("restore", "ada")
    assert said.status == 0, said.err
    (boot,) = old(plain)
    assert boot.name.endswith(f"Z-{BOOTS[1]}")
    assert (boot / "ada/kept").read_text() == "x"
    assert sorted(os.listdir(plain.agents / "ada")) == ["projects"]
    assert (plain.agents / "ada/projects/mine").read_text() == "y"
    assert "of an earlier boot" in said.out
    for path in (plain.agents / ".old", boot):
        found = path.stat()
        assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (0, 0o700)


def test_a_second_restore_of_the_same_boot_sets_nothing_aside(plain: Town) -> None:
    assert plain.persist("restore", "ada").status == 0
    inode = (plain.agents / "ada").stat().st_ino
    assert plain.persist("restore", "ada").status == 0
    assert (plain.agents / "ada").stat().st_ino == inode
    assert old(plain) == []


def test_a_dry_run_says_it_and_moves_nothing(plain: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    assert plain.persist("restore", "ada").status == 0
    reboot(plain, monkeypatch, BOOTS[1])
    inode = (plain.agents / "ada").stat().st_ino
    said = plain.persist("restore", "--dry-run", "ada")
    assert said.status == 0
    assert "of an earlier boot" in said.out
    assert (plain.agents / "ada").stat().st_ino == inode


def test_a_restore_cut_off_before_its_note_loses_neither_home(plain: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    assert plain.persist("restore", "ada").status == 0
    (plain.agents / "ada/first").touch()
    reboot(plain, monkeypatch, BOOTS[1])

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as cut:
        cut.setattr(outgoing, "note", killed)
        assert plain.persist("restore", "ada").status not in (0, 1)
    (plain.agents / "ada/second").touch()
    assert plain.persist("restore", "ada").status == 0
    (boot,) = old(plain)
    assert sorted(os.listdir(boot)) == ["ada", "ada.1"]
    assert (boot / "ada/first").exists()
    assert (boot / "ada.1/second").exists()


def test_a_home_that_something_is_mounted_in_is_not_set_aside(plain: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    assert plain.persist("restore", "ada").status == 0
    monkeypatch.setattr(bootid, "text", lambda: BOOTS[1])  # its bind still stands
    said = plain.persist("restore", "ada")
    assert said.status == 1
    assert "is mounted in it" in said.err
    assert "persist release" in said.err
    assert old(plain) == []


@pytest.mark.parametrize("made", ["link", "file", "open", "ada's"])
def test_a_place_for_old_homes_that_is_not_roots_alone_is_refused(
    plain: Town, monkeypatch: pytest.MonkeyPatch, made: str
) -> None:
    assert plain.persist("restore", "ada").status == 0
    place, elsewhere = plain.agents / ".old", plain.base / "elsewhere"
    elsewhere.mkdir()
    if made == "link":
        place.symlink_to(elsewhere)
    elif made == "file":
        place.touch()
    else:
        place.mkdir(0o755 if made == "open" else 0o700)
        os.chown(place, ADA if made == "ada's" else 0, 0)
    reboot(plain, monkeypatch, BOOTS[1])
    said = plain.persist("restore", "ada")
    assert said.status == 1
    assert ".old" in said.err
    assert (plain.agents / "ada").is_dir()
    assert list(elsewhere.iterdir()) == []


def test_homes_lists_what_was_set_aside_without_btrfs(plain: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "first restore of a boot" in plain.persist("homes").err
    assert plain.persist("restore").status == 0
    reboot(plain, monkeypatch, BOOTS[1])
    assert plain.persist("restore").status == 0
    listed = json.loads(plain.persist("homes", "ada", "--json").out)["homes"]
    assert [(home["agent"]["text"], home["boot"]) for home in listed] == [("ada", BOOTS[1])]


def test_tidy_deletes_old_homes_by_keep_but_never_the_newest(plain: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    plain.write('["projects"]', town="keep = { homes = 2, days = 3 }", btrfs_device="")
    place = plain.agents / ".old"
    place.mkdir(0o700)
    boot = BOOTS[0]
    names = [f"{stamp}-{boot}" for stamp in ("20200101T000000Z", "20200102T000000Z", "20200103T000000Z")]
    for name in names:
        (place / name / "ada/deep").mkdir(parents=True)
        with files.opened(files.open_dir(place / name / "ada")) as fd:
            os.close(btrfs.create(fd, "nested"))
        (place / name / "ada/nested/file").touch()
    said = plain.persist("tidy", "--dry-run")
    assert said.status == 0
    assert names[0] in said.out
    assert len(old(plain)) == 3
    said = plain.persist("tidy")
    assert said.status == 0, said.err
    assert [path.name for path in old(plain)] == names[-1:]
    assert "nothing to do" in plain.persist("tidy").out


def test_tidy_deletes_read_only_subvolumes_however_deep_they_lie_in_each_other(plain: Town) -> None:
    plain.write('["projects"]', town="keep = { homes = 1 }", btrfs_device="")
    place = plain.agents / ".old"
    for stamp in ("20200101T000000Z", "20200102T000000Z"):
        (place / f"{stamp}-{BOOTS[0]}/ada").mkdir(parents=True)
    place.chmod(0o700)
    fd = files.open_dir(place / f"20200101T000000Z-{BOOTS[0]}/ada")
    made = [fd]
    for _ in range(300):
        made.append(btrfs.create(made[-1], "n"))
    for fd in made[1:]:
        btrfs.set_read_only(fd, True)
    for fd in made:
        os.close(fd)
    said = plain.persist("tidy")
    assert (said.status, said.err) == (0, "")
    assert [path.name for path in old(plain)] == [f"20200102T000000Z-{BOOTS[0]}"]


def test_tidy_goes_into_no_mount_below_an_old_home(plain: Town) -> None:
    plain.write('["projects"]', town="keep = { homes = 1 }", btrfs_device="")
    place, other = plain.agents / ".old", plain.base / "other"
    for stamp in ("20200101T000000Z", "20200102T000000Z"):
        (place / f"{stamp}-{BOOTS[0]}/ada/there").mkdir(parents=True)
    place.chmod(0o700)
    other.mkdir()
    (other / "precious").touch()
    process.run(["mount", "--bind", str(other), str(place / f"20200101T000000Z-{BOOTS[0]}/ada/there")])
    said = plain.persist("tidy")
    assert said.status == 1
    assert "mounted" in said.err
    assert (other / "precious").exists()


def test_keep_stands_beside_btrfs_in_one_place_only(town: Town) -> None:
    town.write('["projects"]', town="keep = { homes = 2 }")
    said = town.persist("check")
    assert said.status == 78
    assert "town.btrfs.keep" in said.err


def test_where_the_boot_rolls_back_nothing_is_set_aside_or_noted(town: Town) -> None:
    assert town.persist("restore", "ada").status == 0
    assert not standing.RUN.exists()
    assert old(town) == []
