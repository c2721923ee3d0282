"""From a flake without keys to the build that has them: the whole module in pure mode, and `nix run .#identity`."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.nix import evaluated
from tests.nix.flaketown import Town
from town import process

# Whatever the flake takes lies in its own checkout: pure mode reads nothing else.
_FLAKE = """{
  outputs =
    { self }:
    {
      nixosConfigurations.signi = import ./tests/nix/stub.nix {
        nixpkgsLib = ./nixpkgs-lib;
        modules = [ ./nix/module.nix ./nix/checks/machine.nix ./configuration.nix ];
      };
    };
}
"""
_CONFIGURATION = """{
  nuketown = {
    enable = true;
    sopsFile = ./secrets/agents.yaml;
    recipients.humans = [ "HUMAN" ];
    hostKey.age = "KEY";
    agents.ada = { enable = true; uid = 1100; git.signing = "ssh"; };
    agents.vox = { enable = true; uid = 1101; git.signing = "ssh"; };
  };
}
"""
_ASKED = """config: {
  failed = map (a: a.message) (builtins.filter (a: !a.assertion) config.assertions);
  inherit (config) warnings;
  documents = config.nuketown.build.documents.buildCommand;
  etc = builtins.filter (name: builtins.match "nuketown/identities/.*" name != null) (
    builtins.attrNames config.environment.etc
  );
}"""


class Configured(Town):
    """A flake with the whole module in its checkout."""

    def write_configuration(self) -> None:
        """Write and commit the flake, before any key was made."""
        lib = evaluated.source("NIXPKGS_LIB")
        process.run(["cp", "-r", lib, self.top / "nixpkgs-lib"])
        (self.top / "tests/nix").mkdir(parents=True)
        for name in ("nix", "town", "initrd", "persist", "pyproject.toml", "tests/nix/stub", "tests/nix/stub.nix"):
            process.run(["cp", "-r", evaluated.CHECKOUT / name, self.top / name])
        (self.top / "flake.nix").write_text(_FLAKE)
        text = _CONFIGURATION.replace("HUMAN", self.recipient).replace("KEY", str(self.host_key))
        (self.top / "configuration.nix").write_text(text)
        self.commit()

    def ask(self) -> Any:
        """What the next build would be of."""
        found = f"{self.top}#nixosConfigurations.signi.config"
        env = {"HOME": "/nonexistent", "XDG_CACHE_HOME": str(self.store.parent / "cache")}
        env["NIX_CONFIG"] = f"store = {self.store}\nexperimental-features = nix-command flakes"
        return json.loads(process.run(["nix", "eval", "--json", found, "--apply", _ASKED], env=env).out)


@pytest.fixture
def town(tmp_path: Path) -> Configured:
    made = Configured(tmp_path)
    made.write_configuration()
    return made


def test_a_first_build_warns_and_after_gen_and_a_commit_it_has_the_keys(town: Configured) -> None:
    first = town.ask()
    assert first["failed"] == []
    assert any("nix run .#identity -- gen ada vox" in found for found in first["warnings"])
    assert first["etc"] == []

    done = town.run("gen", "--all")
    assert done.returncode == 0, done.stderr
    assert (town.top / "identities/vox/ssh.pub").is_file()
    town.commit()

    second = town.ask()
    assert second["failed"] == []
    assert not any("identity -- gen" in found for found in second["warnings"])
    assert "nuketown/identities/ada/ssh.pub" in second["etc"]
    assert "identity" in second["documents"]
    assert "ada vox" in second["documents"]
    assert town.run("gen", "--all").stdout == "nothing to do\n"


def test_what_was_made_and_not_committed_is_not_in_the_next_build(town: Configured) -> None:
    said = town.run("gen", "--all").stderr
    assert "a flake is built of what git knows" in said
    assert town.ask()["etc"] == []
