"""gen with the real gpg, ssh-keygen and SOPS files: nothing is replaced, nothing is lost when it is killed."""

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from identity import cli
from identity.keys import gpg, openpgp, ssh
from tests import reach
from town import sops
from town.process import Person, run

pytestmark = pytest.mark.root
NOBODY = Person(41190, 41190)  # a uid without an entry in /etc/passwd
# Runs `identity gen --all` and kills itself at the N-th durable write.
_KILLED = """
import os, signal, sys
from town import files
left, real = [int(sys.argv.pop(1))], files.write_beneath
def write(*arguments, **keywords):
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    real(*arguments, **keywords)
files.write_beneath = write
from identity.cli import main
sys.exit(main(sys.argv[1:]))
"""


class Town:
    """A town in a directory, with one human's and one host's age key."""

    def __init__(self, root: Path, agents: dict[str, str] | None = None) -> None:
        self.root, self.spec = root, root / "town.toml"
        self.human, self.host = root / "human.key", root / "host.key"
        humans, hosts = _age_key(self.human), _age_key(self.host)
        self.head = (
            f'[town]\ndomain = "signi.local"\nagents_dir = "{root}/agents"\npersist_dir = "{root}/persist"\n'
            f'[town.recipients]\nhumans = ["{humans}"]\nhosts = {{ signi = "{hosts}" }}\n'
            f'[town.host_key]\nage = "{self.host}"\nssh = "{root}/none"\n'
        )
        self.write(agents or {"ada": "uid = 41100", "vox": 'uid = 41101\ngit = { signing = "ssh" }'})

    def write(self, agents: dict[str, str]) -> None:
        self.spec.write_text(self.head + "".join(f"[agents.{name}]\n{body}\n" for name, body in agents.items()))

    def identity(self, *words: str) -> int:
        return cli.main(["--spec", str(self.spec), *words])

    def bytes(self) -> dict[str, str]:
        files = (path for top in ("secrets", "identities") for path in (self.root / top).rglob("*") if path.is_file())
        return {str(path.relative_to(self.root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    def opened(self, file: str) -> sops.Document:
        return sops.load((self.root / file).read_bytes(), file, sops.Keys.of_age_file(self.human))

    def set_secrets(self, changes: dict[str, str]) -> None:
        from datetime import UTC, datetime

        document = self.opened("secrets/agents.yaml")
        (self.root / "secrets/agents.yaml").write_bytes(sops.update(document, changes, now=datetime.now(UTC)))


def _age_key(path: Path) -> str:
    run(["age-keygen", "-o", path])
    return run(["age-keygen", "-y", path]).out.decode().strip()


@pytest.fixture
def town(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Town:
    made = Town(tmp_path)
    monkeypatch.setenv("SOPS_AGE_KEY_FILE", str(made.human))
    return made


@pytest.fixture(autouse=True)
def _no_home_or_agent_is_left() -> Iterator[None]:
    yield
    for _ in range(50):
        if not (left := list(Path("/dev/shm").glob("nuketown-gpg-*"))):
            break
        time.sleep(0.1)
    assert left == []
    assert not [line for line in _command_lines() if b"gpg-agent" in line and b"nuketown-gpg-" in line]


def _command_lines() -> list[bytes]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes())
        except OSError:
            continue
    return found


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


def _lose_private(town: Town) -> None:
    (town.root / "secrets/agents.yaml").unlink()


def _lose_private_where_no_recovery_tells(town: Town) -> None:
    town.write({"vox": 'uid = 41101\ngit = { signing = "ssh" }'})
    for file in (town.root / "secrets").iterdir():
        file.unlink()


def _swap_public(town: Town) -> None:
    (town.root / "identities/ada/ssh.pub").write_bytes((town.root / "identities/vox/ssh.pub").read_bytes())


def _swap_private_and_lose_public(town: Town) -> None:
    town.set_secrets({"ada/ssh-key": ssh.generate()})
    (town.root / "identities/ada/ssh.pub").unlink()


def _tamper(town: Town) -> None:
    file = town.root / "secrets/agents.yaml"
    file.write_text(file.read_text().replace("    ssh-key: ENC[", "    other: ENC[", 1))


def _cut_off(town: Town) -> None:
    file = town.root / "secrets/agents.yaml"
    file.write_bytes(file.read_bytes()[:300])


def _lose_secrets_but_recovery(town: Town) -> None:
    import shutil

    shutil.rmtree(town.root / "identities")
    _lose_private(town)


@pytest.mark.parametrize(
    "harm",
    [
        _lose_private,
        _lose_private_where_no_recovery_tells,
        _swap_public,
        _swap_private_and_lose_public,
        _tamper,
        _cut_off,
        _lose_secrets_but_recovery,
    ],
)
def test_what_does_not_match_stops_gen_and_is_not_repaired(town: Town, harm: object) -> None:
    assert town.identity("gen", "--all") == 0
    harm(town)  # type: ignore[operator]
    before = town.bytes()
    assert town.identity("gen", "--all") == 1
    assert town.bytes() == before
    assert town.identity("check") == 4


def _whole(town: Town) -> None:
    """Every key is there once, and its halves belong together."""
    assert town.identity("check") == 0
    secrets, recovery = town.opened("secrets/agents.yaml"), town.opened("secrets/recovery.yaml")
    assert set(secrets.tree) == {"ada", "vox"}
    whole = openpgp.facts(recovery.get("ada/gpg-primary-key") or "", "recovery")
    assert whole == openpgp.facts(secrets.get("ada/gpg-key") or "", "secrets")
    assert whole == openpgp.facts((town.root / "identities/ada/gpg.asc").read_text(), "public")
    assert not (town.root / "identities/.gen.journal").exists()


def _environment(town: Town) -> dict[str, str]:
    return {**os.environ, "SOPS_AGE_KEY_FILE": str(town.human), "PYTHONPATH": str(Path(cli.__file__).parents[1])}


@pytest.mark.parametrize("step", [1, 2, 3, 4, 6, 12, 18])
def test_a_run_killed_at_a_write_is_finished_by_the_next_without_a_key(
    town: Town, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = [sys.executable, "-c", _KILLED, str(step), "--spec", str(town.spec), "gen", "--all"]
    killed = subprocess.run(argv, env=_environment(town), capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    before = town.bytes()
    with monkeypatch.context() as without:
        without.delenv("SOPS_AGE_KEY_FILE")
        assert town.identity("gen", "--all") == 0
    _whole(town)
    # What the killed run had put into place stays as it was.
    after = town.bytes()
    kept = {name: digest for name, digest in before.items() if not Path(name).name.startswith(".")}
    assert {name: after[name] for name in kept} == kept
    assert not [name for name in after if Path(name).name.startswith(".")]


def test_a_run_killed_at_any_moment_is_finished_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, delay in enumerate((0.12, 0.2, 0.25, 0.3, 0.35, 0.4)):
        (tmp_path / str(number)).mkdir()
        town = Town(tmp_path / str(number))
        monkeypatch.setenv("SOPS_AGE_KEY_FILE", str(town.human))
        argv = [sys.executable, "-m", "identity.cli", "--spec", str(town.spec), "gen", "--all"]
        process = subprocess.Popen(argv, env=_environment(town), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(delay)
        process.kill()
        process.wait()
        assert town.identity("gen", "--all") == 0
        _whole(town)


def test_a_journal_that_names_another_file_is_refused(town: Town, capsys: pytest.CaptureFixture[str]) -> None:
    (town.root / "identities").mkdir()
    for name in ("town.toml", "identities/../town.toml", "/etc/nuketown-test"):
        record = {"version": 1, "writes": [{"name": name, "before": None, "text": "x"}]}
        (town.root / "identities/.gen.journal").write_text(json.dumps(record))
        assert town.identity("gen", "--all") == 1
        assert "no file of identity" in capsys.readouterr().err
    assert not Path("/etc/nuketown-test").exists()


def test_what_somebody_changed_after_a_kill_is_not_written_over(town: Town, capsys: pytest.CaptureFixture[str]) -> None:
    argv = [sys.executable, "-c", _KILLED, "3", "--spec", str(town.spec), "gen", "--all"]
    subprocess.run(argv, env=_environment(town), capture_output=True, check=False)
    (town.root / "secrets/agents.yaml").write_text("mine")
    assert town.identity("gen", "--all") == 1
    assert "was changed after an interrupted run" in capsys.readouterr().err
    assert (town.root / "secrets/agents.yaml").read_text() == "mine"


def test_two_runs_at_once_are_refused(town: Town) -> None:
    from identity import gen, places
    from town import spec

    with gen.locked(places.places(spec.load(town.spec))):
        assert town.identity("gen", "--all") == 75
    assert town.identity("gen", "--all") == 0


def test_a_uid_without_an_account_can_run_gen(town: Town) -> None:
    for path in (town.root, town.spec, town.human):
        os.chown(path, NOBODY.uid, NOBODY.gid)
    for path in town.root.parents[: len(town.root.parents) - 2]:  # pytest's own directories are 0700
        path.chmod(0o755)
    code = "import sys; from identity.cli import main; sys.exit(main(sys.argv[1:]))"
    with reach.checkout() as (_, packages):
        env = {"SOPS_AGE_KEY_FILE": str(town.human)} | packages
        run([reach.PYTHON, "-c", code, "--spec", town.spec, "gen", "--all"], env=env, person=NOBODY)
    assert (town.root / "identities/ada/ssh.pub").stat().st_uid == NOBODY.uid
    _whole(town)


def test_no_secret_is_on_a_command_line_in_an_environment_or_on_a_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    town = Town(tmp_path, {f"a{number}": f"uid = {41100 + number}" for number in range(6)})
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
    done = subprocess.run(argv, env=_environment(town), capture_output=True, check=True)
    stop.set()
    watcher.join()
    assert any(b"--quick-add-key" in line for line in seen), "the watcher saw gpg at work"
    lines = _secret_lines(town)
    assert len(lines) > 60
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
