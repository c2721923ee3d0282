"""The agents' accounts on NixOS, and the rule of PAM: asked of the real libpam."""

import ctypes
import subprocess
from pathlib import Path
from typing import Any

import pytest

from persist import pam as elsewhere
from tests.nix.evaluated import evaluate, messages

TOWN = """
  nuketown.enable = true;
  nuketown.agents.ada = { enable = true; uid = 51100; };
  nuketown.agents.b-x = { enable = true; uid = 51101; gid = 51109; };
  nuketown.agents.old = { enable = false; uid = 51102; };
  security.pam.services.login = { };
  security.pam.services.sshd = { };
"""
RULES = """
lib.mapAttrs (_: service: lib.sort (a: b: a.order < b.order) (lib.attrValues service.rules.account))
  config.security.pam.services
"""
libpam = ctypes.CDLL("libpam.so.0")


class Talk(ctypes.Structure):
    _fields_ = [("conv", ctypes.c_void_p), ("data", ctypes.c_void_p)]


class Door:
    """A service of PAM's with the rules of the evaluation, whose two lists lie in a directory of the test's."""

    def __init__(self, at: Path, rules: list[dict[str, Any]]) -> None:
        self.agents, self.open, self.at = at / "agents", at / "open", at / "pam.d"
        self.at.mkdir()
        lines = []
        for rule in rules:
            said = " ".join([rule["control"], Path(rule["modulePath"]).name, *rule["args"]])
            said = said.replace("/etc/nuketown/agents", str(self.agents)).replace("/run/nuketown/open", str(self.open))
            lines.append(f"account {said.replace('pam_unix.so', 'pam_permit.so')}\n")
        (self.at / "door").write_text("".join(lines))

    def lets_in(self, user: str) -> bool:
        handle = ctypes.c_void_p()
        place = str(self.at).encode()
        begun = libpam.pam_start_confdir(b"door", user.encode(), ctypes.byref(Talk()), place, ctypes.byref(handle))
        assert begun == 0
        libpam.pam_acct_mgmt.argtypes = [ctypes.c_void_p, ctypes.c_int]
        found: int = libpam.pam_acct_mgmt(handle, 0)
        return found == 0


@pytest.fixture(scope="module")
def rules() -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = evaluate(f"[ {{ {TOWN} }} ]", RULES)
    return found


@pytest.fixture
def door(tmp_path: Path, rules: dict[str, list[dict[str, Any]]]) -> Door:
    return Door(tmp_path, rules["login"])


def test_an_agent_comes_in_only_while_its_account_is_open_and_everybody_else_always(door: Door) -> None:
    door.agents.write_text("ada\nb-x\n")
    assert [door.lets_in(who) for who in ("ada", "b-x", "root", "josh")] == [False, False, True, True]
    door.open.write_text("ada\n")
    assert [door.lets_in(who) for who in ("ada", "b-x", "root", "josh")] == [True, False, True, True]


def test_a_list_of_agents_that_is_missing_keeps_nobody_out(door: Door) -> None:
    assert [door.lets_in(who) for who in ("ada", "root")] == [True, True]


def test_the_list_of_agents_is_a_file_for_a_link_would_keep_everybody_out(door: Door, tmp_path: Path) -> None:
    (tmp_path / "list").write_text("ada\n")
    door.agents.symlink_to("list")
    assert not door.lets_in("root")
    found = evaluate(f"[ {{ {TOWN} }} ]", 'config.environment.etc."nuketown/agents"')
    assert (found["text"], found["mode"]) == ("ada\nb-x\n", "0444")


def test_the_two_rules_come_first_and_together_in_every_service(rules: dict[str, list[dict[str, Any]]]) -> None:
    assert set(rules) == {"login", "sshd"}
    for found in rules.values():
        assert [rule["name"] for rule in found] == ["nuketown-agent", "nuketown-open", "unix"]
        assert found[1]["order"] - found[0]["order"] == 1


def test_the_two_rules_are_those_of_every_other_machine(rules: dict[str, list[dict[str, Any]]]) -> None:
    said = [
        " ".join(["account", rule["control"], Path(rule["modulePath"]).name, *rule["args"]])
        for rule in rules["login"][:2]
    ]
    assert said == [line for line in elsewhere.RULE if line.startswith("account")]


