"""The Nix package says the same as pyproject.toml: evaluated by the real evaluator, with stand-ins for nixpkgs only."""

import json
import re
import tomllib
from pathlib import Path

from town import process

CHECKOUT = Path(__file__).parent.parent.parent

# The arguments of the function become their own names; the builder returns what it was given.
_EVALUATE = """
let
  package = import %s;
  lib = {
    importTOML = file: builtins.fromTOML (builtins.readFile file);
    fileset = { toSource = x: x; unions = x: map toString x; };
    licenses.mit = "MIT";
    platforms.linux = [ ];
  };
  names = builtins.mapAttrs (name: _: name) (builtins.functionArgs package);
in
package (names // { inherit lib; buildPythonApplication = x: builtins.removeAttrs x [ ] // { src = x.src.fileset; }; })
"""


def _evaluated() -> dict[str, object]:
    expression = _EVALUATE % (CHECKOUT / "nix/package.nix")
    argv = ["nix-instantiate", "--eval", "--strict", "--json", "--store", "dummy://", "-E", expression]
    found: dict[str, object] = json.loads(process.run(argv, env={"HOME": "/nonexistent"}).out)
    return found


def test_the_nix_package_has_the_name_version_and_dependencies_of_pyproject() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    package = _evaluated()
    assert (package["pname"], package["version"]) == (project["name"], project["version"])
    wanted = sorted(re.split(r"[<>=]", name)[0].replace(".", "-") for name in project["dependencies"])
    assert sorted(package["dependencies"]) == wanted  # type: ignore[call-overload]


def test_the_nix_package_takes_every_package_of_the_wheel() -> None:
    wheel = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    source = [Path(path).name for path in _evaluated()["src"]]  # type: ignore[attr-defined]
    assert set(wheel["packages"]) <= set(source)
