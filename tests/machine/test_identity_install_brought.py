"""install leaves what sops-nix and home-manager bring, and brings secrets as files and variables in memory."""

import os
import shutil

import pytest

from tests.machine.homeinstalls import Town, argv, env, made, respell, script, town, wrote
from town.process import run

pytestmark = pytest.mark.root
__all__ = ["made", "town"]  # fixtures


def test_what_the_spec_says_that_others_bring_is_left_to_them(town: Town) -> None:
    respell(town, "uid = 41100", 'uid = 41100\ndelivered = [".ssh", ".gnupg", ".config/git/config", ".claude"]')
    wrote(town.home("ada") / ".config/git/config", "[user]\nname = home-manager\n")
    wrote(town.home("ada") / ".ssh/id_ed25519", "theirs")
    done = town.identity("install", "ada")
    assert done.status == 0
    assert b"note: ada: .config/git/config is brought by others" in done.err
    assert b"warning: ada: .gnupg is left to others who bring it, and is not there" in done.err
    assert (town.home("ada") / ".config/git/config").read_text() == "[user]\nname = home-manager\n"
    assert {path.name for path in (town.home("ada") / ".ssh").iterdir()} == {"id_ed25519"}
    assert (town.home("ada") / ".ssh/id_ed25519").read_text() == "theirs"
    assert not (town.home("ada") / ".claude").exists()
    assert not (town.home("ada") / ".gnupg").exists()
    assert (town.home("ada") / ".config/nuketown/identity.toml").exists()


def test_what_others_bring_from_now_on_is_not_taken_away(town: Town) -> None:
    town.installed()
    respell(town, "uid = 41100", 'uid = 41100\ndelivered = [".config/git"]')
    assert town.identity("install", "ada").status == 0
    assert (town.home("ada") / ".config/git/config").exists()
    respell(town, 'delivered = [".config/git"]', "")
    (town.home("ada") / ".config/git/config").write_text("theirs")
    done = town.identity("install", "ada")
    assert b".config/git/config was not as the spec has it: no record says that it was installed so" in done.err


def test_an_agent_of_whom_others_bring_every_secret_needs_no_key_here(town: Town) -> None:
    (town.root / "host.key").unlink()
    respell(town, "uid = 41101", 'uid = 41101\ndelivered = [".ssh/id_ed25519"]')
    wrote(town.home("vox") / ".ssh/id_ed25519", "theirs")
    run(["chown", "-R", "41101:41101", town.home("vox")])
    done = town.identity("install", "vox")
    assert done.status == 0, done
    public = (town.root / "identities/vox/ssh.pub").read_text()
    assert (town.home("vox") / ".ssh/id_ed25519.pub").read_text() == public


LINKS = """
    mkdir -p /run/secrets.d/1/ada /run/secrets; cd /run/secrets.d/1/ada
    cp {key} ssh-key; cp {key} other
    echo more >>/run/secrets.d/1/ada/other
    chown -R 41100:41100 /run/secrets.d/1/ada; chmod 400 /run/secrets.d/1/ada/*
    rmdir /run/secrets; ln -s /run/secrets.d/1 /run/secrets
    ln -sfn /run/secrets/ada/{name} {home}/.ssh/id_ed25519
    "$@" install ada; readlink {home}/.ssh/id_ed25519
"""


def test_a_link_of_sops_nix_to_what_belongs_there_is_left(town: Town) -> None:
    town.installed()
    home, key = town.home("ada"), town.root / "key"
    shutil.copy(home / ".ssh/id_ed25519", key)
    done = script(town, LINKS.format(key=key, home=home, name="ssh-key"))
    assert done.out.endswith(b"\n/run/secrets/ada/ssh-key\n")
    assert b"note: ada: .ssh/id_ed25519 is brought by others (a link to /run/secrets/ada/ssh-key)" in done.err


def test_a_link_to_anything_else_is_replaced_and_the_key_of_the_spec_is_named(town: Town) -> None:
    town.installed()
    home, key = town.home("ada"), town.root / "key"
    shutil.copy(home / ".ssh/id_ed25519", key)
    done = script(town, LINKS.format(key=key, home=home, name="other"), check=False)
    assert b"ada: rewritten .ssh/id_ed25519\n" in done.out
    assert b'agents.ada.delivered = [".ssh/id_ed25519"]' in done.err
    assert (home / ".ssh/id_ed25519").read_bytes() == key.read_bytes()
    assert not (home / ".ssh/id_ed25519").is_symlink()


