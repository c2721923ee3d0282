"""`nix run .#identity`: the shell program with the real evaluator on a flake of its own, and the real `identity`."""

import json
import os
import re
import shutil
import sys
from pathlib import Path

import pytest
from pyrage import x25519

from tests.nix.flaketown import CHECKOUT, SCRIPT, Town
from town import process


@pytest.fixture
def town(tmp_path: Path) -> Town:
    return Town(tmp_path)


def test_gen_evaluates_the_flake_and_writes_into_its_checkout(town: Town) -> None:
    town.write("./secrets/agents.yaml")
    done = town.run("--host", "signi", "gen", "ada")
    assert done.returncode == 0, done.stderr
    assert (town.top / "identities/ada/ssh.pub").read_text().endswith(" ada@signi.local\n")
    assert "ENC[AES256_GCM" in (town.top / "secrets/agents.yaml").read_text()
    assert not list(town.private.iterdir()), "the spec was left behind"


def test_gen_says_what_to_commit_and_a_second_one_does_not(town: Town) -> None:
    town.write("./secrets/agents.yaml")
    said = town.run("gen", "ada").stderr
    assert "identities/ada/ssh.pub" in said
    assert f"git -C {town.top} add -- identities secrets/agents.yaml" in said
    town.commit()
    again = town.run("gen", "ada")
    assert (again.returncode, again.stdout) == (0, "nothing to do\n")
    assert "commit" not in again.stderr


def test_the_next_evaluation_sees_what_was_committed(town: Town) -> None:
    town.write("./secrets/agents.yaml")
    town.run("gen", "ada")
    town.write("./secrets/agents.yaml", identities="./identities")
    assert town.run("gen", "ada").stdout == "nothing to do\n"


def test_of_a_flake_below_the_top_of_its_checkout_the_files_lie_beside_its_secrets(tmp_path: Path) -> None:
    town = Town(tmp_path, "nixos")
    (town.flake / "hosts/signi").mkdir(parents=True)
    town.write("./hosts/signi/secrets/agents.yaml")
    done = town.run("gen", "--all")
    assert done.returncode == 0, done.stderr
    assert (town.top / "nixos/hosts/signi/identities/ada/ssh.pub").is_file()
    assert "hosts/signi add -- identities secrets/agents.yaml" in done.stderr


def test_without_a_secrets_file_in_the_configuration_the_files_lie_beside_the_flake(tmp_path: Path) -> None:
    town = Town(tmp_path, "nixos")
    town.write("null")
    done = town.run("gen", "--all")
    assert done.returncode == 0, done.stderr
    assert (town.flake / "secrets/agents.yaml").is_file()
    assert "nixos add -- identities secrets/agents.yaml" in done.stderr


def test_a_secrets_file_beside_the_flake_needs_to_be_told_where_the_public_keys_are(town: Town) -> None:
    town.write("./agents.yaml")
    done = town.run("gen", "ada")
    assert done.returncode == 1
    assert "nuketown.identities = ./identities" in done.stderr
    town.write("./agents.yaml", identities="./identities")
    assert town.run("gen", "ada").returncode == 0
    assert (town.top / "agents.yaml").is_file()
    assert (town.top / "identities/ada/ssh.pub").is_file()


def test_other_verbs_get_the_checkout_and_standard_input_too(town: Town) -> None:
    town.write("./secrets/agents.yaml")
    town.run("gen", "ada")
    done = town.run("secret", "set", "ada", "token", feed="hunter2")
    assert done.returncode == 0, done.stderr
    assert "token" in (town.top / "secrets/agents.yaml").read_text()


def test_a_recipient_is_not_added_to_a_spec_that_goes_away(town: Town) -> None:
    town.write("./secrets/agents.yaml")
    town.run("gen", "ada")
    other = str(x25519.Identity.generate().to_public())
    done = town.run("recipients", "add", "--human", other)
    assert done.returncode == 1
    assert "is generated: its first lines say so" in done.stderr
    assert other in done.stdout + done.stderr
    assert "and then: nix run .#identity -- recipients sync\n" in done.stderr


