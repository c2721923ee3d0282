"""`persist sweep`: what agents left outside their homes goes, what belongs to others stays."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from persist import broom, ipc, proof, running, setaside, swept
from persist.owners import Owners
from tests.machine import sweeps
from tests.machine.sweeps import HUMAN, Swept, names, put, swept_town
from tests.machine.towns import ADA, AS_ADA, VOX, as_agent
from town import accounts, btrfs, files, kernel, spec
from town.accounts import Account
from town.process import Person

__all__ = ["swept_town"]
pytestmark = pytest.mark.root


def test_what_an_agent_left_goes_and_what_others_left_stays(swept_town: Swept) -> None:
    tmp = swept_town.tmp
    put(tmp / "mine/deep/er", ADA)
    put(tmp / "theirs/file", HUMAN)
    put(tmp / "roots", 0)
    os.mkfifo(put(tmp / "x", ADA).with_name("fifo"))
    os.chown(tmp / "fifo", ADA, ADA)
    os.symlink("/etc/passwd", tmp / "link")
    os.lchown(tmp / "link", ADA, ADA)
    said = swept_town.persist("sweep")
    assert (said.status, said.err) == (0, "")
    assert names(tmp) == ["roots", "theirs", "theirs/file"]
    assert "ada: took 6 entries, 13 B from " in said.out
    assert Path("/etc/passwd").exists()


def test_an_agents_file_in_the_directory_of_another_goes_too(swept_town: Swept) -> None:
    put(swept_town.tmp / "human/kept", HUMAN)
    put(swept_town.tmp / "human/adas", ADA)
    private = swept_town.tmp / "systemd-private-1/tmp"
    private.mkdir(parents=True)
    put(private / "adas", ADA)
    assert swept_town.persist("sweep").status == 0
    assert names(swept_town.tmp) == ["human", "human/kept", "systemd-private-1", "systemd-private-1/tmp"]


def test_what_others_have_in_an_agents_directory_stays_with_it_and_is_said(swept_town: Swept) -> None:
    put(swept_town.tmp / "mine/a/adas", ADA)
    put(swept_town.tmp / "mine/a/humans", HUMAN)
    put(swept_town.tmp / "mine/b/adas", ADA)
    said = swept_town.persist("sweep")
    assert said.status == 0
    assert names(swept_town.tmp) == ["mine", "mine/a", "mine/a/humans"]
    assert f"ada: {swept_town.tmp}/mine stays: holds what belongs to uid {HUMAN}\n" in said.err
    assert swept_town.found()["left"][0]["others"] is True
    assert swept.missing(spec.load(swept_town.base / "town.toml").agent("ada")) == ""


def test_a_hard_link_to_a_file_of_others_leaves_that_file_as_it_is(swept_town: Swept) -> None:
    humans = put(swept_town.base / "precious", HUMAN, "precious")
    (swept_town.tmp / "mine").mkdir()
    os.chown(swept_town.tmp / "mine", ADA, ADA)
    os.link(humans, swept_town.tmp / "mine/link")
    own = put(swept_town.base / "agents/kept", ADA, "kept")
    os.link(own, swept_town.tmp / "another name")
    assert swept_town.persist("sweep").status == 0
    assert names(swept_town.tmp) == ["mine", "mine/link"]
    assert (humans.read_text(), own.read_text(), own.stat().st_nlink) == ("precious", "kept", 1)


def test_only_the_agents_that_are_named_are_swept(swept_town: Swept) -> None:
    put(swept_town.tmp / "adas", ADA)
    put(swept_town.tmp / "voxs", VOX)
    assert swept_town.persist("sweep", "vox").status == 0
    assert names(swept_town.tmp) == ["adas"]
    town = spec.load(swept_town.base / "town.toml")
    assert swept.missing(town.agent("ada")) == "what it left outside its home was not swept at this boot"
    assert swept.missing(town.agent("vox")) == ""
    assert swept_town.persist("sweep").status == 0
    assert names(swept_town.tmp) == []
    assert swept.missing(town.agent("ada")) == ""


def test_a_dry_run_changes_nothing_and_says_the_same(swept_town: Swept) -> None:
    put(swept_town.tmp / "mine/deep/er", ADA)
    put(swept_town.tmp / "mine/deep/humans", HUMAN)
    put(swept_town.tmp / "gone/a/b", ADA)
    put(swept_town.cron / "ada", ADA, "* * * * * true\n")
    before = names(swept_town.base)
    dry = swept_town.persist("sweep", "--dry-run")
    assert names(swept_town.base) == before
    done = swept_town.persist("sweep")
    assert dry.out.replace("would take", "took") in done.out.replace("; 1 file set aside", "")
    assert dry.err == done.err
    assert names(swept_town.tmp) == ["mine", "mine/deep", "mine/deep/humans"]


def test_a_second_run_finds_nothing_and_forgets_nothing(swept_town: Swept) -> None:
    put(swept_town.tmp / "mine/file", ADA, "12345")
    swept_town.persist("sweep")
    said = swept_town.persist("sweep")
    assert (said.status, said.out, said.err) == (0, "nothing was left outside the homes\n", "")
    assert (swept_town.found()["entries"], swept_town.found()["bytes"]) == (2, 5)
    assert swept_town.found()["places"][0]["first"][0]["text"] == "mine/file"


def test_crontabs_are_copied_for_root_alone_before_they_go(swept_town: Swept) -> None:
    put(swept_town.cron / "ada", ADA, "* * * * * evil\n")
    put(swept_town.cron / "human", HUMAN)
    assert "1 file set aside" in swept_town.persist("sweep").out
    put(swept_town.cron / "ada", ADA, "again\n")
    assert swept_town.persist("sweep").status == 0
    assert names(swept_town.cron) == ["human"]
    copies = swept_town.aside / "ada/crontabs"
    assert {copy.name: copy.read_text() for copy in copies.iterdir()} == {"ada": "* * * * * evil\n", "ada.1": "again\n"}
    for path, mode in ((copies / "ada", 0o600), (copies, 0o700), (copies.parent, 0o700), (swept_town.aside, 0o700)):
        assert (path.stat().st_uid, path.stat().st_mode & 0o7777) == (0, mode)


def test_what_is_too_large_to_set_aside_goes_and_that_is_said(
    swept_town: Swept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setaside, "LARGEST", 10)
    put(swept_town.cron / "ada", ADA, "12345678901")
    assert "1 file above" in swept_town.persist("sweep").out
    assert names(swept_town.cron) == []


def test_a_link_among_the_crontabs_is_removed_and_never_read(swept_town: Swept) -> None:
    os.symlink("/etc/shadow", swept_town.cron / "ada")
    os.lchown(swept_town.cron / "ada", ADA, ADA)
    assert swept_town.persist("sweep").status == 0
    assert not swept_town.aside.exists()


def test_copies_of_older_boots_go_by_what_the_spec_keeps(swept_town: Swept) -> None:
    above = swept_town.aside.parent
    for number in range(8):
        (above / f"boot{number}/ada").mkdir(parents=True)
        os.utime(above / f"boot{number}", (time.time() - 60 * number,) * 2)
    os.utime(above / "boot1", (time.time() - 15 * 86400,) * 2)
    put(swept_town.cron / "ada", ADA)
    assert swept_town.persist("sweep").status == 0
    assert names(above)[0].startswith(proof.boot_id()[:4]) or proof.boot_id() in [path.name for path in above.iterdir()]
    assert sorted(path.name for path in above.iterdir() if path.name.startswith("boot")) == [
        "boot0", "boot2", "boot3", "boot4",
    ]  # fmt: skip


def test_lingering_is_ended_by_name_where_root_or_the_agent_wrote_it(swept_town: Swept) -> None:
    for name, owner in (("ada", 0), ("vox", HUMAN), ("human", 0)):
        put(swept_town.linger / name, owner, "")
    assert swept_town.persist("sweep").status == 0
    assert names(swept_town.linger) == ["human", "vox"]


def test_what_a_container_of_an_agent_left_under_its_subordinate_uids_goes(swept_town: Swept) -> None:
    (swept_town.base / "subuid").write_text(
        f"ada:900000:1000\n{VOX}:902000:1000\nhuman:902500:10\nada:nonsense:1\nada:5:10\n"
    )
    for name, owner in (("ada", 900999), ("beside", 901000), ("shared", 902001), ("low", 5)):
        put(swept_town.tmp / name, owner)
    assert swept_town.persist("sweep").status == 0
    assert names(swept_town.tmp) == ["beside", "low", "shared"]


def test_a_uid_that_is_somebody_elses_is_never_swept(swept_town: Swept, monkeypatch: pytest.MonkeyPatch) -> None:
    everybody = accounts.everybody()
    monkeypatch.setattr(accounts, "everybody", lambda: (*everybody, Account("josh", ADA, ADA, "/home/josh")))
    put(swept_town.tmp / "adas", ADA)
    put(swept_town.tmp / "voxs", VOX)
    said = swept_town.persist("sweep")
    assert said.status == 78
    assert "is the account josh on this machine" in said.err
    assert names(swept_town.tmp) == ["adas"]


def test_homes_and_persisted_data_below_a_place_are_no_strays(swept_town: Swept) -> None:
    file = swept_town.base / "strays.toml"
    file.write_text(file.read_text().replace(f"{swept_town.base}/tmp", str(swept_town.base)))
    for place in ("agents/ada/file", "persist/agents/ada/projects/file"):
        put(swept_town.base / place, ADA)
    put(swept_town.base / "stray", ADA)
    swept_town.persist("sweep")
    assert (swept_town.base / "agents/ada/file").exists()
    assert (swept_town.base / "persist/agents/ada/projects/file").exists()
    assert not (swept_town.base / "stray").exists()


def test_a_mount_is_not_entered_and_asked_nothing(swept_town: Swept) -> None:
    (swept_town.tmp / "mount").mkdir()
    put(swept_town.tmp / "file", 0)
    kernel.mount("tmpfs", str(swept_town.tmp / "mount"), "tmpfs", 0)
    kernel.mount(str(put(swept_town.base / "over", ADA)), str(swept_town.tmp / "file"), None, 4096)
    try:
        put(swept_town.tmp / "mount/file", ADA)
        os.chown(swept_town.tmp / "mount", ADA, ADA)
        said = swept_town.persist("sweep")
        assert (said.status, said.err) == (0, "")
        assert (swept_town.tmp / "mount/file").exists()
        assert (swept_town.base / "over").exists()
    finally:
        kernel.umount(str(swept_town.tmp / "mount"))
        kernel.umount(str(swept_town.tmp / "file"))


def test_ten_thousand_levels_and_names_of_any_bytes_go(swept_town: Swept) -> None:
    as_agent(AS_ADA, swept_town.tmp, "import os\nfor _ in range(10_000):\n os.mkdir('d'); os.chdir('d')\n"
             "os.symlink('/', 'l')")  # fmt: skip
    for name in (b"a\nb", b"\xff\xfe", b"-rf", b"\x1b[31m", b"n" * 255):
        path = os.path.join(os.fsencode(swept_town.tmp), name)
        os.mkdir(path)
        os.chown(path, ADA, ADA)
    said = swept_town.persist("sweep")
    assert said.status == 0
    assert os.listdir(swept_town.tmp) == []
    assert "\x1b" not in said.out
    assert len(json.dumps(swept_town.found())) < 10_000


def test_subvolumes_of_an_agent_go_also_read_only_and_nested(swept_town: Swept, btrfs_dir: Path) -> None:
    os.rmdir(swept_town.tmp)
    (btrfs_dir / "tmp").mkdir()
    (btrfs_dir / "tmp").chmod(0o1777)
    os.symlink(btrfs_dir / "tmp", swept_town.tmp)
    with files.opened(files.open_dir(btrfs_dir / "tmp")) as tmp:
        outer = btrfs.create(tmp, "outer")
        os.close(btrfs.create(outer, "inner"))
        with files.opened(files.enter(outer, "inner")) as inner:
            os.fchown(inner, ADA, ADA)
        put(btrfs_dir / "tmp/outer/inner/file", ADA)
        os.fchown(outer, ADA, ADA)
        os.close(btrfs.snapshot(outer, tmp, "copy", read_only=True))
        btrfs.set_read_only(outer, True)
        os.close(outer)
        humans = btrfs.create(tmp, "humans")
        put(btrfs_dir / "tmp/humans/adas", ADA)
        os.fchown(humans, HUMAN, HUMAN)
        btrfs.set_read_only(humans, True)
        os.close(humans)
    said = swept_town.persist("sweep")
    assert said.status == 0, said
    assert os.listdir(btrfs_dir / "tmp") == ["humans"]
    assert "humans/adas stays: Read-only file system" in said.err


def test_one_agents_millions_hold_up_nobody_else(swept_town: Swept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broom.Budget, "over", lambda _self, agent: agent.name == "ada")
    put(swept_town.tmp / "adas/file", ADA)
    put(swept_town.tmp / "voxs/file", VOX)
    said = swept_town.persist("sweep")
    assert said.status == 1
    assert names(swept_town.tmp) == ["adas", "adas/file"]
    assert "ada: what it left outside its home is not all gone: " in said.err
    assert "persist: hint: persist sweep --spec" in said.err
    town = spec.load(swept_town.base / "town.toml")
    assert swept.missing(town.agent("ada")) == "what it left outside its home could not all be taken away"
    assert swept.missing(town.agent("vox")) == ""


def _hurried(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """All time is over after so many charges."""
    charge, calls = broom.Budget.charge, []

    def hurried(self: broom.Budget, agent: spec.Agent | None) -> None:
        calls.append(agent)
        self.until = 0.0 if len(calls) == after else self.until
        charge(self, agent)

    monkeypatch.setattr(broom.Budget, "charge", hurried)


def test_when_the_time_is_over_who_has_something_there_fails_and_nobody_else(
    swept_town: Swept, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(50):
        put(swept_town.tmp / f"deep/{number}", ADA)
    put(swept_town.cron / "voxs", VOX)
    with monkeypatch.context() as limited:
        _hurried(limited, 20)
        said = swept_town.persist("sweep")
    assert said.status == 1
    assert "the time for it (300 s) was over" in said.err
    assert 0 < len(names(swept_town.tmp)) < 50
    assert names(swept_town.cron) == [], "the next place has its time"
    town = spec.load(swept_town.base / "town.toml")
    assert swept.missing(town.agent("ada")) == "what it left outside its home could not all be taken away"
    assert swept.missing(town.agent("vox")) == ""
    assert "not everything in it was looked at" in swept_town.found("vox")["left"][0]["why"]
    assert swept_town.persist("sweep").status == 0
    assert names(swept_town.tmp) == []


def test_who_is_passed_by_until_all_time_is_over_closes_nobody_elses_account(
    swept_town: Swept, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(50):
        put(swept_town.tmp / f"{number}", ADA)
    with monkeypatch.context() as limited:
        limited.setattr(broom.Budget, "over", lambda _self, agent: agent.name == "ada")
        _hurried(limited, 20)
        assert swept_town.persist("sweep").status == 1
    assert swept_town.found("ada")["whole"] is False
    assert swept_town.found("vox")["whole"] is True


@pytest.mark.parametrize("grace", [5.0, -1.0])
def test_whose_directory_was_found_before_all_time_was_over_is_swept_or_fails(
    swept_town: Swept, monkeypatch: pytest.MonkeyPatch, grace: float
) -> None:
    for number in range(50):
        put(swept_town.tmp / f"{number}", ADA)
        put(swept_town.tmp / f"voxs{number}/file", VOX)
    passed_by, passed = broom.Broom._passed_by, []

    def slow(self: broom.Broom, found: os.stat_result, level: broom._Level, payer: spec.Agent | None) -> bool:
        passed.append(found.st_uid)
        if found.st_uid == ADA and passed.count(VOX) > 9 and not level.cut:
            monkeypatch.setattr(broom, "EACH", grace)
            self._budget.until = 0.0
        return passed_by(self, found, level, payer)

    monkeypatch.setattr(broom.Broom, "_passed_by", slow)
    monkeypatch.setattr(broom.Budget, "over", lambda _self, agent: agent.name == "ada")
    assert swept_town.persist("sweep").status == 1
    gone = 50 - sum(1 for name in os.listdir(swept_town.tmp) if name.startswith("voxs"))
    assert swept_town.found("vox")["whole"] is (grace > 0)
    assert gone > 8 if grace > 0 else gone == 0


@pytest.mark.parametrize(("agents", "share"), [(0, 60), (1, 60), (4, 60), (5, 48), (24, 10)])
def test_agents_cannot_use_up_the_time_together(agents: int, share: float) -> None:
    assert broom.Budget.among(agents).share == share
    assert broom.Budget.among(agents).share * agents < broom.ALL


def test_five_agents_that_use_up_their_shares_leave_the_sixth_its_account(
    swept_town: Swept, monkeypatch: pytest.MonkeyPatch
) -> None:
    uids = range(ADA + 10, ADA + 15)
    with (swept_town.base / "town.toml").open("a") as file:
        file.writelines(f"[agents.a{uid}]\nuid = {uid}\n" for uid in uids)
    for number in range(1500):
        put(swept_town.tmp / f"{number}", uids[number % 5])
    for name, seconds in (("SHARE", 0.006), ("SHARES", 0.024), ("ALL", 0.03), ("EACH", 0.01)):
        monkeypatch.setattr(broom, name, seconds)
    charge = broom.Budget.charge

    def slow(self: broom.Budget, agent: spec.Agent | None) -> None:
        if agent is not None and not self.over(agent):
            time.sleep(0.001)
        charge(self, agent)

    monkeypatch.setattr(broom.Budget, "charge", slow)
    put(swept_town.cron / "voxs", VOX)
    assert swept_town.persist("sweep").status == 1
    assert all(swept_town.found(f"a{uid}")["whole"] is False for uid in uids)
    assert swept_town.found("vox")["whole"] is True
    assert swept_town.found("ada")["whole"] is True
    assert names(swept_town.cron) == []


@pytest.mark.parametrize("many", [40, 1])
def test_who_makes_a_directory_be_listed_again_and_again_pays_for_what_is_passed_by(
    swept_town: Swept, monkeypatch: pytest.MonkeyPatch, many: int
) -> None:
    for number in range(40):
        put(swept_town.tmp / f"{number}", ADA)
    for number in range(many):
        path = swept_town.tmp / f"voxs{number}"
        path.mkdir()
        os.chown(path, VOX, VOX)
    monkeypatch.setattr(broom, "_BATCH", 2)
    monkeypatch.setattr(broom.Budget, "over", lambda _self, agent: agent.name == "ada")
    paid, charge = [], broom.Budget.charge

    def noted(self: broom.Budget, agent: spec.Agent | None) -> None:
        paid.append(agent.name if agent else "")
        charge(self, agent)

    monkeypatch.setattr(broom.Budget, "charge", noted)
    assert swept_town.persist("sweep").status == 1
    if many == 1:
        assert paid.count("vox") <= 5
    else:
        assert paid.count("ada") < 100
        assert paid.count("vox") > 400


def test_the_time_of_an_agent_is_what_its_own_leavings_took() -> None:
    town = spec.parse(b"[agents.ada]\nuid = 41100\n[agents.vox]\nuid = 41101\n", Path("/x/town.toml"))
    budget = broom.Budget(share=0.05)
    budget.charge(town.agent("vox"))
    time.sleep(0.06)
    budget.charge(town.agent("ada"))
    assert budget.over(town.agent("ada"))
    assert not budget.over(town.agent("vox"))


def test_all_the_time_that_an_agents_empty_directories_take_is_its_own(swept_town: Swept) -> None:
    for number in range(3000):
        path = swept_town.tmp / f"{number}"
        path.mkdir()
        os.chown(path, ADA, ADA)
    town, budget = spec.load(swept_town.base / "town.toml"), broom.Budget()
    began = time.monotonic()
    with files.opened(files.open_dir(swept_town.tmp)) as top:
        broom.Broom(Owners(town.agents), budget, frozenset()).sweep(top)
    assert names(swept_town.tmp) == []
    assert budget.spent["ada"] > 0.7 * (time.monotonic() - began)


def test_of_what_an_agent_has_no_more_time_for_nothing_is_held(
    swept_town: Swept, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(20):
        put(swept_town.tmp / f"{number}", ADA)
        put(swept_town.tmp / f"in{number}/file", ADA)
    held: list[bytes] = []
    keep = broom._Level.keep

    def noted(level: broom._Level, name: bytes) -> None:
        held.append(name)
        keep(level, name)

    monkeypatch.setattr(broom._Level, "keep", noted)
    monkeypatch.setattr(broom, "_BATCH", 3)
    monkeypatch.setattr(broom.Budget, "over", lambda _self, agent: agent.name == "ada")
    said = swept_town.persist("sweep")
    assert said.status == 1
    assert len(names(swept_town.tmp)) == 60
    assert len(held) <= 4  # up to the moment when it was known


RACER = """
import os, signal, sys
end = __import__("time").monotonic() + 3
while __import__("time").monotonic() < end:
    for name in ("a", "b"):
        try:
            os.mkdir(name); open(name + "/f", "w").close()
            os.rename(name, "moved"); os.symlink(sys.argv[1], name); os.rename("moved/f", "f")
            os.unlink(name); os.rmdir("moved")
        except OSError:
            pass
        for left in ("moved", "a", "b"):
            try:
                os.rename(left, "c"); os.mkdir("c/d"); os.rename("c/d", left)
            except OSError:
                pass
