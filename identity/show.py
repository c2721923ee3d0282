"""`identity show`: the public facts of one agent, from the lock and the spec. No file that holds a secret is opened."""

import argparse
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from identity import found as finds
from identity import mismatch, places, qr, tree
from identity.keys import openpgp
from identity.lock import Entry, KeptGpg, KeptSsh
from identity.places import Places
from town import cli
from town import spec as specs
from town.failure import DONE, Failure, WrongUsage
from town.spec import Agent, Spec
from town.terminal import shown

_BEGIN, _END = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n", "-----END PGP PUBLIC KEY BLOCK-----\n"
_LIMIT = 1 << 20  # bytes of gpg.asc


class NoSuchKey(Failure):
    """The agent has no key of that kind in use."""


class NotOnlyPublic(Failure):
    """gpg.asc holds more than a public key, so nothing of it is shown."""


def command(arguments: argparse.Namespace) -> int:
    """`identity show AGENT [--ssh|--gpg] [--qr] [--json]`."""
    if arguments.ssh and arguments.gpg:
        raise WrongUsage("show prints one key: either --ssh or --gpg", hint="without both it prints all facts")
    if arguments.json and arguments.qr:
        raise WrongUsage("--json and --qr exclude each other", hint="identity show --json prints all facts")
    spec = specs.load(cli.spec_file(arguments))
    agent = spec.agent(arguments.agent)
    where = places.places(spec, None if arguments.out is None else Path(arguments.out))
    entry = finds.read_lock(where).get(agent.name)
    if arguments.qr:
        _codes(agent, entry, arguments)
    elif arguments.ssh or arguments.gpg:
        text = ssh_line(agent, entry) if arguments.ssh else armored(agent, entry, where)
        cli.put_json({"key": text}) if arguments.json else print(text, end="")
    else:
        _tell(facts(spec, agent, entry, datetime.now(UTC)), as_json=arguments.json)
    return DONE


def ssh_line(agent: Agent, entry: Entry | None) -> str:
    """The SSH key in use as a line of authorized_keys, from the lock. Raises NoSuchKey."""
    key = entry.halves.ssh if entry is not None else None
    if key is None:
        raise _none(agent, "SSH key", revoked=entry is not None and entry.ssh_revoked, option="--ssh")
    return f"{key.public} {agent.git.email}\n"


def armored(agent: Agent, entry: Entry | None, where: Places) -> str:
    """gpg.asc, when it is the key of the lock and nothing else. Raises NoSuchKey, NotOnlyPublic, KeyMismatch."""
    name = places.gpg_public(agent)
    data = None if entry is None or not entry.gpg else tree.read(where, name, _LIMIT)
    if entry is None or data is None:
        raise _none(agent, "OpenPGP key", revoked=False, option="--gpg")
    text = data.decode("utf-8", "replace").replace("\r\n", "\n")
    _only_public(text, str(name))
    mismatch.same(agent, "OpenPGP key", openpgp.in_use(text, str(name)), entry.halves.gpg)
    return text


def _only_public(text: str, name: str) -> None:
    # One block from the first byte to the last: what a program passes over, a person may not.
    whole = text.startswith(_BEGIN) and text.endswith(_END) and text.count("-----BEGIN") == 1
    if not whole or any(part.secret for part in openpgp.parts(text, name)):
        raise NotOnlyPublic(
            f"{shown(name)} holds more than one public OpenPGP key block, so it is not shown",
            hint="look at it with: identity check - and bring the right one back from git",
        )


def _none(agent: Agent, what: str, *, revoked: bool, option: str) -> NoSuchKey:
    if revoked:
        return NoSuchKey(
            f"the {what} of {agent.name} was revoked and it has no other",
            hint=f"identity rotate {agent.name} {option} makes one",
        )
    return NoSuchKey(f"{agent.name} has no {what}", hint=f"identity gen {agent.name} makes what the spec asks for")


