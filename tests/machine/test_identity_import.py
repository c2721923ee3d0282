"""import with keys that ssh-keygen and gpg made elsewhere: taken over whole, or refused with the cure."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest

from identity.keys import gpg, openpgp
from identity.keys.armor import armored, dearmored
from tests.machine import gentown, killing
from tests.machine.gentown import Town
from tests.scale import times
from town.process import run

pytestmark = pytest.mark.root
town, nothing_is_left = gentown.town, gentown.nothing_is_left


def _gpg(home: Path, *words: str, feed: bytes = b"") -> bytes:
    argv = ["gpg", "--batch", "--no-tty", "--quiet", "--pinentry-mode", "loopback", "--passphrase", "", *words]
    return run(argv, env={"GNUPGHOME": str(home)}, feed=feed).out


def _fingerprint(home: Path) -> str:
    listed = _gpg(home, "--with-colons", "--list-keys").decode().splitlines()
    return next(line.split(":")[9] for line in listed if line.startswith("fpr:"))


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keys as a person has them: SSH keys of several kinds, OpenPGP keys in several states."""
    at = tmp_path_factory.mktemp("elsewhere")
    for name, kind, passphrase in (
        ("ssh", ["ed25519"], ""), ("another", ["ed25519"], ""), ("rsa", ["rsa", "-b", "2048"], ""),
        ("ecdsa", ["ecdsa"], ""), ("locked", ["ed25519"], "secret words"),
    ):  # fmt: skip
        run(["ssh-keygen", "-q", "-t", *kind, "-N", passphrase, "-C", "ada at home", "-f", at / name])
    run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", at / "pkcs8"])
    with gpg.throw_away_home() as home:
        (home / "gpg-agent.conf").write_text("s2k-count 65536\n")  # it would measure the machine first
        _gpg(home, "--quick-gen-key", "Ada <ada@signi.local>", "future-default", "default", "never")
        primary = _fingerprint(home)
        (at / "usual.gpg").write_bytes(_gpg(home, "--export-secret-keys"))  # [SC] and [E], not armored
        (at / "public.asc").write_bytes(_gpg(home, "--armor", "--export"))
        _gpg(home, "--quick-add-key", primary, "ed25519", "sign", "1y")
        (at / "signing.asc").write_bytes(_gpg(home, "--armor", "--export-secret-keys"))
        (at / "subkeys.asc").write_bytes(_gpg(home, "--armor", "--export-secret-subkeys"))
        listed = _gpg(home, "--armor", "--export-secret-keys", "--export-options", "export-minimal")
        (at / "unchecked.asc").write_bytes(b"".join(one for one in listed.splitlines(True) if one[:1] != b"="))
        run(
            ["gpg", "--batch", "--pinentry-mode", "loopback", "--passphrase-fd", "0", "--quick-gen-key",
             "Locked <ada@signi.local>", "ed25519", "default", "never"],
            feed=b"words\n", env={"GNUPGHOME": str(home)},
        )  # fmt: skip
        two = ["gpg", "--batch", "--pinentry-mode", "loopback", "--passphrase-fd", "0", "--armor"]
        env = {"GNUPGHOME": str(home)}
        (at / "locked.asc").write_bytes(run([*two, "--export-secret-keys", "Locked"], feed=b"words\n", env=env).out)
        (at / "two.asc").write_bytes(run([*two, "--export-secret-keys"], feed=b"words\n", env=env).out)
        revocation = (home / "openpgp-revocs.d" / f"{primary}.rev").read_bytes().replace(b"\n:---", b"\n---")
        _gpg(home, "--import", feed=revocation)
        (at / "revoked.asc").write_bytes(_gpg(home, "--armor", "--export-secret-keys", primary))
    with gpg.throw_away_home() as home:
        run(["gpg", "--batch", "--quiet", "--pinentry-mode", "loopback", "--passphrase", "", "--faked-system-time",
             "20200101T000000", "--quick-gen-key", "Old <ada@signi.local>", "ed25519", "default", "1y"],
            env={"GNUPGHOME": str(home)})  # fmt: skip
        (at / "expired.asc").write_bytes(_gpg(home, "--armor", "--export-secret-keys"))
    with gpg.throw_away_home() as home:
        _gpg(home, "--quick-gen-key", "Somebody <else@signi.local>", "rsa2048", "sign", "never")
        (at / "rsa.asc").write_bytes(_gpg(home, "--armor", "--export-secret-keys"))
    return at


