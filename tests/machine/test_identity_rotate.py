"""rotate with the real gpg, ssh-keygen and git: a new key is in use, and what the old one signed still verifies."""

import signal
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from identity.keys import gpg, openpgp
from identity.lock import BadLock, parse
from tests.machine.signing import AGENTS, SigningTown
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


def test_after_an_ssh_rotation_old_and_new_commits_verify_in_a_fresh_clone(town: SigningTown) -> None:
    before = town.commit("vox")
    old = town.ssh("vox")
    assert town.identity("rotate", "vox", "--ssh") == 0
    after = town.commit("vox")
    new = town.ssh("vox")
    assert old != new
    assert [town.verdict(one)[:2] for one in (before, after)] == [(0, "G"), (0, "G")]
    assert town.text("identities/vox/ssh.pub") == f"{new.public} vox@signi.local\n"
    lines = [line for line in town.text("identities/allowed_signers").splitlines() if line.startswith("vox@")]
    (until,) = (kept.until for kept in town.entry("vox").ssh if kept.key == old)
    assert until is not None
    assert lines == [
        f'vox@signi.local namespaces="git",valid-before="{until:%Y%m%d%H%M%SZ}" {old.public}',
        f'vox@signi.local namespaces="git",valid-after="{until:%Y%m%d%H%M%SZ}" {new.public}',
    ]


def test_an_old_ssh_key_signs_nothing_new_and_a_new_one_nothing_old(town: SigningTown) -> None:
    old = town.opened().get("vox/ssh-key")
    assert town.identity("rotate", "vox", "--ssh") == 0
    now = datetime.now(UTC)
    late = town.commit("vox", private=old, when=now + timedelta(minutes=5))
    early = town.commit("vox", when=now - timedelta(minutes=5))
    assert (town.verdict(late).status, town.verdict(early).status) == (1, 1)
    assert "key has expired" in town.verdict(late).words


