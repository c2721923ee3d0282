"""revoke with the real gpg, ssh-keygen and git: commits say so in a fresh clone, and no new key is made unasked."""

import signal
from pathlib import Path

import pytest

from identity import signers
from identity.keys import gpg, openpgp
from identity.lock import parse
from tests.machine.signing import AGENTS, SigningTown
from tests.scale import SCALE
from town.process import run

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SigningTown:
    town = SigningTown(tmp_path_factory.mktemp("made"))
    assert town.identity("gen", "--all") == 0
    return town


@pytest.fixture
def town(made: SigningTown, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SigningTown:
    monkeypatch.setenv("SOPS_AGE_KEY_FILE", str(made.human))
    return made.copied(tmp_path)


def test_after_an_ssh_key_was_revoked_its_commits_say_so_and_others_verify(town: SigningTown) -> None:
    revoked, other = town.commit("vox"), town.commit("ada", private=town.opened().get("ada/ssh-key"))
    assert town.verdict(revoked)[:2] == (0, "G")
    assert town.identity("revoke", "vox", "--ssh") == 0
    assert town.verdict(revoked)[:2] == (1, "B")
    assert town.verdict(other)[:2] == (0, "G")


def test_a_verifier_without_the_revocation_file_does_not_believe_a_revoked_key_either(town: SigningTown) -> None:
    commit = town.commit("vox")
    assert town.identity("revoke", "vox", "--ssh") == 0
    verdict = town.verdict(commit, revocation_file=False)
    assert verdict.status == 1
    assert 'key is not permitted for use in signature namespace "git"' in verdict.words


def test_ssh_keygen_reads_the_revocation_list(town: SigningTown, tmp_path: Path) -> None:
    krl, keys = town.file("identities/revoked.krl"), {name: tmp_path / f"{name}.pub" for name in AGENTS}
    for name, file in keys.items():
        file.write_text(f"{town.ssh(name).public}\n")
    assert run(["ssh-keygen", "-Q", "-f", krl, *keys.values()]).status == 0  # there is a list before anything is in it
    assert town.identity("revoke", "vox", "--ssh") == 0
    done = run(["ssh-keygen", "-Q", "-f", krl, *keys.values()], check=False)
    assert done.status == 1
    assert [line.rsplit(": ", 1)[-1] for line in done.out.decode().splitlines()] == ["ok", "REVOKED"]  # as named above
    assert "KRL version 1" in run(["ssh-keygen", "-Q", "-l", "-f", krl]).out.decode()


def test_the_revocation_list_is_a_function_of_the_lock(town: SigningTown) -> None:
    assert town.identity("revoke", "vox", "--ssh") == 0
    assert town.identity("revoke", "ada", "--ssh") == 0
    lock = parse(town.file("identities/keys.lock.toml").read_bytes(), "lock")
    assert town.file("identities/revoked.krl").read_bytes() == signers.krl(lock)
    assert town.text("identities/allowed_signers") == signers.allowed_signers(lock)
    town.file("identities/revoked.krl").unlink()
    assert town.identity("gen", "--all") == 0
    assert town.file("identities/revoked.krl").read_bytes() == signers.krl(lock)


def test_after_a_whole_gpg_key_was_revoked_its_commits_say_so(town: SigningTown) -> None:
    commit, other = town.commit("ada"), town.commit("vox")
    assert town.verdict(commit)[:2] == (0, "U")
    assert town.identity("revoke", "ada", "--gpg") == 0
    verdict = town.verdict(commit)
    assert verdict[:2] == (1, "R")
    assert "revoked" in verdict.words
    assert town.verdict(other).status == 0
    whole = openpgp.parts(town.opened("secrets/recovery.yaml").get("ada/gpg-primary-key") or "", "recovery")
    assert whole[0].revoked


def test_the_private_halves_leave_the_agent_and_its_documents_name_no_key(town: SigningTown) -> None:
    assert town.identity("revoke", "ada", "--ssh", "--gpg") == 0
    assert {path for path in ("ada/ssh-key", "ada/gpg-key") if town.opened().get(path) is not None} == set()
    assert town.opened().get("vox/ssh-key") is not None
    assert not town.file("identities/ada/ssh.pub").exists()
    assert town.entry("ada").halves == type(town.entry("ada").halves)(None, None)
    config = ["git", "config", "--file", town.file("identities/ada/gitconfig")]
    assert run([*config, "user.signingKey"], check=False).status == 1
    assert run([*config, "commit.gpgSign"]).out == b"true\n"  # git refuses: it has no key to sign with


def test_gen_makes_no_new_key_in_place_of_a_revoked_one(town: SigningTown, capsys: pytest.CaptureFixture[str]) -> None:
    assert town.identity("revoke", "ada", "--ssh", "--gpg") == 0
    held = town.held()
    capsys.readouterr()
    assert town.identity("gen", "--all") == 0
    assert capsys.readouterr().out == "nothing to do\n"
    assert town.held() == held


def test_only_rotate_makes_another_and_old_commits_still_say_so(town: SigningTown) -> None:
    old = [town.commit("ada"), town.commit("vox")]
    assert town.identity("revoke", "ada", "--gpg") == 0
    assert town.identity("revoke", "vox", "--ssh") == 0
    before = town.entry("ada").gpg[0].key
    assert town.identity("rotate", "ada", "--gpg") == 0
    assert town.identity("rotate", "vox", "--ssh") == 0
    assert town.gpg("ada").primary != before.primary
    new = [town.commit("ada"), town.commit("vox")]
    assert [town.verdict(one)[:2] for one in old] == [(1, "R"), (1, "B")]
    assert [town.verdict(one)[:2] for one in new] == [(0, "U"), (0, "G")]
    held = town.held()
    assert town.identity("gen", "--all") == 0
    assert town.held() == held
    recovery = town.opened("secrets/recovery.yaml")
    assert recovery.get(f"ada/gpg-revoked-{before.primary}") is not None
    with gpg.throw_away_home() as home:  # the certificate in the recovery file is that of the new key
        gpg.take(home, town.text("identities/ada/gpg.asc"), "gpg.asc")
        gpg.take(home, recovery.get("ada/gpg-revocation") or "", "recovery")
        listed = gpg.run(home, "--with-colons", "--list-keys", town.gpg("ada").primary).out.decode()
    assert "pub:r" in listed


def test_a_rotated_key_can_be_revoked_by_its_fingerprint_and_the_one_in_use_stays(town: SigningTown) -> None:
    first, ssh, subkey = [town.commit("ada"), town.commit("vox")], town.ssh("vox"), town.gpg("ada").signing
    assert town.identity("rotate", "ada", "--gpg") == 0
    assert town.identity("rotate", "vox", "--ssh") == 0
    second = [town.commit("ada"), town.commit("vox")]
    spaced = " ".join(subkey[at : at + 4] for at in range(0, 40, 4)).lower()
    assert town.identity("revoke", "ada", "--key", spaced) == 0
    assert town.identity("revoke", "vox", "--key", ssh.fingerprint) == 0
    assert [town.verdict(one)[:2] for one in first] == [(1, "R"), (1, "B")]
    assert [town.verdict(one)[:2] for one in second] == [(0, "U"), (0, "G")]
    assert None not in (town.opened().get("ada/gpg-key"), town.opened().get("vox/ssh-key"))
    held = town.held()
    assert town.identity("gen", "--all") == 0
    assert town.held() == held


def test_a_subkey_in_use_that_was_revoked_is_replaced_under_the_same_primary_key(town: SigningTown) -> None:
    old, before = town.gpg("ada"), town.commit("ada")
    assert town.identity("revoke", "ada", "--gpg", "--key", old.signing) == 0
    assert town.opened().get("ada/gpg-key") is None
    assert town.identity("gen", "--all") == 0
    assert town.identity("rotate", "ada", "--gpg") == 0
    assert town.gpg("ada").primary == old.primary
    assert (town.verdict(before)[:2], town.verdict(town.commit("ada"))[:2]) == ((1, "R"), (0, "U"))


def test_a_second_revocation_of_the_same_key_changes_nothing(
    town: SigningTown, capsys: pytest.CaptureFixture[str]
) -> None:
    assert town.identity("revoke", "ada", "--ssh", "--gpg") == 0
    held = town.held()
    capsys.readouterr()
    assert town.identity("revoke", "ada", "--ssh", "--gpg") == 0
    assert capsys.readouterr().out == "nothing to do\n"
    assert town.held() == held


def test_the_keys_of_an_agent_that_left_the_spec_can_be_revoked(town: SigningTown) -> None:
    commits = [town.commit("ada"), town.commit("vox")]
    town.write({"new": "uid = 41102"})
    assert town.identity("gen", "--all") == 0
    assert [town.verdict(one).status for one in commits] == [0, 0]
    assert town.identity("revoke", "ada", "--ssh", "--gpg") == 0
    assert town.identity("revoke", "vox", "--ssh") == 0
    assert [town.verdict(one)[:2] for one in commits] == [(1, "R"), (1, "B")]
    assert [town.opened().get(path) for path in ("ada/gpg-key", "ada/ssh-key", "vox/ssh-key")] == [None] * 3
    assert town.opened().get("new/ssh-key") is not None


def test_a_revocation_is_not_taken_back_by_an_older_lock(town: SigningTown, capsys: pytest.CaptureFixture[str]) -> None:
    lock = town.file("identities/keys.lock.toml")
    older = lock.read_bytes()
    assert town.identity("revoke", "vox", "--ssh") == 0
    revoked = town.file("identities/revoked.krl").read_bytes()
    for put in (lambda: lock.write_bytes(older), lock.unlink):
        put()
        assert town.identity("gen", "--all") == 1
        assert "a revocation is never taken back" in capsys.readouterr().err
        assert town.file("identities/revoked.krl").read_bytes() == revoked


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["ada"], 2, "revoke needs --ssh, --gpg or --key"),
        (["ada", "--gpg", "--key", "SHA256:abc"], 2, "is no fingerprint of that kind of key"),
        (["ada", "--ssh", "--key", "0" * 40], 2, "is no fingerprint of that kind of key"),
        (["ada", "--key", "SHA256:abc"], 1, "ada never had the SSH key SHA256:abc"),
        (["ada", "--key", "0" * 40], 1, "ada never had the OpenPGP key"),
        (["vox", "--gpg"], 1, "vox never had an OpenPGP key"),
        (["nobody", "--ssh"], 2, "nobody"),
        (["ev\nil", "--ssh"], 2, "ev"),
    ],
)
def test_revoke_says_what_cannot_be_revoked(
    town: SigningTown, capsys: pytest.CaptureFixture[str], words: list[str], status: int, said: str
) -> None:
    held = town.held()
    assert town.identity("revoke", *words) == status
    assert said in capsys.readouterr().err
    assert town.held() == held


