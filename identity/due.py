"""What must be made anew once somebody can no longer open a SOPS file: they may have kept all that was in it."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from identity.plan import recovery_path, revocation_path
from town.spec import Agent, Spec
from town.terminal import shell_word, shown


@dataclass(frozen=True, slots=True)
class Due:
    """One value that somebody who left may know: its file, its path there, and the command that makes another."""

    file: str
    path: str
    command: str

    def __str__(self) -> str:
        return f"rotate  {shown(self.file)}: {shown(self.path)}: {self.command}"


def of_secrets(spec: Spec, file: str, names: Iterable[str], *, primary: bool) -> Iterator[Due]:
    """For everything in the secrets file, which holds values at `names`; `primary`: the primary keys are known too."""
    known = _commands(spec)
    if primary:
        known |= {agent.secrets.gpg_key: _whole(agent) for agent in spec.agents if agent.secrets.gpg_key is not None}
    for path in sorted(names):
        yield Due(file, path, known.get(path) or _unknown(file))


def of_recovery(spec: Spec, file: str, names: Iterable[str]) -> Iterator[Due]:
    """For everything in the recovery file: who knows a primary key can certify whatever they like with it."""
    known = {recovery_path(agent): _whole(agent) for agent in spec.agents}
    gone_with_it = {revocation_path(agent) for agent in spec.agents}  # it revokes that key and no other
    for path in sorted(set(names) - gone_with_it):
        yield Due(file, path, known.get(path) or _unknown(file))


def _commands(spec: Spec) -> dict[str, str]:
    found: dict[str, str] = {}
    for agent in spec.agents:
        found[agent.secrets.ssh_key] = f"identity rotate {agent.name} --ssh"
        if agent.secrets.gpg_key is not None:
            found[agent.secrets.gpg_key] = f"identity rotate {agent.name} --gpg"
        for name, path in agent.secrets.extra:  # several agents may share one: the value is set once
            found.setdefault(path, f"identity secret set {agent.name} {name}")
    return found


def _whole(agent: Agent) -> str:
    return f"identity revoke {agent.name} --gpg, then identity rotate {agent.name} --gpg"


def _unknown(file: str) -> str:
    """Nothing in the spec names it, so nothing here can make another."""
    return f"nothing of the spec reads it: take it out or change it with sops edit {shell_word(file)}"
