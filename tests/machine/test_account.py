"""The gate before an agent's account, and the account itself: PAM's real answer to every way of logging in."""

import json
import multiprocessing
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from identity import installed
from persist import account, cli, swept
from tests.machine import logins, towns
from tests.machine.towns import ADA, VOX, Town, town
from town import bootid, btrfs, files, standing, strays

pytestmark = pytest.mark.root
__all__ = ["town"]


@pytest.fixture(autouse=True)
def run() -> Iterator[None]:
    """Nobody is open yet."""
    shutil.rmtree(account.OPEN.parent, ignore_errors=True)
    account.OPEN.parent.mkdir()
    yield
    shutil.rmtree(account.OPEN.parent)


@pytest.fixture
def ready(town: Town, monkeypatch: pytest.MonkeyPatch) -> Town:
    """A town where ada has all that an agent needs. It is swept where nobody else has anything."""
    places = town.base / "strays.toml"
    places.write_text(f'[[place]]\npath = "{town.base}/nowhere"\nname = "nowhere"\n')
    monkeypatch.setattr(strays, "FILE", places)
    town.write('["projects", { path = "cache", class = "cache", required = false }]')
    assert town.persist("restore").status == 0
    _swept(whole=True)
    for name in ("ada", "vox"):
        standing.note(standing.INSTALLED, name)
    return town


def _swept(*, whole: bool) -> None:
    """What a sweep leaves in /run: a real one would go through this machine's own /tmp."""
    with swept.alone() as directory:
        swept.record(directory, {"ada": {"uid": ADA, "whole": whole}, "vox": {"uid": VOX, "whole": True}})


def opened() -> str:
    return account.OPEN.read_text()


def lacking(town: Town, says: str, cure: str) -> None:
    """Ada stays out, and hears why and what to type."""
    said = town.persist("account", "open", "ada")
    assert said.status == 1
    assert "persist: error: ada stays out: " in said.err
    assert says in said.err
    hint = said.err.partition("hint: ")[2].replace(f" --spec {town.file}", "")
    assert hint.startswith(cure), hint
    assert hint.endswith("systemctl start nuketown-agent@ada.target\n"), hint
    assert "ada" not in account.names()


def test_an_agent_that_has_all_it_needs_is_opened_and_closed_again(ready: Town) -> None:
    assert ready.persist("account", "open", "ada").status == 0
    assert opened() == "ada\n"
    assert ready.persist("account", "open", "vox").status == 0
    assert opened() == "ada\nvox\n"
    found = account.OPEN.stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o7777) == (0, 0, 0o644)
    assert ready.persist("account", "open", "ada").status == 0
    assert account.OPEN.stat().st_ino == found.st_ino, "a second run changes nothing"
    assert ready.persist("account", "close", "ada").status == 0
    assert opened() == "vox\n"


def test_an_agent_without_a_home_stays_out(ready: Town) -> None:
    towns.undo(ready.agents / "ada")
    shutil.rmtree(ready.agents / "ada")
    lacking(ready, f"{ready.agents}/ada, its home, is not there", "persist restore ada && ")


def test_an_agent_whose_required_directory_is_missing_stays_out(ready: Town) -> None:
    towns.undo(ready.agents / "ada/projects")
    lacking(ready, "projects is not in its place", "persist restore ada && ")


def test_a_directory_that_is_not_required_keeps_nobody_out(ready: Town) -> None:
    towns.undo(ready.agents / "ada/cache")
    assert ready.persist("account", "open", "ada").status == 0


def test_an_agent_that_was_not_swept_stays_out(ready: Town) -> None:
    _swept(whole=False)
    lacking(ready, "could not all be taken away", "persist sweep ada && ")
    swept.file().unlink()
    lacking(ready, "was not swept at this boot", "persist sweep ada && ")


def test_an_agent_whose_identity_was_not_installed_stays_out(ready: Town) -> None:
    standing.forget(standing.INSTALLED, "ada")
    lacking(ready, "its identity was not installed at this boot", "identity install ada && ")


