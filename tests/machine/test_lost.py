"""`persist lost` on real homes: what it counts, what it leaves out, and that no name or tree in a home can harm it."""

import base64
import hashlib
import json
import os
import socket
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

import persist.searched
import persist.walk
from persist.walk import Directory, walk
from tests.machine import towns
from tests.machine.towns import ADA, AS_ADA, Town, as_agent, town
from tests.reach import PYTHON
from town import files, kernel

__all__ = ["town"]
CHECKOUT = Path(__file__).parents[2]
pytestmark = pytest.mark.root


@pytest.fixture
def home(town: Town) -> Path:
    town.write('["projects", "scratch/results"]')
    town.persist("restore")
    return town.agents / "ada"


def _write(path: Path, size: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(size))


def _json(town: Town) -> dict[str, Any]:
    said = town.persist("lost", "ada", "--json")
    assert said.status == 0
    (agent,) = json.loads(said.out)["agents"]
    return agent


def _paths(agent: dict[str, Any], key: str = "entries") -> list[str]:
    return sorted(entry["path"]["text"] for entry in agent[key])


def test_a_fresh_home_loses_nothing(town: Town, home: Path) -> None:
    agent = _json(town)
    assert (agent["bytes"], agent["files"], agent["entries"]) == (0, 0, [])


def test_what_is_declared_is_not_listed_and_everything_else_is(town: Town, home: Path) -> None:
    for name in ("projects/kept", "scratch/results/kept", "scratch/gone", "payload", ".cache/a/b"):
        _write(home / name, 10)
    (home / "link").symlink_to("/etc/passwd")
    (home / "empty").mkdir()
    os.mkfifo(home / "pipe")
    agent = _json(town)
    assert _paths(agent) == [".cache/a/b", "empty", "link", "payload", "pipe", "scratch/gone"]
    assert {entry["kind"] for entry in agent["entries"]} == {"file", "directory", "symlink", "fifo"}
    assert (agent["bytes"], agent["files"]) == (30 + len("/etc/passwd"), 5)


def test_it_is_folded_by_directory_largest_first(town: Town, home: Path) -> None:
    for number in range(30):
        _write(home / f".cache/pip/{number % 3}/{number}", 1000)
    _write(home / ".local/share/tool/data/x", 500)
    _write(home / "todo", 5)
    said = town.persist("lost", "ada")
    assert said.status == 0
    assert said.out.splitlines() == [
        f"ada: 30.5 kB, 32 files in {home} would be lost at the next boot",
        "  .cache/pip/…  30.0 kB, 30 files",
        "  .local/share/tool/data/…  500 B, 1 file",
        "  todo  5 B, 1 file",
    ]


def test_the_proposal_is_valid_toml_with_git_work_trees_first(town: Town, home: Path) -> None:
    git = ["git", "-c", "init.defaultBranch=main", "init", "-q", str(home / 'src/a "quoted" \\ tree')]
    subprocess.run(git, check=True)
    _write(home / 'src/a "quoted" \\ tree/main.c')
    _write(home / "diary/today.md", 10)
    _write(home / "app/state.sqlite3", 50_000)
    _write(home / ".cache/clone/.git/HEAD", 90_000)
    _write(home / "node_modules/x/readme.md", 90_000)
    line = next(line for line in town.persist("lost", "ada").out.splitlines() if line.startswith("persist = "))
    assert tomllib.loads(line)["persist"] == ['src/a "quoted" \\ tree', "diary", "app"]


