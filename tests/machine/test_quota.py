"""A quota: home and persisted data count together, on a real btrfs, and nothing else does; what escapes it is said."""

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from demo import loopback
from persist import account, ballast, pam, swept
from tests.machine import resets
from tests.machine.stores import with_store
from tests.machine.towns import ADA, AS_ADA, AS_VOX, VOX, Town, as_agent, town, undo
from town import btrfs, files, kernel, process, quotas, standing, strays, subvolumes
from town.spec import Btrfs

__all__ = ["town"]
pytestmark = pytest.mark.root
MIB = 1 << 20
GROUP = quotas.group(ADA)

_WRITE = """
import os, sys
name, mib = {!r}, {}
with open(name, "wb", buffering=0) as file:
    for _ in range(mib):
        file.write(os.urandom(1 << 20))
    os.fsync(file.fileno())
"""
# A subvolume of any user's that says itself which groups it joins: none (struct btrfs_ioctl_vol_args_v2, with
# BTRFS_SUBVOL_QGROUP_INHERIT; struct btrfs_qgroup_inherit of zeros).
_APART = """
import ctypes, fcntl, os, struct
none = ctypes.create_string_buffer(72)
said = struct.pack("=qQQQQQQ", 0, 0, 1 << 2, 72, ctypes.addressof(none), 0, 0) + {name!r}.encode().ljust(4040, b"\\0")
fcntl.ioctl(os.open(".", os.O_RDONLY), 0x50009418, bytearray(said))
"""


@pytest.fixture(autouse=True)
def its_ballast(town: Town) -> None:
    """What `persist init` makes besides: without it status has something to say."""
    with btrfs.top_level(town.device) as top:
        ballast.make(top, Btrfs(town.device))


def limited(town: Town, quota: str = "20M", *, uid: int = ADA) -> None:
    """Ada has a quota, vox has none."""
    town.write(f'["projects"]\nquota = "{quota}"', '["projects"]')
    town.file.write_text(town.file.read_text().replace(f"uid = {ADA}\n", f"uid = {uid}\n"))


def writes(town: Town, path: str, mib: int, person: process.Person = AS_ADA) -> bytes:
    """The agent writes so much there; what it was told."""
    home = town.agents / ("vox" if person == AS_VOX else "ada")
    return as_agent(person, home, _WRITE.format(path, mib), check=False).err


def used(town: Town) -> quotas.Use | None:
    with btrfs.top_level(town.device) as top:
        btrfs.commit(top)
        return quotas.use(top, GROUP)


def members(town: Town) -> frozenset[int]:
    with btrfs.top_level(town.device) as top:
        return quotas.members(top, GROUP)


def number(path: Path) -> int:
    with files.opened(files.open_dir(path)) as fd:
        return btrfs.number(fd)


def status(town: Town) -> dict[str, Any]:
    return next(one for one in json.loads(town.persist("status", "--json").out)["agents"] if one["agent"] == "ada")


def test_home_and_persisted_data_count_together(town: Town) -> None:
    limited(town)
    said = town.persist("restore")
    assert said.status == 0, said.err
    assert writes(town, "in-home", 12) == b""
    assert b"Disk quota exceeded" in writes(town, "projects/kept", 12)
    assert (town.agents / "ada/projects/kept").stat().st_size < 9 * MIB
    found = used(town)
    assert found is not None
    assert 18 * MIB < found.used <= 20 * MIB == found.limit
    assert writes(town, "as-much-as-there-is", 30, AS_VOX) == b"", "another agent has no quota"


def test_what_is_deleted_counts_no_more(town: Town) -> None:
    limited(town)
    town.persist("restore")
    assert b"Disk quota exceeded" in writes(town, "big", 25)
    as_agent(AS_ADA, town.agents / "ada", "import os; os.unlink('big')")
    found = used(town)
    assert found is not None
    assert found.used < MIB
    assert writes(town, "again", 15) == b""


def test_without_a_quota_nothing_is_turned_on(town: Town) -> None:
    town.persist("restore")
    with btrfs.top_level(town.device) as top:
        assert quotas.mode(top) == "off"
    assert "  quota " not in town.persist("status").out
    assert status(town)["quota"] == []