def _facts(town: Town, name: str = "ada") -> openpgp.GpgKey:
    return openpgp.facts((town.root / f"identities/{name}/gpg.asc").read_text(), "gpg.asc")


def test_an_ssh_key_that_ssh_keygen_made_becomes_the_agents(town: Town, elsewhere: Path) -> None:
    town.write({"vox": 'uid = 41101\ngit = { signing = "ssh" }'})
    assert town.identity("import", "vox", "--ssh", str(elsewhere / "ssh")) == 0
    public = (elsewhere / "ssh.pub").read_text().split()[1]
    assert (town.root / "identities/vox/ssh.pub").read_text() == f"ssh-ed25519 {public} vox@signi.local\n"
    assert public in (town.root / "identities/allowed_signers").read_text()
    key = town.root / "key"
    key.write_text(town.opened("secrets/agents.yaml").get("vox/ssh-key") or "")
    key.chmod(0o600)
    assert run(["ssh-keygen", "-y", "-f", key]).out.decode().split()[:2] == ["ssh-ed25519", public]
    assert not (town.root / "secrets/recovery.yaml").exists()
    assert town.identity("gen", "vox") == 0
    assert town.identity("check", "vox") == 0


def test_a_whole_openpgp_key_is_taken_apart_and_can_be_revoked(town: Town, elsewhere: Path) -> None:
    assert town.identity("import", "ada", "--gpg", str(elsewhere / "signing.asc")) == 0
    brought = openpgp.facts((elsewhere / "signing.asc").read_text(), "signing.asc")
    assert _facts(town) == brought
    secrets, recovery = town.opened("secrets/agents.yaml"), town.opened("secrets/recovery.yaml")
    parts = openpgp.parts(secrets.get("ada/gpg-key") or "", "secrets")
    assert [(part.fingerprint, part.secret) for part in parts] == [(brought.primary, False), (brought.signing, True)]
    assert openpgp.parts(recovery.get("ada/gpg-primary-key") or "", "recovery")[0].secret
    with gpg.throw_away_home() as home:
        _gpg(home, "--import", feed=(recovery.get("ada/gpg-primary-key") or "").encode())
        _gpg(home, "--import", feed=(recovery.get("ada/gpg-revocation") or "").encode())
        assert b"pub:r" in _gpg(home, "--with-colons", "-k")
    assert len(recovery.recipients) == 1
    assert town.identity("gen", "--all") == 0  # the SSH keys, and nothing of the OpenPGP key
    assert _facts(town) == brought
    assert town.identity("check") == 0


@pytest.mark.parametrize("file", ["usual.gpg", "rsa.asc"])
def test_a_key_without_a_signing_subkey_gets_one(town: Town, elsewhere: Path, file: str) -> None:
    assert town.identity("import", "ada", "--gpg", str(elsewhere / file)) == 0
    facts = _facts(town)
    assert facts.primary != facts.signing
    assert facts.expires is not None
    with gpg.throw_away_home() as home:
        _gpg(home, "--import", feed=(town.opened("secrets/agents.yaml").get("ada/gpg-key") or "").encode())
        signed = _gpg(home, "--local-user", facts.primary, "--sign", feed=b"words")
    with gpg.throw_away_home() as home:
        _gpg(home, "--import", str(town.root / "identities/ada/gpg.asc"))
        assert _gpg(home, "--decrypt", feed=signed) == b"words"


