"""Who is believed: a key that nobody's gen, rotate or import put there is found, whatever hides it, and stops gen."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from identity import cli, signers
from identity import lock as locks
from identity.halves import SshKey
from identity.keys import gpg, openpgp, ssh
from identity.keys.armor import armored, dearmored
from identity.lock import Entry, KeptSsh
from tests.machine import checked
from tests.machine.checked import Town
from town.process import run

_REVOKES_KEY = 0x20


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checked.make(tmp_path_factory.mktemp("made"))


@pytest.fixture
def town(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Town:
    return checked.copied(made, tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def stranger() -> gpg.NewKey:
    """A key of somebody else that says that it is ada's."""
    with gpg.throw_away_home() as home:
        return gpg.generate(home, "ada", "ada@signi.local")


def _packet(tag: int, body: bytes) -> bytes:
    return bytes([0xC0 | tag, 0xFF]) + len(body).to_bytes(4, "big") + body


def _packets(text: str) -> list[tuple[int, bytes]]:
    return openpgp.packets(text, "a key")


def _in_front_as_revoked(mine: str, other: gpg.NewKey) -> str:
    """With a revocation of one wrong byte behind its primary key: gpg leaves that out."""
    certificate = _packets_of_signature(other.revocation)
    broken = certificate[:-1] + bytes([certificate[-1] ^ 1])
    first, *rest = _packets(other.public)
    theirs = [first, (2, broken), *rest]
    return _armor(b"".join(_packet(*one) for one in theirs) + dearmored(mine))


def _packets_of_signature(revocation: str) -> bytes:
    data = dearmored(revocation[revocation.index("-----BEGIN") :])
    (body,) = (body for tag, body in openpgp._packets(data) if tag == 2 and body[1] == _REVOKES_KEY)
    return body


def _second_block(mine: str, other: gpg.NewKey) -> str:
    return mine + other.public


def _behind_the_checksum(mine: str, other: gpg.NewKey) -> str:
    head, end = mine.rsplit("-----END", 1)
    return f"{head}{other.public}-----END{end}"


def _block_of_another_name(mine: str, other: gpg.NewKey) -> str:
    """gpg knows no such block and goes on to the next."""
    return mine.replace("PUBLIC KEY BLOCK", "PUBLIC KEYS") + other.public


def _compressed(mine: str, other: gpg.NewKey) -> str:
    """gpg looks into a packet that is compressed, here with algorithm 0: not at all."""
    return _armor(dearmored(mine) + _packet(8, b"\0" + dearmored(other.public)))


def _secret(mine: str, other: gpg.NewKey) -> str:
    """A private key under the name of a public one, which gpg takes too."""
    return _armor(dearmored(mine) + dearmored(other.whole))


def _armor(data: bytes) -> str:
    return armored(data, "PUBLIC KEY BLOCK")


HIDDEN = [_in_front_as_revoked, _second_block, _behind_the_checksum, _block_of_another_name, _compressed, _secret]


@pytest.mark.parametrize("hide", HIDDEN)
def test_a_strangers_key_in_gpg_asc_is_an_error_and_stops_gen(
    town: Town,
    stranger: gpg.NewKey,
    capsys: pytest.CaptureFixture[str],
    hide: Callable[[str, gpg.NewKey], str],
) -> None:
    file = town.root / "identities/ada/gpg.asc"
    file.write_text(hide(file.read_text(), stranger))
    status, levels = town.found(capsys)
    assert status == 4
    assert {one["where"] for one in levels["error"]} <= {"ada", "identities/ada/gpg.asc"}
    before = file.read_bytes()
    for words in (("gen", "--all"), ("rotate", "ada", "--gpg"), ("revoke", "ada", "--gpg")):
        assert town.identity(*words) == 1
    assert "gpg.asc" in capsys.readouterr().err
    assert file.read_bytes() == before


def test_gpg_takes_the_stranger_that_was_hidden_as_revoked(town: Town, stranger: gpg.NewKey) -> None:
    text = _in_front_as_revoked((town.root / "identities/ada/gpg.asc").read_text(), stranger)
    with gpg.throw_away_home() as home:
        gpg.take(home, text, "gpg.asc")
        listed = run(["gpg", "--batch", "--with-colons", "--list-keys"], env={"GNUPGHOME": str(home)}).out.decode()
    assert openpgp.facts(stranger.public, "x").primary in listed
    assert "pub:r:" not in listed


