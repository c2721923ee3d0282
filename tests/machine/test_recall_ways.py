"""`persist recall`: as whom, where, with which secrets, and how a copy ends; on real btrfs with real uids."""

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.machine import logins, resets, towns
from tests.machine.resets import AS_ADA, OTHER, UID, ok, runs, say, still
from tests.machine.towns import Town, as_agent, town
from tests.reach import PYTHON
from town import btrfs, files, idmap, mounts, process
from town.failure import ToolFailed
from town.process import Person

__all__ = ["still", "town"]
pytestmark = pytest.mark.root
JOSH, AS_JOSH = 41000, Person(41000, 41000)


@pytest.fixture
def old(still: Town) -> tuple[Town, str]:
    """A home with a program, a set-uid file, a file of root's, keys; and its name."""
    say(still, **{"notes.md": "hello", ".ssh/id_ed25519": "key", "x/.env": "T=1", "cfg/app.key": "BEGIN PRIVATE KEY"})
    as_agent(
        AS_ADA,
        resets.home(still),
        "import os; open('run', 'w').write('#!/bin/sh\\necho ran\\n'); os.chmod('run', 0o4755)",
    )
    (resets.home(still) / "roots").write_text("root's")
    (resets.home(still) / "roots").chmod(0o600)
    return still, json.loads(ok(still, "reset", "ada", "--json").out)["kept"]


@pytest.fixture
def josh(tmp_path: Path) -> Iterator[None]:
    """A human account on this machine, for the test alone; its way to the tests' directories."""
    with logins.etc(tmp_path / "etc", {}), _reachable(tmp_path):
        yield


@contextmanager
def _reachable(path: Path) -> Iterator[None]:
    above = [one for one in (path, *path.parents) if one.stat().st_uid == 0 and not one.stat().st_mode & 0o001]
    for one in above:
        one.chmod(one.stat().st_mode | 0o011)
    yield


