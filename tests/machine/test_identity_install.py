"""install into homes of uids that have no account: agents sign and others verify; a hostile home hurts only itself."""

import os
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from identity import tenant
from identity.keys.gpg import in_memory
from tests import reach
from tests.machine.homeinstalls import ADA, VOX, Town, argv, env, made, town
from town import files
from town.process import Done, Person, run

pytestmark = pytest.mark.root
__all__ = ["made", "town"]  # fixtures


def _git(home: Path, person: Person | None, *words: str, cwd: Path) -> Done:
    env = {"HOME": str(home), "GIT_CONFIG_NOSYSTEM": "1"}
    return run(["git", *words], env=env, person=person, cwd=cwd)


def _verifier(town: Town, tmp_path: Path) -> Path:
    """The home of somebody who has nothing but identities/."""
    home = Path(tempfile.mkdtemp(prefix="v-", dir=town.root))
    (home / ".gitconfig").write_text(
        f'[gpg "ssh"]\nallowedSignersFile = {town.root}/identities/allowed_signers\n[safe]\ndirectory = *\n'
    )
    return home


def test_ada_signs_with_gpg_and_identities_alone_verifies_it(town: Town, tmp_path: Path) -> None:
    town.installed()
    home = town.home("ada")
    work = home / "work"
    _git(home, ADA, "init", "-q", str(work), cwd=home)
    _git(home, ADA, "commit", "-q", "--allow-empty", "-m", "signed", cwd=work)
    run(["gpgconf", "--kill", "gpg-agent"], env={"HOME": str(home)}, person=ADA)
    verifier = _verifier(town, tmp_path)
    (verifier / ".gnupg").mkdir(mode=0o700)
    run(["gpg", "--batch", "--import", town.root / "identities/ada/gpg.asc"], env={"HOME": str(verifier)})
    clone = verifier / "clone"
    _git(verifier, None, "clone", "-q", str(work), str(clone), cwd=verifier)
    done = _git(verifier, None, "verify-commit", "--raw", "HEAD", cwd=clone)
    assert b"GOODSIG" in done.err
    assert b"VALIDSIG" in done.err
    log = _git(verifier, None, "log", "--format=%an <%ae>", cwd=clone)
    assert log.out == b"Ada <ada@signi.local>\n"
    run(["gpgconf", "--kill", "all"], env={"HOME": str(verifier)})


def test_vox_signs_with_ssh_and_identities_alone_verifies_it(town: Town, tmp_path: Path) -> None:
    town.installed()
    home = town.home("vox")
    # ssh-keygen refuses a uid without an account: the account exists in this mount namespace only.
    (town.root / "passwd").write_text(f"root:x:0:0::/root:/bin/sh\nvox:x:41101:41101::{home}:/bin/sh\n")
    script = (
        f"mount --bind {town.root}/passwd /etc/passwd && exec setpriv --reuid 41101 --regid 41101 --clear-groups "
        f"sh -ec 'cd {home}; git init -q work; cd work; git commit -q --allow-empty -m signed'"
    )
    run(["unshare", "-m", "sh", "-ec", script], env={"HOME": str(home), "GIT_CONFIG_NOSYSTEM": "1"})
    verifier = _verifier(town, tmp_path)
    _git(verifier, None, "clone", "-q", str(home / "work"), str(verifier / "clone"), cwd=verifier)
    done = _git(verifier, None, "verify-commit", "HEAD", cwd=verifier / "clone")
    assert b'Good "git" signature for vox@signi.local' in done.err


def test_everything_in_the_home_is_the_agents_and_keys_are_private(town: Town) -> None:
    town.installed()
    for name, person in (("ada", ADA), ("vox", VOX)):
        for path in town.home(name).rglob("*"):
            about = path.lstat()
            assert (about.st_uid, about.st_gid) == (person.uid, person.gid), path
            if path.is_dir():
                assert stat.S_IMODE(about.st_mode) == 0o700, path
        assert stat.S_IMODE((town.home(name) / ".ssh/id_ed25519").stat().st_mode) == 0o600
        public = (town.root / f"identities/{name}/ssh.pub").read_text()
        assert (town.home(name) / ".ssh/id_ed25519.pub").read_text() == public


