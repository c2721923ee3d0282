"""nix/checks: what is evaluated holds, with the real modules beside ours and a stand-in for NixOS.

The configuration of the virtual machine is accepted. Built and run they are by `nix flake check`, where nixpkgs is.
"""

import ast
import json
from typing import Any

import pytest

from tests.nix import evaluated
from tests.nix.test_nix_style import CHECKOUT

_EXPRESSION = """
let
  lib = import ({lib} + "/lib");
  evaluate = {{ modules }}: import {stub} {{ nixpkgsLib = {lib}; inherit modules; }};
  inherit ((evaluate {{ modules = [ ]; }})._module.args) pkgs;
  checks = import {checkout}/nix/checks {{
    self = {{
      nixosModules.default = {module};
      packages.x86_64-linux = import {checkout}/nix/packages.nix pkgs;
    }};
    nixpkgs.lib = lib // {{ nixosSystem = evaluate; }};
    home-manager.nixosModules.home-manager = {home_manager};
    impermanence.nixosModules.impermanence = {impermanence};
    sops-nix.nixosModules.sops = {sops};
    inherit pkgs;
  }};
in
{ask}
"""
_BESIDE = {"home_manager": "HOME_MANAGER", "impermanence": "IMPERMANENCE", "sops": "SOPS_NIX"}


def _expression(ask: str, *needs: str, module: str = f"{CHECKOUT}/nix/module.nix") -> str:
    """An expression over `checks`. What is not needed is not looked at."""
    paths = {
        word: str(evaluated.source(name) / evaluated.BESIDE[name]) if name in needs else "null"
        for word, name in _BESIDE.items()
    }
    lib = evaluated.source("NIXPKGS_LIB")
    return _EXPRESSION.format(lib=lib, stub=evaluated.STUB, checkout=CHECKOUT, module=module, ask=ask, **paths)


def _ask(ask: str, *needs: str) -> Any:
    done = evaluated.instantiate(_expression(ask, *needs), check=False)
    assert done.status == 0, done.err.decode()
    return json.loads(done.out)


@pytest.mark.parametrize(
    ("case", "needs"),
    [
        ("plain", ()),
        ("rollback", ()),
        ("scripted-initrd", ()),
        ("same-uid", ()),
        ("home-manager", ("HOME_MANAGER",)),
        ("sops-nix", ("SOPS_NIX",)),
        ("impermanence", ("IMPERMANENCE",)),
    ],
)
def test_the_check_holds(case: str, needs: tuple[str, ...]) -> None:
    assert _ask(f'checks."{case}".name', *needs) == f"nuketown-{case}"


def test_what_does_not_hold_is_named() -> None:
    module = f"{{ imports = [ {CHECKOUT}/nix/module.nix ]; users.users.ada.createHome = lib.mkForce true; }}"
    done = evaluated.instantiate(_expression("checks.plain.name", module=module), check=False)
    assert done.status != 0
    assert "nuketown-plain: does not hold: homes are made by the boot, not by activation" in done.err.decode()


def test_what_a_town_makes_is_built_by_a_check() -> None:
    entries = _ask("map (e: e.name) checks.made.entries")
    assert entries == ["town.toml", "units", "documents"]


def test_the_programs_are_built_by_checks() -> None:
    assert _ask("[ checks.package.pname checks.identity.name ]") == ["nuketown", "nuketown-identity"]


def test_the_machine_of_the_two_boots_is_accepted() -> None:
    # nixos/modules/virtualisation/qemu-vm.nix: fileSystems = mkVMOverride virtualisation.fileSystems
    asked = (
        "let vm = { config, ... }: { fileSystems = lib.mkOverride 10 config.virtualisation.fileSystems; };"
        " machine = (evaluate { modules = [ vm checks.two-boots.given.nodes.machine ]; }).config;"
        " plain = (evaluate { modules = [ checks.two-boots.given.nodes.machine ]; }).config; in"
        " { failed = map (a: a.message) (lib.filter (a: !a.assertion) machine.assertions);"
        " inherit (machine.nuketown.build) townText;"
        ' cover = plain.fileSystems."/agents".options;'
        ' again = machine.fileSystems."/agents".options; }'
    )
    said = _ask(asked)
    assert said["failed"] == []
    assert "[agents.ada]" in said["townText"]
    assert said["again"] == said["cover"], "the virtual machine covers agentsDir as the module does"


def test_the_script_of_the_two_boots_is_python_with_two_reboots() -> None:
    script = _ask("checks.two-boots.given.testScript")
    calls = [
        node.func.id
        for node in ast.walk(ast.parse(script))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    ]
    assert calls.count("reboot") == 2