def test_a_file_right_in_the_home_is_proposed_by_itself_in_a_form_that_the_spec_takes(town: Town, home: Path) -> None:
    for name in ("TODO.md", "data.sqlite", "chat.jsonl", "only/note.md", "a/b/x.db", "payload", 'odd "name".org'):
        _write(home / name, 10)
    _write(home / "large.db", (16 << 20) + 1)
    (home / "link.md").symlink_to("TODO.md")
    os.mkfifo(home / "pipe.md")
    said = town.persist("lost", "ada")
    assert "worth keeping (session, notes, database)" in said.err
    line = next(line for line in said.out.splitlines() if line.startswith("persist = "))
    proposed = tomllib.loads(line)["persist"]
    files = ["chat.jsonl", "TODO.md", 'odd "name".org', "data.sqlite"]
    assert [one["path"] for one in proposed if isinstance(one, dict)] == files
    assert all(one["type"] == "file" for one in proposed if isinstance(one, dict))
    assert [one for one in proposed if isinstance(one, str)] == ["only", "a/b"]
    kinds = {one["path"]["text"]: (one["kind"], one["type"]) for one in _json(town)["persist"]}
    assert kinds["data.sqlite"] == ("database", "file")
    assert kinds["only"] == ("notes", "directory")
    town.write(line.partition(" = ")[2])
    assert [str(entry.path) for entry in town.spec.agent("ada").persist if entry.copied] == files
    assert worth_keeping(town) == []


def worth_keeping(town: Town) -> list[str]:
    return [entry["path"]["text"] for entry in _json(town)["persist"]]


def test_what_nuketown_writes_is_never_proposed(town: Town, home: Path) -> None:
    for name in (".nuketown/notes.md", ".config/nuketown/mine.md", "ok/mine.md"):
        _write(home / name)
    assert [entry["path"]["text"] for entry in _json(town)["persist"]] == ["ok"]


def test_a_socket_is_no_loss(town: Town, home: Path) -> None:
    (home / ".gnupg").mkdir()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(home / ".gnupg/S.gpg-agent"))
    agent = _json(town)
    assert (agent["files"], agent["entries"], agent["folded"]) == (0, [], [])
    (report,) = json.loads(town.persist("status", "ada", "--json").out)["agents"]
    assert report["would_be_lost"]["files"] == 0


def test_an_empty_repository_is_not_proposed_and_holds_nothing_alone(town: Town, home: Path) -> None:
    subprocess.run(["git", "-c", "init.defaultBranch=main", "init", "-q", str(home / "fresh")], check=True)
    _write(home / "diary/today.md", 10)
    out = town.persist("lost", "ada").out.splitlines()
    assert "  git: 1 work tree in which nothing is" in out
    assert out[-1] == 'persist = ["diary"]'
    (one,) = _json(town)["git"]
    assert (one["at_stake"], one["remote"]) == (False, False)


def test_what_goes_to_one_pipe_comes_in_its_order(town: Town, home: Path) -> None:
    town.write('["projects", "later"]')
    _write(home / "diary/today.md", 10)
    _write(home / "later/x", 10)
    argv = [sys.executable, "-m", "persist.cli", "--spec", str(town.file), "lost", "ada"]
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True, cwd=CHECKOUT)
    wanted = ("ada: 10 B, ", "  diary/", "ada: worth keeping", "persist = ", "persist: warning: ")
    assert [line.startswith(begin) for line, begin in zip(done.stdout.splitlines(), wanted, strict=False)] == [True] * 5


def test_a_proposal_never_overlaps_what_is_declared_and_can_be_pasted(town: Town, home: Path) -> None:
    for name in ("scratch/notes.md", "new\nline/a.md", "ok/a.md", os.fsdecode(b"\xff/a.md"), "bidi\u202e/a.md"):
        _write(home / name)
    proposed = [entry["path"]["text"] for entry in _json(town)["persist"]]
    assert proposed == ["ok"]
    town.write('["projects", "scratch/results", "ok"]')
    assert town.spec.agent("ada").persist[2].path.name == "ok"


def test_git_is_never_run(town: Town, home: Path) -> None:
    ran = town.base / "ran"
    subprocess.run(["git", "-c", "init.defaultBranch=main", "init", "-q", str(home / "trap")], check=True)
    (home / "trap/.git/config").write_text(f"[core]\nfsmonitor = touch {ran}\npager = touch {ran}\n")
    assert town.persist("lost", "ada").status == 0
    assert not ran.exists()


def test_a_hardlink_counts_once(town: Town, home: Path) -> None:
    _write(home / "a", 1000)
    os.link(home / "a", home / "b")
    assert _json(town)["bytes"] == 1000