def test_hints_name_what_can_be_typed_when_the_spec_is_gone(town: Town) -> None:
    town.write("./secrets/agents.yaml")
    assert "keys yet: nix run .#identity -- gen ada\n" in town.run("show", "ada").stderr
    words = ["--flake", f"{town.flake}/.", "--host=signi"]
    said = town.run(*words, "show", "ada", cwd=Path("/")).stderr
    assert f"keys yet: nix run {town.flake}#identity -- --flake {town.flake} --host signi gen ada\n" in said
    found = json.loads(town.run("check", "--json").stdout)
    cures = [one["cure"] for one in found["findings"] if "identity" in one["cure"]]
    assert cures
    assert [cure for cure in cures if "nix run .#identity -- " not in cure or str(town.private) in cure] == []


def test_standard_input_is_for_identity_alone(town: Town) -> None:
    town.write("./secrets/agents.yaml")
    town.run("gen", "ada")
    programs = town.top.parent / "bin"
    programs.mkdir()
    everything = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    greedy = f'#!/bin/sh\ncat >{programs}/eaten\nexec {shutil.which("nix", path=everything)} "$@"\n'
    (programs / "nix").write_text(greedy)
    (programs / "nix").chmod(0o755)
    done = town.run("secret", "set", "ada", "token", feed="hunter2", path=f"{programs}:{everything}")
    assert done.returncode == 0, done.stderr
    assert (programs / "eaten").read_text() == ""


@pytest.mark.parametrize("link", ["secrets", "secrets/agents.yaml", "secrets/recovery.yaml", "identities"])
def test_a_link_that_was_committed_leads_nothing_out_of_its_place(town: Town, link: str) -> None:
    (town.top / link).parent.mkdir(exist_ok=True)
    elsewhere = town.top.parent / "else"
    elsewhere.mkdir()
    (town.top / link).symlink_to(os.path.relpath(elsewhere, (town.top / link).parent))
    town.write("./secrets/agents.yaml")
    done = town.run("gen", "ada")
    assert done.returncode == 1
    assert f"{town.top}/{link} is a symbolic link" in done.stderr
    assert list(elsewhere.iterdir()) == []


def test_of_a_flake_below_the_top_no_directory_on_the_way_is_a_link(tmp_path: Path) -> None:
    town = Town(tmp_path, "nixos")
    (town.flake / "hosts").symlink_to("../other")
    (town.top / "other/signi").mkdir(parents=True)
    town.write("./hosts/signi/secrets/agents.yaml")
    assert f"{town.flake}/hosts is a symbolic link" in town.run("gen", "ada").stderr
    assert list((town.top / "other/signi").iterdir()) == []


@pytest.mark.parametrize("path", ["/../x/secrets/agents.yaml", "/./secrets/agents.yaml", "/a/../../../s/agents.yaml"])
def test_a_path_that_leads_out_of_the_checkout_is_refused(town: Town, path: str) -> None:
    town.write(f'"${{./.}}{path}"')
    done = town.run("gen", "ada")
    assert done.returncode == 1
    assert "leads to another place than it names" in done.stderr
    assert not (town.top.parent / "x").exists()


@pytest.mark.root
def test_what_git_says_of_somebody_elses_checkout_is_shown(town: Town) -> None:
    town.write("./secrets/agents.yaml")
    for path in (town.top, *town.top.rglob("*")):
        os.chown(path, 1234, 1234, follow_symlinks=False)
    done = town.run("gen", "ada")
    assert done.returncode == 1
    assert "safe.directory" in done.stderr
    assert "git init" not in done.stderr
    assert f"git does not work in {town.flake}" in done.stderr


