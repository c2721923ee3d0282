"""OpenPGP recipients, with the real gpg in a home of its own."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from town import sops
from town.sops import gpg
from town.sops.metadata import Wrapped

FIXTURES = Path(__file__).parent.parent / "fixtures" / "sops"
ADMIN, HOST = "9E10F7F9A82E35A49B07963E54DFBA02A1784D17", "4F6F5FD5E9876A4DDB6A27E1CF13FB55A2B48C9E"
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
TREE = {"ada": {"ssh-key": "secret"}}


@pytest.fixture
def home() -> Iterator[Path]:
    """An empty gpg home; its path is short, because the sockets of gpg-agent lie in it."""
    path = Path(tempfile.mkdtemp(prefix="gpg", dir="/tmp"))
    try:
        yield path
    finally:
        ended(path)
        shutil.rmtree(path)


def run(home: Path, *words: str | Path) -> str:
    done = subprocess.run(["gpg", "--batch", "--homedir", home, *words], capture_output=True, text=True, check=True)
    return done.stdout


def imported(home: Path, *names: str) -> Path:
    """A home with keys of the fixtures, and no agent running in it."""
    for name in names:
        run(home, "--import", FIXTURES / "keys" / name)
    # gpg-agent converts an imported private key when it first uses it, whoever asks: that is over before a test looks.
    data = (FIXTURES / "pgp-two-recipients.yaml").read_bytes()
    assert sops.load(data, "f", sops.Keys.of_gnupg_home(home)).get("vox/empty") == ""
    ended(home)
    return home


def ended(home: Path) -> None:
    """End the home's agent and wait until it is gone: it removes its sockets after it has answered."""
    subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=True)
    limit = time.monotonic() + 10
    while agent_of(home) and time.monotonic() < limit:
        time.sleep(0.05)


def contents(home: Path) -> dict[str, bytes]:
    return {str(path.relative_to(home)): path.read_bytes() if path.is_file() else b"" for path in home.rglob("*")}


def agent_of(home: Path) -> bool:
    """Whether a gpg-agent of this home runs."""
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it ended meanwhile
            words = place.read_bytes()
            if b"gpg-agent" in words and bytes(home) in words:
                return True
    return False


@pytest.mark.parametrize("name", ["age-and-pgp.yaml", "pgp-two-recipients.yaml"])
def test_what_go_sops_encrypted_to_a_pgp_key_is_read(name: str, home: Path) -> None:
    run(home, "--import", FIXTURES / "keys" / "pgp-admin.asc")
    document = sops.load((FIXTURES / name).read_bytes(), name, sops.Keys.of_gnupg_home(home))
    assert document.get("vox/ssh-key") == "single line"


def test_a_file_for_two_pgp_keys_is_opened_with_either(home: Path) -> None:
    run(home, "--import", FIXTURES / "keys" / "pgp-host.asc")
    data = (FIXTURES / "pgp-two-recipients.yaml").read_bytes()
    assert sops.load(data, "f", sops.Keys.of_gnupg_home(home)).get("vox/ssh-key") == "single line"


def test_a_new_file_for_a_generated_pgp_key_is_opened_by_it_alone(home: Path) -> None:
    run(home, "--passphrase", "", "--quick-generate-key", "Eve <eve@test>", "future-default", "default", "never")
    fingerprint = run(home, "--list-keys", "--with-colons").split("fpr:")[1].strip(":").split(":")[0]
    data = sops.create(TREE, [fingerprint.lower()], now=NOW, gnupg_home=home)
    assert sops.recipients_of(data, "f") == (fingerprint,)
    assert sops.load(data, "f", sops.Keys.of_gnupg_home(home)).tree == TREE
    with pytest.raises(sops.NoKey, match=fingerprint):
        sops.load(data, "f", sops.Keys.of_age_file(FIXTURES / "keys" / "age-host.txt"))


def test_nothing_in_the_home_is_changed_and_no_agent_is_left(home: Path) -> None:
    imported(home, "pgp-admin.asc")
    before = contents(home)
    data = sops.create(TREE, [ADMIN], now=NOW, gnupg_home=home)
    assert sops.load(data, "f", sops.Keys.of_gnupg_home(home)).tree == TREE
    assert contents(home) == before
    assert not agent_of(home)


