"""Declared files are copied in at restore and out at sync, as the agent's real uid has them: whole, nothing else."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from persist import copies, places
from tests.machine import towns
from tests.machine.stores import with_store
from tests.machine.towns import ADA, AS_ADA, VOX, Said, Town, as_agent, town, undo
from tests.reach import PYTHON
from town import kernel, process

__all__ = ["town"]
pytestmark = pytest.mark.root
FILE = ".config/tool.toml"
ADA_PERSISTS = f'["projects", {{ path = "{FILE}", type = "file" }}]'
LOCAL = f'[{{ path = "{FILE}", type = "file", via = "bind" }}]'


@pytest.fixture
def there(town: Town) -> Town:
    """A town with a store, in which ada declares a directory and a file, restored."""
    with_store(town, ADA_PERSISTS)
    assert town.persist("init", "--store").status == 0
    restored(town)
    return town


def restored(town: Town, *words: str) -> Said:
    said = town.persist("restore", "ada", *words)
    assert said.status == 0, said
    return said


def synced(town: Town, *words: str) -> Said:
    said = town.persist("sync", "ada", *words)
    assert said.status == 0, said
    return said


def home(town: Town) -> Path:
    return town.agents / "ada"


def kept(town: Town) -> Path:
    """What is kept of the file."""
    entry = next(entry for entry in town.spec.agent("ada").persist if entry.copied)
    return places.source(town.spec, town.spec.agent("ada"), entry) / "tool.toml"


def writes(town: Town, text: str, name: str = FILE) -> None:
    program = (
        f"import os; os.makedirs(os.path.dirname({name!r}) or '.', exist_ok=True); open({name!r}, 'w').write({text!r})"
    )
    as_agent(AS_ADA, home(town), program)


def booted(town: Town, key: str = "20261121T000000Z-boot") -> None:
    town.boot(key)


def test_a_file_comes_back_after_a_reboot_with_its_mode_and_time(there: Town) -> None:
    writes(there, "one")
    as_agent(AS_ADA, home(there), f"import os; os.chmod({FILE!r}, 0o640); os.utime({FILE!r}, ns=(0, 10**18))")
    synced(there)
    booted(there)
    restored(there)
    found = (home(there) / FILE).stat()
    assert (home(there) / FILE).read_text() == "one"
    assert (found.st_uid, found.st_gid, found.st_mode & 0o7777, found.st_mtime_ns) == (ADA, ADA, 0o640, 10**18)
    above = (home(there) / ".config").stat()
    assert (above.st_uid, above.st_mode & 0o7777) == (ADA, 0o700)


def test_what_is_kept_is_roots_alone_in_root_owned_parents(there: Town) -> None:
    writes(there, "secret")
    synced(there)
    path = kept(there)
    assert [(at.stat().st_uid, at.stat().st_mode & 0o7777) for at in (path.parent, path.parent.parent)] == [
        (0, 0o700),
        (0, 0o711),
    ]


def test_a_file_is_no_mount_so_a_program_replaces_it_by_rename(there: Town) -> None:
    writes(there, "one")
    synced(there)
    booted(there)
    restored(there)
    as_agent(AS_ADA, home(there), f"import os; open('new', 'w').write('two'); os.rename('new', {FILE!r})")
    synced(there)
    booted(there, "20261121T000001Z-boot")
    restored(there)
    assert (home(there) / FILE).read_text() == "two"


def test_a_second_run_changes_no_byte(there: Town) -> None:
    writes(there, "one")
    synced(there)
    booted(there)
    restored(there)
    before = towns.facts(there.agents), towns.facts(there.persisted)
    assert "nothing to do" in restored(there).out
    assert (towns.facts(there.agents), towns.facts(there.persisted)) == before


def test_a_sync_of_a_file_that_did_not_change_sends_and_writes_nothing(there: Town) -> None:
    writes(there, "one")
    synced(there)
    before = kept(there).stat()
    said = synced(there)
    assert "nothing new" in said.out
    assert (kept(there).stat().st_ino, kept(there).stat().st_ctime_ns) == (before.st_ino, before.st_ctime_ns)


def test_after_a_power_cut_the_file_of_the_home_set_aside_comes_back(there: Town) -> None:
    writes(there, "one")
    synced(there)
    writes(there, "two, never synced")
    booted(there)
    restored(there)
    assert (home(there) / FILE).read_text() == "two, never synced"


def test_a_file_that_was_never_copied_comes_back_after_a_power_cut_too(there: Town) -> None:
    writes(there, "never synced")
    booted(there)
    restored(there)
    assert (home(there) / FILE).read_text() == "never synced"


def power_cut(town: Town, image: Path, key: str) -> None:
    """The disk of the homes is as it was written up to now, not what only memory has; then the machine boots."""
    held = image.with_name("held.img")
    process.run(["cp", "--sparse=always", image, held])
    undo(town.agents)
    process.run(["cp", "--sparse=always", held, image])
    process.run(["blockdev", "--flushbufs", town.device])
    town.mount()
    booted(town, key)


def test_a_power_cut_right_after_a_restore_does_not_make_the_file_pass_for_a_removed_one(
    town: Town, btrfs_image: Path
) -> None:
    undo(town.persisted)  # what is kept lies on another disk
    with_store(town, f'[{{ path = "work", via = "store" }}, {{ path = "{FILE}", type = "file" }}]')
    assert town.persist("init", "--store").status == 0
    restored(town)
    writes(town, "one")
    synced(town)
    booted(town)
    restored(town)
    power_cut(town, btrfs_image, "20261121T000001Z-boot")
    restored(town)
    assert (home(town) / FILE).read_text() == "one"


def test_after_a_power_cut_an_older_file_of_the_home_set_aside_does_not_come_over_what_was_synced(
    town: Town, btrfs_image: Path
) -> None:
    undo(town.persisted)
    town.write(LOCAL)
    restored(town)
    writes(town, "one")
    os.sync()
    writes(town, "two")
    synced(town)
    assert kept(town).read_text() == "two"
    power_cut(town, btrfs_image, "20261121T000000Z-boot")
    restored(town)
    assert (home(town) / FILE).read_text() == "two"


def test_after_a_power_cut_a_file_whose_removal_was_synced_does_not_come_back(town: Town, btrfs_image: Path) -> None:
    undo(town.persisted)
    town.write(LOCAL)
    restored(town)
    writes(town, "one")
    synced(town)
    os.sync()
    os.unlink(home(town) / FILE)
    synced(town)
    assert not kept(town).exists()
    power_cut(town, btrfs_image, "20261121T000000Z-boot")
    restored(town)
    assert not (home(town) / FILE).exists()


def test_on_a_host_without_btrfs_the_first_restore_of_a_boot_takes_it_from_the_home_before(town: Town) -> None:
    undo(town.agents)
    kernel.mount("tmpfs", str(town.agents), "tmpfs", 0, "mode=0755")
    town.write(LOCAL, btrfs_device="")
    restored(town)
    for text in ("one", "two"):
        writes(town, text)
        shutil.rmtree(town.base / "run")  # what a reboot takes away
        restored(town)
        assert (home(town) / FILE).read_text() == text
    assert len(list(town.agents.glob(".old/*/ada*"))) == 2


def test_on_a_host_without_btrfs_a_home_that_was_set_aside_by_a_restore_cut_off_is_found(town: Town) -> None:
    undo(town.agents)
    kernel.mount("tmpfs", str(town.agents), "tmpfs", 0, "mode=0755")
    town.write(LOCAL, btrfs_device="")
    restored(town)
    writes(town, "one")
    aside = town.agents / ".old/20261121T000000Z-boot"
    aside.mkdir(parents=True, mode=0o700)
    aside.parent.chmod(0o700)
    home(town).rename(aside / "ada.1")
    restored(town)
    assert (home(town) / FILE).read_text() == "one"


def test_the_home_set_aside_is_found_by_its_subvolume_and_never_by_a_name(there: Town) -> None:
    writes(there, "one")
    synced(there)
    booted(there)  # its number is in the record; another home takes its name and place meanwhile
    with towns.btrfs.top_level(there.device) as top:
        os.rename("@agents-old/20261121T000000Z-boot", "@agents-old/elsewhere", src_dir_fd=top, dst_dir_fd=top)
        os.mkdir("@agents-old/20261121T000000Z-boot", dir_fd=top)
        os.mkdir("@agents-old/20261121T000000Z-boot/ada", dir_fd=top)
    restored(there)
    assert (home(there) / FILE).read_text() == "one"


def test_a_file_that_the_agent_removed_stays_removed(there: Town) -> None:
    writes(there, "one")
    synced(there)
    os.unlink(home(there) / FILE)
    said = there.persist("sync", "ada")
    assert "lost 1 of its 1 file" in said.err  # the store keeps it until somebody says that it was meant
    assert not kept(there).exists()
    restored(there)
    booted(there)
    restored(there)
    assert not (home(there) / FILE).exists()
    assert synced(there, "--accept-loss").status == 0


def test_a_file_that_was_removed_is_not_copied_in_again_by_a_second_restore(there: Town) -> None:
    writes(there, "one")
    synced(there)
    booted(there)
    restored(there)
    os.unlink(home(there) / FILE)
    assert "nothing to do" in restored(there).out
    assert not (home(there) / FILE).exists()


def test_a_fresh_machine_fetches_it_from_the_store(there: Town) -> None:
    writes(there, "one")
    synced(there)
    shutil.rmtree(there.persisted / "agents")
    shutil.rmtree(there.persisted / ".nuketown/copies")
    booted(there)
    said = restored(there)
    assert "fetch" in said.out
    assert (home(there) / FILE).read_text() == "one"
    assert "nothing new" in synced(there).out


def test_restore_at_brings_an_older_file_and_sets_the_live_one_aside(there: Town) -> None:
    writes(there, "old")
    first = synced(there).out.split("snapshot ")[1].split()[0]
    writes(there, "new")
    synced(there)
    writes(there, "newest")
    restored(there, "--at", first)
    assert (home(there) / FILE).read_text() == "old"
    aside = list((there.persisted / "agents/ada").glob(".config-tool.toml.before-*/whole/tool.toml"))
    assert [path.read_text() for path in aside] == ["newest"]


def test_persist_get_gives_the_file_itself(there: Town) -> None:
    writes(there, "one")
    synced(there)
    assert there.persist("get", "ada", FILE, "--to", str(there.base / "out")).status == 0
    assert (there.base / "out/tool.toml").read_text() == "one"


def test_a_town_without_a_store_copies_files_too(town: Town) -> None:
    town.write(LOCAL)
    restored(town)
    writes(town, "one")
    assert town.persist("sync").status == 0
    booted(town)
    restored(town)
    assert (home(town) / FILE).read_text() == "one"


def test_a_file_that_lies_in_the_home_before_anything_is_kept_is_kept(town: Town) -> None:
    town.write("[]")
    restored(town)
    writes(town, "mine")
    town.write(LOCAL)
    restored(town)
    assert kept(town).read_text() == "mine"


def test_another_file_in_the_home_is_not_written_over_and_both_ways_on_are_said(there: Town) -> None:
    writes(there, "kept")
    synced(there)
    booted(there)
    (home(there)).mkdir(mode=0o700)
    os.chown(home(there), ADA, ADA)
    writes(there, "in the home")
    said = there.persist("restore", "ada")
    assert said.status == 1
    assert "another one is kept in" in said.err
    assert ((home(there) / FILE).read_text(), kept(there).read_text()) == ("in the home", "kept")


REFUSED = {
    "a symlink to another's file": f"import os; os.unlink({FILE!r}); os.symlink('/etc/shadow', {FILE!r})",
    "a symlink to a file of its own": f"import os; os.rename({FILE!r}, 'own'); os.symlink('../own', {FILE!r})",
    "a symlink above it": "import os; os.rename('.config', 'other'); os.symlink('other', '.config')",
    "a FIFO": f"import os; os.unlink({FILE!r}); os.mkfifo({FILE!r})",
    "a directory": f"import os; os.unlink({FILE!r}); os.mkdir({FILE!r})",
    "a socket": f"import os, socket; os.unlink({FILE!r}); socket.socket(socket.AF_UNIX).bind({FILE!r})",
    "two names": f"import os; os.link({FILE!r}, 'again')",
    "more than 16 MiB": f"import os; os.truncate({FILE!r}, (16 << 20) + 1)",
    "a huge hole": f"import os; os.truncate({FILE!r}, 1 << 40)",
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_plain_file_is_said_and_what_was_kept_stays(there: Town, what: str) -> None:
    writes(there, "one")
    synced(there)
    as_agent(AS_ADA, home(there), REFUSED[what])
    began = time.monotonic()
    said = there.persist("sync", "ada")
    assert said.status == 1
    assert "tool.toml" in said.err
    assert time.monotonic() - began < 5
    assert kept(there).read_text() == "one"


def test_a_file_of_somebody_else_is_not_taken(there: Town) -> None:
    writes(there, "one")
    synced(there)
    os.chown(home(there) / FILE, VOX, VOX)
    said = there.persist("sync", "ada")
    assert (said.status, kept(there).read_text()) == (1, "one")
    assert f"belongs to uid {VOX}" in said.err


def test_sixteen_mebibytes_are_taken_whole(there: Town) -> None:
    as_agent(AS_ADA, home(there), f"import os; os.makedirs('.config'); open({FILE!r}, 'wb').write(b'x' * (16 << 20))")
    synced(there)
    assert kept(there).stat().st_size == copies.LARGEST == 16 << 20


def test_a_set_uid_bit_is_not_kept(there: Town) -> None:
    writes(there, "one")
    as_agent(AS_ADA, home(there), f"import os; os.chmod({FILE!r}, 0o6755)")
    synced(there)
    assert kept(there).stat().st_mode & 0o7777 == 0o755


@contextmanager
def agents_process(town: Town, program: str, stdout: int | None = None) -> Iterator["subprocess.Popen[bytes]"]:
    """Python source that runs as ada, in her home, until the block ends."""
    started = subprocess.Popen(
        [PYTHON, "-c", program], cwd=home(town), user=ADA, group=ADA, extra_groups=[], stdout=stdout
    )
    try:
        with started:
            yield started
            started.kill()
    except BaseException:
        started.kill()
        raise


RACER = """
import os, time
until = time.time() + SECONDS
os.makedirs("real", exist_ok=True)
while time.time() < until:
    for act in (
        lambda: os.rename(".config", "real/aside"),
        lambda: os.symlink("VICTIM", ".config"),
        lambda: os.unlink(".config"),
        lambda: os.rename("real/aside", ".config"),
        lambda: os.unlink(".config/tool.toml"),
        lambda: os.symlink("VICTIM/tool.toml", ".config/tool.toml"),
        lambda: os.unlink(".config/tool.toml"),
        lambda: open(".config/tool.toml", "w").write("mine"),
    ):
        try:
            act()
        except OSError:
            pass
