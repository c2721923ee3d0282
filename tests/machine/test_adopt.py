"""`persist adopt`: data that lies in a home moves to where it is kept, whole, or stays as it is."""

import os
import stat
import struct
import subprocess
from pathlib import Path

import pytest

from persist import cli, running
from persist.adopt import apply, content, copying
from tests.machine import killing, towns
from tests.machine.movers import ADA, AS_ADA, VOX, home, kept, lived_in, town
from tests.machine.towns import Town, as_agent
from town import btrfs, files, kernel, mounts, process

__all__ = ["town"]
pytestmark = pytest.mark.root

FILLED = """
import os, socket
os.makedirs('projects/deep/er'); os.makedirs('projects/empty')
open('projects/notes.md', 'w').write('hello')
open('projects/deep/er/odd\\nname', 'wb').write(os.urandom(100000))
open(b'projects/\\xff\\x1b[31m', 'w').write('x')
os.link('projects/notes.md', 'projects/deep/again')
os.symlink('/etc/shadow', 'projects/link')
os.mkfifo('projects/fifo', 0o640)
socket.socket(socket.AF_UNIX).bind('projects/sock')
os.mknod('projects/whiteout', 0o20000 | 0o600, 0)
with open('projects/sparse', 'wb') as file:
    file.truncate(1 << 36); file.seek(1 << 33); file.write(b'middle')
os.setxattr('projects/notes.md', 'user.note', b'\\x00\\xff')
os.chmod('projects/deep', 0o2750)
os.chmod('projects', 0o755)
os.utime('projects/notes.md', ns=(1, 1234567890123456789))
os.utime('projects/deep', ns=(1, 987654321987654321))
open('other', 'w').write('stays')
"""
SMALL = "import os; os.mkdir('projects'); open('projects/a', 'w').write('one'); os.mkdir('projects/d')"


def tree(path: Path) -> dict[str, tuple[object, ...]]:
    """Everything below a directory that a move keeps, by name."""
    found: dict[str, tuple[object, ...]] = {}
    for above, directories, names in os.walk(path):
        for name in [*directories, *names]:
            place = os.path.join(above, name)
            entry, regular = os.lstat(place), stat.S_ISREG(os.lstat(place).st_mode)
            held = Path(place).read_bytes() if regular and entry.st_size < 1 << 20 else None
            listed = os.listxattr(place, follow_symlinks=False)
            attributes = {each: os.getxattr(place, each, follow_symlinks=False) for each in listed}
            found[os.path.relpath(place, path)] = (
                entry.st_mode, entry.st_uid, entry.st_gid, entry.st_mtime_ns, held, attributes,
                os.readlink(place) if stat.S_ISLNK(entry.st_mode) else "",
                entry.st_size if regular else 0, 0 if stat.S_ISDIR(entry.st_mode) else entry.st_nlink,
            )  # fmt: skip
    return found


def test_what_lies_in_the_home_is_kept_whole_and_bound_in_its_place(town: Town) -> None:
    lived_in(town, FILLED)
    before = tree(home(town) / "projects")
    said = town.persist("adopt", "ada")
    assert (said.status, said.err) == (0, "")
    assert tree(kept(town)) == before
    assert len(before) == 12
    mount = mounts.at(home(town) / "projects")
    assert mount is not None
    assert {"nosuid", "nodev"} <= mount.options
    assert (home(town) / "projects/notes.md").read_text() == "hello"
    assert sorted(os.listdir(home(town))) == ["other", "projects"]
    assert kept(town).stat().st_mode & 0o7777 == 0o700
    sparse = (kept(town) / "sparse").stat()
    assert sparse.st_blocks * 512 < 1 << 20
    with (kept(town) / "sparse").open("rb") as file:
        file.seek(1 << 33)
        assert file.read(6) == b"middle"
    assert os.listdir(town.persisted / "agents/ada") == ["projects"]
    assert (town.persisted / "agents/ada").stat().st_uid == 0