def test_what_comes_over_what_was_installed_keeps_its_agent_out_until_that_is_installed_again(ready: Town) -> None:
    there = installed.Record({".config/claude/settings.json": "0" * 64})
    installed.record(ready.spec, ready.spec.agent("ada"), there)
    ready.write('["projects", "notes", ".config/git"]')
    assert ready.persist("restore").status == 0
    assert ready.persist("account", "open", "ada").status == 0  # nothing of it lay there
    ready.write('["projects", "notes", ".config/git", ".config/claude"]')
    assert ready.persist("restore").status == 0
    lacking(ready, "its identity was not installed at this boot", "identity install ada && ")
    standing.note(standing.INSTALLED, "ada")
    assert ready.persist("restore").status == 0
    assert ready.persist("account", "open", "ada").status == 0


def test_a_record_that_cannot_be_read_is_of_what_may_lie_anywhere(ready: Town) -> None:
    record = ready.spec.state_dir / "installed/ada.json"
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_text("{")
    ready.write('["projects", "notes"]')
    assert ready.persist("restore").status == 0
    lacking(ready, "its identity was not installed at this boot", "identity install ada && ")


def test_a_home_that_was_made_anew_has_nothing_installed(ready: Town) -> None:
    towns.undo(ready.agents / "ada")
    with files.opened(files.open_dir(ready.agents)) as agents:
        btrfs.delete(agents, "ada")
    assert ready.persist("restore").status == 0
    lacking(ready, "its identity was not installed at this boot", "identity install ada && ")


def test_all_that_is_missing_is_said_at_once(ready: Town) -> None:
    standing.forget(standing.INSTALLED, "ada")
    towns.undo(ready.agents / "ada/projects")
    lacking(ready, "projects is not in its place; its identity", "persist restore ada && identity install ada && ")


def test_an_agent_that_became_unready_is_closed(ready: Town) -> None:
    assert ready.persist("account", "open", "ada").status == 0
    standing.forget(standing.INSTALLED, "ada")
    assert ready.persist("account", "open", "ada").status == 1
    assert opened() == ""


def test_a_home_without_a_proof_of_this_boot_opens_no_account(ready: Town) -> None:
    ready.prove(boot_id="00000000-0000-4000-8000-000000000000")
    said = ready.persist("account", "open", "ada")
    assert said.status == 1
    assert "the proof of the rollback does not fit: it is of boot 00000000-" in said.err
    assert account.names() == ()


def test_a_person_may_open_it_all_the_same(ready: Town) -> None:
    standing.forget(standing.INSTALLED, "ada")
    said = ready.persist("account", "open", "ada", "--force")
    assert said.status == 0
    assert "warning: ada: opened all the same: its identity was not installed at this boot" in said.err
    assert opened() == "ada\n"


@pytest.mark.parametrize("noted", ["", "00000000-0000-4000-8000-000000000000\n", None])
def test_without_a_rollback_a_home_of_an_earlier_boot_opens_no_account(ready: Town, noted: str | None) -> None:
    ready.write('["projects"]', btrfs_device="")
    note = standing.RUN / "homes/ada"
    note.parent.mkdir(exist_ok=True)
    note.unlink(missing_ok=True)
    if noted is not None:
        note.write_text(noted)
    lacking(ready, f"{ready.agents}/ada is no home of this boot", "persist restore ada && ")
    note.write_text(f"{bootid.text()}\n")
    assert ready.persist("account", "open", "ada").status == 0


@pytest.mark.parametrize("what", ["note", "directory"])
def test_a_note_that_others_could_have_written_is_not_believed(ready: Town, what: str) -> None:
    os.chmod(standing.RUN / "installed" / ("ada" if what == "note" else ""), 0o777)
    lacking(ready, "its identity was not installed at this boot", "identity install ada && ")


def test_the_list_says_who_is_open(ready: Town) -> None:
    ready.persist("account", "open", "vox")
    said = ready.persist("account")
    assert said.out == "ada  closed\nvox  open\n"
    assert "note: PAM does not ask who is open on this machine" in said.err
    listed = json.loads(ready.persist("account", "--json").out)
    assert listed == {"rule": False, "agents": [{"name": "ada", "open": False}, {"name": "vox", "open": True}]}


def test_names_that_the_spec_does_not_have_go_with_the_next_change(ready: Town) -> None:
    account.OPEN.write_text("gone\nvox\n")
    assert "note: gone is open and no agent of the spec" in ready.persist("account").err
    ready.persist("account", "open", "ada")
    assert opened() == "ada\nvox\n"


