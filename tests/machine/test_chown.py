"""`persist chown`: an agent whose uid changed gets what lies here under the earlier one, and nothing else."""

import os
import stat
import subprocess
from pathlib import Path

import pytest

from persist import chown, cli, running
from tests.machine import killing, towns
from tests.machine.movers import ADA, AS_ADA, VOX, home, kept, town
from tests.machine.towns import Town, as_agent
from town import accounts, btrfs, files, kernel, mounts, process

__all__ = ["town"]
pytestmark = pytest.mark.root
NEW = 60000 - (ADA - 43000) // 2 % 900  # no other test's either

LEFT = """
import os
open('projects/kept', 'w').write('kept')
os.mkdir('projects/d'); open('projects/d/x', 'w')
os.symlink('/etc/shadow', 'projects/link')
os.mkfifo('fifo')
open('own', 'w').write('#!'); os.chmod('own', 0o6755)
os.mkdir('shared'); os.chmod('shared', 0o2770)
"""


def _lived(town: Town, program: str = LEFT) -> None:
    """Ada lived here under an earlier uid; now the spec gives her NEW."""
    town.write('["projects"]')
    assert town.persist("restore", "ada").status == 0
    as_agent(AS_ADA, home(town), program)
    _renumber(town)


def _renumber(town: Town, uid: int = NEW) -> None:
    text = town.file.read_text()
    town.file.write_text(text.replace(f"[agents.ada]\nuid = {ADA}", f"[agents.ada]\nuid = {uid}"))


def _owners(path: Path) -> dict[str, tuple[int, int]]:
    found = {}
    for above, directories, names in os.walk(path):
        for name in [".", *directories, *names]:
            entry = os.lstat(os.path.join(above, name))
            found[os.path.normpath(os.path.join(above, name))] = (entry.st_uid, entry.st_gid)
    return found


def test_everything_of_the_earlier_uid_goes_to_the_new_one_and_the_agent_comes_up(town: Town) -> None:
    _lived(town)
    assert town.persist("restore", "ada").status != 0
    said = town.persist("chown", "ada")
    assert (said.status, said.err) == (0, "")
    assert f"from uid {ADA} to uid {NEW}" in said.out
    towns.undo(home(town))
    assert set(_owners(home(town)).values()) == {(NEW, NEW)}
    assert set(_owners(kept(town)).values()) == {(NEW, NEW)}
    assert os.stat(town.persisted / "agents/ada").st_uid == 0
    assert os.stat("/etc/shadow").st_uid == 0
    assert town.persist("restore", "ada").status == 0
    as_agent(process.Person(NEW, NEW), home(town), "assert open('projects/kept').read() == 'kept'")
    again = town.persist("chown", "ada")
    assert (again.status, again.out) == (0, f"ada: nothing lies here under another uid than {NEW}\n")


def test_the_directory_under_a_bind_is_given_too(town: Town) -> None:
    _lived(town)
    assert mounts.at(home(town) / "projects") is not None
    assert town.persist("chown", "ada").status == 0
    assert mounts.at(home(town) / "projects") is not None
    towns.undo(home(town))
    assert os.stat(home(town) / "projects").st_uid == NEW


def test_bits_that_lend_the_owners_rights_are_dropped_and_said(town: Town) -> None:
    _lived(town)
    said = town.persist("chown", "ada")
    assert "without their set-uid and set-gid bits from now on: own" in said.out
    assert stat.S_IMODE(os.stat(home(town) / "own").st_mode) == 0o755
    assert stat.S_IMODE(os.stat(home(town) / "shared").st_mode) == 0o2770


def test_access_lists_that_name_the_earlier_uid_are_said(town: Town) -> None:
    _lived(town)
    process.run(["setfacl", "-m", f"u:{ADA}:rwx", home(town) / "own"])
    process.run(["setfacl", "-d", "-m", f"u:{ADA}:rwx", home(town) / "shared"])
    said = town.persist("chown", "ada")
    assert said.status == 0
    (line,) = [line for line in said.out.splitlines() if "access lists" in line]
    assert set(line.rpartition(": ")[2].split(", ")) == {"own", "shared"}


