"""install finds what opens the secrets; takes away what the spec no longer has; leaves what others bring."""

import json
import os
import shutil
import stat
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.machine.homeinstalls import ADA, Town, argv, env, made, respell, script, town, wrote
from town import sops
from town.failure import ToolFailed
from town.process import Done, run

pytestmark = pytest.mark.root
__all__ = ["made", "town"]  # fixtures


def _sealed_for(town: Town, recipient: str, *, gnupg: Path | None = None) -> None:
    """The secrets, for this recipient and nobody else."""
    file = town.root / "secrets/agents.yaml"
    tree = sops.load(file.read_bytes(), "agents.yaml", sops.Keys.of_age_file(town.root / "host.key")).tree
    file.write_bytes(sops.create(tree, [recipient], now=datetime.now(UTC), gnupg_home=gnupg))
    (town.root / "host.key").unlink()


def _as_ada(town: Town, *words: str) -> Done:
    return run([*words], env={"HOME": str(town.home("ada"))}, person=ADA, cwd=town.home("ada"), check=False)


def test_the_ssh_host_key_opens_the_secrets(town: Town) -> None:
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", town.root / "none"])
    _sealed_for(town, " ".join((town.root / "none.pub").read_text().split()[:2]))
    assert town.identity("install", "vox").status == 0
    assert (town.home("vox") / ".ssh/id_ed25519").exists()


def test_the_gnupg_home_that_the_spec_names_opens_the_secrets(town: Town) -> None:
    home = town.root / "gnupg"
    home.mkdir(mode=0o700)
    ask = [
        "gpg",
        "--homedir",
        home,
        "--batch",
        "--passphrase",
        "",
        "--quick-generate-key",
        "host",
        "rsa2048",
        "encrypt",
    ]
    run(ask)
    listed = run(["gpg", "--homedir", home, "--with-colons", "--list-keys"]).out.decode()
    (fingerprint, *_) = [line.split(":")[9] for line in listed.splitlines() if line.startswith("fpr")]
    _sealed_for(town, fingerprint, gnupg=home)
    run(["gpgconf", "--homedir", home, "--kill", "all"])
    assert town.identity("install", "vox").status == 1
    respell(town, f'ssh = "{town.root}/none"', f'ssh = "{town.root}/none", gnupg = "{home}"')
    assert town.identity("install", "vox").status == 0
    assert (town.home("vox") / ".ssh/id_ed25519").exists()


def test_systemd_hands_over_the_host_key_the_file_and_single_secrets_as_credentials(town: Town) -> None:
    given = town.root / "credentials"
    given.mkdir(mode=0o700)
    shutil.move(town.root / "host.key", given / "nuketown.host-key")
    shutil.move(town.root / "secrets/agents.yaml", given / "nuketown.secrets")
    (given / "nuketown.ada.token").write_text("given")
    for file in given.iterdir():
        file.chmod(0o400)
    text = f'CREDENTIALS_DIRECTORY={given} "$@" install >/dev/null && cat /run/nuketown/secrets/ada/token'
    assert script(town, text).out == b"given"
    assert (town.home("ada") / ".ssh/id_ed25519").exists()
    (given / "nuketown.host-key").chmod(0o444)
    done = script(town, f'CREDENTIALS_DIRECTORY={given} "$@" install', check=False)
    assert b"others can read the private key" in done.err


def test_an_ssh_key_as_credential_opens_the_secrets(town: Town) -> None:
    given = town.root / "credentials"
    given.mkdir(mode=0o700)
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", given / "nuketown.host-key"])
    _sealed_for(town, " ".join((given / "nuketown.host-key.pub").read_text().split()[:2]))
    script(town, f'CREDENTIALS_DIRECTORY={given} "$@" install vox')
    assert (town.home("vox") / ".ssh/id_ed25519").exists()


def test_without_a_key_it_is_said_once_and_what_is_public_is_installed_all_the_same(town: Town) -> None:
    (town.root / "host.key").unlink()
    done = town.identity("install")
    assert done.status == 1
    assert done.err.count(b"no key at hand opens") == 1
    for name in ("ada", "vox"):
        assert not (town.home(name) / ".ssh/id_ed25519").exists()
        assert (town.home(name) / ".config/git/config").exists()
        assert not (town.root / "run/nuketown/installed" / name).exists()


def test_a_key_without_a_value_fails_alone(town: Town) -> None:
    file = town.root / "secrets/agents.yaml"
    document = sops.load(file.read_bytes(), "agents.yaml", sops.Keys.of_age_file(town.root / "host.key"))
    del document.tree["ada"]["ssh-key"]
    recipients = list(document.recipients)
    file.write_bytes(sops.create(document.tree, recipients, now=datetime.now(UTC)))
    done = town.identity("install", "ada")
    assert done.status == 1
    assert b"secrets/agents.yaml has no value at ada/ssh-key" in done.err
    assert not (town.home("ada") / ".ssh/id_ed25519").exists()
    assert (town.home("ada") / ".gnupg/trustdb.gpg").exists()
    assert (town.home("ada") / ".claude/CLAUDE.md").exists()


