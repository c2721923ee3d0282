"""Which private keys are at hand, which files are trusted, and how SSH keys become age keys."""

import os
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pyrage
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from town import sops
from town.failure import Failure, Unsafe
from town.sops.recipients import age_identity, montgomery
from town.spec import HostKey

KEYS = Path(__file__).parent.parent / "fixtures" / "sops" / "keys"
HOST = "age13du3mtpekxl6wrdydf8n23vwqvyypr95qm0cs8zrymeqcv04svlqtmkpt5"
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
TREE = {"ada": {"ssh-key": "secret"}}


@pytest.fixture(autouse=True)
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller without any key."""
    for name in [name for name in os.environ if name.startswith(("SOPS_", "XDG_", "GNUPG"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()


def age_file(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text((KEYS / "age-host.txt").read_text())
    path.chmod(0o400)
    return path


def ssh_file(path: Path, *, kind: str = "ed25519", passphrase: str = "") -> str:
    """Make a key with ssh-keygen; its public line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-C", "a b", "-f", path], check=True)
    return path.with_suffix(".pub").read_text().strip()


def opens(keys: sops.Keys, recipient: str = HOST) -> bool:
    return sops.load(sops.create(TREE, [recipient], now=NOW), "f", keys).tree == TREE


def test_the_hosts_age_file_comes_before_its_ssh_key(tmp_path: Path) -> None:
    host_key = HostKey(tmp_path / "age.key", tmp_path / "ssh_host_ed25519_key")
    public = ssh_file(host_key.ssh)
    assert opens(sops.Keys.of_host(host_key), public)
    age_file(host_key.age)
    assert opens(sops.Keys.of_host(host_key))
    with pytest.raises(sops.NoKey):
        opens(sops.Keys.of_host(host_key), public)


def test_a_host_without_a_key_is_told_both_paths_and_the_command_when_it_needs_one(tmp_path: Path) -> None:
    keys = sops.Keys.of_host(HostKey(tmp_path / "age.key", tmp_path / "ssh.key"))
    with pytest.raises(sops.NoKey) as caught:
        opens(keys)
    assert HOST in caught.value.what
    assert f"looked in {tmp_path}/age.key, {tmp_path}/ssh.key" in caught.value.what
    assert caught.value.hint == "make the machine's key: identity host init"


@pytest.mark.parametrize("mode", [0o440, 0o404, 0o460])
def test_a_key_file_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    age_file(tmp_path / "age.key").chmod(mode)
    with pytest.raises(Unsafe, match="others can read the private key") as caught:
        sops.Keys.of_host(HostKey(tmp_path / "age.key", tmp_path / "none"))
    assert caught.value.hint == f"chmod 0400 {tmp_path}/age.key"


@pytest.mark.parametrize("mode", [0o775, 0o757])
def test_a_key_file_in_a_directory_where_others_can_write_is_refused(tmp_path: Path, mode: int) -> None:
    age_file(tmp_path / "open" / "below" / "age.key")
    (tmp_path / "open").chmod(mode)
    with pytest.raises(Unsafe, match=r"others can write in .*/open, so") as caught:
        sops.Keys.of_host(HostKey(tmp_path / "open/below/age.key", tmp_path / "none"))
    assert caught.value.hint == f"chmod go-w {tmp_path}/open"


def test_a_link_on_the_way_is_judged_by_where_it_leads(tmp_path: Path) -> None:
    age_file(tmp_path / "real" / "age.key")
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "age.key").symlink_to("link/../link/age.key")
    host_key = HostKey(tmp_path / "age.key", tmp_path / "none")
    assert opens(sops.Keys.of_host(host_key))
    (tmp_path / "real").chmod(0o777)
    with pytest.raises(Unsafe, match=r"others can write in .*/real, so"):
        sops.Keys.of_host(host_key)


def test_a_link_that_leads_nowhere_or_in_a_circle_is_no_missing_key(tmp_path: Path) -> None:
    (tmp_path / "age.key").symlink_to("gone")
    (tmp_path / "circle").symlink_to("circle")
    for name, words in (("age.key", "does not exist"), ("circle", "too many links")):
        with pytest.raises(Unsafe, match=words):
            sops.Keys.of_host(HostKey(tmp_path / name, tmp_path / "none"))


@pytest.mark.root
def test_a_key_file_of_an_agent_is_refused(tmp_path: Path) -> None:
    os.chown(age_file(tmp_path / "age.key"), 1100, 1100)
    with pytest.raises(Unsafe, match="belongs to uid 1100"):
        sops.Keys.of_host(HostKey(tmp_path / "age.key", tmp_path / "none"))


