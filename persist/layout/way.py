"""The way to agents' data under persist_dir, as something else laid it out: what becomes root's, what cannot be taken.

impermanence (NixOS; nixos.nix, `dirCreationScript`) makes persist_dir/agents root's, 0755, persist_dir/agents/NAME the
agent's, 0700, and every directory below it the agent's, 0755; later versions leave those in between to root. Whoever
owns a directory can swap what lies in it, so `persist restore` wants all of them to be root's but the last. Nothing is
changed here, no symlink is followed and no mount is entered; agents may be at work meanwhile, so `doing` looks again.
"""

import heapq
import itertools
import os
import stat
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from persist import ground, places
from persist.entering import in_the_way
from persist.layout import directories
from persist.layout.actions import CLOSED, Close, Findings, LetPass, Take
from persist.restore.found import HIDDEN
from town import btrfs, files
from town.failure import Failure, Unsafe
from town.spec import Agent, Spec
from town.terminal import counted, shell_word, shown

FEW, MANY = 5, 1000  # names that are shown, and names that are looked at
_OTHERS, _THROUGH, _WRITE = 0o077, 0o011, 0o022


@dataclass(slots=True)
class _Steps:
    """What will be done, in the order that opens nothing: everything is taken and closed before anybody may pass."""

    takes: list[Take] = field(default_factory=list)
    closes: list[Close] = field(default_factory=list)
    opens: list[LetPass] = field(default_factory=list)
    plain: list[str] = field(default_factory=list)  # agents whose directory could be a subvolume and is none


@dataclass(frozen=True, slots=True)
class _Strangers:
    """Names that nobody declared: a few of them, how many, and whether others could read one that they can reach."""

    few: tuple[str, ...]
    count: str
    readable: bool


def look(spec: Spec, found: Findings) -> None:
    """Plan the adoption of persist_dir/agents, where it is there; name everything that cannot be taken over."""
    if spec.town.persist_dir is None:
        return
    steps, path = _Steps(), spec.town.persist_dir / "agents"
    with _opened(spec.town.persist_dir) as persist_dir:
        if persist_dir is None:
            return  # missing or wrong, and named by `directories`
        _elsewhere(spec, spec.town.persist_dir, persist_dir, found)
        with _entered(persist_dir, path, found) as fd:
            if fd is not None and _agents(spec, path, fd, steps, found):
                for agent in spec.agents:
                    _agent(spec, agent, fd, steps, found)
    found.actions += [*steps.takes, *steps.closes, *steps.opens]
    if steps.plain:
        what = f"{', '.join(steps.plain)}: the directory under persist_dir stays a plain one, for data is not copied"
        found.notes.append(f"{what}; persist sync reads its files as they change, without a snapshot")


def _elsewhere(spec: Spec, path: Path, persist_dir: int, found: Findings) -> None:
    """impermanence repeats the whole path of a home below persist_dir: with another agents_dir that is not ours."""
    relative = spec.town.agents_dir.relative_to("/")
    if relative == Path("agents"):
        return
    with suppress(OSError, Unsafe), files.opened(files.open_beneath(persist_dir, str(relative), os.O_PATH)):
        ours = shell_word(str(path / "agents"))
        found.warnings.append(
            (f"{shown(str(path / relative))} is there, where impermanence keeps data of {shown(str(relative))}; it is "
             f"looked for in {shown(str(path / 'agents'))}", f"move what is in it to {ours}, then run it again")
        )  # fmt: skip


@contextmanager
def _opened(path: Path) -> Iterator[int | None]:
    try:
        with directories.root() as slash:
            fd = files.open_beneath(slash, str(path.relative_to("/")))
    except (OSError, Unsafe):
        yield None
        return
    with files.opened(fd):
        yield fd


@contextmanager
def _entered(parent: int, path: Path, found: Findings) -> Iterator[int | None]:
    """The directory `path`, whose parent is open; None where it is missing, or in the way and now named."""
    try:
        fd = files.enter(parent, path.name)
    except FileNotFoundError:
        yield None
        return
    except (OSError, Unsafe) as error:
        _named(in_the_way(path, error), found)
        yield None
        return
    with files.opened(fd):
        yield fd


def _named(failure: Failure, found: Findings) -> None:
    found.wrong.append((failure.what, failure.hint))


def _agents(spec: Spec, path: Path, fd: int, steps: _Steps, found: Findings) -> bool:
    """persist_dir/agents itself; whether what lies in it can be looked at."""
    entry, strangers = os.fstat(fd), _strangers(fd, {agent.name for agent in spec.agents})
    if entry.st_uid not in (0, *(agent.uid for agent in spec.agents)):
        cure = f"look whose it is; then chown 0:0 {shell_word(str(path))}, that directory alone, and run it again"
        found.wrong.append((f"{shown(str(path))} belongs to uid {entry.st_uid}, which is no agent's of the spec", cure))
        return False
    if strangers is not None:
        cure = "add [agents.NAME] to the spec for each that is an agent, or move it away"
        found.warnings.append((f"{_in(path, strangers)}: no agent of the spec is called so", cure))
    if strangers is not None and strangers.readable and not entry.st_mode & _THROUGH:
        word = shell_word(str(path))
        cure = f"chmod go-rwx what belongs to no agent there, or move it away: ls -la {word}"
        found.wrong.append(
            (f"{shown(str(path))} must be entered by agents, and holds what others could read then", cure)
        )
        return True
    _settle(path, entry, steps)
    return True


