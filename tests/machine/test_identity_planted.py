"""What somebody else committed beside a spec: links, a journal, a SOPS file, a revocation list. None is obeyed."""

import hashlib
import json
import os
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from identity.keys import gpg
from tests.machine import gentown
from tests.machine.gentown import Town
from town import sops
from town.process import run

pytestmark = pytest.mark.root
made = gentown.made
_DESCRIBED = {"ada": 'uid = 41100\ndescription = "Counts."', "vox": 'uid = 41101\ngit = { signing = "ssh" }'}
_WITH_EVE = _DESCRIBED | {"eve": "uid = 41102"}
_JOURNAL = "identities/.gen.journal"


@pytest.fixture
def town(made: Town, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Town:
    copied = made.copied(tmp_path / "town")
    monkeypatch.setenv("SOPS_AGE_KEY_FILE", str(copied.human))
    copied.write(_DESCRIBED)
    return copied


def _journal(town: Town, name: str, text: str | None, *, run: str = "gen", mode: int = 0o400) -> Path:
    """A journal of one write, as a run leaves it that was killed."""
    path, file = town.root / _JOURNAL, town.root / name
    before = hashlib.sha256(file.read_bytes()).hexdigest() if file.exists() else None
    record = {"version": 2, "run": run, "writes": [{"name": name, "before": before, "text": text}]}
    path.write_text(json.dumps(record))
    path.chmod(mode)
    return path


def _refused(town: Town, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What is said; nothing is changed."""
    held = town.bytes()
    capsys.readouterr()
    assert town.identity(*words) == 1
    assert town.bytes() == held
    return capsys.readouterr().err


def test_a_journal_that_git_brought_is_not_carried_out(
    town: Town, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    (town.root / "identities/x").symlink_to(tmp_path / "out")
    _journal(town, "identities/x/evil", "planted\n")
    git = ["git", "-C", town.root, "-c", "user.name=x", "-c", "user.email=x@x"]
    for words in (["init", "-q"], ["add", "-f", "identities", "town.toml"], ["commit", "-q", "-m", "x"]):
        run([*git, *words])
    # Whatever mode git gives it: that of a umask that hides new files from others too.
    for umask in (0o022, 0o077, 0o027, 0o177):
        (town.root / _JOURNAL).unlink()
        run(["sh", "-c", f"umask {umask:04o}; git -C {town.root} checkout -q -- {_JOURNAL}"])
        for words in (["gen", "ada"], ["gen", "--all", "--dry-run"], ["rotate", "vox", "--ssh"]):
            said = _refused(town, capsys, *words)
            assert ".gen.journal was not left by a run of identity" in said
            assert "remove it" in said
    assert not list((tmp_path / "out").iterdir())


def test_a_journal_of_another_user_is_not_carried_out(town: Town, capsys: pytest.CaptureFixture[str]) -> None:
    path = _journal(town, "identities/vox/ssh.pub", "planted\n")
    os.chown(path, 41100, -1)
    assert "belongs to uid 41100" in _refused(town, capsys, "gen", "--all")


def test_a_journal_writes_through_no_link_in_identities(
    town: Town, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/there").write_text("mine\n")
    (town.root / "identities/x").symlink_to(tmp_path / "out")
    (town.root / "identities/y").symlink_to(tmp_path / "out/there")
    for name, text, link in (("x/evil", "planted\n", "x"), ("y", None, "y"), ("y", "planted\n", "y")):
        _journal(town, f"identities/{name}", text)
        assert f"identities/{link} is a symbolic link" in _refused(town, capsys, "gen", "ada")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["there"]
    assert (tmp_path / "out/there").read_text() == "mine\n"


@pytest.mark.parametrize(
    "name",
    [
        "identities/ada/agents/ada-agent.md", "identities/ada/agents", "identities/ada/AGENTS.md",
        "identities/ada/ssh.pub", "identities/ada/gpg.asc", "identities/ada", "identities/allowed_signers",
        "identities/revoked.krl", "identities/keys.lock.toml", "identities",
    ],
)  # fmt: skip
@pytest.mark.parametrize("gone", [False, True])
def test_gen_follows_no_link_in_identities_and_names_it(
    town: Town, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, gone: bool
) -> None:
    assert town.identity("gen", "--all") == 0
    link, target = town.root / name, tmp_path / "target"
    if gone and not link.is_dir():
        link.unlink()
    elif gone:
        shutil.rmtree(link)
    else:
        link.rename(target)
    link.symlink_to(target)
    before = {path: path.read_bytes() for path in [target, *target.rglob("*")] if path.is_file()}
    said = _refused(town, capsys, "gen", "--all")
    assert f"{name} is a symbolic link" in said
    assert "remove it" in said
    assert {path: path.read_bytes() for path in [target, *target.rglob("*")] if path.is_file()} == before


def test_a_half_written_file_behind_a_link_is_left(
    town: Town, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    half = tmp_path / "out/.x.0123456789ab.new"
    half.parent.mkdir()
    half.touch()
    (town.root / "identities/x").symlink_to(half.parent)
    assert town.identity("gen", "--all") == 0
    (town.root / "identities").rename(tmp_path / "moved")
    (town.root / "identities").symlink_to(half.parent)
    _refused(town, capsys, "gen", "--all")
    assert half.exists()


def test_sops_files_may_be_links_and_stay_what_they_are(town: Town, tmp_path: Path) -> None:
    (town.root / "secrets/agents.yaml").rename(tmp_path / "kept.yaml")
    (town.root / "secrets/agents.yaml").symlink_to(tmp_path / "kept.yaml")
    town.write(_WITH_EVE)
    assert town.identity("gen", "--all") == 0
    assert (town.root / "secrets/agents.yaml").is_symlink()
    assert "eve" in town.opened("secrets/agents.yaml").tree


def test_a_journal_that_does_nothing_does_not_stand_for_a_revocation(town: Town) -> None:
    assert town.identity("gen", "--all") == 0
    _journal(town, "identities/vox/ssh.pub", (town.root / "identities/vox/ssh.pub").read_text(), run="revoke vox ssh")
    assert town.identity("revoke", "vox", "--ssh") == 0
    assert town.opened("secrets/agents.yaml").get("vox/ssh-key") is None
    assert 'namespaces="revoked"' in (town.root / "identities/allowed_signers").read_text()


@pytest.mark.parametrize("words", [["vox", "--ssh"], ["ada", "--gpg"], ["ada", "--gpg", "--extend"]])
def test_a_journal_that_does_nothing_does_not_stand_for_a_rotation(town: Town, words: list[str]) -> None:
    assert town.identity("gen", "--all") == 0
    agent, *options = (word.removeprefix("--") for word in words)
    text = (town.root / f"identities/{agent}/ssh.pub").read_text()
    later = datetime.now(UTC).timestamp() + 3600  # gpg's keys of this town were made just now
    path = _journal(town, f"identities/{agent}/ssh.pub", text, run=f"rotate {agent} {' '.join(options)}")
    os.utime(path, (later, later))
    lock = (town.root / "identities/keys.lock.toml").read_text()
    assert town.identity("rotate", *words) == 0
    assert (town.root / "identities/keys.lock.toml").read_text() != lock


@pytest.mark.parametrize(
    "text",
    [
        "[" * 200_000,
        '{"version": 2, "writes": [{"name": "identities/a\\u0000b", "before": null, "text": ""}]}',
        '{"version": 2, "writes": [{"name": "identities/\\ud800", "before": null, "text": ""}]}',
        '{"version": 2, "writes": [{"name": "identities", "before": null, "text": ""}]}',
        '{"version": 2, "writes": [{"name": "identities/a", "before": 5, "text": ""}]}',
        '{"version": 2, "run": ["x"], "writes": [{"name": ["identities/a"], "before": null, "text": ""}]}',
        '[]',
    ],
)  # fmt: skip
def test_a_journal_that_cannot_be_read_is_said_to_be_one(
    town: Town, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    (town.root / _JOURNAL).write_text(text)
    (town.root / _JOURNAL).chmod(0o400)
    for words in (["gen", "--all"], ["revoke", "vox", "--ssh"]):
        said = _refused(town, capsys, *words)
        assert ".gen.journal" in said
        assert "remove it" in said
        assert len(said) < 1000


def _plant(town: Town, name: str, values: dict[str, str]) -> bytes:
    """A file in the place of the town's, whose data key is known: its maker needs public recipients alone."""
    tree = {agent: {} for agent in (path.split("/")[0] for path in values)}
    for path, value in values.items():
        tree[path.split("/")[0]][path.split("/")[1]] = value
    own = run(["age-keygen", "-y", town.human]).out.decode().strip()
    (town.root / name).write_bytes(sops.create(tree, [own], now=datetime.now(UTC), name=Path(name).name))
    return town.opened(name).data_key


def test_a_new_primary_key_is_not_put_under_the_data_key_of_a_planted_recovery_file(town: Town) -> None:
    (town.root / "identities").rename(town.root / "old")
    (town.root / "secrets/agents.yaml").unlink()
    known = _plant(town, "secrets/recovery.yaml", {"zz/note": "hello"})
    assert town.identity("gen", "--all") == 0
    opened = town.opened("secrets/recovery.yaml")
    assert opened.data_key != known
    assert (opened.get("zz/note"), opened.get("ada/gpg-primary-key") is None) == ("hello", False)


def test_a_recovery_file_that_lacks_primary_keys_gets_no_further_one(
    town: Town, capsys: pytest.CaptureFixture[str]
) -> None:
    _plant(town, "secrets/recovery.yaml", {"zz/note": "hello"})
    town.write(_WITH_EVE)
    said = _refused(town, capsys, "gen", "--all")
    assert "secrets/recovery.yaml has no primary key of ada" in said
    assert "bring secrets/recovery.yaml back" in said


def test_keys_with_forged_private_halves_vouch_for_no_file(town: Town) -> None:
    public = (town.root / "identities/ada/gpg.asc").read_text()
    with gpg.throw_away_home() as home:
        other = gpg.generate(home, "Eve", "eve@signi.local")
    for forged in (public, other.whole, "no key", _grafted(other.whole, public)):
        # `forged` has the primary key that the lock names in two of these, and its private numbers in none.
        known = _plant(town, "secrets/recovery.yaml", {"ada/gpg-primary-key": forged})
        town.write(_DESCRIBED | {"eve": "uid = 41102"})
        held = town.bytes()
        status = town.identity("gen", "eve")
        assert (status, town.bytes()) == (1, held) or town.opened("secrets/recovery.yaml").data_key != known
        if status == 0:
            shutil.rmtree(town.root / "identities/eve")
            _without_eve(town, held)


def _grafted(whole: str, public: str) -> str:
    """A secret key whose public numbers are those of another."""
    from identity.keys import openpgp
    from identity.keys.armor import armored

    secret, named = openpgp.packets(whole, "whole")[0][1], openpgp.packets(public, "public")[0][1]
    body = named + secret[len(named) :]
    return armored(bytes([0xC5, 0xFF]) + len(body).to_bytes(4, "big") + body, "PRIVATE KEY BLOCK")


def _without_eve(town: Town, held: dict[str, str]) -> None:
    from identity import lock as locks

    path = town.root / "identities/keys.lock.toml"
    lock = locks.parse(path.read_bytes(), "lock")
    path.write_text(locks.text({name: entry for name, entry in lock.items() if name != "eve"}))
    secrets = town.root / "secrets/agents.yaml"
    secrets.write_bytes(sops.update(town.opened("secrets/agents.yaml"), {}, now=datetime.now(UTC), remove=["eve"]))
    assert held


def test_a_planted_secrets_file_with_other_keys_gets_a_new_data_key(town: Town) -> None:
    with gpg.throw_away_home() as home:
        other = gpg.generate(home, "Ada", "ada@signi.local").subkeys
    ssh = town.opened("secrets/agents.yaml").get("ada/ssh-key") or ""
    values = {"ada/ssh-key": ssh, "ada/gpg-key": other, "vox/ssh-key": "planted"}
    for missing in ([], ["vox/ssh-key"]):
        # One agent's own key, which that agent has, vouches for nothing that others put there.
        known = _plant(
            town, "secrets/agents.yaml", {path: value for path, value in values.items() if path not in missing}
        )
        town.write(_WITH_EVE)
        held = {path: path.read_bytes() for path in town.root.rglob("*") if path.is_file()}
        assert town.identity("gen", "eve") == 0
        assert town.opened("secrets/agents.yaml").data_key != known
        for path in [path for path in town.root.rglob("*") if path.is_file()]:
            path.unlink() if path not in held else path.write_bytes(held[path])


def test_a_value_that_is_set_is_not_put_under_the_data_key_of_a_planted_file(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    import io
    import sys

    town.write(_DESCRIBED | {"ada": f'{_DESCRIBED["ada"]}\nsecrets = {{ extra = {{ token = "ada/token" }} }}'})
    known = _plant(town, "secrets/agents.yaml", {"ada/ssh-key": "planted", "vox/ssh-key": "planted"})
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"secret\n")))
    assert town.identity("secret", "set", "ada", "token") == 0
    opened = town.opened("secrets/agents.yaml")
    assert (opened.get("ada/token"), opened.data_key == known) == ("secret", False)


