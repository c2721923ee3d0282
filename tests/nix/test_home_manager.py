"""home-manager makes an agent's environment in each fresh home, before the agent comes and in nobody else's way."""

import re
from pathlib import Path
from typing import Any

import pytest

from persist import units
from tests.boot.rendered import Units, program, write
from tests.nix.evaluated import CHECKOUT, evaluate, messages
from town import spec as specs

__all__ = ["program"]

HERE = CHECKOUT / "tests/nix"
HM = ("HOME_MANAGER",)


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A module of a checkout in which gen has made ada's keys, and not yet vox's."""
    place = tmp_path_factory.mktemp("checkout") / "identities"
    (place / "ada").mkdir(parents=True)
    for name in ("keys.lock.toml", "allowed_signers", "ada/identity.toml", "ada/ssh.pub"):
        (place / name).write_text("")
    (place / "vox").symlink_to("ada")
    (place / "ada/link").symlink_to("/etc/shadow")
    (place / "vox").unlink()
    home = "home-manager.useGlobalPkgs = true;"
    return f"{HERE}/seed-like.nix {{ {home} nuketown.identities = {place}; }}"


_ASK = """
let ada = config.home-manager.users.ada; in {
  delivered = lib.mapAttrs (_: a: a.delivered) config.nuketown.agents;
  files = lib.mapAttrs (_: f: { inherit (f) force source; }) ada.home.file;
  git = ada.xdg.configFile."git/config".text;
  packages = map (p: p.name) ada.home.packages;
  inherit (ada.home) sessionVariables homeDirectory username sessionVariablesExtra;
  # Of the release that flake.lock names the module of Claude Code has its files in .claude alone.
  claude = ada.programs.claude-code.enable;
  configDir = ada.programs.claude-code.configDir or "/agents/ada/.config/claude";
  documents = config.nuketown.build.documents;
  unit = config.systemd.services.home-manager-ada;
  reload = config.systemd.services.home-manager-ada.serviceConfig.ExecReload.text;
  activation = "${ada.home.activationPackage}";
  human = config.systemd.services.home-manager-mara.wantedBy;
  town = config.nuketown.build.townText;
  etc = lib.attrNames config.environment.etc;
  modes = lib.unique (map (n: config.environment.etc.${n}.mode)
    (lib.filter (lib.hasPrefix "nuketown/identities/") (lib.attrNames config.environment.etc)));
  command = config.nuketown.build.documents.buildCommand;
  vox = lib.filter (lib.hasInfix "nuketown") (lib.attrNames config.home-manager.users.vox.home.file);
  inherit (config) warnings;
  failed = map (a: a.message) (lib.filter (a: !a.assertion) config.assertions);
}
"""
_MORE = """{
  system.stateVersion = "24.11"; # home-manager has other defaults for who began before 25.05
  home-manager.users.mara.home.stateVersion = "25.11";
  nuketown.agents.ada.extraHomeConfig = { pkgs, ... }: {
    programs.git.settings.user.name = "Somebody";
    home.packages = [ pkgs.htop ];
  };
  nuketown.agents.ada.claudeCode.extraAgents.reviewer = "Reads.";
}"""


@pytest.fixture(scope="module")
def found(known: str) -> Any:
    return evaluate(f"[ {known} {_MORE} ]", _ASK, needs=HM)


def test_documents_are_linked_out_of_the_build_and_left_by_the_unit(found: Any) -> None:
    made = found["documents"]
    ours = {path: file for path, file in found["files"].items() if file["source"].startswith(made)}
    assert set(ours) | {".config/git/config"} == set(found["delivered"]["ada"])
    assert all(file == {"force": True, "source": f"{made}/ada/{path}"} for path, file in ours.items())
    assert ".config/claude/CLAUDE.md" in ours
    assert not any("settings.json" in path for path in found["files"])
    assert specs.parse(found["town"].encode(), Path("t")).agent("ada").delivered  # the unit is told of them


def test_documents_are_rendered_at_build_by_identity_from_the_public_halves(found: Any) -> None:
    assert "identity --spec" in found["command"]
    assert ' documents --out town --to "$out" ada\n' in found["command"]


def test_of_an_agent_without_public_keys_nothing_is_linked_and_the_command_is_named(found: Any) -> None:
    assert found["delivered"]["vox"] == [".config/git/config"]  # home-manager's, whatever else is known
    assert found["vox"] == []
    told = [warning for warning in found["warnings"] if "nix run .#identity -- gen vox" in warning]
    assert len(told) == 1
    assert "ada" not in told[0]


def test_public_halves_are_copied_to_where_identity_follows_no_link(found: Any) -> None:
    below = sorted(name for name in found["etc"] if name.startswith("nuketown/identities/"))
    assert below == [f"nuketown/identities/{name}" for name in
                     ("ada/identity.toml", "ada/ssh.pub", "allowed_signers", "keys.lock.toml")]  # fmt: skip
    assert found["modes"] == ["0444"]


def test_gits_configuration_is_ours_and_then_what_the_configuration_says(found: Any) -> None:
    include, _, rest = found["git"].partition("[init]")
    assert include == f"[include]\n  path = {found['documents']}/ada/.config/git/config\n"
    assert 'name = "Somebody"' in rest
    assert "openpgp" not in rest


def test_an_agents_home_configuration_adds_to_ours_and_goes_before_it(found: Any) -> None:
    assert found["failed"] == []
    assert {"htop", "ripgrep", "stm32flash", "claude-code"} <= set(found["packages"])
    assert found["sessionVariables"]["EDITOR"] == "hx"  # programs.helix of seed-like.nix
    assert (found["username"], found["homeDirectory"]) == ("ada", "/agents/ada")
    assert found["claude"] is True
    assert found["configDir"] == "/agents/ada/.config/claude"
    assert ".config/claude/agents/reviewer.md" in found["files"]
    assert "environment.sh" in found["sessionVariablesExtra"]


def test_a_new_configuration_is_put_into_a_home_in_use_without_ending_the_agent(found: Any) -> None:
    assert found["unit"]["reloadIfChanged"] is True
    start = found["unit"]["serviceConfig"]["ExecStart"]
    assert start.endswith(found["activation"])
    assert re.search(rf"(?m)^exec {re.escape(found['activation'])}/activate --driver-version 1$", found["reload"])


def test_nobody_but_the_agent_waits_for_its_environment(found: Any) -> None:
    assert found["unit"]["wantedBy"] == []
    assert "systemd-user-sessions.service" not in found["unit"]["before"]
    assert found["human"] == ["multi-user.target"]


_HM_UNIT = """[Unit]
Requires={requires}
After={after}
Before={before}
PartOf={partOf}
RequiresMountsFor={mounts}
[Service]
Type=oneshot
RemainAfterExit=yes
User=ada
ExecStart=true
ExecReload=true
"""


@pytest.fixture
def boot(found: Any, tmp_path: Path, program: str) -> Units:
    """The units of the town that was evaluated, and home-manager's with what was made of it."""
    made = write(
        tmp_path,
        units.render(
            specs.parse(found["town"].replace("/nix/store/", "/x/").encode(), Path("t")),
            program=program, file="/etc/town.toml", in_initrd=True,
        ),
    )  # fmt: skip
    unit = found["unit"]
    words = {key: " ".join(unit[key]) for key in ("requires", "after", "before", "partOf")}
    mounts = unit["unitConfig"]["RequiresMountsFor"]
    (tmp_path / "home-manager-ada.service").write_text(_HM_UNIT.format(**words, mounts=mounts))
    for by in unit["requiredBy"]:
        (tmp_path / f"{by}.requires").mkdir()
        (tmp_path / f"{by}.requires/home-manager-ada.service").symlink_to("../home-manager-ada.service")
    return made


