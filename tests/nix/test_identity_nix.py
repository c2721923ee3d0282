"""The build of the documents, carried out: a checkout in which gen ran, its configuration, the real programs."""

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from identity import cli
from tests.machine.gentown import age_key, nothing_is_left
from tests.nix.evaluated import evaluate
from town.process import run

__all__ = ["nothing_is_left"]

BIN = str(Path(sys.executable).parent)  # where this project is installed
_MODULE = """{
  home-manager.useGlobalPkgs = true;
  nuketown = {
    enable = true;
    domain = "signi.local";
    recipients.humans = [ "%s" ];
    sopsFile = %s/secrets/agents.yaml;
    agents.ada = {
      enable = true;
      uid = 41100;
      claudeCode = { enable = true; settings.model = "opus"; };
      prompts.runtimes = [ "claude-code" "agents-md" "codex" ];
      persist = [ "projects" ".claude" { path = "kept/codex"; preset = "codex"; } ];
      secrets = { extraSecrets.token = "ada/token"; env.TOKEN = "token"; };
    };
    agents.vox = { enable = true; uid = 41101; git.signing = "ssh"; role = "Ärger & Co"; };
  };
}"""
_ASK = """{
  inherit (config.nuketown.build) townText;
  file = "${config.nuketown.build.townFile}";
  command = config.nuketown.build.documents.buildCommand;
  inherit (config) warnings;
  delivered = lib.mapAttrs (_: agent: agent.delivered) config.nuketown.agents;
  etc = lib.mapAttrs (_: file: { inherit (file) mode source; }) (
    lib.filterAttrs (name: _: lib.hasPrefix "nuketown/identities/" name) config.environment.etc);
}"""


@dataclass(frozen=True)
class Checkout:
    """Where a flake lies, its spec, and what its configuration says once it has keys."""

    root: Path
    spec: Path
    found: Any

    @property
    def store(self) -> str:
        """Where identities/ would lie in the store."""
        source: str = self.found["etc"]["nuketown/identities/ada/ssh.pub"]["source"]
        return source.removesuffix("/ada/ssh.pub")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A first build evaluates without keys; gen makes them of its spec; the next build has them."""
    root = tmp_path_factory.mktemp("flake")
    (root / "secrets").mkdir()
    module = f"[ {_MODULE % (age_key(root / 'human.key'), root)} ]"
    first = evaluate(module, _ASK, needs=["HOME_MANAGER"])
    assert first["delivered"] == {"ada": [".config/git/config"], "vox": [".config/git/config"]}
    assert [one for one in first["warnings"] if "nix run .#identity -- gen ada vox" in one]
    spec = root / "town.toml"
    spec.write_text(first["townText"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOPS_AGE_KEY_FILE", str(root / "human.key"))
        assert cli.main(["--spec", str(spec), "gen", "--all", "--out", str(root)]) == 0
    found = evaluate(module, _ASK, needs=["HOME_MANAGER"])
    spec.write_text(found["townText"])
    return Checkout(root, spec, found)


def test_with_the_keys_the_warning_goes_and_the_spec_is_good(checkout: Checkout) -> None:
    assert not [one for one in checkout.found["warnings"] if "public keys" in one]
    assert run([f"{BIN}/persist", "--spec", checkout.spec, "check"], check=False).status in (0, 3)


def test_what_is_built_is_what_is_linked_and_left_by_the_unit(checkout: Checkout, tmp_path: Path) -> None:
    out, found = tmp_path / "out", checkout.found
    command = found["command"].replace(found["file"], str(checkout.spec))
    command = command.replace(checkout.store, str(checkout.root / "identities"))
    environment = {"PATH": f"{BIN}:{os.environ['PATH']}", "out": str(out), "HOME": "/nonexistent"}
    run(["bash", "-euc", f"cd {tmp_path}; {command}"], env=environment)
    for agent in ("ada", "vox"):
        made = {str(file.relative_to(out / agent)) for file in (out / agent).rglob("*") if file.is_file()}
        assert made - {".claude/settings.json"} == set(found["delivered"][agent])
    assert (out / "ada/.claude/settings.json").exists()
    assert "signingKey" in (out / "ada/.config/git/config").read_text()


def test_identity_finds_the_public_halves_where_the_system_puts_them(checkout: Checkout, tmp_path: Path) -> None:
    """As NixOS makes /etc: what has a mode is copied, all else is a link into the store."""
    for name, file in checkout.found["etc"].items():
        at, source = tmp_path / name, Path(file["source"].replace(checkout.store, str(checkout.root / "identities")))
        at.parent.mkdir(parents=True, exist_ok=True)
        if file["mode"] == "symlink":
            at.symlink_to(source)
        else:
            shutil.copyfile(source, at)
    (tmp_path / "nuketown/town.toml").symlink_to(checkout.spec)
    for option, file in (("--ssh", "ssh.pub"), ("--gpg", "gpg.asc")):
        shown = run([f"{BIN}/identity", "--spec", tmp_path / "nuketown/town.toml", "show", "ada", option])
        assert shown.out == (checkout.root / "identities/ada" / file).read_bytes()