def test_a_dry_run_counts_and_changes_nothing(town: Town) -> None:
    lived_in(town, FILLED)
    before = towns.facts(town.agents), towns.facts(town.persisted)
    said = town.persist("adopt", "ada", "--dry-run")
    assert said.status == 0
    assert "move    " in said.out
    assert "9 files" in said.out
    assert (towns.facts(town.agents), towns.facts(town.persisted)) == before


def test_a_second_run_finds_nothing_to_do(town: Town) -> None:
    lived_in(town, SMALL)
    assert town.persist("adopt", "ada").status == 0
    before = towns.facts(town.agents), towns.facts(town.persisted), len(mounts.table())
    said = town.persist("adopt", "ada")
    assert (said.status, said.out) == (0, "ada: nothing to adopt\n")
    assert "bound already" in said.err
    assert (towns.facts(town.agents), towns.facts(town.persisted), len(mounts.table())) == before


def test_data_in_both_places_is_never_merged_nor_replaced(town: Town) -> None:
    lived_in(town, SMALL)
    kept(town).mkdir(parents=True)
    for path in (town.persisted / "agents", town.persisted / "agents/ada"):
        path.chmod(0o711)
    (kept(town) / "older").write_text("kept")
    os.chown(kept(town), ADA, ADA)
    before = towns.facts(town.agents), towns.facts(town.persisted / "agents")
    said = town.persist("adopt", "ada")
    assert said.status == 1
    assert "both hold data, and it differs" in said.err
    assert (towns.facts(town.agents), towns.facts(town.persisted / "agents")) == before


def test_an_empty_directory_that_a_restore_made_gives_way(town: Town) -> None:
    town.persist("restore", "ada")
    towns.undo(town.agents / "ada")
    as_agent(AS_ADA, home(town), "open('projects/a', 'w').write('one')")
    assert town.persist("adopt", "ada").status == 0
    assert (kept(town) / "a").read_text() == "one"


def test_data_hidden_under_a_bind_is_said_and_a_release_brings_it_out(town: Town) -> None:
    lived_in(town, SMALL)
    kept(town).mkdir(parents=True)
    for path in (town.persisted / "agents", town.persisted / "agents/ada"):
        path.chmod(0o711)
    os.chown(kept(town), ADA, ADA)
    with (
        files.opened(files.open_dir(kept(town))) as source,
        files.opened(files.open_dir(home(town) / "projects")) as to,
    ):
        mounts.bind(source, to)
    said = town.persist("adopt", "ada")
    assert said.status == 1
    assert "hint: persist release" in said.err
    assert town.persist("release", "ada").status == 0
    assert town.persist("adopt", "ada").status == 0
    assert (home(town) / "projects/a").read_text() == "one"
    assert (kept(town) / "a").read_text() == "one"


def test_paths_of_the_store_and_files_are_left_out_with_a_word(town: Town) -> None:
    town.write('[{ path = "models", via = "store" }, { path = ".netrc", type = "file" }]',
               town=f'store = "file://{town.base}/store"')  # fmt: skip
    lived_in(town, "import os; os.mkdir('models'); open('models/m', 'w').write('x'); open('.netrc', 'w').write('y')")
    before = towns.facts(town.agents)
    said = town.persist("adopt", "ada")
    assert (said.status, said.out) == (0, "ada: nothing to adopt\n")
    assert "models: via = store" in said.err
    assert ".netrc: a declared file" in said.err
    assert towns.facts(town.agents) == before


def test_a_nested_subvolume_is_entered_and_said(town: Town) -> None:
    lived_in(town, SMALL)
    process.run(["btrfs", "subvolume", "create", "projects/sub"], person=AS_ADA, cwd=home(town))
    as_agent(AS_ADA, home(town), "open('projects/sub/x', 'w').write('in')")
    said = town.persist("adopt", "ada")
    assert said.status == 0
    assert "1 nested subvolume, entered" in said.out
    assert (kept(town) / "sub/x").read_text() == "in"
    assert not towns.is_subvolume(kept(town) / "sub")


def _read_only(path: Path) -> None:
    process.run(["btrfs", "property", "set", "-ts", ".", "ro", "true"], person=AS_ADA, cwd=path)