def test_no_symlink_is_followed_and_no_mount_is_entered(town: Town, home: Path) -> None:
    (home / "out").symlink_to("/etc")
    (home / "mounted").mkdir()
    (home / "over").write_text("x")
    kernel.mount("tmpfs", str(home / "mounted"), "tmpfs", 0, "")
    (home / "mounted/inside").write_text("x")
    kernel.mount("/etc/passwd", str(home / "over"), None, 0x1000)  # MS_BIND
    assert _paths(_json(town)) == ["out"]


def test_a_nested_subvolume_is_entered_and_marked(town: Town, home: Path) -> None:
    made = as_agent(AS_ADA, home, "import subprocess as s; s.run(['btrfs', 'subvolume', 'create', 'deep'], check=True)")
    assert made.status == 0
    _write(home / "deep/hidden", 100)
    agent = _json(town)
    assert {entry["path"]["text"]: entry["kind"] for entry in agent["entries"]} == {
        "deep": "subvolume",
        "deep/hidden": "file",
    }
    assert "deep/…  100 B, 1 file  (subvolume)" in town.persist("lost", "ada").out


def test_hostile_names_stay_on_their_line_and_are_exact_in_json(town: Town, home: Path) -> None:
    names = [b"new\nline", b"\x1b[2Jclear", b"\xff\xfe", "bidi\u202etxt".encode(), b"back\\slash"]
    for name in names:
        (home / os.fsdecode(name)).write_text("x")
    said = town.persist("lost", "ada")
    assert len(said.out.splitlines()) == 1 + len(names)
    assert "\x1b" not in said.out
    assert "\u202e" not in said.out
    found = {base64.b64decode(entry["path"]["base64"]) for entry in _json(town)["entries"]}
    assert found == set(names)


def test_a_tree_of_ten_thousand_levels_is_counted(town: Town, home: Path) -> None:
    fd = files.open_dir(home)
    for _ in range(10_000):
        os.mkdir("d", dir_fd=fd)
        below = files.enter(fd, "d")
        os.close(fd)
        fd = below
    with files.opened(fd):
        files.write_beneath(fd, "bottom", bytes(1234))
    agent = _json(town)
    assert (agent["bytes"], agent["files"]) == (1234, 1)
    assert [entry["kind"] for entry in agent["entries"]] == ["too deep"]
    said = town.persist("lost", "ada")
    assert "1.2 kB, 1 file" in said.out
    assert max(map(len, said.out.splitlines())) < 300
    with files.opened(files.open_dir(home)) as top:
        files.remove_tree(top, "d")


def test_however_many_directories_begin_where_paths_end_they_are_one_entry(town: Town, home: Path) -> None:
    """Each has a path of four kilobytes: told apart, twenty thousand of them would take a hundred megabytes."""
    fd = files.open_dir(home)
    for _ in range(2040):
        os.mkdir("d", dir_fd=fd)
        below = files.enter(fd, "d")
        os.close(fd)
        fd = below
    with files.opened(fd):
        for number in range(300):
            os.mkdir(f"x{number:030}", dir_fd=fd)
            with files.opened(files.enter(fd, f"x{number:030}")) as inner:
                files.write_beneath(inner, "f", b"xx")
    (entry,) = _json(town)["entries"]
    assert (entry["kind"], entry["bytes"], entry["files"]) == ("too deep", 600, 300)
    assert entry["path"]["text"] == "/".join("d" * 2040)
    with files.opened(files.open_dir(home)) as top:
        files.remove_tree(top, "d")


def test_what_nuketown_writes_itself_is_told_apart(town: Town, home: Path) -> None:
    _write(home / ".config/nuketown/environment.sh", 100)
    _write(home / ".config/nuketown/identity.toml", 50)
    mine = [f".gnupg/private-keys-v1.d/{'0A' * 20}.key", ".gnupg/pubring.kbx", ".ssh/id_ed25519", "AGENTS.md"]
    for name in mine:
        _write(home / name, 7)
    agent = _json(town)
    assert _paths(agent) == sorted(mine)  # of which no record says that they were installed
    assert agent["regenerated"] == {"bytes": 150, "files": 2}
    assert "back by itself (identity install): 150 B, 2 files" in town.persist("lost", "ada").out