def test_the_encryption_subkey_comes_along_only_on_request(town: Town, elsewhere: Path) -> None:
    assert town.identity("import", "ada", "--gpg", str(elsewhere / "signing.asc")) == 0
    town.write({"vox": "uid = 41101\nsecrets = { gpg_encryption = true }"})
    assert town.identity("import", "vox", "--gpg", str(elsewhere / "rsa.asc")) == 0
    secrets = town.opened("secrets/agents.yaml")
    for name, wanted in (("ada", [False]), ("vox", [False, True])):
        parts = openpgp.parts(secrets.get(f"{name}/gpg-key") or "", name)
        assert [part.encrypts for part in parts[1:]] == wanted


def test_armor_without_a_checksum_is_read(town: Town, elsewhere: Path) -> None:
    assert town.identity("import", "ada", "--gpg", str(elsewhere / "unchecked.asc")) == 0


@pytest.mark.parametrize("size", [300, 301, 302])
def test_gpg_reads_the_armor_that_is_written_whatever_its_length(tmp_path: Path, size: int) -> None:
    data = bytes(range(256)) + bytes(size - 256)
    home = {"GNUPGHOME": str(tmp_path)}
    done = run(["gpg", "--batch", "--dearmor"], feed=armored(data, "PUBLIC KEY BLOCK").encode(), env=home)
    assert (done.out, done.err) == (data, b"")
    assert dearmored(armored(data)) == data


def test_standard_input_is_read(town: Town, elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO((elsewhere / "ssh").read_bytes())))
    assert town.identity("import", "ada", "--ssh", "-") == 0
    public = (elsewhere / "ssh.pub").read_text().split()[1]
    assert public in (town.root / "identities/ada/ssh.pub").read_text()


def test_windows_line_ends_and_a_missing_last_one_do_not_matter(town: Town, elsewhere: Path, tmp_path: Path) -> None:
    (tmp_path / "edited").write_bytes((elsewhere / "ssh").read_bytes().replace(b"\n", b"\r\n").rstrip())
    assert town.identity("import", "ada", "--ssh", str(tmp_path / "edited")) == 0
    assert (town.opened("secrets/agents.yaml").get("ada/ssh-key") or "").endswith("-----END OPENSSH PRIVATE KEY-----\n")


@pytest.mark.parametrize(
    ("option", "file", "what", "cure"),
    [
        ("--ssh", "locked", "has a passphrase", "ssh-keygen -p -N ''"),
        ("--ssh", "rsa", "of the kind ssh-rsa: only ed25519", "ssh-keygen -t ed25519"),
        ("--ssh", "ecdsa", "of the kind ecdsa-sha2-nistp256: only ed25519", "ssh-keygen -t ed25519"),
        ("--ssh", "pkcs8", "no private key in OpenSSH form", "ssh-keygen -p"),
        ("--ssh", "ssh.pub", "holds a public key", "without .pub"),
        ("--ssh", "usual.gpg", "holds no private SSH key", "ssh-keygen"),
        ("--ssh", "missing", "cannot be read: No such file", ""),
        ("--gpg", "locked.asc", "have a passphrase", "gpg --passwd"),
        ("--gpg", "public.asc", "holds a public key", "--export-secret-keys"),
        ("--gpg", "subkeys.asc", "subkeys without their primary key", "--export-secret-keys"),
        ("--gpg", "two.asc", "holds 2 OpenPGP keys", "export that one key"),
        ("--gpg", "revoked.asc", "was revoked", "identity gen"),
        ("--gpg", "expired.asc", "cannot be used any more", "--quick-set-expire"),
        ("--gpg", "ssh", "is no OpenPGP key", "gpg --armor --export-secret-keys"),
    ],
)
def test_what_cannot_be_taken_is_refused_with_the_cure(
    town: Town, elsewhere: Path, capsys: pytest.CaptureFixture[str], option: str, file: str, what: str, cure: str
) -> None:
    assert town.identity("import", "ada", option, str(elsewhere / file)) == 1
    said = capsys.readouterr().err
    assert what in said.split("identity: error: ")[1]
    assert cure in said
    assert town.bytes() == {}


