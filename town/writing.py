"""A Spec as town.toml again, with every default written out: reading it gives the same Spec on any machine."""

from typing import Any

from town.spec import Agent, Btrfs, Persist, Spec, Town


def dump(spec: Spec) -> str:
    """The spec as TOML; `parse(dump(spec).encode(), …) == spec` for every spec that `parse` gave."""
    import tomlkit

    return tomlkit.dumps(tree(spec))


def tree(spec: Spec) -> dict[str, Any]:
    """The spec as the tables of TOML: what is None is left out."""
    return {"town": _town(spec.town), "agents": {agent.name: _agent(agent) for agent in spec.agents}}


def _said(table: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in table.items() if value is not None}


def _town(town: Town) -> dict[str, Any]:
    credentials, human, recipients = town.store_credentials, town.human, town.recipients
    return _said({
        "domain": town.domain,
        "agents_dir": str(town.agents_dir),
        "persist_dir": "none" if town.persist_dir is None else str(town.persist_dir),
        "store": town.store or "none",
        "sops_file": str(town.sops_file),
        "recovery_file": str(town.recovery_file),
        "machine": town.machine,
        "store_credentials": None if credentials is None else str(credentials),
        "human": human and {"user": human.user, "name": human.name, "email": human.email},
        "recipients": recipients and {"humans": list(recipients.humans), "hosts": dict(recipients.hosts)},
        "host_key": _said({key: value and str(value) for key, value in town.host_key._asdict().items()}),
        "btrfs": town.btrfs and _btrfs(town.btrfs),
        "keep": None if town.btrfs else town.keep._asdict(),
        "sync": {"every": town.sync.every, "keep": town.sync.keep._asdict()},
    })  # fmt: skip


def _btrfs(btrfs: Btrfs) -> dict[str, Any]:
    return btrfs._asdict() | {"keep": btrfs.keep._asdict()}


def _agent(agent: Agent) -> dict[str, Any]:
    git, secrets, prompts = agent.git, agent.secrets, agent.prompts
    return _said({
        "uid": agent.uid,
        "gid": agent.gid,
        "role": agent.role,
        "description": agent.description,
        "persist": [_persist(entry) for entry in agent.persist],
        "delivered": [str(path) for path in agent.delivered],
        "quota": agent.quota,
        "sudo": agent.sudo,
        "devices": [device._asdict() | {"attrs": dict(device.attrs)} for device in agent.devices],
        "git": {"name": git.name, "email": git.email, "signing": False if git.signing == "none" else git.signing},
        "secrets": _said({
            "ssh_key": secrets.ssh_key,
            "gpg_key": secrets.gpg_key,
            "extra": dict(secrets.extra),
            "env": dict(secrets.env),
            "gpg_encryption": secrets.gpg_encryption,
        }),
        "prompts": {
            "runtimes": list(prompts.runtimes),
            "name": prompts.name,
            "tools": list(prompts.tools),
            "extra": prompts.extra,
            "settings": prompts.settings,
        },
    })  # fmt: skip


def _persist(entry: Persist) -> dict[str, Any]:
    return _said({
        "path": str(entry.path),
        "via": entry.via,
        "class": entry.class_,
        "preset": entry.preset,
        "required": entry.required,
        "type": entry.type,
        "upload": entry.upload,
    })  # fmt: skip