def test_systemd_orders_it_between_the_home_and_the_keys_and_finds_nothing_wrong(boot: Units) -> None:
    done = boot.analyze("verify", "--man=no", "home-manager-ada.service", "nuketown-agent@ada.target")
    assert (done.returncode, done.stderr) == (0, "")
    text = (boot.at / "home-manager-ada.service").read_text()
    after = re.findall("(?m)^After=(.*)$", text)[0].split()
    assert {"nuketown-homes.service", "nuketown-sweep.service", "nuketown-leave@ada.service",
            "nuketown-restore@ada.service", "nuketown-bind@ada.service"} <= set(after)  # fmt: skip
    assert "Before=nuketown-identity@ada.service nuketown-open@ada.service nuketown-agent@ada.target\n" in text
    assert "PartOf=nuketown-agent@ada.target" in text
    assert "Requires=nuketown-mount.service" in text
    assert (boot.at / "nuketown-open@ada.service.requires/home-manager-ada.service").is_symlink()


def test_without_home_manager_the_account_has_the_packages_and_what_it_takes_is_said() -> None:
    modules = f"[ {HERE}/seed-like.nix ]"
    packages = evaluate(modules, "map (p: p.name) config.users.users.ada.packages")
    assert {"git", "ripgrep", "stm32flash", "claude-code"} <= set(packages)
    failed, warnings = messages(modules)
    assert failed == []
    told = [one for one in warnings if "home-manager" in one]
    assert len(told) == 1
    assert "nuketown.agents.ada.extraHomeConfig" in told[0]
    assert evaluate(modules, "config.nuketown.agents.ada.delivered") == []


