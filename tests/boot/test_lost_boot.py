"""A shutdown writes down what the reboot takes, when all that the agents ran has ended; it can be recalled then."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.boot import services
from tests.boot.services import ADA, VOX, Said

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]

SPEC = f"""{services.HEAD}[agents.ada]
uid = {ADA}
git = {{ signing = false }}
persist = ["kept"]
[agents.vox]
uid = {VOX}
git = {{ signing = false }}
"""
# A session's work: it goes on until it is told to end, and writes once more then.
WORK = """\
[Service]
Type=notify
NotifyAccess=all
ExecStart=/bin/sh -c 'trap "sleep 1; echo late >%h/diary/last.md; exit 0" TERM; mkdir -p %h/diary; \
systemd-notify --ready; while :; do sleep 0.2; done'
"""
FIRST = f"""
systemctl start nuketown-agent@ada.target nuketown-agent@vox.target; echo "started $?"
is ready nuketown-lost.service nuketown-agent@ada.target
systemctl start user@{ADA}.service
as ada env XDG_RUNTIME_DIR=/run/user/{ADA} systemctl --user start work.service; echo "work $?"
as ada sh -c 'cd; echo x >kept/x; btrfs subvolume create nested >/dev/null; echo y >nested/y'
as vox sh -c 'echo v >/agents/vox/v'
"""
SECOND = """
systemctl start nuketown-agent@ada.target; echo "started $?"
persist lost ada --last >/run/last 2>/run/words; echo "last $?"
sed 's/^/line /' /run/last
persist lost --last --json >/run/json; echo "json $(tr -d '\\n' </run/json)"
old=$(python3 -c 'import json; print(json.load(open("/run/json"))["agents"][0]["recall"])')
echo "old $old"
persist recall "$old" --to /srv/look >/dev/null 2>/run/said; echo "recall $?"; cat /run/said
echo "diary $(cat /srv/look/diary/last.md)"
echo "modes $(stat -c %U:%a /persist/.nuketown/lost /persist/.nuketown/lost/*/ada.json | tr '\\n' ' ')"
try peek runuser -u ada -- ls /persist/.nuketown/lost
"""


@dataclass(frozen=True)
class Boots:
    """What was seen in two boots, and in which order units were stopped at the end of the first."""

    first: Said
    stops: list[str]
    second: Said


@pytest.fixture(scope="module")
def boots(installed: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Boots]:
    with services.town(installed, tmp_path_factory.mktemp("lost"), SPEC) as town:
        (town.tree / "etc/systemd/user/work.service").write_text(WORK)
        first = town.boot(FIRST)
        yield Boots(first, town.stops(), town.boot(SECOND))


def test_it_is_written_down_between_the_end_of_the_agents_and_that_of_their_homes(boots: Boots) -> None:
    assert boots.first["work"] == "0", boots.first["said"]
    assert set(boots.first.states("ready").values()) == {"active"}, boots.first["said"]
    stops = boots.stops
    lost = stops.index("nuketown-lost.service")
    for earlier in ("nuketown-agent@ada.target", "nuketown-agent@vox.target", f"user@{ADA}.service"):
        assert stops.index(earlier) < lost, (earlier, stops)
    for later in ("nuketown-mount.service", "persist.mount", "agents.mount"):
        assert stops.index(later) > lost, (later, stops)
    assert "nuketown-lost.service: Failed" not in boots.first["console"]


def test_after_the_reboot_it_says_what_went_to_the_last_second(boots: Boots) -> None:
    assert boots.second["last"] == "0", boots.second["said"]
    assert "went with the last reboot, as written down at" in boots.second["said"]
    agents = {agent["agent"]: agent for agent in json.loads(boots.second["json"])["agents"]}
    assert set(agents) == {"ada", "vox"}
    assert all(agent["recorded"] for agent in agents.values())
    folded = {line["path"]["text"]: line["kind"] for line in agents["ada"]["folded"]}
    assert folded["diary"] == "notes"
    assert folded["nested"] == "subvolume"
    assert "kept" not in folded
    diary = {"path": {"text": "diary", "base64": "ZGlhcnk="}, "kind": "notes", "type": "directory"}
    assert diary in agents["ada"]["persist"]
    assert [line["path"]["text"] for line in agents["vox"]["folded"]] == ["v"]


def test_and_recall_brings_it(boots: Boots) -> None:
    assert boots.second["recall"] == "0", boots.second["said"]
    assert boots.second["diary"] == "late"
    assert boots.second["old"].startswith("ada@")


def test_what_was_written_down_is_roots_alone(boots: Boots) -> None:
    assert boots.second["modes"].split() == ["root:700", "root:600"]
    assert boots.second["peek"] == "out"