def test_a_declared_directory_that_is_a_read_only_subvolume_is_moved(town: Town) -> None:
    lived_in(town)
    process.run(["btrfs", "subvolume", "create", "projects"], person=AS_ADA, cwd=home(town))
    as_agent(AS_ADA, home(town), "open('projects/x', 'w').write('in')")
    _read_only(home(town) / "projects")
    assert town.persist("adopt", "ada").status == 0
    assert (home(town) / "projects/x").read_text() == "in"


def test_a_home_that_the_agent_made_read_only_is_named_and_nothing_moves(town: Town) -> None:
    lived_in(town, SMALL)
    _read_only(home(town))
    said = town.persist("adopt", "ada")
    assert said.status == 1
    assert "read-only subvolume" in said.err
    assert "btrfs property set" in said.err
    assert not kept(town).exists()


def test_another_mount_in_it_is_refused_by_name(town: Town) -> None:
    lived_in(town, SMALL)
    kernel.mount("tmpfs", str(home(town) / "projects/d"), "tmpfs", 0)
    (home(town) / "projects/d/inside").write_text("x")
    said = town.persist("adopt", "ada")
    assert said.status == 1
    assert "d has something mounted on it" in said.err
    assert (home(town) / "projects/a").read_text() == "one"
    assert not kept(town).exists()


def test_a_file_mounted_on_a_file_is_refused_by_name(town: Town) -> None:
    lived_in(town, SMALL)
    kernel.mount("/etc/hostname", str(home(town) / "projects/a"), None, 4096)
    said = town.persist("adopt", "ada")
    assert said.status == 1
    assert "a has something mounted on it" in said.err
    assert not kept(town).exists()


def test_a_device_and_a_hard_link_to_anothers_file_are_refused_by_name(town: Town) -> None:
    lived_in(town, SMALL)
    os.mknod(home(town) / "projects/disk", stat.S_IFBLK | 0o600, os.makedev(7, 0))
    secret = town.agents / "secret"
    secret.write_text("of root alone")
    secret.chmod(0o600)
    with files.opened(files.open_dir(home(town))) as fd:
        assert btrfs.is_subvolume(fd)
    plain = lived_in_plain(town)
    os.link(secret, plain / "projects/stolen")
    said = town.persist("adopt", "ada", "vox")
    assert said.status == 1
    assert "ada: projects: disk is a device" in said.err
    assert "vox: projects: stolen is a hard link to a file of uid 0" in said.err
    assert not kept(town).exists()


def lived_in_plain(town: Town) -> Path:
    """A home of vox's in the subvolume of agents_dir itself: what lies there can be linked into it."""
    town.write('["projects"]', '["projects"]')
    where = town.agents / "vox"
    (where / "projects").mkdir(parents=True)
    for path in (where, where / "projects"):
        os.chown(path, VOX, VOX)
    return where


def test_bits_that_lend_anothers_rights_are_left_out_and_said_and_the_agents_own_stay(town: Town) -> None:
    lived_in(town, SMALL + "\nopen('projects/own', 'w'); os.chmod('projects/own', 0o4755)")
    theirs = home(town) / "projects/theirs"
    theirs.write_text("#!/bin/sh")
    theirs.chmod(0o4755)
    capable = home(town) / "projects/capable"
    capable.write_text("x")
    os.setxattr(capable, "security.capability", struct.pack("<5I", 0x02000001, 1 << 7, 0, 0, 0))
    said = town.persist("adopt", "ada")
    assert said.status == 0
    assert "without set-uid" in said.out
    assert (kept(town) / "own").stat().st_mode & 0o7777 == 0o4755
    assert ((kept(town) / "theirs").stat().st_mode & 0o7777, (kept(town) / "theirs").stat().st_uid) == (0o755, 0)
    assert "security.capability" not in os.listxattr(kept(town) / "capable")