def test_what_the_spec_no_longer_has_goes_where_it_is_as_installed_and_is_named_where_not(town: Town) -> None:
    respell(town, "prompts = {", 'prompts = { runtimes = ["claude-code", "codex", "gemini"],')
    town.installed()
    home = town.home("ada")
    (home / ".gemini/GEMINI.md").write_text("mine now")
    respell(town, 'runtimes = ["claude-code", "codex", "gemini"],', 'runtimes = ["claude-code"],')
    dry = town.identity("install", "ada", "--dry-run")
    assert b"ada: would be removed .codex/AGENTS.md\n" in dry.out
    assert (home / ".codex/AGENTS.md").exists()
    done = town.identity("install", "ada")
    assert done.status == 0
    assert b"ada: removed .codex/AGENTS.md\n" in done.out
    assert not (home / ".codex/AGENTS.md").exists()
    assert b"warning: ada: .gemini/GEMINI.md is not of the spec any more" in done.err
    assert (home / ".gemini/GEMINI.md").read_text() == "mine now"
    assert b".gemini/GEMINI.md is not of the spec any more" in town.identity("install", "ada").err
    (home / ".gemini/GEMINI.md").unlink()
    assert town.identity("install", "ada").err == b""


def test_nothing_is_taken_away_while_a_piece_cannot_be_had(town: Town) -> None:
    town.installed()
    (town.root / "host.key").rename(town.root / "away")
    assert town.identity("install", "ada").status == 1
    assert (town.home("ada") / ".ssh/id_ed25519").exists()
    (town.root / "away").rename(town.root / "host.key")
    assert town.identity("install", "ada").err == b""


def test_a_signing_subkey_that_the_spec_no_longer_has_leaves_the_keyring(town: Town) -> None:
    town.installed()
    private = town.home("ada") / ".gnupg/private-keys-v1.d"
    assert len(list(private.iterdir())) == 1
    respell(town, "uid = 41100", 'uid = 41100\ngit = { signing = "ssh" }')
    done = town.identity("install", "ada")
    assert b"ada: removed .gnupg\n" in done.out
    assert list(private.iterdir()) == []
    assert json.loads((town.root / "p/.nuketown/installed/ada.json").read_text())["gpg"] == []


def test_half_a_private_key_that_a_killed_run_left_goes(town: Town) -> None:
    left, other = (town.home("ada") / ".ssh" / name for name in (".id_ed25519.0123456789ab.new", ".id_ed25519.new"))
    for path in (left, other):
        wrote(path, "half")
    town.installed()
    assert not left.exists()
    assert other.exists()


@pytest.mark.parametrize("keys", [("files",), ("files", "gpg")])
def test_a_record_of_an_older_version_is_read(town: Town, keys: tuple[str, ...]) -> None:
    town.installed()
    file = town.root / "p/.nuketown/installed/ada.json"
    tree = json.loads(file.read_text())
    assert tree["version"] == 3
    file.write_text(json.dumps({"version": len(keys)} | {key: tree[key] for key in keys}))
    respell(town, 'settings = { permissions = { defaultMode = "plan" } }', "")
    assert b"ada: removed .claude/settings.json\n" in town.identity("install", "ada").out
    after = json.loads(file.read_text())
    assert {key: after[key] for key in ("gpg", "brought", "keys")} == {
        key: tree[key] for key in ("gpg", "brought", "keys")
    }


@pytest.mark.parametrize("broken", [b"(11:private-key", b"(21:protected-private-key(3:ecc)(9:protected))"])
def test_a_private_key_that_is_damaged_in_a_kept_keyring_is_brought_again(town: Town, broken: bytes) -> None:
    town.installed()
    (key,) = (town.home("ada") / ".gnupg/private-keys-v1.d").iterdir()
    key.write_bytes(broken)
    done = town.identity("install", "ada")
    assert done.status == 0, done
    assert b" .gnupg\n" in done.out
    assert _signs(town)


def test_a_private_key_that_wants_a_passphrase_in_a_kept_keyring_is_brought_again(town: Town) -> None:
    town.installed()
    ask = "gpg --quiet --pinentry-mode loopback --command-fd 0 --change-passphrase ada; gpgconf --kill all"
    assert _as_ada(town, "sh", "-ec", f"printf 'secret\\nsecret\\n' | {ask}").status == 0
    assert not _signs(town)
    done = town.identity("install", "ada")
    assert (done.status, done.out.count(b" .gnupg\n")) == (0, 1), done
    assert _signs(town)


def _signs(town: Town) -> bool:
    sign = "echo text | gpg --batch --pinentry-mode loopback --passphrase '' --sign --output -; status=$?"
    return _as_ada(town, "sh", "-c", f"{sign}; gpgconf --kill all; exit $status").status == 0


