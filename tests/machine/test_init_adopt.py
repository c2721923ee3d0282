"""`persist init --adopt`: disks that others laid out are taken over, with every byte, and restore finds them right."""

import os
import random
import stat
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from persist import init, layout
from tests import reach
from tests.machine import killing, towns
from tests.machine import rollbackdisk as disk
from tests.machine.towns import ADA, AS_ADA, AS_VOX, VOX, Said, Town, as_agent
from tests.scale import SEED, times
from town import btrfs, files, kernel, process
from town.failure import Unsafe

pytestmark = pytest.mark.root
USERS = 100  # the group that NixOS gives to ordinary users
DECLARED = '["projects", ".config/claude"]'


@pytest.fixture
def town(btrfs_device: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Town]:
    """A machine whose agents_dir is an empty directory and whose persist_dir is a subvolume; nothing else is made."""
    there = Town(tmp_path, btrfs_device, capsys)
    there.write(DECLARED, '["notes"]')
    with btrfs.top_level(btrfs_device) as top:
        os.close(btrfs.create(top, "@persist"))
    for path in (there.agents, there.persisted):
        path.mkdir()
    kernel.mount(btrfs_device, str(there.persisted), "btrfs", 0, "subvol=@persist")
    try:
        yield there
    finally:
        towns.undo(tmp_path)


def _made(path: Path, owner: int, mode: int, group: int | None = None) -> Path:
    path.mkdir()
    os.chown(path, owner, USERS if group is None and owner else (group or 0))
    path.chmod(mode)
    return path


def _written(path: Path, owner: int, text: str = "kept") -> None:
    path.write_text(text)
    os.chown(path, owner, USERS)
    path.chmod(0o644)


def seed(town: Town) -> None:
    """What the seed project tells its users to type, a home as NixOS makes it, and an agent at work in it."""
    mnt = town.base / "mnt"
    mnt.mkdir()
    kernel.mount(town.device, str(mnt), "btrfs", 0)
    process.run(["btrfs", "subvolume", "create", mnt / "@agents-blank"])
    process.run(["btrfs", "subvolume", "snapshot", mnt / "@agents-blank", mnt / "@agents"])
    kernel.umount(str(mnt))
    town.mount()
    home = _made(town.agents / "ada", ADA, 0o700)
    as_agent(AS_ADA, home, "open('payload', 'w').write('of the home')")


def impermanence(town: Town) -> None:
    """What impermanence makes for users.ada.directories = [ "projects" ".config/claude" ], and data in it."""
    above = _made(town.persisted / "agents", 0, 0o755)
    ada = _made(above / "ada", ADA, 0o700)
    _made(ada / "projects", ADA, 0o755)
    _made(ada / ".config", ADA, 0o755)
    _made(ada / ".config/claude", ADA, 0o755)
    _written(ada / "projects/work", ADA, "of the projects")
    _written(ada / ".config/claude/login", ADA, "of claude")


def _owner_mode(path: Path) -> tuple[int, int]:
    entry = path.lstat()
    return entry.st_uid, stat.S_IMODE(entry.st_mode)


def _reads(town: Town, path: str) -> bool:
    """Whether another agent can read a file below persist_dir/agents/ada, going there from persist_dir."""
    done = as_agent(AS_VOX, town.persisted, f"print(open('agents/ada/{path}').read())", check=False)
    assert done.status == 0 or b"PermissionError" in done.err
    return done.status == 0


def _everything(town: Town) -> object:
    with btrfs.top_level(town.device) as top:
        names = [
            (name, (entry := os.stat(name, dir_fd=top, follow_symlinks=False)).st_mode, entry.st_uid, entry.st_ino)
            for name in files.names(top)
        ]
    return towns.facts(town.persisted), names


def _payloads(town: Town) -> list[bytes]:
    with btrfs.top_level(town.device) as top:
        return disk.payloads(top)


def _next_boot(town: Town) -> Said:
    towns.undo(town.agents)
    said = town.persist("rollback")
    assert said.status == 0, said.err
    town.mount()
    return town.persist("restore")


