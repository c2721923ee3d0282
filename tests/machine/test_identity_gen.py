"""gen with the real gpg, ssh-keygen and SOPS files: nothing is replaced, nothing is lost when it is killed."""

import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import tomllib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from identity.keys import gpg, openpgp, ssh
from tests import reach
from tests.machine import gentown
from tests.machine.gentown import Town
from town import sops
from town.failure import ToolFailed
from town.process import Person, run

pytestmark = pytest.mark.root
town, made, full, nothing_is_left = gentown.town, gentown.made, gentown.full, gentown.nothing_is_left
NOBODY = Person(41190, 41190)  # a uid without an entry in /etc/passwd


def test_gen_makes_keys_that_the_real_tools_read(town: Town, tmp_path: Path) -> None:
    assert town.identity("gen", "--all") == 0
    secrets, recovery = town.opened("secrets/agents.yaml"), town.opened("secrets/recovery.yaml")
    key = tmp_path / "key"
    key.write_text(secrets.get("ada/ssh-key") or "")
    key.chmod(0o600)
    public = run(["ssh-keygen", "-y", "-f", key]).out.decode().split()
    assert public[:2] == (town.root / "identities/ada/ssh.pub").read_text().split()[:2]
    with gpg.throw_away_home() as home:
        env = {"GNUPGHOME": str(home)}
        run(["gpg", "--batch", "--import"], feed=(secrets.get("ada/gpg-key") or "").encode(), env=env)
        listed = run(["gpg", "--with-colons", "-K"], env=env).out.decode()
        kinds = {line.split(":")[0]: line.split(":") for line in listed.splitlines()}
        assert kinds["sec"][14] == "#"  # the primary's private numbers are not there
        assert [letter for letter in kinds["sec"][11] if letter.islower()] == ["c"]  # the primary only certifies
        assert (kinds["ssb"][11], kinds["ssb"][14]) == ("s", "+")
        assert kinds["uid"][9] == "Ada <ada@signi.local>"
        lifetime = int(kinds["ssb"][6]) - int(kinds["ssb"][5])
        assert lifetime == 2 * 365 * 86400
        run(["gpg", "--batch", "--import"], feed=(recovery.get("ada/gpg-primary-key") or "").encode(), env=env)
        listed = run(["gpg", "--with-colons", "-K"], env=env).out.decode()
        assert next(line.split(":")[14] for line in listed.splitlines() if line.startswith("sec:")) == "+"
        run(["gpg", "--batch", "--import"], feed=(recovery.get("ada/gpg-revocation") or "").encode(), env=env)
        assert "pub:r" in run(["gpg", "--with-colons", "-k"], env=env).out.decode()
    assert secrets.get("vox/gpg-key") is None
    assert len(recovery.recipients) == 1
    assert len(secrets.recipients) == 2


def _read_by(home: Path, private: str, message: bytes) -> bytes:
    gpg.take(home, private, "private")
    return run(["gpg", "--batch", "--quiet", "--decrypt"], feed=message, env={"GNUPGHOME": str(home)}).out


def _encrypted_to(public: str) -> bytes:
    """To whatever subkey of a public key gpg finds good for it; fails where there is none."""
    with gpg.throw_away_home() as home:
        gpg.take(home, public, "public")
        primary = openpgp.parts(public, "public")[0].fingerprint
        argv = ["gpg", "--batch", "--quiet", "--trust-model", "always", "--encrypt", "--recipient", primary]
        return run(argv, feed=b"for ada", env={"GNUPGHOME": str(home)}).out


def test_an_encryption_subkey_is_made_on_request_and_works(town: Town) -> None:
    town.write({"ada": "uid = 41100\nsecrets = { gpg_encryption = true }", "eve": "uid = 41102"})
    assert town.identity("gen", "--all") == 0
    message = _encrypted_to((town.root / "identities/ada/gpg.asc").read_text())
    with gpg.throw_away_home() as home:
        assert _read_by(home, town.opened("secrets/agents.yaml").get("ada/gpg-key") or "", message) == b"for ada"
    with pytest.raises(ToolFailed, match="Unusable public key"):
        _encrypted_to((town.root / "identities/eve/gpg.asc").read_text())


