"""A town that is well, booted: closed until all stands, open after it, a last sync at every end, and all of it back."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.boot import nspawn, services
from tests.boot.services import ADA, VOX, Said
from town import files, process

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]

SPEC = f"""{services.STORED}[agents.ada]
uid = {ADA}
git = {{ signing = false }}
persist = ["mem", {{ path = "notes", via = "bind" }}, {{ path = "data", via = "store" }}]
[agents.vox]
uid = {VOX}
git = {{ signing = false }}
persist = [{{ path = "notes", via = "bind" }}]
"""
# What the agent runs in its own systemd: it writes until it is told to end, and once more after that.
WORK = """\
[Service]
Type=notify
NotifyAccess=all
ExecStart=/bin/sh -c 'trap "sleep 1; echo $$(cat %h/said) | tee %h/data/last >%h/mem/last; exit 0" TERM; \
echo $$$$ >%h/pid; systemd-notify --ready; while :; do sleep 0.2; done'
"""
# And what does not end when it is told to: it says that it was told, and goes on until the test has seen enough.
STUBBORN = """\
[Service]
Type=notify
NotifyAccess=all
ExecStart=/bin/sh -c 'trap "touch %h/told; until [ -e %h/go ]; do sleep 0.1; done; exit 0" TERM; \
systemd-notify --ready; while :; do sleep 0.2; done'
"""
# How the network goes away at a shutdown: as a manager of it is ordered (systemd.special(7), network.target).
NETWORK = """\
[Unit]
DefaultDependencies=no
Before=network.target shutdown.target
Wants=network.target
Conflicts=shutdown.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=true
[Install]
WantedBy=multi-user.target
"""
BEGIN = f"""
work() {{  # WORD: the agent works, and says this at its end
    systemctl start user@{ADA}.service
    echo "$1" | as ada tee /agents/ada/said >/dev/null
    as ada env XDG_RUNTIME_DIR=/run/user/{ADA} systemctl --user start work.service
}}
stubborn() {{
    rm -f /agents/ada/told /agents/ada/go
    systemctl start user@{ADA}.service
    as ada env XDG_RUNTIME_DIR=/run/user/{ADA} systemctl --user start stubborn.service
}}
sent() {{ rm -rf /run/sent; persist get ada data mem --to /run/sent; echo "$1 $(echo $(cat /run/sent/*/last))"; }}
cover() {{
    echo "$1 $(findmnt --noheadings --output FSTYPE,OPTIONS /agents)"
    echo "$1.holds $(stat -c %a:%U /agents) $(ls -A /agents | wc -l)"
    try "$1.mkdir" mkdir /agents/ada
    try "$1.useradd" sh -c 'useradd --create-home --base-dir /agents guest; [ -e /agents/guest ]'
    try "$1.agent" as ada ls /agents
}}
"""
FIRST = f"""{BEGIN}
is early multi-user.target getty.target systemd-user-sessions.service persist.mount
is not-yet nuketown-mount.service nuketown-homes.service nuketown-agent@ada.target
cover early-cover
who before ada vox human
systemctl start --no-block user@{ADA}.service user@{services.HUMAN}.service; sleep 0.5
is waiting user@{ADA}.service
GO-ROLLBACK
systemctl start nuketown-mount.service
echo "mounted $(findmnt --noheadings --output FSTYPE /agents | tail -1)"
asked mounted ada vox human
GO-HOMES
systemctl start nuketown-agent@ada.target nuketown-agent@vox.target user@{ADA}.service; echo "started $?"
who open ada vox human
is ready nuketown-homes.service nuketown-sweep.service nuketown-restore@ada.service nuketown-bind@ada.service \
    nuketown-identity@ada.service nuketown-leave@ada.service user@{ADA}.service nuketown-identity@vox.service
