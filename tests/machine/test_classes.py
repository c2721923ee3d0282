"""What a class means on the disk and in the store: caches stay here, credentials are live copies, never history's.

The preset `claude-code` has one of each: `.credentials.json`, `cache`, and `CLAUDE.md`, which is written at each boot.
"""

import os
import re
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from persist import live
from tests.machine import stores
from tests.machine.states import committed
from tests.machine.stores import with_store
from tests.machine.towns import ADA, AS_ADA, Said, Town, as_agent, town, undo
from town import files, kernel
from town.spec import Agent, Persist

__all__ = ["town"]
pytestmark = pytest.mark.root
CLAUDE = '[{{ path = ".claude", preset = "claude-code"{more} }}]'
TOKEN = '[{ path = "token", class = "credential", upload = true }, "projects"]'
DATA, LOGIN, CACHE, REMADE = "history.jsonl", ".credentials.json", "cache/models", "CLAUDE.md"


def given(town: Town, persist: str) -> Town:
    with_store(town, persist)
    assert town.persist("init", "--store").status == 0
    restored(town)
    return town


def claude(town: Town, more: str = "") -> Town:
    return given(town, CLAUDE.format(more=more))


def restored(town: Town, *words: str) -> Said:
    said = town.persist("restore", "ada", *words)
    assert said.status == 0, said
    return said


def writes(town: Town, text: str, *names: str, base: str = ".claude") -> None:
    program = f"""
import os
for name in {names!r}:
    path = os.path.join({base!r}, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path + ".new", "w") as file:
        file.write({text!r})
    os.chmod(path + ".new", 0o600)
    os.rename(path + ".new", path)
"""
    as_agent(AS_ADA, town.agents / "ada", program)


def synced(town: Town) -> str:
    """The short id of the state."""
    said = town.persist("sync", "ada")
    assert said.status == 0, said
    return said.out.split("snapshot ")[1].split()[0]


def reads(town: Town, *names: str, base: str = ".claude") -> list[str]:
    home = town.agents / "ada" / base
    return [(home / name).read_text() if (home / name).exists() else "-" for name in names]


def in_store(town: Town, path: str = ".claude") -> set[str]:
    """Names of what the newest state holds, at any depth."""
    into = town.base / f"look-{os.urandom(4).hex()}"
    with stores.fetched(town, into, path) as there:
        return {name for _, directories, names in os.walk(there) for name in (*directories, *names)}


def as_new_machine(town: Town) -> None:
    """Nothing of ada lies here, and nothing is known of any sync."""
    shutil.rmtree(town.persisted / ".nuketown/copies", ignore_errors=True)
    shutil.rmtree(town.persisted / ".nuketown/index", ignore_errors=True)
    town.boot(f"20261121T000000Z-{os.urandom(4).hex()}")
    shutil.rmtree(town.persisted / "agents")


def test_a_login_a_cache_and_what_is_written_anew_never_go_to_the_store(town: Town) -> None:
    claude(town)
    writes(town, "x", DATA, LOGIN, CACHE, REMADE, "projects/p/session.jsonl")
    synced(town)
    assert in_store(town) == {DATA, "projects", "p", "session.jsonl"}


def test_a_login_goes_there_where_the_spec_says_upload(town: Town) -> None:
    claude(town, ", upload = true")
    writes(town, "x", DATA, LOGIN, CACHE, REMADE)
    synced(town)
    assert in_store(town) == {DATA, LOGIN}


def test_a_login_that_was_uploaded_leaves_the_store_with_the_word(town: Town) -> None:
    claude(town, ", upload = true")
    writes(town, "x", DATA, LOGIN)
    synced(town)
    with_store(town, CLAUDE.format(more=""))
    synced(town)
    assert in_store(town) == {DATA}


def test_they_all_stay_on_this_machine_over_a_reboot(town: Town) -> None:
    claude(town)
    writes(town, "x", DATA, LOGIN, CACHE, REMADE)
    synced(town)
    town.boot("20261121T000000Z-boot")
    restored(town)
    assert reads(town, DATA, LOGIN, CACHE, REMADE) == ["x"] * 4


@pytest.mark.parametrize("via", ["both", "store"])
def test_an_older_state_leaves_the_live_login_and_the_caches_in_use(town: Town, via: str) -> None:
    claude(town, f', via = "{via}", upload = true')
    writes(town, "old", DATA, LOGIN)
    old = synced(town)
    writes(town, "new", DATA, LOGIN, CACHE, REMADE)
    synced(town)
    restored(town, "--at", old)
    assert reads(town, DATA, LOGIN, CACHE, REMADE) == ["old", "new", "new", "new"]
    found = (town.agents / "ada/.claude" / LOGIN).stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o7777, found.st_nlink) == (ADA, ADA, 0o600, 1)