def test_a_second_install_changes_nothing(town: Town) -> None:
    town.installed()
    before = {name: town.tree(name) for name in ("ada", "vox")}
    done = town.identity("install", "vox")
    assert (done.status, done.out, done.err) == (0, b"nothing to do\n", b"")
    done = town.identity("install", "ada")
    # Where the test's /run is a disk, each install has its secrets in a tmpfs of its own: the token is made again.
    again = b"nothing to do\n" if in_memory(town.root) else b"ada: made /run/nuketown/secrets/ada/token\n"
    assert done.out == again
    for name, tree in before.items():
        after = town.tree(name)
        changed = {path for path in after if after[path] != tree.get(path)} | (tree.keys() - after.keys())
        assert {path for path in changed if path not in (".gnupg", ".gnupg/private-keys-v1.d")} == set()


def test_what_an_agent_changed_is_written_again_and_said(town: Town) -> None:
    town.installed()
    home = town.home("ada")
    before = town.tree("ada")
    (home / ".claude/settings.json").write_text('{"hooks": {}}')
    (home / ".claude/CLAUDE.md").unlink()
    (home / ".claude/CLAUDE.md").symlink_to("/etc/passwd")
    (home / ".ssh/id_ed25519").chmod(0o644)
    (home / ".config/git/config").unlink()
    os.mkfifo(home / ".config/git/config")
    done = town.identity("install", "ada")
    assert done.status == 0
    for path in (".claude/settings.json", ".claude/CLAUDE.md", ".ssh/id_ed25519", ".config/git/config"):
        assert f"warning: ada: {path} was not as the spec has it".encode() in done.err
        now = town.tree("ada")[path]
        assert (now[0], now[1], now[3]) == (before[path][0], before[path][1], before[path][3])


def test_a_symlink_planted_in_a_home_leads_nowhere(town: Town) -> None:
    victim = town.root / "victim"
    victim.mkdir()
    (victim / "config").write_text("theirs")
    victim.chmod(0o777)
    home = town.home("ada")
    for name in (".ssh", ".config"):
        (home / name).symlink_to(victim)
    done = town.identity("install")
    assert done.status == 1
    assert b"ada: .ssh/id_ed25519: " in done.err
    assert b"goes through a symlink" in done.err
    assert [(path.name, path.read_text()) for path in victim.iterdir()] == [("config", "theirs")]
    # Each piece stands for itself, and so does each agent.
    assert (home / ".claude/CLAUDE.md").exists()
    assert (home / ".gnupg/pubring.kbx").exists()
    assert (town.home("vox") / ".ssh/id_ed25519").exists()


def test_a_gpg_configuration_of_the_agent_names_no_program_for_the_import(town: Town) -> None:
    keys = town.home("ada") / ".gnupg"
    keys.mkdir(mode=0o755)
    (town.root / "evil").write_text(f"#!/bin/sh\ntouch {town.home('ada')}/ran\nsleep 60\n")
    (town.root / "evil").chmod(0o755)
    (keys / "gpg.conf").write_text(f"agent-program {town.root}/evil\n")
    for path in (keys, keys / "gpg.conf"):
        os.chown(path, ADA.uid, ADA.gid)
    assert town.identity("install", "ada").status == 0
    assert not (town.home("ada") / "ran").exists()


def test_without_a_home_the_hint_is_the_command_that_makes_it(town: Town) -> None:
    town.home("ada").rmdir()
    done = town.identity("install")
    assert done.status == 1
    assert b"hint: persist restore --spec %s ada" % os.fsencode(town.spec) in done.err
    assert (town.home("vox") / ".ssh/id_ed25519").exists()


def test_a_home_of_somebody_else_is_not_touched(town: Town) -> None:
    os.chown(town.home("vox"), ADA.uid, ADA.gid)
    assert town.identity("install", "vox").status == 1
    assert list(town.home("vox").iterdir()) == []


def test_a_secret_without_a_value_is_named_and_the_rest_is_installed(town: Town) -> None:
    town.spec.write_text(town.spec.read_text().replace("ada/token", "ada/other"))
    done = town.identity("install", "ada")
    assert done.status == 1
    assert b"secrets/agents.yaml has no value at ada/other" in done.err
    assert b"identity secret --spec %s set ada token" % os.fsencode(town.spec) in done.err
    assert (town.home("ada") / ".ssh/id_ed25519").exists()


def test_an_extra_secret_is_in_memory_and_the_agents_alone(town: Town) -> None:
    script = f"""
        "$@" install ada >/dev/null
        stat -f -c %T /run/nuketown/secrets
        stat -c '%u %a' /run/nuketown/secrets/ada /run/nuketown/secrets/ada/token
        setpriv --reuid 41100 --regid 41100 --clear-groups sh -c '. {town.home("ada")}/.config/nuketown/environment.sh; echo $TOKEN'
        setpriv --reuid 41101 --regid 41101 --clear-groups ls /run/nuketown/secrets/ada 2>&1 | grep -c denied
        touch /run/nuketown/secrets/ada/stale; "$@" install ada >/dev/null; ls /run/nuketown/secrets/ada
    """  # noqa: E501
    done = run([*town.apart, "sh", "-c", script, "sh", *argv(town.spec)], env=env())
    assert done.out.decode().split("\n") == ["tmpfs", "0 750", "41100 400", "tok-1", "1", "token", ""]