"""


def test_a_racer_that_swaps_every_component_gives_root_nothing_of_others(there: Town) -> None:
    victim = there.persisted / "victim"  # another filesystem than /tmp, which a sweep of another test may clear
    victim.mkdir()
    (victim / "tool.toml").write_text("another's secret")
    os.chown(victim / "tool.toml", VOX, VOX)
    writes(there, "mine")
    synced(there)
    program = RACER.replace("VICTIM", str(victim)).replace("SECONDS", "4")
    with agents_process(there, program) as racer:
        while racer.poll() is None:
            copies.take(there.spec, there.spec.agent("ada"))
            there.persist("restore", "ada")
            if kept(there).exists():
                assert kept(there).read_text() in ("mine", "")
    assert (victim / "tool.toml").read_text() == "another's secret"
    assert (victim / "tool.toml").stat().st_uid == VOX
    assert os.listdir(victim) == ["tool.toml"]


def test_what_a_store_gives_in_the_place_of_a_file_is_not_copied_into_the_home(there: Town) -> None:
    writes(there, "one")
    synced(there)
    booted(there)
    path = kept(there)
    path.unlink()
    path.symlink_to("/etc/shadow")
    said = there.persist("restore", "ada")
    assert said.status == 1
    assert not os.path.lexists(home(there) / FILE)


HOLDER = f"""
import fcntl, signal, time
signal.signal(signal.SIGIO, signal.SIG_IGN)
held = open({FILE!r})
fcntl.fcntl(held, fcntl.F_SETLEASE, fcntl.F_WRLCK)
print(1, flush=True)
time.sleep(60)
"""


def test_a_lease_that_the_agent_holds_on_its_file_delays_nobody(there: Town) -> None:
    writes(there, "one")
    with agents_process(there, HOLDER, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"1\n"
        began = time.monotonic()
        said = there.persist("sync", "ada")
        assert time.monotonic() - began < 10
        assert said.status == 75, said
        assert "is held by a process" in said.err