def test_a_disk_of_the_seeds_is_adopted_rolled_back_and_restored_with_its_data(town: Town) -> None:
    seed(town)
    impermanence(town)
    before = _payloads(town), _everything(town)
    dry = town.persist("init", "--adopt", "--dry-run")
    assert dry.status == 0, dry.err
    assert (_payloads(town), _everything(town)) == before
    said = town.persist("init", "--adopt")
    assert (said.status, said.out) == (0, dry.out)
    assert "persist: warning: @agents-blank is empty but writable" in said.err
    assert "persist: note: @agents holds ada: the next rollback sets it aside whole, as @agents-old/<time>" in said.err
    assert _payloads(town) == before[0]
    with btrfs.top_level(town.device) as top:
        assert disk.info(top, "@agents-blank").read_only
    restored = _next_boot(town)
    assert restored.status == 0, restored.err
    home = town.agents / "ada"
    read = "import os; print(open('projects/work').read(), open('.config/claude/login').read(), os.listdir('.'))"
    assert as_agent(AS_ADA, home, read).out.startswith(b"of the projects of claude ")
    as_agent(AS_ADA, home, "open('projects/more', 'w'); open('.config/claude/more', 'w')")
    assert not (home / "payload").exists()
    assert b"of the home" in _payloads(town)


def test_a_second_adoption_changes_nothing_and_init_agrees_that_all_is_right(town: Town) -> None:
    seed(town)
    impermanence(town)
    assert town.persist("init", "--adopt").status == 0
    before = _everything(town)
    said = town.persist("init", "--adopt")
    assert (said.status, said.out) == (0, "nothing to do: everything is there and as it should be\n")
    assert _everything(town) == before
    assert town.persist("init").out == said.out


def test_adoption_makes_the_way_roots_and_leaves_the_data_to_its_agent(town: Town) -> None:
    impermanence(town)
    said = town.persist("init", "--adopt")
    ada = town.persisted / "agents/ada"
    assert [_owner_mode(ada / name) for name in ("", ".config")] == [(0, 0o711)] * 2
    assert [_owner_mode(ada / name) for name in ("projects", ".config/claude")] == [(ADA, 0o700)] * 2
    assert _owner_mode(ada / "projects/work") == (ADA, 0o644)
    assert _owner_mode(town.persisted / "agents") == (0, 0o755)  # root's already, and restore accepts it
    lines = [line for line in said.out.splitlines() if str(ada) in line]
    assert [line.split()[0] for line in lines] == ["take", "take", "close", "close", "set", "set"]
    assert lines[0] == f"take      {ada} for root, 0700 (it is uid {ADA}'s, 0700): no data below it changes"
    assert "the directory under persist_dir stays a plain one" in said.err
    as_agent(AS_VOX, town.persisted, "import os; os.stat('agents/ada/projects')")
    assert not _reads(town, "projects/work")


def _later(town: Town) -> None:
    """impermanence, later versions: directories on the way stay root's (impermanence#298)."""
    impermanence(town)
    os.chown(town.persisted / "agents/ada", 0, 0)
    os.chown(town.persisted / "agents/ada/.config", 0, 0)


def _earlier(town: Town) -> None:
    """impermanence, earlier versions: the first user's ownership goes up to the parent of homes (impermanence#111)."""
    impermanence(town)
    os.chown(town.persisted / "agents", ADA, USERS)
    (town.persisted / "agents/ada").chmod(0o755)


def _open(town: Town) -> None:
    impermanence(town)
    (town.persisted / "agents").chmod(0o1777)
    (town.persisted / "agents/ada").chmod(0o2775)


def _closed(town: Town) -> None:
    impermanence(town)
    (town.persisted / "agents").chmod(0o700)


def _incomplete(town: Town) -> None:
    impermanence(town)
    process.run(["rm", "-r", town.persisted / "agents/ada/.config"])


def test_what_others_could_not_read_before_they_could_if_the_data_were_left_open(town: Town) -> None:
    """The tests that nobody reads can fail: root's way that lets pass, and a directory that nobody closed."""
    impermanence(town)
    assert not _reads(town, "projects/work")
    (town.persisted / "agents/ada").chmod(0o711)
    assert _reads(town, "projects/work")


@pytest.mark.parametrize("laid_out", [_later, _earlier, _open, _closed, _incomplete])
def test_every_way_that_impermanence_lays_data_out_is_restored_after_adoption(
    town: Town, laid_out: Callable[[Town], None]
) -> None:
    laid_out(town)
    assert town.persist("init", "--adopt").status == 0
    above = town.persisted / "agents"
    for path in (above, above / "ada"):
        assert _owner_mode(path) in ((0, 0o711), (0, 0o755))
    assert town.persist("init").out.startswith("nothing to do")
    restored = _next_boot(town)
    assert restored.status == 0, restored.err
    assert as_agent(AS_ADA, town.agents / "ada", "print(open('projects/work').read())").out == b"of the projects\n"


