"""A town whose ada is hostile, with canaries around her, at a path that every uid may walk: on btrfs, or on ext4.

A module that uses the fixture `scene` imports it by that name. Every command is checked for what no agent may bring
about: a traceback, words that act on a terminal, a wait without end.
"""

import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest

from demo import loopback
from persist import proof
from tests.machine import towns
from tests.machine.canaries import Outside
from tests.machine.hostilehomes import FUSE
from tests.machine.racer import Racer, racing
from tests.machine.stores import with_store
from tests.machine.towns import AS_ADA, Said, Town, as_agent, undo
from tests.reach import PYTHON
from tests.scale import SCALE, SEED
from town import kernel, mounts, process
from town.process import Person

LONGEST = 30.0  # seconds that a command may take, whatever an agent does; most take a tenth of one
_MS_BIND = 4096  # mount(2)
_GROUNDS = {"btrfs": ("mkfs.btrfs", "--quiet", "--metadata", "single"), "ext4": ("mkfs.ext4", "-q")}


@dataclass
class Scene:
    """The town, what lies outside ada's places, and ada's processes that live as long as the test."""

    town: Town
    outside: Outside
    stack: ExitStack
    kind: str
    person: Person = AS_ADA  # who ada is; another uid where all its processes are to end

    @property
    def home(self) -> Path:
        return self.town.agents / "ada"

    @property
    def kept(self) -> Path:
        return self.town.persisted / "agents/ada"

    def declare(self, ada: str, *, store: bool = False, more: str = "") -> None:
        """What ada persists from now on; vox always persists notes."""
        if store:
            with_store(self.town, ada, '["notes"]', more=more)
        else:
            self.town.write(ada, '["notes"]', town=more)
        file = self.town.file
        file.write_text(file.read_text().replace(f"uid = {AS_ADA.uid}", f"uid = {self.person.uid}"))

    def begin(self, ada: str, *, store: bool = False, more: str = "") -> None:
        """Homes are made, with what ada persists; the canaries laid out and remembered."""
        self.declare(ada, store=store, more=more)
        if store:
            self.ok("init", "--store")
        self.ok("restore")
        self.outside.lay_out()
        self.outside.remember()

    def run(self, *words: str) -> Said:
        """A command, which must end in time and say what is fit to be read."""
        with self.in_time():
            said = self.town.persist(*words)
        sane(said)
        return said

    def ok(self, *words: str) -> Said:
        """A command that must end well."""
        said = self.run(*words)
        assert said.status == 0, (words, said)
        return said

    @contextmanager
    def in_time(self) -> Iterator[None]:
        """What takes too long is set free (a FUSE server dies, a FIFO is opened) and fails."""
        late: list[bool] = []

        def free() -> None:
            late.append(True)
            self.stack.close()  # every process of ada's ends
            os.kill(os.getpid(), signal.SIGINT)

        timer = threading.Timer(LONGEST, free)
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
        assert not late, f"the command was held up for {LONGEST} s"

    def ada(self, program: str, *, check: bool = True) -> process.Done:
        """Python source run as ada in her home; `shared`, `roots`, `human` and `vox` are paths outside."""
        return as_agent(self.person, self.home, self._named(program), check=check)

    def stays(self, program: str) -> subprocess.Popen[bytes]:
        """The same in a process that says `ready`, then stays until the test ends."""
        child = subprocess.Popen(
            [PYTHON, "-c", self._named(program)],
            cwd=self.home, user=self.person.uid, group=self.person.gid, extra_groups=[], stdout=subprocess.PIPE,
            start_new_session=True,
        )  # fmt: skip
        self.stack.callback(_end, child)
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n", "the agent's process did not get ready"
        return child

    def _named(self, program: str) -> str:
        names = {"shared": self.outside.shared, "roots": self.outside.roots, "human": self.outside.human}
        names |= {"vox": self.town.agents / "vox"}
        return "\n".join([*(f"{name} = {str(path)!r}" for name, path in names.items()), program])

    @contextmanager
    def racing(
        self, moves: Sequence[tuple[str, str]], *, place: Path | None = None, catch: Sequence[str] = ()
    ) -> Iterator[Racer]:
        """Ada's racer, in her home or another place of hers. `{shared}` and so on in decoys are paths outside."""
        names = {"shared": self.outside.shared, "roots": self.outside.roots, "human": self.outside.human}
        names |= {"vox": self.town.agents / "vox"}
        filled = [(name, decoy.format(**names)) for name, decoy in moves]
        with racing(self.person, place or self.home, filled, catch=catch) as racer:
            yield racer

    def reboot(self) -> None:
        """What a boot does to the homes: all are gone, on btrfs under a name of their own. The rest stays."""
        undo(self.town.agents)
        self.outside.homes_gone()
        if self.kind == "btrfs":
            self.town.boot(f"20261121T101500Z-{os.urandom(4).hex()}")
        else:
            forget_boot()

    def fuse(self, at: str) -> None:
        """Ada mounts a filesystem of hers that never answers, not even root (`user_allow_other` in fuse.conf)."""
        ada = f"ada:x:{self.person.uid}:{self.person.gid}::{self.home}:/bin/sh\n"  # fusermount3 asks for her name
        for name, text in (("passwd", Path("/etc/passwd").read_text() + ada), ("fuse.conf", "user_allow_other\n")):
            (self.town.base / name).write_text(text)
            kernel.mount(str(self.town.base / name), f"/etc/{name}", None, _MS_BIND)
            self.stack.callback(kernel.umount, f"/etc/{name}")
        self.stays(FUSE.replace("{at}", at))

    def unharmed(self) -> None:
        """Ada's processes end, her mounts go; then nothing outside may have changed."""
        self.stack.close()
        self.unbind()
        self.outside.check()

    def unbind(self) -> int:
        """Undo the binds in ada's home, wherever she has moved them; how many there were."""
        found = [mount for mount in mounts.below(self.town.agents) if _below(mount.target, self.home)]
        for mount in found:
            kernel.umount(os.fsdecode(mount.target), kernel.MNT_DETACH)
        return len(found)

    def vox_is_well(self) -> None:
        """The other agent's home is there, with what it declared."""
        mount = mounts.at(self.town.agents / "vox/notes")
        assert mount is not None
        assert (self.town.agents / "vox").stat().st_uid == towns.VOX


