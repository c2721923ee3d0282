"""What the units say of each other: who waits for whom, at the start and at the stop, and who waits for nobody."""

import re
import subprocess
from pathlib import Path

import pytest

from persist import swept
from tests.boot.rendered import AGENTS, LOCAL, S3, Units, rendered, town

STEPS = ("restore", "bind", "identity", "open")


@pytest.fixture
def made(tmp_path: Path) -> Units:
    return rendered(tmp_path / "u", town(S3))


def links(made: Units) -> set[str]:
    return {str(path.relative_to(made.at)) for path in made.at.rglob("*") if path.is_symlink()}


def test_a_failed_check_means_that_nothing_is_mounted(made: Units) -> None:
    service = "nuketown-rollback.service"
    assert made.lines(service, "RequiredBy") == ["nuketown-mount.service"]
    assert "nuketown-mount.service" in made.words(service, "Before")
    assert service in made.words("nuketown-mount.service", "Requires")
    assert service in made.words("nuketown-mount.service", "After")
    # A unit that a condition skips counts as started.
    assert not re.search(r"(?m)^Condition", made.text(service))


def test_the_human_waits_for_none_of_the_units(made: Units) -> None:
    for unit in made.made:
        wanted = set(made.words(unit.name, "WantedBy"))
        if "multi-user.target" in wanted:
            # multi-user.target comes after what it wants, unless that says one of these.
            own = made.lines(unit.name, "DefaultDependencies") == ["no"]
            assert own or "multi-user.target" in made.words(unit.name, "After")
        for target in ("local-fs.target", "sysinit.target", "basic.target", "multi-user.target", "graphical.target"):
            assert target not in made.words(unit.name, "Before"), unit.name
            assert f"{target}.requires" not in {link.partition("/")[0] for link in links(made)}


def test_no_unit_depends_on_a_device(tmp_path: Path) -> None:
    found = rendered(tmp_path / "u", town(S3, btrfs='[town.btrfs]\ndevice = "/dev/disk/by-id/x"\n'))
    for unit in found.made:
        assert "/dev/disk" not in unit.text
        assert ".device" not in unit.text


def test_the_mount_is_of_the_confirmed_disk_without_suid_and_devices(tmp_path: Path) -> None:
    found = rendered(tmp_path / "u", town(S3, btrfs='[town.btrfs]\ndevice = "/dev/x"\nsubvolume = "@homes"\n'))
    assert found.lines("nuketown-mount.service", "ExecStart") == [
        "mount -t btrfs -o subvol=@homes,nosuid,nodev,noatime /run/nuketown/device /agents"
    ]


def test_below_the_homes_lies_an_empty_tmpfs_that_nobody_may_enter(made: Units) -> None:
    assert made.lines("agents.mount", "What") == ["tmpfs"]
    assert set(made.lines("agents.mount", "Options")[0].split(",")) >= {"ro", "mode=0000", "nosuid", "nodev", "noexec"}
    assert "agents.mount" in made.words("nuketown-mount.service", "After")
    assert made.lines("agents.mount", "WantedBy") == ["sysinit.target"]


@pytest.mark.parametrize("in_initrd", [True, False])
def test_a_host_without_a_hook_in_its_initrd_rolls_back_and_then_checks(tmp_path: Path, in_initrd: bool) -> None:
    found = rendered(tmp_path / "u", town(S3), file="/t", in_initrd=in_initrd)
    command = "/usr/bin/persist --spec /t rollback"
    rolls_back = [] if in_initrd else [command]
    assert found.lines("nuketown-rollback.service", "ExecStart") == [*rolls_back, f"{command} --confirm"]


def test_the_bound_of_the_check_grows_with_the_wait_of_the_spec(tmp_path: Path) -> None:
    bounds = [
        rendered(
            tmp_path / wait, town(S3, btrfs=f'[town.btrfs]\ndevice = "/dev/x"\nwait = "{wait}"\n')
        ).lines("nuketown-rollback.service", "TimeoutStartSec")
        for wait in ("20s", "10min")
    ]  # fmt: skip
    assert bounds == [["110s"], ["690s"]]


