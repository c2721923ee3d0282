"""A quota on a machine that boots: an agent that filled it gets its keys and its account again, and no byte more."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.boot import services
from tests.boot.services import ADA, VOX, Said

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]

SPEC = f"""{services.STORED}[agents.ada]
uid = {ADA}
quota = "20M"
git = {{ signing = false }}
persist = ["mem", {{ path = "notes", via = "bind" }}, {{ path = "data", via = "store" }}]
[agents.vox]
uid = {VOX}
git = {{ signing = false }}
persist = [{{ path = "notes", via = "bind" }}]
"""
FIRST = """
systemctl start nuketown-agent@ada.target nuketown-agent@vox.target; echo "started $?"
echo "homes $(journalctl -b -u nuketown-homes.service -o cat | grep -c 'simple ones turned on')"
sync; echo "use $(persist status ada | grep '  quota  ')"
try vox runuser -u vox -- sh -c 'head -c 30M /dev/urandom >/agents/vox/notes/all'
try ada runuser -u ada -- sh -c 'head -c 30M /dev/urandom >/agents/ada/notes/all'
grep -q 'quota exceeded' /run/said; echo "why $?"
"""
SECOND = """
systemctl start nuketown-agent@ada.target; echo "started $?"
echo "homes $(journalctl -b -u nuketown-homes.service -o cat | grep -c 'no limit for ada until its account opens')"
echo "key $(stat -c %U /agents/ada/.ssh/id_ed25519)"
echo "open $(cat /run/nuketown/open | tr '\\n' ' ')"
try more runuser -u ada -- sh -c 'head -c 1M /dev/urandom >/agents/ada/more'
systemctl start nuketown-sync@ada.service; echo "synced $?"
sync; echo "use $(persist status ada | grep '  quota  ')"
as ada rm /agents/ada/notes/all
until_ sh -c '! persist status ada | grep -q "used up"'
try after runuser -u ada -- sh -c 'head -c 10M /dev/urandom >/agents/ada/more'
echo "failed $(systemctl --failed --no-legend --plain)"
"""


@pytest.fixture(scope="module")
def boots(installed: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Said, Said]]:
    """Two boots; at the end of the first ada is at her limit."""
    with services.town(installed, tmp_path_factory.mktemp("quota"), SPEC) as town:
        town.inside("persist", "init", "--store")
        yield town.boot(FIRST), town.boot(SECOND)


def test_the_limit_comes_with_the_open_account_and_is_hers_alone(boots: tuple[Said, Said]) -> None:
    first, _ = boots
    assert (first["started"], first["homes"]) == ("0", "1"), first["said"]
    assert first["use"].endswith("of 20M (21.0 MB)"), first["said"]
    assert (first["ada"], first["why"], first["vox"]) == ("out", "0", "in")


def test_at_its_limit_an_agent_comes_up_with_its_keys_and_is_synced(boots: tuple[Said, Said]) -> None:
    _, second = boots
    assert (second["started"], second["homes"]) == ("0", "1"), second["said"]
    assert second["key"] == "ada"
    assert "ada" in second["open"].split()
    assert second["synced"] == "0"


def test_the_limit_is_in_force_in_the_next_boot_and_deleting_makes_room(boots: tuple[Said, Said]) -> None:
    _, second = boots
    assert (second["more"], second["after"]) == ("out", "in")
    assert second["use"].endswith("of 20M (21.0 MB)"), second["said"]
    assert second["failed"] == ""