def test_something_else_than_a_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o400)
    with pytest.raises(Unsafe, match="not a regular file"):
        sops.Keys.of_host(HostKey(tmp_path / "fifo", tmp_path / "none"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no age private key"),
        ("# created\n# public key: age1x\n", "holds no age private key"),
        ("AGE-SECRET-KEY-1QQQ\n", "no age private key"),
        ("AGE-PLUGIN-YUBIKEY-1QQQ\n", "no age private key"),
        ("\x00\x01", "no age private key"),
    ],
)
def test_an_age_file_without_a_usable_key_is_named_and_not_quoted(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "key").write_text(text)
    with pytest.raises(sops.NoKey, match=words) as caught:
        sops.Keys.of_age_file(tmp_path / "key")
    assert "QQQ" not in caught.value.what + caught.value.hint
    assert str(tmp_path / "key") in caught.value.what


def test_an_ssh_key_opens_what_was_encrypted_to_its_public_half(tmp_path: Path) -> None:
    public = ssh_file(tmp_path / "id")
    keys = sops.Keys.of_ssh_file(tmp_path / "id")
    assert opens(keys, public)
    assert opens(keys, sops.canonical(public))
    assert sops.recipients_of(sops.create(TREE, [public], now=NOW), "f") == (sops.canonical(public),)


def test_a_raw_ssh_recipient_that_sops_wrote_is_opened_too(tmp_path: Path) -> None:
    # `age -r "ssh-ed25519 …"` writes what sops writes for such a recipient.
    public = ssh_file(tmp_path / "id")
    data = sops.create(TREE, [HOST], now=NOW)
    document = sops.load(data, "f", sops.Keys.of_age_file(KEYS / "age-host.txt"))
    done = subprocess.run(["age", "-a", "-r", public], input=document.data_key, capture_output=True, check=True)
    body = "".join(f"            {line}\n" for line in done.stdout.decode().splitlines())
    entry = f"        - enc: |\n{body}          recipient: {public}\n"
    raw = re.sub(rb"        - enc: \|\n(            .*\n)+          recipient: .*\n", entry.encode(), data)
    assert sops.load(raw, "f", sops.Keys.of_ssh_file(tmp_path / "id")).tree == TREE
    assert sops.recipients_of(raw, "f") == (public,)


def test_ssh_keys_that_cannot_be_used_say_why(tmp_path: Path) -> None:
    ssh_file(tmp_path / "locked", passphrase="hunter2")
    ssh_file(tmp_path / "ecdsa", kind="ecdsa")
    (tmp_path / "broken").write_text((tmp_path / "ecdsa").read_text()[:200])
    for name, words in (("locked", "passphrase"), ("ecdsa", "not an ed25519"), ("broken", "not an OpenSSH private")):
        with pytest.raises(sops.NoKey, match=words):
            sops.Keys.of_ssh_file(tmp_path / name)


def test_ssh_keys_become_the_recipients_that_ssh_to_age_gives() -> None:
    # The examples of its README, and the keys of its tests (github.com/Mic92/ssh-to-age).
    pairs = {
        "AAAAC3NzaC1lZDI1NTE5AAAAIOHz+U0YtjINc54dZiJNclfmEFifF7RXCFlNlTbuZBji": (
            "age17044m9wgakla6pzftf4srtl3h5mcsr85jysgt5fg23zpnta8sfdqhzn452"
        ),
        "AAAAC3NzaC1lZDI1NTE5AAAAIF/KPU3Z5LSjbBI6hrq25wCcseq2UpqSzUFZRr+ux6LM": (
            "age1hjm3aujg9e79f5yth8a2cejzdjg5n9vnu96l05p70uvfpeltnpms7yy3pp"
        ),
        "AAAAC3NzaC1lZDI1NTE5AAAAIIL2vjdqpppuCn7yPdF2muINriAG7zBWrsELKpPWkhn5": (
            "age1v8zjc47jmlqwefyu66s0d4ke98qr4vnuj3cpvs4z9npfdw833dxqwjrhzv"
        ),
    }
    for key, recipient in pairs.items():
        assert sops.canonical(f"ssh-ed25519 {key} joerg@turingmachine") == recipient


def test_both_halves_of_an_ssh_key_become_both_halves_of_an_age_key() -> None:
    for number in range(50):
        seed = bytes([number]) * 32
        public = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
        identity = pyrage.x25519.Identity.from_str(age_identity(seed))
        line = "ssh-ed25519 " + __import__("base64").b64encode(b"\0\0\0\x0bssh-ed25519\0\0\0 " + public).decode()
        assert str(identity.to_public()) == sops.canonical(line)


def test_points_that_nobody_has_the_key_of_are_refused() -> None:
    prime = 2**255 - 19
    for y in (0, 1, prime - 1, prime, prime + 1, 2):
        assert montgomery(y.to_bytes(32, "little")) is None