def test_two_hundred_accounts_opened_at_once_are_all_open(ready: Town) -> None:
    names = [f"a{number}" for number in range(200)]
    text = "".join(f"[agents.{name}]\nuid = {45000 + number}\n" for number, name in enumerate(names))
    ready.file.write_text(ready.file.read_text() + text)
    spec = ready.spec
    with multiprocessing.get_context("fork").Pool(8) as pool:
        pool.starmap(_open, [(spec, name) for name in names])
    assert set(account.names()) == set(names)


def _open(spec: account.Spec, name: str) -> None:
    account.change(spec, spec.agent(name), opened=True)


def test_a_verb_without_its_agent_and_one_for_nobody_are_wrong_usage(ready: Town) -> None:
    assert ready.persist("account", "open").status == 2
    assert ready.persist("account", "open", "nobody").status == 2


# ---- PAM


@pytest.fixture
def machine(ready: Town, tmp_path: Path) -> Iterator[Town]:
    """This machine with the accounts of the town, after `persist install`."""
    with logins.etc(tmp_path / "etc", {"ada": ADA, "vox": VOX}):
        said = ready.persist("install", "--initrd", "none")
        assert said.status == 0, said.err
        yield ready


def _by(user: str) -> set[str]:
    """The ways of logging in that are open to a user."""
    return {service for service in logins.ASKED if logins.let_in(service, user)}


def test_no_login_of_an_agent_before_it_is_open_and_none_after(machine: Town) -> None:
    every = set(logins.ASKED)
    assert (_by("ada"), _by("vox")) == (set(), set())
    machine.persist("account", "open", "ada")
    assert (_by("ada"), _by("vox")) == (every, set())
    machine.persist("account", "close", "ada")
    assert (_by("ada"), _by("vox")) == (set(), set())


def test_nobody_else_is_kept_out_whatever_becomes_of_our_files(machine: Town) -> None:
    every = set(logins.ASKED)
    assert (_by(logins.HUMAN), _by("root")) == (every, every)
    for file in (account.OPEN, Path("/etc/nuketown/agents")):
        file.unlink(missing_ok=True)
        assert (_by(logins.HUMAN), _by("root")) == (every, every)


def test_roots_own_su_is_refused_until_the_account_is_open(machine: Town) -> None:
    assert logins.su("ada") == 1
    assert logins.su("ada", "-") == 1
    assert logins.su(logins.HUMAN) == 0
    machine.persist("account", "open", "ada")
    assert logins.su("ada") == 0


def test_an_agent_that_could_not_be_made_ready_is_let_in_by_force_alone(machine: Town) -> None:
    standing.forget(standing.INSTALLED, "ada")
    assert machine.persist("account", "open", "ada").status == 1
    assert logins.su("ada") == 1
    machine.persist("account", "open", "ada", "--force")
    assert logins.su("ada") == 0


def test_a_list_that_others_may_write_to_lets_nobody_in(machine: Town) -> None:
    machine.persist("account", "open", "ada")
    account.OPEN.chmod(0o666)
    assert not logins.let_in("su", "ada")
    assert logins.let_in("su", logins.HUMAN)


def test_the_rule_stays_when_debian_writes_the_file_again(machine: Town) -> None:
    common = Path("/etc/pam.d/common-account")
    subprocess.run(["pam-auth-update", "--package"], check=True, capture_output=True)
    subprocess.run(["pam-auth-update", "--force", "--package"], check=True, capture_output=True)
    assert 'rule": true' in machine.persist("account", "--json").out
    assert not logins.let_in("su", "ada")
    assert logins.let_in("su", logins.HUMAN)
    assert machine.persist("uninstall").status == 0
    assert "nuketown" not in common.read_text()
    assert logins.let_in("su", "ada")


def test_the_rule_is_seen_in_the_list_of_accounts(machine: Town) -> None:
    assert "PAM does not ask" not in machine.persist("account").err


def test_a_machine_whose_spec_has_another_agent_then_asks_for_that_one_too(machine: Town) -> None:
    machine.write('["projects"]')
    machine.file.write_text(machine.file.read_text().replace("[agents.vox]", "[agents.eve]"))
    assert cli.main(["--spec", str(machine.file), "install", "--initrd", "none"]) == 0
    assert Path("/etc/nuketown/agents").read_text() == "ada\neve\n"
    assert logins.let_in("su", "vox"), "no agent any more"
