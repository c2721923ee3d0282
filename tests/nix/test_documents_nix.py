"""What Nix says of documents before they are made, their names, is what `identity` makes."""

import json
from pathlib import Path
from typing import Any

import pytest

from identity.documents import documents
from identity.halves import Halves, SshKey
from tests.nix.evaluated import CHECKOUT, instantiate
from town import spec as specs

SSH = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFvLDTYpqUPKrrvoSrMPg14CyZSRPoFHXWs+7WTxJR1K"
ALL = ["claude-code", "agents-md", "codex", "gemini", "opencode"]


def _kept(path: str, preset: str) -> dict[str, str]:
    return {"path": path, "preset": preset}


@pytest.mark.parametrize(
    ("persist", "runtimes", "env"),
    [
        (["projects"], ["agents-md"], {}),
        ([_kept(".claude", "claude-code")], ["claude-code"], {}),
        ([_kept("a/claude", "claude-code"), _kept("b/codex", "codex"), _kept("c", "gemini")], ALL, {"TOKEN": "token"}),
        ([_kept("git", "git"), _kept(".local/share/opencode", "opencode")], ["opencode", "gemini"], {}),
        ([_kept(".local/state/ssh", "ssh-known-hosts")], [], {}),
        (["projects"], ["codex"], {"TOKEN": "token"}),
    ],
)
def test_the_names_of_documents_are_those_that_identity_writes(
    persist: list[Any], runtimes: list[str], env: dict[str, str]
) -> None:
    agent = {
        "persist": persist,
        "claudeCode": {"enable": False},
        "prompts": {"runtimes": runtimes, "name": "ada-x"},
        "secrets": {"env": env},
    }
    given = json.dumps(json.dumps(agent))
    found = json.loads(instantiate(f"(import {CHECKOUT}/nix/documents.nix).paths (builtins.fromJSON {given})").out)
    kept = ", ".join(
        f'"{one}"' if isinstance(one, str) else f'{{ path = "{one["path"]}", preset = "{one["preset"]}" }}'
        for one in persist
    )
    spec = specs.parse(
        f"""[agents.ada]
        uid = 41100
        git = {{ signing = "ssh" }}
        persist = [{kept}]
        secrets = {{ extra = {{ token = "ada/token" }}, env = {json.dumps(env).replace('": "', '" = "')} }}
        prompts = {{ name = "ada-x", runtimes = {json.dumps(runtimes)}, settings = {{ model = "opus" }} }}
        """.encode(),
        Path("town.toml"),
    )
    made = documents(spec, spec.agent("ada"), Halves(SshKey(SSH)))
    written = {str(home) for one in made if one.path.name != "settings.json" for home in one.homes}
    assert sorted(found) == sorted(written)