@pytest.mark.parametrize(("option", "file"), [("--ssh", "ssh"), ("--gpg", "signing.asc"), ("--gpg", "usual.gpg")])
def test_a_damaged_file_is_refused_wherever_it_is_cut(
    town: Town, elsewhere: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, file: str
) -> None:
    data = (elsewhere / file).read_bytes()
    for size in range(0, len(data) - 60, max(1, len(data) // times(12))):
        (tmp_path / "cut").write_bytes(data[:size])
        assert town.identity("import", "ada", option, str(tmp_path / "cut")) == 1
        assert "Traceback" not in capsys.readouterr().err
    assert town.bytes() == {}


def test_a_second_import_of_the_same_keys_changes_no_byte(
    town: Town, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("import", "ada", "--ssh", str(elsewhere / "ssh"), "--gpg", str(elsewhere / "signing.asc"))
    assert town.identity(*words) == 0
    before = town.bytes()
    capsys.readouterr()
    assert town.identity(*words) == 0
    assert capsys.readouterr().out == "nothing to do\n"
    assert town.bytes() == before


def test_a_key_that_is_there_is_never_replaced(town: Town, elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert town.identity("gen", "--all") == 0
    before = town.bytes()
    for option, file in (("--ssh", "ssh"), ("--gpg", "signing.asc")):
        capsys.readouterr()
        assert town.identity("import", "ada", option, str(elsewhere / file)) == 1
        assert f"identity rotate ada {option}" in capsys.readouterr().err.replace(f" --spec {town.spec}", "")
    assert town.bytes() == before


def test_nothing_is_taken_when_one_of_two_keys_stands_in_the_way(town: Town, elsewhere: Path) -> None:
    assert town.identity("import", "ada", "--ssh", str(elsewhere / "ssh")) == 0
    before = town.bytes()
    words = ("--ssh", str(elsewhere / "another"), "--gpg", str(elsewhere / "signing.asc"))
    assert town.identity("import", "ada", *words) == 1
    assert town.bytes() == before


def test_a_key_of_another_agent_is_refused(town: Town, elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert town.identity("import", "vox", "--ssh", str(elsewhere / "ssh")) == 0
    before = town.bytes()
    assert town.identity("import", "ada", "--ssh", str(elsewhere / "ssh")) == 1
    assert "is a key of vox" in capsys.readouterr().err
    assert town.bytes() == before


def test_a_lost_private_half_is_brought_back_and_another_key_is_not_taken_for_it(
    town: Town, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("import", "ada", "--ssh", str(elsewhere / "ssh"), "--gpg", str(elsewhere / "signing.asc"))
    assert town.identity(*words) == 0
    public = {name: digest for name, digest in town.bytes().items() if name.startswith("identities/")}
    (town.root / "secrets/agents.yaml").unlink()
    assert town.identity("gen", "ada") == 1
    assert town.identity("import", "ada", "--ssh", str(elsewhere / "another")) == 1
    assert "is another" not in capsys.readouterr().out
    assert town.identity("import", "ada", "--gpg", str(elsewhere / "usual.gpg")) == 1  # lacks the subkey in use
    assert "lacks the private signing subkey" in capsys.readouterr().err
    assert town.identity(*words) == 0
    assert {name: digest for name, digest in town.bytes().items() if name.startswith("identities/")} == public
    assert town.identity("check", "ada") == 0


def test_an_agent_that_has_no_openpgp_key_in_the_spec_gets_none(
    town: Town, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert town.identity("import", "vox", "--gpg", str(elsewhere / "signing.asc")) == 2
    assert 'git.signing = "gpg"' in capsys.readouterr().err
    assert town.bytes() == {}


def test_import_wants_a_key_and_an_agent_of_the_spec(town: Town, elsewhere: Path) -> None:
    assert town.identity("import", "ada") == 2
    assert town.identity("import", "ada", "--ssh", "-", "--gpg", "-") == 2
    assert town.identity("import", "eda", "--ssh", str(elsewhere / "ssh")) == 2


def test_a_dry_run_of_import_says_what_it_would_take_and_writes_nothing(
    town: Town, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--ssh", str(elsewhere / "ssh"), "--gpg", str(elsewhere / "usual.gpg"), "--dry-run")
    assert town.identity("import", "ada", *words) == 0
    out = capsys.readouterr().out
    assert "import  SSH key of ada: SHA256:" in out
    assert "a new signing subkey\n" in out
    assert "write   secrets/recovery.yaml\n" in out
    assert not (town.root / "identities").exists()


def test_it_is_said_where_the_private_key_still_lies_and_whose_address_it_names(
    town: Town, elsewhere: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "open key").write_bytes((elsewhere / "rsa.asc").read_bytes())
    (tmp_path / "open key").chmod(0o644)
    assert town.identity("import", "ada", "--gpg", str(tmp_path / "open key")) == 0
    said = capsys.readouterr().err
    assert f"shred -u '{tmp_path}/open key' (others than its owner may read it)" in said
    assert "does not name ada@signi.local" in said


def test_an_import_that_is_killed_is_finished_by_the_next_run(
    tmp_path: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("import", "ada", "--ssh", str(elsewhere / "ssh"), "--gpg", str(elsewhere / "signing.asc"))

    def fresh(name: object) -> Town:
        (tmp_path / str(name)).mkdir()
        monkeypatch.setenv("SOPS_AGE_KEY_FILE", str(tmp_path / str(name) / "human.key"))
        return Town(tmp_path / str(name))

    counted = fresh("counted")
    for moment in _moments(lambda: counted.identity(*words)):
        town = fresh(moment)
        killing.tried(lambda town=town: town.identity(*words), moment)  # type: ignore[misc]
        assert town.identity(*words) == 0
        assert town.identity("gen", "ada") == 0
        assert town.identity("check", "ada") == 0
        assert _facts(town) == openpgp.facts((elsewhere / "signing.asc").read_text(), "signing.asc")
        assert not list(town.root.rglob(".*.new"))
        assert not list(town.root.rglob(".gen.journal"))


def _moments(ran: Callable[[], object]) -> range:
    """Some moments of a run, its whole length: more of them in a full run of the tests."""
    calls = killing.count(ran)
    return range(0, calls, max(1, calls // times(8)))


def test_every_signing_subkey_of_a_brought_key_is_named_in_the_lock(town: Town, tmp_path: Path) -> None:
    with gpg.throw_away_home() as home:
        _gpg(home, "--quick-gen-key", "Ada <ada@signi.local>", "ed25519", "cert", "never")
        primary = _fingerprint(home)
        _gpg(home, "--quick-add-key", primary, "ed25519", "sign", "1y")
        _gpg(home, "--quick-add-key", primary, "ed25519", "sign", "1y")
        _gpg(home, "--quick-add-key", primary, "ed25519", "auth", "1y")
        (tmp_path / "three.asc").write_bytes(_gpg(home, "--armor", "--export-secret-keys"))
    assert town.identity("import", "ada", "--gpg", str(tmp_path / "three.asc")) == 0
    (tmp_path / "three.asc").unlink()
    lock = (town.root / "identities/keys.lock.toml").read_text()
    signing = [part.fingerprint for part in openpgp.parts(_published(town), "gpg.asc") if part.signs]
    assert len(signing) == 2
    assert all(one in lock for one in signing)
    assert town.identity("gen", "--all") == 0
    assert town.identity("check") == 0


def _published(town: Town) -> str:
    return (town.root / "identities/ada/gpg.asc").read_text()
