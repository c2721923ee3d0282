"""`persist restore` with a real store (`file://`), real keys and syncs: what is fetched, what is not, what fails."""

import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from persist import cli
from persist.restore import staging
from tests.machine.towns import ADA, AS_ADA, Town, as_agent, town
from tests.reach import PYTHON
from town import btrfs, files, kernel, mounts, process

__all__ = ["town"]
pytestmark = pytest.mark.root


@pytest.fixture
def stored(town: Town) -> Town:
    """A town whose ada persists `projects` (both), `scratch/results` (store); vox `notes` (both). The store is made."""
    key = process.run(["age-keygen"]).out.decode()
    (town.base / "age.key").write_text(key)
    (town.base / "age.key").chmod(0o600)
    write(town)
    said = town.persist("init", "--store")
    assert said.status == 0, said.err
    return town


def write(town: Town, ada: str = '["projects", { path = "scratch/results", via = "store" }]') -> None:
    key = (town.base / "age.key").read_text()
    recipient = next(line.split()[-1] for line in key.splitlines() if "public key" in line)
    town.write(
        ada,
        '["notes"]',
        f'store = "file://{town.base}/store"\nrecipients = {{ humans = ["{recipient}"] }}\n'
        f'host_key = {{ age = "{town.base}/age.key" }}',
    )


def filled(town: Town) -> None:
    """First boot: ada's directories hold something, and it is in the store."""
    assert town.persist("restore").status == 0
    as_agent(
        AS_ADA,
        town.agents / "ada",
        "import os\n"
        "for top in ('projects', 'scratch/results'):\n"
        "    os.mkdir(top + '/deep')\n"
        "    open(top + '/deep/file', 'w').write('in ' + top)\n"
        "    os.symlink('/etc/passwd', top + '/link')\n"
        "    os.chmod(top, 0o750)\n"
        "    os.utime(top, ns=(1, 1_234_567_890_123_456_789))\n",
    )
    said = town.persist("sync", "ada")
    assert said.status == 0, said.err


def empty_machine(town: Town, boot: str = "20261121T101500Z-4f") -> None:
    """Everything of this machine is lost but the spec, its lock, the keys and the store."""
    town.boot(boot)
    shutil.rmtree(town.persisted / ".nuketown")
    with files.opened(files.open_dir(town.persisted / "agents")) as agents:
        for name in files.names(agents):
            btrfs.delete(agents, os.fsdecode(name))
    (town.persisted / "agents").rmdir()


def boot(town: Town) -> None:
    """A boot after which no home set aside has anything: the disk of the homes is a new one."""
    town.boot("20261121T101500Z-4f")
    shutil.rmtree(town.persisted / ".nuketown/lineage")


def check(home: Path) -> None:
    for top in ("projects", "scratch/results"):
        found = (home / top).stat()
        assert (found.st_uid, stat.S_IMODE(found.st_mode), found.st_mtime_ns) == (ADA, 0o750, 1_234_567_890_123_456_789)
        assert (home / top / "deep/file").read_text() == f"in {top}"
        assert os.readlink(home / top / "link") == "/etc/passwd"
        assert os.lstat(home / top / "link").st_uid == ADA
    assert (home / "scratch").stat().st_uid == ADA


def hidden(town: Town) -> list[str]:
    places = (town.agents, town.agents / "ada", town.persisted / "agents", town.persisted / "agents/ada")
    return [name for place in places for name in os.listdir(place) if name.startswith(".")]


def test_a_store_that_holds_nothing_of_an_agent_is_first_use(stored: Town) -> None:
    said = stored.persist("restore")
    assert (said.status, said.err) == (0, "")
    assert "first use: the store has nothing of this agent" in said.out
    assert stored.persist("restore").out == "ada: nothing to do\nvox: nothing to do\n"


def test_an_empty_machine_gets_everything_from_the_store_alone(stored: Town) -> None:
    filled(stored)
    empty_machine(stored)
    said = stored.persist("restore", "--take-over")
    assert said.status == 0, said.err
    check(stored.agents / "ada")
    assert f"ada: projects: bound, fetched {snapshot(stored)} from " in said.out
    assert f"ada: scratch/results: fetched {snapshot(stored)} from " in said.out
    assert hidden(stored) == []
    assert stored.persist("restore").out == "ada: nothing to do\nvox: nothing to do\n"


def snapshot(town: Town) -> str:
    from persist import sync

    last = sync.last(town.spec, town.spec.agent("ada"))
    return last.snapshot if last is not None else town.persist("status").out.split("fetched ")[1].split()[0]


def test_a_reboot_asks_the_store_for_what_is_not_on_this_machine_only(stored: Town) -> None:
    filled(stored)
    stored.boot("20261121T101500Z-4f")
    said = stored.persist("restore", "ada")
    assert said.status == 0
    check(stored.agents / "ada")
    assert "fetch   " + str(stored.persisted) not in said.out
    assert "ada: projects: bound, made here\n" in said.out