def _all_wrong(town: Town) -> list[str]:
    impermanence(town)
    ada = town.persisted / "agents/ada"
    (ada / "projects").rename(ada / "elsewhere")
    (ada / "projects").symlink_to("/etc")
    process.run(["rm", "-r", ada / ".config/claude"])
    _written(ada / ".config/claude", ADA)
    vox = _made(town.persisted / "agents/vox", VOX, 0o700)
    _made(vox / "notes", 42000, 0o700)
    return [
        f"{ada}/projects is a symbolic link where a directory belongs",
        f"{ada}/.config/claude is a file where a directory belongs",
        f"{vox}/notes belongs to uid 42000, expected uid {VOX}",
    ]


def test_what_cannot_be_taken_over_is_listed_at_once_with_the_cure_and_nothing_is_changed(town: Town) -> None:
    seed(town)
    wrong = _all_wrong(town)
    before = _everything(town)
    for words in (["--dry-run"], []):
        said = town.persist("init", "--adopt", *words)
        errors = [line for line in said.err.splitlines() if not line.startswith("persist: hint: ")]
        assert (said.status, said.out) == (1, "")
        assert errors == [f"persist: error: {what}" for what in wrong]
        assert said.err.count("persist: hint: ") == len(wrong)
    assert "persist chown" in said.err
    assert "vox --from 42000" in said.err
    assert _everything(town) == before


@pytest.mark.parametrize("place", ["agents", "agents/ada", "agents/ada/.config"])
@pytest.mark.parametrize("what", ["link", "file", "another's"])
def test_a_directory_on_the_way_that_is_not_the_agents_or_roots_is_refused(town: Town, place: str, what: str) -> None:
    impermanence(town)
    path = town.persisted / place
    if what == "another's":
        os.chown(path, 42000, 42000)
    else:
        process.run(["rm", "-r", path])
        path.symlink_to("/etc") if what == "link" else path.write_text("")
    before = _everything(town)
    said = town.persist("init", "--adopt")
    assert said.status == 1
    assert str(path) in said.err
    assert _everything(town) == before
    assert _owner_mode(Path("/etc")) == (0, 0o755)


def test_names_that_nobody_declared_are_listed_and_stay_closed_where_they_are(town: Town) -> None:
    impermanence(town)
    ada = town.persisted / "agents/ada"
    _written(ada / ".bash_history", ADA, "what ada typed")
    _written(ada / "evil\n\x1b[2J", ADA, "x")
    _made(town.persisted / "agents/zed", 42000, 0o700)
    said = town.persist("init", "--adopt")
    assert said.status == 0
    assert f"{ada} holds .bash_history, evil\\n\\x1b[2J: not declared" in said.err
    assert "declare it in persist of ada" in said.err
    assert "holds zed: no agent of the spec is called so" in said.err
    assert (ada / ".bash_history").read_text() == "what ada typed"
    assert _owner_mode(ada) == (0, 0o700)
    assert not _reads(town, ".bash_history")
    assert _next_boot(town).status == 0
    assert as_agent(AS_ADA, town.agents / "ada", "print(open('projects/work').read())").out == b"of the projects\n"


def test_roots_directory_is_given_to_nobody_and_said_with_the_cure(town: Town) -> None:
    impermanence(town)
    ada = town.persisted / "agents/ada"
    os.chown(ada / "projects", 0, 0)
    said = town.persist("init", "--adopt")
    assert said.status == 0
    assert f"{ada}/projects belongs to root: ada gets it and cannot write to it" in said.err
    assert f"chown {ADA}:{ADA} {ada}/projects" in said.err
    assert _owner_mode(ada / "projects") == (0, 0o755)


def test_an_access_list_that_let_the_agent_write_is_taken_away(town: Town) -> None:
    impermanence(town)
    ada = town.persisted / "agents/ada"
    entries = [(1, 7, 0xFFFFFFFF), (2, 7, ADA), (4, 7, 0xFFFFFFFF), (0x10, 7, 0xFFFFFFFF), (0x20, 0, 0xFFFFFFFF)]
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    for name in ("system.posix_acl_access", "system.posix_acl_default"):
        os.setxattr(ada, name, acl)
    assert town.persist("init", "--adopt").status == 0
    assert os.listxattr(ada) == []
    moved = as_agent(AS_ADA, town.persisted, "import os; os.rename('agents/ada/projects', 'agents/ada/p')", check=False)
    assert b"PermissionError" in moved.err


