"""What an agent persisted is in a recalled copy of a snapshot or an import, at its paths; how such copies end."""

import errno
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import pytest

from demo import loopback
from tests.machine import resets, towns
from tests.machine.resets import AS_ADA, UID, ok, say, still
from tests.machine.test_recall_ways import AS_JOSH, JOSH, josh
from tests.machine.towns import Town, as_agent, town
from tests.reach import PYTHON
from town import btrfs, idmap, kernel, mounts, process
from town.failure import ToolFailed

__all__ = ["josh", "still", "town"]
pytestmark = pytest.mark.root
HARD = {"nosuid", "nodev", "noexec"}


@pytest.fixture
def kept(still: Town) -> Town:
    """ada@keepme holds a plan and a note, both persisted; since then the agent removed the one, changed the other."""
    say(still, **{"projects/plan.md": "then", "projects/.env": "T=1", "notes/deep/n": "then", "scratch": "then"})
    ok(still, "snapshot", "ada", "--name", "keepme")
    as_agent(AS_ADA, resets.home(still), "import os; os.unlink('projects/plan.md')")
    say(still, **{"notes/deep/n": "now", "scratch": "now"})
    return still


def _recall(town: Town, name: str, *words: str) -> tuple[Path, dict[str, object]]:
    told: dict[str, object] = json.loads(ok(town, "recall", name, "--json", *words).out)
    path = told["path"]
    assert isinstance(path, dict)
    return Path(path["text"]), told


@contextmanager
def _top(town: Town) -> Iterator[Path]:
    """The top level, as root looks at it."""
    with btrfs.top_level(town.device) as top:
        yield Path(f"/proc/self/fd/{top}")


def _copies(town: Town) -> list[str]:
    return os.listdir(town.agents / ".recalled")


@pytest.mark.parametrize("to", [True, False])
def test_what_was_persisted_is_in_the_copy_writable_and_the_snapshot_stays(kept: Town, to: bool) -> None:
    look, told = _recall(kept, "ada@keepme", *(["--to", str(kept.base / "look")] if to else []))
    assert told["persisted"] == ["projects", "notes/deep"]
    assert (look / "projects/plan.md").read_text() == "then"
    assert (look / "notes/deep/n").read_text() == "then"
    assert (look / "projects").stat().st_uid == UID
    for path in (look, look / "projects", look / "notes/deep"):
        found = mounts.at(path)
        assert found is not None, path
        assert found.options >= HARD
        assert "rw" in found.options
    (look / "projects/plan.md").write_text("repaired")
    with _top(kept) as top:
        assert (top / "@agents-snapshots/ada/keepme/persisted/projects/plan.md").read_text() == "then"
    assert not (resets.home(kept) / "projects/plan.md").exists(), (
        "the living home and what it persists are as they were"
    )
    with pytest.raises(ToolFailed, match="Permission denied"):
        process.run(["ls", look / "projects"], person=AS_ADA)


def test_a_person_hears_what_is_in_it_and_how_it_ends(kept: Town) -> None:
    look = kept.base / "look"
    said = ok(kept, "recall", "ada@keepme", "--to", str(look))
    assert "in it as it was persisted then, each a mount of its own: projects, notes/deep\n" in said.err
    assert "keys and logins are in it: projects/.env;" in said.err
    assert f"umount -R {look}," in said.err
    ended = ok(kept, "recall", "ada@keepme", "--end").out.splitlines()
    assert sorted(ended[:2]) == [f"unmount   {look}/notes/deep", f"unmount   {look}/projects"]
    assert ended[2] == f"unmount   {look}"
    assert mounts.at(look) is None
    assert _copies(kept) == []


def test_a_dry_run_names_what_was_persisted(kept: Town) -> None:
    said = ok(kept, "recall", "ada@keepme", "--dry-run").out.splitlines()
    assert said[2:] == [f"mount     {path} in it, as it was persisted then" for path in ("projects", "notes/deep")]
    assert not (kept.agents / ".recalled").exists()


