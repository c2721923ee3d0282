"""`persist release`: an agent's binds are taken away, nobody else's, and under nobody's feet."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from persist import release, running
from tests.machine import towns
from tests.machine.movers import ADA, AS_ADA, VOX, home, kept, town
from tests.machine.towns import Town, as_agent
from tests.reach import PYTHON
from town import files, kernel, mounts

__all__ = ["town"]
pytestmark = pytest.mark.root


def _restored(town: Town, ada: str = '["projects", "notes", "a/b"]') -> None:
    town.write(ada, '["projects"]')
    assert town.persist("restore").status == 0


def _binds(town: Town, agent: str = "ada") -> list[str]:
    return sorted(os.fsdecode(mount.target) for mount in mounts.below(town.agents / agent))


@contextmanager
def _running(
    town: Town, program: str = "", *, uid: int = ADA, cwd: Path | None = None
) -> Iterator[subprocess.Popen[str]]:
    """A process of the agent that says when it is ready, in its home."""
    source = f"import time, os, signal, sys\n{program}\nprint('ready', flush=True)\ntime.sleep(100)"
    there = subprocess.Popen(
        [PYTHON, "-c", source], user=uid, group=uid, extra_groups=[], cwd=cwd or home(town), text=True,
        stdout=subprocess.PIPE,
    )  # fmt: skip
    assert there.stdout is not None
    try:
        assert there.stdout.readline() == "ready\n"
        yield there
    finally:
        there.kill()
        there.wait()
        there.stdout.close()


def test_the_binds_of_one_agent_go_and_its_data_and_the_others_binds_stay(town: Town) -> None:
    _restored(town)
    as_agent(AS_ADA, home(town), "open('projects/x', 'w').write('kept')")
    before = towns.facts(town.persisted / "agents")
    said = town.persist("release", "ada")
    assert (said.status, said.err) == (0, "")
    assert said.out.count("unmount ") == 3
    assert _binds(town) == []
    assert len(_binds(town, "vox")) == 1
    assert towns.facts(town.persisted / "agents") == before
    assert os.listdir(home(town) / "projects") == []
    assert (kept(town) / "x").read_text() == "kept"
    again = town.persist("release", "ada")
    assert (again.status, again.out) == (0, "ada: nothing to release\n")
    assert town.persist("restore", "ada").status == 0
    assert (home(town) / "projects/x").read_text() == "kept"


def test_a_dry_run_names_what_would_go_and_takes_nothing(town: Town) -> None:
    _restored(town)
    before = _binds(town)
    said = town.persist("release", "ada", "--dry-run")
    assert said.status == 0
    assert said.out.count("unmount ") == 3
    assert _binds(town) == before


def test_it_refuses_while_processes_of_the_agent_run_and_names_them(town: Town) -> None:
    _restored(town)
    with _running(town, "sys.argv[0] = 'x'") as there:
        said = town.persist("release", "ada")
    assert said.status == 1
    assert f"{there.pid} (" in said.err
    assert "hint: persist release" in said.err
    assert len(_binds(town)) == 3


def test_what_a_process_calls_itself_cannot_act_on_the_terminal(town: Town) -> None:
    _restored(town)
    with _running(town, "open('/proc/self/comm', 'wb').write(b'\\x1b[2Ja\\n')"):
        found = subprocess.Popen(
            ["sleep\x1b[31m\n", "100"], executable="/bin/sleep", user=ADA, group=ADA, extra_groups=[]
        )
        try:
            said = town.persist("release", "ada")
        finally:
            found.kill()
            found.wait()
    assert said.status == 1
    assert "\x1b" not in said.err
    assert r"sleep\x1b[31m\n 100" in said.err


@pytest.mark.parametrize("hold", ["cwd", "file", "map", "root"])
def test_it_refuses_while_somebody_else_holds_a_bind(town: Town, hold: str) -> None:
    """Root's own shell, say: in there, with a file open, or mapped and closed."""
    _restored(town)
    (home(town) / "projects/x").write_bytes(bytes(4096))
    programs = {
        "cwd": "os.chdir('projects')",
        "file": "f = open('projects/x')",
        "map": "import mmap\nf = open('projects/x')\nm = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)\nf.close()",
        "root": "import _posixsubprocess\nos.chroot('projects')",
    }
    with _running(town, programs[hold], uid=0) as there:
        said = town.persist("release", "--stop", "ada")
        assert there.poll() is None
    assert said.status == 1
    assert f"somebody else has {home(town)} in use: {there.pid} (" in said.err
    assert len(_binds(town)) == 3
    assert town.persist("release", "ada").status == 0


def test_a_holder_in_another_mount_namespace_is_found(town: Town) -> None:
    _restored(town)
    (home(town) / "projects/x").write_text("x")
    program = "from ctypes import CDLL\nassert CDLL(None).unshare(0x20000) == 0\nf = open('projects/x')"
    with _running(town, program, uid=0) as there:
        said = town.persist("release", "ada")
    assert said.status == 1
    assert f"{there.pid} (" in said.err