def test_a_service_that_others_define_while_no_town_is_there_has_no_rule() -> None:
    found = evaluate("[ { security.pam.services.login = { }; } ]", RULES)
    assert [rule["name"] for rule in found["login"]] == ["unix"]


TEXTS = {
    "account required pam_unix.so\nauth required pam_unix.so\n": True,
    "auth required pam_unix.so\naccount  include  login\n": False,
    "account substack login\n": False,
    "account required pam_deny.so\n": False,
    "auth required pam_unix.so\n": False,
    "account requisite pam_listfile.so item=user sense=allow file=/run/nuketown/open onerr=fail\n": False,
    "account sufficient pam_unix.so\naccount include login\n": True,
    "Account Sufficient pam_unix.so\naccount include login\n": True,
    "account [success=1 default=ignore] pam_x.so\naccount include login\n": True,
    "account sufficient pam_unix.so\naccount required pam_deny.so\n": True,
    "account required pam_warn.so\naccount required pam_deny.so\n": False,
    "account required pam_x.so \\\n  debug\naccount include login\n": False,
}


@pytest.mark.parametrize(("text", "is_said"), TEXTS.items())
def test_a_service_of_pam_that_is_written_by_hand_and_asks_nothing_is_named(text: str, is_said: bool) -> None:
    said = text.replace("\\", "\\\\").replace("\n", "\\n")
    failed, warned = messages(f'[ {{ {TOWN} security.pam.services.door.text = "{said}"; }} ]')
    assert failed == []
    assert any("security.pam.services.door.text" in warning for warning in warned) is is_said


BEFORE = {
    'mine = { order = 10; control = "sufficient"; modulePath = "pam_permit.so"; };': True,
    'mine = { order = 10; control = "[success=2 default=ignore]"; modulePath = "pam_x.so"; };': True,
    "nuketown-open.enable = false;": True,
    "nuketown-agent.enable = false; nuketown-open.enable = false;": True,
    "nuketown-open.order = lib.mkForce 20000;": True,
    'mine = { order = 10; control = "required"; modulePath = "pam_x.so"; };': False,
    'mine = { order = 200; control = "sufficient"; modulePath = "pam_x.so"; };': False,
    'mine = { enable = false; order = 10; control = "sufficient"; modulePath = "pam_x.so"; };': False,
}


@pytest.mark.parametrize("is_written", [False, True], ids=["rules", "text of rules"])
@pytest.mark.parametrize(("said", "is_told"), BEFORE.items())
def test_a_rule_that_lets_agents_in_before_they_are_asked_is_named(said: str, is_told: bool, is_written: bool) -> None:
    given = f"[ {{ {TOWN} }} ({{ lib, ... }}: {{ security.pam.services.sshd.rules.account = {{ {said} }}; }}) ]"
    if is_written:  # NixOS makes the text of a service of its rules
        text = as_nixos_writes(evaluate(given, RULES)["sshd"]).replace("\n", "\\n")
        given = given.removesuffix("]") + f'{{ security.pam.services.sshd.text = "{text}"; }} ]'
    failed, warned = messages(given)
    assert failed == []
    assert any("security.pam.services.sshd.rules.account: " in warning for warning in warned) is is_told
    assert not any("security.pam.services.login" in warning for warning in warned)


@pytest.mark.parametrize("said", ['mode = lib.mkForce "symlink";', "enable = false;"])
def test_the_list_of_agents_may_be_no_link_and_has_to_be_there(said: str) -> None:
    given = f'[ {{ {TOWN} }} ({{ lib, ... }}: {{ environment.etc."nuketown/agents" = {{ {said} }}; }}) ]'
    assert [one for one in messages(given)[0] if 'environment.etc."nuketown/agents" is a link, or none' in one]


SSHD = {
    "UsePAM = false;": True,
    'UsePAM = false; DenyUsers = [ "ada" ];': True,
    'UsePAM = false; DenyUsers = [ "ada" "b-x" ];': False,
    "UsePAM = true; DenyUsers = null;": False,
}


@pytest.mark.parametrize(("settings", "is_refused"), SSHD.items())
def test_an_sshd_that_does_not_ask_pam_is_refused_unless_it_lets_no_agent_in(settings: str, is_refused: bool) -> None:
    failed, _ = messages(f"[ {{ {TOWN} services.openssh = {{ enable = true; settings = {{ {settings} }}; }}; }} ]")
    assert any("UsePAM = false" in one and "DenyUsers" in one for one in failed) is is_refused
    assert messages(f"[ {{ {TOWN} services.openssh.settings = {{ {settings} }}; }} ]")[0] == []  # it does not run


