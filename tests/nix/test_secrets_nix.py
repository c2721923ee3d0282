"""With sops-nix the agents' secrets are secrets of its own too; without it nothing of it is needed."""

from pathlib import Path
from typing import Any

import pytest

from tests.nix.evaluated import CHECKOUT, evaluate, messages

SEED_LIKE = CHECKOUT / "tests/nix/seed-like.nix"
SOPS = ("SOPS_NIX",)
_SECRETS = (
    """lib.mapAttrs (_: s: { inherit (s) owner mode key path; sopsFile = toString s.sopsFile; }) config.sops.secrets"""
)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A flake's directory with a secrets file, and identities of ada alone."""
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets/agents.yaml").write_text("sops: {}\n")
    (tmp_path / "identities/ada").mkdir(parents=True)
    (tmp_path / "identities/ada/identity.toml").write_text("")
    return tmp_path


def _agents(checkout: Path, more: str = "", agents: str = "") -> str:
    return f"""[ {{
      nuketown = {{
        enable = true;
        sopsFile = {checkout}/secrets/agents.yaml;
        agents.ada = {{ enable = true; uid = 1100; {agents} }};
        agents.vox = {{ enable = true; uid = 1101; git.signing = "ssh"; }};
      }};
      {more}
    }} ]"""


def _secrets(modules: str) -> Any:
    return evaluate(modules, _SECRETS, needs=SOPS)


def test_keys_that_gen_made_are_secrets_of_the_agent_alone_and_lie_in_no_home(checkout: Path) -> None:
    found = _secrets(_agents(checkout))
    assert found == {
        path: {
            "owner": "ada",
            "mode": "0400",
            "key": path,
            "path": f"/run/secrets/{path}",
            "sopsFile": str(checkout / "secrets/agents.yaml"),
        }
        for path in ("ada/gpg-key", "ada/ssh-key")
    }


def test_a_path_that_the_configuration_names_is_a_secret_before_gen_ran(checkout: Path) -> None:
    found = _secrets(_agents(checkout, 'nuketown.agents.vox.secrets.sshKey = "vox/old";'))
    assert "vox/old" in found
    assert "vox/ssh-key" not in found


def test_a_secret_of_two_agents_is_one_for_each_of_them(checkout: Path) -> None:
    more = 'nuketown.agents.vox.secrets.extraSecrets.a = "shared/token";'
    found = _secrets(_agents(checkout, more, 'secrets.extraSecrets = { a = "shared/token"; b = "ada/own"; };'))
    assert {name: (one["owner"], one["key"]) for name, one in found.items() if "key" not in name.split("-")} == {
        "ada/own": ("ada", "ada/own"),
        "nuketown/ada/shared/token": ("ada", "shared/token"),
        "nuketown/vox/shared/token": ("vox", "shared/token"),
    }


def test_what_is_said_of_a_secret_elsewhere_stays(checkout: Path) -> None:
    found = _secrets(_agents(checkout, 'sops.secrets."ada/ssh-key".mode = "0440";'))
    assert (found["ada/ssh-key"]["mode"], found["ada/ssh-key"]["owner"]) == ("0440", "ada")


def test_the_default_file_of_sops_nix_is_that_of_the_agents(checkout: Path) -> None:
    other = checkout / "secrets/agents.yaml"
    modules = f"""[ {{
      nuketown = {{ enable = true; agents.ada = {{ enable = true; uid = 1100; }}; }};
      sops.defaultSopsFile = {other};
    }} ]"""
    assert evaluate(modules, "toString config.nuketown.sopsFile", needs=SOPS) == str(other)
    assert {one["sopsFile"] for one in _secrets(modules).values()} == {str(other)}
    assert evaluate(modules, "toString config.nuketown.identities", needs=SOPS) == str(checkout / "identities")


def test_the_same_keys_open_the_file_for_both(checkout: Path) -> None:
    more = 'sops.age = { keyFile = "/var/lib/s/key"; sshKeyPaths = [ "/etc/ssh/a" "/etc/ssh/b" ]; };'
    town = evaluate(_agents(checkout, more), "config.nuketown.build.town.town.host_key", needs=SOPS)
    assert (town["age"], town["ssh"], town["gnupg"]) == ("/var/lib/s/key", "/etc/ssh/a", None)
    own = 'nuketown.hostKey.age = "/own"; sops.gnupg = { home = "/root/g"; sshKeyPaths = [ ]; };'
    town = evaluate(_agents(checkout, f"{more} {own}"), "config.nuketown.build.town.town.host_key", needs=SOPS)
    assert (town["age"], town["gnupg"]) == ("/own", "/root/g")


def test_a_secret_that_sops_nix_would_write_into_a_home_is_refused_by_its_path(checkout: Path) -> None:
    into = 'sops.age.keyFile = "/k"; sops.secrets."ada/x".path = "/agents/ada/.ssh/x";'
    (failed,) = messages(_agents(checkout, into), needs=SOPS)[0]
    assert "/agents/ada/.ssh/x:" in failed
    beside = into.replace("/agents/", "/agents-of-mine/")
    assert messages(_agents(checkout, beside), needs=SOPS)[0] == []


def test_before_there_is_a_secrets_file_a_system_evaluates_and_has_no_secret() -> None:
    """seed-like.nix names a file of its checkout that is not there."""
    modules = f"[ {SEED_LIKE} ]"
    assert _secrets(modules) == {}
    failed, warnings = messages(modules, needs=SOPS)
    assert failed == []
    assert [one for one in warnings if "nix run .#identity -- gen ada vox" in one]


def test_without_any_file_sops_nix_is_asked_for_nothing() -> None:
    modules = '[ { nuketown = { enable = true; agents.ada = { enable = true; uid = 1; secrets.sshKey = "a/b"; }; }; } ]'
    assert _secrets(modules) == {}