def _agent(spec: Spec, agent: Agent, above: int, steps: _Steps, found: Findings) -> None:
    bound = [entry.path for entry in agent.persist if entry.bound]
    path = places.persisted(spec, agent)
    with _entered(above, path, found) as fd:
        if fd is None:
            return
        if btrfs.is_btrfs(fd) and not btrfs.is_subvolume(fd):
            steps.plain.append(agent.name)
        declared, done = _children(bound), dict[PurePosixPath, bool]()
        done[PurePosixPath()] = _on_the_way(agent, path, fd, declared[PurePosixPath()], steps, found)
        for entry in bound:
            _declared(agent, path, fd, entry, (declared, done), steps, found)


def _children(paths: list[PurePosixPath]) -> dict[PurePosixPath, set[str]]:
    """The names that are declared in each directory on the way, the agent's own among them."""
    found: dict[PurePosixPath, set[str]] = defaultdict(set)
    for path in paths:
        for number, name in enumerate(path.parts):
            found[PurePosixPath(*path.parts[:number])].add(name)
    return found


def _declared(
    agent: Agent,
    top: Path,
    fd: int,
    path: PurePosixPath,
    known: tuple[dict[PurePosixPath, set[str]], dict[PurePosixPath, bool]],
    steps: _Steps,
    found: Findings,
) -> None:
    """Walk down to one declared directory; each directory on the way is settled once (`done`: may one go below it)."""
    declared, done = known
    at, here = os.dup(fd), PurePosixPath()
    try:
        for name in path.parts:
            if not done[here]:
                return
            here = here / name
            first = here not in done
            # Looked at before by another declared path: what was wrong with it is said already.
            with _entered(at, top / here, found if first else Findings()) as below:
                if below is None:
                    done[here] = False
                    return
                if here == path:
                    _leaf(agent, top / path, os.fstat(below), steps, found)
                elif first:
                    done[here] = _on_the_way(agent, top / here, below, declared[here], steps, found)
                os.dup2(below, at, inheritable=False)
    finally:
        os.close(at)


def _on_the_way(agent: Agent, path: Path, fd: int, declared: set[str], steps: _Steps, found: Findings) -> bool:
    """A directory that should be root's; whether what lies in it can be looked at."""
    entry = os.fstat(fd)
    if entry.st_uid not in (0, agent.uid):
        _named(ground.wrong_owner(path, entry.st_uid, agent.uid, agent.name), found)
        return False
    strangers = _strangers(fd, declared)
    private = not entry.st_mode & 0o001 and strangers is not None and strangers.readable
    if strangers is not None:
        stays = f"; {shown(str(path))} stays closed to others, who could read it" if private else ""
        cure = f"declare it in persist of {agent.name} (a directory, via bind or both), or move it away"
        found.warnings.append(
            (f"{_in(path, strangers)}: not declared, so it stays there and is not brought back{stays}", cure)
        )
    _settle(path, entry, steps, private=private)
    return True


def _settle(path: Path, entry: os.stat_result, steps: _Steps, *, private: bool = False) -> None:
    """Root's, not writable for others, and entered by others where that shows nothing that was closed."""
    mode = stat.S_IMODE(entry.st_mode)
    if entry.st_uid != 0 or mode & _WRITE:
        steps.takes.append(Take(path, entry.st_uid, mode))
        mode = CLOSED
    if not private and mode & _THROUGH != _THROUGH:
        steps.opens.append(LetPass(path))


def _leaf(agent: Agent, path: Path, entry: os.stat_result, steps: _Steps, found: Findings) -> None:
    """The declared directory itself: its content is not looked at."""
    if entry.st_uid == 0:
        cure = f"if it is the agent's, give it: chown {agent.uid}:{agent.gid} {shell_word(str(path))}"
        found.warnings.append(
            (f"{shown(str(path))} belongs to root: {agent.name} gets it and cannot write to it", cure)
        )
    elif entry.st_uid != agent.uid:
        _named(ground.wrong_owner(path, entry.st_uid, agent.uid, agent.name), found)
    elif entry.st_mode & _OTHERS:
        steps.closes.append(Close(path, agent.uid, stat.S_IMODE(entry.st_mode)))


def _strangers(fd: int, declared: set[str]) -> _Strangers | None:
    """Names that nobody declared and `persist restore` did not make; at most MANY are looked at."""
    others = (entry for entry in files.scan(fd) if entry.name not in declared and not _ours(entry.name))
    first = list(itertools.islice(others, MANY + 1))
    if not first:
        return None
    few = tuple(shown(name) for name in heapq.nsmallest(FEW, (entry.name for entry in first)))
    count = counted(len(first), "name") if len(first) <= MANY else f"more than {counted(MANY, 'name')}"
    return _Strangers(few, count, len(first) > MANY or any(map(_readable, first)))


def _ours(name: str) -> bool:
    return HIDDEN.fullmatch(os.fsencode(name)) is not None


def _readable(entry: os.DirEntry[str]) -> bool:
    try:
        mode = entry.stat(follow_symlinks=False).st_mode
    except OSError:  # its owner took it away meanwhile
        return False
    return not stat.S_ISLNK(mode) and bool(mode & _OTHERS)


def _in(path: Path, strangers: _Strangers) -> str:
    more = f" ({strangers.count})" if not strangers.count.startswith(f"{len(strangers.few)} ") else ""
    return f"{shown(str(path))} holds {', '.join(strangers.few)}{more}"