def test_an_environment_that_is_made_at_login_is_refused(known: str) -> None:
    declares = "options.home-manager ? startAsUserService"  # not every release does
    said = "home-manager = lib.optionalAttrs isThere { startAsUserService = true; };"
    module = f"({{ lib, options, ... }}: let isThere = {declares}; in {{ {said} }})"
    failed, _ = messages(f"[ {known} {module} ]", needs=HM)
    told = [one for one in failed if "startAsUserService = false" in one]
    assert len(told) == evaluate(f"[ {known} ]", f"if {declares} then 1 else 0", needs=HM)


def test_a_home_manager_of_a_release_that_has_less_to_set_is_enough() -> None:
    """What is asked of its options beside `users` is what this one lacks."""
    less = """({ lib, ... }: {
      options.home-manager.users = lib.mkOption {
        type = lib.types.attrsOf lib.types.raw;
        apply = lib.mapAttrs (name: _: { home = { username = name; homeDirectory = "/agents/${name}"; }; });
      };
    })"""
    agent = "{ nuketown = { enable = true; agents.ada = { enable = true; uid = 1100; }; }; }"
    assert messages(f"[ {less} {agent} ]")[0] == []
    ask = "config.systemd.services.home-manager-ada.requiredBy"
    assert evaluate(f"[ {less} {agent} ]", ask) == ["nuketown-open@ada.service"]


def test_without_gits_module_our_configuration_is_the_file(known: str) -> None:
    off = "nuketown.agents.ada.extraHomeConfig.programs.git.enable = false;"
    ask = """let file = config.home-manager.users.ada.home.file; in {
      ours = file.".config/git/config".source;
      made = "${config.nuketown.build.documents}";
      other = file ? "/agents/ada/.config/git/config";
    }"""
    found = evaluate(f"[ {known} {{ {off} }} ]", ask, needs=HM)
    assert found["ours"] == f"{found['made']}/ada/.config/git/config"
    assert found["other"] is False


def test_settings_of_claude_code_that_two_would_write_are_refused(known: str) -> None:
    two = 'nuketown.agents.ada.extraHomeConfig.programs.claude-code.settings.model = "opus";'
    failed, _ = messages(f"[ {known} {{ {two} }} ]", needs=HM)
    assert [one for one in failed if "Say all of it in nuketown.agents.ada.claudeCode.settings" in one]
    one = "({ lib, ... }: { nuketown.agents.ada.claudeCode.settings = lib.mkForce { }; })"
    assert messages(f"[ {known} {{ {two} }} {one} ]", needs=HM)[0] == []


def test_where_nothing_is_mounted_no_mount_is_required(known: str) -> None:
    none = "({ lib, ... }: { nuketown.btrfsDevice = lib.mkForce null; })"
    assert evaluate(f"[ {known} {none} ]", "config.systemd.services.home-manager-ada.requires", needs=HM) == []


def test_nothing_is_put_into_a_home_before_what_was_fetched_is_in_its_place(known: str) -> None:
    """Of who has such a unit: in the same town vox keeps nothing in the store."""
    more = 'nuketown = { store = "s3://agents/fennel"; agents.vox.persist = lib.mkForce [ ]; };'
    ask = 'lib.mapAttrs (name: _: config.systemd.services."home-manager-${name}".requires) { ada = 0; vox = 0; }'
    required = evaluate(f"[ {known} ({{ lib, ... }}: {{ {more} }}) ]", ask, needs=HM)
    assert set(required["ada"]) == {"nuketown-mount.service", "nuketown-bind@ada.service"}
    assert required["vox"] == ["nuketown-mount.service"]


def test_a_town_that_is_not_enabled_has_no_part_in_anything(known: str) -> None:
    off = "({ lib, ... }: { nuketown.enable = lib.mkForce false; })"
    ask = """{
      homes = lib.attrNames config.home-manager.users;
      accounts = lib.filter (lib.hasPrefix "ada") (lib.attrNames config.users.users);
      etc = lib.attrNames config.environment.etc;
      rules = config.services.udev.extraRules;
      inherit (config) warnings;
      services = lib.attrNames config.systemd.services;
    }"""
    found = evaluate(f"[ {known} {off} ]", ask, needs=HM)
    assert found == {"homes": [], "accounts": [], "etc": [], "rules": "", "warnings": [], "services": []}


def test_a_name_with_a_hyphen_has_its_unit(known: str) -> None:
    agent = "nuketown.agents.ada-x = { enable = true; uid = 1105; };"
    unit = r'config.systemd.services."home-manager-ada\\x2dx".requiredBy'
    assert evaluate(f"[ {known} {{ {agent} }} ]", unit, needs=HM) == ["nuketown-open@ada-x.service"]