def test_times_in_allowed_signers_do_not_depend_on_the_time_zone(
    town: SigningTown, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = town.commit("vox")
    assert town.identity("rotate", "vox", "--ssh") == 0
    after = town.commit("vox")
    for zone in ("Pacific/Kiritimati", "Pacific/Pago_Pago"):  # 14 hours before and 11 after UTC
        monkeypatch.setenv("TZ", zone)
        assert (town.verdict(before).status, town.verdict(after).status) == (0, 0)


def test_after_a_gpg_rotation_old_and_new_commits_verify_from_gpg_asc_alone(town: SigningTown) -> None:
    before, old = town.commit("ada"), town.gpg("ada")
    assert town.identity("rotate", "ada", "--gpg") == 0
    after, new = town.commit("ada"), town.gpg("ada")
    assert old.primary == new.primary
    assert old.signing != new.signing
    assert [town.verdict(one)[:2] for one in (before, after)] == [(0, "U"), (0, "U")]
    assert new.signing[-16:] in town.verdict(after).words.replace(" ", "")
    assert old.signing[-16:] in town.verdict(before).words.replace(" ", "")


def test_the_agent_gets_the_new_subkey_instead_of_the_old_one(town: SigningTown) -> None:
    old = town.gpg("ada")
    assert town.identity("rotate", "ada", "--gpg") == 0
    new = town.gpg("ada")
    parts = openpgp.parts(town.opened().get("ada/gpg-key") or "", "agents.yaml")
    assert [(part.fingerprint, part.secret) for part in parts] == [(new.primary, False), (new.signing, True)]
    whole = openpgp.parts(town.opened("secrets/recovery.yaml").get("ada/gpg-primary-key") or "", "recovery.yaml")
    assert [part.fingerprint for part in whole] == [new.primary, old.signing, new.signing]
    assert new.expires
    assert new.expires - new.created == timedelta(days=730)


def test_what_an_old_subkey_signed_still_verifies_when_its_time_would_be_over(
    town: SigningTown, tmp_path: Path
) -> None:
    before = town.commit("ada")
    assert town.identity("rotate", "ada", "--gpg") == 0
    first, second = town.entry("ada").gpg
    assert (first.key.expires, second.key.expires is not None) == (None, True)
    later = int((datetime.now(UTC) + timedelta(days=900)).timestamp())
    with gpg.throw_away_home() as home:
        env = {"GNUPGHOME": str(home)}
        run(["gpg", "--batch", "--import", town.file("identities/ada/gpg.asc")], env=env)
        done = run(["git", "-C", town.git, "cat-file", "commit", before]).out.decode()
        head, signature = done.split("gpgsig ", 1)
        signature, rest = signature.split("-----END PGP SIGNATURE-----\n", 1)
        (tmp_path / "sig").write_text(f"{signature}-----END PGP SIGNATURE-----\n".replace("\n ", "\n"))
        (tmp_path / "text").write_text(head + rest)
        words = ["gpg", "--batch", "--faked-system-time", f"{later}!", "--status-fd", "1", "--verify"]
        said = run([*words, tmp_path / "sig", tmp_path / "text"], env=env).out.decode()
    assert "GOODSIG" in said
    assert "EXPKEYSIG" not in said


def test_extend_keeps_the_subkey_and_gives_it_two_more_years(town: SigningTown) -> None:
    before, old = town.commit("ada"), town.gpg("ada")
    _expires_soon(town)
    assert town.identity("rotate", "ada", "--gpg", "--extend") == 0
    (kept,) = town.entry("ada").gpg
    assert kept.key.signing == old.signing
    assert kept.key.expires is not None
    assert kept.key.expires > datetime.now(UTC) + timedelta(days=729)
    assert openpgp.facts(town.opened().get("ada/gpg-key") or "", "agents.yaml") == kept.key
    assert town.verdict(before)[:2] == (0, "U")
    assert town.identity("gen", "--all") == 0


def _expires_soon(town: SigningTown) -> None:
    """The key as it will be shortly before the end of its two years."""
    path, entry = "ada/gpg-primary-key", town.gpg("ada")
    assert entry is not None
    with gpg.throw_away_home() as home:
        gpg.take(home, town.opened("secrets/recovery.yaml").get(path) or "", path)
        gpg.run(home, "--quick-set-expire", entry.primary, "5d", entry.signing)
        from town import sops

        secrets, recovery = "secrets/agents.yaml", "secrets/recovery.yaml"
        for file, where, verb in (
            (secrets, "ada/gpg-key", "--export-secret-subkeys"),
            (recovery, path, "--export-secret-keys"),
        ):
            changed = sops.update(
                town.opened(file), {where: gpg.export(home, verb, entry.primary)}, now=datetime.now(UTC)
            )
            town.file(file).write_bytes(changed)
        town.file("identities/ada/gpg.asc").write_text(gpg.export(home, "--export", entry.primary))
    facts = openpgp.facts(town.text("identities/ada/gpg.asc"), "gpg.asc")
    lock = town.file("identities/keys.lock.toml")
    assert entry.expires is not None
    assert facts.expires is not None
    lock.write_text(
        lock.read_text().replace(f"{entry.expires:%Y-%m-%dT%H:%M:%SZ}", f"{facts.expires:%Y-%m-%dT%H:%M:%SZ}")
    )


def test_rotations_add_up_and_every_commit_verifies(town: SigningTown) -> None:
    commits = []
    for _ in range(2):
        commits += [town.commit("vox"), town.commit("ada")]
        assert town.identity("rotate", "vox", "--ssh") == 0
        assert town.identity("rotate", "ada", "--ssh", "--gpg") == 0
    commits += [town.commit("vox"), town.commit("ada")]
    assert {town.verdict(commit).status for commit in commits} == {0}
    assert (len(town.entry("vox").ssh), len(town.entry("ada").gpg), len(town.entry("ada").ssh)) == (3, 3, 3)


def test_two_rotations_within_a_second_leave_a_file_that_ssh_keygen_reads(town: SigningTown) -> None:
    before = town.commit("vox")
    for _ in range(3):
        assert town.identity("rotate", "vox", "--ssh") == 0
    windows = [(kept.since, kept.until) for kept in town.entry("vox").ssh]
    assert all(until > since for since, until in windows if since is not None and until is not None)
    # It reads up to the line of the key that signed, and stops at one that is wrong: the last line is the newest key's.
    assert (town.verdict(before).status, town.verdict(town.commit("vox")).status) == (0, 0)


def test_a_new_subkey_is_newer_than_the_one_before_it_by_the_clock_of_gpg(town: SigningTown) -> None:
    for _ in range(3):
        assert town.identity("rotate", "ada", "--gpg") == 0
    made = [kept.key.created for kept in town.entry("ada").gpg]
    assert all(after > before for before, after in pairwise(made))


def test_gen_and_check_are_content_with_what_rotate_left(town: SigningTown) -> None:
    assert town.identity("rotate", "ada", "--ssh", "--gpg") == 0
    held = town.held()
    assert town.identity("gen", "--all") == 0
    assert town.held() == held
    assert town.identity("check") == 0


def test_rotation_touches_no_other_agents_ciphertext(town: SigningTown) -> None:
    held = town.text("secrets/agents.yaml").splitlines()
    assert town.identity("rotate", "vox", "--ssh") == 0
    changed = [line for line in held if line not in town.text("secrets/agents.yaml").splitlines()]
    assert [line.strip().split(":")[0] for line in changed if "lastmodified" not in line] == ["ssh-key", "mac"]


def test_a_key_whose_private_half_is_lost_is_replaced_by_rotate(town: SigningTown) -> None:
    before = town.commit("vox")
    from town import sops

    left = sops.update(town.opened(), {}, now=datetime.now(UTC), remove=["vox/ssh-key"])
    town.file("secrets/agents.yaml").write_bytes(left)
    assert town.identity("gen", "--all") == 1
    assert town.identity("rotate", "vox", "--ssh") == 0
    assert town.identity("gen", "--all") == 0
    assert (town.verdict(before).status, town.verdict(town.commit("vox")).status) == (0, 0)


def test_a_gpg_rotation_without_the_recovery_file_changes_nothing(
    town: SigningTown, capsys: pytest.CaptureFixture[str]
) -> None:
    town.file("secrets/recovery.yaml").rename(town.root / "away.yaml")
    held = town.held()
    assert town.identity("rotate", "ada", "--ssh", "--gpg") == 1
    assert town.held() == held
    assert "bring secrets/recovery.yaml back" in capsys.readouterr().err


def test_a_host_cannot_rotate_an_openpgp_key(
    town: SigningTown, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("SOPS_AGE_KEY_FILE")
    held = town.held()
    assert town.identity("rotate", "ada", "--gpg") == 1
    assert "recovery.yaml" in capsys.readouterr().err
    assert town.held() == held


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["ada"], 2, "rotate needs --ssh, --gpg or both"),
        (["ada", "--ssh", "--extend"], 2, "--extend goes with --gpg"),
        (["vox", "--gpg"], 1, "vox has no OpenPGP key in the spec"),
        (["nobody", "--ssh"], 2, "nobody"),
        (["new", "--ssh"], 1, "new has no SSH key yet"),
        (["new", "--gpg"], 1, "new has no OpenPGP key yet"),
    ],
)
def test_rotate_says_what_cannot_be_rotated(
    town: SigningTown, capsys: pytest.CaptureFixture[str], words: list[str], status: int, said: str
) -> None:
    town.write({**AGENTS, "new": "uid = 41102"})
    held = town.held()
    assert town.identity("rotate", *words) == status
    assert said in capsys.readouterr().err
    assert town.held() == held