def test_data_that_lies_in_a_home_alone_is_warned_of(town: Town) -> None:
    seed(town)
    as_agent(AS_ADA, town.agents / "ada", "import os; os.mkdir('projects'); open('projects/only', 'w').write('here')")
    said = town.persist("init", "--adopt")
    assert said.status == 0
    assert "persist: warning: ada: projects holds data in the home alone" in said.err
    told = [f"persist {verb} --spec {town.file}" for verb in ("rollback", "restore", "recall")]
    assert f"persist: hint: after {told[0]} and {told[1]}: {told[2]} ada@" in said.err
    assert _next_boot(town).status == 0
    assert b"here" in _payloads(town)


def test_what_impermanence_keeps_for_another_agents_dir_is_pointed_at(town: Town) -> None:
    there = town.persisted / str(town.agents).removeprefix("/")
    there.mkdir(parents=True)
    said = town.persist("init", "--adopt")
    assert f"{there} is there, where impermanence keeps data" in said.err


def _plain_homes(top: int) -> None:
    os.mkdir("@agents", 0o777, dir_fd=top)
    disk.put(top, "@agents/payload", b"in a plain directory")


def _homes_of_an_agent(top: int) -> None:
    with files.opened(btrfs.create(top, "@agents")) as fd:
        os.fchown(fd, ADA, ADA)
        os.close(btrfs.create(fd, "nested"))
    disk.put(top, "@agents/nested/payload", b"in a nested subvolume")


def _homes_file(top: int) -> None:
    disk.put(top, "@agents", b"a file")


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (_plain_homes, "@agents is a plain directory, holds payload: the next rollback sets it aside whole"),
        (_homes_of_an_agent, "@agents holds nested, has 1 nested subvolume: the next rollback"),
        (_homes_file, "@agents is no directory: the next rollback"),
    ],
)
def test_whatever_stands_at_the_name_of_agents_is_left_and_set_aside_by_the_rollback(
    town: Town, made: Callable[[int], None], says: str
) -> None:
    with btrfs.top_level(town.device) as top:
        made(top)
        before = disk.payloads(top)
    said = town.persist("init", "--adopt")
    assert said.status == 0, said.err
    assert says in said.err
    assert _payloads(town) == before
    assert _next_boot(town).status == 0
    assert set(before) <= set(_payloads(town))
    with btrfs.top_level(town.device) as top:
        assert len(disk.old_homes(top)) == 1


def test_a_mounted_agents_that_is_not_roots_is_no_hindrance(town: Town) -> None:
    with btrfs.top_level(town.device) as top:
        _homes_of_an_agent(top)
    town.mount()
    assert town.persist("init", "--adopt").status == 0
    assert _owner_mode(town.agents) == (ADA, 0o755)
    assert _next_boot(town).status == 0


def test_modes_of_what_is_roots_at_the_top_are_corrected(town: Town) -> None:
    with btrfs.top_level(town.device) as top:
        for name in ("@agents-blank", "@agents-ballast"):
            os.close(btrfs.create(top, name))
        os.chmod("@agents-blank", 0o700, dir_fd=top)
        os.chmod("@agents-ballast", 0o700, dir_fd=top)
        os.mkdir("@agents-old", 0o755, dir_fd=top)
        with disk.subvolume(top, "@agents-blank") as fd:
            btrfs.set_read_only(fd, True)
    assert town.persist("init").status == 1
    said = town.persist("init", "--adopt")
    assert said.status == 0, said.err
    assert said.out.splitlines()[0] == "set       @agents-blank root:root 0755 (it is 0700)"
    with btrfs.top_level(town.device) as top:
        assert disk.info(top, "@agents-blank").read_only
    assert _next_boot(town).status == 0
    assert town.persist("init").out.startswith("nothing to do")


def test_a_blank_that_an_agent_may_have_touched_is_never_adopted(town: Town) -> None:
    seed(town)
    with btrfs.top_level(town.device) as top:
        disk.put(top, "@agents-blank/.profile", b"evil")
    said = town.persist("init", "--adopt")
    assert (said.status, said.out) == (1, "")
    assert "error: @agents-blank is not empty" in said.err
    with btrfs.top_level(town.device) as top:
        os.unlink("@agents-blank/.profile", dir_fd=top)
        with disk.subvolume(top, "@agents-blank") as fd:
            os.fchown(fd, ADA, ADA)
    assert "@agents-blank is not root:root 0755" in town.persist("init", "--adopt").err


