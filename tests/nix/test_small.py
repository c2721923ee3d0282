"""A system that declares little, and an evaluation that has nothing to say."""

import json

import pytest

from tests.nix.evaluated import CHECKOUT, expression, instantiate, source

TOWNS = {
    "plain": "",
    "btrfs": 'btrfsDevice = "38b243a0-c875-4758-8998-cc6c6a4c451e";',
    "much": """
      humanUser = "josh"; store = "s3://agents"; storeCredentials = "/run/secrets/s3";
      agents.ada.devices = [ { subsystem = "tty"; attrs.idVendor = "0483"; } ];
      agents.ada.claudeCode.enable = true; agents.ada.persist = [ "projects" ".claude" ];
    """,
}
_ASK = """{
  failed = map (one: one.message) (builtins.filter (one: !one.assertion) config.assertions);
  inherit (config.nuketown.build) townText;
  inherit (config.users.users.ada) uid home createHome;
  rules = builtins.attrNames config.security.pam.services.login.rules.account;
  wants = config.systemd.targets.multi-user.wants;
  etc = builtins.attrNames config.environment.etc;
}"""


def _given(keys: str) -> str:
    least = "nuketown.enable = true; nuketown.agents.ada = { enable = true; uid = 1100; };"
    return f"{least} }} {{ nuketown = {{ {keys} }};"


@pytest.mark.parametrize("keys", TOWNS.values(), ids=TOWNS)
def test_it_evaluates_where_the_system_declares_little(keys: str) -> None:
    modules = f"[ {CHECKOUT}/nix/module.nix {{ {_given(keys)} }} {{ security.pam.services.login = {{ }}; }} ]"
    made = f"import {CHECKOUT}/tests/nix/small.nix {{ nixpkgsLib = {source('NIXPKGS_LIB')}; modules = {modules}; }}"
    done = instantiate(f"let inherit ({made}) config; in {_ASK}", check=False)
    assert done.status == 0, done.err.decode()
    found = json.loads(done.out)
    assert found["failed"] == []
    assert (found["uid"], found["home"], found["createHome"]) == (1100, "/agents/ada", False)
    assert found["rules"] == ["nuketown-agent", "nuketown-open"]
    assert "nuketown-agent@ada.target" in found["wants"]
    assert set(found["etc"]) >= {"nuketown/agents", "nuketown/town.toml"}
    assert "[agents.ada]\n" in found["townText"]


@pytest.mark.parametrize("keys", TOWNS.values(), ids=TOWNS)
def test_an_evaluation_says_nothing_besides(keys: str) -> None:
    """Such as that a function of nixpkgs is not to be used any longer."""
    ask = "{ said = map (one: one.assertion) config.assertions; inherit (config) warnings fileSystems; }"
    done = instantiate(expression(f"[ {{ {_given(keys)} }} ]", ask), check=False)
    assert (done.status, done.err.decode()) == (0, "")