def forget_boot() -> None:
    """What a boot takes away besides: that homes are of this boot is noted below /run, which is the tests' own."""
    shutil.rmtree("/run/nuketown/homes", ignore_errors=True)


def _below(target: bytes, home: Path) -> bool:
    return target == bytes(home) or target.startswith(bytes(home) + b"/")


def sane(said: Said) -> None:
    """What a command says is for people: no traceback, nothing that acts on a terminal, nothing to be reported."""
    for text in (said.out, said.err):
        assert "Traceback" not in text
        assert "report it" not in text, text
        assert all(letter == "\n" or letter.isprintable() for letter in text), repr(text)
    assert said.status in (0, 1, 3, 4, 75), said


def _end(child: subprocess.Popen[bytes]) -> None:
    """The process and those that it started; a FUSE server's end sets free who waits for it."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    if child.stdout is not None:
        child.stdout.close()


@contextmanager
def laid_out(kind: str, image: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Scene]:
    """A scene on a fresh filesystem of that kind."""
    with image.open("wb") as file:
        file.truncate(256 << 20)
    process.run([*_GROUNDS[kind], image])
    forget_boot()
    with ExitStack() as stack:
        base = Path(tempfile.mkdtemp(prefix="nuketown-hostile-", dir="/tmp"))
        stack.callback(base.rmdir)
        base.chmod(0o755)
        device = stack.enter_context(loopback.attached(image))
        # A disk of its own also for what is not the agents': no name of another filesystem is in the way.
        kernel.mount(device, str(base), kind, 0, "")
        stack.callback(undo, base)
        (base / "town").mkdir()
        if kind == "btrfs":
            town = stack.enter_context(towns.made(base / "town", device, capsys))
        else:
            town = Town(base / "town", "", capsys)
            town.agents.mkdir()
            town.persisted.mkdir()
        processes = stack.enter_context(ExitStack())
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(proof, "PROOF", town.proof)
        yield Scene(town, Outside(town), processes, kind)


@pytest.fixture(params=["btrfs"])
def scene(
    request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str], needs_root: None
) -> Iterator[Scene]:
    """The scene of a test, on btrfs; on ext4 with `pytest.mark.parametrize("scene", ["ext4"], indirect=True)`."""
    with laid_out(request.param, tmp_path / "disk.img", capsys) as made:
        yield made


def sampled(table: Iterable[str], count: int) -> list[str]:
    """That many names of a table of cases, by the seed of the run; in a full run all of them.

    A relative link stays in its own mount, where nothing but the refusal of links is in the way: always among them.
    """
    names = list(table)
    always = [name for name in names if "relative" in name]
    others = [name for name in names if name not in always]
    left = max(0, count - len(always))
    chosen = {*always, *(others if SCALE > 1 else Random(SEED).sample(others, min(left, len(others))))}
    return [name for name in names if name in chosen]
