"""A configuration of nuketown evaluates as it stands, and what it says without effect is said by its name."""

import re
from pathlib import Path
from typing import Any

import pytest

from tests.nix.evaluated import CHECKOUT, evaluate, instantiate, messages, refusal, source

SEED_LIKE = f"{CHECKOUT}/tests/nix/seed-like.nix"
ADA = "nuketown = { enable = true; agents.ada = { enable = true; uid = 1100; }; };"


def test_a_configuration_as_users_have_it_evaluates_and_no_assertion_fails() -> None:
    failed, _ = messages(f"[ {SEED_LIKE} ]")
    assert failed == []


def test_it_evaluates_beside_the_modules_that_its_users_import() -> None:
    needs = ("HOME_MANAGER", "SOPS_NIX", "IMPERMANENCE")
    modules = f"""[ {SEED_LIKE} {{
      home-manager.useGlobalPkgs = true;
      home-manager.useUserPackages = true;
      environment.persistence."/persist".directories = [ "/var/log" ];
      sops.age.keyFile = "/var/lib/sops/key";
      fonts.fontconfig.enable = true;
    }} ]"""
    failed, warnings = messages(modules, needs=needs)
    assert failed == []
    assert not [one for one in warnings if "home-manager, which is not imported" in one]
    ask = """{
      packages = map (p: p.name) config.home-manager.users.ada.home.packages;
      path = map (p: p.name) config.users.users.ada.packages;
      direnv = config.home-manager.users.vox.programs.direnv.enable;
      agents = lib.attrNames config.home-manager.users;
    }"""
    found = evaluate(modules, ask, needs=needs)
    assert {"git", "ripgrep", "gcc-arm-embedded", "claude-code"} <= set(found["packages"])
    assert found["path"] == ["home-manager-path"]
    assert found["direnv"] is True
    assert found["agents"] == ["ada", "vox"]  # `idle` is not enabled


def test_each_option_without_effect_that_is_set_is_named_once_and_no_other() -> None:
    more = """{
      nuketown.projectDirs = [ "~/work" ];
      nuketown.agents.ada.portal = { enable = true; layout = "75/25"; };
      nuketown.agents.ada.sudo.commands = [ "/bin/x" ];
      nuketown.agents.ada.daemon = { enable = false; mail.host = "imap.example.com"; };
      nuketown.agents.ada.xmpp.rooms = [ "r" ];
      nuketown.agents.off = { uid = 1101; portal.enable = true; };
    }"""
    _, warnings = messages(f"[ {{ {ADA} }} {more} ]")
    (told,) = [one for one in warnings if "without effect in this version" in one]
    assert re.findall(r"nuketown\.[a-zA-Z.]+", told.partition(": accepted")[0]) == [
        "nuketown.projectDirs",
        "nuketown.agents.ada.daemon.mail.host",
        "nuketown.agents.ada.portal.enable",
        "nuketown.agents.ada.portal.layout",
        "nuketown.agents.ada.sudo.commands",
        "nuketown.agents.ada.xmpp.rooms",
    ]


def test_a_configuration_that_sets_none_of_them_is_not_warned() -> None:
    _, warnings = messages(f"[ {{ {ADA} }} ]")
    assert not [one for one in warnings if "without effect" in one or "home-manager" in one]


@pytest.mark.parametrize(
    ("path", "enable", "preset"),
    [(".config/claude", "true", "claude-code"), (".claude", "true", "claude-code"), (".claude", "false", None)],
)
def test_claude_codes_directory_gets_the_preset_where_claude_code_is_meant(path: str, enable: str, preset: Any) -> None:
    agent = f'nuketown.agents.ada = {{ persist = [ "projects" "{path}" ]; claudeCode.enable = {enable}; }};'
    modules = f"[ {{ {ADA} }} {{ {agent} }} ]"
    entries = evaluate(modules, "config.nuketown.build.town.agents.ada.persist")
    assert entries[1].get("preset") == preset
    told = [one for one in messages(modules)[1] if "is kept with the preset claude-code" in one]
    assert len(told) == (preset is not None)
    assert all(f'{{ path = "{path}"; preset = "claude-code"; }}' in one for one in told)


def test_an_agent_is_not_told_of_root_that_nobody_grants() -> None:
    modules = f'[ {{ {ADA} }} {{ nuketown = {{ humanUser = "josh"; agents.ada.sudo.enable = true; }}; }} ]'
    assert evaluate(modules, "config.nuketown.build.town.agents.ada.sudo") is False
    told = [one for one in messages(modules)[1] if "nuketown.agents.ada.sudo.enable: accepted" in one]
    assert len(told) == 1
    assert "agents are told of none" in told[0]


def test_the_modules_are_also_where_a_checkout_of_nuketown_has_them() -> None:
    """At the top, and one that is imported by both names is one."""
    both = f"[ {CHECKOUT}/module.nix {CHECKOUT}/nix/module.nix {{ {ADA} }} ]"
    assert messages(both)[0] == []
    assert evaluate(both, "config.nuketown.build.town.agents.ada.uid") == 1100
    assert b"accepted, and without effect" in _persons("{ nuketown.approvalDaemon.enable = true; }", CHECKOUT).out


@pytest.mark.parametrize("package", ["null", "lib.mkForce null"])
def test_a_package_that_is_none_is_told_of_by_evaluation(package: str) -> None:
    failed, _ = messages(f"[ {{ {ADA} }} ({{ lib, ... }}: {{ nuketown.package = {package}; }}) ]")
    assert [one for one in failed if "nuketown.package is null" in one]