def test_a_file_that_holds_the_keys_of_the_lock_keeps_its_data_key(town: Town) -> None:
    names = ("secrets/agents.yaml", "secrets/recovery.yaml")
    before = [(town.root / name).read_text().split("sops:")[0] for name in names]
    keys = [town.opened(name).data_key for name in names]
    town.write(_WITH_EVE)
    assert town.identity("gen", "--all") == 0
    assert [town.opened(name).data_key for name in names] == keys
    for name, old in zip(names, before, strict=True):
        assert (town.root / name).read_text().startswith(old)


def test_a_planted_file_in_groups_keeps_its_groups_with_a_new_data_key(town: Town, tmp_path: Path) -> None:
    (town.root / "identities").rename(town.root / "old")
    (town.root / "secrets/agents.yaml").unlink()
    known = _plant(town, "secrets/recovery.yaml", {"zz/note": "hello"})
    path, own = town.root / "secrets/recovery.yaml", run(["age-keygen", "-y", town.human]).out.decode().strip()
    second = gentown.age_key(tmp_path / "second.key")
    document, now = town.opened("secrets/recovery.yaml"), datetime.now(UTC)
    groups = ((own,), (own, second))
    path.write_bytes(sops.rewrap(document, [own, second], now=now, fresh=False, groups=groups, threshold=2))
    assert town.identity("gen", "--all") == 0
    assert sops.groups_of(path.read_bytes(), "recovery.yaml") == (groups, 2)
    assert town.opened("secrets/recovery.yaml").data_key != known