def test_a_dry_run_prints_the_plan_and_writes_nothing(town: SigningTown, capsys: pytest.CaptureFixture[str]) -> None:
    held, ssh, openpgp_key = town.held(), town.ssh("ada"), town.gpg("ada")
    capsys.readouterr()
    assert town.identity("rotate", "ada", "--ssh", "--gpg", "--dry-run") == 0
    out = capsys.readouterr().out.splitlines()
    assert out[:2] == [
        f"rotate  SSH key of ada: in use was {ssh.fingerprint}",
        f"rotate  OpenPGP subkey of ada: the last was {openpgp_key.signing}",
    ]
    assert [line.split()[1] for line in out[2:4]] == ["secrets/recovery.yaml", "secrets/agents.yaml"]
    assert out[-1] == "write   identities/keys.lock.toml"
    assert town.held() == held


def test_a_rotation_killed_at_any_step_is_finished_by_the_same_command(town: SigningTown) -> None:
    held, before, words = town.held(), town.commit("ada"), ["rotate", "ada", "--ssh", "--gpg"]
    for step in range(1, 40):
        town.put_back(held)
        status = town.killed(step, *words)
        if status == 0:
            break
        assert status == -signal.SIGKILL
        assert town.identity(*words) == 0
        # Killed before the journal stood, nothing had happened; after it, the same rotation was finished.
        assert (len(town.entry("ada").ssh), len(town.entry("ada").gpg)) == (2, 2)
        assert not [name for name in town.held() if Path(name).name.startswith(".")]
        done = town.held()
        assert town.identity("gen", "--all") == 0
        assert town.held() == done
        assert openpgp.facts(town.opened().get("ada/gpg-key") or "", "agents.yaml") == town.gpg("ada")
    assert step > 8
    assert (town.verdict(before).status, town.verdict(town.commit("ada")).status) == (0, 0)


def test_gen_finishes_a_rotation_that_was_killed(town: SigningTown) -> None:
    before = town.commit("vox")
    assert town.killed(4, "rotate", "vox", "--ssh") == -signal.SIGKILL
    assert town.identity("gen", "--all") == 0
    assert len(town.entry("vox").ssh) == 2
    assert (town.verdict(before).status, town.verdict(town.commit("vox")).status) == (0, 0)


def test_a_lock_of_version_1_is_read_and_one_that_is_not_known_is_refused(town: SigningTown) -> None:
    held = town.text("identities/keys.lock.toml")
    old = held.replace("version = 2", "version = 1").encode()
    assert parse(old, "lock") == parse(held.encode(), "lock")
    for bad in (
        held.replace("version = 2", "version = 3"),
        held.replace("[[agents.vox.ssh]]", "[[agents.vox.ssh]]\nnew = 1"),
        held.replace("[[agents.vox.ssh]]", "[[agents.vox.ssh]]\nuntil = 2026-01-01"),
        held + held[held.index("[[agents.vox.ssh]]") :],
    ):
        with pytest.raises(BadLock):
            parse(bad.encode(), "lock")
