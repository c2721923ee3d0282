"""`persist tidy` deletes no home that holds what exists nowhere else: what was not synced, and not brought over yet."""

import json
from pathlib import Path

import pytest

from tests.machine.lineages import boot, kept, ok, reach_disk, work, write
from tests.machine.towns import Town, town
from town import btrfs, files

__all__ = ["kept", "town"]
pytestmark = pytest.mark.root


def old(town: Town) -> list[str]:
    with btrfs.top_level(town.device) as top, files.opened(files.enter(top, "@agents-old")) as fd:
        return sorted(map(str, map(bytes.decode, files.names(fd))))


def boots_without_ada(town: Town) -> None:
    """Boots at which only vox comes up, and a tidy after each."""
    for _ in range(6):
        boot(town)
        ok(town, "restore", "vox")
        ok(town, "tidy")


def test_what_was_not_synced_stays_until_a_restore_has_brought_it_over(kept: Town) -> None:
    write(kept, "synced")
    ok(kept, "sync", "ada")
    write(kept, "last-words")
    reach_disk(kept)
    boots_without_ada(kept)
    assert len(old(kept)) > 5, "its home is no longer among the newest five"
    ok(kept, "restore", "ada")
    assert (work(kept) / "last-words").exists()
    said = ok(kept, "tidy")
    assert "stays: it has" not in said.err
    assert len(old(kept)) == 5


def test_a_tidy_says_why_a_home_stays(kept: Town) -> None:
    write(kept, "last-words")
    reach_disk(kept)
    boots_without_ada(kept)
    said = ok(kept, "tidy", "--dry-run")
    assert "work of ada, which no restore has brought over yet" in said.err
    assert json.loads(ok(kept, "tidy", "--dry-run", "--json").out)["actions"] == []


def test_a_restore_says_when_what_was_not_synced_is_gone(kept: Town, tmp_path: Path) -> None:
    write(kept, "synced")
    ok(kept, "sync", "ada")
    write(kept, "last-words")
    reach_disk(kept)
    boot(kept)
    with btrfs.top_level(kept.device) as top, files.opened(files.enter(top, "@agents-old")) as fd:
        for name in files.names(fd):
            with files.opened(files.enter(fd, name)) as entry:
                homes = files.names(entry)
                for home in homes:
                    with files.opened(files.enter(entry, home)) as inside:
                        for nested in btrfs.nested(inside):
                            btrfs.delete(inside, nested.path.decode())
    said = ok(kept, "restore", "ada")
    assert "work: the subvolume that held it is gone" in said.err
    assert not (work(kept) / "last-words").exists()
    assert "is gone" not in ok(kept, "restore", "ada").err
