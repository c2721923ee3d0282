"""An agent that comes while the machine runs, as a switch to another configuration brings it."""

from pathlib import Path

import pytest

from persist import cli as persist
from tests.boot import services
from tests.boot.services import ADA, VOX, Said

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]

SPEC = f"""{services.HEAD}[agents.ada]
uid = {ADA}
git = {{ signing = false }}
persist = [{{ path = "notes", via = "bind" }}]
"""
NEW = f"""[agents.vox]
uid = {VOX}
git = {{ signing = false }}
persist = [{{ path = "notes", via = "bind" }}]
"""
# What a switch does: units are changed, the homes restarted, the sweep reloaded, and all targets started again.
SCRIPT = f"""
systemctl start nuketown-agent@ada.target user@{ADA}.service; echo "up $?"
is before nuketown-agent@vox.target nuketown-sweep.service
as ada touch /tmp/of-ada /dev/shm/of-ada
touch /var/tmp/of-vox; chown vox /var/tmp/of-vox
run=$(systemctl show -P InvocationID nuketown-agent@ada.target user@{ADA}.service)
cp /root/town.toml /etc/nuketown/town.toml
persist install --initrd none >/run/said 2>&1; echo "installed $?"; sed "s/^/words /" /run/said
systemctl daemon-reload
systemctl reload nuketown-sweep.service; echo "reload $?"
systemctl restart nuketown-homes.service; echo "homes $?"
systemctl start nuketown-agent@ada.target multi-user.target; echo "targets $?"
settled() {{ [ -z "$(systemctl list-jobs --no-legend 'nuketown-*')" ]; }}
until_ settled
is after nuketown-agent@ada.target nuketown-agent@vox.target nuketown-sweep.service
who after ada vox human
echo "left $(echo $(ls /tmp /var/tmp /dev/shm | grep of-))"
[ "$run" = "$(systemctl show -P InvocationID nuketown-agent@ada.target user@{ADA}.service)" ]; echo "same $?"
systemctl stop nuketown-sweep.service; [ -e /run/nuketown/swept.json ]; echo "forgotten $?"
echo "failed $(systemctl --failed --no-legend --plain)"
"""


@pytest.fixture(scope="module")
def said(installed: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Said:
    with services.town(installed, tmp_path_factory.mktemp("town"), SPEC + NEW) as town:
        file = town.tree / "etc/nuketown/town.toml"
        both = file.read_text()
        (town.tree / "root/town.toml").write_text(both)
        file.write_text(both.partition("[agents.vox]")[0])
        assert persist.main(["--spec", str(file), "install", "--root", str(town.tree), "--initrd", "none"]) == 0
        assert not list((town.tree / "etc/systemd/system").rglob("*@vox*"))
        found = town.boot(SCRIPT)
        print(found["said"])
        return found


def test_an_agent_that_is_new_gets_its_home_and_logs_in(said: Said) -> None:
    assert (said["up"], said["installed"], said["reload"], said["homes"], said["targets"]) == ("0",) * 5, said["said"]
    assert said["before.nuketown-agent@vox.target"] == "inactive"
    assert said["after.nuketown-agent@vox.target"] == "active", said["said"]
    assert set(said.lets("after", "vox").values()) == {True}
    assert set(said.lets("after", "human").values()) == {True}
    assert said["failed"] == ""


def test_what_somebody_left_under_its_uid_goes_and_what_runs_keeps_what_it_has(said: Said) -> None:
    assert said["left"] == "of-ada of-ada", said["said"]
    assert said["same"] == "0"
    assert said["after.nuketown-agent@ada.target"] == "active"
    assert set(said.lets("after", "ada").values()) == {True}


def test_a_sweep_that_is_stopped_is_forgotten_as_a_soft_reboot_does_it(said: Said) -> None:
    assert said["forgotten"] == "1", said["said"]