def test_greeters_and_services_that_are_off_are_not_named() -> None:
    text = 'text = "account required pam_unix.so\\n";'
    more = f"lightdm-greeter = {{ {text} }}; gdm-launch-environment = {{ {text} }};"
    more += f"off = {{ enable = false; {text} }};"
    _, warned = messages(f"[ {{ {TOWN} security.pam.services = {{ {more} }}; }} ]")
    assert not any("security.pam" in warning for warning in warned)


ACCOUNT = ("uid", "group", "home", "createHome", "isNormalUser", "isSystemUser", "hashedPassword", "extraGroups")


def test_an_agent_is_a_user_whose_home_is_made_at_boot_and_by_nobody_else() -> None:
    found = evaluate(f"[ {{ {TOWN} }} ]", "{ inherit (config.users) users groups; }")
    assert {name for name in found["users"] if name != "root"} == {"ada", "b-x"}
    said = tuple(found["users"]["ada"][key] for key in ACCOUNT)
    assert said == (51100, "ada", "/agents/ada", False, True, False, None, [])
    assert (found["groups"]["ada"]["gid"], found["groups"]["b-x"]["gid"]) == (51100, 51109)


def test_a_shell_and_groups_may_be_given_to_an_agent() -> None:
    more = 'users.users.ada = { shell = "/bin/other"; extraGroups = [ "dialout" ]; }; users.groups.dialout.gid = 27;'
    found = evaluate(f"[ {{ {TOWN} {more} }} ]", "{ inherit (config.users.users.ada) shell extraGroups; }")
    assert found == {"shell": "/bin/other", "extraGroups": ["dialout"]}


def test_homes_lie_in_the_directory_that_is_named() -> None:
    found = evaluate(f'[ {{ {TOWN} nuketown.agentsDir = "/srv/a b"; }} ]', "config.users.users.ada.home")
    assert found == "/srv/a b/ada"


def as_nixos_writes(rules: list[dict[str, Any]]) -> str:
    """A file of /etc/pam.d as nixos/modules/security/pam.nix makes it."""
    lines = ["# Account management."]
    for rule in [rule for rule in rules if rule["enable"]]:
        said = ["account", rule["control"], rule["modulePath"], *rule["args"], f"# {rule['name']} (order 1)"]
        lines.append(" ".join(said))
    return "\n".join([*lines, "", "# Authentication management.", "auth required pam_unix.so", ""])


def test_a_machine_with_the_rules_is_known_by_its_logins(
    rules: dict[str, list[dict[str, Any]]], tmp_path: Path
) -> None:
    service = tmp_path / "etc/pam.d/login"
    service.parent.mkdir(parents=True)
    stored = tmp_path / "stored"
    service.symlink_to(stored)  # as everything in /etc is there
    (tmp_path / "etc/NIXOS").touch()
    assert not elsewhere.ruled(tmp_path)
    stored.write_text(as_nixos_writes(rules["login"]))
    assert elsewhere.ruled(tmp_path)
    unix, ours = rules["login"][2:], rules["login"][:2]
    for wrong in ([*unix, *ours], [ours[0], *unix], [*reversed(ours), *unix], unix):
        stored.write_text(as_nixos_writes(wrong))
        assert not elsewhere.ruled(tmp_path)


def test_cron_takes_no_jobs_of_agents_and_what_its_list_says_stays(tmp_path: Path) -> None:
    found = evaluate(f"[ {{ {TOWN} services.cron.enable = true; }} ]", "config.systemd.services.cron.preStart")
    listed = tmp_path / "cron.deny"
    listed.write_text("mallory\nada\n")
    script = found.replace("/var/cron/cron.deny", str(listed))
    for _ in range(2):
        assert subprocess.run(["sh", "-eu", "-c", script], check=False).returncode == 0
        assert listed.read_text() == "mallory\nada\nb-x\n"
    listed.unlink()
    subprocess.run(["sh", "-eu", "-c", script], check=True)
    assert listed.read_text() == "ada\nb-x\n"
    assert evaluate(f"[ {{ {TOWN} }} ]", "config.systemd.services ? cron") is False