def test_a_link_of_the_agents_to_a_copy_of_its_own_is_replaced(town: Town) -> None:
    town.installed()
    config = town.home("ada") / ".config/git/config"
    config.rename(config.with_name("copy"))
    config.symlink_to(f"/nix/store/../../{config.with_name('copy')}")
    done = town.identity("install", "ada")
    assert b"ada: rewritten .config/git/config\n" in done.out
    assert b"delivered" not in done.err
    assert not config.is_symlink()


def test_a_link_that_leaves_where_only_root_writes_is_replaced(town: Town) -> None:
    town.installed()
    config = town.home("ada") / ".config/git/config"
    text = f"""
        mkdir /run/secrets; mv {config} {config}.copy
        ln -s {config}.copy /run/secrets/out; ln -s /run/secrets/out {config}
        "$@" install ada
    """
    assert b"ada: rewritten .config/git/config\n" in script(town, text).out
    assert not config.is_symlink()


def test_a_profile_that_is_a_link_of_home_manager_stays(town: Town) -> None:
    (town.home("ada") / ".profile").symlink_to("/nix/store/none")
    assert town.identity("install", "ada").status == 0
    assert os.readlink(town.home("ada") / ".profile") == "/nix/store/none"


def test_an_extra_secret_that_sops_nix_puts_there_is_left_and_is_the_variable_too(town: Town) -> None:
    text = """
        mkdir -p /run/secrets /run/nuketown; mount -t tmpfs -o mode=755 none /run/nuketown
        mkdir -p /run/nuketown/secrets/ada
        printf 'of "nix"' >/run/secrets/token; ln -s /run/secrets/token /run/nuketown/secrets/ada/token
        "$@" install ada >/dev/null; readlink /run/nuketown/secrets/ada/token
        cat /run/nuketown/secrets/ada/.environment
    """
    done = script(town, text)
    assert done.out == b'/run/secrets/token\nTOKEN="of \\"nix\\""\n'
    assert b"is brought by others (a link to /run/secrets/token)" in done.err


def test_a_value_that_no_variable_can_have_fails_alone(town: Town) -> None:
    opens = env() | {"SOPS_AGE_KEY_FILE": str(town.root / "host.key")}
    run([*argv(town.spec), "secret", "set", "ada", "token"], env=opens, feed=b"x" * 200_000)
    done = script(town, '"$@" install ada; echo $?; wc -c </run/nuketown/secrets/ada/token', check=False)
    assert done.out.endswith(b"1\n200000\n")
    assert b"TOKEN would have 200,000 bytes, with which no program starts" in done.err
    assert (town.home("ada") / ".ssh/id_ed25519").exists()


def test_services_of_the_agents_systemd_read_the_variables_from_memory(town: Town) -> None:
    town.installed()
    drop_in = (town.home("ada") / ".config/systemd/user/service.d/50-nuketown.conf").read_text()
    assert "EnvironmentFile=-/run/nuketown/secrets/ada/.environment\n" in drop_in
    assert not (town.home("vox") / ".config/systemd").exists()


def test_secrets_that_the_spec_no_longer_has_are_taken_away(town: Town) -> None:
    kept, spec = town.root / "kept.toml", town.spec.read_text()
    kept.write_text(spec.replace('extra = { token = "ada/token" }, env = { TOKEN = "token" }', "extra = {}"))
    gone = town.root / "gone.toml"
    gone.write_text(spec[: spec.index("[agents.ada]")] + spec[spec.index("[agents.vox]") :])
    text = f"""
        mkdir /run/nuketown; mount -t tmpfs -o mode=755 none /run/nuketown
        "$@" install >/dev/null; ls -A /run/nuketown/secrets/ada; mkdir /run/nuketown/secrets/eve
        "$@" install --dry-run; "$@" --spec {kept} install; ls -A /run/nuketown/secrets/ada
        "$@" install >/dev/null; "$@" --spec {gone} install; ls -A /run/nuketown/secrets
    """
    done = script(town, text)
    assert b".environment\ntoken\nwould be removed /run/nuketown/secrets/eve\n" in done.out
    assert b"ada: removed /run/nuketown/secrets/ada/token\n" in done.out
    assert b"\nremoved /run/nuketown/secrets/eve\n" in done.out
    assert done.out.endswith(b"removed /run/nuketown/secrets/ada\n")
