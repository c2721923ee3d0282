"""A town whose ada keeps `work` in the store alone, so that it lies in her home; boots of it, synced or not."""

import itertools
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from persist.store.directory import DirectoryStore
from tests.machine import stopping
from tests.machine.stores import with_store
from tests.machine.test_sync_machines import another
from tests.machine.towns import AS_ADA, Said, Town, as_agent, town
from town import btrfs, files, kernel

__all__ = ["kept", "town"]
BOTH = '[{ path = "work", via = "store" }]'
_BOOTS = itertools.count(1)


@pytest.fixture
def kept(town: Town) -> Town:
    """The town, its store made, ada's home made; nothing was synced."""
    with_store(town, BOTH)
    ok(town, "init", "--store")
    ok(town, "restore")
    return town


def ok(town: Town, *words: str) -> Said:
    """A command that must end well."""
    said = town.persist(*words)
    assert said.status == 0, (words, said)
    return said


def work(town: Town) -> Path:
    return town.agents / "ada/work"


def write(town: Town, name: str, text: str = "") -> None:
    """Ada writes a file in her directory."""
    as_agent(AS_ADA, town.agents / "ada", f"open('work/{name}', 'w').write({text or name!r})")


def run(town: Town, program: str) -> None:
    """Ada runs Python in her home."""
    as_agent(AS_ADA, town.agents / "ada", program)


def reach_disk(town: Town) -> None:
    with files.opened(files.open_dir(town.agents)) as fd:
        kernel.syncfs(fd)


def boot(town: Town) -> None:
    """The power goes once all has reached the disk; the machine comes up again, its homes set aside."""
    reach_disk(town)
    number = next(_BOOTS)
    town.boot(f"20261121T{number // 3600:02}{number // 60 % 60:02}{number % 60:02}Z-{os.urandom(2).hex()}")


def synced(town: Town, *words: str) -> dict[str, Any]:
    """Sync ada; what it said."""
    found: dict[str, Any] = json.loads(ok(town, "sync", "--json", "ada", *words).out)[0]
    return found


@contextmanager
def no_packs(town: Town) -> Iterator[None]:
    """The store answers, but has no data to give: what is fetched meanwhile fails."""
    packs = town.base / "store/packs"
    packs.rename(town.base / "packs")
    packs.mkdir(mode=0o700)
    try:
        yield
    finally:
        packs.rmdir()
        (town.base / "packs").rename(packs)


def requests(town: Town, *words: str) -> int:
    """How many requests a command sends, which ends well."""
    ended = stopping.run(DirectoryStore, ["--spec", str(town.file), *words])
    assert ended.status == 0, words
    return ended.requests


def record(town: Town) -> dict[str, list[dict[str, Any]]]:
    """The lineage as it is on the disk."""
    found: dict[str, Any] = json.loads((town.persisted / ".nuketown/lineage/ada.json").read_text())
    return found["paths"]  # type: ignore[no-any-return]


def degraded(town: Town) -> dict[str, Any]:
    """What is noted of copies that are used without the store's word."""
    file = town.persisted / ".nuketown/degraded/ada.json"
    return json.loads(file.read_text()) if file.exists() else {}


def uuid(path: Path) -> str:
    with files.opened(files.open_dir(path)) as fd:
        return btrfs.info(fd).uuid_bytes.hex()


def second(one: Town, name: str = "two") -> Town:
    """Another machine of the town, without btrfs, with nothing on it."""
    two = another(one, one.base.parent / name)
    text = two.file.read_text()
    two.file.write_text(text.replace(f'[town.btrfs]\ndevice = "{one.device}"\n', ""))
    return two
