"""Reset and `recall --replace` against agents and tidies that come in between: nobody slips by, nothing is lost."""

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from persist import aside, cli, prune, reset, running, swapping
from persist.prune import Old
from tests.machine import olds, resets
from tests.machine.resets import AS_ADA, UID, home, kept, ok, old, runs, say, still
from tests.machine.towns import Town, as_agent, town
from tests.reach import PYTHON
from town import btrfs, files, kernel, mounts, strays

__all__ = ["still", "town"]
pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

# ---- a process whose first thread has ended, while another one goes on

_HEADLESS = """
import ctypes, os, threading, time
def go_on():
    time.sleep(0.3)
    print("ready", flush=True)
    time.sleep(100)
threading.Thread(target=go_on).start()
ctypes.CDLL(None).syscall(60, 0)  # exit(2), of this thread alone
"""


@contextmanager
def _headless(town: Town, uid: int = UID) -> Iterator[subprocess.Popen[str]]:
    there = subprocess.Popen(
        [PYTHON, "-c", _HEADLESS], user=uid, group=uid, extra_groups=[], cwd=home(town), text=True,
        stdout=subprocess.PIPE,
    )  # fmt: skip
    assert there.stdout is not None
    try:
        assert there.stdout.readline() == "ready\n"
        assert "Z (zombie)" in Path(f"/proc/{there.pid}/status").read_text()
        yield there
    finally:
        there.kill()
        there.wait()
        there.stdout.close()


def test_a_process_whose_first_thread_has_ended_is_refused_named_and_ended(still: Town) -> None:
    with _headless(still) as there:
        assert [one.pid for one in running.of(UID)] == [there.pid]
        for words in (["reset", "ada"], ["release", "ada"]):
            said = still.persist(*words)
            assert said.status == 1, words
            assert f"{there.pid} (" in said.err
        assert len(mounts.below(home(still))) == 2, "nothing was unmounted under it"
        said = json.loads(ok(still, "reset", "ada", "--stop", "--json").out)
        assert there.wait(5) == -signal.SIGKILL or there.returncode == -signal.SIGTERM
    assert [one["pid"] for one in said["ended"]] == [there.pid]


def test_such_a_process_of_somebody_else_is_seen_in_the_home(still: Town) -> None:
    with _headless(still, uid=0) as there:
        assert there.pid in [one.pid for one in running.inside(UID, home(still))]
        mount = mounts.below(home(still))[0]
        assert there.pid not in [one.pid for one in running.holding(UID, [mount])]
        said = still.persist("reset", "ada", "--stop")
    assert said.status == 75
    assert f"{there.pid} (" in said.err


def test_such_a_process_holds_the_mount_that_it_lives_in(still: Town) -> None:
    with _headless(still, uid=0) as there, files.opened(files.open_dir(still.agents)) as agents:
        assert there.pid in [one.pid for one in running.holding(UID, [mounts.of(agents)])]


def test_one_that_only_waits_to_be_reaped_is_no_process(still: Town) -> None:
    there = subprocess.Popen([PYTHON, "-c", ""], user=UID, group=UID, extra_groups=[], cwd="/")
    try:
        for _ in range(100):
            if "Z (zombie)" in Path(f"/proc/{there.pid}/status").read_text():
                break
            time.sleep(0.05)
        assert running.of(UID) == []
        ok(still, "reset", "ada")
    finally:
        there.wait()


# ---- a tidy at the same time