def test_a_dry_run_counts_and_changes_nothing(town: Town) -> None:
    _lived(town)
    before = _owners(town.agents), _owners(town.persisted), towns.facts(town.agents)
    said = town.persist("chown", "ada", "--dry-run")
    assert said.status == 0
    assert f"ada: {kept(town).parent}: 2 directories, 3 files" in said.out
    assert f"ada: {home(town)}: 3 directories, 2 files" in said.out
    assert (_owners(town.agents), _owners(town.persisted), towns.facts(town.agents)) == before
    real = town.persist("chown", "ada")
    assert real.out == said.out


def test_files_of_others_and_links_to_them_are_left_and_said(town: Town) -> None:
    _lived(town)
    secret = home(town) / "secret"
    secret.write_text("root's")
    os.link(secret, home(town) / "stolen")
    theirs = home(town) / "theirs"
    theirs.write_text("vox's")
    os.chown(theirs, VOX, VOX)
    said = town.persist("chown", "ada")
    assert said.status == 0
    assert "of other owners, and left to them: " in said.out
    assert (secret.stat().st_uid, theirs.stat().st_uid) == (0, VOX)


def test_nested_subvolumes_are_entered_and_other_mounts_are_not(town: Town) -> None:
    _lived(town)
    process.run(["btrfs", "subvolume", "create", "sub"], person=AS_ADA, cwd=home(town))
    as_agent(AS_ADA, home(town), "open('sub/x', 'w')")
    (home(town) / "mnt").mkdir()
    kernel.mount("tmpfs", str(home(town) / "mnt"), "tmpfs", 0, f"uid={ADA}")
    assert town.persist("chown", "ada").status == 0
    assert os.stat(home(town) / "sub/x").st_uid == NEW
    assert os.stat(home(town) / "mnt").st_uid == ADA


def test_what_is_immutable_or_in_a_read_only_subvolume_is_named_and_the_rest_is_given(town: Town) -> None:
    _lived(town)
    process.run(["btrfs", "subvolume", "create", "sub"], person=AS_ADA, cwd=home(town))
    as_agent(AS_ADA, home(town), "open('sub/x', 'w')")
    process.run(["btrfs", "property", "set", "-ts", "sub", "ro", "true"], person=AS_ADA, cwd=home(town))
    process.run(["chattr", "+i", home(town) / "own"])
    try:
        said = town.persist("chown", "ada")
    finally:
        process.run(["chattr", "-i", home(town) / "own"])
    assert said.status == 1
    for name in ("own", "sub/x", "sub"):
        assert name in said.err
    assert os.stat(home(town) / "shared").st_uid == NEW


@pytest.mark.parametrize("why", ["root", "agent", "account", "itself", "several"])
def test_a_uid_that_is_somebody_elses_is_refused(town: Town, why: str) -> None:
    _lived(town)
    before = _owners(town.agents), _owners(town.persisted)
    words = {
        "root": ("--from", "0"),
        "agent": ("--from", str(VOX)),
        "account": ("--from", str(accounts.everybody()[1].uid)),
        "itself": ("--from", str(NEW)),
        "several": (),
    }[why]
    if why == "several":
        town.write('["projects", "notes"]')
        _renumber(town)
        (town.persisted / "agents/ada/notes").mkdir()
        os.chown(town.persisted / "agents/ada/notes", VOX + 1, VOX + 1)
        os.chown(home(town), NEW, NEW)
        before = _owners(town.agents), _owners(town.persisted)
    said = town.persist("chown", "ada", *words)
    assert said.status == (2 if why == "itself" else 1), said
    assert "hint: " in said.err
    assert (_owners(town.agents), _owners(town.persisted)) == before


def test_it_refuses_while_processes_of_the_earlier_uid_run(town: Town) -> None:
    _lived(town)
    there = subprocess.Popen(["sleep", "100"], user=ADA, group=ADA, extra_groups=[])
    try:
        said = town.persist("chown", "ada")
    finally:
        there.kill()
        there.wait()
    assert said.status == 1
    assert f"{there.pid} (sleep 100)" in said.err
    assert os.stat(home(town)).st_uid == ADA