@pytest.mark.parametrize(
    ("recipient", "words"),
    [
        ("", "no recipient that is known"),
        ("age1", "no age recipient"),
        (HOST[:-1] + "6", "a character is wrong"),
        ("AGE-SECRET-KEY-1", "no recipient that is known"),
        ("age1yubikey1qqqq", "plugin"),
        ("age1pq1qqqq", "post-quantum"),
        ("ssh-rsa AAAAB3NzaC1yc2E=", "ssh-rsa keys are not supported"),
        ("ssh-ed25519", "no ssh-ed25519 public key"),
        ("ssh-ed25519 AAAA", "no ssh-ed25519 public key"),
        ("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "no point of the curve"),
        ("9E10F7F9A82E35A4", "no recipient that is known"),
        ("\x1b[31mred", r"\\x1b\[31mred"),
        ("x" * 5000, "xxx…"),
    ],
)
def test_a_recipient_that_is_none_is_refused_in_words(recipient: str, words: str) -> None:
    with pytest.raises(sops.BadRecipient, match=words):
        sops.create(TREE, [recipient], now=NOW)


def test_a_file_for_nobody_is_not_made() -> None:
    with pytest.raises(sops.BadRecipient, match="no recipient is given"):
        sops.create(TREE, [], now=NOW)


def test_fingerprints_are_compared_in_one_form() -> None:
    form = "9E10F7F9A82E35A49B07963E54DFBA02A1784D17"
    assert {
        sops.canonical(text)
        for text in (form, form.lower(), "0x" + form, " 9E10 F7F9 A82E 35A4 9B07  963E 54DF BA02 A178 4D17 ")
    } == {form}


def test_a_person_has_the_keys_that_sops_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = {
        "SOPS_AGE_KEY_FILE": age_file(tmp_path / "k1"),
        None: age_file(tmp_path / "home/.config/sops/age/keys.txt"),
        "XDG_CONFIG_HOME": age_file(tmp_path / "xdg/sops/age/keys.txt"),
    }
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "nothing"))
    with pytest.raises(sops.NoKey):
        opens(sops.Keys.of_person())
    monkeypatch.delenv("XDG_CONFIG_HOME")
    assert opens(sops.Keys.of_person())
    (tmp_path / "home/.config/sops/age/keys.txt").unlink()
    for name, value in (
        ("SOPS_AGE_KEY_FILE", str(places["SOPS_AGE_KEY_FILE"])),
        ("XDG_CONFIG_HOME", str(tmp_path / "xdg")),
        ("SOPS_AGE_KEY", (KEYS / "age-host.txt").read_text().split()[-1]),
    ):
        with monkeypatch.context() as one:
            one.setenv(name, value)
            assert opens(sops.Keys.of_person()), name
    public = ssh_file(tmp_path / "home/.ssh/id_ed25519")
    assert opens(sops.Keys.of_person(), public)
    (tmp_path / "home/.ssh/id_ed25519").rename(tmp_path / "elsewhere")
    monkeypatch.setenv("SOPS_AGE_SSH_PRIVATE_KEY_FILE", str(tmp_path / "elsewhere"))
    assert opens(sops.Keys.of_person(), public)


def test_a_key_of_a_person_that_cannot_be_used_is_passed_over_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ssh_file(tmp_path / "home/.ssh/id_ed25519", passphrase="hunter2")
    monkeypatch.setenv("SOPS_AGE_KEY_FILE", str(tmp_path / "gone"))
    with pytest.raises(sops.NoKey) as caught:
        opens(sops.Keys.of_person())
    for words in ("/gone cannot be read: No such file", "id_ed25519 is protected by a passphrase", ".gnupg"):
        assert words in caught.value.what
    monkeypatch.setenv("SOPS_AGE_KEY", (KEYS / "age-host.txt").read_text().split()[-1])
    assert opens(sops.Keys.of_person())
    assert not (tmp_path / "home/.gnupg").exists()


def test_a_caller_without_a_home_has_no_keys_and_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000_000)  # a uid without an account
    with pytest.raises(sops.NoKey, match=r"/nonexistent/\.gnupg"):
        opens(sops.Keys.of_person())


def test_keys_are_joined_without_doubles(tmp_path: Path) -> None:
    host, other = sops.Keys.of_age_file(KEYS / "age-host.txt"), sops.Keys.of_age_file(KEYS / "age-other.txt")
    assert opens(other | host)
    assert host | host == host
    with pytest.raises(sops.NoKey, match=r"age-other\.txt"):
        opens(other)


def test_every_error_of_this_package_is_a_failure_with_a_status() -> None:
    for error in (sops.BadSopsFile, sops.NoKey, sops.Tampered, sops.BadRecipient, sops.WouldBeClear):
        assert issubclass(error, Failure)
        assert error.status == 1
