"""The options: those of the seed with their defaults, each described, and what becomes of them in a system."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.nix.bare import LIB, PLAIN
from tests.nix.evaluated import CHECKOUT, evaluate, instantiate, refusal, source
from tools import options
from town import spec

# What configurations of the seed may name, and the defaults that they rely on (Nix); None: there is none.
SEED = {
    "enable": "false",
    "domain": '"machine.local"',
    "agentsDir": '"/agents"',
    "btrfsDevice": "null",
    "sopsFile": "null",
    "projectDirs": '[ "~/dev" ]',
    "humanUser": "null",
    "humanName": "null",
    "humanEmail": "null",
    "agents": "{ }",
}
SEED_AGENT = {
    "enable": "false",
    "role": '"general"',
    "description": '""',
    "git.name": '"ada"',
    "git.email": '"ada@machine.local"',
    "git.signing": "true",
    "packages": "[ ]",
    "persist": '[ "projects" ]',
    "secrets.sshKey": "null",
    "secrets.gpgKey": "null",
    "secrets.extraSecrets": "{ }",
    "devices": "[ ]",
    "sudo.enable": "false",
    "sudo.commands": "[ ]",
    "portal.enable": "false",
    "portal.layout": '"50/50"',
    "claudeCode.enable": "false",
    "claudeCode.settings": "{ }",
    "claudeCode.agentName": '"ada-general"',
    "claudeCode.extraPrompt": '""',
    "claudeCode.extraAgents": "{ }",
    "daemon.enable": "false",
    "daemon.apiKeySecret": "null",
    "daemon.repos": "{ }",
    "daemon.headlessTimeout": "14400",
    "daemon.mail.enable": "false",
    "daemon.mail.port": "993",
    "daemon.mail.mailbox": '"INBOX"',
    "xmpp.enable": "false",
    "xmpp.jid": '"ada@machine.local"',
    "xmpp.passwordSecret": "null",
    "xmpp.rooms": "[ ]",
}
# Options of the seed whose default is a package, or that have none.
SEED_NAMES = ["basePackages"]
SEED_AGENT_NAMES = [
    "uid",
    "extraHomeConfig",
    "portal.command",
    "claudeCode.package",
    "daemon.package",
    "daemon.bootstrapModel",
]
OURS = [
    *[
        "package",
        "identities",
        "recoveryFile",
        "store",
        "storeCredentials",
        "persistDir",
        "sync.every",
        "keep.homes",
        "keep.days",
    ],
    *[
        "keep.free",
        "wait",
        "recipients.humans",
        "recipients.hosts",
        "hostKey.age",
        "hostKey.ssh",
        "hostKey.gnupg",
        "machine",
    ],
    *["btrfs.subvolume", "btrfs.blank"],
    *[f"sync.keep.{of}" for of in ("last", "hourly", "daily", "weekly", "monthly", "yearly")],
    *[f"agents.<name>.{of}" for of in ("gid", "quota", "delivered", "secrets.env", "secrets.gpgEncryption")],
    *[f"agents.<name>.prompts.{of}" for of in ("runtimes", "name", "tools", "settings", "extra")],
    *[f"agents.<name>.persist.*.{of}" for of in ("path", "via", "class", "preset", "required", "type", "upload")],
    *[f"agents.<name>.devices.*.{of}" for of in ("subsystem", "attrs", "action", "permission", "group")],
]


def _alone(module: str, ask: str) -> Any:
    """The answer of nix/options.nix by itself: no NixOS, no packages."""
    modules = f"[ {CHECKOUT}/nix/options.nix ({module}) ]"
    expression = f"""
      let
        lib = import {source("NIXPKGS_LIB")}/lib;
        nuketown = import {LIB};
        plain = import {PLAIN};
        evaluated = lib.evalModules {{ modules = {modules}; }};
        cfg = evaluated.config.nuketown;
      in
      {ask}"""
    return json.loads(instantiate(expression).out)


def test_the_page_names_every_option() -> None:
    page = (CHECKOUT / "docs/options.md").read_text()
    names = [*SEED, *SEED_NAMES, *OURS, *(f"agents.<name>.{name}" for name in [*SEED_AGENT, *SEED_AGENT_NAMES])]
    assert [name for name in names if f"\n### `nuketown.{name}`\n" not in page] == []


def test_the_page_is_what_the_options_say() -> None:
    assert options.page(source("NIXPKGS_LIB")) == (CHECKOUT / "docs/options.md").read_text()


def test_every_option_is_described_and_has_an_example() -> None:
    found = options.options(source("NIXPKGS_LIB"))
    assert len(found) > 90
    assert [one["name"] for one in found if not one["description"].strip().endswith(".")] == []
    assert [one["name"] for one in found if not one["example"]] == []


def test_the_page_cannot_be_made_without_the_lib_and_says_what_is_missing() -> None:
    env = {name: value for name, value in os.environ.items() if name != "NIXPKGS_LIB"}
    argv = [sys.executable, str(CHECKOUT / "tools/options.py")]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[0] == "error: NIXPKGS_LIB is not given"


def test_the_options_evaluate_alone_and_have_the_defaults_of_the_seed() -> None:
    town = " && ".join(f"(cfg.{name} == {value})" for name, value in SEED.items() if name not in ("agents", "domain"))
    domain = '(cfg.domain == "nuketown.local")'
    assert _alone("{ }", f"{town} && cfg.agents == {{ }} && {domain}") is True


@pytest.mark.parametrize("name", SEED_AGENT)
def test_an_agent_has_the_default_of_the_seed(name: str) -> None:
    module = '{ nuketown = { domain = "machine.local"; agents.ada.uid = 1100; }; }'
    assert _alone(module, f"cfg.agents.ada.{name} == {SEED_AGENT[name]}") is True


def test_the_domain_follows_the_host_name_of_the_system() -> None:
    found = evaluate(
        '[ { networking.hostName = "machine"; nuketown.agents.ada.uid = 1100; } ]', "config.nuketown.domain"
    )
    assert found == "machine.local"


def test_the_person_is_taken_from_the_git_of_home_manager() -> None:
    user = '{ programs.git.settings.user = { name = "Josh Doe"; email = "josh@example.com"; }; }'
    config = f'{{ home-manager.users.josh = {user}; nuketown.humanUser = "josh"; }}'
    module = f"{{ options.home-manager = lib.mkOption {{ }}; config = {config}; }}"
    ask = "[ cfg.humanName cfg.humanEmail ]"
    assert _alone(f"{{ lib, ... }}: {module}", ask) == ["Josh Doe", "josh@example.com"]
    assert _alone('{ nuketown = { humanUser = "josh"; domain = "signi.local"; }; }', ask) == [
        "josh",
        "josh@signi.local",
    ]


def test_two_definitions_of_settings_and_of_a_home_are_merged() -> None:
    module = """{ imports = [
      { nuketown.agents.ada = { claudeCode.settings.sandbox.network.a = [ "Read" ]; extraHomeConfig.a = 1; }; }
      { nuketown.agents.ada = { claudeCode.settings.sandbox.network.b = 1; extraHomeConfig.b = 2; }; }
      { nuketown.agents.ada.uid = 1100; }
    ]; }"""
    assert _alone(module, "cfg.agents.ada.claudeCode.settings.sandbox.network") == {"a": ["Read"], "b": 1}
    free = "{ freeformType = lib.types.attrsOf lib.types.int; }"
    home = f"(lib.evalModules {{ modules = [ {free} cfg.agents.ada.extraHomeConfig ]; }}).config"
    assert _alone(module, f'removeAttrs ({home}) [ "_module" ]') == {"a": 1, "b": 2}


@pytest.mark.parametrize(
    ("module", "says"),
    [
        ('{ nuketown.agents.ada.uid = "1100"; }', "nuketown.agents.ada.uid"),
        ('{ nuketown.agents.ada = { uid = 1100; git.signing = "pgp"; }; }', "nuketown.agents.ada.git.signing"),
        ('{ nuketown.agents.ada = { uid = 1100; persist = [ { path = "x"; via = "bnd"; } ]; }; }', "via"),
        ('{ nuketown.agents.ada = { uid = 1100; prompts.runtimes = [ "claude" ]; }; }', "prompts.runtimes"),
        ("{ nuketown.agent.ada = { uid = 1100; }; }", "nuketown.agent"),
    ],
)
def test_a_value_of_a_wrong_kind_is_refused_by_the_name_of_its_option(module: str, says: str) -> None:
    base = "{ nuketown = { enable = true; agents.ada.enable = true; }; }"
    said = refusal(f"[ {base} {module} ]", "config.nuketown.build.townText")
    assert f"`{says}" in said or f".{says}" in said


TOWNS = {
    "nothing said": "agents.ada.uid = 1100;",
    "all that a town may say": """
      domain = "signi.local"; agentsDir = "/srv/agents"; persistDir = "/keep"; store = "s3://agents";
      storeCredentials = "/run/secrets/s3"; humanUser = "josh"; machine = "0123456789abcdef0123456789abcdef";
      sopsFile = "/var/lib/town/agents.yaml"; recoveryFile = "secrets/humans.yaml"; wait = "1min";
      btrfsDevice = "LABEL=agents"; btrfs = { subvolume = "@homes"; blank = "@empty"; };
      recipients = { humans = [ "x" ]; hosts.signi = "y"; }; hostKey = { age = "/a"; ssh = "/s"; gnupg = "/g"; };
      keep = { homes = 2; days = 3; free = "20G"; };
      sync = { every = "1h"; keep = { last = 1; hourly = 2; daily = 3; weekly = 4; monthly = 5; yearly = 6; }; };
      agents.ada.uid = 1100;
    """,
    "all that an agent may say": """
      agents.vox = { uid = 1101; gid = 1200; persist = [ ]; git = { name = "V"; email = "v@x.y"; signing = "ssh"; }; };
      agents.ada = {
        uid = 1100; role = "software"; description = "Thinks."; sudo.enable = true; quota = "20G"; delivered = [ "x" ];
        secrets = { sshKey = "a/s"; gpgKey = "a/g"; gpgEncryption = true; extraSecrets.k = "a/k"; env.K = "k"; };
        devices = [ { subsystem = "usb"; attrs.product = "x"; action = "add"; permission = "r"; group = "g"; } ];
        claudeCode = { enable = true; settings.model = "opus"; extraPrompt = "More."; agentName = "ada"; };
        persist = [ "projects" ".claude" ];
      };
    """,
}


@pytest.mark.parametrize("said", TOWNS.values(), ids=TOWNS)
def test_the_town_of_the_tests_is_that_of_the_options(said: str) -> None:
    """What is proved with plain.nix, without a lib, is proved of a real evaluation."""
    agents = "builtins.mapAttrs (_: agent: agent // { enable = true; }) said.agents"
    nuketown = f'said // {{ domain = said.domain or "signi.local"; agents = {agents}; }}'
    module = f"let said = {{ {said} }}; in {{ nuketown = {nuketown}; }}"
    both = f"""
      let
        said = {{ {said} }};
        made = nuketown.town (plain {{ town = removeAttrs said [ "agents" ]; inherit (said) agents; }});
        real = nuketown.town cfg;
      in
      {{ made = nuketown.toTOML made; real = nuketown.toTOML real; }}"""
    found = _alone(module, both)
    assert tomllib.loads(found["made"]) == tomllib.loads(found["real"])


_GOOD = '{ nuketown = { enable = true; domain = "signi.local"; agents.ada = { enable = true; uid = 1100; }; }; }'


def _build(module: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """Run what nuketown.build.townFile is built by, as runCommand would."""
    asked = "{ inherit (config.nuketown.build.townFile) buildCommand; inherit (config.nuketown.build) townText; }"
    found = evaluate(f"[ {_GOOD} ({module}) ]", asked)
    (tmp_path / "text").write_text(found["townText"])
    env = {
        "textPath": str(tmp_path / "text"),
        "out": str(tmp_path / "out"),
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
    }
    argv = ["bash", "-eu", "-c", found["buildCommand"]]
    return subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)


def test_the_spec_is_checked_when_it_is_built_and_is_what_the_options_say(tmp_path: Path) -> None:
    done = _build("{ }", tmp_path)
    assert done.returncode == 0, done.stderr
    read = spec.load(tmp_path / "out")
    assert [agent.name for agent in read.agents] == ["ada"]
    assert read.town.domain == "signi.local"


def test_a_warning_of_the_check_stands_in_the_log_and_the_spec_is_built(tmp_path: Path) -> None:
    done = _build('{ nuketown.agents.ada.persist = [ ".config/systemd" ]; }', tmp_path)
    assert done.returncode == 0
    assert ".config/systemd" in done.stderr
    assert spec.load(tmp_path / "out").agents


def test_what_only_the_programs_know_to_be_wrong_ends_the_build(tmp_path: Path) -> None:
    module = '{ nuketown.agents.ada.claudeCode = { enable = true; settings.cleanupPeriodDays = "thirty"; }; }'
    done = _build(module, tmp_path)
    assert done.returncode == 78
    assert "cleanupPeriodDays" in done.stderr
    assert not (tmp_path / "out").exists()


def test_every_program_reads_the_spec_that_was_checked() -> None:
    asked = """{
      etc = config.environment.etc."nuketown/town.toml".source == config.nuketown.build.townFile;
      program = lib.elem config.nuketown.package config.environment.systemPackages;
    }"""
    assert evaluate(f"[ {_GOOD} ]", asked) == {"etc": True, "program": True}


def test_a_module_that_is_not_enabled_changes_nothing() -> None:
    asked = """{
      etc = lib.filter (lib.hasPrefix "nuketown") (lib.attrNames config.environment.etc);
      failed = lib.filter (one: !one.assertion) config.assertions;
      inherit (config) warnings;
      build = lib.attrNames config.nuketown.build;
    }"""
    off = "[ { nuketown.agents.ada = { enable = true; uid = 1; }; } ]"
    assert evaluate(off, asked) == {"etc": [], "failed": [], "warnings": [], "build": []}


def test_what_is_built_cannot_be_said_by_hand() -> None:
    assert "defined multiple times" in refusal(
        f'[ {_GOOD} {{ nuketown.build.townText = "mine"; }} ]', "config.nuketown.build.townText"
    )
