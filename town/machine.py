"""The spec against the accounts of this machine: no agent runs with the uid, name or group of somebody else.

An account with the agent's own name and uid is the agent. Numbers and names that no account has are free: agents need
no entry in /etc/passwd.
"""

from collections.abc import Iterator, Sequence

from town import accounts
from town.accounts import Account
from town.failure import BadSpec, Problem
from town.spec import Agent, Spec
from town.terminal import shown

# Groups that give root's power, or the files of others, to who is in them; distributions number some above 1000.
PRIVILEGED = frozenset({
    "adm", "disk", "docker", "incus", "incus-admin", "input", "kmem", "kvm", "libvirt", "lxd", "podman", "root",
    "shadow", "staff", "sudo", "systemd-journal", "tty", "video", "wheel",
})  # fmt: skip


def conflicts(spec: Spec, agents: Sequence[Agent] | None = None) -> tuple[Problem, ...]:
    """What `agents` (none given: all) have in common with accounts of this machine that are not theirs."""
    own = {(agent.name, agent.uid) for agent in spec.agents}
    others = [account for account in accounts.everybody() if (account.name, account.uid) not in own]
    return tuple(
        problem
        for agent in (spec.agents if agents is None else agents)
        for problem in (*_uid(spec, agent, others), *_name(agent), *_group(agent, others))
    )


def refuse_conflicts(spec: Spec, agents: Sequence[Agent] | None = None) -> None:
    """Raises BadSpec with every conflict. Called before anything is made that would belong to an agent."""
    if found := conflicts(spec, agents):
        raise BadSpec(shown(str(spec.file)), found)


def _uid(spec: Spec, agent: Agent, others: list[Account]) -> Iterator[Problem]:
    listed = [account.name for account in others if account.uid == agent.uid]
    known = accounts.by_uid(agent.uid)  # NSS may know it without listing it
    unlisted = [known.name] if known and known.name not in (agent.name, *listed) else []
    human = spec.town.human
    for name in listed + unlisted:
        who = f"{shown(name)}, the human of this town" if human and name == human.user else f"the account {shown(name)}"
        yield Problem(f"agents.{agent.name}.uid", f"{agent.uid} is {who} on this machine", _free_uid(agent.uid))


def _free_uid(taken: int) -> str:
    return f"give the agent a uid that `getent passwd` does not know, other than {taken}"


def _name(agent: Agent) -> Iterator[Problem]:
    account = accounts.by_name(agent.name)
    if account is not None and account.uid != agent.uid:
        what = f"this machine has an account {agent.name} with uid {account.uid}"
        yield Problem(f"agents.{agent.name}", what, "choose another name, or its uid if that account is the agent")


def _group(agent: Agent, others: list[Account]) -> Iterator[Problem]:
    where, name = f"agents.{agent.name}.gid", accounts.group_name(agent.gid)
    owners = [account.name for account in others if account.gid == agent.gid]
    cure = "give the agent a gid that `getent group` does not know, or a group made for agents"
    if owners:
        yield Problem(where, f"{agent.gid} is the group of the account {shown(owners[0])} on this machine", cure)
    elif name in PRIVILEGED:
        yield Problem(where, f"{agent.gid} is the group {name}, which gives more than an agent may have", cure)
    elif name not in (None, agent.name) and agent.gid == agent.uid:
        # A gid of its own was meant (the default); one that was chosen on purpose differs from the uid.
        yield Problem(where, f"{agent.gid} is the group {shown(name or '')} on this machine", cure)