def test_a_home_configuration_that_is_none_is_told_of_without_home_manager_too() -> None:
    said = refusal(f"[ {{ {ADA} }} {{ nuketown.agents.ada.extraHomeConfig = null; }} ]", "config.warnings")
    assert "extraHomeConfig' is not of type `module'" in said


@pytest.mark.parametrize("entry", ["./projects", "null", "[ ]", "(_: { })"])
def test_what_is_no_path_and_no_table_is_no_entry_of_persist(entry: str) -> None:
    modules = f"[ {{ {ADA} }} {{ nuketown.agents.ada.persist = [ {entry} ]; }} ]"
    assert "neither a value of type `string` nor `submodule`" in refusal(modules, "config.nuketown.build.townText")


def _persons(settings: str, folder: Path = CHECKOUT / "nix/home-manager") -> Any:
    """The warnings of a person's home-manager configuration with the module that nuketown had for it."""
    lib = source("NIXPKGS_LIB")
    return instantiate(f"""
      let lib = import {lib}/lib; in
      (lib.evalModules {{ modules = [
        {folder}/approval-daemon.nix
        {{ options.warnings = lib.mkOption {{ type = lib.types.listOf lib.types.str; default = [ ]; }}; }}
        {settings}
      ]; }}).config.warnings
    """)


def test_a_persons_approval_daemon_is_accepted_and_said_to_have_no_effect() -> None:
    said = (
        '{ nuketown.approvalDaemon = { enable = true; xmpp = { enable = true; jid = "a@b"; passwordFile = "/p"; }; }; }'
    )
    assert b"nuketown.approvalDaemon: accepted, and without effect" in _persons(said).out
    assert _persons("{ }").out.strip() == b"[]"


_IMPERMANENCE = 'environment.persistence."/persist"'
_PRESERVATION = 'preservation.enable = true; preservation.preserveAt."/persist"'


@pytest.mark.parametrize(
    ("module", "says", "offender"),
    [
        ("IMPERMANENCE", f'{_IMPERMANENCE}.users.ada.directories = [ "projects" ];', "/agents/ada/projects"),
        ("IMPERMANENCE", f'{_IMPERMANENCE}.users.ada.files = [ ".netrc" ];', "/agents/ada/.netrc"),
        ("IMPERMANENCE", f'{_IMPERMANENCE}.directories = [ "/agents" ];', "/agents"),
        ("IMPERMANENCE", f'{_IMPERMANENCE}.directories = [ "/persist/agents/ada" ];', "/persist/agents/ada"),
        ("IMPERMANENCE", 'environment.persistence."/agents/keep".directories = [ "/var/log" ];', "/agents/keep"),
        (
            "IMPERMANENCE",
            'environment.persistence."/persist/agents/ada".directories = [ "/var/log" ];',
            "/persist/agents/ada",
        ),
        ("IMPERMANENCE", f'{_IMPERMANENCE}.directories = [ "/.nuketown/x" ];', "/persist/.nuketown/x"),
        (
            "PRESERVATION",
            'preservation = { enable = true; preserveAt."/persist/agents/ada".directories = [ "/srv/x" ]; };',
            "/persist/agents/ada",
        ),
        ("PRESERVATION", f'{_PRESERVATION}.users.ada.directories = [ "a/b" ];', "/agents/ada/a/b"),
        ("PRESERVATION", f'{_PRESERVATION}.directories = [ "/agents/x" ];', "/agents/x"),
    ],
)
def test_what_another_module_would_mount_in_homes_is_refused_by_its_path(module: str, says: str, offender: str) -> None:
    failed, _ = messages(f"[ {{ {ADA} }} {{ {says} }} ]", needs=[module])
    told = [one for one in failed if f"declares {offender}" in one or f"stores in {offender}" in one]
    assert len(told) == 1
    assert f"{offender}, /" not in told[0]  # and nothing that it makes on the way


def test_a_home_that_home_manager_would_have_persist_is_refused_too() -> None:
    home = 'nuketown.agents.ada.extraHomeConfig.home.persistence."/keep".files = [ "x" ];'
    modules = f"[ {{ {ADA} }} {{ home-manager.useGlobalPkgs = true; {home} }} ]"
    failed, _ = messages(modules, needs=["HOME_MANAGER", "IMPERMANENCE"])
    assert [one for one in failed if "/agents/ada/x" in one and "nuketown.agents.NAME.persist" in one]


@pytest.mark.parametrize(
    ("module", "says"),
    [
        (
            "IMPERMANENCE",
            f'{_IMPERMANENCE} = {{ directories = [ "/var/log" "/agents-of-mine" ]; users.mara.files = [ "x" ]; }};',
        ),
        ("PRESERVATION", f'{_PRESERVATION} = {{ directories = [ "/var/log" ]; users.mara.directories = [ "a/b" ]; }};'),
    ],
)
def test_what_they_keep_of_the_rest_of_the_machine_is_theirs(module: str, says: str) -> None:
    person = "users.users.mara = { isNormalUser = true; uid = 1000; };"
    failed, _ = messages(f"[ {{ {ADA} {person} }} {{ {says} }} ]", needs=[module])
    assert [one for one in failed if "nuketown" in one] == []