def test_a_tidy_does_not_take_the_entry_that_the_home_is_about_to_be_in(
    still: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    say(still, precious="x")
    exchange, said = swapping.exchange, list[str]()

    def between(*words: object) -> None:
        names = still.spec.town.btrfs
        assert names is not None
        with btrfs.top_level(still.device) as top, aside.directory(top, names) as directory:
            assert directory is not None
            (entry,) = aside.read(directory, datetime.now(UTC), lambda *_: None)
            try:
                prune.delete(Old(top, directory, names.old), entry, lambda: None)
            except prune.InUse as error:
                said.append(error.what)
        exchange(*words)  # type: ignore[arg-type]

    monkeypatch.setattr(swapping, "exchange", between)
    name = json.loads(ok(still, "reset", "ada", "--json").out)["kept"]
    assert "is being read by another command" in said[0]
    assert kept(still, name, "precious") == "x"


def test_an_entry_that_a_tidy_took_as_soon_as_it_was_there_is_made_again(
    still: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    say(still, precious="x")
    create, took = btrfs.create, list[str]()

    def taken(directory: int, name: str) -> int:
        fd = create(directory, name)
        if ".reset" in name and not took:
            took.append(name)
            os.rename(name, f".deleting-{name}", src_dir_fd=directory, dst_dir_fd=directory)
        return fd

    monkeypatch.setattr(btrfs, "create", taken)
    name = json.loads(ok(still, "reset", "ada", "--json").out)["kept"]
    assert name == f"ada@{took[0]}"
    assert kept(still, name, "precious") == "x"


def test_a_tidy_that_holds_the_entry_all_the_while_is_waited_for_and_then_said(
    still: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    say(still, precious="x")
    monkeypatch.setattr(reset, "_TRIES", 2)
    monkeypatch.setattr("persist.shelving.is_at", lambda *_: False)
    said = still.persist("reset", "ada")
    assert said.status == 75
    assert "is being deleted by a persist tidy" in said.err
    assert (home(still) / "precious").read_text() == "x"
    assert (home(still) / "projects").is_mount()
    assert not resets.unfinished(still)


def test_a_tidy_deletes_nothing_that_took_the_name_of_what_it_meant(still: Town) -> None:
    names = still.spec.town.btrfs
    assert names is not None
    with btrfs.top_level(still.device) as top, aside.directory(top, names) as directory:
        assert directory is not None
        olds.put(top, "entry")
        (entry,) = aside.read(directory, datetime.now(UTC), lambda *_: None)
        btrfs.delete(directory, "entry")
        olds.put(top, "entry")
        with pytest.raises(prune.InUse, match="another one by now"):
            prune.delete(Old(top, directory, names.old), entry, lambda: None)
    assert old(still) == ["entry"]


# ---- what was set aside stays as it was


def test_nobody_opens_a_file_for_writing_through_a_directory_that_was_passed_on(still: Town) -> None:
    say(still, precious="original")
    as_agent(AS_ADA, home(still), "import subprocess; subprocess.run(['btrfs','subvolume','create','n'], check=True)")
    ours, theirs = socket.socketpair()
    passing = (
        "import array, os, socket\n"
        "s = socket.socket(fileno={})\n"
        "fds = [os.open(name, os.O_RDONLY) for name in ('.', 'n')]\n"
        "s.sendmsg([b'x'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', fds))])"
    )
    writing = (
        "import array, os, socket\n"
        "s = socket.socket(fileno={})\n"
        "_, found, _, _ = s.recvmsg(1, socket.CMSG_SPACE(8))\n"
        "for fd in array.array('i', found[0][2]):\n"
        "    for name in ('precious', 'forged'):\n"
        "        try: os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, dir_fd=fd)); print('written')\n"
        "        except OSError as error: print(error.strerror)"
    )
    with ours, theirs:
        subprocess.run([PYTHON, "-c", passing.format(ours.fileno())], pass_fds=[ours.fileno()], user=UID, group=UID,
                       extra_groups=[], cwd=home(still), check=True)  # fmt: skip
        name = json.loads(ok(still, "reset", "ada", "--json").out)["kept"]
        done = subprocess.run(
            [PYTHON, "-c", writing.format(theirs.fileno())], pass_fds=[theirs.fileno()], user=UID, group=UID,
            extra_groups=[], cwd="/", stdout=subprocess.PIPE, text=True, check=True,
        )  # fmt: skip
    assert done.stdout == "Read-only file system\n" * 4
    assert kept(still, name, "precious") == "original"
    ok(still, "recall", name, "--replace")
    say(still, precious="again")
    ok(still, "homes", "--delete", name)
    assert name not in [one["name"] for one in json.loads(ok(still, "homes", "ada", "--json").out)["homes"]]


# ---- FUSE on the home itself, which its agent may mount there


@contextmanager
def _fuse(town: Town, options: str) -> Iterator[None]:
    """Mounted as fusermount3 would for ada; nobody ever answers."""
    fuse = os.open("/dev/fuse", os.O_RDWR)
    try:
        data = f"fd={fuse},rootmode=40000,user_id={UID},group_id={UID}{options}"
        kernel.mount("hangs", str(home(town)), "fuse", kernel.MOUNT_NOSUID | kernel.MOUNT_NODEV, data)
        yield
    finally:
        os.close(fuse)
        while (mount := mounts.at(home(town))) is not None and mount.kind == "fuse":
            kernel.umount(str(home(town)), kernel.MNT_DETACH)


def _within_time(town: Town, *words: str) -> int:
    """The command's status, in a process of its own; killed where it hangs."""
    if (child := os.fork()) == 0:
        os._exit(cli.main(["--spec", str(town.file), *words]))
    for _ in range(300):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.1)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise AssertionError(f"{words} hangs")


@pytest.mark.parametrize("options", ["", ",allow_other"])
@pytest.mark.parametrize(
    "words", [["reset", "ada", "--stop"], ["recall", "ada@one", "--replace", "--stop"], ["release", "ada", "--stop"]]
)
def test_an_agent_does_not_keep_its_home_by_what_it_mounts_on_it(still: Town, words: list[str], options: str) -> None:
    say(still, mark="one")
    ok(still, "snapshot", "ada", "--name", "one")
    with _fuse(still, options):
        with runs(still, uid=UID, cwd=Path("/")):
            assert _within_time(still, *[word for word in words if word != "--stop"]) == 1
        assert _within_time(still, *words, "--dry-run") == 0
        mount = mounts.at(home(still))
        assert mount is not None
        assert mount.kind == "fuse"
        assert _within_time(still, *words) == 0
        assert mounts.at(home(still)) is None
    assert len(mounts.below(home(still))) == (0 if words[0] == "release" else 2)
    assert (home(still) / "mark").exists() == (words[0] != "reset")


def test_what_somebody_else_mounted_on_the_home_stays(still: Town) -> None:
    kernel.mount("tmpfs", str(home(still)), "tmpfs", 0, f"uid={UID}")
    try:
        said = still.persist("reset", "ada", "--stop")
        assert said.status == 1
        assert "something else is mounted" in said.err
        assert mounts.at(home(still)) is not None
    finally:
        kernel.umount(str(home(still)), kernel.MNT_DETACH)
    ok(still, "reset", "ada")


# ---- what lies outside the home


def test_what_it_left_outside_stays_unless_that_is_asked_for(still: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = still.base / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    (still.base / "strays.toml").write_text(f'[[place]]\npath = "{shared}"\nname = "shared"\n')
    monkeypatch.setattr(strays, "FILE", still.base / "strays.toml")
    monkeypatch.setattr("persist.ipc.found", lambda _owners: [])
    as_agent(AS_ADA, shared, "open('left', 'w').write('x')")
    ok(still, "reset", "ada")
    assert (shared / "left").exists()
    dry = ok(still, "reset", "ada", "--sweep", "--dry-run")
    assert "sweep     what ada left outside its home" in dry.out
    assert (shared / "left").exists()
    said = ok(still, "reset", "ada", "--sweep")
    assert not (shared / "left").exists()
    assert f"ada: took 1 entry, 1 B from {shared} (left)" in said.err