def test_the_earlier_uid_is_found_by_what_is_kept_when_the_home_is_new(town: Town) -> None:
    _lived(town)
    towns.undo(home(town))
    with files.opened(files.open_dir(town.agents)) as agents:
        btrfs.delete(agents, "ada")
    said = town.persist("chown", "ada")
    assert said.status == 0
    assert f"from uid {ADA}" in said.out
    assert os.stat(kept(town)).st_uid == NEW


def test_a_tree_deeper_than_any_path_is_given(town: Town) -> None:
    deep = "import os\nfor _ in range(2500): os.mkdir('d'); os.chdir('d')\nopen('bottom', 'w')"
    _lived(town, deep)
    said = town.persist("chown", "ada")
    assert said.status == 0
    assert "2,502 directories" in said.out


def test_links_swapped_in_while_it_works_lead_nowhere(town: Town) -> None:
    """Somebody with the new uid moves things about: a loop of renames, a link to root's file in and out of place."""
    many = "import os\nfor n in range(300): os.mkdir(f'd{n}'); open(f'd{n}/x', 'w')\n"
    _lived(town, many)
    victim = town.base / "victim"
    victim.mkdir()
    (victim / "x").write_text("root's")
    racer = f"""
import os, time
print('ready', flush=True)
until = time.monotonic() + 3
while time.monotonic() < until:
    for n in range(0, 300, 7):
        try:
            os.rename(f'd{{n}}', f'e{{n}}'); os.symlink({str(victim)!r}, f'd{{n}}')
            os.unlink(f'd{{n}}'); os.rename(f'e{{n}}', f'd{{n}}')
        except OSError:
            pass
"""
    os.chown(home(town), NEW, NEW)  # so that the racer may rename in it
    there = subprocess.Popen(
        ["python3", "-c", racer], user=NEW, group=NEW, extra_groups=[], cwd=home(town), stdout=subprocess.PIPE
    )
    assert there.stdout is not None
    try:
        assert there.stdout.readline() == b"ready\n"
        for _ in range(5):
            assert town.persist("chown", "ada", "--from", str(ADA)).status in (0, 75, 1)
    finally:
        there.wait()
        there.stdout.close()
    assert town.persist("chown", "ada", "--from", str(ADA)).status == 0
    assert (victim.stat().st_uid, (victim / "x").stat().st_uid) == (0, 0)
    assert set(_owners(home(town)).values()) == {(NEW, NEW)}


def test_a_kill_at_any_moment_is_finished_by_the_next_run(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    _lived(town)
    monkeypatch.setattr(running, "of", lambda _uid: [])  # most moments, and another number each time

    def run() -> None:
        assert cli.main(["--spec", str(town.file), "chown", "ada"]) == 0

    def undone() -> None:
        for path in (home(town), kept(town)):
            for each in _owners(path):
                os.chown(each, ADA, ADA, follow_symlinks=False)
        towns.undo(home(town))
        os.chown(home(town) / "projects", ADA, ADA)

    towns.undo(home(town))
    moments = killing.count(run)
    assert moments > 100
    step, killed = max(1, moments // 20), 0
    for moment in range(moments % step, moments, step):
        undone()
        killed += killing.tried(run, moment)  # how many there are depends on the processes of this machine
        assert town.persist("chown", "ada").status == 0, moment
        assert set(_owners(home(town)).values()) == {(NEW, NEW)}, moment
        assert set(_owners(kept(town)).values()) == {(NEW, NEW)}, moment
    assert killed > 10


def test_nothing_is_given_by_a_name(monkeypatch: pytest.MonkeyPatch, town: Town) -> None:
    """os.chown goes by names, or follows them: what gives is fchownat(2) with AT_EMPTY_PATH alone."""
    _lived(town)
    monkeypatch.setattr(os, "chown", lambda *_words, **_more: pytest.fail("by a name"))
    monkeypatch.setattr(os, "lchown", lambda *_words: pytest.fail("by a name"))
    spec = town.spec
    from persist import ground

    with ground.opened(spec) as here:
        chown.give(spec, spec.agent("ada"), here, ADA)
    assert os.stat(kept(town)).st_uid == NEW
