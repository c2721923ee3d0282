"""The agent's git configuration (git-config(1)): who commits, how commits are signed and held against keys."""

from collections.abc import Iterator
from pathlib import Path

from identity.badtext import BadText
from identity.halves import Halves
from town.spec import Agent, Spec
from town.terminal import shown

Section = tuple[str, list[tuple[str, str]]]


def git_config(spec: Spec, agent: Agent, halves: Halves, header: str) -> str:
    """The file ~/.config/git/config. Raises BadText."""
    lines = [f"# {header}"]
    for section, values in _sections(spec, agent, halves):
        lines += [f"[{section}]", *(f"\t{key} = {_value(value)}" for key, value in values)]
    return "\n".join(lines) + "\n"


def projects(spec: Spec, agent: Agent) -> list[Path]:
    """The directories that the agent keeps its work in: declared data, of no program and not hidden."""
    return [
        spec.home(agent) / entry.path
        for entry in agent.persist
        if entry.class_ == "data" and entry.preset is None and not entry.copied
        # To git a path that ends in /* is everything below it.
        if not any(part.startswith(".") for part in entry.path.parts) and entry.path.name != "*"
    ]


def _sections(spec: Spec, agent: Agent, halves: Halves) -> Iterator[Section]:
    yield "user", [("name", agent.git.name), ("email", agent.git.email), *_signing_key(agent, halves)]
    signed = "false" if agent.git.signing == "none" else "true"
    if agent.git.signing != "none":
        yield "gpg", [("format", "openpgp" if agent.git.signing == "gpg" else "ssh")]
    yield "commit", [("gpgSign", signed)]
    yield "tag", [("gpgSign", signed)]
    yield (
        'gpg "ssh"',
        [
            ("allowedSignersFile", "~/.config/git/allowed_signers"),
            ("revocationFile", "~/.config/git/revoked.krl"),
        ],
    )
    if found := projects(spec, agent):
        yield "safe", [("directory", value) for path in found for value in (str(path), f"{path}/*")]


def _signing_key(agent: Agent, halves: Halves) -> list[tuple[str, str]]:
    # Without one (it was revoked) git refuses to commit, rather than to leave the signature out.
    match agent.git.signing:
        case "gpg" if halves.gpg is not None:
            return [("signingKey", halves.gpg.primary)]
        case "ssh" if halves.ssh is not None:
            return [("signingKey", "~/.ssh/id_ed25519.pub")]
    return []


def _value(text: str) -> str:
    # git-config(1), Values: inside double quotes only the backslash and the double quote need an escape; a control
    # character other than newline, tab and backspace has none.
    if any(ord(character) < 0x20 or ord(character) == 0x7F for character in text):
        raise BadText(f"{shown(text)} holds a control character, which a git configuration cannot carry")
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