"""


def test_a_racer_that_swaps_names_reaches_nothing_of_others(swept_town: Swept) -> None:
    precious = swept_town.base / "precious"
    kept = [put(precious / f"{number}/file", HUMAN) for number in range(20)]
    os.chown(precious, ADA, ADA)  # what a link leads to is not safe by its owner
    put(swept_town.tmp / "human/file", HUMAN)
    racers = [
        subprocess.Popen(["/usr/bin/python3", "-c", RACER, str(precious)], cwd=swept_town.tmp, user=ADA, group=ADA,
                         extra_groups=[])
        for _ in range(2)
    ]  # fmt: skip
    try:
        runs = 0
        while any(racer.poll() is None for racer in racers):
            assert swept_town.persist("sweep").status in (0, 1)
            runs += 1
    finally:
        for racer in racers:
            racer.wait()
    assert runs > 3
    assert all(path.exists() for path in kept)
    assert (swept_town.tmp / "human/file").exists()
    assert swept_town.persist("sweep").status == 0
    assert names(swept_town.tmp) == ["human", "human/file"]


@pytest.mark.parametrize("depth", [6, 7])  # in c: it was entered, or its file is taken
def test_a_directory_that_is_moved_up_meanwhile_leads_the_sweep_nowhere_else(
    swept_town: Swept, monkeypatch: pytest.MonkeyPatch, depth: int
) -> None:
    outside = put(swept_town.base.parent / "outside/file", ADA)
    put(swept_town.tmp / "a/b/c/file", ADA)
    charge, moved = broom.Budget.charge, []

    def racing(self: broom.Budget, agent: spec.Agent | None) -> None:
        moved.append(len(moved))
        if len(moved) == depth:
            os.rename(swept_town.tmp / "a/b/c", swept_town.tmp / "c")
        charge(self, agent)

    monkeypatch.setattr(broom.Budget, "charge", racing)
    assert swept_town.persist("sweep").status == 0
    assert len(moved) > 7
    assert outside.exists()
    assert names(swept_town.tmp) == []


def test_an_agent_that_has_processes_is_swept_and_that_is_said(
    swept_town: Swept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "of", sweeps.RUNNING)
    put(swept_town.tmp / "file", ADA)
    with subprocess.Popen(["sleep", "60"], user=ADA, group=ADA, extra_groups=[]) as sleeping:
        said = swept_town.persist("sweep")
        sleeping.kill()
    assert said.status == 0
    assert names(swept_town.tmp) == []
    assert re.search(r"warning: ada has [1-9]\d* of its processes running", said.err)
    assert swept_town.found()["processes"] >= 1


def test_ipc_objects_of_an_agent_go_and_those_of_others_stay(swept_town: Swept) -> None:
    program = (
        "import ctypes; c = ctypes.CDLL(None); print(c.shmget(0, 4096, 0o1600), c.semget(0, 1, 0o1600), "
        "c.msgget(0, 0o1600))"
    )
    kernel.unshare(kernel.CLONE_NEWIPC)  # of this worker alone, as its mounts are
    mine = as_agent(AS_ADA, swept_town.tmp, program).out.split()
    as_agent(Person(HUMAN, HUMAN), swept_town.tmp, program)
    there = [len((ipc.LISTS / kind).read_text().splitlines()) for kind in ("shm", "sem", "msg")]
    assert there == [3, 3, 3]
    said = swept_town.persist("sweep")
    assert f"(shm {mine[0].decode()}, sem {mine[1].decode()}, msg {mine[2].decode()})" in said.out
    assert [len((ipc.LISTS / kind).read_text().splitlines()) for kind in ("shm", "sem", "msg")] == [2, 2, 2]


def test_the_record_is_believed_only_when_it_is_roots_and_of_this_boot(swept_town: Swept) -> None:
    swept_town.persist("sweep")
    record = swept_town.base / "run/swept.json"
    assert record.stat().st_mode & 0o7777 == 0o600
    assert swept.known()
    right = record.read_text()
    for wrong in (
        "",
        "[]",
        "nonsense",
        right.replace(proof.boot_id(), "0" * 36),
        right.replace('"version": 1', '"version": 2'),
    ):
        record.write_text(wrong)
        assert swept.known() == {}
    record.write_text(right)
    os.chown(record, ADA, ADA)
    assert swept.known() == {}


def test_two_sweeps_at_once_are_refused(swept_town: Swept) -> None:
    with swept.alone():
        said = swept_town.persist("sweep")
    assert said.status == 75
    assert "another sweep is running" in said.err


def test_missing_takes_of_who_came_since_the_boot_and_leaves_who_was_swept_alone(swept_town: Swept) -> None:
    assert swept_town.persist("sweep", "--missing", "ada").status == 0
    put(swept_town.tmp / "adas", ADA)
    put(swept_town.tmp / "voxs", VOX)
    dry = swept_town.persist("sweep", "--missing", "--dry-run")
    assert dry.out.startswith("vox: would take 1 entry")
    assert "ada" not in dry.out
    said = swept_town.persist("sweep", "--missing")
    assert (said.status, said.err, names(swept_town.tmp)) == (0, "", ["adas"])
    assert swept_town.found("vox")["whole"] is True
    again = swept_town.persist("sweep", "--missing")
    assert (again.status, again.out) == (0, "no agent to look for\n")


def test_missing_takes_again_of_whom_not_all_could_be_taken_and_of_another_uid(swept_town: Swept) -> None:
    assert swept_town.persist("sweep", "--missing").status == 0
    record = swept_town.base / "run/swept.json"
    record.write_text(record.read_text().replace('"whole": true', '"whole": false', 1))
    spec = swept_town.base / "town.toml"
    spec.write_text(spec.read_text().replace(str(VOX), str(HUMAN)))
    put(swept_town.tmp / "adas", ADA)
    put(swept_town.tmp / "voxs", HUMAN)
    assert swept_town.persist("sweep", "--missing").status == 0
    assert names(swept_town.tmp) == []


def test_missing_leaves_alone_who_was_opened_by_force_and_says_so(swept_town: Swept) -> None:
    (swept_town.base / "run/open").write_text("ada\n")
    put(swept_town.tmp / "adas", ADA)
    put(swept_town.tmp / "voxs", VOX)
    said = swept_town.persist("sweep", "--missing")
    assert (said.status, names(swept_town.tmp)) == (0, ["adas"])
    assert "ada is open, so it is left alone: what it left outside its home was not swept at this boot" in said.err
    assert "hint: persist sweep --spec" in said.err


def test_a_spec_that_an_agent_can_change_is_not_acted_on(swept_town: Swept) -> None:
    put(swept_town.tmp / "file", ADA)
    os.chown(swept_town.base / "town.toml", ADA, ADA)
    assert swept_town.persist("sweep").status == 1
    assert names(swept_town.tmp) == ["file"]


def test_a_file_that_cannot_be_removed_keeps_its_agent_out_and_no_other(swept_town: Swept) -> None:
    chattr = shutil.which("chattr")
    assert chattr
    put(swept_town.tmp / "fixed/file", ADA)
    put(swept_town.tmp / "voxs", VOX)
    subprocess.run([chattr, "+i", swept_town.tmp / "fixed/file"], check=True)
    try:
        said = swept_town.persist("sweep")
    finally:
        subprocess.run([chattr, "-i", swept_town.tmp / "fixed/file"], check=True)
    assert said.status == 1
    assert "fixed/file stays: Operation not permitted" in said.err
    assert names(swept_town.tmp) == ["fixed", "fixed/file"]
    assert swept_town.found("vox")["whole"] is True


def test_the_places_of_this_machine_are_the_ones_that_users_can_write_to(swept_town: Swept) -> None:
    """In a mount namespace of its own, for other tests have files there: the data of the package, as it is."""
    program = f"""
