"""Each step failing, in real boots: that agent stays out and its account closed, the others and the human come up.

Whoever looks at the console or the journal reads the agent's name, what failed and the next command.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.boot import nspawn, services
from tests.boot.services import ADA, VOX, Said, Town
from town import btrfs, files, process

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]

IDA, HAL, SID = 51102, 51103, 51104
HEAD = """
[town]
agents_dir = "/agents"
persist_dir = "/persist"
recipients = {{ humans = ["{recipient}"] }}
{store}
[town.btrfs]
device = "{{uuid}}"
wait = "5s"
"""
AGENT = """
[agents.{name}]
uid = {uid}
git = {{ signing = false }}
persist = {persist}
"""
BOUND = '[{ path = "notes", via = "bind" }]'
# What agents left outside their homes; of one it cannot be taken away.
LEFT = """\
[Unit]
DefaultDependencies=no
After=local-fs.target systemd-tmpfiles-setup.service
Before=nuketown-sweep.service
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=sh -c 'cd /var/tmp; touch of-sid; chown sid of-sid; chattr +i of-sid; mkdir of-vox; chown vox of-vox; \
touch /tmp/of-vox /dev/shm/of-vox; chown vox of-vox /tmp/of-vox /dev/shm/of-vox'
[Install]
WantedBy=multi-user.target
"""
SETTLED = """
settled() { [ -z "$(systemctl list-jobs --no-legend 'nuketown-*')" ]; }
until_ settled
"""


def spec(store: str = "", **agents: tuple[int, str]) -> str:
    every = (AGENT.format(name=name, uid=uid, persist=persist) for name, (uid, persist) in agents.items())
    return HEAD.format(recipient="{recipient}", store=store) + "".join(every)


def lines(town: Town) -> dict[str, str]:
    """By the unit that failed, what nuketown-failed@.service said of it in the last boot."""
    found = [line for line in town.journal() if line["MESSAGE"].startswith("nuketown: ")]
    named = [(re.search(r"\((nuketown-[^ ]+\.service): ", line["MESSAGE"]), line) for line in found]
    return {name[1]: line["MESSAGE"] for name, line in named if name}


def is_out(said: Said, agent: str) -> None:
    """No way leads into its account."""
    ways = said.lets("who", agent)
    assert len(ways) >= len(services.SERVICES)
    assert set(ways.values()) == {False}, said["said"]
    assert said[f"is.nuketown-agent@{agent}.target"] == "inactive", said["said"]


def is_in(said: Said, user: str) -> None:
    ways = said.lets("who", user)
    assert len(ways) >= len(services.SERVICES)
    assert set(ways.values()) == {True}, said["said"]


# ---- one agent's failure


ONE = f"""
is early multi-user.target getty.target systemd-user-sessions.service
{SETTLED}
is is nuketown-agent@vox.target nuketown-agent@ida.target nuketown-agent@hal.target nuketown-agent@sid.target
asked who ida hal
who who vox sid human
echo "left $(ls /tmp /var/tmp /dev/shm | grep of-)"
as vox touch /tmp/at-work /dev/shm/at-work
systemctl start nuketown-agent@sid.target; echo "again $?"
echo "swept-again $(journalctl -b -u nuketown-sweep.service -o cat | grep -c 'of-sid stays')"
echo "at-work $(echo $(ls /tmp /dev/shm | grep at-work))"
chattr -i /var/tmp/of-sid
persist sweep sid && systemctl start nuketown-agent@sid.target; echo "cured $?"
asked cured sid
persist account open ida; echo "asked-for $?"
persist account open ida --force; echo "forced $?"
asked forced ida hal
systemctl start user@{HAL}.service; echo "login $?"
"""


@pytest.fixture(scope="module")
def one(installed: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Said, dict[str, str]]]:
    """A boot in which each of three agents has something of its own that fails; a fourth has not."""
    agents = {"vox": VOX, "ida": IDA, "hal": HAL, "sid": SID}
    text = spec(vox=(VOX, BOUND), ida=(IDA, BOUND), hal=(HAL, BOUND), sid=(SID, "[]"))
    at = tmp_path_factory.mktemp("one")
    with services.town(installed, at, text, agents, known=("vox", "hal", "sid")) as town:
        a_symlink_where_data_should_be(town)
        nspawn.unit(town.tree, "left.service", LEFT)
        yield town.boot(ONE), lines(town)


def a_symlink_where_data_should_be(town: Town) -> None:
    """As an agent could leave it if the directories above were its own."""
    with files.opened(files.open_beneath(town.top, "@persist")) as persist:
        os.mkdir("agents", 0o711, dir_fd=persist)
        with files.opened(files.enter(persist, "agents")) as agents:
            os.close(btrfs.create(agents, "hal"))
            os.symlink("/etc", "hal/notes", dir_fd=agents)


def test_an_agent_whose_identity_fails_stays_out(one: tuple[Said, dict[str, str]]) -> None:
    said, told = one
    is_out(said, "ida")
    line = told["nuketown-identity@ida.service"]
    assert line.startswith("nuketown: ida stays out: its keys and settings are not installed"), line
    assert "secrets/agents.yaml has no value at ida/" in line
    assert "next: identity gen ida && systemctl start nuketown-agent@ida.target;" in line
    assert "nuketown: ida stays out" in said["console"]


def test_an_agent_whose_home_is_refused_stays_out(one: tuple[Said, dict[str, str]]) -> None:
    said, told = one
    is_out(said, "hal")
    assert "hal: /persist/agents/hal/notes is a symbolic link" in told["nuketown-homes.service"]
    assert told["nuketown-identity@hal.service"].startswith("nuketown: hal stays out: ")
    assert "next: persist restore hal && systemctl start" in told["nuketown-identity@hal.service"]
    assert said["login"] == "1"  # its own systemd requires the target


def test_an_agent_whose_leavings_cannot_be_taken_away_stays_out(one: tuple[Said, dict[str, str]]) -> None:
    said, told = one
    is_out(said, "sid")
    assert "left outside its home" in told["nuketown-open@sid.service"]
    assert "persist sweep sid" in said["console"]
    assert said["cured"] == "0", said["said"]
    assert set(said.lets("cured", "sid").values()) == {True}


def test_what_others_left_is_gone(one: tuple[Said, dict[str, str]]) -> None:
    assert one[0]["left"] == "of-sid", one[0]["said"]


def test_a_sweep_that_failed_and_runs_again_takes_nothing_of_who_is_here(one: tuple[Said, dict[str, str]]) -> None:
    said, _ = one
    assert said["again"] == "1", said["said"]
    assert int(said["swept-again"]) >= 2, said["said"]
    assert said["at-work"] == "at-work at-work", said["said"]


def test_the_others_and_the_human_come_up(one: tuple[Said, dict[str, str]]) -> None:
    said, told = one
    assert set(said.states("early").values()) == {"active"}
    assert said["is.nuketown-agent@vox.target"] == "active", said["said"]
    is_in(said, "vox")
    is_in(said, "human")
    assert not [unit for unit in told if "vox" in unit]


def test_an_account_is_opened_over_a_failure_only_by_force(one: tuple[Said, dict[str, str]]) -> None:
    said, _ = one
    assert (said["asked-for"], said["forced"]) == ("1", "0"), said["said"]
    assert set(said.lets("forced", "ida").values()) == {True}
    assert set(said.lets("forced", "hal").values()) == {False}


# ---- a store that is not as it should be


STORE = f"""
is early multi-user.target getty.target systemd-user-sessions.service
{SETTLED}
is is nuketown-agent@vox.target nuketown-agent@ada.target nuketown-restore@ada.service
asked who ada vox human
mv /srv/store /srv/gone; mkdir /srv/store
systemctl start nuketown-agent@ada.target; echo "empty $?"
until_ settled
asked empty ada
is empty nuketown-agent@vox.target
echo "fetched $(ls -A /agents/ada/data)"
"""


@pytest.fixture(scope="module")
def store(installed: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Said, Town]]:
    """A boot with a store whose key is for another machine; then, on that machine, with an empty one."""
    text = spec(f'store = "{services.STORE}"', ada=(ADA, '["mem", { path = "data", via = "store" }]'), vox=(VOX, BOUND))
    with services.town(installed, tmp_path_factory.mktemp("store"), text) as town:
        own, another = town.tree / "var/lib/nuketown/age.key", town.tree / "root/another"
        process.run(["age-keygen", "-o", another])
        file = town.tree / "etc/nuketown/town.toml"
        right = file.read_text()
        mine, theirs = (process.run(["age-keygen", "-y", key]).out.decode().strip() for key in (own, another))
        file.write_text(right.replace(mine, theirs))
        town.inside("persist", "init", "--store")
        file.write_text(right)
        yield town.boot(STORE), town


def test_with_a_store_that_this_machine_cannot_open_who_needs_it_stays_out(store: tuple[Said, Town]) -> None:
    said, town = store
    is_out(said, "ada")
    assert said["is.nuketown-restore@ada.service"] == "failed"
    line = lines(town)["nuketown-restore@ada.service"]
    assert line.startswith("nuketown: ada stays out: what it keeps in the store was not fetched"), line
    assert "next: persist restore ada && systemctl start nuketown-agent@ada.target;" in line


def test_and_who_does_not_need_it_comes_up_as_the_human_does(store: tuple[Said, Town]) -> None:
    said, _ = store
    assert set(said.states("early").values()) == {"active"}
    assert said["is.nuketown-agent@vox.target"] == "active", said["said"]
    is_in(said, "vox")
    is_in(said, "human")


def test_an_empty_store_is_never_taken_for_nothing_to_fetch(store: tuple[Said, Town]) -> None:
    said, town = store
    assert said["empty"] == "1", said["said"]
    assert set(said.lets("empty", "ada").values()) == {False}
    assert said["empty.nuketown-agent@vox.target"] == "active"
    assert "store" in lines(town)["nuketown-restore@ada.service"].partition("(")[2]


LATE = f"""
{SETTLED}
is is nuketown-agent@ada.target nuketown-restore@ada.service nuketown-identity@ada.service
asked who ada
echo "before $(ls -A /agents/ada)"
persist init --store; echo "init $?"
systemctl start nuketown-agent@ada.target; echo "cured $?"
asked cured ada
echo "bound $(findmnt --task 1 --noheadings --output FSROOT /agents/ada/.claude)"
echo "claude $(echo $(ls -A /agents/ada/.claude))"
"""


@pytest.fixture(scope="module")
def late(installed: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Said, dict[str, str]]]:
    """A boot before the store was made, of an agent with settings in a directory that is asked of it."""
    preset = '[{ path = ".claude", preset = "claude-code" }]'
    text = spec(f'store = "{services.STORE}"', ada=(ADA, preset))
    with services.town(installed, tmp_path_factory.mktemp("late"), text, {"ada": ADA}) as town:
        yield town.boot(LATE), lines(town)


def test_while_what_is_fetched_is_not_there_no_keys_or_settings_take_its_place(
    late: tuple[Said, dict[str, str]],
) -> None:
    said, told = late
    assert said.states("is") == {
        "nuketown-agent@ada.target": "inactive",
        "nuketown-restore@ada.service": "failed",
        "nuketown-identity@ada.service": "inactive",
    }
    assert set(said.lets("who", "ada").values()) == {False}
    assert said["before"] == "", said["said"]
    assert set(told) == {"nuketown-restore@ada.service"}  # one line, by what failed


def test_a_start_after_the_store_was_made_fetches_binds_installs_and_opens(late: tuple[Said, dict[str, str]]) -> None:
    said, _ = late
    assert (said["init"], said["cured"]) == ("0", "0"), said["said"]
    assert set(said.lets("cured", "ada").values()) == {True}
    assert said["bound"].endswith("/.claude")
    assert "CLAUDE.md" in said["claude"].split()


# ---- no persist_dir


NOWHERE = f"""
is early multi-user.target getty.target systemd-user-sessions.service
{SETTLED}
is is nuketown-agent@vox.target persist.mount nuketown-homes.service
who who vox human
echo "made $(find /persist -mindepth 1 | wc -l)"
"""


@pytest.fixture(scope="module")
def nowhere(installed: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Said, dict[str, str]]]:
    """A boot in which the filesystem of persist_dir is not mounted."""
    with services.town(installed, tmp_path_factory.mktemp("nowhere"), spec(vox=(VOX, BOUND)), {"vox": VOX}) as town:
        mount = town.tree / "etc/systemd/system/persist.mount"
        mount.write_text(mount.read_text().replace("subvol=@persist", "subvol=@gone"))
        yield town.boot(NOWHERE), lines(town)


def test_without_persist_dir_agents_stay_out_and_nothing_is_made_in_its_place(
    nowhere: tuple[Said, dict[str, str]],
) -> None:
    said, told = nowhere
    assert set(said.states("early").values()) == {"active"}
    is_out(said, "vox")
    is_in(said, "human")
    assert said["made"] == "0"
    assert "not started, as persist.mount failed" in told["nuketown-homes.service"], told
    line = told["nuketown-open@vox.service"]
    assert line.startswith("nuketown: vox stays out: "), line
    assert "next: systemctl start persist.mount && systemctl start nuketown-agent@vox.target;" in line