def test_an_adoption_killed_at_any_moment_shows_nothing_and_is_finished_by_the_next(town: Town) -> None:
    def run() -> object:
        return init.prepare(spec, adopt=True)

    def fresh() -> None:
        process.run(["rm", "-rf", town.persisted / "agents"])
        _earlier(town)
        _written(town.persisted / "agents/ada/.secret", ADA)
        (town.persisted / "agents/ada").chmod(0o700)

    seed(town)
    spec = town.spec
    run()
    fresh()
    calls = killing.count(run)
    ada = town.persisted / "agents/ada"
    right = {"": (0, 0o700), ".config": (0, 0o711), "projects": (ADA, 0o700), ".config/claude": (ADA, 0o700)}
    for moment in random.Random(SEED).sample(range(calls), min(times(15), calls)):
        fresh()
        assert not _reads(town, "projects/work")
        killing.killed(run, moment)
        for path in ("projects/work", ".config/claude/login", ".secret"):
            assert not _reads(town, path), (moment, path)
        run()
        assert {name: _owner_mode(ada / name) for name in right} == right, moment
        assert layout.plan(spec, adopt=True).actions == ()
        assert (ada / "projects/work").read_text() == "of the projects"


@pytest.mark.parametrize("name", [".config", "projects"])
def test_what_was_swapped_after_the_plan_is_refused_and_what_it_leads_to_is_untouched(
    town: Town, tmp_path: Path, name: str
) -> None:
    impermanence(town)
    victims = _made(tmp_path / "root's", 0, 0o755), _made(town.persisted / "vox's", VOX, 0o755, VOX)
    swapped = town.persisted / "agents/ada" / name
    away = swapped.with_name("away")
    for number, victim in enumerate(victims):
        plan = layout.plan(town.spec, adopt=True)
        swapped.rename(away)
        swapped.symlink_to(victim) if number == 0 else victim.rename(swapped)
        with pytest.raises(Unsafe):
            list(layout.apply(town.spec, plan.actions))
        if number == 1:
            swapped.rename(victim)
        else:
            swapped.unlink()
        assert _owner_mode(victim) == ((0, 0o755), (VOX, 0o755))[number]
        away.rename(swapped)
    assert town.persist("init", "--adopt").status == 0


# Runs as the agent: a directory on the way is there, then a link to what is somebody else's, then there again.
SWAP = """
import os, sys
way, victim = sys.argv[1:]
os.symlink(victim, way + ".link")
print("ready", flush=True)
while True:
    try:
        os.rename(way, way + ".away")
        os.rename(way + ".link", way)
        os.rename(way, way + ".link")
        os.rename(way + ".away", way)
    except PermissionError:
        break
    except FileNotFoundError:
        pass
"""


def test_an_agent_that_swaps_directories_while_root_adopts_leads_root_nowhere(town: Town, tmp_path: Path) -> None:
    seed(town)
    victim = _made(tmp_path / "victim", 0, 0o755)
    _made(victim / "claude", 0, 0o755)
    outcomes = set()
    for number in range(times(12)):
        process.run(["rm", "-rf", town.persisted / "agents"])
        impermanence(town)
        way = town.persisted / "agents/ada/.config"
        running = subprocess.Popen(
            [reach.PYTHON, "-c", SWAP, ".config", victim],
            cwd=way.parent,
            user=ADA,
            group=ADA,
            extra_groups=[],
            stdout=subprocess.PIPE,
        )
        try:
            assert running.stdout is not None
            assert running.stdout.readline() == b"ready\n"
            time.sleep(0.002 * (number % 5))
            outcomes.add(town.persist("init", "--adopt").status)
        finally:
            running.kill()
            running.communicate()
        assert [_owner_mode(path) for path in (victim, victim / "claude")] == [(0, 0o755)] * 2
        # Once the agent is stopped, and what it left is removed, the next run finishes.
        away, link = way.with_name(".config.away"), way.with_name(".config.link")
        if away.exists():
            if way.is_symlink():
                way.unlink()
            away.rename(way)
        link.unlink(missing_ok=True)
        assert town.persist("init", "--adopt").status == 0
        assert _owner_mode(way) == (0, 0o711)
        assert (way / "claude/login").read_text() == "of claude"
    assert outcomes <= {0, 1}


def test_adoption_goes_with_no_store_and_help_shows_how(town: Town) -> None:
    assert town.persist("init", "--adopt", "--store").status == 2
    town.capsys.readouterr()
    with pytest.raises(SystemExit):
        town.persist("init", "--help")
    assert "persist init --adopt --dry-run && persist init --adopt" in town.capsys.readouterr().out