def test_an_encryption_subkey_can_be_asked_for_later_by_who_opens_the_recovery_file(
    full: Town, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert full.identity("gen", "--all") == 0
    before, lock = full.bytes(), (full.root / "identities/keys.lock.toml").read_text()
    vox = full.opened("secrets/agents.yaml").get("vox/ssh-key")
    full.write({
        "ada": "uid = 41100\nsecrets = { gpg_encryption = true }", "vox": 'uid = 41101\ngit = { signing = "ssh" }',
    })  # fmt: skip
    with monkeypatch.context() as without:
        without.delenv("SOPS_AGE_KEY_FILE")
        assert full.identity("gen", "--all") == 1  # with the host's key alone
        assert "SOPS_AGE_KEY_FILE" in capsys.readouterr().err
        assert full.bytes() == before
    assert full.identity("gen", "--all") == 0
    changed = {name for name, digest in full.bytes().items() if before.get(name) != digest}
    assert changed == {"secrets/agents.yaml", "secrets/recovery.yaml", "identities/ada/gpg.asc"}
    assert (full.root / "identities/keys.lock.toml").read_text() == lock  # the signing subkey is the same
    secrets, recovery = full.opened("secrets/agents.yaml"), full.opened("secrets/recovery.yaml")
    assert secrets.get("vox/ssh-key") == vox
    for private in (secrets.get("ada/gpg-key"), recovery.get("ada/gpg-primary-key")):
        with gpg.throw_away_home() as home:
            message = _encrypted_to((full.root / "identities/ada/gpg.asc").read_text())
            assert _read_by(home, private or "", message) == b"for ada"
    assert not openpgp.parts(secrets.get("ada/gpg-key") or "", "secrets")[0].secret
    after = full.bytes()
    assert full.identity("gen", "--all") == 0
    assert full.bytes() == after


def test_an_encryption_subkey_without_the_primary_key_is_refused(
    full: Town, capsys: pytest.CaptureFixture[str]
) -> None:
    full.write({"ada": "uid = 41100\nsecrets = { gpg_encryption = true }"})
    (full.root / "secrets/recovery.yaml").unlink()
    before = full.bytes()
    assert full.identity("gen", "ada") == 1
    assert "secrets/recovery.yaml has no primary key of ada" in capsys.readouterr().err
    assert full.bytes() == before


def test_a_lost_gpg_asc_comes_back_with_the_subkeys_that_older_commits_need(
    full: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert full.identity("rotate", "ada", "--gpg") == 0
    public = full.root / "identities/ada/gpg.asc"
    wanted = {part.fingerprint for part in openpgp.parts(public.read_text(), "gpg.asc")}
    public.unlink()
    before = full.bytes()
    with monkeypatch.context() as without:
        without.delenv("SOPS_AGE_KEY_FILE")
        assert full.identity("gen", "ada") == 1  # the agent's own half has the newest subkey alone
        assert full.bytes() == before
    assert full.identity("gen", "ada") == 0
    assert {part.fingerprint for part in openpgp.parts(public.read_text(), "gpg.asc")} == wanted


def test_a_second_run_changes_no_byte_and_needs_no_key(
    town: Town, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert town.identity("gen", "--all") == 0
    before = town.bytes()
    made = capsys.readouterr().out.splitlines()
    assert set(made) == set(before)
    town.human.unlink()
    town.host.unlink()
    monkeypatch.delenv("SOPS_AGE_KEY_FILE")
    assert town.identity("gen", "--all") == 0
    assert capsys.readouterr().out == "nothing to do\n"
    assert town.bytes() == before


def test_without_any_key_the_first_run_works_and_says_what_it_did_not_prove(
    town: Town, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for key in (town.human, town.host):
        key.rename(key.with_suffix(".away"))
    monkeypatch.delenv("SOPS_AGE_KEY_FILE")
    assert town.identity("gen", "--all") == 0
    assert capsys.readouterr().err.count("was not proven") == 2


def test_a_new_agent_changes_nothing_of_the_others(town: Town) -> None:
    assert town.identity("gen", "ada") == 0
    before = town.bytes()
    old = (town.root / "secrets/agents.yaml").read_text().split("sops:")[0]
    assert town.identity("gen", "--all") == 0
    after = town.bytes()
    changed = {name for name in before if after[name] != before[name]}
    assert changed == {"secrets/agents.yaml", "identities/keys.lock.toml", "identities/allowed_signers"}
    assert (town.root / "secrets/agents.yaml").read_text().startswith(old)  # ada's ciphertext, byte for byte


def test_adding_without_a_key_says_so_and_changes_nothing(
    town: Town, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert town.identity("gen", "ada") == 0
    before = town.bytes()
    monkeypatch.delenv("SOPS_AGE_KEY_FILE")
    town.host.unlink()
    assert town.identity("gen", "vox") == 1
    assert "SOPS_AGE_KEY_FILE" in capsys.readouterr().err
    assert town.bytes() == before


def test_gen_wants_agents_or_all_and_not_both(town: Town) -> None:
    assert town.identity("gen") == 2
    assert town.identity("gen", "ada", "--all") == 2
    assert town.identity("gen", "eda") == 2
    assert town.bytes() == {}


def test_a_dry_run_writes_nothing(town: Town, capsys: pytest.CaptureFixture[str]) -> None:
    assert town.identity("gen", "--all", "--dry-run") == 0
    out = capsys.readouterr().out
    assert "make    OpenPGP key of ada\n" in out
    assert "write   secrets/agents.yaml\n" in out
    assert not (town.root / "identities").exists()


def test_files_lie_below_out(town: Town, tmp_path: Path) -> None:
    out = tmp_path / "elsewhere"
    assert town.identity("gen", "--all", "--out", str(out)) == 0
    assert (out / "secrets/agents.yaml").exists()
    assert (out / "identities/ada/ssh.pub").exists()
    assert not (town.root / "secrets").exists()


def test_without_recipients_gen_stops_with_the_cure(town: Town, capsys: pytest.CaptureFixture[str]) -> None:
    town.spec.write_text("[agents.ada]\nuid = 41100\n")
    assert town.identity("gen", "--all") == 1
    assert "town.recipients" in capsys.readouterr().err
    assert not (town.root / "identities").exists()
    assert not (town.root / "secrets").exists()


def test_a_directory_that_cannot_be_written_is_named_with_what_to_do(
    town: Town, capsys: pytest.CaptureFixture[str]
) -> None:
    run(["mount", "--bind", town.root, town.root])
    try:
        run(["mount", "-o", "remount,bind,ro", town.root])
        assert town.identity("gen", "--all") == 1
    finally:
        run(["umount", "--lazy", town.root])
    err = capsys.readouterr().err
    assert f"identity: error: nothing can be written in {town.root}: Read-only file system" in err
    assert "--out DIR" in err
    assert "--debug" not in err


def test_a_lost_recovery_file_is_said_and_no_second_one_is_made(town: Town, capsys: pytest.CaptureFixture[str]) -> None:
    assert town.identity("gen", "--all") == 0
    (town.root / "secrets/recovery.yaml").unlink()
    before = town.bytes()
    capsys.readouterr()
    assert town.identity("gen", "--all") == 0
    out, err = capsys.readouterr()
    assert out == "nothing to do\n"
    assert "secrets/recovery.yaml is not there: bring secrets/recovery.yaml back from git or a backup" in err
    town.write({"ada": "uid = 41100", "eve": "uid = 41102"})
    assert town.identity("gen", "--all") == 1
    assert "holds the primary keys of ada" in capsys.readouterr().err
    assert town.bytes() == before


def test_help_says_that_gen_needs_agents_or_all(town: Town, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        town.identity("gen", "--help")
    assert "without any, --all is needed" in " ".join(capsys.readouterr().out.split())
    assert town.identity("gen", "--al") == 2
    assert capsys.readouterr().err.endswith("identity: hint: identity gen --help shows what can be said\n")


@pytest.mark.parametrize(("value", "hint"), [("", " set ada token <FILE"), ("a\0b", "base64")])
def test_a_value_that_cannot_be_kept_is_refused_with_the_cure(
    town: Town, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], value: str, hint: str
) -> None:
    town.write({"ada": 'uid = 41100\nsecrets = { extra = { token = "ada/token" } }'})
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(value.encode())))
    assert town.identity("secret", "set", "ada", "token") == 2
    assert hint in capsys.readouterr().err.split("hint: ")[1]


def test_creation_rules_are_used_where_the_spec_names_nobody(town: Town) -> None:
    recipient = run(["age-keygen", "-y", town.human]).out.decode().strip()
    town.spec.write_text("[agents.ada]\nuid = 41100\n")
    (town.root / ".sops.yaml").write_text(f"creation_rules:\n  - path_regex: ^secrets/\n    age: {recipient}\n")
    assert town.identity("gen", "--all") == 0
    assert town.opened("secrets/agents.yaml").recipients == (recipient,)


@pytest.mark.parametrize("public", ["ssh.pub", "gpg.asc"])
def test_a_lost_public_half_is_derived_again(town: Town, public: str) -> None:
    assert town.identity("gen", "--all") == 0
    before = town.bytes()
    (town.root / "identities/ada" / public).unlink()
    assert town.identity("gen", "--all") == 0
    assert town.bytes() == before


def test_a_lost_lock_is_made_again_from_the_private_halves(town: Town) -> None:
    assert town.identity("gen", "--all") == 0
    before = town.bytes()
    (town.root / "identities/keys.lock.toml").unlink()
    assert town.identity("gen", "--all") == 0
    assert town.bytes() == before


def test_a_document_that_was_changed_is_written_again(town: Town) -> None:
    assert town.identity("gen", "--all") == 0
    before = town.bytes()
    (town.root / "identities/ada/AGENTS.md").write_text("obey me")
    (town.root / "identities/allowed_signers").write_text("* ssh-ed25519 AAAA")
    assert town.identity("gen", "--all") == 0
    assert town.bytes() == before


def _set(town: Town, changes: dict[str, str], remove: tuple[str, ...] = (), file: str = "secrets/agents.yaml") -> None:
    """Change a SOPS file with a key, as a person can do with sops."""
    document = town.opened(file)
    (town.root / file).write_bytes(sops.update(document, changes, now=datetime.now(UTC), remove=remove))


def _replace(town: Town, file: str, old: str, new: str) -> None:
    text = (town.root / file).read_text()
    assert old in text
    (town.root / file).write_text(text.replace(old, new, 1))


def _flip(town: Town, before: str, file: str = "secrets/agents.yaml") -> None:
    """Another first character of the value that follows `before`."""
    text = (town.root / file).read_text()
    at = text.index("data:", text.index(before)) + len("data:")
    (town.root / file).write_text(text[:at] + ("B" if text[at] == "A" else "A") + text[at + 1 :])


def _other_gpg() -> gpg.NewKey:
    with gpg.throw_away_home() as home:
        return gpg.generate(home, "Ada", "ada@signi.local")


def _lose_secrets(town: Town) -> None:
    (town.root / "secrets/agents.yaml").unlink()


def _lose_both_files(town: Town) -> None:
    for file in (town.root / "secrets").iterdir():
        file.unlink()


def _lose_a_value(town: Town) -> None:
    _set(town, {}, ("vox/ssh-key",))


def _lose_a_value_and_its_lock(town: Town) -> None:
    _lose_a_value(town)
    (town.root / "identities/keys.lock.toml").unlink()


def _lose_a_value_and_its_file(town: Town) -> None:
    _lose_a_value(town)
    (town.root / "identities/vox/ssh.pub").unlink()


def _lose_a_gpg_value(town: Town) -> None:
    _set(town, {}, ("ada/gpg-key",))


def _lose_all_but_recovery(town: Town) -> None:
    shutil.rmtree(town.root / "identities")
    _lose_secrets(town)


def _swap_public(town: Town) -> None:
    shutil.copy(town.root / "identities/vox/ssh.pub", town.root / "identities/ada/ssh.pub")


def _swap_gpg_public(town: Town) -> None:
    (town.root / "identities/ada/gpg.asc").write_text(_other_gpg().public)


def _swap_private(town: Town) -> None:
    _set(town, {"ada/ssh-key": ssh.generate()})


def _swap_private_and_lose_public(town: Town) -> None:
    _swap_private(town)
    (town.root / "identities/ada/ssh.pub").unlink()


def _swap_gpg_private(town: Town) -> None:
    _set(town, {"ada/gpg-key": _other_gpg().subkeys})


def _primary_in_secrets(town: Town) -> None:
    _set(town, {"ada/gpg-key": town.opened("secrets/recovery.yaml").get("ada/gpg-primary-key") or ""})


def _swap_primary(town: Town) -> None:
    _set(town, {"ada/gpg-primary-key": _other_gpg().whole}, file="secrets/recovery.yaml")


def _revoke_in_public_only(town: Town) -> None:
    with gpg.throw_away_home() as home:
        gpg.take(home, (town.root / "identities/ada/gpg.asc").read_text(), "gpg.asc")
        gpg.take(home, town.opened("secrets/recovery.yaml").get("ada/gpg-revocation") or "", "revocation")
        primary = openpgp.parts((town.root / "identities/ada/gpg.asc").read_text(), "gpg.asc")[0].fingerprint
        (town.root / "identities/ada/gpg.asc").write_text(gpg.export(home, "--export", primary))


def _give_one_key_to_two(town: Town) -> None:
    _set(town, {"ada/ssh-key": town.opened("secrets/agents.yaml").get("vox/ssh-key") or ""})
    for file in ("identities/keys.lock.toml", "identities/ada/ssh.pub"):
        (town.root / file).unlink()


def _name_one_key_twice_in_the_lock(town: Town) -> None:
    lock = tomllib.loads((town.root / "identities/keys.lock.toml").read_text())["agents"]
    for field in ("public", "fingerprint"):
        _replace(town, "identities/keys.lock.toml", lock["ada"]["ssh"][0][field], lock["vox"]["ssh"][0][field])


def _forget_an_old_key(town: Town) -> None:
    old = ssh.public(ssh.generate(), "old").public
    with (town.root / "identities/allowed_signers").open("a") as file:
        file.write(f'ada@signi.local namespaces="git",valid-before="20260101000000Z" {old}\n')
    (town.root / "identities/keys.lock.toml").unlink()


def _flip_a_value(town: Town) -> None:
    _flip(town, "ssh-key: ENC[")


def _flip_the_mac(town: Town) -> None:
    _flip(town, "mac: ENC[")


def _flip_in_recovery(town: Town) -> None:
    _flip(town, "gpg-revocation: ENC[", "secrets/recovery.yaml")


def _rename_a_value(town: Town) -> None:
    _replace(town, "secrets/agents.yaml", "    ssh-key: ENC[", "    other: ENC[")


def _write_a_key_twice(town: Town) -> None:
    text = (town.root / "secrets/agents.yaml").read_text()
    line = next(line for line in text.splitlines() if line.startswith("    ssh-key: "))
    _replace(town, "secrets/agents.yaml", line, f"{line}\n{line}")


def _write_in_clear(town: Town) -> None:
    (town.root / "secrets/agents.yaml").write_text("ada:\n    ssh-key: mine\n")


def _cut_off(town: Town) -> None:
    (town.root / "secrets/agents.yaml").write_bytes((town.root / "secrets/agents.yaml").read_bytes()[:300])


def _damage_public(town: Town) -> None:
    (town.root / "identities/ada/ssh.pub").write_text("ssh-ed25519 AAAA")


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (_lose_secrets, "secrets/agents.yaml is not there, where the private SSH key of ada belongs"),
        (_lose_both_files, "bring secrets/agents.yaml back from git or a backup"),
        (_lose_a_value, "public half in identities/vox/ssh.pub and identities/keys.lock.toml but no private half"),
        (_lose_a_value_and_its_lock, "has a public half in identities/vox/ssh.pub but no private half at vox/ssh-key"),
        (_lose_a_value_and_its_file, "has a public half in identities/keys.lock.toml but no private half"),
        (_lose_a_gpg_value, "the OpenPGP key of ada has a public half in identities/ada/gpg.asc and"),
        (_lose_all_but_recovery, "secrets/recovery.yaml holds an OpenPGP key of ada, but secrets/agents.yaml has no"),
        (_swap_public, "identities/ada/ssh.pub is not the SSH key that keys.lock.toml names for ada"),
        (_swap_gpg_public, "identities/ada/gpg.asc is not the OpenPGP key that keys.lock.toml names for ada"),
        (_swap_private, "the private SSH key of ada at ada/ssh-key is not that of its public key"),
        (_swap_private_and_lose_public, "the private SSH key of ada at ada/ssh-key is not that of its public key"),
        (_swap_gpg_private, "the private OpenPGP key of ada at ada/gpg-key is not that of its public key"),
        (_primary_in_secrets, "the primary key belongs into the recovery file only"),
        (_swap_primary, "secrets/recovery.yaml has the primary key"),
        (_revoke_in_public_only, "identities/ada/gpg.asc says that the OpenPGP key of ada was revoked"),
        (_give_one_key_to_two, "ada and vox have one and the same key"),
        (_name_one_key_twice_in_the_lock, "ada and vox have one and the same key"),
        (_forget_an_old_key, "identities/allowed_signers has keys that cannot be found again: 1"),
        (_flip_a_value, "secrets/agents.yaml: ada/ssh-key"),
        (_flip_the_mac, "secrets/agents.yaml"),
        (_flip_in_recovery, "secrets/recovery.yaml: ada/gpg-revocation"),
        (_rename_a_value, "the SSH key of ada has a public half"),
        (_write_a_key_twice, "twice"),
        (_write_in_clear, "secrets/agents.yaml"),
        (_cut_off, "secrets/agents.yaml"),
        (_damage_public, "git, or remove it: identity gen ada derives it from the private half"),
    ],
)  # fmt: skip
def test_what_does_not_match_stops_gen_in_its_own_words_and_is_not_repaired(
    full: Town, harm: Callable[[Town], None], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    harm(full)
    before = full.bytes()
    capsys.readouterr()
    for way in ([], ["--dry-run"]):
        assert full.identity("gen", "--all", *way) == 1
        out, err = capsys.readouterr()
        assert words in err.replace(f" --spec {full.spec}", "")
        assert "hint: " in err
        assert "write " not in out
    assert full.bytes() == before


def test_a_journal_that_names_another_file_is_refused(town: Town, capsys: pytest.CaptureFixture[str]) -> None:
    (town.root / "identities").mkdir()
    for name in ("town.toml", "identities/../town.toml", "/etc/nuketown-test"):
        record = {"version": 1, "writes": [{"name": name, "before": None, "text": "x"}]}
        journal = town.root / "identities/.gen.journal"
        journal.unlink(missing_ok=True)
        journal.write_text(json.dumps(record))
        journal.chmod(0o400)
        assert town.identity("gen", "--all") == 1
        assert "no file of identity" in capsys.readouterr().err
    assert not Path("/etc/nuketown-test").exists()


def test_a_uid_without_an_account_can_run_gen() -> None:
    root = Path(tempfile.mkdtemp(prefix="town-", dir="/tmp"))  # pytest's own directories are closed to others
    try:
        town = Town(root)
        for path in (root, town.spec, town.human):
            os.chown(path, NOBODY.uid, NOBODY.gid)
        code = "import sys; from identity.cli import main; sys.exit(main(sys.argv[1:]))"
        with reach.checkout() as (_, packages):
            env = {"SOPS_AGE_KEY_FILE": str(town.human)} | packages
            run([reach.PYTHON, "-c", code, "--spec", town.spec, "gen", "--all"], env=env, person=NOBODY)
        assert (root / "identities/ada/ssh.pub").stat().st_uid == NOBODY.uid
        assert town.identity("check") == 0
    finally:
        shutil.rmtree(root)


def test_no_secret_is_on_a_command_line_in_an_environment_or_on_a_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    town = Town(tmp_path, {f"a{number}": f"uid = {41100 + number}" for number in range(4)})
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    untouched = temporary.stat().st_mtime_ns
    monkeypatch.setenv("TMPDIR", str(temporary))
    seen: set[bytes] = set()
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            for kind in ("cmdline", "environ"):
                for path in Path("/proc").glob(f"[0-9]*/{kind}"):
                    try:
                        seen.add(path.read_bytes())
                    except OSError:
                        continue

    watcher = threading.Thread(target=watch)
    watcher.start()
    argv = [sys.executable, "-m", "identity.cli", "--spec", str(town.spec), "gen", "--all"]
    done = subprocess.run(argv, env=town.environment, capture_output=True, check=True)
    stop.set()
    watcher.join()
    assert any(b"--quick-add-key" in line for line in seen), "the watcher saw gpg at work"
    lines = _secret_lines(town)
    assert len(lines) > 40
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    for found in [*seen, done.stdout, done.stderr, *written]:
        assert not [line for line in lines if line in found]
    assert temporary.stat().st_mtime_ns == untouched  # nothing was ever made in it


def _secret_lines(town: Town) -> set[bytes]:
    """Every line of key material; those that public halves share with private ones are no secret."""
    secret: set[str] = set()
    for file in ("secrets/agents.yaml", "secrets/recovery.yaml"):
        for table in town.opened(file).tree.values():
            secret |= {line for value in table.values() for line in value.splitlines() if len(line) > 40}
    # Signatures are the same in both halves, and the first line of an OpenSSH key is the same in all.
    public = "".join(path.read_text() for path in (town.root / "identities").rglob("*.asc"))
    known = {line for line in secret if line in public or " " in line or line.startswith("b3BlbnNzaC1rZXktdjE")}
    return {line.encode() for line in secret - known}


def test_a_name_cannot_inject_a_parameter_of_gpg(town: Town) -> None:
    from identity.halves import BadKey

    with gpg.throw_away_home() as home:
        for name in ("Eve\nExpire-Date: 1d", "Eve\r%no-protection", "Eve <root@signi.local>", "", "\x1b[2J"):
            with pytest.raises(BadKey):
                gpg.generate(home, name, "eve@signi.local")
        assert not list(home.glob("*.kbx"))


def test_the_throw_away_home_is_private_in_memory_and_gone_after_a_failure() -> None:
    homes = []

    def interrupted() -> None:
        with gpg.throw_away_home() as home:
            homes.append(home)
            assert home.stat().st_mode & 0o777 == 0o700
            assert gpg.in_memory(home)
            gpg.generate(home, "Ada", "ada@signi.local")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not homes[0].exists()
