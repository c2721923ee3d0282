"""Two machines, one store, whatever happens: edits, syncs, prunes, reboots, take-overs, days that go by.

The model is plain: what each state held when it was committed. At every step each state that the store shows must be
one of those, byte for byte; only a prune removes one, and only one that the policy does not keep.
"""

import itertools
import os
import re
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from persist.store.directory import DirectoryStore
from tests.machine import days, stopping, stores
from tests.machine.homes import Home
from tests.machine.stores import Fact, with_store
from tests.machine.towns import ADA, Said, Town, town
from tests.scale import times

__all__ = ["town"]
pytestmark = pytest.mark.root
Facts = dict[bytes, Fact]
KEEP = "[town.sync]\nkeep = { last = 3, daily = 1, weekly = 0, monthly = 0, yearly = 0 }\n"
# What keeps a machine from syncing: the other one holds the agent, or what lies here is not what the store has.
REFUSED = re.compile(r"lease|has synced|has taken over|holds|gone since|lost \d|not there", re.IGNORECASE)
NAMES = st.sampled_from([b"a", b"b", b"d/a", b"d/b", b"d/e/c", b"n\xff\n", b"s" * 255])
MACHINES = st.sampled_from([0, 1])
DATA = st.one_of(
    st.binary(max_size=40),
    st.integers(1, 255).map(lambda byte: bytes([byte]) * 70_000),
    st.integers(0, 3).map(lambda seed: __import__("random").Random(seed).randbytes(700_000)),
)