def test_an_older_state_gives_its_own_login_when_asked(town: Town) -> None:
    claude(town, ", upload = true")
    writes(town, "old", DATA, LOGIN)
    old = synced(town)
    writes(town, "new", DATA, LOGIN, CACHE)
    synced(town)
    restored(town, "--at", old, "--with-credentials")
    assert reads(town, DATA, LOGIN, CACHE) == ["old", "old", "new"]


def test_asked_for_a_login_that_the_state_does_not_hold_the_live_one_stays(town: Town) -> None:
    claude(town)
    writes(town, "old", DATA)
    old = synced(town)
    writes(town, "new", LOGIN)
    restored(town, "--at", old, "--with-credentials")
    assert reads(town, LOGIN) == ["new"]


def test_on_an_empty_machine_history_brings_no_login_unless_asked(town: Town) -> None:
    claude(town, ", upload = true")
    writes(town, "old", DATA, LOGIN)
    old = synced(town)
    writes(town, "new", DATA, LOGIN)
    synced(town)
    for words, wanted in (((), "new"), (("--at", old), "-"), (("--at", old, "--with-credentials"), "old")):
        as_new_machine(town)
        restored(town, *words)
        assert reads(town, LOGIN) == [wanted], words


def test_a_credential_that_was_uploaded_once_does_not_come_back_after_the_word_is_gone(town: Town) -> None:
    claude(town, ", upload = true")
    writes(town, "x", DATA, LOGIN)
    synced(town)
    with_store(town, CLAUDE.format(more=""))
    as_new_machine(town)
    restored(town)
    assert reads(town, DATA, LOGIN) == ["x", "-"]


def test_the_first_sync_after_a_restore_at_finds_the_state_as_it_lies_there(town: Town) -> None:
    claude(town, ", upload = true")
    writes(town, "old", DATA, LOGIN)
    old = synced(town)
    writes(town, "new", DATA, LOGIN)
    synced(town)
    restored(town, "--at", old)
    synced(town)
    into = town.base / "look"
    with stores.fetched(town, into, ".claude") as there:
        assert [(there / name).read_text() for name in (DATA, LOGIN)] == ["old", "new"]


def test_the_directory_keeps_the_time_that_the_state_says(town: Town) -> None:
    claude(town)
    writes(town, "old", DATA)
    as_agent(AS_ADA, town.agents / "ada", "import os; os.utime('.claude', ns=(0, 10**18))")
    old = synced(town)
    writes(town, "new", LOGIN, CACHE)
    restored(town, "--at", old)
    assert (town.agents / "ada/.claude").stat().st_mtime_ns == 10**18


def test_installed_keys_stay_when_the_directory_that_holds_them_is_brought_back(town: Town) -> None:
    given(town, '[".ssh", ".gnupg"]')
    writes(town, "old", "config", base=".ssh")
    writes(town, "old", "trustdb", base=".gnupg")
    old = synced(town)
    writes(town, "key", "id_ed25519", "config", base=".ssh")
    writes(town, "key", "private-keys-v1.d/A.key", "private-keys-v1.d/B.key", base=".gnupg")
    restored(town, "--at", old)
    assert reads(town, "id_ed25519", "config", base=".ssh") == ["key", "old"]
    names = ("private-keys-v1.d/A.key", "private-keys-v1.d/B.key", "trustdb")
    assert reads(town, *names, base=".gnupg") == ["key", "key", "old"]
    assert (town.agents / "ada/.gnupg/private-keys-v1.d").stat().st_uid == ADA


def test_a_whole_credential_is_never_historys_unless_asked(town: Town) -> None:
    given(town, TOKEN)
    writes(town, "old", "token/t", "projects/p", base=".")
    old = synced(town)
    writes(town, "new", "token/t", "projects/p", base=".")
    assert in_store(town, "token") == {"t"}
    restored(town, "--at", old)
    assert reads(town, "token/t", "projects/p", base=".") == ["new", "old"]
    restored(town, "--at", old, "--with-credentials")
    assert reads(town, "token/t", base=".") == ["old"]


def test_a_login_of_the_agent_that_is_a_link_stays_a_link_and_leads_root_nowhere(town: Town) -> None:
    claude(town)
    writes(town, "x", DATA)
    old = synced(town)
    as_agent(AS_ADA, town.agents / "ada", f"import os; os.symlink('/etc/shadow', '.claude/{LOGIN}')")
    restored(town, "--at", old)
    path = town.agents / "ada/.claude" / LOGIN
    assert (os.readlink(path), path.lstat().st_uid) == ("/etc/shadow", ADA)