def test_the_target_of_an_agent_requires_every_step_and_comes_after_it(made: Units) -> None:
    target = "nuketown-agent@.target"
    for step in STEPS:
        unit = f"nuketown-{step}@%i.service"
        linked = f"nuketown-agent@ada.target.requires/nuketown-{step}@ada.service" in links(made)
        assert linked or unit in made.words(target, "Requires"), step
        before = made.words(f"nuketown-{step}@.service", "Before")
        assert target.replace("@", "@%i") in before or unit in made.words(target, "After"), step


def test_the_account_is_opened_when_every_other_step_has_succeeded(made: Units) -> None:
    """Required, so that the account of an agent whose step failed is not even looked at."""
    for step in ("restore", "bind"):
        assert f"nuketown-open@ada.service.requires/nuketown-{step}@ada.service" in links(made)
        assert "nuketown-open@%i.service" in made.words(f"nuketown-{step}@.service", "Before")
    assert "nuketown-identity@%i.service" in made.words("nuketown-open@.service", "Requires")
    after = made.words("nuketown-open@.service", "After")
    assert {"nuketown-homes.service", "nuketown-sweep.service", "nuketown-identity@%i.service"} <= set(after)


def test_keys_and_settings_come_when_what_was_fetched_is_in_its_place(made: Units) -> None:
    """Before, they would fill a directory that is to be bound, or to be fetched."""
    assert "nuketown-identity@ada.service.requires/nuketown-bind@ada.service" in links(made)
    assert "nuketown-bind@%i.service" in made.words("nuketown-identity@.service", "After")


def test_a_sweep_that_is_run_again_leaves_alone_who_is_here(made: Units) -> None:
    """Every login starts it again after a failure; a reload brings in who came since the boot."""
    name = "nuketown-sweep.service"
    for key in ("ExecStart", "ExecReload"):
        assert made.lines(name, key) == ["/usr/bin/persist --spec /etc/town.toml sweep --missing"]
    # What a soft-reboot finds was not swept: it keeps /run.
    assert made.lines(name, "ExecStop") == [f"rm -f {swept.file()}"]


def test_one_agents_failure_is_not_the_others(made: Units) -> None:
    """What is done for all agents at once fails when it fails for one: nobody requires it."""
    shared = {"nuketown-homes.service", "nuketown-sweep.service"}
    for unit in made.made:
        assert not shared & set(made.words(unit.name, "Requires")), unit.name
    assert shared <= set(made.words("nuketown-agent@.target", "Wants"))


def test_only_agents_that_keep_something_in_the_store_wait_for_it(made: Units) -> None:
    of_one = [link for link in links(made) if "b-x" in link]
    assert sorted(of_one) == ["multi-user.target.wants/nuketown-agent@b-x.target"]


def test_a_town_without_a_store_has_nothing_that_syncs(tmp_path: Path) -> None:
    found = rendered(tmp_path / "u", town(agents=LOCAL))
    assert not [unit.name for unit in found.made if re.search("sync|restore|bind|leave", unit.name)]


def test_a_town_without_btrfs_has_homes_and_neither_rollback_nor_cover(tmp_path: Path) -> None:
    found = rendered(tmp_path / "u", town(S3, btrfs=""))
    names = {unit.name for unit in found.made}
    assert {"nuketown-homes.service", "nuketown-tidy.service", "nuketown-agent@.target"} <= names
    assert not {"agents.mount", "nuketown-mount.service", "nuketown-rollback.service"} & names
    assert not [unit.name for unit in found.made if "nuketown-mount.service" in unit.text]


@pytest.mark.parametrize(("name", "uid"), [("ada", 51100), ("b-x", 51101)])
def test_a_login_waits_for_its_agent_and_ends_with_it(made: Units, name: str, uid: int) -> None:
    target = f"nuketown-agent@{name}.target"
    login = f"user@{uid}.service.d/nuketown.conf"
    assert (made.lines(login, "Requires"), made.lines(login, "After")) == ([target], [target])
    processes = f"user-{uid}.slice.d/nuketown.conf"
    assert (made.lines(processes, "PartOf"), made.lines(processes, "After")) == ([target], [target])