def test_a_certificate_of_another_key_revokes_nothing(town: SigningTown, capsys: pytest.CaptureFixture[str]) -> None:
    from datetime import UTC, datetime

    from town import sops

    with gpg.throw_away_home() as home:
        other = gpg.generate(home, "Eve", "eve@signi.local").revocation
    changed = sops.update(town.opened("secrets/recovery.yaml"), {"ada/gpg-revocation": other}, now=datetime.now(UTC))
    town.file("secrets/recovery.yaml").write_bytes(changed)
    held = town.held()
    assert town.identity("revoke", "ada", "--gpg") == 1
    assert "ada/gpg-revocation is refused by gpg" in capsys.readouterr().err
    assert town.held() == held


def test_a_dry_run_prints_the_plan_and_writes_nothing(town: SigningTown, capsys: pytest.CaptureFixture[str]) -> None:
    held = town.held()
    capsys.readouterr()
    assert town.identity("revoke", "ada", "--ssh", "--gpg", "--dry-run") == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == f"revoke  SSH key of ada: {town.ssh('ada').fingerprint}"
    assert out[1] == f"revoke  OpenPGP key of ada: {town.gpg('ada').primary}, with all its subkeys"
    assert "remove  identities/ada/ssh.pub" in out
    assert "write   identities/revoked.krl" in out
    assert town.held() == held


def test_a_revocation_killed_at_any_step_is_finished_by_the_next(town: SigningTown) -> None:
    held, commits = town.held(), [town.commit("ada"), town.commit("ada", private=town.opened().get("ada/ssh-key"))]
    words = ["revoke", "ada", "--ssh", "--gpg"]
    for step in range(1, 40, 1 if SCALE > 1 else 2):
        town.put_back(held)
        status = town.killed(step, *words)
        if status == 0:
            break
        assert status == -signal.SIGKILL
        assert town.identity(*words) == 0
        assert town.entry("ada").halves == type(town.entry("ada").halves)(None, None)
        assert not [name for name in town.held() if Path(name).name.startswith(".")]
        done = town.held()
        assert town.identity("gen", "--all") == 0
        assert town.held() == done
    assert step > 8
    assert [town.verdict(one)[:2] for one in commits] == [(1, "R"), (1, "B")]