def test_a_planted_file_with_a_key_service_is_refused_with_a_cure(
    town: Town, capsys: pytest.CaptureFixture[str]
) -> None:
    (town.root / "identities").rename(town.root / "old")
    (town.root / "secrets/agents.yaml").unlink()
    _plant(town, "secrets/recovery.yaml", {"zz/note": "hello"})
    path = town.root / "secrets/recovery.yaml"
    service = (
        'kms:\n        - arn: "arn:x"\n          created_at: "2026-01-01T00:00:00Z"\n          enc: AAAA\n    age:'
    )
    path.write_text(path.read_text().replace("    age:", f"    {service}"))
    said = _refused(town, capsys, "gen", "--all")
    assert "needs a new data key" in said
    assert "identity recipients" in said
    assert town.identity("recipients", "sync") == 0
    assert town.identity("gen", "--all") == 0


@pytest.mark.parametrize("kind", ["hash", "key", "text", "cut", "unknown"])
def test_a_revocation_in_any_form_is_not_forgotten(
    town: Town, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    krl, public = town.root / "identities/revoked.krl", (town.root / "identities/vox/ssh.pub").read_text()
    (tmp_path / "spec").write_text(public if kind == "key" else f"{kind}: {public}")
    if kind in ("hash", "key", "cut"):
        fingerprint = run(["ssh-keygen", "-lf", "-"], feed=public.encode()).out.decode().split()[1]
        (tmp_path / "spec").write_text(public if kind == "key" else f"hash: {fingerprint}\n")
        run(["ssh-keygen", "-q", "-k", "-f", krl, tmp_path / "spec"])
    if kind == "cut":
        krl.write_bytes(krl.read_bytes()[:-1])
    if kind == "text":
        krl.write_text(public)
    if kind == "unknown":
        krl.write_bytes(krl.read_bytes() + b"\x63" + (1).to_bytes(4, "big") + b"x")
    held = krl.read_bytes()
    for words in (["gen", "--all"], ["rotate", "vox", "--ssh"]):
        said = _refused(town, capsys, *words)
        assert "identities/revoked.krl" in said
        assert "a revocation is never taken back" in said
    assert krl.read_bytes() == held


def test_an_older_clock_rotates_and_revokes_nothing(town: Town, capsys: pytest.CaptureFixture[str]) -> None:
    later = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)
    opened = town.opened("secrets/agents.yaml")
    sealed = sops.update(opened, {"ada/x": "x"}, now=later)
    (town.root / "secrets/agents.yaml").write_bytes(sealed)
    for words in (["rotate", "vox", "--ssh"], ["revoke", "vox", "--ssh"], ["rotate", "ada", "--ssh", "--dry-run"]):
        said = _refused(town, capsys, *words)
        assert f"secrets/agents.yaml was written on {later:%Y-%m-%d at %H:%M:%S} UTC" in said
        assert "set the clock" in said
    (town.root / "secrets/agents.yaml").write_bytes(opened.data)
    lock = town.root / "identities/keys.lock.toml"
    text = lock.read_text()
    mark = "[[agents.vox.ssh]]\n"
    lock.write_text(text.replace(mark, f"{mark}since = {later:%Y-%m-%dT%H:%M:%SZ}\n"))
    for words in (["rotate", "vox", "--ssh"], ["revoke", "ada", "--gpg"], ["rotate", "ada", "--gpg", "--extend"]):
        assert f"keys.lock.toml has {later:%Y-%m-%d at %H:%M:%S} UTC" in _refused(town, capsys, *words)
    lock.write_text(text)
    assert town.identity("rotate", "vox", "--ssh") == 0