def test_what_identity_installed_is_told_apart_until_the_agent_changes_it(town: Town, home: Path) -> None:
    for name, text in ((".claude/agents/ada.md", "by us"), (".claude/CLAUDE.md", "by us, and notes of mine")):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text)
    digest = hashlib.sha256(b"by us").hexdigest()
    record = town.spec.state_dir / "installed/ada.json"
    record.parent.mkdir(mode=0o700)
    paths = dict.fromkeys((".claude/agents/ada.md", ".claude/CLAUDE.md", "gone", "../../etc/passwd"), digest)
    record.write_text(json.dumps({"version": 2, "files": paths, "gpg": []}))
    agent = _json(town)
    assert _paths(agent) == [".claude/CLAUDE.md"]
    assert agent["regenerated"] == {"bytes": 5, "files": 1}
    (report,) = json.loads(town.persist("status", "ada", "--json").out)["agents"]
    assert (report["would_be_lost"]["bytes"], report["would_be_lost"]["files"]) == (24, 1)


def test_a_declared_directory_that_is_not_bound_is_warned_of(town: Town, home: Path) -> None:
    town.write('["projects", "later"]')
    _write(home / "later/x", 10)
    said = town.persist("lost", "ada")
    assert "warning: ada: later is declared but not bound: 10 B, 1 file" in said.err
    assert _json(town)["bytes"] == 0


def test_a_home_that_is_missing_is_named_and_the_others_are_listed(town: Town) -> None:
    town.persist("restore", "vox")
    said = town.persist("lost")
    assert said.status == 1
    assert f"persist: error: ada has no home at {town.agents}/ada" in said.err
    assert f"persist: hint: persist restore --spec {town.file} ada" in said.err
    assert said.out.startswith("vox: 0 B, 0 files")


def test_a_tree_that_is_moved_about_meanwhile_is_read_without_leaving_the_home(town: Town, home: Path) -> None:
    mover = """
import itertools, os
for top in "ab":
    os.makedirs("%s/1/2/3/4/5" % top)
    open("%s/1/2/3/4/5/x" % top, "w").close()
for turn in itertools.count():
    try:
        os.rename("a/1/2", "b/other")
        os.rename("b/1", "a/1/one")
        os.rename("a/1/one", "b/1")
        os.rename("b/other", "a/1/2")
    except OSError: pass
"""
    racer = subprocess.Popen([PYTHON, "-c", mover], cwd=home, user=ADA, group=ADA, extra_groups=[])
    try:
        for _ in range(60):
            said = town.persist("lost", "ada", "--json")
            assert said.status == 0 or "moved about" in said.err
            if said.status == 0:
                entries = json.loads(said.out)["agents"][0]["entries"]
                assert {entry["path"]["text"].rpartition("/")[2] for entry in entries} <= set("abx123450") | {
                    "one",
                    "other",
                }
    finally:
        racer.kill()
        racer.wait()


def test_the_way_back_up_is_checked_after_a_directory_was_moved(town: Town, home: Path) -> None:
    for name in ("b/later/not-mine", "a/later/mine", "a/moved/below/x"):  # read from the last that was made
        _write(home / name)
    found = set()
    with files.opened(files.open_dir(home)) as top:
        for event in walk(top, lambda _directory, name: name != b"b"):
            if isinstance(event, Directory) and event.name == b"below":
                (home / "a/moved").rename(home / "b/moved")
            elif not isinstance(event, Directory):
                found.add(event.directory.path(event.name))
    assert found == {b"a/later/mine", b"a/moved/below/x"}


def test_what_hides_under_the_names_of_nuketowns_own_files_is_a_loss(town: Town, home: Path) -> None:
    hidden = [".config/nuketown/payload", ".gnupg/payload", ".gnupg/private-keys-v1.d/payload", "AGENTS.md/payload"]
    for name in hidden:
        _write(home / name, 9)
    assert _paths(_json(town)) == sorted(hidden)


