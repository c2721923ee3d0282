"""What sops-nix takes when a system is built and fails on when it boots. Its check at build time opens nothing.

Facts of sops-nix as of June 2026, found by building and activating with its own sops-install-secrets. All of it is
read without a key.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

from identity.finding import Finding
from identity.vault import Vault
from town.grammar import YAML_WORDS
from town.sops import nodes, plainform
from town.sops.nodes import Mapping, Node, Scalar, Sequence
from town.spec import Agent
from town.terminal import shell_word, shown

_TYPE = re.compile(r"ENC\[AES256_GCM,[^\]]*,type:([a-z]+)\]")
_KINDS = {"int": "an integer", "float": "a number", "bool": "a boolean", "time": "a time", "bytes": "bytes"}


def findings(vault: Vault, agents: tuple[Agent, ...]) -> Iterator[Finding]:
    """What would fail at boot, of the file and of the secrets that these agents have. Raises sops.BadSopsFile."""
    assert vault.data is not None
    read = plainform.read(vault.data)  # in which every key stands without quotes
    text, root = ("", read) if read is not None else nodes.parse(vault.data, str(vault.path))
    file = _File(vault, text, root)
    yield from file.recipients()
    yield from file.keys()
    for agent in agents:
        for path in _paths(agent):
            yield from file.value(agent, path)


def _paths(agent: Agent) -> list[str]:
    own = (agent.secrets.ssh_key, agent.secrets.gpg_key, *(path for _, path in agent.secrets.extra))
    return [path for path in own if path is not None]


@dataclass(frozen=True, slots=True, repr=False)
class _File:
    vault: Vault
    text: str  # empty: no key of it is quoted
    root: Mapping

    def recipients(self) -> Iterator[Finding]:
        block = self.root.get("sops")
        ages = block.get("age") if isinstance(block, Mapping) else None
        for entry in ages.items if isinstance(ages, Sequence) else ():
            one = entry.get("recipient") if isinstance(entry, Mapping) else None
            if isinstance(one, Scalar) and str(one.value).startswith("ssh-"):
                yield Finding(
                    "warning", self.vault.name,
                    f"names a recipient as a raw SSH key ({shown(str(one.value)[:40])}…): sops-nix takes that at build "
                    "and fails at boot",
                    "identity recipients sync writes it as the age recipient of the same key",
                )  # fmt: skip

    def keys(self) -> Iterator[Finding]:
        for key, _ in self.root.items:
            if key.value != "sops":
                yield from self._key(key, self.root.get(str(key.value)))

    def _key(self, key: Scalar, below: Node | None) -> Iterator[Finding]:
        name = str(key.value)
        if name.lower() in YAML_WORDS and not (self.text and self.text[key.start] in "\"'"):
            yield Finding(
                "warning", self.vault.name,
                f"line {key.line}: the key {name} stands without quotes: sops-nix reads a boolean there and fails",
                f'put it in double quotes: "{name}":',
            )  # fmt: skip
        if "/" in name:
            yield Finding(
                "warning", self.vault.name,
                f"line {key.line}: the key {shown(name)} has a slash in it: neither sops-nix nor identity finds it",
                f"nest it, with: sops edit {shell_word(os.path.abspath(self.vault.path))}",
            )  # fmt: skip
        for inner, value in below.items if isinstance(below, Mapping) else ():
            yield from self._key(inner, value)

    def value(self, agent: Agent, path: str) -> Iterator[Finding]:
        node: Node | None = self.root
        for part in path.split("/"):
            node = node.get(part) if isinstance(node, Mapping) else None
        if node is not None and (what := _no_text(node)):
            yield Finding(
                "error", agent.name,
                f"{shown(path)} in {self.vault.name} is {what}, and not text: sops-nix takes that at build and fails "
                "at boot",
                f"put it in quotes, with: sops edit {shell_word(os.path.abspath(self.vault.path))}",
            )  # fmt: skip


def _no_text(node: Node) -> str:
    match node:
        case Mapping():
            return "a map"
        case Sequence():
            return "a list"
        case Scalar(value=str() as text):
            found = _TYPE.fullmatch(text)
            return "" if found is None or found[1] == "str" else _KINDS.get(found[1], "something else")
        case Scalar(value=None):
            return ""  # no value: that is said as missing
    return "a number or a boolean"