class Machines(RuleBasedStateMachine):
    """The two machines: one on btrfs, one that has none."""

    homes: tuple[Home, Home]
    store: Path

    def __init__(self) -> None:
        super().__init__()
        self.states: dict[str, Facts] = {}
        self.here: tuple[Home, Home] = type(self).fresh()

    @classmethod
    def fresh(cls) -> tuple[Home, Home]:
        """An empty store, two machines without a memory, and ada at the first."""
        shutil.rmtree(cls.store, ignore_errors=True)
        for home in cls.homes:
            home.forget()
        first = cls.homes[0]
        shutil.rmtree(first.town.base / "identities", ignore_errors=True)
        first.ok("init", "--store")
        shutil.rmtree(cls.homes[1].town.base / "identities", ignore_errors=True)
        shutil.copytree(first.town.base / "identities", cls.homes[1].town.base / "identities")
        for home in cls.homes:
            home.reboot()
            home.run("restore", "ada")
        return cls.homes

    @rule(machine=MACHINES, name=NAMES, data=DATA)
    def write(self, machine: int, name: bytes, data: bytes) -> None:
        """A file, new or in the place of what was there."""
        if path := self._free(machine, name):
            with open(path, "wb") as file:
                file.write(data)
            os.chown(path, ADA, ADA)

    @rule(machine=MACHINES, name=NAMES, at=st.integers(0, 60_000))
    def overwrite_with_the_time_put_back(self, machine: int, name: bytes, at: int) -> None:
        """Some bytes of a file, its size and mtime as before."""
        path = self._path(machine, name)
        if path is None or not os.path.isfile(path) or os.path.islink(path):
            return
        found = os.stat(path)
        with open(path, "r+b") as file:
            file.seek(min(at, max(0, found.st_size - 1)))
            file.write(b"!" if found.st_size else b"")
        os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))

    @rule(machine=MACHINES, name=NAMES)
    def remove(self, machine: int, name: bytes) -> None:
        """A name, with all that lies below it."""
        if path := self._path(machine, name):
            _remove(path)

    @rule(machine=MACHINES, one=st.sampled_from([b"a", b"d", b"d/e", b"m"]), two=st.sampled_from([b"m", b"d/m", b"b"]))
    def move(self, machine: int, one: bytes, two: bytes) -> None:
        """A file or a directory to another name."""
        source, target = self._path(machine, one), self._path(machine, two)
        if (
            source is not None
            and target is not None
            and os.path.lexists(source)
            and os.path.isdir(os.path.dirname(target))
        ):
            with suppress(OSError):  # into itself, or onto a directory
                os.rename(source, target)

    @rule(
        machine=MACHINES, name=NAMES, what=st.sampled_from(["mode", "xattr", "time", "link", "symlink", "hole", "fifo"])
    )
    def change(self, machine: int, name: bytes, what: str) -> None:
        """What is not bytes."""
        path = self._path(machine, name)
        if path is None or not os.path.lexists(path):
            return
        directory, plain = os.path.isdir(path), os.path.isfile(path) and not os.path.islink(path)
        if what == "mode" and (plain or directory):
            os.chmod(path, 0o750 if directory else 0o611)
        elif what == "xattr" and plain:
            os.setxattr(path, "user.note", os.urandom(3))
        elif what == "time":
            os.utime(path, ns=(0, 1_000_000_007), follow_symlinks=False)
        elif what == "hole" and plain:
            os.truncate(path, 300_000)
        elif what in ("link", "symlink", "fifo"):
            self._beside(path, what)

    @rule(machine=MACHINES)
    def move_in(self, machine: int) -> None:
        """A directory that was filled elsewhere: its files are older than the last sync."""
        home = self.here[machine]
        if home.projects.is_dir():
            made = home.home / f"outside{next(_NUMBERS)}"
            (made / "deep").mkdir(parents=True)
            (made / "deep/f").write_text("came in")
            for path in (made, made / "deep", made / "deep/f"):
                os.chown(path, ADA, ADA)
            shutil.move(made, home.projects / f"in{next(_NUMBERS)}")  # a subvolume of its own: what is moved is copied

    @rule(machine=MACHINES, take_over=st.booleans())
    def sync(self, machine: int, take_over: bool) -> None:
        """Its state is the head then, or it is refused with a reason, and what it had may be kept as a branch.

        Either way the store has all that its states name.
        """
        home, before = self.here[machine], set(self._log())
        now = stores.facts(home.projects) if home.projects.is_dir() else None
        said = home.run("sync", "ada", *_loss(now), *(["--take-over"] if take_over else []))
        log = self._log()
        assert before <= set(log), "a sync removed a state"
        for snapshot in set(log) - before:
            assert now is not None, "a state of nothing"
            self.states[snapshot] = now
        if said.status == 0 and now is not None:
            head = self._head()
            assert head is not None
            if take_over or "nothing new" not in said.out or self.states[head] == now:
                assert self._got(head) == self.states[head] == now
            else:  # nothing changed here, so nobody was asked: the other machine has gone on meanwhile
                assert now in self.states.values()
        elif said.status != 0:
            assert REFUSED.search(said.err), said
            assert not take_over or now is None, said
        home.ok("verify", "ada")

    @rule(machine=MACHINES, verb=st.sampled_from(["sync", "restore", "prune"]), number=st.integers(0, 9),
          how=st.sampled_from(stopping.HOWS), take_over=st.booleans())  # fmt: skip
    def stopped(self, machine: int, verb: str, number: int, how: stopping.How, take_over: bool) -> None:
        """A command that is killed at some request, or refused one: nothing that was committed is lost."""
        home, before = self.here[machine], {state["snapshot"]: state["kept"] for state in self.here[0].log()}
        if verb == "restore":
            home.reboot()
        now = stores.facts(home.projects) if home.projects.is_dir() else None
        more = ["--take-over"] if take_over and verb != "prune" else []
        loss = _loss(now) if verb == "sync" else []
        stopping.run(DirectoryStore, ["--spec", str(home.town.file), verb, "ada", *more, *loss], number, how)
        log = self._log()
        assert {name for name, kept in before.items() if kept or verb != "prune"} <= set(log)
        for snapshot in set(log) - set(before):
            assert verb == "sync"
            assert now is not None, "a state of nothing"
            self.states[snapshot] = now
        if verb == "restore" and home.projects.is_dir() and os.listdir(home.projects):
            assert stores.facts(home.projects) in self.states.values()

    @rule(machine=MACHINES, take_over=st.booleans())
    def reboot(self, machine: int, take_over: bool) -> None:
        """The home is gone; what comes back is the head, whole, or nothing."""
        home = self.here[machine]
        home.reboot()
        head = self._head()
        said = home.run("restore", "ada", *(["--take-over"] if take_over else []))
        assert said.status == 0 or not take_over, said
        self._whole(home, head, said)

    @rule(machine=MACHINES, which=st.integers(0, 20))
    def restore_an_older_state(self, machine: int, which: int) -> None:
        """Any state that the log shows comes back as it was."""
        if log := self._log():
            home, chosen = self.here[machine], log[which % len(log)]
            home.reboot()
            self._whole(home, chosen, home.run("restore", "ada", "--at", chosen, "--take-over"))

    @rule(machine=MACHINES, which=st.integers(0, 20))
    def restore_an_older_state_in_place(self, machine: int, which: int) -> None:
        """Any state or branch, without a reboot: what lay there is set aside; it comes whole, or nothing changes."""
        home, log = self.here[machine], self._log()
        if not log or not home.projects.is_dir():
            return
        chosen, before = log[which % len(log)], stores.facts(home.projects)
        said = home.run("restore", "ada", "--at", chosen, "--take-over")
        assert said.status == 0 or REFUSED.search(said.err), said
        assert stores.facts(home.projects) in (before, self.states[chosen])

    @rule(machine=MACHINES)
    def the_index_is_lost(self, machine: int) -> None:
        """What the machine knows of its disk and of the packs: the next sync reads everything."""
        shutil.rmtree(self.here[machine].town.spec.state_dir / "index", ignore_errors=True)

    @rule(machine=MACHINES)
    def prune(self, machine: int) -> None:
        """What the policy keeps stays; of what is left, every state is whole."""
        if not self._log():
            return
        kept = {state["snapshot"] for state in self.here[machine].log() if state["kept"]}
        said = self.here[machine].run("prune", "ada")
        assert said.status == 0 or REFUSED.search(said.err), said
        left = set(self._log())
        assert kept <= left
        for snapshot in left:
            assert self._got(snapshot) == self.states[snapshot]

    @rule(hours=st.sampled_from([1, 13, 25, 200]))
    def time_goes_by(self, hours: int) -> None:
        """For the store and for both machines."""
        days.pass_by(hours * 3600.0, self.store, *(home.town.spec.state_dir for home in self.here))

    def teardown(self) -> None:
        """Every state that is left restores byte for byte."""
        for snapshot in self._log():
            assert self._got(snapshot) == self.states[snapshot]

    def _whole(self, home: Home, snapshot: str | None, said: Said) -> None:
        there = home.projects.is_dir() and os.listdir(home.projects)
        if snapshot is None:
            assert not there
        elif said.status == 0 or there:
            assert stores.facts(home.projects) == self.states[snapshot]

    def _log(self) -> list[str]:
        return [state["snapshot"] for state in self.here[0].log()]

    def _head(self) -> str | None:
        return next((state["snapshot"] for state in self.here[0].log() if state["kind"] == "head"), None)

    def _got(self, snapshot: str) -> Facts:
        return self.here[0].got(snapshot)

    def _path(self, machine: int, name: bytes) -> bytes | None:
        top = self.here[machine].projects
        return os.fsencode(top) + b"/" + name if top.is_dir() else None

    def _free(self, machine: int, name: bytes) -> bytes | None:
        """The path of a name whose parents are there and which is no directory."""
        path = self._path(machine, name)
        if path is None or os.path.isdir(path):
            return None
        top = os.fsencode(self.here[machine].projects)
        above = os.path.dirname(path)
        missing = []
        while not os.path.lexists(above):
            missing.append(above)
            above = os.path.dirname(above)
        if not os.path.isdir(above) or not os.path.realpath(above).startswith(os.path.realpath(top)):
            return None
        for directory in reversed(missing):
            os.mkdir(directory)
            os.chown(directory, ADA, ADA)
        if os.path.lexists(path) and not (os.path.isfile(path) and not os.path.islink(path)):
            os.unlink(path)
        return path

    def _beside(self, path: bytes, what: str) -> None:
        beside = os.path.dirname(path) + b"/" + os.path.basename(path)[:100] + b"+" + what.encode()
        if os.path.lexists(beside):
            os.unlink(beside)
        if what == "link" and not os.path.isdir(path):
            os.link(path, beside, follow_symlinks=False)
        elif what == "symlink":
            os.symlink(b"nowhere\xff", beside)
            os.chown(beside, ADA, ADA, follow_symlinks=False)
        elif what == "fifo":
            os.mkfifo(beside)
            os.chown(beside, ADA, ADA)