def test_an_agent_that_was_running_goes_on_running(home: Path) -> None:
    imported(home, "pgp-admin.asc")
    data = sops.create(TREE, [ADMIN], now=NOW, gnupg_home=home)
    subprocess.run(["gpgconf", "--homedir", home, "--launch", "gpg-agent"], check=True)
    assert sops.load(data, "f", sops.Keys.of_gnupg_home(home)).tree == TREE
    assert agent_of(home)


def test_the_keyring_of_the_caller_is_used_when_no_other_is_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    imported(home, "pgp-admin.asc")
    monkeypatch.setenv("GNUPGHOME", str(home))
    assert sops.load(sops.create(TREE, [ADMIN], now=NOW), "f", sops.Keys.of_person()).tree == TREE


def test_a_public_key_that_is_missing_is_named_with_the_command_to_import_it(home: Path) -> None:
    for _ in range(2):  # without a keyring, and with one
        with pytest.raises(sops.BadRecipient, match=f"the public key of {HOST} is not in the keyring {home}") as caught:
            sops.create(TREE, [HOST], now=NOW, gnupg_home=home)
        assert caught.value.hint == f"import it: gpg --homedir {home} --import KEY.asc"
        run(home, "--import", FIXTURES / "keys" / "pgp-admin.asc")


def test_a_home_without_a_keyring_is_left_as_it_is(home: Path) -> None:
    data = (FIXTURES / "pgp-two-recipients.yaml").read_bytes()
    with pytest.raises(sops.NoKey, match="holds no private key"):
        sops.load(data, "f", sops.Keys.of_gnupg_home(home))
    assert list(home.iterdir()) == []


def test_a_private_key_that_does_not_fit_says_what_gpg_said(home: Path) -> None:
    run(home, "--import", FIXTURES / "keys" / "pgp-host.asc")
    with pytest.raises(sops.NoKey, match=r"gpg says: .*No secret key"):
        sops.load((FIXTURES / "age-and-pgp.yaml").read_bytes(), "f", sops.Keys.of_gnupg_home(home))


def test_a_home_with_a_path_too_long_for_gpg_agent_is_explained(tmp_path: Path) -> None:
    keys = sops.Keys.of_gnupg_home(tmp_path / ("x" * 90))
    with pytest.raises(sops.NoKey, match="longer than the 86 characters"):
        sops.load((FIXTURES / "pgp-two-recipients.yaml").read_bytes(), "f", keys)


def test_a_message_that_unpacks_to_more_than_a_key_is_not_unpacked(home: Path) -> None:
    imported(home, "pgp-admin.asc")
    argv = ["gpg", "--batch", "--homedir", home, "--trust-model", "always", "-a", "-e", "-z9", "-r", ADMIN]
    bomb = subprocess.run(argv, input=b"\0" * (16 << 20), capture_output=True, check=True).stdout.decode()
    assert len(bomb) < 200_000
    assert isinstance(gpg.decrypt(bomb, home), str)


def test_a_message_that_holds_no_data_key_opens_nothing(home: Path) -> None:
    imported(home, "pgp-admin.asc")
    wrapped = Wrapped("pgp", ADMIN, gpg.encrypt(b"sixteen bytes...", ADMIN, home))
    with pytest.raises(sops.NoKey, match=f"the key for {ADMIN} is damaged"):
        sops.Keys.of_gnupg_home(home).data_key([(wrapped,)], 1, "f")


def test_the_data_key_never_stands_on_a_command_line(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    imported(home, "pgp-admin.asc")
    real = shutil.which("gpg")
    (tmp_path / "gpg").write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$@" >>{tmp_path}/argv\nenv >>{tmp_path}/argv\nexec {real} "$@"\n'
    )
    (tmp_path / "gpg").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    data = sops.create(TREE, [ADMIN], now=NOW, gnupg_home=home)
    document = sops.load(data, "f", sops.Keys.of_gnupg_home(home))
    said = (tmp_path / "argv").read_bytes()
    assert b"--decrypt" in said
    assert document.data_key not in said
    assert document.data_key.hex().encode() not in said.lower()


def test_several_open_a_file_with_one_home_at_once(home: Path) -> None:
    """Who found no gpg-agent ends the one that gpg started, and takes it from nobody who is using it."""
    imported(home, "pgp-admin.asc")
    data = (FIXTURES / "pgp-two-recipients.yaml").read_bytes()
    with ThreadPoolExecutor(6) as pool:
        opened = [pool.submit(sops.load, data, "f", sops.Keys.of_gnupg_home(home)) for _ in range(24)]
        assert {one.result().get("vox/empty") for one in opened} == {""}
    assert not agent_of(home)