@pytest.mark.parametrize("maps", [True, False])
def test_a_user_has_also_that_as_its_own(kept: Town, josh: None, maps: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def refused(*_words: object) -> Iterator[int]:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        yield 0

    if not maps:
        monkeypatch.setattr(idmap, "namespace", refused)
    look, told = _recall(kept, "ada@keepme", "--as", "josh")
    assert told["mapped_by"] == ("mount" if maps else "owners")
    assert {(look / path).stat().st_uid for path in ("projects", "projects/plan.md", "notes/deep/n")} == {JOSH}
    process.run([PYTHON, "-c", "open('projects/new', 'w').write(open('scratch').read())"], person=AS_JOSH, cwd=look)
    with _top(kept) as top:
        (made,) = (top / "@agents/.recalled").glob("*/persisted/projects/new")
        assert made.stat().st_uid == (UID if maps else JOSH)


def test_keys_and_logins_are_left_out_of_it_too(still: Town) -> None:
    resets.write(still, '["projects", { path = "tokens", class = "credential" }]')
    ok(still, "restore", "ada")
    say(still, **{"projects/.env": "T=1", "projects/app/.npmrc": "_authToken=x", "projects/work": "1", "tokens/t": "T"})
    (still.persisted / "agents/ada/undeclared").write_text("T")
    ok(still, "snapshot", "ada", "--name", "one")
    look, told = _recall(still, "ada@one", "--without-secrets")
    assert told["persisted"] == ["projects"]
    assert sorted(path.name for path in (look / "projects").rglob("*")) == ["app", "work"]
    assert not (look / "tokens").exists()
    with _top(still) as top:
        (entry,) = (top / "@agents/.recalled").iterdir()
        assert os.listdir(entry / "persisted") == ["projects"], "nor does it lie beside the copy"
        assert (top / "@agents-snapshots/ada/one/persisted/tokens/t").read_text() == "T"
    secrets = told["secrets"]
    assert isinstance(secrets, dict)
    assert sorted(each["text"] for each in secrets["first"]) == ["projects/.env", "projects/app/.npmrc", "tokens"]


@pytest.mark.parametrize("where", ["under persist_dir", "in the home"])
def test_where_no_subvolume_was_kept_its_files_are_copied(still: Town, where: str, tmp_path: Path) -> None:
    if where == "under persist_dir":  # laid out by something else: a plain directory
        ok(still, "release", "ada")
        with btrfs.top_level(still.device) as top:
            process.run(["cp", "-a", "ada", "plain"], cwd=still.persisted / "agents")
            persisted = os.open(f"/proc/self/fd/{top}/@persist/agents", os.O_RDONLY)
            btrfs.delete(persisted, "ada")
            os.rename("plain", "ada", src_dir_fd=persisted, dst_dir_fd=persisted)
            os.close(persisted)
        ok(still, "restore", "ada")
    say(still, **{"projects/plan.md": "then"})
    ok(still, "snapshot", "ada", "--name", "one")
    name = "ada@one"
    if where == "in the home":  # an import: plain directories beside its home
        key = tmp_path / "key"
        subprocess.run(["age-keygen", "-o", key], check=True, stderr=subprocess.DEVNULL)
        to = subprocess.run(["age-keygen", "-y", key], check=True, capture_output=True, text=True).stdout.strip()
        ok(still, "export", "ada@one", str(tmp_path / "file"), "--to", to)
        name = ok(still, "import", str(tmp_path / "file"), "--key", str(key)).out.strip()
    look, told = _recall(still, name)
    assert set(told["persisted"]) == {"projects", "notes/deep"}  # type: ignore[call-overload]
    assert (look / "projects/plan.md").read_text() == "then"
    assert (look / "projects").stat().st_uid == UID
    (look / "projects/plan.md").write_text("changed")
    again, _ = _recall(still, name)
    assert (again / "projects/plan.md").read_text() == "then"
    ok(still, "recall", name, "--end", "--all")
    assert _copies(still) == []


@contextmanager
def _another(town: Town, tmp_path: Path) -> Iterator[None]:
    """persist_dir on a btrfs of its own."""
    towns.undo(town.persisted)
    image = tmp_path / "other"
    with image.open("wb") as file:
        file.truncate(128 << 20)
    process.run(["mkfs.btrfs", "-q", image])
    with loopback.attached(image) as device:
        kernel.mount(device, str(town.persisted), "btrfs", 0)
        try:
            yield
        finally:
            towns.undo(town.base / "look")
            towns.undo(town.agents / "ada")
            towns.undo(town.agents / ".recalled")
            kernel.umount(str(town.persisted), kernel.MNT_DETACH)


@pytest.mark.parametrize("user", [True, False])
def test_what_was_kept_on_another_filesystem_is_shown_read_only_and_stays_while_it_is(
    town: Town, tmp_path: Path, josh: None, user: bool
) -> None:
    resets.write(town)
    with _another(town, tmp_path):
        ok(town, "restore")
        say(town, **{"projects/plan.md": "then", "projects/.env": "T=1"})
        ok(town, "snapshot", "ada", "--name", "one")
        look = town.base / "look"
        said = ok(town, "recall", "ada@one", "--to", str(look), *(["--as", "josh"] if user else []))
        assert "read-only, since it lies on another filesystem: projects, notes/deep\n" in said.err
        assert (look / "projects/plan.md").read_text() == "then"
        assert (look / "projects/plan.md").stat().st_uid == (JOSH if user else UID)
        found = mounts.at(look / "projects")
        assert found is not None
        assert found.options >= HARD | {"ro"}
        assert found.root.endswith(b"/ada/one/persisted/projects")
        refused = town.persist("homes", "--delete", "ada@one")
        assert refused.status == 1
        assert f"ada@one: is in use: mounted at {look}/notes/deep" in refused.err
        assert "then try again" in refused.err
        ok(town, "recall", "ada@one", "--end")
        assert mounts.below(look) == []
        ok(town, "homes", "--delete", "ada@one")


def test_nothing_is_left_out_of_that_so_a_copy_is_made_for_who_wants_no_secrets(town: Town, tmp_path: Path) -> None:
    resets.write(town)
    with _another(town, tmp_path):
        ok(town, "restore")
        say(town, **{"projects/plan.md": "then", "projects/.env": "T=1"})
        ok(town, "snapshot", "ada", "--name", "one")
        look, told = _recall(town, "ada@one", "--without-secrets")
        assert (told["persisted"], told["persisted_read_only"]) == (["projects", "notes/deep"], [])
        assert os.listdir(look / "projects") == ["plan.md"]
        ok(town, "recall", "ada@one", "--end")


def test_what_lies_where_it_belongs_has_another_name_in_the_copy(still: Town) -> None:
    say(still, **{"projects/plan.md": "then", "notes/deep/n": "then"})
    ok(still, "release", "ada")
    home = resets.home(still)
    as_agent(AS_ADA, home, "import os, shutil; shutil.rmtree('notes'); os.symlink('/etc', 'notes')")
    say(still, **{"projects/own": "in the home"})
    ok(still, "snapshot", "ada", "--name", "one")
    look, told = _recall(still, "ada@one")
    moved = told["moved"]
    assert isinstance(moved, list)
    assert [name.partition(".before-")[0] for name in moved] == ["projects", "notes"]
    assert (look / "projects/plan.md").read_text() == "then"
    assert (look / "notes/deep/n").read_text() == "then"
    assert (look / moved[0] / "own").read_text() == "in the home"
    assert not os.path.lexists("/etc/deep")


def test_a_mount_that_fails_leaves_neither_mount_nor_copy(kept: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_words: object, **_named: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(mounts, "bind", refused)
    before = len(mounts.table())
    assert kept.persist("recall", "ada@keepme", "--to", str(kept.base / "look")).status == 1
    assert len(mounts.table()) == before
    assert _copies(kept) == []


def test_a_copy_is_copied_compared_and_exported_with_what_it_holds(kept: Town, tmp_path: Path) -> None:
    look, told = _recall(kept, "ada@keepme")
    name = str(told["name"])
    said = ok(kept, "diff", "ada@keepme", name)
    assert (said.out, "no difference" in said.err) == ("", True), "nor does it count that the copy is a person's"
    (look / "projects/plan.md").write_text("repaired")
    assert ok(kept, "diff", "ada@keepme", name).out == "changed  projects/plan.md: content\n"
    again, other = _recall(kept, name)
    assert (again / "projects/plan.md").read_text() == "repaired"
    (again / "projects/plan.md").write_text("otherwise")
    resets.write(kept, "[]")  # the spec has none of it any more
    assert ok(kept, "diff", name, str(other["name"])).out == "changed  projects/plan.md: content\n"
    resets.write(kept)
    key = subprocess.run(["age-keygen"], check=True, capture_output=True, text=True).stdout
    (tmp_path / "key").write_text(key)
    (tmp_path / "key").chmod(0o600)
    to = subprocess.run(["age-keygen", "-y"], input=key, check=True, capture_output=True, text=True).stdout.strip()
    ok(kept, "export", name, str(tmp_path / "file"), "--to", to, "--without-secrets")
    brought = ok(kept, "import", str(tmp_path / "file"), "--key", str(tmp_path / "key")).out.strip()
    assert brought == "ada@keepme.1", "of two kept homes none has the other's name"
    third, _ = _recall(kept, brought)
    assert (third / "projects/plan.md").read_text() == "repaired"
    assert not (third / "projects/.env").exists()


def test_all_copies_of_a_home_end_at_once_but_for_one_in_use(kept: Town) -> None:
    names = {str(_recall(kept, "ada@keepme")[1]["name"]) for _ in range(3)}
    refused = kept.persist("recall", "ada@keepme", "--end")
    assert refused.status == 1
    assert "--all ends them all" in refused.err
    look, used = _recall(kept, "ada@keepme")
    with resets.runs(kept, uid=0, cwd=look / "projects"):
        said = kept.persist("recall", "ada@keepme", "--end", "--all")
        assert said.status == 75
        assert f"{used['name']}: the copy is in use" in said.err
        assert {line.removeprefix("delete    ") for line in said.out.splitlines() if "delete" in line} == names
    assert ok(kept, "recall", "ada@keepme", "--end", "--all").out.endswith(f"delete    {used['name']}\n")
    assert _copies(kept) == []
    assert kept.persist("recall", "ada@keepme", "--all").status == 2


def test_a_copy_in_use_is_not_deleted_and_the_hint_ends_it(kept: Town) -> None:
    _, told = _recall(kept, "ada@keepme")
    name = str(told["name"])
    said = kept.persist("homes", "--delete", name)
    assert said.status == 1
    assert f"persist: error: {name}: is in use: mounted at " in said.err
    assert f"hint: persist recall --spec {kept.file} --end {name} unmounts and deletes it\n" in said.err
    ok(kept, "recall", "--end", name)


def test_a_replacement_says_what_is_not_replaced_and_how_to_have_it(kept: Town) -> None:
    said = ok(kept, "recall", "ada@keepme", "--replace")
    assert "note: what is declared stays as it is now: projects, notes/deep, .profile\n" in said.err
    assert "persist recall ada@keepme --to DIR, and copy from there: projects, notes/deep\n" in said.err
    assert (resets.home(kept) / "scratch").read_text() == "then"
    assert (resets.home(kept) / "notes/deep/n").read_text() == "now"
    look, _ = _recall(kept, "ada@keepme")
    assert (look / "projects/plan.md").read_text() == "then"


def test_a_replacement_names_what_identity_writes_anew(still: Town) -> None:
    say(still, **{"AGENTS.md": "changed by the agent", "CLAUDE.md": "as installed", ".bashrc": "own"})
    ok(still, "snapshot", "ada", "--name", "one")
    brought = {".bashrc": sha256(b"a seed, which is the agent's to change").hexdigest()}
    digests = {name: sha256(b"as installed").hexdigest() for name in ("AGENTS.md", "CLAUDE.md", "gone.md")}
    record = still.spec.state_dir / "installed/ada.json"
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_text(json.dumps({"version": 3, "files": digests, "gpg": [], "brought": brought}))
    said = ok(still, "recall", "ada@one", "--replace")
    assert "note: identity install writes these anew, without what was changed in them: AGENTS.md\n" in said.err
    assert "persist recall ada@one --to DIR, and copy from there: projects, notes/deep, AGENTS.md\n" in said.err


def test_the_living_home_is_no_kept_one_and_the_hint_keeps_it(still: Town) -> None:
    for words in (["recall", "ada@now"], ["recall", "ada@now", "--replace"], ["homes", "--delete", "ada@now"]):
        said = still.persist(*words)
        assert said.status == 1
        assert f"persist: hint: persist snapshot --spec {still.file} ada keeps it\n" in said.err


def test_a_file_is_not_exported_to_where_an_agent_could_change_it(kept: Town, tmp_path: Path) -> None:
    key = tmp_path / "key"
    subprocess.run(["age-keygen", "-o", key], check=True, stderr=subprocess.DEVNULL)
    to = subprocess.run(["age-keygen", "-y", key], check=True, capture_output=True, text=True).stdout.strip()
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    for above in (resets.home(kept), resets.home(kept) / "projects", tmp_path / "open"):
        said = kept.persist("export", "ada@keepme", str(above / "file"), "--to", to)
        assert (said.status, said.out) == (1, "")
        assert "can be changed by an agent" in said.err
        assert not (above / "file").exists()
    said = kept.persist("export", "ada@now", str(tmp_path / "file"), "--to", to)
    assert said.status == 1
    assert f"persist: hint: persist snapshot --spec {kept.file} ada keeps it\n" in said.err
    ok(kept, "export", "ada@keepme", str(tmp_path / "file"), "--to", to)
