"""The Nix package says the same as pyproject.toml: evaluated by the real evaluator, with stand-ins for nixpkgs only."""

import ast
import json
import re
import tomllib
from collections.abc import Iterator
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


# In which package of nixpkgs a program is.
_PROVIDED = {
    "bash": {"sh"},
    "btrfs-progs": {"btrfs"},
    "coreutils": {"mkdir", "mv", "rm", "rmdir", "sleep", "stat", "timeout", "true"},
    "git": {"git"},
    "gnugrep": {"grep"},
    "gnupg": {"gpg", "gpg-agent", "gpg-connect-agent", "gpgconf"},
    "kmod": {"modprobe"},
    "systemd": {"journalctl", "loginctl", "systemctl"},
    "util-linux": {"blkid", "findmnt", "mount", "umount", "unshare"},
}


def _called() -> set[str]:
    """Programs by a name without a slash: of process.run, of the units, of the hook."""
    sources = [path for name in ("town", "persist", "identity", "initrd") for path in (CHECKOUT / name).rglob("*.py")]
    found = {word for path in sources for word in _first_words(ast.parse(path.read_text()))}
    for unit in (CHECKOUT / "persist/units").glob("*.service"):
        found |= set(re.findall(r"^Exec[A-Za-z]+=([a-z]+) ?", unit.read_text(), re.MULTILINE))
    hook = (CHECKOUT / "initrd/dracut/90nuketown/module-setup.sh").read_text()
    for line in re.findall(r"^ +inst_multiple (?:-o )?([a-z ]+)$", hook, re.MULTILINE):
        found |= set(line.split())
    return found


def _first_words(tree: ast.Module) -> Iterator[str]:
    """The program of each call of process.run: written there, or the list of a name that is given to it."""
    lists = {
        target.id: node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.List | ast.Tuple)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "process.run":
            words: ast.expr | None = node.args[0]
            while words is not None:
                if isinstance(words, ast.Name | ast.Starred):
                    name = words if isinstance(words, ast.Name) else words.value
                    words = lists.get(name.id) if isinstance(name, ast.Name) else None
                elif isinstance(words, ast.List | ast.Tuple):
                    words = words.elts[0]
                else:
                    break
            if isinstance(words, ast.Constant) and isinstance(words.value, str):
                yield words.value


def test_what_the_commands_the_units_and_the_hook_call_is_on_their_path() -> None:
    called = _called()
    assert {"gpg", "systemctl", "unshare", "mount", "stat"} <= called, "the calls are found"
    assert called - set().union(*_PROVIDED.values()) == set()
    names = "map (p: p.name) (import %s (builtins.mapAttrs (name: _: { inherit name; }) {%s}))"
    known = " ".join(f'"{name}" = null;' for name in _PROVIDED)
    expression = names % (CHECKOUT / "nix/programs.nix", known)
    argv = ["nix-instantiate", "--eval", "--strict", "--json", "--store", "dummy://", "-E", expression]
    assert json.loads(process.run(argv, env={"HOME": "/nonexistent"}).out) == sorted(_PROVIDED)
