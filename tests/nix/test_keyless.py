"""A configuration without a secrets file, or before its keys are made: what is said, and what its agents have."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from identity.gitconfig import git_config
from identity.halves import Halves
from tests.machine.homeinstalls import Town
from tests.nix.evaluated import evaluate, messages
from town import spec as specs
from town.process import run

HM = ("HOME_MANAGER",)
GEN = "`nix run .#identity -- gen ada vox`, then"
_TOWN = """{
  nuketown = {
    enable = true;
    domain = "signi.local";
    agents.ada = { enable = true; uid = 41100; };
    agents.vox = {
      enable = true;
      uid = 41101;
      git = { signing = "ssh"; name = "Vo\\"x \\\\"; };
      persist = [
        "projects" ".hidden" "a/.b/c" "deep/work" { path = "models"; class = "cache"; } { path = "n"; type = "file"; }
        { path = ".claude"; preset = "claude-code"; } { path = "kept/codex"; preset = "codex"; }
      ];
    };
    agents.sam = { uid = 41102; };
  };
}"""
_HOMES = """{
  home-manager.useGlobalPkgs = true;
  nuketown.agents.ada.extraHomeConfig.programs.git.settings.alias.co = "checkout";
  nuketown.agents.sol = { enable = true; uid = 41103; git.signing = false; persist = [ ]; };
}"""
_GIT = """lib.mapAttrs (name: home: {
  inherit (home.xdg.configFile."git/config") force text;
}) config.home-manager.users"""


def test_the_warning_says_what_is_missing_and_what_to_do_in_its_order() -> None:
    failed, warnings = messages(f"[ {_TOWN} ]")
    assert failed == []
    (told,) = [one for one in warnings if "nuketown.sopsFile is null" in one]
    gen, _, rest = told.partition(GEN)
    assert "Commits of ada, vox are to be signed" in gen
    assert "cannot log in" not in gen
    assert rest == " set nuketown.sopsFile = ./secrets/agents.yaml, `git add` what that writes and build again."


def test_it_says_who_stays_out_for_a_secret_that_is_in_no_file() -> None:
    more = '{ nuketown.agents.ada.secrets.extraSecrets.token = "ada/token"; nuketown.agents.vox.git.signing = false; }'
    _, warnings = messages(f"[ ({{ lib, ... }}: lib.recursiveUpdate {_TOWN} {more}) ]")
    (told,) = [one for one in warnings if "nuketown.sopsFile is null" in one]
    assert "ada cannot log in: secrets.extraSecrets are in no file" in told
    assert "Commits of ada are to be signed" in told


def test_public_keys_without_a_secrets_file_are_no_keys(tmp_path: Path) -> None:
    for name in ("ada", "vox"):
        (tmp_path / "identities" / name).mkdir(parents=True)
        (tmp_path / "identities" / name / "identity.toml").write_text("")
    _, warnings = messages(f"[ {_TOWN} {{ nuketown.identities = {tmp_path}/identities; }} ]")
    (told,) = [one for one in warnings if "nuketown.sopsFile is null" in one]
    assert "Set nuketown.sopsFile = ./secrets/agents.yaml" in told
    assert "identity -- gen" not in told


def test_with_a_secrets_file_nothing_of_this_is_said_and_keys_are_delivered(tmp_path: Path) -> None:
    more = f"{{ nuketown.sopsFile = {tmp_path}/secrets/agents.yaml; }}"
    _, warnings = messages(f"[ {_TOWN} {more} ]")
    assert not [one for one in warnings if "sopsFile" in one]
    assert [one for one in warnings if GEN in one]
    assert evaluate(f"[ {_TOWN} {more} ]", "config.nuketown.agents.ada.delivered") == []


def test_a_directory_of_public_keys_that_is_not_there_yet_is_a_first_build(tmp_path: Path) -> None:
    more = f"{{ nuketown.identities = {tmp_path}/identities; nuketown.sopsFile = {tmp_path}/secrets/agents.yaml; }}"
    failed, warnings = messages(f"[ {_TOWN} {more} ]")
    assert failed == []
    assert [one for one in warnings if GEN in one]
    ask = """{
      etc = lib.filter (lib.hasInfix "identities") (lib.attrNames config.environment.etc);
      inherit (config.nuketown.build.documents) buildCommand;
    }"""
    found = evaluate(f"[ {_TOWN} {more} ]", ask)
    assert found["etc"] == []
    assert "identity" not in found["buildCommand"]


@pytest.fixture
def town(tmp_path: Path) -> Iterator[Town]:
    """Its spec as it is evaluated, with directories that are here."""
    made = tmp_path / "made"
    made.mkdir()
    text = evaluate(f"[ {_TOWN} ]", "config.nuketown.build.townText")
    root = Path(tempfile.mkdtemp(prefix="town-"))
    text = text.replace('"/agents"', f'"{root}/a"').replace('"/persist"', f'"{root}/p"')
    (made / "town.toml").write_text(text)
    yield Town(root, made)
    shutil.rmtree(root)


@pytest.mark.root
def test_its_agents_are_installed_all_the_same_and_their_accounts_may_be_opened(town: Town) -> None:
    done = town.identity("install")
    assert done.status == 0, done.err.decode()
    assert b".ssh/id_ed25519 is left to others" in done.err
    for name in ("ada", "vox"):
        assert (town.home(name) / "AGENTS.md").is_file()
        assert not (town.home(name) / ".ssh/id_ed25519").exists()
        assert (town.root / "run/nuketown/installed" / name).exists()


def _listed(text: str, tmp_path: Path) -> list[str]:
    """What git understands of a configuration, sorted. The order of values of one key stays."""
    (tmp_path / "config").write_text(text)
    done = run(["git", "config", "--list", "--file", tmp_path / "config"], env={"HOME": str(tmp_path)})
    return sorted(done.out.decode().splitlines(), key=lambda line: line.partition("=")[0])


def test_gits_configuration_is_there_before_the_keys_as_identity_would_write_it(tmp_path: Path) -> None:
    modules = f"[ {_TOWN} {_HOMES} ]"
    made = evaluate(modules, _GIT, needs=HM)
    spec = specs.parse(evaluate(modules, "config.nuketown.build.townText", needs=HM).encode(), Path("/etc/t"))
    usual = ["init.defaultbranch=master", "pull.rebase=true"]
    more = {
        "ada": ["alias.co=checkout"],
        "vox": ["user.signingkey=~/.ssh/id_ed25519.pub"],  # identity leaves it out while it has no public half
        "sol": [],
    }
    for name, said in more.items():
        agent = spec.agent(name)
        written = _listed(git_config(spec, agent, Halves(None), "x"), tmp_path)
        assert sorted(_listed(made[name]["text"], tmp_path)) == sorted([*written, *usual, *said])
        assert made[name]["force"] is True
        assert ".config/git/config" in map(str, agent.delivered)


def test_git_that_is_turned_off_leaves_a_configuration_of_ours(tmp_path: Path) -> None:
    off = "{ nuketown.agents.vox.extraHomeConfig.programs.git.enable = false; }"
    ask = 'config.home-manager.users.vox.home.file.".config/git/config".text'
    listed = _listed(evaluate(f"[ {_TOWN} {_HOMES} {off} ]", ask, needs=HM), tmp_path)
    assert "user.email=vox@signi.local" in listed
