"""`persist status`: sizes, what would be lost, degraded paths, units, what was swept, agents gone from the spec."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from persist import account, ballast
from persist.status import sizes, units
from tests.machine.stores import with_store
from tests.machine.towns import ADA, AS_ADA, Town, as_agent, town
from town import btrfs, files, standing
from town.spec import Btrfs

__all__ = ["town"]
pytestmark = pytest.mark.root


@pytest.fixture(autouse=True)
def its_ballast(town: Town) -> None:
    """What `persist init` makes besides."""
    with btrfs.top_level(town.device) as top:
        ballast.make(top, Btrfs(town.device))


def _store(town: Town, ada: str, *, more: str = "") -> None:
    """A store, made."""
    with_store(town, ada, more=more)
    if not (town.base / "store").exists():
        assert town.persist("init", "--store").status == 0


def _all(town: Town, level: int = 0) -> dict[str, Any]:
    said = town.persist("status", "--json")
    assert (said.status, said.err) == (level, ""), said.out
    found: dict[str, Any] = json.loads(said.out)
    assert found["level"] == level
    return found


def _ada(town: Town, level: int = 0) -> dict[str, Any]:
    agent: dict[str, Any] = _all(town, level)["agents"][0]
    return agent


def test_each_directory_has_its_size_and_since_when_it_is_here(town: Town) -> None:
    town.write('["projects", { path = "scratch", required = false }]')
    before = time.time()
    town.persist("restore")
    (town.agents / "ada/projects/deep").mkdir()
    (town.agents / "ada/projects/deep/file").write_text("12345")
    projects, scratch = _ada(town)["directories"]
    assert projects["size"] == {"bytes": 5, "files": 1, "whole": True, "of": "now"}
    assert (scratch["size"]["bytes"], scratch["size"]["files"]) == (0, 0)
    assert time.strftime("%Y-%m-%dT%H", time.gmtime(before)) == projects["since"][:13]
    assert "projects  bound, made here (via bind, data), 5 B in 1 file, since 20" in town.persist("status").out


def test_a_declared_file_is_in_the_home_or_is_to_be_copied(town: Town) -> None:
    town.write('[{ path = ".config/tool.toml", type = "file" }]')
    town.persist("restore")
    home = town.agents / "ada"
    as_agent(
        AS_ADA, home, "import os; os.makedirs('.config', exist_ok=True); open('.config/tool.toml', 'w').write('12')"
    )
    assert _ada(town)["directories"][0]["state"] == "copied"
    assert _ada(town)["would_be_lost"]["files"] == 0
    town.persist("restore")
    assert _ada(town)["directories"][0]["size"]["bytes"] == 2
    town.boot("20261121T101500Z-4f")
    with files.opened(files.open_dir(town.agents)) as fd, files.opened(btrfs.create(fd, "ada")) as made:
        os.fchown(made, ADA, ADA)
        os.fchmod(made, 0o700)
    agent = _ada(town, 4)
    assert agent["directories"][0]["state"] == "not copied"
    assert agent["troubles"][0]["what"] == ".config/tool.toml is not copied"


def test_what_the_next_boot_takes_is_counted_as_lost_counts_it(town: Town) -> None:
    _store(town, '["projects", { path = "notes", via = "store", required = false }]')
    town.persist("restore")
    town.persist("sync")
    home = town.agents / "ada"
    as_agent(AS_ADA, home, "import os; open('loose', 'w').write('123'); os.makedirs('.cache/x'); "
             "open('.cache/x/y', 'w').write('1'); open('notes/kept', 'w').write('kept'); "
             "os.makedirs('.config/nuketown'); "
             "open('.config/nuketown/identity.toml', 'w').write('back by itself')")  # fmt: skip
    (home / "projects/file").write_text("kept")
    listed = json.loads(town.persist("lost", "ada", "--json").out)["agents"][0]
    found = _ada(town)["would_be_lost"]
    assert found == {"bytes": 4, "files": 2, "whole": True, "of": "now"}
    assert (found["bytes"], found["files"]) == (listed["bytes"], listed["files"])
    assert "  lost at the next boot: 4 B in 2 files (persist lost ada lists it)\n" in town.persist("status").out


def test_however_much_an_agent_made_the_report_takes_a_bounded_time(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    _store(town, '["projects"]')
    town.persist("restore")
    program = "import os\nfor n in range(3000): open(f'{n}', 'w').close()"
    as_agent(AS_ADA, town.agents / "ada/projects", program)
    as_agent(AS_ADA, town.agents / "ada", program)
    town.persist("sync")
    monkeypatch.setattr(sizes, "ALL", 0.0)
    monkeypatch.setattr(sizes, "LEAST", 0.0)
    agent = _ada(town)
    assert agent["would_be_lost"]["whole"] is False
    assert agent["would_be_lost"]["files"] < 3000
    assert agent["directories"][0]["size"] == {"bytes": 0, "files": 3000, "whole": True, "of": "last sync"}
    said = town.persist("status").out
    assert "0 B in 3,000 files at the last sync" in said
    assert "lost at the next boot: at least 0 B in " in said


def test_the_time_is_shared_out_among_the_looks() -> None:
    clock = sizes.Clock(4, 0.4)
    now = time.monotonic()
    assert clock.until() - now == pytest.approx(0.1, abs=0.02)
    for _ in range(10):
        assert clock.until() - time.monotonic() >= sizes.LEAST / 2


def test_from_when_data_is_stands_beside_where_it_came_from(town: Town) -> None:
    _store(town, '["projects"]')
    town.persist("restore")
    (town.agents / "ada/projects/file").write_text("1")
    town.persist("sync")
    snapshot = _ada(town)["last_sync"]["snapshot"]
    assert _ada(town)["directories"][0]["data"] is None
    origins = town.spec.state_dir / "origins/ada.json"
    table = {"how": "fetched", "snapshot": snapshot, "host": "h\x1b", "time": "2026-11-21T10:15:00Z"}
    origins.write_text(json.dumps({"projects": table}))
    data = _ada(town)["directories"][0]["data"]
    assert data == {"snapshot": snapshot, "host": "h\x1b", "time": "2026-11-21T10:15:00Z"}
    assert "\x1b" not in town.persist("status").out


def test_a_path_that_is_used_without_the_stores_word_needs_attention(town: Town) -> None:
    _store(town, '["projects"]')
    town.persist("restore")
    town.persist("sync")
    notes = town.spec.state_dir / "degraded"
    notes.mkdir(mode=0o700, exist_ok=True)
    note = {"projects": {"since": "2026-11-21T10:00:00+00:00", "why": "the store did not answer"}}
    (notes / "ada.json").write_text(json.dumps(note))
    agent = _ada(town, 3)
    assert agent["degraded"] == [{"path": "projects", **note["projects"]}]
    said = agent["troubles"][0]
    assert said["what"].startswith("projects: degraded since 2026-11-21T10:00:00+00:00: the copy on this machine")
    assert said["next"].startswith("persist sync --spec ")
    (notes / "ada.json").write_text("nonsense")
    assert "cannot be read" in _ada(town, 3)["degraded"][0]["why"]
    (notes / "ada.json").unlink()
    assert _ada(town)["degraded"] == []


def test_what_was_swept_at_this_boot_is_shown_and_what_stays_counts(town: Town) -> None:
    town.persist("restore")
    record = {"uid": ADA, "whole": True, "entries": 3, "bytes": 1200, "aside": 1, "failed": [], "left": [],
              "places": [{"place": "/tmp", "entries": 2}, {"place": "/var/mail", "entries": 1}]}  # fmt: skip

    def write(**changed: object) -> None:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        whole = {"version": 1, "boot": boot, "agents": {"ada": record | changed}}
        town.proof.with_name("swept.json").write_text(json.dumps(whole))

    write()
    assert _ada(town)["swept"]["entries"] == 3
    assert (
        "  swept    3 entries outside its home, 1.2 kB, in /tmp, /var/mail; 1 file set aside\n"
        in town.persist("status").out
    )
    left = {
        "place": "/tmp",
        "path": {"text": "x", "base64": "eA=="},
        "why": "holds what belongs to uid 0",
        "others": True,
    }
    write(left=[left])
    assert "1 thing outside its home not taken away: /tmp/x holds" in _ada(town, 3)["troubles"][0]["what"]
    write(whole=False, failed=["/tmp: not all could be removed"])
    trouble = _ada(town, 4)["troubles"][0]
    assert trouble["what"] == "what it left outside its home is not all gone: /tmp: not all could be removed"
    assert trouble["next"].endswith("/town.toml ada")


def test_an_account_is_open_or_closed_where_something_asks_for_that(
    town: Town, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(account, "OPEN", tmp_path / "open")
    town.persist("restore")
    assert _ada(town)["account"] is None
    (tmp_path / "open").write_text("vox\n")
    assert [agent["account"] for agent in _all(town)["agents"]] == ["closed", "open"]
    assert "  account  closed\n" in town.persist("status", "ada").out


SHOWN = """\
Id=nuketown-restore@ada.service
LoadState=loaded
ActiveState=failed
Result=exit-code