import os, sys
from pathlib import Path
import importlib, persist, pkgutil, town
for package in (town, persist):  # all of them before a checkout in /tmp is covered
    for found in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(found.name)
from persist import cli, proof
from town import kernel, strays
there = strays.places()
strays.places = lambda: there
kernel.unshare(kernel.CLONE_NEWNS | kernel.CLONE_NEWIPC)
kernel.mount("none", "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
kernel.mount("{swept_town.base}", "/mnt", None, 4096)
found = []
for path in ("/tmp", "/var/tmp", "/dev", "/var/spool", "/var/mail", "/var/lib/systemd"):
    kernel.mount("tmpfs", path, "tmpfs", 0, "mode=1777")
for path in ("/tmp", "/var/tmp", "/dev/shm", "/var/spool/cron/crontabs", "/var/spool/cron/atjobs", "/var/mail",
             "/var/lib/systemd/linger"):
    os.makedirs(path, exist_ok=True)
    found.append(Path(path, "ada"))
    found[-1].write_text("x")
    os.chown(found[-1], {ADA}, {ADA})
if "mqueue" in Path("/proc/filesystems").read_text():
    os.makedirs("/dev/mqueue", exist_ok=True)
    kernel.mount("mqueue", "/dev/mqueue", "mqueue", 0)
    found.append(Path("/dev/mqueue/ada"))
    found[-1].touch()
    os.chown(found[-1], {ADA}, {ADA})
proof.PROOF = Path("/mnt/run/rollback")
status = cli.main(["--spec", "/mnt/town.toml", "sweep"])
print([str(path) for path in found if path.exists()], status)
"""
    (swept_town.base / "town.toml").write_text(
        f'[town]\nagents_dir = "/mnt/agents"\npersist_dir = "/mnt/persist"\n[agents.ada]\nuid = {ADA}\n'
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=Path.cwd())
    assert ran.stdout.splitlines()[-1] == "[] 0", ran
    assert sorted(path.name for path in (swept_town.aside / "ada").iterdir()) == ["atjobs", "crontabs", "mail"]