def test_a_chain_of_directories_that_is_hung_below_itself_ends_the_walk(home: Path) -> None:
    segments = [f"s{number}" for number in range(4)]
    for name in segments:
        _write(home / name / "in/x")
    hung = iter(range(1000))
    moves = 0
    with files.opened(files.open_dir(home)) as top:
        here = home
        for event in walk(top, lambda _directory, _name: True):
            if isinstance(event, Directory) and event.name == b"in" and moves < 100:
                # Whatever was passed is hung below where the walk is now.
                here = home / os.fsdecode(event.path())
                for name in [segment for segment in segments if (home / segment).exists()]:
                    if not here.is_relative_to(home / name):
                        (home / name).rename(here / f"again{next(hung)}")
                        moves += 1
    assert moves < 100


def test_a_tree_deeper_than_the_walk_goes_is_said(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(persist.walk, "DEEPEST", 5)
    _write(home / "1/2/3/4/5/6/x")
    with files.opened(files.open_dir(home)) as top:
        found = [event for event in walk(top, lambda _directory, _name: True) if not isinstance(event, Directory)]
    assert [(entry.directory.path(entry.name), entry.kind) for entry in found] == [(b"1/2/3/4/5/6", "unreadable")]


def test_what_is_mounted_in_a_home_is_named(home: Path) -> None:
    (home / "cover").mkdir()
    kernel.mount("tmpfs", str(home / "cover"), "tmpfs", 0)
    mounted: list[bytes] = []
    with files.opened(files.open_dir(home)) as top:
        list(walk(top, lambda _directory, _name: True, mounted))
    kernel.umount(str(home / "cover"))
    assert set(mounted) == {b"cover", b"projects", b"scratch/results"}  # two of them are ours


def test_without_btrfs_the_first_restore_of_a_boot_takes_it_so_it_says_the_same(town: Town) -> None:
    towns.undo(town.agents)
    town.write('["projects"]', btrfs_device="")
    town.persist("restore")
    home = town.agents / "ada"
    towns.undo(home / "projects")
    _write(home / "payload", 10)
    _write(home / "projects/x", 10)
    said = town.persist("lost", "ada")
    assert said.status == 0
    assert said.out.splitlines()[0].startswith(f"ada: 10 B, 1 file in {home} would be lost at the next boot")
    assert "in it is in the home alone" in said.err
    assert json.loads(town.persist("lost", "ada", "--json").out)["wiped_at_boot"] is True


def test_with_btrfs_json_says_that_the_boot_takes_it(town: Town, home: Path) -> None:
    assert json.loads(town.persist("lost", "ada", "--json").out)["wiped_at_boot"] is True


def test_one_agent_that_cannot_be_read_to_its_end_stops_no_other(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    town.write("[]", "[]")
    town.persist("restore")
    for agent in ("ada", "vox"):
        _write(town.agents / agent / "payload", 7)
    real = persist.searched.search

    def failing(top: int, *more: Any, **options: Any) -> Any:
        yield from real(top, *more, **options)
        if os.fstat(top).st_uid == ADA:
            raise OSError(5, "Input/output error")

    monkeypatch.setattr("persist.searched.search", failing)
    said = town.persist("lost")
    assert said.status == 1
    assert "persist: error: ada: Input/output error" in said.err
    assert "ada: at least 7 B, 1 file" in said.out
    assert "vox: 7 B, 1 file" in said.out
    agents = json.loads(town.persist("lost", "--json").out)["agents"]
    assert [(agent["agent"], agent["whole"], agent["bytes"]) for agent in agents] == [
        ("ada", False, 7),
        ("vox", True, 7),
    ]


def test_what_an_agent_mounted_is_said(town: Town, home: Path) -> None:
    (home / "cover").mkdir()
    kernel.mount("tmpfs", str(home / "cover"), "tmpfs", 0)
    said = town.persist("lost", "ada")
    kernel.umount(str(home / "cover"))
    assert "something is mounted at cover;" in said.err
    assert "projects" not in said.err