Id=nuketown-agent@ada.target
LoadState=loaded
ActiveState=inactive

Id=nuketown-sync@vox.service
LoadState=loaded
ActiveState=failed
Result=timeout

Id=nuketown-agent@vox.target
LoadState=loaded
ActiveState=active

Id=nuketown-tidy.service
LoadState=loaded
ActiveState=inactive
Result=success

Id=nuketown-failed@nuketown-restore@ada.service.service
LoadState=loaded
ActiveState=failed

Id=nuketown-gone@ada.service
LoadState=not-found
ActiveState=inactive
"""


@pytest.fixture
def systemctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A manager that says what the file `shown` says, and notes how often it was asked."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (tmp_path / "shown").write_text(SHOWN)
    program = programs / "systemctl"
    program.write_text(f'#!/bin/sh\necho "$*" >>{tmp_path}/asked\ncat {tmp_path}/shown\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setattr(units, "BOOTED", str(tmp_path))
    return tmp_path


def test_units_that_failed_are_named_with_what_helps_and_asked_for_once(town: Town, systemctl: Path) -> None:
    town.persist("restore")
    ada, vox = _all(town, 4)["agents"]
    assert ada["troubles"] == [
        {
            "level": 4,
            "what": "nuketown-restore@ada.service failed (exit-code)",
            "next": "journalctl -b -u nuketown-restore@ada.service says why; then: "
            "systemctl start nuketown-agent@ada.target",
        }
    ]
    assert [trouble["level"] for trouble in vox["troubles"]] == [3]
    assert [unit["unit"] for unit in ada["units"]] == ["nuketown-restore@ada.service", "nuketown-agent@ada.target"]
    assert (systemctl / "asked").read_text().count("\n") == 1


def test_a_unit_that_is_still_trying_and_a_target_not_reached_need_attention(town: Town, systemctl: Path) -> None:
    town.persist("restore")
    (systemctl / "shown").write_text(SHOWN.replace("=failed", "=activating"))
    what = [trouble["what"] for trouble in _ada(town, 3)["troubles"]]
    assert what == ["nuketown-restore@ada.service is not done yet, and what comes after it waits"]
    (systemctl / "shown").write_text(SHOWN.replace("=failed", "=active"))
    trouble = _ada(town, 3)["troubles"][0]
    assert trouble["what"] == "nuketown-agent@ada.target is not reached: the account is closed"
    assert trouble["next"] == "systemctl start nuketown-agent@ada.target"


def test_a_unit_of_the_town_that_failed_is_said_once(town: Town, systemctl: Path) -> None:
    town.persist("restore")
    (systemctl / "shown").write_text(
        "Id=nuketown-homes.service\nLoadState=loaded\nActiveState=failed\nResult=exit-code\n"
    )
    found = _all(town, 4)
    assert found["unit_troubles"][0]["what"] == "nuketown-homes.service failed (exit-code)"
    assert [agent["level"] for agent in found["agents"]] == [0, 0]
    assert "units:\n  broken:  nuketown-homes.service failed" in town.persist("status").out


def test_a_manager_that_does_not_answer_is_no_reason_to_wait(
    town: Town, systemctl: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(units, "_WAIT", 0.2)
    (systemctl / "bin/systemctl").write_text("#!/bin/sh\nexec sleep 60\n")
    town.persist("restore")
    assert _ada(town)["units"] == []


def _leave(town: Town) -> None:
    """Old was an agent: it left something everywhere."""
    _store(town, '["projects"]', more=f'[agents.old]\nuid = {ADA + 9}\npersist = ["projects"]\n')
    assert town.persist("restore").status == 0
    (town.agents / "old/projects/file").write_text("12345")
    assert town.persist("sync").status == 0
    town.boot("20261121T101500Z-4f")
    identities = town.base / "identities/old"
    identities.mkdir(parents=True)
    (town.base / "secrets").mkdir(exist_ok=True)
    (town.base / "secrets/agents.yaml").write_text("old:\n    ssh-key: ENC[]\nsops:\n    mac: x\n")
    _store(town, '["projects"]')
    town.persist("restore")


def test_an_agent_that_is_gone_from_the_spec_is_listed_with_all_it_left(town: Town) -> None:
    _leave(town)
    before = files_below(town.persisted)
    found = _all(town)["gone"]
    assert [agent["agent"] for agent in found] == ["old"]
    left = {thing["kind"]: thing for thing in found[0]["left"]}
    assert set(left) == {
        "persisted data", "kept homes", "records", "store", "public keys and documents", "secrets",
    }  # fmt: skip
    assert left["persisted data"]["size"]["bytes"] == 5
    assert left["kept homes"]["entries"] == 1
    assert "snapshot " in left["store"]["where"]
    said = town.persist("status").out
    assert "old: not in the spec any more; this is left of it, and nothing is deleted unasked\n" in said
    assert f"  persisted data  {town.persisted}/agents/old, 5 B in 1 file\n    next:  btrfs subvolume delete " in said
    assert files_below(town.persisted) == before
    assert "old" not in town.persist("status", "ada").out


def test_the_commands_for_what_is_gone_take_it_away(town: Town) -> None:
    _leave(town)
    for thing in _all(town)["gone"][0]["left"]:
        if thing["kind"] in ("persisted data", "records"):
            subprocess.run(["/bin/sh", "-c", thing["next"]], check=True, capture_output=True)
        if thing["kind"] == "public keys and documents":
            subprocess.run(["/bin/sh", "-c", thing["next"].partition("then: ")[2]], check=True, capture_output=True)
    left = [thing["kind"] for thing in _all(town)["gone"][0]["left"]]
    assert left == ["kept homes", "secrets"]
    assert _ada(town)["level"] == 0


def files_below(path: Path) -> list[str]:
    return sorted(os.path.join(above, name) for above, _, names in os.walk(path) for name in names)


def test_names_that_no_agent_can_have_and_files_are_no_agents(town: Town) -> None:
    town.persist("restore")
    agents = town.persisted / "agents"
    for name in (".hidden", "Upper", "with space"):
        (agents / name).mkdir()
    (agents / "file").touch()
    os.symlink("/etc", agents / "link")
    assert _all(town)["gone"] == []


def test_a_home_that_is_still_there_is_listed_until_the_next_boot(town: Town) -> None:
    town.persist("restore")
    with files.opened(files.open_dir(town.agents)) as fd:
        os.close(btrfs.create(fd, "old"))
    assert [thing["kind"] for thing in _all(town)["gone"][0]["left"]] == ["home"]


def test_without_btrfs_a_home_of_an_earlier_boot_is_broken_and_old_homes_are_counted(
    town: Town, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standing, "RUN", tmp_path / "run-nuketown")
    town.write("[]", btrfs_device="")
    town.persist("restore")
    assert _ada(town)["home"]["present"]
    (tmp_path / "run-nuketown/homes/ada").write_text("another boot\n")
    trouble = _ada(town, 4)["troubles"][0]
    assert trouble["what"] == f"{town.agents}/ada is a home of an earlier boot"
    assert trouble["next"].startswith("persist restore --spec ")
    for key in ("20261121T101500Z-4f", "20261122T101500Z-50"):
        (town.agents / ".old" / key / "old").mkdir(parents=True)
    (town.agents / ".old").chmod(0o700)
    town.persist("restore")
    assert [(thing["kind"], thing["entries"]) for thing in _all(town)["gone"][0]["left"]] == [("kept homes", 2)]
    assert town.persist("status").out.startswith("rollback: by rename: the town has no [town.btrfs]; ")


def test_a_report_loads_no_package_for_stores_and_keys(town: Town) -> None:
    town.persist("restore")
    program = f"""
import sys
from persist import cli, proof
from pathlib import Path
proof.PROOF = Path({str(town.proof)!r})
cli.main(["--spec", {str(town.file)!r}, "status", "--json"])
heavy = ["boto3", "botocore", "rich", "gnupg", "tomlkit", "cryptography", "ruamel", "zstandard", "pyrage", "blake3",
         "re2"]
print([name for name in heavy if name in sys.modules], file=sys.stderr)
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=Path.cwd())
    assert ran.stderr == "[]\n"