def test_a_key_that_the_lock_does_not_name_is_not_installed(town: Town) -> None:
    lock = town.root / "identities/keys.lock.toml"
    ada, vox = ((town.root / f"identities/{name}/ssh.pub").read_text().split()[1] for name in ("ada", "vox"))
    from identity.halves import SshKey

    old, new = SshKey(f"ssh-ed25519 {vox}"), SshKey(f"ssh-ed25519 {ada}")
    text = lock.read_text().replace(old.public, new.public).replace(old.fingerprint, new.fingerprint)
    lock.write_text(text)
    done = town.identity("install", "vox")
    assert done.status == 1
    assert b"keys.lock.toml" in done.err
    assert list(town.home("vox").iterdir()) == []


def test_an_agent_that_signs_in_another_way_now_gets_what_that_needs(town: Town) -> None:
    town.spec.write_text(town.spec.read_text().replace("uid = 41100", 'uid = 41100\ngit = { signing = "ssh" }'))
    run([*argv(town.spec), "gen", "--all"], env=env())
    town.installed()
    assert not (town.home("ada") / ".gnupg").exists()
    assert "gpg =" not in (town.home("ada") / ".config/nuketown/identity.toml").read_text()
    config = (town.home("ada") / ".config/git/config").read_text()
    assert config == (town.root / "identities/ada/gitconfig").read_text()
    assert 'format = "ssh"' in config


def test_a_dry_run_installs_nothing(town: Town) -> None:
    done = town.identity("install", "vox", "--dry-run")
    assert b"vox: would be made .ssh/id_ed25519\n" in done.out
    assert list(town.home("vox").iterdir()) == []


def test_an_ordinary_user_is_told_that_root_is_needed(town: Town) -> None:
    with reach.checkout() as (_, packages):
        argv = [reach.PYTHON, "-m", "identity.cli", "--spec", str(town.spec), "install"]
        done = run(argv, env=env() | packages, person=ADA, check=False)
    assert done.status == 1
    assert b"needs root" in done.err


def test_the_child_that_works_as_the_agent_cannot_be_read_by_it(town: Town) -> None:
    def work(_: Path) -> list[tenant.Piece]:
        pid = os.getpid()
        spy = subprocess.run(["dd", f"if=/proc/{pid}/mem", "bs=1", "count=1"], capture_output=True, check=False)
        about = Path(f"/proc/{pid}/status").read_text()
        return [tenant.Piece(spy.stderr.decode(), "kept", f"{os.getresuid()} {about}")]

    with files.opened(files.open_dir(town.home("ada"))) as fd:
        (piece,) = tenant._as_person(ADA, fd, work, town.home("ada"))
    assert "Permission denied" in piece.path
    assert piece.why.startswith("(41100, 41100, 41100) ")
    assert "NoNewPrivs:\t1\n" in piece.why


def test_an_agent_that_stops_the_work_does_not_stop_the_next(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tenant, "TIMEOUT", 0.5)
    started = time.monotonic()
    with files.opened(files.open_dir(town.home("ada"))) as fd, pytest.raises(tenant.HomeFailed, match="did not end"):
        list(tenant._as_person(ADA, fd, lambda _: time.sleep(60) or [], Path("/")))
    assert time.monotonic() - started < 5
    with files.opened(files.open_dir(town.home("ada"))) as fd, pytest.raises(tenant.HomeFailed, match="signal 9"):
        list(tenant._as_person(ADA, fd, lambda _: os.kill(os.getpid(), 9) or [], Path("/")))


@pytest.mark.parametrize(("end", "said"), [("raise", "KeyError: 'odd'"), ("kill", "signal 9")])
def test_pieces_that_were_written_are_told_before_an_unexpected_end(town: Town, end: str, said: str) -> None:
    def work(_: Path) -> Iterator[tenant.Piece]:
        yield tenant.Piece("first", "made")
        if end == "kill":
            os.kill(os.getpid(), 9)
        raise KeyError("odd")

    told = []
    with files.opened(files.open_dir(town.home("ada"))) as fd, pytest.raises(tenant.HomeFailed) as failed:
        told += [piece.path for piece in tenant._as_person(ADA, fd, work, Path("/"))]
    assert said in failed.value.what
    assert "run it again" in failed.value.hint
    with files.opened(files.open_dir(town.home("ada"))) as fd:
        pieces = tenant._as_person(ADA, fd, work, Path("/"))
        assert next(pieces).path == "first"


