"""A town whose keys exist, made once and copied for each test: what `identity check` and `identity show` look at."""

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from identity import cli
from town import sops
from town.process import run

AGENTS = """
[agents.ada]
uid = 41100
secrets = { extra = { token = "ada/token" } }
[agents.vox]
uid = 41101
git = { signing = "ssh" }
"""
TOKEN = "correct-horse-battery-staple"


class Town:
    """The directory of a spec; the private keys of its people lie beside it, outside."""

    def __init__(self, root: Path) -> None:
        self.root, self.spec = root / "town", root / "town/town.toml"
        self.keys = {name: root / f"{name}.key" for name in ("human", "host", "stranger")}
        self.secrets, self.recovery = self.root / "secrets/agents.yaml", self.root / "secrets/recovery.yaml"

    def recipient(self, name: str) -> str:
        return run(["age-keygen", "-y", self.keys[name]]).out.decode().strip()

    def identity(self, *words: str) -> int:
        return cli.main(["--spec", str(self.spec), *words])

    def change(self, old: str, new: str) -> None:
        """Another text in the spec."""
        text = self.spec.read_text()
        assert old in text
        self.spec.write_text(text.replace(old, new))

    def found(self, capsys: pytest.CaptureFixture[str], *agents: str) -> tuple[int, dict[str, list[dict[str, str]]]]:
        """The status of check, and its findings by level."""
        capsys.readouterr()
        status = self.identity("check", "--json", *agents)
        report = json.loads(capsys.readouterr().out)
        assert report["status"] == status
        levels: dict[str, list[dict[str, str]]] = {}
        for finding in report["findings"]:
            levels.setdefault(finding["level"], []).append(finding)
        return status, levels

    def opened(self, file: Path) -> sops.Document:
        return sops.load(file.read_bytes(), file.name, sops.Keys.of_age_file(self.keys["human"]))

    def set(self, changes: dict[str, str]) -> None:
        """Other values in the secrets file, sealed as they should be."""
        self.secrets.write_bytes(sops.update(self.opened(self.secrets), changes, now=datetime.now(UTC)))

    def without_recipients(self) -> None:
        """The spec leaves the recipients to .sops.yaml."""
        head, rest = self.spec.read_text().split("[town.recipients]")
        self.spec.write_text(head + "[town.host_key]" + rest.split("[town.host_key]")[1])

    def rules(self, secrets: list[str], recovery: list[str]) -> None:
        """A .sops.yaml that names these recipients, by the names of their keys."""
        rules = [
            {"path_regex": f"{file}$", "age": ",".join(map(self.recipient, who))}
            for file, who in (("agents.yaml", secrets), ("recovery.yaml", recovery))
        ]
        (self.root / ".sops.yaml").write_text(json.dumps({"creation_rules": rules}))

    def git(self, *words: str) -> str:
        env = {"HOME": str(self.root.parent), "GIT_CONFIG_NOSYSTEM": "1"}
        name = ("-c", "user.name=J", "-c", "user.email=j@signi.local")
        return run(["git", *name, *words], cwd=self.root, env=env).out.decode()

    def committed(self) -> None:
        """The town as a repository with everything in it."""
        self.git("init", "--quiet")
        self.git("add", ".")
        self.git("commit", "--quiet", "--message", "all")


def make(root: Path) -> Path:
    """A town in `root` with two agents, their keys and one extra secret."""
    town = Town(root)
    (root / "town").mkdir()
    for key in town.keys.values():
        run(["age-keygen", "-o", key])
    town.spec.write_text(
        f"""
[town]
domain = "signi.local"
agents_dir = "/nonexistent/agents"
persist_dir = "/nonexistent/persist"
[town.recipients]
humans = ["{town.recipient("human")}"]
hosts = {{ signi = "{town.recipient("host")}" }}
[town.host_key]
age = "/nonexistent/age.key"
ssh = "/nonexistent/ssh"
{AGENTS}"""
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOPS_AGE_KEY_FILE", str(town.keys["human"]))
        patch.setenv("HOME", str(root))
        assert town.identity("gen", "--all") == 0
        town.set({"ada/token": TOKEN})
    return root


def copied(made: Path, root: Path, patch: pytest.MonkeyPatch) -> Town:
    """A copy of it, with the human's key at hand."""
    shutil.copytree(made, root, dirs_exist_ok=True)
    town = Town(root)
    patch.setenv("SOPS_AGE_KEY_FILE", str(town.keys["human"]))
    patch.setenv("HOME", str(root))
    patch.delenv("SOPS_AGE_KEY", raising=False)
    patch.delenv("SOPS_CONFIG", raising=False)
    patch.delenv("GIT_INDEX_FILE", raising=False)
    return town