def test_a_restore_says_what_it_does_and_a_second_run_does_nothing(town: Town) -> None:
    limited(town)
    foretold = town.persist("restore", "ada", "--dry-run").out
    assert f"ada: quotas  {town.agents}: simple ones turned on (from now on only Linux 6.7 and later" in foretold
    with btrfs.top_level(town.device) as top:
        assert quotas.mode(top) == "off", "--dry-run changed something"
    done = town.persist("restore", "ada").out
    for line in ("simple ones turned on", f"a group 1/{ADA}", "ada may hold 20M", "2 subvolumes more counted"):
        assert f"ada: quotas  {town.agents}: {line}" in done, done
    assert "quotas" not in town.persist("restore", "ada").out
    assert "nothing to do" in town.persist("restore", "ada", "--dry-run").out


def test_another_quota_is_in_force_with_the_next_restore_and_none_ends_it(town: Town) -> None:
    limited(town)
    town.persist("restore")
    limited(town, "30M")
    assert "ada may hold 30M" in town.persist("restore", "ada").out
    assert writes(town, "more", 25) == b""
    town.write('["projects"]')
    assert "no limit for ada" in town.persist("restore", "ada").out
    assert writes(town, "much-more", 40) == b""
    assert "quotas" not in town.persist("restore", "ada").out


def test_subvolumes_that_the_agent_makes_count_too(town: Town) -> None:
    limited(town)
    town.persist("restore")
    process.run(["btrfs", "subvolume", "create", "sub"], person=AS_ADA, cwd=town.agents / "ada")
    process.run(["btrfs", "subvolume", "create", "projects/sub"], person=AS_ADA, cwd=town.agents / "ada")
    assert writes(town, "sub/a", 9) == b""
    assert writes(town, "projects/sub/b", 9) == b""
    assert b"Disk quota exceeded" in writes(town, "projects/sub/c", 9)


def test_a_subvolume_that_the_agent_kept_out_of_the_group_is_named_and_counted(town: Town) -> None:
    """Any user may make one that joins no group: until somebody looks, it holds what it likes. Status says so."""
    limited(town)
    town.persist("restore")
    as_agent(AS_ADA, town.agents / "ada", _APART.format(name="apart"))
    assert writes(town, "apart/hidden", 30) == b""
    found = status(town)
    assert found["quota"][0]["not_counted"] == 1
    assert any("1 subvolume of its" in trouble["what"] for trouble in found["troubles"])
    assert "1 subvolume more counted" in town.persist("restore", "ada").out
    assert b"Disk quota exceeded" in writes(town, "more", 1)
    assert b"Disk quota exceeded" in writes(town, "apart/more", 1)
    as_agent(AS_ADA, town.agents / "ada", "import os; os.unlink('apart/hidden')")
    assert writes(town, "more", 5) == b"", "what is over the limit can be deleted"


def test_an_old_home_counts_no_more_and_persisted_data_goes_on_counting(town: Town) -> None:
    limited(town)
    town.persist("restore")
    assert writes(town, "in-home", 8) == b""
    assert writes(town, "projects/kept", 8) == b""
    before = number(town.agents / "ada")
    undo(town.agents / "ada")
    town.boot("20261121T101500Z-78f91efc-edd7-4c7a-a748-ce7563c808be")
    assert before in members(town)
    said = town.persist("restore", "ada")
    assert "1 subvolume no more counted" in said.out
    assert members(town) == {number(town.agents / "ada"), number(town.persisted / "agents/ada")}
    found = used(town)
    assert found is not None
    assert 8 * MIB <= found.used < 9 * MIB
    assert writes(town, "in-home", 10) == b""


@pytest.fixture
def stored(town: Town) -> Town:
    """Ada keeps `notes` in the store alone, so that it lies in her home, and has a quota."""
    with_store(town, '[{ path = "notes", via = "store" }]\nquota = "20M"')
    assert town.persist("init", "--store").status == 0
    assert town.persist("restore").status == 0
    return town


