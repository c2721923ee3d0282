"""The flake, by the real evaluator in pure mode: its lock is whole, and its outputs are what users ask for."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.nix.test_nix_style import CHECKOUT
from town import process

SYSTEMS = ["x86_64-linux", "aarch64-linux"]
_TREE = ["flake.nix", "flake.lock", "nix", "pyproject.toml", "README.md", "LICENSE", "town", "initrd"]
# Every name is in nixpkgs 25.11: pkgs/top-level/python-packages.nix.
_NIXPKGS = Path(__file__).parent / "flake"


class Flake:
    """A copy of the flake and the real nix, with a store of its own and nothing to fetch from."""

    def __init__(self, top: Path) -> None:
        self.top, self.tree = top, top / "tree"
        self.tree.mkdir()
        process.run(["cp", "-r", *[CHECKOUT / name for name in _TREE], self.tree])

    def nix(self, *words: str, check: bool = True) -> process.Done:
        """Run a command of nix on it."""
        env = {
            "HOME": "/nonexistent",
            "XDG_CACHE_HOME": str(self.top / "cache"),
            "NIX_CONFIG": f"store = {self.top / 'store'}\nexperimental-features = nix-command flakes",
        }
        return process.run(["nix", "--offline", *words], env=env, check=check)

    def ask(self, output: str, apply: str = "x: x") -> Any:
        """The value of an output, with a nixpkgs of names."""
        done = self.nix(
            "eval", "--json", "--no-write-lock-file", "--override-input", "nixpkgs", f"path:{_NIXPKGS}",
            f"path:{self.tree}#{output}", "--apply", apply,
        )  # fmt: skip
        return json.loads(done.out)


@pytest.fixture(scope="module")
def flake(tmp_path_factory: pytest.TempPathFactory) -> Flake:
    return Flake(tmp_path_factory.mktemp("flake"))


@pytest.fixture(scope="module")
def lock() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((CHECKOUT / "flake.lock").read_text())
    return found


def test_the_lock_is_whole_for_nix_would_add_nothing_to_it(flake: Flake) -> None:
    before = (flake.tree / "flake.lock").read_text()
    flake.nix("flake", "lock", "--no-update-lock-file", f"path:{flake.tree}")
    assert (flake.tree / "flake.lock").read_text() == before


def test_a_lock_that_lacks_an_input_is_found(flake: Flake, tmp_path: Path) -> None:
    other = Flake(tmp_path)
    text = (other.tree / "flake.nix").read_text()
    (other.tree / "flake.nix").write_text(text.replace("nixos-25.11", "nixos-24.11"))
    assert other.nix("flake", "lock", "--no-update-lock-file", f"path:{other.tree}", check=False).status != 0


def test_every_locked_input_has_a_revision_a_hash_and_a_time(lock: dict[str, Any]) -> None:
    assert lock["version"] == 7
    nodes = {name: node for name, node in lock["nodes"].items() if name != lock["root"]}
    assert set(nodes) == set(lock["nodes"][lock["root"]]["inputs"])
    for node in nodes.values():
        locked = node["locked"]
        assert re.fullmatch(r"[0-9a-f]{40}", locked["rev"])
        assert re.fullmatch(r"sha256-[A-Za-z0-9+/]{43}=", locked["narHash"])
        assert 1_700_000_000 < locked["lastModified"] < 1_900_000_000
        assert {key: locked[key] for key in ("owner", "repo")} == {
            key: node["original"][key] for key in ("owner", "repo")
        }


def test_there_is_one_nixpkgs_in_the_lock(lock: dict[str, Any]) -> None:
    others = [node["inputs"]["nixpkgs"] for node in lock["nodes"].values() if "nixpkgs" in node.get("inputs", {})]
    assert [found for found in others if found not in ("nixpkgs", ["nixpkgs"])] == []


def test_the_modules_are_those_that_configurations_of_nuketown_import(flake: Flake) -> None:
    assert {"default", "nuketown", "approvalDaemon"} <= set(flake.ask("nixosModules", "builtins.attrNames"))
    assert flake.ask("homeManagerModules", "builtins.attrNames") == ["approvalDaemon"]
    files = "modules: builtins.all (m: builtins.all builtins.pathExists m.imports) (builtins.attrValues modules)"
    assert flake.ask("nixosModules", files) is True


def test_nix_flake_check_has_nothing_against_the_outputs(tmp_path: Path) -> None:
    """But for the checks themselves, which need a whole nixpkgs: test_checks_nix.py."""
    flake = Flake(tmp_path)
    (flake.tree / "nix/checks/default.nix").write_text("_: { }\n")
    words = ["--no-build", "--no-write-lock-file", "--override-input", "nixpkgs", f"path:{_NIXPKGS}"]
    done = flake.nix("flake", "check", *words, f"path:{flake.tree}", check=False)
    assert done.status == 0, done.err.decode()


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_package_is_built_of_what_nixpkgs_has_and_of_what_is_packaged_here(flake: Flake, system: str) -> None:
    said = flake.ask(
        f"packages.{system}.default",
        "p: { inherit (p) pname makeWrapperArgs; from = map (d: d.pname or d) p.dependencies; }",
    )
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    assert said["pname"] == project["name"]
    assert {"pyfastcdc", "pyrage", "cryptography"} <= set(said["from"])
    assert said["makeWrapperArgs"][:3] == ["--prefix", "PATH", ":"]


@pytest.mark.parametrize("system", SYSTEMS)
def test_what_nixpkgs_lacks_is_fetched_by_the_hash_that_its_publisher_names(flake: Flake, system: str) -> None:
    sources = flake.ask(
        f"packages.{system}.default.dependencies",
        "all: map (d: d.src.hash) (builtins.filter (d: d ? src) all)",
    )
    assert len(sources) == 2
    assert all(re.fullmatch(r"sha256-[A-Za-z0-9+/]{43}=", found) for found in sources)


def test_the_two_wheels_of_two_processors_are_not_the_same(flake: Flake) -> None:
    asked = 'all: map (d: d.src.hash) (builtins.filter (d: (d.pname or null) == "pyrage") all)'
    hashes = [flake.ask(f"packages.{system}.default.dependencies", asked) for system in SYSTEMS]
    assert hashes[0] != hashes[1]


@pytest.mark.parametrize("system", SYSTEMS)
def test_apps_run_both_commands(flake: Flake, system: str) -> None:
    apps = flake.ask(f"apps.{system}")
    assert {name: app["program"].rpartition("/bin/")[2] for name, app in apps.items()} == {
        "default": "nuketown-identity",
        "identity": "nuketown-identity",
        "persist": "persist",
    }
    assert {app["type"] for app in apps.values()} == {"app"}


def test_the_program_for_a_checkout_is_the_one_that_is_tested(flake: Flake) -> None:
    text = flake.ask("packages.x86_64-linux.nuketown-identity.text")
    head, _, rest = text.partition("\n")
    assert re.fullmatch(r"NUKETOWN_CHECKOUT=/.*/nix/checkout\.nix|NUKETOWN_CHECKOUT=/nix/store/\w+-checkout\.nix", head)
    assert rest == (CHECKOUT / "nix/identity.sh").read_text()


def test_the_overlay_adds_both_packages(flake: Flake) -> None:
    asked = "o: builtins.attrNames (o { } { })"
    assert flake.ask("overlays.default", asked) == ["nuketown", "nuketown-identity"]


@pytest.mark.parametrize("system", SYSTEMS)
def test_there_is_a_shell_to_work_in_and_there_are_checks(flake: Flake, system: str) -> None:
    assert "shellcheck" in flake.ask(f"devShells.{system}.default.packages")
    names = set(flake.ask(f"checks.{system}", "c: builtins.attrNames c"))
    assert {"package", "identity", "made", "two-boots", "home-manager", "sops-nix", "rollback"} <= names
