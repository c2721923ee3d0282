"""One machine of a town whose ada keeps her projects in the store alone: a home that a reboot takes, its commands."""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from persist import fetch, fill
from tests.machine import stores
from tests.machine.stores import Fact
from tests.machine.towns import ADA, Said, Town, undo
from town import btrfs, files
from town.process import Person


@dataclass(frozen=True)
class Home:
    """Ada's home on one machine; with or without btrfs."""

    town: Town

    @property
    def home(self) -> Path:
        return self.town.agents / "ada"

    @property
    def projects(self) -> Path:
        return self.home / "projects"

    def run(self, *words: str) -> Said:
        """A command."""
        return self.town.persist(*words)

    def ok(self, *words: str) -> Said:
        """A command that must end well."""
        said = self.run(*words)
        assert said.status == 0, (words, said)
        return said

    def log(self) -> list[dict[str, Any]]:
        """The states of ada's that the store holds, newest first."""
        told = json.loads(self.ok("log", "ada", "--json").out)
        return [state for one in told["agents"] for state in one["states"]]

    @property
    def head(self) -> str:
        """The snapshot that is the newest."""
        return next(state["snapshot"] for state in self.log() if state["kind"] == "head")

    def got(self, snapshot: str) -> dict[bytes, Fact]:
        """What a restore of a state brings, into a place beside it all; no record of this machine is changed."""
        spec, path = self.town.spec, PurePosixPath("projects")
        held = fetch.chosen(spec, spec.agent("ada"), fetch.Options(at=snapshot))
        assert held is not None
        into = self.town.persisted / "got"
        into.mkdir(mode=0o700)
        try:
            with files.opened(files.open_dir(into)) as fd, fetch.scratch(spec) as scratch:
                fill.fill(held.source(), held.top(path), fd, held.facts(Person(ADA, ADA)), scratch)
            return stores.facts(into)
        finally:
            held.close()
            shutil.rmtree(into)

    def reboot(self) -> None:
        """All homes are gone; the proof of the hook is there."""
        undo(self.town.agents)
        if not self.town.device:
            shutil.rmtree(self.town.agents)
            self.town.agents.mkdir()
            return
        with btrfs.top_level(self.town.device) as top, files.opened(files.enter(top, "@agents")) as agents:
            for nested in btrfs.nested(agents):
                _delete(agents, PurePosixPath(os.fsdecode(nested.path)))
            for name in files.names(agents):
                files.remove_tree(agents, name)
        self.town.mount()
        self.town.prove()

    def forget(self) -> None:
        """The machine knows nothing any more: no id, no lease, no index."""
        shutil.rmtree(self.town.spec.state_dir, ignore_errors=True)


def _delete(directory: int, path: PurePosixPath) -> None:
    """A subvolume, and those in it."""
    with files.opened(files.open_beneath(directory, path)) as fd:
        for nested in btrfs.nested(fd):
            _delete(fd, PurePosixPath(os.fsdecode(nested.path)))
    with files.opened(files.open_beneath(directory, path.parent)) as parent:
        btrfs.delete(parent, path.name)
