"""Generated files: those that are not as gen would write them now, and those that nothing makes any more."""

import os
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path, PurePosixPath

from identity import journal, places, signers, texts
from identity import lock as locks
from identity.check import public
from identity.finding import Finding
from identity.lock import Lock
from identity.places import IDENTITIES, Places
from identity.prompts import CODEX_READS
from identity.revocation import Holder
from identity.vault import Vault
from town import files
from town.spec import Agent, Spec
from town.terminal import shell_word, shown

_LIMIT = 16 << 20  # bytes
_LOOK = "look at it with git diff, then: identity gen --all"


def unfinished(where: Places) -> Iterator[Finding]:
    """A run that was killed. Raises journal.Unfinished."""
    if journal.pending(where):
        run = journal.interrupted(where) or "gen --all"
        what = f"a run of identity {shown(run.split(' ')[0])} was interrupted"
        yield Finding("warning", str(places.JOURNAL), what, f"identity {shown(run)} finishes it")


def lost_lock(where: Places) -> Iterator[Finding]:
    """The lock is gone, and keys are there: made anew it would not know what was rotated or revoked."""
    root = shell_word(os.path.abspath(where.root))
    there = any(where.path(name).exists() for name in (places.ALLOWED_SIGNERS, places.REVOKED))
    if there or any(where.path(IDENTITIES).glob("*/*.pub")) or any(where.path(IDENTITIES).glob("*/gpg.asc")):
        cure = f"bring back the last good one: git -C {root} checkout HEAD -- {places.LOCK}"
        yield Finding("error", str(places.LOCK), "is not there, and there are keys that it names", cure)


def town(spec: Spec, where: Places, lock: Lock) -> Iterator[Finding]:
    """The files that all agents share: who is believed, who not any more, and the lock."""
    if not where.path(places.LOCK).exists():
        yield Finding("error", str(places.LOCK), "is not there", "identity gen --all")
        return
    now, then = _shared(spec, lock), _shared(spec, _with_addresses(spec, lock))
    for name, text in now.items():
        found = read(where, name)
        if found is None:
            yield Finding("error", name, "is not there", "identity gen --all")
        elif found != text and name != str(places.LOCK):
            yield Finding("error", name, "speaks of other keys than keys.lock.toml", _LOOK)
        elif found != then[name]:
            yield Finding("warning", name, "is not as the spec has it", _LOOK)


def _shared(spec: Spec, lock: Lock) -> dict[str, bytes]:
    return {name: _bytes(text) for name, text in texts.of_lock(spec, (), lock, {}) if text is not None}


def _with_addresses(spec: Spec, lock: Lock) -> Lock:
    """The lock as gen writes it: with the addresses that the spec has now."""
    return {**lock, **{
        agent.name: locks.entry(entry, signers.principal(agent.git.email), entry.halves)
        for agent in spec.agents if (entry := lock.get(agent.name)) is not None
    }}  # fmt: skip


def agent(spec: Spec, agent: Agent, where: Places, lock: Lock) -> Iterator[Finding]:
    """The documents of one agent, and ssh.pub. Raises BadText."""
    for name, text in _own(spec, agent, lock):
        found = read(where, name)
        if found != (None if text is None else _bytes(text)) and not _other_key(agent, name, found, text):
            what = "is not there" if found is None else "is not as the spec has it"
            yield Finding("warning", name, what, f"identity gen {agent.name}")
        if PurePosixPath(name).parent.name == "codex" and text is not None and len(_bytes(text)) > CODEX_READS:
            yield Finding(
                "warning", name, f"is longer than the {CODEX_READS} bytes that Codex says it reads",
                "shorten the description or prompts.extra",
            )  # fmt: skip


def _other_key(agent: Agent, name: str, found: bytes | None, text: str | bytes | None) -> bool:
    """Whether ssh.pub differs in more than its comment: that is said of the key, and gen does not mend it."""
    if name != str(places.ssh_public(agent)) or text is None:
        return False
    return found is None or found.split()[:2] != _bytes(text).split()[:2]