def test_what_is_kept_here_needs_no_store(stored: Town) -> None:
    write(stored, '["projects"]')
    stored.persist("restore")
    stored.boot("20261121T101500Z-4f")
    shutil.rmtree(stored.base / "store")
    assert stored.persist("restore").status == 0


def test_a_town_without_a_store_never_touches_the_fetch(town: Town) -> None:
    program = (
        "import sys; from pathlib import Path; from persist import cli, proof; proof.PROOF = Path(sys.argv[1]);"
        "status = cli.main(sys.argv[2:]);"
        "heavy = {'persist.fetch', 'boto3', 'cryptography', 'zstandard', 'gnupg', 'ruamel', 'tomlkit'};"
        "assert not heavy & set(sys.modules); sys.exit(status)"
    )
    argv = [sys.executable, "-c", program, town.proof, "--spec", town.file, "restore"]
    done = process.run(argv, cwd=Path(__file__).parents[2])
    assert b"ada: projects: bound" in done.out


def test_the_first_sync_after_a_restore_opens_no_file(stored: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(stored)
    stored.boot("20261121T101500Z-4f")
    shutil.rmtree(stored.persisted / "agents/ada/projects")
    assert stored.persist("restore", "ada").status == 0
    opened: list[object] = []
    real = os.open

    def noted(path: Any, *words: Any, **named: Any) -> int:
        opened.append(path)
        return real(path, *words, **named)

    monkeypatch.setattr(os, "open", noted)
    said = stored.persist("sync", "ada")
    assert said.status == 0, said.err
    assert "nothing new" in said.out
    assert b"file" not in opened
    monkeypatch.undo()
    as_agent(AS_ADA, stored.agents / "ada", "open('projects/deep/file', 'w').write('changed')")
    assert "(1 file, 7 B read" in stored.persist("sync", "ada").out


def test_a_restore_without_an_index_works_too(stored: Town) -> None:
    filled(stored)
    boot(stored)
    index = stored.persisted / ".nuketown/index"
    shutil.rmtree(index)
    index.touch()  # where nothing can be kept
    said = stored.persist("restore", "ada")
    assert said.status == 0, said.err
    assert "persist: warning: ada: " in said.err
    assert (stored.agents / "ada/scratch/results/deep/file").read_text() == "in scratch/results"
    index.unlink()
    assert "nothing new" in stored.persist("sync", "ada").out


def test_a_store_that_is_gone_fails_the_agents_that_need_it_and_no_other(stored: Town) -> None:
    filled(stored)
    stored.persist("sync")
    boot(stored)
    shutil.move(stored.base / "store", stored.base / "elsewhere")
    said = stored.persist("restore")
    assert said.status in (1, 75)
    assert "persist: error: ada: scratch/results: " in said.err
    assert not (stored.agents / "ada/scratch").exists()
    assert (stored.agents / "ada/projects/deep/file").exists(), "what is on this machine is in its place"
    assert mounts.at(stored.agents / "vox/notes") is not None
    shutil.move(stored.base / "elsewhere", stored.base / "store")
    assert stored.persist("restore").status == 0
    check(stored.agents / "ada")


def test_what_is_not_required_is_a_warning_when_the_store_is_gone(stored: Town) -> None:
    filled(stored)
    write(stored, '["projects", { path = "scratch/results", via = "store", required = false }]')
    boot(stored)
    shutil.rmtree(stored.base / "store")
    said = stored.persist("restore", "ada")
    assert said.status == 0
    assert "persist: warning: ada: scratch/results: " in said.err
    assert not (stored.agents / "ada/scratch").exists()


def test_a_damaged_store_leaves_no_part_of_a_directory(stored: Town) -> None:
    filled(stored)
    empty_machine(stored)
    for pack in (stored.base / "store").rglob("*"):
        if pack.is_file() and "pack" in str(pack):
            data = bytearray(pack.read_bytes())
            data[len(data) // 3] ^= 1
            pack.write_bytes(data)
    said = stored.persist("restore", "ada", "--take-over")
    assert said.status == 1
    assert not (stored.persisted / "agents/ada/projects").exists()
    assert not (stored.agents / "ada/scratch/results").exists()
    assert hidden(stored) == []


def test_a_path_that_the_newest_state_does_not_hold_is_made_empty_and_said_so(stored: Town) -> None:
    filled(stored)
    write(stored, '["projects", { path = "scratch/results", via = "store" }, "new"]')
    said = stored.persist("restore", "ada")
    assert said.status == 0
    assert "first use: not in " in said.out
    assert (stored.agents / "ada/new").stat().st_uid == ADA


def test_caches_and_credentials_are_never_asked_of_the_store(stored: Town) -> None:
    write(stored, '[{ path = "models", class = "cache" }, { path = "login", class = "credential" }]')
    shutil.rmtree(stored.base / "store")
    said = stored.persist("restore", "ada")
    assert (said.status, said.err) == (0, "")
    assert mounts.at(stored.agents / "ada/models") is not None
    assert mounts.at(stored.agents / "ada/login") is not None


def test_contents_are_on_the_disk_before_the_name_is(stored: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(stored)
    empty_machine(stored)
    order: list[str] = []
    monkeypatch.setattr(kernel, "syncfs", noting(kernel.syncfs, lambda _: "syncfs", order))
    monkeypatch.setattr(kernel, "renameat2", noting(kernel.renameat2, lambda *words: str(words[3]), order))
    assert stored.persist("restore", "ada", "--take-over").status == 0
    for name in ("projects", "results"):
        at = order.index(name)
        assert "syncfs" in order[at - 2 : at], "between them, at most the directory of a record is made"


def noting(act: Callable[..., object], word: Callable[..., str], order: list[str]) -> Callable[..., object]:
    def noted(*words: object) -> object:
        order.append(word(*words))
        return act(*words)

    return noted


def test_what_is_swapped_for_something_else_after_a_fetch_is_noticed(
    stored: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(stored)
    boot(stored)
    publish = staging.publish

    def then_swapped(*words: Any) -> None:
        publish(*words)
        swap = "import os; os.rename('scratch/results', 'mine'); os.mkdir('scratch/results')"
        as_agent(AS_ADA, stored.agents / "ada", swap)

    monkeypatch.setattr(staging, "publish", then_swapped)
    said = stored.persist("restore", "ada")
    assert said.status == 1
    assert "scratch/results was swapped while it was being put in its place" in said.err


# Every door to an effect that a restore goes through.
EFFECTS = ((os, "mkdir"), (os, "fchown"), (os, "rmdir"), (os, "rename"), (kernel, "renameat2"), (kernel, "syncfs"),
           (kernel, "move_mount"), (btrfs, "create"))  # fmt: skip


def killed_at(town: Town, step: int) -> bool:
    """A restore that is killed before its effect number `step`; False when it had fewer and came to its end."""
    child = os.fork()
    if child == 0:
        left = [step]
        for module, name in EFFECTS:
            setattr(module, name, counting(getattr(module, name), left))
        os._exit(cli.main(["--spec", str(town.file), "restore", "ada", "--take-over"]))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def counting(act: Callable[..., object], left: list[int]) -> Callable[..., object]:
    def counted(*words: object, **named: object) -> object:
        left[0] -= 1
        if left[0] <= 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return act(*words, **named)

    return counted


def test_a_restore_that_is_killed_at_any_step_is_finished_by_the_next(stored: Town) -> None:
    filled(stored)
    step = 1
    while True:
        empty_machine(stored, f"20261121T101500Z-{step}")
        if not killed_at(stored, step):
            break
        whole_or_absent(stored)
        said = stored.persist("restore", "ada", "--take-over")
        assert said.status == 0, (step, said.err)
        check(stored.agents / "ada")
        assert hidden(stored) == [], step
        assert stored.persist("restore", "ada").out == "ada: nothing to do\n"
        step += 1
    assert step > 45


def whole_or_absent(town: Town) -> None:
    for leaf in (town.persisted / "agents/ada/projects", town.agents / "ada/scratch/results"):
        if leaf.exists():
            assert (leaf / "deep/file").exists()
            assert leaf.stat().st_mtime_ns == 1_234_567_890_123_456_789


def test_an_agent_that_runs_meanwhile_never_sees_a_part_and_never_reads_a_staging(stored: Town) -> None:
    filled(stored)
    watcher = """
import os, time
seen = set()
while not os.path.exists("stop"):
    for name in os.listdir("."):
        if name.startswith(".nuketown-"):
            try: os.listdir(name); seen.add("READ")
            except OSError: seen.add("closed")
            try: os.rename(name, "caught%d" % time.monotonic_ns())
            except OSError: pass
    try:
        fd = os.open("scratch/results", os.O_RDONLY)
        seen.add("whole" if os.path.exists("/proc/self/fd/%d/deep/file" % fd) else "PART")
        os.close(fd)
    except OSError: pass
print(sorted(seen))
"""
    home = stored.agents / "ada"
    racer = subprocess.Popen(
        [PYTHON, "-c", watcher], cwd=home, user=ADA, group=ADA, extra_groups=[], stdout=subprocess.PIPE
    )
    try:
        for _ in range(15):
            away = "import os, time; os.rename('scratch', 'scratch%d' % time.monotonic_ns())"
            as_agent(AS_ADA, home, away, check=False)  # there is none where the watcher won
            assert stored.persist("restore", "ada").status in (0, 1)
        (home / "stop").touch()
        out, _ = racer.communicate(timeout=20)
    finally:
        racer.kill()
        racer.wait()
    assert b"READ" not in out
    assert b"PART" not in out
    assert b"whole" in out
    assert b"closed" in out, "it never saw a staging: this was no race"
    with files.opened(files.open_dir(home)) as fd:
        assert all(os.stat(name, dir_fd=fd).st_uid in (0, ADA) for name in files.names(fd))
