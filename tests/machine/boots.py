"""Homes that two boots set aside, for verbs about kept homes."""

import pytest

from tests.machine.towns import AS_ADA, Town, as_agent, town

__all__ = ["old", "town"]
FIRST, SECOND = "20261120T080000Z-11111111-2222", "20261121T101500Z-33333333-4444"


@pytest.fixture
def old(town: Town) -> Town:
    """Two boots: ada left `first` in the older home, `second` and a nested subvolume in the newer."""
    town.persist("restore")
    as_agent(AS_ADA, town.agents / "ada", "open('first', 'w').write('1' * 100_000)")
    town.boot(FIRST)
    town.persist("restore")
    as_agent(
        AS_ADA,
        town.agents / "ada",
        "import os, subprocess; open('second', 'w').write('2'); os.makedirs('a/b')\n"
        "subprocess.run(['btrfs', 'subvolume', 'create', 'a/b/nested'], check=True)",
    )
    town.boot(SECOND)
    town.persist("restore")
    return town
