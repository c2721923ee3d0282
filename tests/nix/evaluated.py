"""Configurations of NixOS with this project's module, evaluated: modules in, JSON out. Nothing is built or fetched."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from town import process

CHECKOUT = Path(__file__).parent.parent.parent
STUB = Path(__file__).parent / "stub.nix"
# What may be imported beside the module, and where in its source the module lies.
BESIDE = {
    "HOME_MANAGER": "nixos",
    "SOPS_NIX": "modules/sops",
    "IMPERMANENCE": "nixos.nix",
    "PRESERVATION": "module.nix",
}
_EXPRESSION = """
let
  evaluated = import {stub} {{
    nixpkgsLib = {lib};
    modules = [ {imports} ] ++ ({modules});
  }};
  inherit (evaluated) config options;
  inherit (evaluated._module.args) pkgs;
  lib = import ({lib} + "/lib");
in
{ask}
"""


def source(name: str) -> Path:
    """The directory that an environment variable names. Skips the test where it is not given."""
    given = os.environ.get(name, "")
    if not given:
        pytest.skip(f"{name} is not given: the path of a checkout of its source")
    return Path(given).resolve()


def instantiate(expression: str, *, check: bool = True) -> process.Done:
    """Evaluate an expression, whole, by the real evaluator, with no store and nothing of this machine's settings."""
    argv = ["nix-instantiate", "--eval", "--strict", "--json", "--store", "dummy://", "-E", expression]
    return process.run(argv, env={"HOME": "/nonexistent"}, check=check)


def evaluate(modules: str, ask: str, *, needs: Sequence[str] = ()) -> Any:
    """The answer to `ask`, a Nix expression over config, options, pkgs and lib. `modules`: a Nix list of modules.

    `needs`: of BESIDE, what is imported beside the module. Where it is not given the test is skipped.
    """
    done = instantiate(expression(modules, ask, needs=needs), check=False)
    assert done.status == 0, done.err.decode()
    return json.loads(done.out)


def refusal(modules: str, ask: str = "config.nuketown", *, needs: Sequence[str] = ()) -> str:
    """What the evaluator says of a configuration that it does not evaluate."""
    done = instantiate(expression(modules, ask, needs=needs), check=False)
    assert done.status != 0, "it was evaluated"
    return done.err.decode()


def messages(modules: str, *, needs: Sequence[str] = ()) -> tuple[list[str], list[str]]:
    """The messages of the assertions that do not hold, and the warnings."""
    ask = "{ failed = map (a: a.message) (lib.filter (a: !a.assertion) config.assertions); inherit (config) warnings; }"
    found = evaluate(modules, ask, needs=needs)
    return found["failed"], found["warnings"]


def expression(modules: str, ask: str, *, needs: Sequence[str] = ()) -> str:
    """The whole expression that is evaluated."""
    lib = source("NIXPKGS_LIB")
    imports = [str(CHECKOUT / "nix/module.nix"), *(str(source(name) / BESIDE[name]) for name in needs)]
    return _EXPRESSION.format(stub=STUB, lib=lib, imports=" ".join(imports), modules=modules, ask=ask)
