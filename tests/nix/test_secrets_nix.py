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


def test_of_several_ssh_keys_the_one_that_age_can_use_is_taken(checkout: Path) -> None:
    ask = "config.nuketown.build.town.town.host_key.ssh"
    keys = 'sops.age.sshKeyPaths = [ "/etc/ssh/ssh_host_rsa_key" "/etc/ssh/ssh_host_ed25519_key" ];'
    assert evaluate(_agents(checkout, keys), ask, needs=SOPS) == "/etc/ssh/ssh_host_ed25519_key"


def test_a_machine_whose_secrets_only_gpg_opens_by_an_ssh_key_is_told_that_agents_get_none(checkout: Path) -> None:
    only = 'sops = { age.sshKeyPaths = [ ]; gnupg.sshKeyPaths = [ "/etc/ssh/ssh_host_rsa_key" ]; };'

    def told(more: str) -> list[str]:
        return [one for one in messages(_agents(checkout, more), needs=SOPS)[1] if "gnupg.sshKeyPaths" in one]

    (warning,) = told(only)
    assert "`identity host init`" in warning
    assert told(f'{only} nuketown.hostKey.age = "/var/lib/nuketown/age.key";') == []
    assert told('sops = { age.keyFile = "/k"; gnupg.sshKeyPaths = [ "/etc/ssh/ssh_host_rsa_key" ]; };') == []


def test_secrets_of_what_is_not_carried_out_yet_are_there_for_other_services(checkout: Path) -> None:
    later = """daemon.apiKeySecret = "ada/api"; xmpp.passwordSecret = "ada/xmpp";
      daemon.mail.passwordSecret = "ada/mail"; daemon.mail.enable = {};"""
    off, on = (_secrets(_agents(checkout, agents=later.format(said))) for said in ("false", "true"))
    assert off.keys() - {"ada/ssh-key", "ada/gpg-key"} == {"ada/api", "ada/xmpp"}
    assert on.keys() - off.keys() == {"ada/mail"}
    assert (on["ada/mail"]["owner"], on["ada/mail"]["path"]) == ("ada", "/run/secrets/ada/mail")


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


def test_sops_nix_is_left_alone_where_the_configuration_says_so(checkout: Path) -> None:
    more = 'nuketown.sopsSecrets = false; nuketown.agents.vox.secrets.extraSecrets.a = "vox/token";'
    modules = _agents(checkout, f'{more} sops.secrets.mine.sopsFile = /mine.yaml; sops.age.keyFile = "/k";')
    assert list(_secrets(modules)) == ["mine"]
    town = evaluate(modules, "config.nuketown.build.town", needs=SOPS)
    assert town["agents"]["vox"]["secrets"]["extra"] == {"a": "vox/token"}
    assert town["town"]["host_key"]["age"] == "/k"


@pytest.mark.parametrize(
    ("said", "default"),
    [
        ("sops.secrets.wifi = { };", "/etc/human.yaml"),
        ('sops.secrets.wifi.owner = "josh";', "/etc/human.yaml"),
        ("sops.secrets.wifi.sopsFile = /etc/human.yaml;", "/etc/human.yaml"),
        ("sops.secrets.wifi = { };", "the agents'"),
        ("sops.secrets.wifi = lib.mkMerge [ { uid = 1000; } (lib.mkIf false { owner = null; }) ];", "the agents'"),
        ('sops.secrets = lib.mkMerge [ { wifi.restartUnits = [ "a.service" ]; } ];', None),
    ],
)
def test_a_secret_of_the_persons_does_not_become_an_agents(checkout: Path, said: str, default: str | None) -> None:
    given = 'secrets.extraSecrets.w = "wifi";'
    file = f"{checkout}/secrets/agents.yaml" if default == "the agents'" else default
    begins = "" if file is None else f'sops.defaultSopsFile = "{file}";'
    modules = f"({_agents(checkout, begins, given)} ++ [ ({{ lib, ... }}: {{ {said} }}) ])"
    (failed,) = [one for one in messages(modules, needs=SOPS)[0] if "sops.secrets has wifi," in one]
    assert f"same path of {checkout}/secrets/agents.yaml" in " ".join(failed.split())
    assert not [one for one in messages(_agents(checkout, begins, given), needs=SOPS)[0] if "sops.secrets" in one]


@pytest.mark.parametrize(
    ("said", "default"),
    [
        ('sops.secrets.wifi = { owner = "josh"; sopsFile = "/etc/human.yaml"; };', "/etc/human.yaml"),
        ('sops.secrets.wifi = lib.mkIf true { owner = "josh"; };', "the agents'"),
        ("sops.secrets.wifi = lib.mkIf false { };", "/etc/human.yaml"),
        ("sops.secrets.wifi = lib.mkForce { };", "/etc/human.yaml"),
        ("sops.secrets = lib.mkForce { wifi = { }; };", "/etc/human.yaml"),
        ("nuketown.sopsSecrets = false; sops.secrets.wifi = { };", "/etc/human.yaml"),
        ('sops.secrets."ada/ssh-key".mode = "0440";', "/etc/human.yaml"),
    ],
)
def test_a_secret_whose_owner_and_file_are_said_stays_the_persons(checkout: Path, said: str, default: str) -> None:
    file = f"{checkout}/secrets/agents.yaml" if default == "the agents'" else default
    begins = f'sops.defaultSopsFile = "{file}"; sops.age.keyFile = "/k";'
    agents = _agents(checkout, begins, 'secrets.extraSecrets.w = "wifi";')
    modules = f"({agents} ++ [ ({{ lib, ... }}: {{ {said} }}) ])"
    assert messages(modules, needs=SOPS)[0] == []
    if "josh" in said:
        wifi = _secrets(modules)["wifi"]
        assert (wifi["owner"], wifi["sopsFile"]) == ("josh", file)


@pytest.mark.parametrize(
    "path",
    [
        "/persist/agents/ada/projects/token",
        "/persist//agents/./ada/t",
        "/persist/.nuketown/t",
        "/agents",
        "/etc/../agents/ada/t",
    ],
)
def test_a_secret_is_written_nowhere_where_agents_write(checkout: Path, path: str) -> None:
    into = f'sops.age.keyFile = "/k"; sops.secrets."ada/x".path = "{path}";'
    (failed,) = messages(_agents(checkout, into), needs=SOPS)[0]
    assert f"have the path {path}:" in failed
    elsewhere = f'{into} nuketown.agentsDir = "/homes"; nuketown.persistDir = "/kept";'
    assert messages(_agents(checkout, elsewhere), needs=SOPS)[0] == []
