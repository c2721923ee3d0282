"""What a process that holds private keys says to the kernel, and the homes that gpg works in."""

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from identity.keys import gpg, home, openpgp
from tests import reach
from town import kernel
from town.process import Person, run

pytestmark = pytest.mark.root
NOBODY = Person(41190, 41190)
_KEPT = "from town import memory; memory.keep(); "


def _python(code: str, **more: object) -> "subprocess.CompletedProcess[bytes]":
    env = {"PYTHONPATH": str(reach.CHECKOUT), "PATH": os.environ["PATH"]}
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, check=False, **more)  # type: ignore[call-overload,no-any-return]


def _any_core() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (resource.getrlimit(resource.RLIMIT_CORE)[1],) * 2)


def test_neither_it_nor_a_child_leaves_a_core(tmp_path: Path) -> None:
    crash = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
    child = f"import subprocess, sys; print(subprocess.run([sys.executable, '-c', {crash!r}]).returncode)"
    assert _python(_KEPT + crash, cwd=tmp_path, preexec_fn=_any_core).returncode == -signal.SIGSEGV
    assert _python(_KEPT + child, cwd=tmp_path, preexec_fn=_any_core).stdout == b"-11\n"
    assert list(tmp_path.iterdir()) == []


def test_a_child_has_the_one_limit_that_also_a_program_for_cores_heeds() -> None:
    asked = "import resource; print(resource.getrlimit(resource.RLIMIT_CORE)[0])"
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {asked!r}])"
    assert _python(_KEPT + child, preexec_fn=_any_core).stdout == b"1\n"


def test_all_of_its_memory_is_locked_and_what_comes_later_too() -> None:
    code = _KEPT + "kept = bytearray(b'x') * (32 << 20); print(open('/proc/self/status').read())"
    status = _python(code).stdout.decode()
    locked = next(line for line in status.splitlines() if line.startswith("VmLck"))
    assert int(locked.split()[1]) > 32 << 10


@pytest.mark.parametrize("limit", [0, 1 << 20, 8 << 20])
def test_a_person_whose_memory_may_not_be_locked_works_all_the_same(limit: int) -> None:
    code = _KEPT + "kept = [bytearray(b'x') * (1 << 20) for _ in range(300)]; print(open('/proc/self/status').read())"

    def small() -> None:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (limit, limit))

    with reach.checkout() as (_, env):
        done = subprocess.run(
            [reach.PYTHON, "-c", code], env=env, capture_output=True, check=False, preexec_fn=small, user=NOBODY.uid
        )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"VmLck:\t       0 kB" in done.stdout


def test_no_other_process_of_the_same_person_may_look_into_it() -> None:
    with reach.checkout() as (_, env):
        code = _KEPT + "print('ready', flush=True); input()"
        with subprocess.Popen(
            [reach.PYTHON, "-c", code], env=env, stdin=-1, stdout=-1, user=NOBODY.uid, group=NOBODY.gid
        ) as kept:
            assert kept.stdin is not None
            assert kept.stdout is not None
            assert kept.stdout.readline() == b"ready\n"
            for what in ("mem", "environ", "maps"):
                looked = run(["cat", f"/proc/{kept.pid}/{what}"], person=NOBODY, check=False)
                assert b"Permission denied" in looked.err
            kept.stdin.close()


def test_roots_home_for_gpg_lies_on_no_path_and_is_never_swapped(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, dict[str, str]]] = []
    real = kernel.mount_detached

    def noted(kind: str, options: dict[str, str], attributes: int) -> int:
        asked.append((kind, options))
        return real(kind, options, attributes)

    monkeypatch.setattr(kernel, "mount_detached", noted)
    before = Path("/proc/self/mountinfo").read_text()
    with gpg.throw_away_home() as place:
        assert Path("/proc/self/mountinfo").read_text() == before
        assert home.in_memory(place)
        assert place.stat().st_mode & 0o777 == 0o700
        gpg.generate(place, "Ada", "ada@signi.local")
    assert not place.exists()
    assert [(kind, "noswap" in options) for kind, options in asked] == [("tmpfs", True)]


def test_where_the_kernel_cannot_do_that_it_lies_on_a_tmpfs_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> int:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(kernel, "mount_detached", refused)
    with gpg.throw_away_home() as place:
        assert place.parent == Path("/dev/shm")
        assert place.stat().st_mode & 0o777 == 0o700
        gpg.generate(place, "Ada", "ada@signi.local")
    assert not place.exists()


def test_where_nothing_is_in_memory_no_key_is_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(home, "_unswapped", lambda: None)
    monkeypatch.setattr(home, "_MEMORY", (str(tmp_path),))
    with pytest.raises(home.NoMemory, match="no tmpfs"), gpg.throw_away_home():
        pytest.fail("a home on a disk")


def test_a_home_dies_with_its_process_and_takes_gpgs_agent_along() -> None:
    code = (
        "import os, signal\nfrom identity.keys import gpg\n"
        "with gpg.throw_away_home() as home:\n"
        "    gpg.generate(home, 'Ada', 'ada@signi.local')\n"
        "    print(home, flush=True)\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = _python(code)
    assert done.returncode == -signal.SIGKILL
    place = done.stdout.decode().strip()
    assert place.startswith("/proc/")
    for _ in range(100):
        if not os.path.exists(place) and not _agents(place):
            break
        time.sleep(0.05)
    assert not os.path.exists(place)
    assert _agents(place) == []


def _agents(place: str) -> list[bytes]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if b"gpg-agent" in (line := path.read_bytes()) and place.encode() in line:
                found.append(line)
        except OSError:
            continue
    return found


def test_python_gnupg_says_nothing_at_any_level(caplog: pytest.LogCaptureFixture) -> None:
    # At DEBUG it logs what goes to and comes from gpg, private keys too.
    caplog.set_level(1)
    caplog.set_level(1, "gnupg")
    with gpg.throw_away_home() as place:
        key = gpg.generate(place, "Ada", "ada@signi.local")
        gpg.add_signing(place, openpgp.facts(key.subkeys, "the key").primary)
    assert [record for record in caplog.records if record.name.startswith("gnupg") and record.levelno < 30] == []