def test_access_lists_are_kept_but_the_declared_directory_itself_is_closed(town: Town) -> None:
    lived_in(town, SMALL)
    for path in ("projects", "projects/a"):
        process.run(["setfacl", "-m", f"u:{VOX}:rwx", home(town) / path])
    process.run(["setfacl", "-d", "-m", f"u:{VOX}:rwx", home(town) / "projects/d"])
    before = tree(home(town) / "projects")
    assert town.persist("adopt", "ada").status == 0
    assert tree(kept(town)) == before
    assert "system.posix_acl_access" not in os.listxattr(kept(town))
    assert kept(town).stat().st_mode & 0o077 == 0


def test_a_tree_deeper_than_any_path_is_moved(town: Town) -> None:
    deep = (
        "import os; os.mkdir('projects'); os.chdir('projects')\nfor _ in range(2500): os.mkdir('d'); os.chdir('d')\n"
        "open('bottom', 'w').write('here')"
    )
    lived_in(town, deep)
    assert town.persist("adopt", "ada").status == 0
    fd = files.open_dir(kept(town))
    for _ in range(2500):
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    assert files.names(fd) == [b"bottom"]
    os.close(fd)
    assert os.listdir(home(town)) == ["projects"]


def test_nothing_is_copied_to_another_place_through_a_link(town: Town) -> None:
    lived_in(town, "import os; os.mkdir('real'); open('real/x', 'w'); os.symlink('real', 'projects')")
    said = town.persist("adopt", "ada")
    assert said.status == 1
    assert "symbolic link" in said.err
    assert not kept(town).exists()