_NUMBERS = itertools.count()


def _loss(now: Facts | None) -> list[str]:
    """Rules remove more than half of the files at times; a home without projects is another matter."""
    return [] if now is None else ["--accept-loss"]


def _remove(path: bytes) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.unlink(path)


@pytest.fixture
def homes(town: Town, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[Home, Home]:
    """One town on two machines: on btrfs, and on plain directories."""
    declared = '[{ path = "projects", via = "store" }]'
    with_store(town, declared, more=KEEP)
    two = Town(tmp_path / "two", "", capsys)
    for directory in (two.base, two.agents, two.persisted):
        directory.mkdir(mode=0o755)
    text = town.file.read_text().replace(f'"{town.agents}"', f'"{two.agents}"')
    text = text.replace(f'"{town.persisted}"', f'"{two.persisted}"').replace(f'device = "{town.device}"', "")
    two.file.write_text(text.replace("[town.btrfs]", ""))
    return Home(town), Home(two)


@dataclass(frozen=True)
class _Sizes:
    examples: int = 4
    steps: int = 25


def test_two_machines_and_one_store_agree_with_the_model(homes: tuple[Home, Home]) -> None:
    class Run(Machines):
        pass

    Run.homes, Run.store = homes, homes[0].town.base / "store"
    sizes = _Sizes()
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Run,
        settings=settings(
            max_examples=times(sizes.examples),
            stateful_step_count=sizes.steps,
            deadline=None,
            derandomize=True,
            phases=(Phase.explicit, Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        ),
    )