@pytest.mark.parametrize(("name", "uid"), [("ada", 51100), ("b-x", 51101)])
def test_an_account_is_closed_before_the_agents_processes_are_told_to_end(made: Units, name: str, uid: int) -> None:
    """What is started after them is stopped before them."""
    for drop_in in (f"user@{uid}.service.d/nuketown.conf", f"user-{uid}.slice.d/nuketown.conf"):
        assert made.lines(drop_in, "Before") == [f"nuketown-close@{name}.service"]
    close = "nuketown-close@.service"
    assert close.replace("@", "@%i") in made.words("nuketown-agent@.target", "Wants")
    for key in ("Requires", "After"):
        assert made.words(close, key) == ["nuketown-agent@%i.target"]
    assert made.lines(close, "ExecStop") == ["/usr/bin/persist --spec /etc/town.toml account close %i"]
    assert made.lines("nuketown-open@.service", "ExecStop")[0].endswith(" account close %i")


def test_the_last_sync_comes_after_the_agent_and_before_its_mounts_and_the_network(made: Units) -> None:
    """At a stop the order of the start is reversed (systemd.unit(5), Before=)."""
    name = "nuketown-leave@.service"
    assert {"nuketown-open@%i.service", "nuketown-agent@%i.target"} <= set(made.words(name, "Before"))
    assert {"network.target", "network-online.target", "nuketown-mount.service"} <= set(made.words(name, "After"))
    mounts = made.words("nuketown-leave@ada.service.d/nuketown.conf", "RequiresMountsFor")
    assert mounts == ["/agents/ada/projects"]
    assert "/run/nuketown/snapshots" in made.words(name, "RequiresMountsFor")
    assert made.lines(name, "ExecStop") == ["/usr/bin/persist --spec /etc/town.toml sync --release %i"]
    assert made.lines(name, "TimeoutStopSec") == ["90s"]
    # One that the timer began is stopped first: it holds the lock of the agent.
    assert "nuketown-leave@%i.service" in made.words("nuketown-sync@.service", "After")
    assert made.lines("nuketown-sync@.service", "PartOf") == ["nuketown-agent@%i.target"]


def test_all_that_an_agent_has_is_a_part_of_its_target(made: Units) -> None:
    for step in (*STEPS, "leave"):
        assert made.lines(f"nuketown-{step}@.service", "PartOf") == ["nuketown-agent@%i.target"]


def test_what_is_done_once_stays_done(made: Units) -> None:
    """A login starts its target anew, and with it all that is not active."""
    for name in ("homes", "sweep", *(f"{step}@" for step in (*STEPS, "leave", "close"))):
        assert made.lines(f"nuketown-{name}.service", "RemainAfterExit") == ["yes"]


@pytest.mark.parametrize(("every", "seconds"), [("15min", 900), ("1s", 1), ("1.5s", 2), ("1 h 30min", 5400)])
def test_the_timer_goes_by_the_spec_and_systemd_reads_it_so(tmp_path: Path, every: str, seconds: int) -> None:
    found = rendered(tmp_path / "u", town(S3, agents=f'[town.sync]\nevery = "{every}"\n{AGENTS}'))
    timer = "nuketown-sync.timer"
    (said,) = set(found.lines(timer, "OnUnitActiveSec") + found.lines(timer, "OnActiveSec"))
    done = subprocess.run(["systemd-analyze", "timespan", said], capture_output=True, text=True, check=True)
    assert f"μs: {seconds}000000\n" in done.stdout


def test_a_sync_that_hangs_keeps_the_timer_from_no_other(made: Units) -> None:
    target = "nuketown-sync.target"
    assert made.lines("nuketown-sync.timer", "Unit") == [target]
    # Without default dependencies it is reached at once, not when all that it wants has ended; and unneeded, it ends.
    assert made.lines(target, "DefaultDependencies") == ["no"]
    assert made.lines(target, "StopWhenUnneeded") == ["yes"]
    assert "nuketown-sync.target.wants/nuketown-sync@ada.service" in links(made)


def test_a_failure_of_any_service_is_told(made: Units) -> None:
    for unit in made.made:
        if unit.name.endswith(".service") and unit.name != "nuketown-failed@.service":
            assert made.lines(unit.name, "OnFailure") == ["nuketown-failed@%n.service"], unit.name


def test_the_fetch_is_never_cut_off_and_never_started_again_by_systemd(made: Units) -> None:
    name = "nuketown-restore@.service"
    assert made.lines(name, "TimeoutStartSec") == ["infinity"]
    assert made.lines(name, "Restart") == []
    assert made.lines(name, "ExecStart") == ["/usr/bin/persist --spec /etc/town.toml restore --fetch --retry %i"]