def test_no_configuration_in_a_kept_keyring_runs_a_program_or_stops_the_import(town: Town) -> None:
    keys, ran = town.home("ada") / ".gnupg", town.home("ada") / "ran"
    evil = town.root / "evil"
    evil.write_text(f"#!/bin/sh\ntouch {ran}\nsleep 60\n")
    evil.chmod(0o755)
    wrote(keys / "gpg.conf", f"agent-program {evil}\ndry-run\n")
    wrote(
        keys / "gpg-agent.conf", f"pinentry-program {evil}\nscdaemon-program {evil}\nlog-file {ran}\nno-such-option\n"
    )
    wrote(keys / "scdaemon.conf", "no-such-option\n")
    wrote(keys / "common.conf", "no-such-option\n")
    keys.chmod(0o777)
    done = town.identity("install", "ada")
    assert (done.status, done.err) == (0, b"")
    assert not ran.exists()
    assert stat.S_IMODE(keys.stat().st_mode) == 0o700
    assert len(list((keys / "private-keys-v1.d").iterdir())) == 1


def test_a_lock_in_a_kept_keyring_goes_unless_a_process_of_the_agents_on_this_machine_holds_it(town: Town) -> None:
    town.installed()
    keys, here = town.home("ada") / ".gnupg", os.uname().nodename
    with subprocess.Popen(["sleep", "infinity"], user=ADA.uid, group=ADA.gid) as works:
        try:
            held = {"held": f"{works.pid:10d}\n{here}\n", "elsewhere": f"{1:10d}\nnot-{here}\n", "no-lock": "x"}
            gone = {"of-another": f"{1:10d}\n{here}\n", "of-nobody": f"{2**30:10d}\n{here}\n"}
            for name, text in (held | gone).items():
                wrote(keys / f"{name}.lock", text)
            assert town.identity("install", "ada", "--dry-run").status == 0
            assert len(list(keys.glob("*.lock"))) == 5
            done = town.identity("install", "ada")
        finally:
            works.kill()
    assert (done.status, done.err) == (0, b"")
    assert {path.stem for path in keys.glob("*.lock")} == set(held)


def test_an_interrupted_run_beside_the_spec_is_named_where_something_fails(town: Town) -> None:
    (town.root / "host.key").unlink()
    assert b"interrupted" not in town.identity("install", "vox").err
    (town.root / "identities/.gen.journal").write_text("{}")
    assert (
        b"a run of identity was interrupted here; it is finished by: identity gen"
        in town.identity("install", "vox").err
    )


def test_a_rotated_subkey_takes_the_place_of_the_old_one_in_the_keyring(town: Town) -> None:
    town.installed()
    private = town.home("ada") / ".gnupg/private-keys-v1.d"
    (old,) = private.iterdir()
    opens = env() | {"SOPS_AGE_KEY_FILE": str(town.root / "host.key")}
    run([*argv(town.spec), "rotate", "ada", "--gpg"], env=opens)
    done = town.identity("install", "ada")
    assert (done.status, done.err) == (0, b"")
    assert b"ada: made .gnupg\n" in done.out
    (new,) = private.iterdir()
    assert new != old
    assert b" .gnupg" not in town.identity("install", "ada").out


def test_an_agent_whose_key_was_revoked_gets_none_and_is_told_how_to_have_another(town: Town) -> None:
    town.installed()
    opens = env() | {"SOPS_AGE_KEY_FILE": str(town.root / "host.key")}
    run([*argv(town.spec), "revoke", "vox", "--ssh"], env=opens)
    done = town.identity("install", "vox")
    assert done.status == 0
    assert b"warning: vox: its SSH key was revoked, so it gets none" in done.err
    assert b"identity rotate --spec" in done.err
    assert b"vox: removed .ssh/id_ed25519\n" in done.out
    assert list((town.home("vox") / ".ssh").iterdir()) == []


def test_the_agents_own_gpg_knows_of_a_revocation(town: Town) -> None:
    town.installed()
    opens = env() | {"SOPS_AGE_KEY_FILE": str(town.root / "host.key")}
    run([*argv(town.spec), "revoke", "ada", "--gpg"], env=opens)
    assert town.identity("install", "ada").status == 0
    assert _as_ada(town, "gpg", "--with-colons", "--list-keys").out.split(b"pub:")[1].startswith(b"r:")


def test_a_false_gpg_agent_that_says_much_fills_no_memory(town: Town) -> None:
    with pytest.raises(ToolFailed, match="said more than 1,000 bytes"):
        run(["yes"], most=1000)
    assert run(["cat"], feed=b"x" * 300_000, most=300_000).out == b"x" * 300_000
    with pytest.raises(ToolFailed, match="did not finish"):
        run(["sleep", "9"], most=10, timeout=0.2)


def test_a_file_system_of_the_agents_over_its_home_is_not_opened(town: Town) -> None:
    mounted = "mount -i -t fuse -o fd=9,rootmode=40000,user_id=0,group_id=0,allow_other none HOME 9<>/dev/fuse"
    script_ = f'{mounted.replace("HOME", str(town.home("ada")))} && timeout 20 "$@" install ada'
    done = script(town, script_, check=False)
    assert b"is mounted over" in done.err, done
    assert done.status == 1