def _copy(town: Town, name: str, *words: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(ok(town, "recall", name, "--json", *words).out)
    return found


def _path(copy: dict[str, object]) -> Path:
    path = copy["path"]
    assert isinstance(path, dict)
    return Path(path["text"])


def test_without_a_place_the_copy_lies_beside_the_living_homes_and_is_mounted_all_the_same(
    old: tuple[Town, str],
) -> None:
    town, name = old
    path = _path(_copy(town, name))
    assert path.is_relative_to(town.agents / ".recalled")
    assert (path / "notes.md").read_text() == "hello"
    found = mounts.at(path)
    assert found is not None
    assert {"nosuid", "nodev", "noexec"} <= found.options
    (path / "notes.md").write_text("changed")
    with pytest.raises(ToolFailed, match="Permission denied"):
        process.run(["ls", path], person=AS_ADA)


@pytest.mark.parametrize("to", [True, False])
def test_a_user_has_it_as_its_own_files_and_the_disk_keeps_the_agents(
    old: tuple[Town, str], josh: None, to: bool
) -> None:
    town, name = old
    copy = _copy(town, name, "--as", "josh", *(["--to", str(town.base / "look")] if to else []))
    path = _path(copy)
    assert copy["mapped_by"] == "mount"
    assert (path.stat().st_uid, path.stat().st_mode & 0o7777) == (JOSH, 0o700)
    assert (path / "notes.md").stat().st_uid == JOSH
    assert (path / "roots").stat().st_uid == 0
    process.run([PYTHON, "-c", "open('new', 'w').write(open('notes.md').read())"], person=AS_JOSH, cwd=path)
    for program in ("open('roots').read()", "open('run', 'rb'); import os; os.execv('./run', ['run'])"):
        with pytest.raises(ToolFailed):
            process.run([PYTHON, "-c", program], person=AS_JOSH, cwd=path)
    for person in (AS_ADA, Person(OTHER, OTHER)):
        with pytest.raises(ToolFailed):
            process.run(["ls", path], person=person)
    with btrfs.top_level(town.device) as top:
        (made,) = Path(f"/proc/self/fd/{top}/@agents/.recalled").glob("*/home/new")
        assert made.stat().st_uid == UID, "on the disk nothing changed hands"
    found = mounts.at(path)
    assert found is not None
    assert {"nosuid", "nodev", "noexec"} <= found.options


def test_where_the_kernel_has_no_such_mounts_the_copy_is_given_to_the_user(
    old: tuple[Town, str], josh: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    town, name = old

    @contextmanager
    def refused(*_words: object) -> Iterator[int]:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        yield 0

    monkeypatch.setattr(idmap, "namespace", refused)
    copy = _copy(town, name, "--as", "josh")
    path = _path(copy)
    assert copy["mapped_by"] == "owners"
    owners = {entry: (path / entry).lstat().st_uid for entry in ("notes.md", ".ssh", ".ssh/id_ed25519", "run", "roots")}
    assert owners == dict.fromkeys(owners, JOSH) | {"roots": 0}
    assert not (path / "run").stat().st_mode & 0o6000
    assert path.stat().st_uid == JOSH
    assert resets.kept(town, name, "notes.md") == "hello"
    ok(town, "recall", str(copy["name"]), "--replace")
    assert (resets.home(town) / "notes.md").stat().st_uid == UID, "given back to the agent"


def test_the_agent_itself_and_nobody_are_refused_as_users(old: tuple[Town, str], josh: None) -> None:
    town, name = old
    with Path("/etc/passwd").open("a") as file:
        file.write(f"ada:x:{UID}:{UID}::/nonexistent:/bin/sh\nvox:x:{OTHER}:{OTHER}::/nonexistent:/bin/sh\n")
    for user in ("nobody-at-all", "ada", str(UID), "99999999"):
        said = town.persist("recall", name, "--as", user)
        assert (said.status, said.out) == (2, ""), user
    said = town.persist("recall", name, "--as", "vox")
    assert said.status == 0
    assert "vox is an agent: it can read and change all" in said.err
    assert not (town.base / "run/nothing").exists()


def test_a_person_is_warned_of_programs_and_of_keys(old: tuple[Town, str]) -> None:
    town, name = old
    said = ok(town, "recall", name)
    assert "careful: an agent wrote this, and git, editors and shells run what lies in it" in said.err
    (line,) = [line for line in said.err.splitlines() if line.startswith("keys and logins are in it: ")]
    listed, _, cure = line.removeprefix("keys and logins are in it: ").partition("; ")
    assert (sorted(listed.split(", ")), cure) == (
        [".ssh", "cfg/app.key", "x/.env"],
        "--without-secrets leaves them out",
    )


def test_keys_and_logins_are_left_out_of_the_copy_alone(old: tuple[Town, str]) -> None:
    town, name = old
    copy = _copy(town, name, "--without-secrets")
    there = {str(path.relative_to(_path(copy))) for path in _path(copy).rglob("*") if path.is_file()}
    assert "notes.md" in there
    assert not there & {".ssh/id_ed25519", "x/.env", "cfg/app.key"}
    secrets = copy["secrets"]
    assert isinstance(secrets, dict)
    assert (secrets["left_out"], secrets["found"], secrets["whole"]) == (True, 3, True)
    assert resets.kept(town, name, ".ssh/id_ed25519") == "key"


def test_what_the_spec_calls_a_credential_is_one(still: Town) -> None:
    resets.write(still, '[{ path = "tokens", class = "credential" }, { path = ".cl", preset = "claude-code" }]')
    ok(still, "release", "ada")
    say(still, **{"tokens/t": "T", ".cl/.credentials.json": "{}", ".cl/settings.json": "{}"})
    name = json.loads(ok(still, "reset", "ada", "--json").out)["kept"]
    path = _path(_copy(still, name, "--without-secrets"))
    assert not (path / "tokens").exists()
    assert os.listdir(path / ".cl") == ["settings.json"]


def test_secrets_below_a_home_that_is_deeper_than_any_path_are_found_and_left_out(still: Town) -> None:
    deep = "import os\nfor _ in range(3000):\n    os.mkdir('d' * 20)\n    os.chdir('d' * 20)\n"
    program = f"{deep}open('id_rsa', 'w').write('k')"
    as_agent(AS_ADA, resets.home(still), program)
    os.mkfifo(resets.home(still) / "srv.pem")
    (resets.home(still) / ".ssh").symlink_to("/etc")
    name = json.loads(ok(still, "reset", "ada", "--json").out)["kept"]
    copy = _copy(still, name, "--without-secrets")
    secrets = copy["secrets"]
    assert isinstance(secrets, dict)
    assert secrets["found"] == 2
    assert Path("/etc/passwd").exists()
    assert not (_path(copy) / ".ssh").is_symlink()


@pytest.mark.parametrize("by", ["its own name", "the home's"])
def test_end_takes_a_copy_away_with_its_mounts(old: tuple[Town, str], by: str) -> None:
    town, name = old
    look = town.base / "look"
    copy = _copy(town, name, "--to", str(look))
    said = ok(town, "recall", str(copy["name"]) if by == "its own name" else name, "--end")
    assert said.out.splitlines() == [f"unmount   {look}", f"delete    {copy['name']}"]
    assert mounts.at(look) is None
    assert os.listdir(town.agents / ".recalled") == []
    assert resets.kept(town, name, "notes.md") == "hello"
    again = town.persist("recall", str(copy["name"]), "--end")
    assert again.status == 1
    assert "there is no recalled copy" in again.err


def test_end_of_one_of_several_wants_its_name(old: tuple[Town, str]) -> None:
    town, name = old
    names = {str(_copy(town, name)["name"]) for _ in range(2)}
    said = town.persist("recall", name, "--end")
    assert said.status == 1
    assert all(one in said.err for one in names)
    for one in names:
        ok(town, "recall", one, "--end")


def test_a_copy_in_which_somebody_works_does_not_end_and_names_them(old: tuple[Town, str], josh: None) -> None:
    town, name = old
    copy = _copy(town, name, "--as", "josh")
    with runs(town, uid=JOSH, cwd=_path(copy)) as there:
        for words in (["--end"], ["--end", "--dry-run"]):
            said = town.persist("recall", str(copy["name"]), *words)
            assert said.status == 75
            assert f"the copy is in use: {there.pid} (" in said.err
        assert mounts.at(_path(copy)) is not None
    dry = ok(town, "recall", str(copy["name"]), "--end", "--dry-run")
    assert dry.out.splitlines() == [f"unmount   {_path(copy)}", f"delete    {copy['name']}"]
    assert mounts.at(_path(copy)) is not None
    ok(town, "recall", str(copy["name"]), "--end")
    assert not _path(copy).exists()


def test_a_kept_home_cannot_be_ended(old: tuple[Town, str]) -> None:
    town, name = old
    assert town.persist("recall", name, "--end").status == 1
    assert resets.kept(town, name, "notes.md") == "hello"


def test_a_dry_run_says_as_whom_and_without_what(old: tuple[Town, str], josh: None) -> None:
    town, name = old
    before = towns.facts(town.agents)
    said = ok(town, "recall", name, "--as", "josh", "--without-secrets", "--dry-run")
    assert said.out.splitlines() == [
        f"snapshot  {name} into {town.agents}/.recalled", "remove    keys and logins from the copy",
        "mount     the copy below /run/nuketown/recalled (nosuid,nodev,noexec), its files as josh's",
    ]  # fmt: skip
    assert towns.facts(town.agents) == before


def test_a_snapshot_is_recalled_as_it_was(still: Town) -> None:
    say(still, a="1")
    ok(still, "snapshot", "ada", "--name", "good")
    say(still, a="2")
    path = _path(_copy(still, "ada@good"))
    assert (path / "a").read_text() == "1"
    with btrfs.top_level(still.device) as top:
        where = "@agents-snapshots/ada/good/home"
        with files.opened(files.open_beneath(top, where)) as fd:
            assert btrfs.info(fd).read_only


def test_homes_lists_the_copy_and_of_what_it_is(old: tuple[Town, str]) -> None:
    town, name = old
    copy = _copy(town, name)
    found = {one["name"]: one for one in json.loads(ok(town, "homes", "ada", "--json").out)["homes"]}
    assert found[str(copy["name"])]["kind"] == "recalled"
