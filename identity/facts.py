"""identity.toml: who the agent is, for any program."""

import tomllib
from typing import Any

from identity.badtext import BadText
from identity.halves import Halves
from town.spec import Agent, Spec


def identity_toml(spec: Spec, agent: Agent, halves: Halves, header: str) -> str:
    """The text, read back before it is given. Raises BadText."""
    import tomlkit

    facts = _facts(spec, agent, halves)
    made = tomlkit.document()
    made.add(tomlkit.comment(header))
    for key, value in facts.items():
        made.add(key, tomlkit.item(value))
    text = tomlkit.dumps(made)
    if tomllib.loads(text) != facts:
        raise BadText(
            f"identity.toml of {agent.name} would not be read back as it was written",
            hint="take unusual characters out of role, description and git in the spec",
        )
    return text


def _facts(spec: Spec, agent: Agent, halves: Halves) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "name": agent.name,
        "role": agent.role,
        "email": agent.git.email,
        "domain": spec.town.domain,
        "home": str(spec.home(agent)),
        "uid": agent.uid,
        "description": {"text": agent.description},
        "git": {"name": agent.git.name, "email": agent.git.email, "signing": agent.git.signing},
        "keys": _keys(halves),
        "town": {"domain": spec.town.domain, "agents_dir": str(spec.town.agents_dir)},
    }
    if spec.town.human is not None:
        facts["town"]["human"] = spec.town.human._asdict()
    if agent.persist:
        facts["persist"] = [
            {"path": str(entry.path), "via": entry.via, "class": entry.class_, "required": entry.required}
            for entry in agent.persist
        ]
    return facts


def _keys(halves: Halves) -> dict[str, str]:
    keys: dict[str, str] = {}
    if halves.ssh is not None:
        keys |= {"ssh": halves.ssh.public, "ssh_fingerprint": halves.ssh.fingerprint}
    if halves.gpg is not None:
        keys |= {"gpg": halves.gpg.primary, "gpg_signing": halves.gpg.signing}
    return keys
