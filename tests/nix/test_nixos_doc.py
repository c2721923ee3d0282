"""docs/nixos.md: its snippets are Nix that the module accepts, and what it names is there."""

import json
import re
import textwrap

import pytest

from identity import cli as identity_cli
from persist import cli as persist_cli
from tests.nix import evaluated
from tests.nix.test_nix_style import CHECKOUT
from town import process

PAGE = (CHECKOUT / "docs/nixos.md").read_text()
_BLOCK = re.compile(r"^( *)```(\w+)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


def _blocks(language: str, begins: str = "") -> list[str]:
    found = [textwrap.dedent(text) for _, word, text in _BLOCK.findall(PAGE) if word == language]
    return [text for text in found if text.startswith(begins)]


MODULES = _blocks("nix", "# configuration.nix\n")
FLAKES = _blocks("nix", "# flake.nix\n")


def test_every_snippet_is_a_configuration_or_a_flake() -> None:
    assert len(MODULES) >= 5
    assert sorted([*MODULES, *FLAKES]) == sorted(_blocks("nix"))


@pytest.mark.parametrize("number", range(len([*MODULES, *FLAKES])))
def test_the_snippet_parses(number: int) -> None:
    text = [*MODULES, *FLAKES][number]
    done = process.run(["nix-instantiate", "--parse", "-E", text], env={"HOME": "/nonexistent"}, check=False)
    assert done.status == 0, done.err.decode()


def test_two_agents_take_ten_lines() -> None:
    first = MODULES[0].splitlines()[1:]
    assert len(first) <= 10
    assert sum("enable = true; uid" in line for line in first) == 2


@pytest.mark.parametrize("number", range(len(MODULES)))
def test_the_module_accepts_the_snippet_on_top_of_the_first(number: int) -> None:
    modules = " ".join(f"({text})" for text in dict.fromkeys([MODULES[0], MODULES[number]]))
    failed, _ = evaluated.messages(f"[ {CHECKOUT}/nix/checks/machine.nix {modules} ]")
    assert failed == []


def test_a_first_build_warns_with_the_command_that_makes_the_keys() -> None:
    _, warnings = evaluated.messages(f"[ {CHECKOUT}/nix/checks/machine.nix ({MODULES[0]}) ]")
    assert any("nix run .#identity -- gen ada vox" in found for found in warnings)


def test_the_flake_has_the_program_and_the_machine() -> None:
    lib = evaluated.source("NIXPKGS_LIB")
    asked = f"""
      let
        outputs = ({FLAKES[0]}).outputs {{
          nixpkgs.lib.nixosSystem = given: given.modules;
          nuketown = {{ apps.x86_64-linux.identity = "it"; nixosModules.default = "the module"; }};
        }};
        lib = import ({lib} + "/lib");
      in
      [ outputs.apps.x86_64-linux.identity (lib.head outputs.nixosConfigurations.signi) ]
    """
    assert json.loads(evaluated.instantiate(asked).out) == ["it", "the module"]


def test_every_option_that_is_named_is_an_option() -> None:
    options = (CHECKOUT / "docs/options.md").read_text()
    known = {name.removeprefix("nuketown.") for name in re.findall(r"^### `(nuketown\.[^`]+)`$", options, re.MULTILINE)}
    known |= {name.rpartition(".")[0] for name in known}
    rows = re.findall(r"^\| ((?:no )?`[^|]+) \|", PAGE.partition("## What each option costs")[2], re.MULTILINE)
    named = [re.sub(r" = .*|\.\*$", "", name) for row in rows for name in re.findall(r"`([^`]+)`", row)]
    assert len(named) > 12
    assert [name for name in named if name.replace("NAME", "<name>") not in known | _below_agents(known)] == []


def _below_agents(known: set[str]) -> set[str]:
    """Options of an agent, which a row may name without the agent once the row has named one."""
    return {name.removeprefix("agents.<name>.") for name in known}


def test_every_command_that_is_named_has_that_verb() -> None:
    verbs = {
        "persist": set(_verbs(persist_cli.parser().format_help())),
        "identity": set(_verbs(identity_cli.parser().format_help())),
    }
    named = re.findall(r"(?:^|[\s`/])(persist|identity)(?: -- | --spec \S+ | )([a-z]+)", _commands())
    assert len(named) > 15
    assert [(program, verb) for program, verb in named if verb not in verbs[program]] == []


def _verbs(text: str) -> list[str]:
    return re.findall(r"^ {4}([a-z]+)", text, re.MULTILINE)


def _commands() -> str:
    code = re.findall(r"`([^`\n]*)`", _BLOCK.sub("", PAGE))
    return "\n".join([*(found.replace("nix run .#identity", "identity") for found in code), *_blocks("sh")])


def test_every_page_that_is_linked_is_there() -> None:
    for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", PAGE):
        assert (CHECKOUT / "docs" / link).is_file(), link


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ('nuketown.btrfsDevice = "LABEL=a"; boot.initrd.systemd.enable = false;', "boot.initrd.systemd.enable"),
        ('nuketown.agents.ada.claudeCode = { enable = true; settings.permissions.defaultMode = "allowEdits"; };',
         "acceptEdits"),
        ('nuketown.btrfsDevice = "LABEL=a"; boot.initrd.systemd.enable = true;'
         ' fileSystems."/agents" = { device = "/dev/sdb"; fsType = "btrfs"; };', "/agents"),
        ("nuketown.agents.vox.uid = lib.mkForce 1100;", "1100"),
        ('nuketown.agents.ada.persist = [ "../vox" ];', "../vox"),
        ("nuketown.storeCredentials = ./flake.nix;", "storeCredentials"),
    ],
)  # fmt: skip
def test_what_the_page_says_is_refused_is_refused(more: str, says: str) -> None:
    failed, _ = evaluated.messages(f"[ {CHECKOUT}/nix/checks/machine.nix ({MODULES[0]}) {{ {more} }} ]")
    assert any(says in found for found in failed)