def test_an_agent_with_the_uid_of_another_account_gets_nothing_and_others_go_on(town: Town) -> None:
    (town.root / "passwd").write_text("root:x:0:0::/root:/bin/sh\nbob:x:41101:100::/:/bin/sh\n")
    (town.home("ada") / ".ssh").symlink_to("/tmp")  # ada fails with 1: the wrong spec is worse
    script = f'mount --bind {town.root}/passwd /etc/passwd; exec "$@"'
    done = run([*town.apart, "sh", "-ec", script, "sh", *argv(town.spec), "install"], env=env(), check=False)
    assert done.status == 78
    assert b"agents.vox.uid: 41101 is the account bob" in done.err
    assert list(town.home("vox").iterdir()) == []
    assert (town.home("ada") / ".claude/CLAUDE.md").exists()


def test_a_second_install_of_an_agent_at_once_ends_with_try_again_later(town: Town) -> None:
    script = """
        "$@" install vox >/dev/null
        stat -c '%u %a' /run/nuketown/locks
        flock /run/nuketown/locks/identity-ada "$@" install; echo $?
        setpriv --reuid 41100 --regid 41100 --clear-groups ls /run/nuketown/locks 2>&1 | grep -c denied
    """
    done = run([*town.apart, "sh", "-c", script, "sh", *argv(town.spec)], env=env())
    assert done.out.decode().split("\n") == ["0 700", "75", "1", ""]
    assert b"identity: error: ada: another identity install of this agent is running" in done.err
    assert list(town.home("ada").iterdir()) == []
    assert (town.home("vox") / ".ssh/id_ed25519").exists()


def test_a_change_of_the_spec_is_no_warning_and_one_of_the_agent_is(town: Town) -> None:
    town.installed()
    town.spec.write_text(town.spec.read_text().replace("uid = 41100", 'uid = 41100\nrole = "poetry"'))
    (town.home("ada") / ".claude/CLAUDE.md").write_text("mine")
    done = town.identity("install", "ada")
    assert b"ada: rewritten .claude/AGENTS.md\n" in done.out
    what = b".claude/CLAUDE.md was not as the spec has it: somebody changed it after it was installed"
    assert done.err == b"identity: warning: ada: " + what + b"\n"
    about = (town.root / "p/.nuketown/installed/ada.json").stat()
    assert (about.st_uid, stat.S_IMODE(about.st_mode)) == (0, 0o600)


def test_what_an_agent_had_before_the_first_install_is_written_over_with_a_warning(town: Town) -> None:
    (town.home("vox") / ".claude").mkdir()
    (town.home("vox") / ".claude/CLAUDE.md").write_text("mine")
    for path in (town.home("vox") / ".claude", town.home("vox") / ".claude/CLAUDE.md"):
        os.chown(path, VOX.uid, VOX.gid)
    done = town.identity("install", "vox")
    assert done.status == 0
    assert b"no record says that it was installed so" in done.err


def test_a_home_with_another_owner_is_told_with_cures_that_work(town: Town) -> None:
    os.chown(town.home("ada"), 41190, 41190)
    done = town.identity("install", "ada")
    assert done.status == 1
    assert b"belongs to uid 41190, not to uid 41100" in done.err
    assert b"set agents.ada.uid = 41190 in the spec" in done.err
    assert b"move it out of" in done.err


def test_without_the_secrets_file_install_does_not_send_to_gen_which_would_refuse(town: Town) -> None:
    (town.root / "secrets/agents.yaml").unlink()
    done = town.identity("install")
    assert done.status == 1
    assert b"hint: bring secrets/agents.yaml back from git or a backup" in done.err
    assert b"--all" not in done.err


def test_a_home_deep_below_directories_that_the_agent_may_not_search_gets_its_key(town: Town) -> None:
    deep = town.root / "d" / ("x" * 100)
    deep.parent.mkdir(mode=0o700)
    (town.root / "a").rename(deep)
    text = town.spec.read_text().replace(f'"{town.root}/a"', f'"{deep}"')
    town.spec.write_text(text)
    done = town.identity("install", "ada")
    assert (done.status, done.err) == (0, b"")
    assert len(list((deep / "ada/.gnupg/private-keys-v1.d").iterdir())) == 1
