"""What the units of a town say of single agents: who has a part in the store, what a login waits for."""

from collections.abc import Iterator

from persist.units import words
from town.spec import Agent, Spec

MARK = "# Written by nuketown: persist install writes it again.\n"


def synced(agent: Agent) -> bool:
    """Whether something of the agent's may have to be fetched before it starts, and sent, or copied, when it leaves."""
    return any(entry.synced or entry.copied for entry in agent.persist)


def drop_ins(spec: Spec) -> Iterator[tuple[str, str]]:
    """Name and text of each drop-in."""
    for agent in spec.agents:
        yield f"user@{agent.uid}.service.d/nuketown.conf", _login(agent)
        yield f"user-{agent.uid}.slice.d/nuketown.conf", _processes(agent)
        if synced(agent):
            yield f"nuketown-leave@{agent.name}.service.d/nuketown.conf", _leaving(spec, agent)


def _login(agent: Agent) -> str:
    return f"{MARK}[Unit]\nRequires={_target(agent)}\nAfter={_target(agent)}\nBefore={_close(agent)}\n"


def _processes(agent: Agent) -> str:
    """All that the agent runs ends before its directories go, and with the target, once its account is closed."""
    return f"{MARK}[Unit]\nPartOf={_target(agent)}\nAfter={_target(agent)}\nBefore={_close(agent)}\n"


def _target(agent: Agent) -> str:
    return f"nuketown-agent@{agent.name}.target"


def _close(agent: Agent) -> str:
    return f"nuketown-close@{agent.name}.service"


def _leaving(spec: Spec, agent: Agent) -> str:
    """The last sync comes before systemd takes the agent's mounts apart, which have units of their own by then."""
    places = [spec.home(agent) / entry.path for entry in agent.persist if entry.bound]
    return "".join([f"{MARK}[Unit]\n", *(f"RequiresMountsFor={words.quoted(str(path))}\n" for path in places)])