@pytest.mark.parametrize(
    "program",
    [
        "os.link('.claude/.credentials.json', '.claude/again')",
        "os.truncate('.claude/.credentials.json', 1 << 30)",
        "os.unlink('.claude/.credentials.json'); os.mkdir('.claude/.credentials.json')\n"
        "for number in range(1001): open(f'.claude/.credentials.json/{number}', 'w').close()",
    ],
)
def test_what_cannot_be_carried_stops_the_restore_before_anything_gives_way(town: Town, program: str) -> None:
    claude(town)
    writes(town, "old", DATA)
    old = synced(town)
    writes(town, "new", DATA, LOGIN)
    as_agent(AS_ADA, town.agents / "ada", f"import os\n{program}")
    said = town.persist("restore", "ada", "--at", old)
    assert said.status == 1
    assert reads(town, DATA) == ["new"]
    assert LOGIN in said.err


def plain(town: Town, more: str) -> None:
    """A host where nothing rolls homes back, on which `.claude` lies in the home."""
    undo(town.agents)
    kernel.mount("tmpfs", str(town.agents), "tmpfs", 0, "mode=0755")
    with_store(town, CLAUDE.format(more=f', via = "store"{more}'))
    town.file.write_text(re.sub(r"\[town\.btrfs\]\ndevice = .*\n", "", town.file.read_text()))
    assert town.persist("init", "--store").status == 0
    restored(town)


@pytest.mark.parametrize("more", ["", ", upload = true"])
def test_where_nothing_rolls_back_the_login_of_the_home_before_stays_in_use(town: Town, more: str) -> None:
    plain(town, more)
    writes(town, "synced", DATA, LOGIN)
    synced(town)
    writes(town, "live", LOGIN, CACHE)
    for _ in range(2):
        shutil.rmtree(town.base / "run")  # what a reboot takes away
        restored(town)
        assert reads(town, DATA, LOGIN, CACHE) == ["synced", "live", "live"]


def test_a_newer_state_of_another_machine_leaves_the_login_and_the_caches_of_this_one_in_use(town: Town) -> None:
    claude(town, ', via = "store"')
    writes(town, "live", LOGIN, CACHE)
    writes(town, "mine", DATA)
    other = town.persisted / "other"
    other.mkdir()
    (other / DATA).write_text("theirs")
    for path in (other, other / DATA):
        os.chown(path, ADA, ADA)
    assert town.persist("sync", "ada", "--release").status == 0
    committed(town, {".claude": other}, generation=9, time=datetime.now(UTC))
    town.boot("20261121T000000Z-boot")
    restored(town)
    assert reads(town, DATA, LOGIN, CACHE) == ["theirs", "live", "live"]


@pytest.fixture
def pair(town: Town) -> Iterator[tuple[Agent, Persist, int, int]]:
    """ada, her `.claude`, that directory with a login and a cache in it, and one that was fetched; both open."""
    claude(town)
    writes(town, "live", LOGIN, CACHE)
    fetched = town.agents / "fetched"
    fetched.mkdir(mode=0o700)
    agent = town.spec.agent("ada")
    with (
        files.opened(files.open_dir(town.agents / "ada/.claude")) as live_,
        files.opened(files.open_dir(fetched)) as inside,
    ):
        yield agent, agent.persist[0], live_, inside


def held(directory: int, name: str) -> str:
    with files.opened(files.open_beneath(directory, name, os.O_RDONLY)) as fd:
        return files.read_fd(fd, 100, name).decode()


def test_a_login_is_in_what_was_fetched_before_that_is_shown(pair: tuple[Agent, Persist, int, int]) -> None:
    agent, entry, before, inside = pair
    live.carry(agent, entry, before, inside)
    assert (held(inside, LOGIN), held(before, LOGIN)) == ("live", "live")


def test_a_login_that_rotates_while_it_is_carried_is_the_new_one(
    town: Town, pair: tuple[Agent, Persist, int, int]
) -> None:
    agent, entry, before, inside = pair
    carried = live.lacking(entry, inside)
    live.carry(agent, entry, before, inside)
    writes(town, "rotated", LOGIN)
    live.settle(agent, entry, before, inside, carried)
    assert held(inside, LOGIN) == "rotated"


def test_a_cache_is_no_reason_to_ask_the_store(town: Town) -> None:
    with_store(town, '[{ path = "models", class = "cache" }]')  # no store was made
    restored(town)
    writes(town, "x", "m", base="models")
    town.boot("20261121T000000Z-boot")
    restored(town)
    assert reads(town, "m", base="models") == ["x"]
    assert not Path(town.base / "store").exists()