def test_gpg_changes_no_key_that_its_clock_calls_younger(tmp_path: Path) -> None:
    from identity.halves import BadKey
    from identity.keys import subkeys

    with gpg.throw_away_home() as home:
        late = int(datetime.now(UTC).timestamp()) + 86400
        env = {"GNUPGHOME": str(home)}
        words = ["gpg", "--batch", "--quiet", "--pinentry-mode", "loopback", "--passphrase", ""]
        late_words = [*words, "--faked-system-time", f"{late}!"]
        run([*late_words, "--quick-gen-key", "ada <ada@signi.local>", "ed25519", "cert", "0"], env=env)
        listed = run(["gpg", "--batch", "--with-colons", "--list-keys"], env=env).out.decode().splitlines()
        primary = next(line.split(":")[9] for line in listed if line.startswith("fpr"))
        run([*late_words, "--quick-add-key", primary, "ed25519", "sign", "2y"], env=env)
        whole = run([*words, "--armor", "--export-secret-keys", primary], env=env).out.decode()
        public = run([*words, "--armor", "--export", primary], env=env).out.decode()
    for change in (subkeys.rotated, subkeys.prolonged):
        with gpg.throw_away_home() as home, pytest.raises(BadKey, match="has yet to reach"):
            change(home, whole, public)
