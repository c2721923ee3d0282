"""The program that root's units call: there, and on its whole way nobody's but root's to change.

Looked at are the links and directories on the way, the interpreter that its first line names, a virtual environment
whole, and the packages of nuketown where they lie outside of one (an editable install).
"""

import os
import shlex
import stat
from collections.abc import Iterator
from pathlib import Path

from persist.ground import OTHERS_WRITE
from town import trust
from town.failure import Failure
from town.terminal import shell_word, shown

_PACKAGES = ("persist", "town", "identity", "initrd")
_FIRST = 4096  # bytes; a kernel reads 256 of a first line: execve(2)


class NoProgram(Failure):
    """The units would call a program that is not there, or is none."""


class OthersProgram(Failure):
    """The units would run, as root, what somebody else may change."""


def refuse(path: str) -> None:
    """Look at a program of this machine, by its absolute path. Raises NoProgram or OthersProgram."""
    try:
        _look(path)
    except OSError as error:
        what = f"{shown(path)} cannot be the program of the units: {_named(error)}"
        cure = (
            "install nuketown, or make links to the commands persist and identity, side by side, and name that of "
            "persist: --program /usr/local/bin/persist"
        )
        raise NoProgram(what, hint=cure) from error


def environment(path: str) -> Path | None:
    """The virtual environment that a program lies in, by its absolute path; None for any other."""
    above = Path(path).parent.parent
    return above if os.path.lexists(above / "pyvenv.cfg") else None


def _look(path: str) -> None:
    found = _way(path)
    if not stat.S_ISREG(os.stat(found).st_mode) or not os.access(found, os.X_OK):
        raise NoProgram(f"{shown(path)} is not a program", hint="give the absolute path of persist: --program")
    for interpreter in _interpreters(found):
        _way(interpreter)
    place = environment(path) or environment(found)
    if place is not None:
        _whole(str(place))
    for package in (*_linked(place), *_own(path)):
        _whole(_way(package))


def _way(path: str) -> str:
    """Look at everything on the way to `path`; where it ends. Raises OthersProgram or OSError."""
    for step in trust.way(Path(path)):
        _roots(str(step))
    return os.path.realpath(path)


def _roots(path: str) -> None:
    """Raises OthersProgram when others than root may change or replace an entry, itself and not what it leads to."""
    found = os.lstat(path)
    # In a directory like /tmp nobody replaces what belongs to another.
    sticky = stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX
    if found.st_uid == 0 and (stat.S_ISLNK(found.st_mode) or sticky or not found.st_mode & OTHERS_WRITE):
        return
    name = shell_word(path)
    raise OthersProgram(
        f"{shown(path)} may be changed by others than root (owner uid {found.st_uid}, mode "
        f"{stat.S_IMODE(found.st_mode):04o}), and root's units would run what they put there",
        hint="install nuketown from a checkout of root's own, in a place of root's such as /opt; or, after a look at "
        f"what lies there: chown -hR root:root {name} && chmod -R go-w {name}",
    )


def _interpreters(program: str) -> Iterator[str]:
    """What the first line of a script names, and what pip puts behind /bin/sh where that line would be too long."""
    with open(program, "rb") as file:
        first, _, rest = file.read(_FIRST).decode("utf-8", "replace").partition("\n")
    if not first.startswith("#!"):
        return
    yield from first[2:].split()[:1]
    second = rest.partition("\n")[0]
    if second.startswith("'''exec' "):
        yield from shlex.split(second)[1:2]


def _whole(folder: str) -> None:
    _roots(folder)
    for here, folders, names in os.walk(folder, onerror=_raise):
        for name in (*folders, *names):
            _roots(os.path.join(here, name))


def _raise(error: OSError) -> None:
    raise error


def _linked(place: Path | None) -> Iterator[str]:
    """The packages that a virtual environment finds elsewhere: directories that its .pth files name (Python's site)."""
    files = place.glob("lib/python3*/site-packages/*.pth") if place is not None else ()
    for line in (line for file in files for line in file.read_text().splitlines() if line.startswith("/")):
        yield from (folder for name in _PACKAGES if os.path.lexists(folder := os.path.join(line.strip(), name)))


def _own(path: str) -> Iterator[str]:
    """The packages that the running program is made of, when the units call that one."""
    from importlib.util import find_spec

    from persist.units import own_program

    if os.path.realpath(path) == os.path.realpath(own_program()):
        for name in _PACKAGES:
            found = find_spec(name)
            yield from (found.submodule_search_locations or ()) if found is not None else ()


def _named(error: OSError) -> str:
    where = f"{shown(os.fsdecode(error.filename))}: " if error.filename else ""
    return f"{where}{error.strerror}"