def test_stop_ends_processes_and_then_takes_the_binds(town: Town) -> None:
    _restored(town)
    with _running(town) as there:
        said = town.persist("release", "ada", "--stop")
        assert there.wait(5) == -signal.SIGTERM
    assert said.status == 0
    assert f"end     {there.pid} (" in said.out
    assert _binds(town) == []


def test_stop_kills_what_ignores_being_asked(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    _restored(town)
    monkeypatch.setattr(running, "GRACE", 0.3)
    with _running(town, "signal.signal(signal.SIGTERM, signal.SIG_IGN)") as there:
        assert running.end(ADA, grace=0.3)
        assert there.wait(5) == -signal.SIGKILL
    assert town.persist("release", "ada").status == 0


_FORKS = """
import os
for _ in range(4):
    if os.fork() == 0:
        os.setsid()
        while True:
            if os.fork():
                os._exit(0)
"""
_REAPS = f"""
import ctypes, os, subprocess, sys
ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER: it ends when the last of them has
subprocess.run([sys.executable, '-c', {_FORKS!r}], user={ADA}, group={ADA}, extra_groups=[])
print('ready', flush=True)
while True:
    try:
        os.wait()
    except ChildProcessError:
        break
"""


def test_a_process_that_stops_all_others_for_ever_does_not_stop_who_ends_it(town: Town) -> None:
    _restored(town)
    stops = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('ready', flush=True)\nwhile True:\n    "
    stops += "try: os.kill(-1, signal.SIGSTOP)\n    except OSError: pass"
    signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(AssertionError("held up")))
    for _ in range(6):  # it is a race
        with _running(town, stops, cwd=Path("/")) as stopper:
            signal.alarm(10)
            try:
                assert [found.pid for found in running.end(ADA, grace=0.1, bound=5.0)] == [stopper.pid]
            finally:
                signal.alarm(0)
                stopper.kill()
                subprocess.run(["pkill", "-KILL", "-U", str(ADA)], check=False)


def test_processes_that_fork_faster_than_they_are_listed_are_seen_and_ended(town: Town) -> None:
    """Each lives for a moment, and its child goes on: a list may hold none of them."""
    _restored(town)
    there = subprocess.Popen([PYTHON, "-c", _REAPS], stdout=subprocess.PIPE)
    assert there.stdout is not None
    try:
        assert there.stdout.readline() == b"ready\n"
        assert town.persist("release", "ada").status == 1
        assert running.end(ADA, grace=0.2)
        assert there.wait(20) == 0, "its last child ended"
    finally:
        running._signal_all(ADA, signal.SIGKILL)
        there.kill()
        there.wait()
        there.stdout.close()
    assert running.of(ADA) == []
    assert town.persist("release", "ada").status == 0


def test_a_cgroup_is_killed_whole_only_when_nobody_else_lives_in_it(town: Town) -> None:
    _restored(town)
    top = town.base / "cgroups"
    top.mkdir()
    kernel.mount("cgroup2", str(top), "cgroup2", 0)
    group = top / f"nuketown-test-{os.getpid()}"
    group.mkdir()
    try:
        with _running(town) as there, _running(town, uid=0) as other:
            (group / "cgroup.procs").write_text(str(there.pid))
            (found,) = running.of(ADA)
            (owned,) = running._own_groups([found])
            assert owned.name == group.name
            (group / "cgroup.procs").write_text(str(other.pid))
            assert running._own_groups([found]) == set()
            (owned / "cgroup.kill").write_text("1")
            assert there.wait(5) == -signal.SIGKILL
    finally:
        for _ in range(100):
            try:
                group.rmdir()
            except OSError:  # until the kernel has taken the dead out of it
                time.sleep(0.05)
            else:
                break
        kernel.umount(str(top), kernel.MNT_DETACH)