def _own(spec: Spec, agent: Agent, lock: Lock) -> Iterator[texts.Text]:
    yield from takewhile(lambda text: text[0] != str(places.REVOKED), texts.of_lock(spec, (agent,), lock, {}))


def leftovers(spec: Spec, where: Places, lock: Lock) -> Iterator[Finding]:
    """Files in the directories of agents that nothing makes: an agent or a runtime left the spec, a run was killed."""
    agents = {agent.name: agent for agent in spec.agents}
    top = where.path(IDENTITIES)
    for folder in sorted(top.iterdir()) if top.is_dir() else ():
        if not folder.is_dir() or folder.is_symlink():
            continue
        made = _made(spec, agents.get(folder.name), lock, folder.name)
        left = [name for name in _names(folder) if name not in made]
        if folder.name in agents and folder.name not in lock:
            left = [name for name in left if _half(name)]  # what has a reason to be there is not known
        if left and folder.name not in agents:
            yield _gone(folder, left, folder.name in lock)
        else:
            yield from (_left(folder, name) for name in left)
        if folder.name not in agents and (lock or where.path(places.LOCK).exists()):
            yield from public.history(folder.name, where, lock.get(folder.name, locks.Entry("")))


def _made(spec: Spec, agent: Agent | None, lock: Lock, name: str) -> set[str]:
    """The names below identities/NAME/ that have a reason to be there; public keys as long as the lock knows them."""
    keys = {"ssh.pub", "gpg.asc"} if name in lock else set()
    if agent is None or agent.name not in lock:
        return keys
    return keys | {str(PurePosixPath(one).relative_to(IDENTITIES / name)) for one, _ in _own(spec, agent, lock)}


def _names(folder: Path) -> Iterator[str]:
    for place, directories, names in os.walk(folder):
        directories.sort()
        yield from (os.path.relpath(os.path.join(place, name), folder) for name in sorted(names))


def _gone(folder: Path, left: list[str], known: bool) -> Finding:
    stay = ". Its public keys stay: what it signed still verifies" if known else ""
    what = f"the spec has no agent {shown(folder.name)}, and there is {shown(left[0])}"
    return Finding("warning", str(IDENTITIES / folder.name), what, _remove(folder, left) + stay)


def _left(folder: Path, name: str) -> Finding:
    where = str(IDENTITIES / folder.name / name)
    if _half(name):
        return Finding("warning", where, "a run that was killed left it", "the next identity gen removes it")
    return Finding("warning", where, "nothing of the spec makes it any more", _remove(folder, [name]))


def _half(name: str) -> bool:
    return os.path.basename(name).startswith(".") and name.endswith(".new")


def _remove(folder: Path, names: list[str]) -> str:
    """The command, for any current directory, and whether git tracks the files, or is there at all, or not."""
    words = " ".join(shell_word(os.path.abspath(folder / one)) for one in names[:20])
    return f"rm {words}{' …' if len(names) > 20 else ''}"


def private_halves(spec: Spec, secrets: Vault, lock: Lock) -> Iterator[Finding]:
    """What the secrets file still has of agents that left the spec: each host opens it. Names only."""
    read = {path for agent in spec.agents for path in _paths(agent)}
    for name in sorted(set(lock) - {agent.name for agent in spec.agents}):
        holder = Holder(name, None)
        if left := [one for one in (holder.ssh_path, holder.gpg_path) if one in secrets.names - read]:
            what = f"the spec has no agent {shown(name)}, and there is the private half of its key: {', '.join(left)}"
            cure = f"take it out, with: sops edit {shell_word(os.path.abspath(secrets.path))}"
            yield Finding("warning", secrets.name, what, cure)


def _paths(agent: Agent) -> Iterator[str]:
    own = agent.secrets
    yield from (own.ssh_key, *([] if own.gpg_key is None else [own.gpg_key]), *(path for _, path in own.extra))


def read(where: Places, name: str) -> bytes | None:
    """What a generated file holds; None when there is none. Raises files.Unreadable."""
    path = where.path(name)
    return files.read_bounded(path, _LIMIT) if os.path.lexists(path) else None


def _bytes(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text