def test_a_signing_subkey_that_the_lock_does_not_name_is_an_error_and_stops_gen(
    town: Town, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = town.opened(town.recovery).get("ada/gpg-primary-key") or ""
    file = town.root / "identities/ada/gpg.asc"
    primary, signing = (part.fingerprint for part in openpgp.parts(file.read_text(), "x"))
    with gpg.throw_away_home() as home:
        gpg.take(home, whole, "whole")
        past = "20200101T000000!"
        words = ["--batch", "--pinentry-mode", "loopback", "--passphrase", "", "--faked-system-time", past]
        env = {"GNUPGHOME": str(home)}
        words += ["--ignore-time-conflict", "--ignore-valid-from"]
        run(["gpg", *words, "--quick-add-key", primary, "ed25519", "sign", "never"], env=env)
        file.write_text(gpg.export(home, "--export", primary))
    assert openpgp.facts(file.read_text(), "x").signing == signing
    status, levels = town.found(capsys)
    assert status == 4
    assert any("which keys.lock.toml does not name" in one["what"] for one in levels["error"])
    assert town.identity("gen", "--all") == 1


def test_a_strangers_key_for_an_agent_that_has_none_is_an_error(
    town: Town, stranger: gpg.NewKey, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("vox", "zed"):
        file = town.root / f"identities/{name}/gpg.asc"
        file.parent.mkdir(exist_ok=True)
        file.write_text(stranger.public)
        status, levels = town.found(capsys)
        assert (status, [one["where"] for one in levels["error"]]) == (4, [f"identities/{name}/gpg.asc"])
        file.unlink()


def test_a_lost_lock_is_not_made_anew_from_a_gpg_asc_with_a_stranger(town: Town, stranger: gpg.NewKey) -> None:
    (town.root / "identities/keys.lock.toml").unlink()
    file = town.root / "identities/ada/gpg.asc"
    before = file.read_text()
    file.write_text(_in_front_as_revoked(before, stranger))
    assert town.identity("gen", "--all") == 1
    file.write_text(before)
    assert town.identity("gen", "--all") == 0


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_armor_with_headers_and_other_line_ends_is_no_stranger(
    town: Town, capsys: pytest.CaptureFixture[str], line_end: str
) -> None:
    file = town.root / "identities/ada/gpg.asc"
    text = file.read_text().replace("BLOCK-----\n\n", "BLOCK-----\nComment: of ada\n\n", 1)
    file.write_bytes(text.replace("\n", line_end).encode())
    assert town.found(capsys) == (0, {})


def _locked(town: Town) -> dict[str, Entry]:
    file = town.root / "identities/keys.lock.toml"
    return locks.parse(file.read_bytes(), str(file))


def _believed(town: Town, lock: dict[str, Entry]) -> None:
    """The lock as somebody edited it, and what follows from it."""
    (town.root / "identities/keys.lock.toml").write_text(locks.text(lock))
    (town.root / "identities/allowed_signers").write_text(signers.allowed_signers(lock))
    (town.root / "identities/revoked.krl").write_bytes(signers.krl(lock))


def _other() -> SshKey:
    return ssh.public(ssh.generate(), "another key")


def _whats(town: Town, capsys: pytest.CaptureFixture[str], level: str) -> list[str]:
    status, levels = town.found(capsys)
    assert status == {"error": 4, "warning": 3}[level]
    return [one["what"] for one in levels[level] if one["where"] == "identities/keys.lock.toml"]


def test_a_time_in_the_lock_that_is_yet_to_come_is_an_error(town: Town, capsys: pytest.CaptureFixture[str]) -> None:
    lock, far = _locked(town), datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
    (mine,) = lock["ada"].ssh
    soon = datetime.now(UTC).replace(microsecond=0) + timedelta(minutes=20)
    for ssh_keys in (
        (KeptSsh(_other(), until=far), KeptSsh(mine.key, since=datetime(2020, 1, 1, tzinfo=UTC))),
        (KeptSsh(_other(), until=datetime(2019, 1, 1, tzinfo=UTC)), KeptSsh(mine.key, since=soon)),
        (KeptSsh(_other(), revoked=far), KeptSsh(mine.key, since=datetime(2020, 1, 1, tzinfo=UTC))),
    ):
        _believed(town, {**lock, "ada": Entry(lock["ada"].email, ssh_keys, lock["ada"].gpg)})
        assert any("is yet to come" in what for what in _whats(town, capsys, "error"))


def test_two_keys_of_one_agent_that_are_believed_at_one_time_are_an_error(
    town: Town, capsys: pytest.CaptureFixture[str]
) -> None:
    lock, year = _locked(town), timedelta(days=365)
    (mine,) = lock["ada"].ssh
    ended = datetime(2024, 1, 1, tzinfo=UTC)
    for since, wrong in ((None, True), (ended - year, True), (ended - timedelta(seconds=1), False), (ended, False)):
        keys = (KeptSsh(_other(), until=ended), KeptSsh(mine.key, since=since))
        _believed(town, {**lock, "ada": Entry(lock["ada"].email, keys, lock["ada"].gpg)})
        if wrong:
            assert any("at one time" in what for what in _whats(town, capsys, "error"))
        else:
            assert town.found(capsys) == (0, {})


@pytest.mark.parametrize("email", ["ada@signi.local", "Ada@SIGNI.local"])
def test_an_agent_with_the_address_of_another_is_an_error_and_stops_gen(
    town: Town, capsys: pytest.CaptureFixture[str], email: str
) -> None:
    _believed(town, {**_locked(town), "zed": Entry(email, (KeptSsh(_other()),))})
    assert any(email in what for what in _whats(town, capsys, "error"))
    before = (town.root / "identities/allowed_signers").read_text()
    assert town.identity("gen", "--all") == 1
    assert "zed" in capsys.readouterr().err
    assert (town.root / "identities/allowed_signers").read_text() == before


def test_gen_gives_no_two_agents_one_address(town: Town, capsys: pytest.CaptureFixture[str]) -> None:
    town.change('git = { signing = "ssh" }', 'git = { signing = "ssh", email = "ada@signi.local" }')
    assert town.identity("gen", "--all") == 1
    assert "git.email" in capsys.readouterr().err


def test_a_key_of_an_agent_that_the_spec_does_not_have_is_a_warning_until_it_is_revoked(
    town: Town, capsys: pytest.CaptureFixture[str]
) -> None:
    _believed(town, {**_locked(town), "zed": Entry("zed@signi.local", (KeptSsh(_other()),))})
    (what,) = _whats(town, capsys, "warning")
    assert what == "the spec has no agent zed, and whoever has its key is still believed"
    (warning,) = town.found(capsys)[1]["warning"]
    command = warning["cure"].split(" - ")[0].split()
    assert cli.main(command[1:]) == 0
    assert town.found(capsys) == (0, {})