def test_a_process_under_another_uid_in_a_namespace_of_the_agent_is_the_agents(town: Town) -> None:
    """As rootless containers have them: the uids of /etc/subuid, in a user namespace that the agent made."""
    program = """
from ctypes import CDLL
assert CDLL(None).unshare(0x10000000) == 0
print('made', flush=True)
sys.stdin.readline()
os.setresuid(5, 5, 5)
"""
    source = f"import os, sys, time\n{program}\nprint('ready', flush=True)\ntime.sleep(100)"
    there = subprocess.Popen(
        [PYTHON, "-c", source], user=ADA, group=ADA, extra_groups=[], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert there.stdin is not None
    assert there.stdout is not None
    try:
        assert there.stdout.readline() == b"made\n"
        Path(f"/proc/{there.pid}/uid_map").write_text("0 900000 100")
        there.stdin.write(b"go\n")
        there.stdin.flush()
        assert there.stdout.readline() == b"ready\n"
        assert Path(f"/proc/{there.pid}/status").read_text().count("900005") >= 4
        assert [found.pid for found in running.of(ADA)] == [there.pid]
        assert running.of(VOX) == []
        running.end(ADA, grace=0.2)
        assert there.wait(5) < 0
    finally:
        there.kill()
        there.wait()
        there.stdin.close()
        there.stdout.close()


def test_a_service_of_roots_that_works_as_the_agent_for_a_moment_is_not_ended(town: Town) -> None:
    with _running(town, f"os.setresuid(0, {ADA}, 0)", uid=0, cwd=Path("/")) as there:
        assert running.of(ADA) == []
        running.end(ADA, grace=0.1)
        assert there.poll() is None


def test_what_is_not_the_agents_own_stays_and_what_lies_on_a_bind_stops_it(town: Town) -> None:
    _restored(town)
    other = home(town) / "mnt"
    other.mkdir()
    kernel.mount("tmpfs", str(other), "tmpfs", 0)
    with files.opened(files.open_dir(town.persisted / "agents/vox/projects")) as source:
        (home(town) / "shared").mkdir()
        with files.opened(files.open_dir(home(town) / "shared")) as target:
            mounts.bind(source, target)
    assert town.persist("release", "ada").status == 0
    assert _binds(town) == [str(other), str(home(town) / "shared")]
    assert town.persist("restore", "ada").status == 0
    (home(town) / "projects/in").mkdir()
    kernel.mount("tmpfs", str(home(town) / "projects/in"), "tmpfs", 0)
    said = town.persist("release", "ada", "--stop")
    assert said.status == 1
    assert "something else is mounted at" in said.err
    assert len(_binds(town)) == 6


def test_a_mount_on_the_way_to_a_bind_is_never_entered(town: Town) -> None:
    """A FUSE server there could keep root waiting for ever."""
    _restored(town)
    kernel.mount("tmpfs", str(home(town) / "a"), "tmpfs", 0)
    said = town.persist("release", "ada")
    assert said.status == 1
    assert f"something else is mounted at {home(town)}/a (tmpfs), in or above a bind" in said.err


def test_a_bind_whose_parents_were_moved_is_found_and_taken_by_its_descriptor(town: Town) -> None:
    _restored(town)
    victim = town.base / "victim"
    victim.mkdir()
    kernel.mount("tmpfs", str(victim), "tmpfs", 0)
    as_agent(AS_ADA, home(town), f"import os; os.rename('a', 'moved'); os.symlink({str(victim)!r}, 'a')")
    assert town.persist("release", "ada").status == 0
    assert _binds(town) == []
    assert mounts.at(victim) is not None


def test_a_name_that_became_a_link_between_the_look_and_the_unmount_leads_nowhere(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    _restored(town, '["a/b"]')
    victim = town.base / "victim"
    (victim / "b").mkdir(parents=True)
    kernel.mount("tmpfs", str(victim / "b"), "tmpfs", 0)
    unmount, swapped = release._unmount, []

    def swapping(*words: object) -> None:
        if not swapped:
            os.rename(home(town) / "a", home(town) / "moved")
            (home(town) / "a").symlink_to(victim)
            swapped.append(1)
        unmount(*words)  # type: ignore[arg-type]

    monkeypatch.setattr(release, "_unmount", swapping)
    assert town.persist("release", "ada").status == 0
    assert _binds(town) == []
    assert mounts.at(victim / "b") is not None


def test_another_mount_that_got_the_name_of_a_bind_stays(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    _restored(town, '["a/b"]')
    (home(town) / "other/b").mkdir(parents=True)
    os.chown(home(town) / "other", ADA, ADA)
    kernel.mount("tmpfs", str(home(town) / "other/b"), "tmpfs", 0)
    unmount, swapped = release._unmount, []

    def swapping(*words: object) -> None:
        if not swapped:
            as_agent(AS_ADA, home(town), "import os; os.rename('a', 'moved'); os.rename('other', 'a')")
            swapped.append(1)
        unmount(*words)  # type: ignore[arg-type]

    monkeypatch.setattr(release, "_unmount", swapping)
    assert town.persist("release", "ada").status == 0
    assert _binds(town) == [str(home(town) / "a/b")]
    left = mounts.at(home(town) / "a/b")
    assert left is not None
    assert left.kind == "tmpfs"


def test_the_agents_own_fuse_mount_in_a_bind_goes_only_with_stop(town: Town) -> None:
    _restored(town)
    (home(town) / "projects/f").mkdir()
    with files.opened(os.open("/dev/fuse", os.O_RDWR)) as fuse:
        options = f"fd={fuse},rootmode=40000,user_id={ADA},group_id={ADA}"
        kernel.mount("hangs", str(home(town) / "projects/f"), "fuse", 0, options)  # nobody ever answers
        said = town.persist("release", "ada")
        assert said.status == 1
        assert "ada mounted something itself" in said.err
        began = time.monotonic()
        said = town.persist("release", "ada", "--stop")
        assert said.status == 0
        assert time.monotonic() - began < 5
        assert "(FUSE, the agent made it)" in said.out
    assert _binds(town) == []


def test_it_needs_an_agent(town: Town) -> None:
    assert town.persist("release").status == 2


def test_it_waits_for_no_restore_that_is_running(town: Town) -> None:
    _restored(town)
    lock = town.persisted / ".nuketown/locks/restore-ada"
    import fcntl

    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        said = town.persist("release", "ada")
    assert said.status == 75
    assert len(_binds(town)) == 3
