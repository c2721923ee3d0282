"""A store that accepts every connection and says nothing, in real boots: at the start, in the day, at the shutdown."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.boot import services
from tests.boot.services import ADA, VOX, Said
from tests.boot.silence import Silence
from tests.store.servers import Server, url
from town import files

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]

STORED = services.STORED.replace(services.STORE, "STORE").replace(
    "[town]", '[town]\nstore_credentials = "/etc/nuketown/s3"'
)
SPEC = f"""{STORED}[agents.ada]
uid = {ADA}
git = {{ signing = false }}
persist = ["mem", {{ path = "data", via = "store" }}]
[agents.vox]
uid = {VOX}
git = {{ signing = false }}
persist = [{{ path = "notes", via = "bind" }}]
"""
DEADLINE = 4  # seconds; what is installed says 90
FIRST = f"""
is early multi-user.target getty.target systemd-user-sessions.service
systemctl start nuketown-agent@vox.target; echo "vox $?"
fetching() {{ [ "$(systemctl show -P ActiveState nuketown-restore@ada.service)" = activating ]; }}
until_ fetching
is is nuketown-restore@ada.service nuketown-agent@ada.target
who who ada vox human
systemctl start --no-block user@{ADA}.service; sleep 0.5
is waiting user@{ADA}.service
touch /report/answers
systemctl start nuketown-agent@ada.target; echo "answered $?"
asked answered ada
as ada sh -c 'cd; echo sent | tee data/last >mem/last'
persist sync ada; echo "synced $?"
as ada sh -c 'cd; echo unsent | tee data/last >mem/last'
rm /report/answers
systemctl start --no-block nuketown-sync@ada.service
syncing() {{ [ "$(systemctl show -P ActiveState nuketown-sync@ada.service)" = activating ]; }}
until_ syncing; sleep 2
began=$(date +%s); systemctl stop nuketown-sync@ada.service; echo "term $? $(($(date +%s) - began))"
as ada sh -c 'cd; cat data/last mem/last' >/run/here; echo "here $(echo $(cat /run/here))"
"""
SECOND = """
systemctl start nuketown-agent@ada.target nuketown-agent@vox.target; echo "started $?"
echo "here $(cat /agents/ada/data/last /agents/ada/mem/last | tr '\\n' ' ')"
persist sync ada; echo "synced $?"
persist get ada data mem --to /run/got; echo "sent $(cat /run/got/*/last | tr '\\n' ' ')"
as ada sh -c 'echo more >/agents/ada/mem/more'
rm /report/answers
began=$(date +%s); systemctl stop nuketown-agent@ada.target nuketown-leave@ada.service
echo "stopped $(systemctl show -P Result nuketown-leave@ada.service) $(($(date +%s) - began))"
told() { journalctl --boot --output=cat | grep -q "^nuketown: ada left"; }
until_ told; echo "told $(journalctl --boot --output=cat | grep "^nuketown: ada left")"
asked left ada
"""


@dataclass(frozen=True)
class Nights:
    """Two boots; what the journal has of the end of the first, and what lay in the home that was set aside then."""

    first: Said
    end: list[dict[str, str]]
    second: Said
    aside: list[str]


@pytest.fixture(scope="module")
def nights(installed: list[Path], moto: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nights]:
    """The store is silent at the first boot, then answers for a while, is silent until the end, and is there again."""
    at = tmp_path_factory.mktemp("silent")
    (at / "report").mkdir()
    answers = at / "report/answers"
    answers.touch()
    with Silence(moto.endpoint, answers) as silence:
        place = moto.through(silence.endpoint).bucket()
        with services.town(installed, at, SPEC.replace("STORE", url(place))) as town:
            moto.credentials(town.tree / "etc/nuketown/s3")
            town.inside("persist", "init", "--store")
            town.drop_in("nuketown-leave@.service", f"[Service]\nTimeoutStopSec={DEADLINE}s\n")
            answers.unlink()
            first = town.boot(FIRST)
            assert silence.kept_waiting
            end = town.journal("_PID=1")
            answers.touch()
            second = town.boot(SECOND)
            with files.opened(files.open_beneath(town.top, "@agents-old")) as old:
                held = Path(f"/proc/self/fd/{old}").glob("*/ada/data/last")
                yield Nights(first, end, second, [path.read_text() for path in held])


def when(end: list[dict[str, str]], words: str) -> float:
    """When the journal says it last, in seconds."""
    return next(int(line["__MONOTONIC_TIMESTAMP"]) for line in reversed(end) if re.search(words, line["MESSAGE"])) / 1e6


def test_a_silent_store_delays_neither_the_human_nor_other_agents(nights: Nights) -> None:
    assert set(nights.first.states("early").values()) == {"active"}
    assert nights.first["vox"] == "0"
    for user in ("human", "vox"):
        assert set(nights.first.lets("who", user).values()) == {True}, nights.first["said"]


def test_who_needs_it_is_waited_for_with_a_closed_account(nights: Nights) -> None:
    assert nights.first["is.nuketown-restore@ada.service"] == "activating"
    assert nights.first["is.nuketown-agent@ada.target"] == "inactive"
    assert set(nights.first.lets("who", "ada").values()) == {False}
    assert nights.first["waiting.user@51100.service"] == "inactive"


def test_it_comes_up_by_itself_when_the_store_answers(nights: Nights) -> None:
    assert nights.first["answered"] == "0", nights.first["said"]
    assert set(nights.first.lets("answered", "ada").values()) == {True}
    assert nights.first["synced"] == "0"


def test_a_sync_that_is_told_to_end_ends_at_once(nights: Nights) -> None:
    status, seconds = nights.first["term"].split()
    assert status == "0"
    assert int(seconds) <= 5
    assert nights.first["here"] == "unsent unsent"


def test_a_last_sync_that_hangs_is_ended_at_its_deadline_and_the_shutdown_goes_on(nights: Nights) -> None:
    began = when(nights.end, "Stopping nuketown-leave@ada.service")
    late = when(nights.end, r"nuketown-leave@ada\.service: Stopping timed out")
    ended = when(nights.end, r"nuketown-leave@ada\.service: Failed with result")
    assert DEADLINE - 1 < late - began < DEADLINE + 4
    assert ended - late < 5
    assert when(nights.end, "Stopped nuketown-mount.service") > late


def test_what_was_not_sent_is_not_lost(nights: Nights) -> None:
    assert "unsent\n" in nights.aside
    assert nights.second["started"] == "0", nights.second["said"]
    assert nights.second["here"].split() == ["unsent", "unsent"], nights.second["said"]


def test_the_next_sync_sends_it(nights: Nights) -> None:
    assert nights.second["synced"] == "0", nights.second["said"]
    assert nights.second["sent"].split() == ["unsent", "unsent"]


def test_a_stop_by_hand_has_the_same_deadline_and_its_failure_is_told(nights: Nights) -> None:
    result, seconds = nights.second["stopped"].split()
    assert result == "timeout", nights.second["said"]
    assert DEADLINE - 1 <= int(seconds) < DEADLINE + 6
    assert nights.second["told"].startswith("nuketown: ada left without a last sync")
    assert "next: persist sync ada;" in nights.second["told"]
    assert set(nights.second.lets("left", "ada").values()) == {False}
