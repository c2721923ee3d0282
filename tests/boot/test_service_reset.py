"""Reset and `recall --replace` on a machine that runs: real sessions, systemd --user, services that need the agent."""

from pathlib import Path

import pytest

from tests.boot import nspawn, services
from tests.boot.services import ADA, Said

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]

SPEC = f"""{services.STORED}[agents.ada]
uid = {ADA}
git = {{ signing = false }}
persist = ["mem", {{ path = "notes", via = "bind" }}, {{ path = "data", via = "store" }}]
[agents.vox]
uid = {services.VOX}
git = {{ signing = false }}
persist = []
"""
NEEDS = "Requires=nuketown-agent@ada.target\nAfter=nuketown-agent@ada.target\n"
WORKER = f"[Unit]\n{NEEDS}[Service]\nUser=ada\nExecStart=sleep 1000\n[Install]\nWantedBy=multi-user.target\n"
ALONE = "[Service]\nUser=ada\nExecStart=sleep 1001\n"
INNER = "[Service]\nExecStart=sleep 1002\n"
SCRIPT = f"""
systemctl start nuketown-agent@ada.target nuketown-agent@vox.target worker.service; echo "up $?"
json() {{ python3 -c 'import json, sys; print(eval(sys.argv[1], dict(j=json.load(open("/run/json")))))' "$1"; }}
reset() {{ persist reset ada --stop --json >/run/json 2>/run/words; echo "$1 $?"; sed "s/^/words /" /run/words; }}
state() {{
    is "$1" nuketown-agent@ada.target nuketown-identity@ada.service nuketown-close@ada.service worker.service \
        alone.service user@{ADA}.service nuketown-agent@vox.target
    echo "$1.open $(echo $(persist account))"
    for path in mem notes; do echo "$1.$path $(findmnt --task 1 --noheadings --output FSROOT /agents/ada/$path)"; done
    echo "$1.holds $(ls -A /agents/ada | tr '\\n' ' ')"
    echo "$1.status $(persist status ada >/dev/null; echo $?)"
}}
as ada sh -c 'cd; echo s >scratch; echo m >mem/m; echo d >data/d; mkdir -p .config/systemd/user'
printf '{INNER.replace(chr(10), chr(92) + "n")}' | as ada tee /agents/ada/.config/systemd/user/inner.service >/dev/null
systemctl start alone.service user@{ADA}.service
as ada env XDG_RUNTIME_DIR=/run/user/{ADA} systemctl --user start inner.service; echo "inner $?"
persist reset ada >/run/out 2>&1; echo "refused $?"; cat /run/out
echo "named $(grep -c 'sleep 100[012]' /run/out)"
state running
persist account close ada; persist account open ada
systemd-run --quiet --wait --collect -p User=root -p Slice=user-{ADA}.slice persist reset ada --stop
echo "within $?"
is within nuketown-agent@ada.target
reset reset
echo "seconds $(json 'j["seconds"] < 1') $(json 'j["seconds"]')"
echo "started $(json '" ".join(j["started"])')"
kept=$(json 'j["kept"]'); echo "kept $(persist homes ada | grep -c "^$kept ")"
state after
echo "key $(stat -c %a:%U /agents/ada/.ssh/id_ed25519)"
echo "mem $(cat /agents/ada/mem/m) data $(cat /agents/ada/data/d)"
echo "log $(persist log ada --json | grep -c '"snapshot"')"
as ada sh -c 'cd; echo n >now'
session=/run/session; mkfifo $session; su --login ada -c "cat $session" & sleep 1
persist recall "$kept" --replace --stop >/run/back 2>/run/words; echo "replaced $?"; sed "s/^/words /" /run/words
wait %1; echo "session $?"
state replaced
echo "scratch $(cat /agents/ada/scratch) now $(test -e /agents/ada/now && echo there || echo gone)"
echo "mem-then $(cat /agents/ada/mem/m) data-then $(cat /agents/ada/data/d)"
persist recall "$(cat /run/back)" --replace --stop >/dev/null 2>/run/words; echo "undone $?"
sed "s/^/words /" /run/words
echo "now-again $(cat /agents/ada/now) scratch-again $(test -e /agents/ada/scratch && echo there || echo gone)"
state undone
systemctl stop nuketown-agent@ada.target
reset stopped
is stopped nuketown-agent@ada.target worker.service
echo "failed $(systemctl --failed --no-legend --plain | tr '\\n' ' ')"
"""


@pytest.fixture(scope="module")
def said(installed: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Said:
    with services.town(installed, tmp_path_factory.mktemp("town"), SPEC) as town:
        nspawn.unit(town.tree, "worker.service", WORKER)
        nspawn.unit(town.tree, "alone.service", ALONE)
        town.inside("persist", "init", "--store")
        found = town.boot(SCRIPT, seconds=300)
        print(found["said"])
        return found


HERE = ("nuketown-agent@ada.target", "nuketown-identity@ada.service", "nuketown-close@ada.service")


def _is_up(said: Said, label: str) -> None:
    for unit in (*HERE, "worker.service", "nuketown-agent@vox.target"):
        assert said[f"{label}.{unit}"] == "active", unit
    assert said[f"{label}.open"] == "ada open vox open"
    assert said[f"{label}.mem"].endswith("/agents/ada/mem")
    assert said[f"{label}.notes"].endswith("/agents/ada/notes")
    assert {"mem", "notes", "data", ".ssh"} <= set(said[f"{label}.holds"].split())
    assert said[f"{label}.user@{ADA}.service"] == "active"
    assert said[f"{label}.status"] in ("0", "3"), "3: nothing was synced yet"


def test_an_agent_that_runs_is_refused_and_every_process_is_named(said: Said) -> None:
    assert said["refused"] == "1"
    assert int(said["named"]) >= 1
    assert "1002" in said["said"]
    _is_up(said, "running")


def test_a_command_in_a_session_of_the_agent_is_refused(said: Said) -> None:
    assert said["within"] == "1"
    assert said["within.nuketown-agent@ada.target"] == "active"


def test_a_reset_stops_and_starts_all_that_belongs_to_the_agent(said: Said) -> None:
    assert said["reset"] == "0"
    _is_up(said, "after")
    assert said["after.alone.service"] == "active", "a service with User= alone, too"
    assert {"nuketown-agent@ada.target", "worker.service", "alone.service"} <= set(said["started"].split())
    assert "scratch" not in said["after.holds"].split()
    assert said["mem"] == "m data d"
    assert said["key"] == "600:ada", "identity is installed in the fresh home"
    assert said["kept"] == "1"


def test_a_reset_takes_less_than_a_second_apart_from_that(said: Said) -> None:
    assert said["seconds"].startswith("True ")


def test_an_old_home_takes_the_present_ones_place_and_gives_it_back(said: Said) -> None:
    assert said["replaced"] == "0"
    _is_up(said, "replaced")
    assert said["scratch"] == "s now gone"
    assert said["mem-then"] == "m data-then d"
    assert said["session"] != "0", "the login that was open has ended"
    assert said["undone"] == "0"
    assert said["now-again"] == "n scratch-again gone"
    _is_up(said, "undone")


def test_what_a_person_had_stopped_is_not_started(said: Said) -> None:
    assert said["stopped"] == "0"
    assert said["stopped.nuketown-agent@ada.target"] == "inactive"
    assert said["stopped.worker.service"] == "inactive"
    assert said["failed"] == ""