def test_a_directory_that_is_carried_over_goes_on_counting(stored: Town) -> None:
    """It is a snapshot of the old home's: what it shows was written there, and counts for that."""
    assert writes(stored, "notes/kept", 12) == b""
    stored.boot("20261121T101500Z-78f91efc-edd7-4c7a-a748-ce7563c808be")
    assert stored.persist("restore", "ada").status == 0
    assert (stored.agents / "ada/notes/kept").stat().st_size == 12 * MIB
    assert b"Disk quota exceeded" in writes(stored, "new", 12)
    with btrfs.top_level(stored.device) as top:  # as persist tidy does, some boots later
        before = members(stored)
        with files.opened(files.enter(top, "@agents-old")) as old:
            subvolumes.remove(old, "20261121T101500Z-78f91efc-edd7-4c7a-a748-ce7563c808be")
        _freed(top)
    assert "quotas" not in stored.persist("restore", "ada").out
    assert members(stored) == before
    assert b"Disk quota exceeded" in writes(stored, "new", 12)


def test_a_sync_counts_what_the_agent_kept_out_of_the_group(stored: Town) -> None:
    as_agent(AS_ADA, stored.agents / "ada", _APART.format(name="apart"))
    assert status(stored)["quota"][0]["not_counted"] == 1
    said = stored.persist("sync", "ada")
    assert (said.status, said.err) == (0, "")
    assert status(stored)["quota"][0]["not_counted"] == 0


def test_an_agent_at_its_limit_is_synced(stored: Town) -> None:
    assert b"Disk quota exceeded" in writes(stored, "notes/all", 25)
    said = stored.persist("sync", "ada")
    assert (said.status, said.err) == (0, "")


_CLONE = """
import fcntl, os
with open("in-home", "rb") as source, open("projects/clone", "wb") as clone:
    fcntl.ioctl(clone, 0x40049409, source.fileno())
os.unlink("in-home")
"""


def test_what_was_cloned_out_of_an_old_home_counts_again_when_that_is_deleted(town: Town) -> None:
    """Else each boot would let an agent keep as much again. While the old home is kept, it is what holds the data."""
    limited(town)
    town.persist("restore")
    assert writes(town, "in-home", 15) == b""
    as_agent(AS_ADA, town.agents / "ada", _CLONE)
    assert b"Disk quota exceeded" in writes(town, "more", 10)
    undo(town.agents / "ada")
    town.boot("20261121T101500Z-78f91efc-edd7-4c7a-a748-ce7563c808be")
    assert town.persist("restore", "ada").status == 0
    assert writes(town, "more", 10) == b""
    with btrfs.top_level(town.device) as top, files.opened(files.enter(top, "@agents-old")) as old:
        subvolumes.remove(old, "20261121T101500Z-78f91efc-edd7-4c7a-a748-ce7563c808be")
        _freed(top)
    assert "1 subvolume more counted" in town.persist("restore", "ada").out
    assert b"Disk quota exceeded" in writes(town, "and-more", 1)
    assert "quotas" not in town.persist("restore", "ada").out


def test_what_was_there_before_quotas_does_not_count_until_it_is_written_again(town: Town) -> None:
    town.persist("restore")
    assert writes(town, "projects/before", 15) == b""
    limited(town)
    town.persist("restore")
    found = used(town)
    assert found is not None
    assert found.used < MIB
    assert writes(town, "projects/after", 15) == b""
    again = "open('new', 'wb').write(open('before', 'rb').read())"
    as_agent(AS_ADA, town.agents / "ada/projects", again, check=False)
    found = used(town)
    assert found is not None
    assert found.used > 19 * MIB


def test_what_a_snapshot_holds_counts_until_the_snapshot_goes(town: Town) -> None:
    limited(town)
    town.persist("restore")
    assert writes(town, "kept", 12) == b""
    with btrfs.top_level(town.device) as top, files.opened(files.open_dir(town.agents / "ada")) as home:
        os.close(btrfs.snapshot(home, top, "kept", read_only=True))
        as_agent(AS_ADA, town.agents / "ada", "import os; os.unlink('kept')")
        assert b"Disk quota exceeded" in writes(town, "more", 12)
        subvolumes.remove(top, "kept")
        _freed(top)
    assert writes(town, "more", 12) == b""


def _freed(top: int) -> None:
    while subvolumes.being_freed(top):
        btrfs.commit(top)
    btrfs.commit(top)