is no-store nuketown-restore@vox.service nuketown-bind@vox.service nuketown-leave@vox.service
for path in ada/mem ada/notes vox/notes; do
    echo "pid1.$path $(findmnt --task 1 --noheadings --output FSROOT,VFS-OPTIONS /agents/$path)"
done
echo "data $(stat -c %U:%a /agents/ada/data)"
persist sync ada >/dev/null; persist status >/run/status; echo "status $?"; cat /run/status
as ada sh -c 'cd; mkdir -p data/team mem/team; chmod 2770 data/team mem/team; echo a >data/team/a; echo b >mem/team/b'
as vox sh -c 'echo v >/agents/vox/notes/v'
work stopped
systemctl stop nuketown-agent@ada.target nuketown-leave@ada.service; echo "stop $?"
is after-stop user@{ADA}.service nuketown-agent@vox.target
who stopped ada
sent stop.sent
systemctl start nuketown-agent@ada.target; echo "restart $?"
asked again ada
stubborn
systemctl stop nuketown-agent@ada.target & stop=$!
until_ [ -e /agents/ada/told ]
is stopping user-{ADA}.slice user@{ADA}.service
who ending ada vox
is stopping-still user-{ADA}.slice user@{ADA}.service
touch /agents/ada/go; wait $stop; echo "ended $?"
is ended user-{ADA}.slice user@{ADA}.service nuketown-agent@ada.target
systemctl start nuketown-agent@ada.target
stubborn
systemctl stop --no-block nuketown-agent@ada.target
until_ [ -e /agents/ada/told ]
systemctl start --no-block nuketown-agent@ada.target
touch /agents/ada/go; systemctl start nuketown-close@ada.service; echo "back $?"
is back nuketown-agent@ada.target user@{ADA}.service
asked back-in ada
echo "failed $(systemctl --failed --no-legend --plain)"
work shutdown
"""
SECOND = f"""{BEGIN}
systemctl start nuketown-agent@ada.target nuketown-agent@vox.target; echo "started $?"
sent sent
for path in data/team mem/team; do echo "mode.$path $(stat -c %a:%U:%G /agents/ada/$path)"; done
echo "fetched $(cat /agents/ada/data/team/a /agents/ada/mem/team/b | tr '\\n' ' ')$(cat /agents/vox/notes/v)"
echo "came $(persist status ada | grep '^  data ')"
echo "homes $(journalctl -b -u nuketown-homes.service -o cat | grep data)"
twice() {{ [ "$(wc -l </run/synced)" -ge 2 ]; }}
until_ twice 2>/dev/null; systemctl stop nuketown-sync.timer
echo "timer $(wc -l </run/synced)"
is timer nuketown-agent@ada.target
work nothing
systemctl stop nuketown-mount.service; echo "unmount $?"
asked unmounted ada vox human
is gone user@{ADA}.service nuketown-agent@ada.target nuketown-agent@vox.target
cover late-cover
systemctl start nuketown-agent@ada.target nuketown-agent@vox.target; echo "remount $?"
asked remounted ada vox
"""
# The timer comes while homes are being made, too: then nobody is there to be synced.
OFTEN = "[Timer]\nOnActiveSec=\nOnUnitActiveSec=\nOnActiveSec=1s\nOnUnitActiveSec=1s\nRandomizedDelaySec=0\n"
TOLD = "[Service]\nExecStartPost=sh -c 'echo %i >>/run/synced'\n"


@dataclass(frozen=True)
class Day:
    """What was seen in two boots; and in which order units were stopped at the end of the first."""

    first: Said
    stops: list[str]
    second: Said


@pytest.fixture(scope="module")
def day(installed: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Day]:
    """Two boots of one machine; what one directory held is gone between them, so that it comes from the store."""
    with services.town(installed, tmp_path_factory.mktemp("day"), SPEC) as town:
        town.inside("persist", "init", "--store")
        for name, text in (("work", WORK), ("stubborn", STUBBORN)):
            (town.tree / f"etc/systemd/user/{name}.service").write_text(text)
        nspawn.unit(town.tree, "network.service", NETWORK)
        rollback, homes = town.hold("nuketown-rollback.service"), town.hold("nuketown-homes.service")
        first = town.boot(FIRST.replace("GO-ROLLBACK", rollback).replace("GO-HOMES", homes))
        stops = town.stops()
        with files.opened(files.open_beneath(town.top, "@persist/agents/ada")) as persisted:
            process.run(["rm", "-rf", f"/proc/self/fd/{persisted}/mem"], fds=(persisted,))
        for unit in ("nuketown-rollback.service", "nuketown-homes.service"):
            (town.tree / f"etc/systemd/system/{unit}.d/test.conf").unlink()
        town.drop_in("nuketown-sync.timer", OFTEN)
        town.drop_in("nuketown-sync@.service", TOLD)
        yield Day(first, stops, town.boot(SECOND))


def all_are(ways: dict[str, bool], *, let_in: bool) -> None:
    assert len(ways) >= len(services.SERVICES)
    assert set(ways.values()) == {let_in}, ways


def covers(said: Said, name: str) -> None:
    kind, options = said[name].split()
    assert (kind, {"ro", "nosuid", "nodev", "noexec"} - set(options.split(","))) == ("tmpfs", set())
    assert said[f"{name}.holds"] == "0:root 0"
    assert [said[f"{name}.{what}"] for what in ("mkdir", "useradd", "agent")] == ["out"] * 3


def test_the_human_is_there_before_the_disk_is_even_looked_at(day: Day) -> None:
    assert set(day.first.states("early").values()) == {"active"}, day.first["said"]
    assert "active" not in day.first.states("not-yet").values()
    for label in ("before", "mounted", "open"):
        all_are(day.first.lets(label, "human"), let_in=True)


def test_until_the_homes_are_mounted_nothing_can_be_made_where_they_will_be(day: Day) -> None:
    covers(day.first, "early-cover")


def test_no_way_leads_into_an_account_before_all_that_the_agent_declared_stands(day: Day) -> None:
    for agent in ("ada", "vox"):
        ways = day.first.lets("before", agent)
        assert {"by-su", "by-machinectl", "login", "systemd-user", "cron", "sshd"} <= set(ways)
        all_are(ways, let_in=False)
        all_are(day.first.lets("mounted", agent), let_in=False)


def test_every_way_leads_into_it_after(day: Day) -> None:
    assert day.first["started"] == "0", day.first["said"]
    assert set(day.first.states("ready").values()) == {"active"}, day.first["said"]
    for agent in ("ada", "vox"):
        all_are(day.first.lets("open", agent), let_in=True)


def test_the_agents_own_systemd_waits_for_its_target(day: Day) -> None:
    assert day.first.states("waiting") == {f"user@{ADA}.service": "inactive"}
    assert day.first[f"ready.user@{ADA}.service"] == "active"


def test_who_keeps_nothing_in_the_store_waits_for_no_store(day: Day) -> None:
    assert set(day.first.states("no-store").values()) == {"inactive"}


def test_what_is_bound_is_seen_by_everybody_without_suid_and_devices(day: Day) -> None:
    for path in ("ada/mem", "ada/notes", "vox/notes"):
        root, options = day.first[f"pid1.{path}"].split()
        assert root == f"/@persist/agents/{path}"
        assert {"rw", "nosuid", "nodev"} <= set(options.split(","))
    assert day.first["data"] == "ada:700"


def test_a_town_that_is_well_says_so_and_nothing_failed(day: Day) -> None:
    assert day.first["status"] == "0", day.first["said"]
    assert day.first["failed"] == ""
    assert not re.search("FAILED|error:", day.first["console"])


def test_a_stop_of_one_agent_sends_what_it_wrote_last_and_closes_its_account(day: Day) -> None:
    assert (day.first["stop"], day.first["stop.sent"].split()) == ("0", ["stopped", "stopped"]), day.first["said"]
    assert day.first.states("after-stop") == {f"user@{ADA}.service": "inactive", "nuketown-agent@vox.target": "active"}
    all_are(day.first.lets("stopped", "ada"), let_in=False)
    assert day.first["restart"] == "0"
    all_are(day.first.lets("again", "ada"), let_in=True)


def test_while_an_agents_processes_end_nobody_logs_in_to_start_them_again(day: Day) -> None:
    for label in ("stopping", "stopping-still"):
        states = day.first.states(label)
        assert states == {f"user-{ADA}.slice": "active", f"user@{ADA}.service": "deactivating"}, day.first["said"]
    all_are(day.first.lets("ending", "ada"), let_in=False)
    all_are(day.first.lets("ending", "vox"), let_in=True)
    assert day.first["ended"] == "0", day.first["said"]
    assert set(day.first.states("ended").values()) == {"inactive"}, day.first["said"]


def test_a_start_in_the_middle_of_a_stop_opens_the_account_again(day: Day) -> None:
    assert day.first["back"] == "0", day.first["said"]
    assert day.first.states("back") == {"nuketown-agent@ada.target": "active", f"user@{ADA}.service": "inactive"}
    all_are(day.first.lets("back-in", "ada"), let_in=True)


def test_a_shutdown_sends_what_the_agent_wrote_in_its_last_second(day: Day) -> None:
    assert day.second["sent"].split() == ["shutdown", "shutdown"], day.second["said"]


def test_the_last_sync_is_between_the_agents_end_and_that_of_its_mounts_and_the_network(day: Day) -> None:
    stops = day.stops[day.stops.index("report.service") :]
    leave, close = stops.index("nuketown-leave@ada.service"), stops.index("nuketown-close@ada.service")
    for later in (f"user@{ADA}.service", f"user-{ADA}.slice", "nuketown-agent@ada.target"):
        assert stops.index(later) > close, (later, stops)
    for earlier in (f"user@{ADA}.service", f"user-{ADA}.slice", "nuketown-open@ada.service"):
        assert stops.index(earlier) < leave, (earlier, stops)
    for later in ("network.target", "network.service", "nuketown-mount.service", "persist.mount",
                  "agents-ada-mem.mount", "agents-ada-notes.mount", "agents.mount"):  # fmt: skip
        assert stops.index(later) > leave, (later, stops)


def test_a_reboot_brings_back_what_was_sent_with_a_setgid_directory_as_it_was(day: Day) -> None:
    assert day.second["started"] == "0", day.second["said"]
    assert day.second["fetched"] == "a b v"
    assert day.second.states("mode") == {"data/team": "2770:ada:ada", "mem/team": "2770:ada:ada"}


def test_a_reboot_brings_over_what_lies_on_this_machine_before_there_is_a_network(day: Day) -> None:
    assert "carried over from the home before" in day.second["came"], day.second["said"]
    assert "keep    /agents/ada/data (from the home set aside" in day.second["homes"]


def test_the_timer_starts_one_sync_after_the_other(day: Day) -> None:
    assert int(day.second["timer"]) >= 2, day.second["said"]
    assert day.second["timer.nuketown-agent@ada.target"] == "active"


def test_after_a_stop_of_the_mount_agents_are_out_and_the_place_is_covered_again(day: Day) -> None:
    assert day.second["unmount"] == "0"
    assert set(day.second.states("gone").values()) == {"inactive"}, day.second["said"]
    for agent in ("ada", "vox"):
        all_are(day.second.lets("unmounted", agent), let_in=False)
    all_are(day.second.lets("unmounted", "human"), let_in=True)
    covers(day.second, "late-cover")


def test_a_start_of_the_targets_mounts_again_and_lets_them_in(day: Day) -> None:
    assert day.second["remount"] == "0", day.second["said"]
    for agent in ("ada", "vox"):
        all_are(day.second.lets("remounted", agent), let_in=True)
