"""Declared paths that run code at the next login: what an agent wrote there outlives the boot that should end it."""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import town
from town.failure import Problem
from town.spec import Persist, Spec
from town.terminal import shown

_DATA = Path(town.__file__).with_name("startup.toml")
_ANYWHERE = frozenset({".git", ".githooks"})  # also deeper in the home
_HARMLESS = (PurePosixPath(".ssh/known_hosts"),)


def warnings(spec: Spec) -> Iterator[Problem]:
    """One for each declared path that is, holds or lies in something of the list."""
    import tomllib

    known = {PurePosixPath(path): who for path, who in tomllib.loads(_DATA.read_text(encoding="utf-8")).items()}
    for agent in spec.agents:
        for number, entry in enumerate(agent.persist):
            if (found := _found(entry, known)) is not None:
                yield _warning(f"agents.{agent.name}.persist[{number}]", entry.path, found, known[found])


def _found(entry: Persist, known: dict[PurePosixPath, str]) -> PurePosixPath | None:
    """What of the list a declared path is, lies in or holds: the first."""
    path = entry.path
    if path in _HARMLESS:
        return None
    for part in path.parts:
        if part in _ANYWHERE:
            return PurePosixPath(part)
    return next((one for one in known if path.is_relative_to(one) or one.is_relative_to(path)), None)


def _warning(where: str, path: PurePosixPath, found: PurePosixPath, who: str) -> Problem:
    held = "" if path == found else f" ({'lies in' if path.is_relative_to(found) else 'holds'} {found})"
    if found.name in _ANYWHERE and path != found:
        held = f" ({found})"
    return Problem(
        where,
        f"{shown(str(path))}{held} runs code at the next login ({who}): what an agent leaves there comes back with it",
        "persist only what is data in it, or leave it out",
    )
