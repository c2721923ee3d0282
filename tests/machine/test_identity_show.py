"""show tells public facts only, each key as the real tools take it, and never a byte of a secret."""

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from identity import found, lock, places, qr, signers
from identity.halves import GpgKey
from identity.keys import gpg, ssh
from identity.lock import Entry, KeptGpg, KeptSsh
from tests.machine import checked
from tests.machine.checked import TOKEN, Town
from town import spec
from town.process import run

THEN, LATER = datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 9, 1, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checked.make(tmp_path_factory.mktemp("made"))


@pytest.fixture
def town(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Town:
    return checked.copied(made, tmp_path, monkeypatch)


def _shown(town: Town, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    assert town.identity("show", *words) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def _refused(town: Town, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    capsys.readouterr()
    status = town.identity("show", *words)
    out, err = capsys.readouterr()
    assert out == ""
    return status, err


def _entry(town: Town, name: str = "ada") -> Entry:
    return found.read_lock(places.places(spec.load(town.spec)))[name]


def _locked(town: Town, name: str, entry: Entry) -> None:
    where = places.places(spec.load(town.spec))
    known = {**found.read_lock(where), name: entry}
    where.path(places.LOCK).write_text(lock.text(known))
    where.path(places.ALLOWED_SIGNERS).write_text(signers.allowed_signers(known))


def test_the_facts_are_those_of_the_spec_and_the_lock(town: Town, capsys: pytest.CaptureFixture[str]) -> None:
    entry = _entry(town)
    key = entry.gpg[0].key
    assert key.expires is not None
    assert _shown(town, capsys, "ada").splitlines() == [
        "name      ada",
        "role      agent",
        "uid       41100",
        "home      /nonexistent/agents/ada",
        "commits   Ada <ada@signi.local>, signed with OpenPGP",
        f"ssh       {entry.ssh[0].key.fingerprint} (in use)",
        f"gpg       {key.primary}",
        f"          {key.signing} (in use, created {key.created:%Y-%m-%dT%H:%M:%SZ}, "
        f"expires {key.expires:%Y-%m-%dT%H:%M:%SZ})",
        "secrets   token",
        "runtimes  claude-code, agents-md",
    ]


def test_json_has_the_same_facts(town: Town, capsys: pytest.CaptureFixture[str]) -> None:
    facts = json.loads(_shown(town, capsys, "vox", "--json"))
    key = _entry(town, "vox").ssh[0].key
    assert facts["git"] == {"name": "Vox", "email": "vox@signi.local", "signing": "ssh"}
    assert [(one["state"], one["public"], one["fingerprint"]) for one in facts["ssh"]] == [
        ("in use", key.public, key.fingerprint)
    ]
    assert (facts["gpg"], facts["secrets"]) == ([], [])


def test_ssh_prints_the_line_that_ssh_keygen_reads(town: Town, capsys: pytest.CaptureFixture[str]) -> None:
    line = _shown(town, capsys, "ada", "--ssh")
    assert line == (town.root / "identities/ada/ssh.pub").read_text()
    said = run(["ssh-keygen", "-l", "-f", "/dev/stdin"], feed=line.encode()).out.decode()
    assert _entry(town).ssh[0].key.fingerprint in said


def test_gpg_prints_the_key_that_gpg_reads(town: Town, capsys: pytest.CaptureFixture[str]) -> None:
    text = _shown(town, capsys, "ada", "--gpg")
    assert text == (town.root / "identities/ada/gpg.asc").read_text()
    with gpg.throw_away_home() as home:
        said = run(
            ["gpg", "--with-colons", "--show-keys"], feed=text.encode(), env={"GNUPGHOME": str(home)}
        ).out.decode()
    assert _entry(town).gpg[0].key.primary in said


def test_keys_that_were_rotated_or_revoked_are_told_with_their_times(
    town: Town, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = _entry(town)
    old, older = (ssh.public(ssh.generate(), "old") for _ in range(2))
    last = entry.gpg[0].key
    before = GpgKey(last.primary, "0" * 40, THEN, None)
    kept = Entry(
        entry.email,
        (KeptSsh(older, None, THEN, LATER), KeptSsh(old, THEN, LATER), KeptSsh(entry.ssh[0].key, LATER)),
        (KeptGpg(before, LATER), KeptGpg(last)),
    )
    _locked(town, "ada", kept)
    lines = _shown(town, capsys, "ada").splitlines()
    assert lines[5:8] == [
        f"ssh       {entry.ssh[0].key.fingerprint} (in use, since 2026-09-01T12:00:00Z)",
        f"ssh       {old.fingerprint} (rotated, since 2026-03-01T00:00:00Z, until 2026-09-01T12:00:00Z)",
        f"ssh       {older.fingerprint} (until 2026-03-01T00:00:00Z, revoked 2026-09-01T12:00:00Z)",
    ]
    assert lines[11] == f"          {'0' * 40} (created 2026-03-01T00:00:00Z, revoked 2026-09-01T12:00:00Z)"


def test_a_revoked_key_is_not_printed_as_the_key_to_use(town: Town, capsys: pytest.CaptureFixture[str]) -> None:
    entry = _entry(town)
    _locked(town, "ada", Entry(entry.email, (KeptSsh(entry.ssh[0].key, None, None, LATER),), entry.gpg))
    for words in (("--ssh",), ("--ssh", "--qr")):
        status, err = _refused(town, capsys, "ada", *words)
        assert status == 1
        assert "the SSH key of ada was revoked and it has no other" in err


@pytest.mark.parametrize("words", [("--ssh",), ("--gpg",), ("--qr",)])
def test_without_keys_each_option_says_how_they_are_made(
    town: Town, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    shutil.rmtree(town.root / "identities")
    status, err = _refused(town, capsys, "ada", *words)
    assert status == 1
    assert f"identity gen --spec {town.spec} ada" in err
    assert town.identity("show", "ada") == 0
    out, err = capsys.readouterr()
    assert out.startswith("name      ada\n")
    assert "ssh" not in out.replace("runtimes", "")
    assert "identity gen" in err


def test_nothing_but_the_one_public_key_of_the_lock_is_printed(town: Town, capsys: pytest.CaptureFixture[str]) -> None:
    file = town.root / "identities/ada/gpg.asc"
    public, whole = file.read_text(), town.opened(town.recovery).get("ada/gpg-primary-key") or ""
    subkeys = town.opened(town.secrets).get("ada/gpg-key") or ""
    in_disguise = whole.replace("PRIVATE KEY BLOCK", "PUBLIC KEY BLOCK")
    hidden = public + whole + public
    for text in (whole, subkeys, public + whole, whole + public, hidden, f"note\n{public}", in_disguise):
        file.write_text(text)
        status, err = _refused(town, capsys, "ada", "--gpg")
        assert status == 1
        assert "holds more than one public OpenPGP key block" in err
    with gpg.throw_away_home() as home:
        file.write_text(gpg.generate(home, "Ada", "ada@signi.local").public)
    status, err = _refused(town, capsys, "ada", "--gpg")
    assert (status, "keys.lock.toml names" in err) == (1, True)


def test_show_opens_no_file_with_secrets_and_prints_none(
    town: Town, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    private = town.opened(town.secrets).get("ada/ssh-key") or ""
    secrets = [*private.splitlines()[2:-1], TOKEN, "PRIVATE KEY"]
    assert len(secrets) > 3
    town.secrets.unlink()
    town.recovery.unlink()
    monkeypatch.delenv("SOPS_AGE_KEY_FILE")
    for words in ((), ("--json",), ("--ssh",), ("--gpg",), ("--qr",), ("--ssh", "--json"), ("--gpg", "--json")):
        out = _shown(town, capsys, "ada", *words)
        assert [one for one in secrets if one in out] == []


def test_the_codes_hold_the_fingerprints(town: Town, capsys: pytest.CaptureFixture[str]) -> None:
    entry = _entry(town)
    primary, fingerprint = entry.gpg[0].key.primary, entry.ssh[0].key.fingerprint
    for words, wanted in (
        ((), [f"OPENPGP4FPR:{primary}", fingerprint]),
        (("--gpg",), [f"OPENPGP4FPR:{primary}"]),
        (("--ssh",), [f"{entry.ssh[0].key.public} ada@signi.local"]),
    ):
        lines = _shown(town, capsys, "ada", "--qr", *words).splitlines()
        blocks = [line for line in lines if not line.startswith(("OpenPGP key ", "SSH key"))]
        assert blocks == [line for text in wanted for line in qr.lines(qr.modules(text), inverted=True)]


def test_a_code_is_drawn_module_by_module() -> None:
    rows = [[True, False, True], [False, False, True], [True, True, False]]
    assert qr.lines(rows, inverted=False) == ["▀ █", "▀▀ "]
    assert qr.lines(rows, inverted=True) == ["▄█ ", "▄▄█"]
    code = qr.modules("OPENPGP4FPR:" + "0" * 40)
    assert not any(code[0] + code[3] + [row[0] for row in code] + [row[-4] for row in code])  # the quiet zone
    finder = [row[4:11] for row in code[4:11]]
    assert finder[0] == [True] * 7
    assert finder[3] == [True, False, True, True, True, False, True]


def test_options_that_exclude_each_other_are_refused(town: Town, capsys: pytest.CaptureFixture[str]) -> None:
    assert _refused(town, capsys, "ada", "--ssh", "--gpg")[0] == 2
    assert _refused(town, capsys, "ada", "--qr", "--json")[0] == 2
    assert _refused(town, capsys, "nobody")[0] == 2