def facts(spec: Spec, agent: Agent, entry: Entry | None, now: datetime) -> dict[str, Any]:
    """Everything that is public about an agent, in the order in which it is told; times are UTC."""
    return {
        "name": agent.name,
        "role": agent.role,
        "uid": agent.uid,
        "git": {"name": agent.git.name, "email": agent.git.email, "signing": agent.git.signing},
        "home": str(spec.home(agent)),
        "ssh": [_ssh(kept) for kept in reversed(entry.ssh)] if entry else [],
        "gpg": [_gpg(kept, kept is entry.gpg[-1], now) for kept in reversed(entry.gpg)] if entry else [],
        "secrets": sorted(name for name, _ in agent.secrets.extra),
        "runtimes": list(agent.prompts.runtimes),
    }


def _ssh(kept: KeptSsh) -> dict[str, Any]:
    state = "revoked" if kept.revoked is not None else "in use" if kept.in_use else "rotated"
    return {
        "state": state, "public": kept.key.public, "fingerprint": kept.key.fingerprint,
        "since": _time(kept.since), "until": _time(kept.until), "revoked": _time(kept.revoked),
    }  # fmt: skip


def _gpg(kept: KeptGpg, last: bool, now: datetime) -> dict[str, Any]:
    key = kept.key
    expired = key.expires is not None and key.expires <= now
    state = "revoked" if kept.revoked else "rotated" if not last else "expired" if expired else "in use"
    return {
        "state": state, "primary": key.primary, "signing": key.signing, "created": _time(key.created),
        "expires": _time(key.expires), "revoked": _time(kept.revoked),
    }  # fmt: skip


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def _tell(said: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        cli.put_json(said)
        return
    for name, value in _lines(said):
        print(f"{name:<9} {shown(value)}")
    if not said["ssh"]:
        cli.advise("identity", f"it has no keys yet: identity gen {said['name']}")


def _lines(said: dict[str, Any]) -> list[tuple[str, str]]:
    git = said["git"]
    signing = {"gpg": "signed with OpenPGP", "ssh": "signed with SSH", "none": "not signed"}[git["signing"]]
    lines = [
        ("name", said["name"]), ("role", said["role"]), ("uid", str(said["uid"])), ("home", said["home"]),
        ("commits", f"{git['name']} <{git['email']}>, {signing}"),
    ]  # fmt: skip
    for key in said["ssh"]:
        lines += [("ssh", _said(key, key["fingerprint"], "since", "until", "revoked"))]
    for key in said["gpg"]:
        lines += [("gpg", key["primary"]), ("", _said(key, key["signing"], "created", "expires", "revoked"))]
    lines += [("secrets", ", ".join(said["secrets"]))] * bool(said["secrets"])
    return [*lines, ("runtimes", ", ".join(said["runtimes"]) or "none")]


def _said(key: dict[str, Any], what: str, *times: str) -> str:
    state = key["state"] if key["revoked"] is None else ""  # `revoked` and its time say it
    told = [f"{name} {key[name]}" for name in times if key[name] is not None]
    return f"{what} ({', '.join(filter(None, [state, *told]))})"


def _codes(agent: Agent, entry: Entry | None, arguments: argparse.Namespace) -> None:
    """Codes of what was asked for, else of every fingerprint in use: a code is compared, so it is short."""
    halves = entry.halves if entry is not None else None
    if arguments.ssh:
        qr.put("SSH key", ssh_line(agent, entry).rstrip("\n"))
        return
    if halves is None or (halves.gpg is None and (arguments.gpg or halves.ssh is None)):
        raise _none(agent, "OpenPGP key" if arguments.gpg else "key", revoked=False, option="--gpg")
    if halves.gpg is not None:
        qr.put(f"OpenPGP key {halves.gpg.primary}", f"OPENPGP4FPR:{halves.gpg.primary}")  # as OpenKeychain reads it
    if halves.ssh is not None and not arguments.gpg:
        qr.put(f"SSH key {halves.ssh.fingerprint}", halves.ssh.fingerprint)