@pytest.mark.root
def test_the_key_of_this_machine_is_no_file_of_the_checkout(town: Town) -> None:
    town.write("./secrets/agents.yaml")
    done = town.run("host", "init", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert str(town.host_key) in done.stdout + done.stderr


def test_a_status_of_identity_is_that_of_the_program(town: Town) -> None:
    town.write("./secrets/agents.yaml")
    assert town.run("gen").returncode == 2
    assert town.run("check").returncode == 4


def test_the_only_configuration_is_taken_and_named(town: Town) -> None:
    town.write("./secrets/agents.yaml")
    assert "note: for signi, the only configuration" in town.run("show", "ada").stderr


def test_of_several_configurations_none_is_guessed(town: Town) -> None:
    town.write("./secrets/agents.yaml", more="second.config = { };")
    done = town.run("gen", "ada")
    assert done.returncode == 1
    assert "--host NAME, one of: second signi" in done.stderr


def test_a_configuration_without_nuketown_is_named_with_the_cure(town: Town) -> None:
    town.write("./secrets/agents.yaml", more="plain.config.nuketown = { sopsFile = null; identities = null; };")
    done = town.run("--host=plain", "gen", "ada")
    assert done.returncode == 1
    assert "nuketown.enable = true" in done.stderr


def test_a_flake_that_is_in_no_checkout_is_refused(tmp_path: Path) -> None:
    (tmp_path / "flake.nix").write_text("{ }")
    done = Town(tmp_path / "other").run("gen", "ada", cwd=tmp_path)
    assert done.returncode == 1
    assert "is in no git checkout" in done.stderr
    assert f"git -C {tmp_path} init" in done.stderr


def test_what_is_no_directory_is_named_as_it_was_given(town: Town) -> None:
    assert "error: /nope is no directory" in town.run("--flake", "/nope", "gen").stderr
    assert "error: nope/x is no directory" in town.run("--flake=nope/x", "gen").stderr


def test_a_secrets_file_that_was_copied_by_itself_is_refused_with_the_cure(town: Town) -> None:
    town.write('"${./flake.nix}"')
    done = town.run("gen", "ada")
    assert done.returncode == 1
    assert "sopsFile = ./secrets/agents.yaml" in done.stderr


def test_secrets_and_identities_in_two_places_are_refused(town: Town) -> None:
    town.write("./secrets/agents.yaml", identities="./hosts/identities")
    done = town.run("gen", "ada")
    assert done.returncode == 1
    assert "both must lie in one directory" in done.stderr


@pytest.mark.parametrize(
    "words", [["--host"], ["--verbose"], [], ["--flake", "/nonexistent", "gen"], ["--host", "a b", "gen"]]
)
def test_wrong_words_are_told_before_anything_is_evaluated(town: Town, words: list[str]) -> None:
    (town.flake / "flake.nix").write_text("not Nix")
    done = town.run(*words)
    assert done.returncode == 2
    assert "hint: " in done.stderr


def test_shellcheck_finds_nothing_in_the_program_as_it_is_built() -> None:
    header = "#!/bin/bash\nset -o errexit -o nounset -o pipefail\n\nNUKETOWN_CHECKOUT=/nix/store/checkout.nix\n"
    done = process.run(["shellcheck", "-"], feed=header.encode() + SCRIPT.read_bytes(), check=False)
    assert done.status == 0, done.out.decode()


def test_what_the_program_calls_is_on_its_path_but_for_nix(town: Town) -> None:
    app = (CHECKOUT / "nix/app.nix").read_text()
    provided = {
        "coreutils": ["cat", "mktemp", "rm", "uname", "wc"],
        "git": ["git"],
        "gnugrep": ["grep"],
        "gnused": ["sed"],
        "nuketown": ["identity"],
    }
    assert re.findall(r"[a-z]+", app.partition("runtimeInputs = [")[2].partition("]")[0]) == sorted(provided)
    town.write("./secrets/agents.yaml")
    programs = town.top.parent / "bin"
    programs.mkdir()
    everything = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    for name in ["bash", "nix", *(name for names in provided.values() for name in names)]:
        (programs / name).symlink_to(shutil.which(name, path=everything) or name)
    for words in (["gen", "--all"], ["--help"]):
        done = town.run(*words, path=str(programs))
        assert done.returncode == 0, done.stderr
        assert "not found" not in done.stderr