def test_what_changes_each_time_it_is_copied_stays_where_it_is(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    lived_in(town, SMALL)
    copied, rounds = copying.copy, []

    def changing(*words: object) -> object:
        totals = copied(*words)  # type: ignore[arg-type]
        rounds.append(1)
        (home(town) / "projects/a").write_text(f"round {len(rounds)}")
        return totals

    monkeypatch.setattr(copying, "copy", changing)
    said = town.persist("adopt", "ada")
    assert said.status == 75
    assert len(rounds) == 3
    assert "changed while it was moved, and stays where it is: a " in said.err
    assert (home(town) / "projects/a").read_text() == "round 3"
    assert os.listdir(town.persisted / "agents/ada") == []
    assert sorted(os.listdir(home(town))) == ["projects"]


@pytest.mark.parametrize("how", ["content", "mapped", "new name", "mode"])
def test_what_changes_between_the_look_and_the_rename_is_copied_again(
    town: Town, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """By a process that had it open: the same size, and its time put back."""
    import mmap

    lived_in(town, SMALL)
    file = home(town) / "projects/a"
    fd = os.open(file, os.O_RDWR)
    mapped = mmap.mmap(fd, 3)
    mapped[:3] = b"one"  # its page is written to before, so that no fault tells of the next write
    made, done = apply._made_aside, []

    def changing(*words: object) -> object:
        if not done:
            times = (os.fstat(fd).st_atime_ns, os.fstat(fd).st_mtime_ns)
            match how:
                case "content":
                    os.pwrite(fd, b"two", 0)
                case "mapped":
                    mapped[:3] = b"two"
                case "new name":
                    (home(town) / "projects/d/late").write_text("late")
                case "mode":
                    os.fchmod(fd, 0o640)
            if how == "content":
                os.utime(fd, ns=times)
            done.append(1)
        return made(*words)  # type: ignore[arg-type]

    monkeypatch.setattr(apply, "_made_aside", changing)
    said = town.persist("adopt", "ada")
    mapped.close()
    os.close(fd)
    assert (said.status, said.err) == (0, "")
    kept_ = kept(town)
    assert (kept_ / "a").read_text() == ("two" if how in ("content", "mapped") else "one")
    assert (kept_ / "d/late").exists() == (how == "new name")
    assert ((kept_ / "a").stat().st_mode & 0o777 == 0o640) == (how == "mode")


def test_a_write_to_a_page_that_was_mapped_before_is_seen(
    town: Town, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No call tells of it: only the fault on a page that was written out, and a copy elsewhere writes none out."""
    import mmap

    other = tmp_path / "other"
    other.mkdir()
    kernel.mount("tmpfs", str(other), "tmpfs", 0, "mode=0711")
    town.file.write_text(town.file.read_text().replace(str(town.persisted), str(other)))
    lived_in(town, SMALL)
    fd = os.open(home(town) / "projects/a", os.O_RDWR)
    mapped, made, done = mmap.mmap(fd, 3), apply._made_aside, []
    mapped[:3] = b"one"

    def changing(*words: object) -> object:
        if not done:
            mapped[:3] = b"two"
            done.append(1)
        return made(*words)  # type: ignore[arg-type]

    monkeypatch.setattr(apply, "_made_aside", changing)
    try:
        assert town.persist("adopt", "ada").status == 0
        assert (other / "agents/ada/projects/a").read_text() == "two"
    finally:
        mapped.close()
        os.close(fd)
        towns.undo(town.agents)
        kernel.umount(str(other), kernel.MNT_DETACH)


def test_what_a_running_process_may_still_write_to_is_not_removed(town: Town) -> None:
    lived_in(town, SMALL)
    holder = subprocess.Popen(["sleep", "60"], user=ADA, group=ADA, extra_groups=[], cwd=home(town) / "projects")
    try:
        said = town.persist("adopt", "ada")
    finally:
        holder.kill()
        holder.wait()
    assert said.status == 0
    assert "stays in" in said.out
    assert "sleep 60" in said.out
    (aside,) = [name for name in os.listdir(home(town)) if name.startswith(".adopted-")]
    assert (home(town) / aside).stat().st_uid == 0
    assert (home(town) / aside / "projects/a").read_text() == "one"


def test_a_copy_on_another_filesystem_is_whole_too(town: Town, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    kernel.mount("tmpfs", str(other), "tmpfs", 0, "mode=0711")
    try:
        town.file.write_text(town.file.read_text().replace(str(town.persisted), str(other)))
        lived_in(town, FILLED)
        before = tree(home(town) / "projects")
        assert town.persist("adopt", "ada").status == 0
        assert tree(other / "agents/ada/projects") == before
        assert (other / "agents/ada/projects/sparse").stat().st_blocks * 512 < 1 << 20
    finally:
        towns.undo(town.agents)
        kernel.umount(str(other), kernel.MNT_DETACH)


def test_a_full_disk_is_said_and_nothing_moves(town: Town, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    kernel.mount("tmpfs", str(other), "tmpfs", 0, "mode=0711,size=1m")
    try:
        town.file.write_text(town.file.read_text().replace(str(town.persisted), str(other)))
        lived_in(town, SMALL + "\nopen('projects/big', 'wb').write(bytes(range(256)) * 8000)")
        said = town.persist("adopt", "ada")
        assert said.status == 1
        assert "is full" in said.err
        assert os.listdir(other / "agents/ada") == []
        assert sorted(os.listdir(home(town) / "projects")) == ["a", "big", "d"]
    finally:
        towns.undo(town.agents)
        kernel.umount(str(other), kernel.MNT_DETACH)


def test_without_btrfs_nothing_is_bound_in_a_home_that_the_next_restore_sets_aside(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(towns, "ADA", ADA)
    plain = Town(tmp_path / "plain", "", capsys)
    for path in (plain.base, plain.agents, plain.persisted):
        path.mkdir(mode=0o755)
    plain.write('["projects"]')
    lived_in(plain, FILLED, subvolume=False)
    before = tree(home(plain) / "projects")
    try:
        said = plain.persist("adopt", "ada")
        assert (said.status, said.err) == (0, "")
        assert "persist restore ada binds it in a new one" in said.out
        assert mounts.below(plain.agents) == []
        assert tree(kept(plain)) == before
        assert os.listdir(home(plain)) == ["other"]
        assert plain.persist("restore", "ada").status == 0
        assert tree(home(plain) / "projects") == before
    finally:
        towns.undo(plain.base)


def test_renames_and_links_in_a_loop_bring_nothing_in_and_lose_nothing(town: Town) -> None:
    """A racer with the agent's uid swaps names inside what is moved, and the declared directory itself, for seconds."""
    many = "import os\nos.makedirs('projects')\n"
    many += "for n in range(60): os.mkdir(f'projects/d{n}'); open(f'projects/d{n}/x', 'w').write(str(n))"
    lived_in(town, many)
    secret = town.base / "secret"
    secret.mkdir()
    (secret / "x").write_text("root's alone")
    racer = f"""
import os, time
print('ready', flush=True)
until = time.monotonic() + 4
def swap(one, other):
    try:
        os.rename(one, other); os.symlink({str(secret)!r}, one); os.unlink(one); os.rename(other, one)
    except OSError:
        pass
while time.monotonic() < until:
    for n in range(0, 60, 5):
        swap(f'projects/d{{n}}', f'projects/e{{n}}')
        swap(f'projects/d{{n}}/x', f'projects/d{{n}}/y')
    swap('projects', 'elsewhere')
"""
    there = subprocess.Popen(["python3", "-c", racer], user=ADA, group=ADA, extra_groups=[], cwd=home(town),
                             stdout=subprocess.PIPE)  # fmt: skip
    assert there.stdout is not None
    assert there.stdout.readline() == b"ready\n"
    statuses = []
    while there.poll() is None:
        statuses.append(town.persist("adopt", "ada").status)
    there.stdout.close()
    assert set(statuses) <= {0, 1, 75}
    assert town.persist("adopt", "ada").status in (0, 1)
    found = [path.read_text() for path in town.base.rglob("x") if "secret" not in str(path)]
    assert "root's alone" not in found
    assert set(map(str, range(60))) <= set(found)


def _adopted(town: Town) -> None:
    assert cli.main(["--spec", str(town.file), "adopt", "ada"]) == 0


def test_a_kill_at_any_moment_loses_nothing_and_the_next_run_finishes(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    lived_in(town, SMALL)
    monkeypatch.setattr(running, "of", lambda _uid: [])  # most moments, and another number each time
    before = tree(home(town) / "projects")
    moments = killing.count(lambda: _adopted(town))
    assert moments > 200
    _undone(town, before)
    step = max(1, moments // 30)
    for moment in range(moments % step, moments, step):
        if not killing.tried(lambda: _adopted(town), moment):
            continue
        places = [kept(town), home(town) / "projects", *home(town).glob(".adopted-*/projects")]
        assert any(tree(place) == before for place in places), moment
        assert town.persist("adopt", "ada").status == 0, moment
        assert tree(kept(town)) == before, moment
        assert tree(home(town) / "projects") == before, moment
        assert os.listdir(town.persisted / "agents/ada") == ["projects"], moment
        _undone(town, before)


def _undone(town: Town, before: dict[str, tuple[object, ...]]) -> None:
    """As it was before the adoption: the data in the home, nothing kept."""
    towns.undo(home(town))
    with files.opened(files.open_dir(home(town))) as fd:
        for name in files.names(fd):
            files.remove_tree(fd, name)
    if kept(town).exists():
        process.run(["cp", "-a", kept(town), home(town) / "projects"])
        with files.opened(files.open_dir(town.persisted / "agents")) as fd:
            btrfs.delete(fd, "ada")
    assert tree(home(town) / "projects") == before


def test_contents_are_compared_byte_by_byte_also_next_to_holes(tmp_path: Path) -> None:
    one, other = (tmp_path / "one").open("w+b"), (tmp_path / "other").open("w+b")
    with one, other:
        for file in (one, other):
            file.truncate(10 << 20)
            os.pwrite(file.fileno(), b"x" * 5000, 3 << 20)
        assert content.same(one.fileno(), other.fileno(), 10 << 20)
        os.pwrite(other.fileno(), b"y", (10 << 20) - 1)
        assert not content.same(one.fileno(), other.fileno(), 10 << 20)
        os.pwrite(other.fileno(), b"\0", (10 << 20) - 1)
        assert content.same(one.fileno(), other.fileno(), 10 << 20)
        os.pwrite(one.fileno(), b"z", (3 << 20) + 4000)
        assert not content.same(one.fileno(), other.fileno(), 10 << 20)