def test_full_quotas_are_refused_with_the_cure(town: Town) -> None:
    process.run(["btrfs", "quota", "enable", town.agents])
    limited(town)
    said = town.persist("restore", "ada")
    assert said.status == 78
    assert f"ada: ada has a quota of 20M: the filesystem of {town.agents} has full quotas" in said.err
    assert f"btrfs quota disable {town.agents}" in said.err
    assert not (town.agents / "ada").exists(), "an agent without its limit got a home"
    assert town.persist("restore", "vox").status == 0
    process.run(["btrfs", "quota", "disable", town.agents])
    assert town.persist("restore", "ada").status == 0


def test_an_older_kernel_is_refused_and_named(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel without the feature has no such file; asked for it, it says EINVAL."""
    monkeypatch.setattr(quotas, "_FEATURE", Path("/sys/fs/btrfs/features/no_such_feature"))
    limited(town)
    said = town.persist("check", "--machine")
    assert said.status == 78
    assert f"agents.ada.quota: this Linux, {os.uname().release}, has no simple quotas: they came with 6.7" in said.err
    said = town.persist("restore", "ada")
    assert said.status == 78
    assert "has no simple quotas: they came with 6.7" in said.err
    assert "leave quota out" in said.err
    with btrfs.top_level(town.device) as top:
        assert quotas.mode(top) == "off"


@pytest.mark.parametrize(("release", "has"), [("6.6.87-1", False), ("6.7.0", True), ("5.10", False), ("10.1-x", True)])
def test_where_btrfs_is_not_loaded_the_number_of_the_kernel_tells(
    monkeypatch: pytest.MonkeyPatch, release: str, *, has: bool
) -> None:
    monkeypatch.setattr(quotas, "_FEATURE", Path("/sys/fs/none/features/simple_quota"))
    names = os.uname()
    monkeypatch.setattr(os, "uname", lambda: os.uname_result((*names[:2], release, *names[3:])))
    assert quotas.known() is has


def test_a_home_on_no_btrfs_is_refused(town: Town, tmp_path: Path) -> None:
    limited(town)
    text = town.file.read_text()
    plain = town.base / "plain"
    plain.mkdir()
    town.file.write_text(re.sub(r"\[town\.btrfs\]\n.*\n", "", text).replace(str(town.agents), str(plain)))
    kernel.mount("none", str(plain), "tmpfs", 0, "mode=0755")
    said = town.persist("restore", "ada")
    assert said.status == 78
    assert f"{plain} lies on no btrfs" in said.err
    assert town.persist("check", "--machine").status == 78


def test_status_and_metrics_show_what_is_used(town: Town) -> None:
    limited(town)
    town.persist("restore")
    writes(town, "in-home", 10)
    used(town)  # commits
    said = town.persist("status", "ada")
    assert said.status == 0, said.out
    assert re.search(r"quota    10\.\d MB of 20M \(21\.0 MB\)\n", said.out), said.out
    (one,) = status(town)["quota"]
    assert (one["limit"], one["not_counted"], one["path"]["text"]) == (20 * MIB, 0, str(town.agents))
    assert 10 * MIB < one["used"] < 11 * MIB
    text = town.persist("metrics").out
    assert f'nuketown_quota_limit_bytes{{agent="ada",path="{town.agents}"}} {20 * MIB}' in text
    assert f'nuketown_quota_used_bytes{{agent="ada",path="{town.agents}"}} {one["used"]}' in text
    writes(town, "more", 10)
    used(town)
    said = town.persist("status", "ada")
    assert said.status == 3
    assert "its quota of 20M is used up, or nearly" in said.out


def test_a_quota_that_is_not_in_force_is_named(town: Town) -> None:
    town.persist("restore")
    limited(town)
    said = town.persist("status", "ada")
    assert said.status == 3
    assert f"its quota of 20M is not in force on {town.agents}" in said.out
    town.persist("restore", "ada")
    assert town.persist("status", "ada").status == 0
    process.run(["btrfs", "qgroup", "limit", "none", f"1/{ADA}", town.agents])
    assert "not in force" in town.persist("status", "ada").out


def test_persisted_data_in_a_plain_directory_is_said_not_to_count(town: Town) -> None:
    (town.persisted / "agents").mkdir(mode=0o711)
    (town.persisted / "agents/ada").mkdir(mode=0o711)
    limited(town)
    assert town.persist("restore", "ada").status == 0
    said = town.persist("status", "ada")
    assert said.status == 3
    assert "what it persists does not count for its quota: it lies in a plain directory" in said.out


ALONE = process.Person(41199, 41199)  # a uid that no other test has, on a machine that runs several at once


@pytest.fixture
def ruled(town: Town, monkeypatch: pytest.MonkeyPatch) -> Iterator[Town]:
    """A machine that keeps accounts closed until all is in place, and an ada who has all but her restore."""
    places = town.base / "strays.toml"
    places.write_text(f'[[place]]\npath = "{town.base}/nowhere"\nname = "nowhere"\n')
    monkeypatch.setattr(strays, "FILE", places)
    monkeypatch.setattr(pam, "ruled", lambda _root: True)
    shutil.rmtree(account.OPEN.parent, ignore_errors=True)
    account.OPEN.parent.mkdir()
    with swept.alone() as directory:
        swept.record(directory, {"ada": {"uid": ALONE.uid, "whole": True}})
    yield town
    shutil.rmtree(account.OPEN.parent)


def _restored(town: Town) -> str:
    """What a restore says; after it identity installs what it does at each boot."""
    said = town.persist("restore", "ada").out
    standing.note(standing.INSTALLED, "ada")
    return said


def test_an_agent_that_filled_its_quota_gets_its_keys_and_the_limit_comes_with_the_open_account(ruled: Town) -> None:
    limited(ruled, uid=ALONE.uid)
    _restored(ruled)
    assert ruled.persist("account", "open", "ada").status == 0
    assert b"Disk quota exceeded" in writes(ruled, "projects/all", 25, ALONE)
    account.change(ruled.spec, ruled.spec.agent("ada"), opened=False)  # a reboot
    undo(ruled.agents / "ada")
    ruled.boot("20261121T101500Z-78f91efc-edd7-4c7a-a748-ce7563c808be")
    assert "no limit for ada until its account opens" in _restored(ruled)
    assert writes(ruled, "key", 1, ALONE) == b"", "what is put into its home before it starts does not fit"
    assert ruled.persist("account", "open", "ada").status == 0
    assert b"Disk quota exceeded" in writes(ruled, "more", 1, ALONE)
    assert "quotas" not in ruled.persist("restore", "ada").out, "its account is open: the limit stays"


def test_an_agent_that_runs_is_never_without_its_limit(ruled: Town) -> None:
    limited(ruled, uid=ALONE.uid)
    _restored(ruled)
    assert ruled.persist("account", "open", "ada").status == 0
    assert ruled.persist("account", "close", "ada").status == 0
    with subprocess.Popen(["sleep", "60"], user=ALONE.uid, group=ALONE.gid, extra_groups=[]) as session:
        assert "quotas" not in ruled.persist("restore", "ada").out
        session.kill()
    assert "no limit for ada until its account opens" in ruled.persist("restore", "ada").out


def test_a_quota_that_cannot_be_held_keeps_the_account_closed(ruled: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    limited(ruled, uid=ALONE.uid)
    _restored(ruled)
    monkeypatch.setattr(quotas, "_FEATURE", Path("/sys/fs/btrfs/features/no_such_feature"))
    assert ruled.persist("account", "open", "ada").status == 78
    assert account.names() == ()
    said = ruled.persist("account", "open", "ada", "--force")
    assert said.status == 0
    assert "warning: ada: opened all the same: ada has a quota of 20M" in said.err


def test_a_persist_dir_on_the_disk_of_the_system_is_warned_of_where_an_agent_has_no_quota(
    town: Town, tmp_path: Path
) -> None:
    kept = tmp_path / "kept"
    kept.mkdir(mode=0o755)
    town.file.write_text(town.file.read_text().replace(str(town.persisted), str(kept)))
    said = town.persist("check", "--machine")
    assert said.status == 3
    assert f"{kept} lies on the filesystem of /, which an agent can fill: no quota for ada, vox" in said.err
    plain = town.persist("check")  # without --machine the status is that of the spec alone
    assert plain.status == 0
    assert f"persist: note: town.persist_dir: {kept} lies on the filesystem of /, which an agent can fill" in plain.err
    town.file.write_text(town.file.read_text().replace(str(kept), str(town.persisted)))
    assert "which an agent can fill" not in town.persist("check", "--machine").err


def test_two_filesystems_each_hold_the_agent_to_its_quota(town: Town, tmp_path: Path) -> None:
    image = tmp_path / "second.img"
    with image.open("wb") as file:
        file.truncate(256 << 20)
    process.run(["mkfs.btrfs", "--quiet", "--metadata", "single", image])
    second = tmp_path / "second"
    second.mkdir()
    with loopback.attached(image) as device:
        kernel.mount(device, str(second), "btrfs", 0)
        try:
            limited(town)
            town.file.write_text(town.file.read_text().replace(str(town.persisted), str(second)))
            assert town.persist("restore", "ada").status == 0
            assert b"Disk quota exceeded" in writes(town, "in-home", 25)
            assert b"Disk quota exceeded" in writes(town, "projects/kept", 25)
            assert [one["path"]["text"] for one in status(town)["quota"]] == [str(town.agents), str(second)]
        finally:
            undo(town.agents / "ada")
            undo(second)


def test_a_read_only_home_and_many_nested_ones_are_counted_all_the_same(town: Town) -> None:
    limited(town)
    town.persist("restore")
    home = town.agents / "ada"
    as_agent(AS_ADA, home, _APART.format(name="apart"))
    for name in ("apart/deep", "apart/deep/er"):
        process.run(["btrfs", "subvolume", "create", name], person=AS_ADA, cwd=home)
    process.run(["btrfs", "property", "set", ".", "ro", "true"], person=AS_ADA, cwd=home)
    assert status(town)["quota"][0]["not_counted"] == 3
    assert "3 subvolumes more counted" in town.persist("restore", "ada").out
    assert status(town)["quota"][0]["not_counted"] == 0


def test_what_an_old_home_wrote_counts_after_a_replacement_and_the_cure_is_named(town: Town) -> None:
    limited(town, uid=resets.UID)
    ada = process.Person(resets.UID, resets.UID)
    assert town.persist("restore").status == 0
    assert writes(town, "big", 19, ada) == b""
    for words in (("snapshot", "ada", "--name", "full"), ("reset", "ada"), ("recall", "ada@full", "--replace")):
        said = town.persist(*words)
        assert said.status == 0, said
    as_agent(ada, town.agents / "ada", "import os; os.unlink('big')")
    said = town.persist("status", "ada")
    assert said.status == 3, said.out
    used_up = r"its quota of 20M is used up, or nearly: (19\.9|2\d\.\d) MB of it by homes that it had before"
    assert re.search(used_up, said.out), said.out
    assert re.search(r"next:  persist lost .*ada; persist homes .*ada \(", said.out)
    (one,) = status(town)["quota"]
    assert 19 * MIB <= one["of_earlier_homes"] <= one["used"]
    kept = json.loads(town.persist("homes", "ada", "--json").out)["homes"]
    why = "taken by recall --replace, stays until persist homes --delete: before ada@full took its place"
    assert why in [home["why"] for home in kept]
    homes = [home["name"] for home in kept]
    assert town.persist("homes", *(word for name in homes for word in ("--delete", name))).status == 0
    assert town.persist("restore", "ada").status == 0
    for _ in range(100):
        if not status(town)["quota"][0]["of_earlier_homes"]:
            break
        time.sleep(0.1)
    assert town.persist("status", "ada").status == 0


# A subvolume of any user's that says itself which group it joins (struct btrfs_qgroup_inherit with one group).
_INTO = """
import ctypes, fcntl, os, struct
one = ctypes.create_string_buffer(struct.pack("=QQQQ", 0, 1, 0, 0) + bytes(40) + struct.pack("=Q", {group}))
said = struct.pack("=qQQQQQQ", 0, 0, 1 << 2, 80, ctypes.addressof(one), 0, 0) + {name!r}.encode().ljust(4040, b"\\0")
fcntl.ioctl(os.open(".", os.O_RDONLY), 0x50009418, bytearray(said))
"""
_KEEP = """
import fcntl, os
with open("{name}/big", "rb") as source, open("{to}", "wb") as clone:
    fcntl.ioctl(clone, 0x40049409, source.fileno())
"""
_DELETE = "import os; os.unlink('{name}/big'); os.rmdir('{name}')"


def both_limited(town: Town) -> None:
    town.write('["projects"]\nquota = "20M"', '["projects"]\nquota = "20M"')
    said = town.persist("restore")
    assert said.status == 0, said
    as_agent(AS_ADA, town.agents / "ada", _INTO.format(group=quotas.group(VOX), name="evil"))
    assert writes(town, "evil/big", 17) == b""
    used(town)
    assert b"Disk quota exceeded" in writes(town, "mine", 8, AS_VOX)


def test_a_subvolume_that_an_agent_puts_into_anothers_group_is_named_and_counts_for_its_own(town: Town) -> None:
    """Any user may: the kernel asks nobody. It must not stay so, whatever is cloned out of it."""
    both_limited(town)
    said = town.persist("status", "vox")
    assert said.status == 3
    assert f"1 subvolume on {town.agents}, not of its own, counted for its quota" in said.out
    said = town.persist("restore", "vox")
    assert "1 subvolume not its own no more counted" in said.out
    assert writes(town, "mine", 8, AS_VOX) == b""
    assert b"Disk quota exceeded" in writes(town, "more", 5), "it counts for nobody"
    as_agent(AS_ADA, town.agents / "ada", "import os; os.unlink('more')")
    as_agent(AS_ADA, town.agents / "ada", _KEEP.format(name="evil", to="clone") + _DELETE.format(name="evil"))
    for _ in range(2):
        assert town.persist("restore").status == 0
        assert writes(town, "mine", 10, AS_VOX) == b"", "the clone counts for another agent"
        assert b"Disk quota exceeded" in writes(town, "more", 5), "the clone counts for nobody"
    assert "quota  " in town.persist("status", "vox").out
    assert "not of its own" not in town.persist("status", "vox").out


def test_what_was_deleted_before_anybody_looked_counts_for_no_other_agent(town: Town) -> None:
    both_limited(town)
    as_agent(AS_ADA, town.agents / "ada", _KEEP.format(name="evil", to="clone") + _DELETE.format(name="evil"))
    with btrfs.top_level(town.device) as top:
        _freed(top)
    assert b"Disk quota exceeded" in writes(town, "mine", 8, AS_VOX)
    assert "1 subvolume not its own no more counted" in town.persist("restore", "vox").out
    assert writes(town, "mine", 10, AS_VOX) == b""
    assert "quotas" not in town.persist("restore").out


def test_what_was_nested_in_an_old_home_and_never_looked_at_counts_when_it_is_deleted(town: Town) -> None:
    """Its owner, where it hangs, says whose it was; and the record of that outlives it."""
    limited(town)
    town.persist("restore")
    process.run(["btrfs", "subvolume", "create", "sub"], person=AS_ADA, cwd=town.agents / "ada")
    assert writes(town, "sub/big", 15) == b""
    as_agent(AS_ADA, town.agents / "ada", _KEEP.format(name="sub", to="projects/clone"))
    undo(town.agents / "ada")
    town.boot("20261121T101500Z-78f91efc-edd7-4c7a-a748-ce7563c808be")
    assert "2 subvolumes no more counted" in town.persist("restore", "ada").out
    with btrfs.top_level(town.device) as top, files.opened(files.enter(top, "@agents-old")) as old:
        subvolumes.remove(old, "20261121T101500Z-78f91efc-edd7-4c7a-a748-ce7563c808be")
        _freed(top)
    assert "1 subvolume more counted" in town.persist("restore", "ada").out
    assert b"Disk quota exceeded" in writes(town, "more", 10)


def test_a_lost_record_drops_nothing_that_counts(town: Town) -> None:
    limited(town)
    town.persist("restore")
    process.run(["btrfs", "subvolume", "create", "sub"], person=AS_ADA, cwd=town.agents / "ada")
    assert writes(town, "sub/big", 15) == b""
    town.persist("restore")
    as_agent(AS_ADA, town.agents / "ada", _KEEP.format(name="sub", to="clone") + _DELETE.format(name="sub"))
    with btrfs.top_level(town.device) as top:
        _freed(top)
    shutil.rmtree(town.spec.state_dir / "counted")
    assert "quotas" not in town.persist("restore", "ada").out
    assert b"Disk quota exceeded" in writes(town, "more", 10)
