"""What must be made anew once somebody can no longer open a SOPS file: they may have kept all that was in it."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from identity.plan import recovery_path
from town.spec import Spec
from town.terminal import shell_word, shown


@dataclass(frozen=True, slots=True)
class Due:
    """One value that somebody who left may know: its file, its path there, and the command that makes another.

    `command` is empty where that of another value does it; `why` is what a person has to know beside it.
    """

    file: str
    path: str
    command: str
    why: str = ""

    def __str__(self) -> str:
        said = ": ".join(filter(None, (self.why, self.command)))
        return f"rotate  {shown(self.file)}: {shown(self.path)}: {said}"


def of_secrets(spec: Spec, file: str, names: Iterable[str], *, recovery: str | None) -> Iterator[Due]:
    """For everything in the secrets file, which holds values at `names`.

    `recovery`: the name of the recovery file where it was open to them too, and with it the primary keys.
    """
    known = _commands(spec)
    whole = {agent.secrets.gpg_key: agent for agent in spec.agents if recovery is not None}
    for path in sorted(names):
        if path in whole:
            yield Due(file, path, "", f"with {shown(recovery_path(whole[path]))} of {shown(recovery or '')}")
        elif path in known:
            yield Due(file, path, known[path])
        else:
            yield _unknown(file, path)


def of_recovery(spec: Spec, file: str, names: Iterable[str]) -> Iterator[Due]:
    """For everything in the recovery file: who knows a primary key can certify whatever they like with it."""
    known = {
        recovery_path(agent): f"identity revoke {agent.name} --gpg && identity rotate {agent.name} --gpg"
        for agent in spec.agents
    }
    for path in sorted(names):
        if path in known:
            yield Due(file, path, known[path])
        elif not _SPENT.fullmatch(path):
            yield _unknown(file, path)


# A certificate revokes its key and no other; a key that was revoked can do no more harm.
_SPENT = re.compile(r"[^/]+/(gpg-revocation|gpg-revoked-[0-9A-F]+)")


def _commands(spec: Spec) -> dict[str, str]:
    found: dict[str, str] = {}
    for agent in spec.agents:
        found[agent.secrets.ssh_key] = f"identity rotate {agent.name} --ssh"
        if agent.secrets.gpg_key is not None:
            found[agent.secrets.gpg_key] = f"identity rotate {agent.name} --gpg"
        for name, path in agent.secrets.extra:  # several agents may share one: the value is set once
            found.setdefault(path, f"identity secret set {agent.name} {name}")
    return found


def _unknown(file: str, path: str) -> Due:
    """Nothing in the spec names it, so nothing here can make another."""
    return Due(file, path, f"sops edit {shell_word(file)}", "nothing of the spec reads it, take it out or change it")
