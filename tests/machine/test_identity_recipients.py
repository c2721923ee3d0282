"""recipients sync, add, remove: who can open the files follows what is said, and who leaves leaves for good."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from identity import cli
from tests.scale import times
from town import sops
from town.process import run

pytestmark = pytest.mark.root
WHO = ("human", "friend", "host", "spare", "stranger")
SECRETS, RECOVERY = "secrets/agents.yaml", "secrets/recovery.yaml"
# Runs a verb and kills itself at the N-th durable write.
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
    """A town with one human and one host; `key` is the age recipient of each of WHO."""

    def __init__(self, root: Path) -> None:
        self.root, self.spec = root, root / "town.toml"
        self.key = json.loads((root / "keys.json").read_text())

    def identity(self, *words: str) -> int:
        return cli.main(["--spec", str(self.spec), *words])

    def recipients(self, *words: str) -> int:
        return self.identity("recipients", *words)

    def readers(self, file: str) -> set[str]:
        """Who of WHO a file is for, by name."""
        names = {one: name for name, one in self.key.items()}
        found = sops.recipients_of((self.root / file).read_bytes(), file)
        return {names.get(one, one) for one in found}

    def opened(self, file: str, who: str = "human") -> sops.Document:
        return sops.load((self.root / file).read_bytes(), file, sops.Keys.of_age_file(self.root / f"{who}.key"))

    def opens(self, file: str, who: str) -> bool:
        try:
            self.opened(file, who)
        except sops.NoKey:
            return False
        return True

    def bytes(self) -> dict[str, bytes]:
        return {name: (self.root / name).read_bytes() for name in ("town.toml", SECRETS, RECOVERY)}

    def name_by_rules(self, secrets: str, recovery: str) -> None:
        """Take the recipients out of the spec and name them in .sops.yaml."""
        text = re.sub(r"\[town\.recipients\].*?\n(?=\[)", "", self.spec.read_text(), flags=re.DOTALL)
        self.spec.write_text(text)
        (self.root / ".sops.yaml").write_text(
            "# who may what\ncreation_rules:\n"
            f"  - path_regex: recovery\\.yaml$   # humans only\n    age: {recovery}\n"
            f"  - path_regex: secrets/.*\n    key_groups:\n      - age:\n          - {secrets}\n"
        )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made")
    keys = {}
    for name in WHO:
        run(["age-keygen", "-o", root / f"{name}.key"])
        keys[name] = run(["age-keygen", "-y", root / f"{name}.key"]).out.decode().strip()
    (root / "keys.json").write_text(json.dumps(keys))
    (root / "town.toml").write_text(
        f'# A town.\n[town]\ndomain = "signi.local"   # dns\n[town.recipients]\nhumans = ["{keys["human"]}"]  # josh\n'
        f'hosts = {{ signi = "{keys["host"]}" }}\n'
        '[town.host_key]\nage = "/nonexistent/age.key"\nssh = "/nonexistent/ssh"\n'
        '[agents.ada]\nuid = 41100\nsecrets = { extra = { token = "shared/token" } }\n'
        '[agents.vox]\nuid = 41101\ngit = { signing = "ssh" }\nsecrets = { extra = { same = "shared/token" } }\n'
    )
    assert cli.main(["--spec", str(root / "town.toml"), "gen", "--all"]) == 0
    town = Town(root)
    changed = sops.update(town.opened(SECRETS), {"shared/token": "token-1234"}, now=datetime.now(UTC))
    (root / SECRETS).write_bytes(changed)
    return root


@pytest.fixture
def town(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Town:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.setenv("SOPS_AGE_KEY_FILE", str(tmp_path / "human.key"))
    monkeypatch.setenv("HOME", str(tmp_path))
    return Town(tmp_path)


def _sealed(data: bytes) -> list[bytes]:
    return re.findall(rb"ENC\[[^\]]*\]", data)


def test_nothing_to_bring_up_to_date_changes_no_byte(town: Town, capsys: pytest.CaptureFixture[str]) -> None:
    before = town.bytes()
    capsys.readouterr()
    assert town.recipients("sync") == 0
    assert capsys.readouterr().out == "nothing to do\n"
    assert town.bytes() == before


def test_a_human_who_is_added_opens_both_files_and_every_ciphertext_stays(town: Town) -> None:
    before = town.bytes()
    assert town.recipients("add", town.key["friend"], "--human") == 0
    assert town.readers(SECRETS) == {"human", "host", "friend"}
    assert town.readers(RECOVERY) == {"human", "friend"}
    for file in (SECRETS, RECOVERY):
        assert town.opened(file, "friend").tree == town.opened(file).tree
        assert _sealed(town.bytes()[file]) == _sealed(before[file])  # the seal and every value
    old, new = before["town.toml"].decode(), town.spec.read_text()
    assert new == old.replace(f'"{town.key["human"]}"]', f'"{town.key["human"]}", "{town.key["friend"]}"]')
    assert town.identity("check") == 0


def test_a_host_who_is_added_opens_the_secrets_and_not_the_recovery_file(town: Town) -> None:
    before = town.bytes()
    assert town.recipients("add", "--host", "vm", town.key["spare"]) == 0
    assert town.readers(SECRETS) == {"human", "host", "spare"}
    assert town.bytes()[RECOVERY] == before[RECOVERY]
    assert _sealed(town.bytes()[SECRETS]) == _sealed(before[SECRETS])
    assert f'signi = "{town.key["host"]}", vm = "{town.key["spare"]}" }}' in town.spec.read_text()
    assert town.identity("check") == 0


def test_who_leaves_opens_nothing_that_is_written_from_then_on(town: Town) -> None:
    assert town.recipients("add", town.key["friend"], "--human") == 0
    before = town.bytes()
    trees = {file: town.opened(file).tree for file in (SECRETS, RECOVERY)}
    known = {file: town.opened(file, "friend").data_key for file in (SECRETS, RECOVERY)}
    assert town.recipients("remove", town.key["friend"]) == 0
    for file in (SECRETS, RECOVERY):
        assert not town.opens(file, "friend")
        assert town.opened(file).data_key != known[file]
        assert town.opened(file).tree == trees[file]
        assert not set(_sealed(town.bytes()[file])) & set(_sealed(before[file]))  # every value is encrypted anew
    assert town.readers(SECRETS) == {"human", "host"}
    assert town.opens(SECRETS, "host")
    assert town.key["friend"] not in town.spec.read_text()
    assert town.identity("check") == 0


def test_a_host_leaves_by_its_name_and_the_recovery_file_stays_as_it_is(town: Town) -> None:
    before = town.bytes()
    assert town.recipients("remove", "--host", "signi") == 0
    assert not town.opens(SECRETS, "host")
    assert town.bytes()[RECOVERY] == before[RECOVERY]
    assert "hosts = {}" in town.spec.read_text()


def test_what_is_added_and_removed_leaves_the_spec_as_it_was(town: Town) -> None:
    before = town.spec.read_bytes()
    for words in (("--human",), ("--host", "vm")):
        assert town.recipients("add", town.key["friend"], *words) == 0
        assert town.recipients("remove", town.key["friend"]) == 0
        assert town.spec.read_bytes() == before


def test_a_spec_that_was_changed_by_hand_is_followed_in_one_step(town: Town) -> None:
    text = town.spec.read_text().replace(town.key["host"], town.key["spare"])
    town.spec.write_text(text)
    assert town.identity("check") == 4
    assert town.recipients("sync") == 0
    assert town.readers(SECRETS) == {"human", "spare"}
    assert not town.opens(SECRETS, "host")
    assert town.spec.read_text() == text
    assert town.identity("check") == 0


def test_check_names_the_command_that_brings_the_files_up_to_date(
    town: Town, capsys: pytest.CaptureFixture[str]
) -> None:
    text = town.spec.read_text()
    for old, new in ((town.key["host"], town.key["spare"]), (town.key["human"], town.key["stranger"])):
        town.spec.write_text(text.replace(old, new))
        capsys.readouterr()
        assert town.identity("check", "--json") == 4
        found = json.loads(capsys.readouterr().out)["findings"]
        assert {one["cure"] for one in found if "can open" in one["what"] or "cannot open" in one["what"]} == {
            f"identity recipients --spec {town.spec} sync"
        }


def test_a_recovery_file_that_a_host_can_open_is_for_humans_only_again(town: Town) -> None:
    document = town.opened(RECOVERY)
    wider = sops.rewrap(document, [*document.recipients, town.key["host"]], now=datetime.now(UTC), fresh=False)
    (town.root / RECOVERY).write_bytes(wider)
    assert town.identity("check") == 4
    assert town.recipients("sync") == 0
    assert town.readers(RECOVERY) == {"human"}
    assert town.opened(RECOVERY).data_key != document.data_key


def _listed(town: Town, capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, list[str]]:
    """What must be made anew: the commands by file."""
    capsys.readouterr()
    assert town.recipients(*words, "--json") == 0
    found: dict[str, list[str]] = {}
    for one in json.loads(capsys.readouterr().out)["rotate"]:
        command = one["command"].replace(f" --spec {town.spec}", "")  # so that it can be typed anywhere
        found.setdefault(one["file"], []).append(f"{one['path']}: {command}")
    return found


def test_nothing_is_to_be_rotated_when_somebody_joins(town: Town, capsys: pytest.CaptureFixture[str]) -> None:
    assert _listed(town, capsys, "add", town.key["friend"], "--human") == {}


def test_what_a_host_could_read_is_listed_with_the_command_that_makes_it_anew(
    town: Town, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _listed(town, capsys, "remove", "--host", "signi") == {
        SECRETS: [
            "ada/gpg-key: identity rotate ada --gpg",
            "ada/ssh-key: identity rotate ada --ssh",
            "shared/token: identity secret set ada token",
            "vox/ssh-key: identity rotate vox --ssh",
        ]
    }


def test_what_a_human_could_read_is_listed_with_the_primary_keys(
    town: Town, capsys: pytest.CaptureFixture[str]
) -> None:
    assert town.recipients("add", town.key["friend"], "--human") == 0
    whole = "identity revoke ada --gpg && identity rotate ada --gpg"
    assert _listed(town, capsys, "remove", town.key["friend"]) == {
        SECRETS: [
            "ada/gpg-key: ",  # with the primary key: the same command, once
            "ada/ssh-key: identity rotate ada --ssh",
            "shared/token: identity secret set ada token",
            "vox/ssh-key: identity rotate vox --ssh",
        ],
        RECOVERY: [f"ada/gpg-primary-key: {whole}"],
    }


def test_who_could_open_the_recovery_file_alone_stays_in_the_town(
    town: Town, capsys: pytest.CaptureFixture[str]
) -> None:
    document = town.opened(RECOVERY)
    wider = sops.rewrap(document, [*document.recipients, town.key["host"]], now=datetime.now(UTC), fresh=False)
    (town.root / RECOVERY).write_bytes(wider)
    town.spec.write_text(town.spec.read_text().replace("[town]\n", '[town]\nstore = "file:///nowhere"\n', 1))
    capsys.readouterr()
    assert town.recipients("sync") == 0
    said = capsys.readouterr().err
    assert "who left may have kept" in said
    assert "persist key" not in said
    assert "install fails" not in said


def test_a_value_that_the_spec_does_not_know_is_listed_too(town: Town, capsys: pytest.CaptureFixture[str]) -> None:
    changed = sops.update(town.opened(SECRETS), {"gone/ssh-key": "x"}, now=datetime.now(UTC))
    (town.root / SECRETS).write_bytes(changed)
    found = _listed(town, capsys, "remove", "--host", "signi")[SECRETS]
    assert next(one for one in found if one.startswith("gone/")).endswith(f"sops edit {SECRETS}")


def test_the_words_say_that_history_stays_readable_and_that_the_store_has_a_key_of_its_own(
    town: Town, capsys: pytest.CaptureFixture[str]
) -> None:
    town.spec.write_text(town.spec.read_text().replace("[town]\n", '[town]\nstore = "file:///nonexistent/store"\n'))
    capsys.readouterr()
    assert town.recipients("add", "--host", "vm", town.key["spare"]) == 0
    assert f"persist key add --spec {town.spec} {town.key['spare']}" in _unspaced(capsys.readouterr().err)
    assert town.recipients("remove", "--host", "vm") == 0
    out, err = capsys.readouterr()
    assert "git's history stays readable to them" in err
    assert f"{town.key['spare']}, then persist key" in err
    assert "persist key" in err
    assert f"rotate  {SECRETS}: ada/ssh-key: identity rotate --spec {town.spec} ada --ssh" in out


def _unspaced(words: str) -> str:
    """A hint with its --spec behind both words of the verb."""
    return re.sub(r"persist key (--spec \S+) (add|remove)", r"persist key \2 \1", words)


def test_the_commands_of_the_list_are_what_they_say(town: Town, capsys: pytest.CaptureFixture[str]) -> None:
    """Each is run: it is a command line of this version."""
    for one in _listed(town, capsys, "remove", "--host", "signi")[SECRETS]:
        if "identity rotate" in one:
            words = shlex.split(one.partition(": identity ")[2])
            assert town.identity(*words, "--dry-run") == 0


def test_the_last_human_cannot_be_removed(town: Town, capsys: pytest.CaptureFixture[str]) -> None:
    before = town.bytes()
    assert town.recipients("remove", town.key["human"]) == 1
    assert "the last human" in capsys.readouterr().err
    assert town.bytes() == before


def test_who_is_nowhere_cannot_be_removed_and_who_is_there_is_added_to_no_effect(
    town: Town, capsys: pytest.CaptureFixture[str]
) -> None:
    before = town.bytes()
    assert town.recipients("remove", town.key["stranger"]) == 1
    assert "is named nowhere" in capsys.readouterr().err
    assert town.recipients("add", town.key["human"], "--human") == 0
    assert town.recipients("add", town.key["host"], "--host", "signi") == 0
    assert town.bytes() == before


def test_who_is_in_a_file_and_not_in_the_spec_can_be_removed(town: Town) -> None:
    document = town.opened(SECRETS)
    wider = sops.rewrap(document, [*document.recipients, town.key["stranger"]], now=datetime.now(UTC), fresh=False)
    (town.root / SECRETS).write_bytes(wider)
    assert town.recipients("remove", town.key["stranger"]) == 0
    assert not town.opens(SECRETS, "stranger")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("add", "{host}", "--human"), "the recovery file is for humans only"),
        (("add", "{human}", "--host", "vm"), "opens the recovery file too"),
        (("add", "{spare}", "--host", "signi"), "has another recipient"),
        (("add", "{host}", "--host", "vm"), "is the host signi already"),
    ],
)
def test_nobody_is_human_and_host_and_no_host_is_two(
    town: Town, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], says: str
) -> None:
    before = town.bytes()
    assert town.recipients(*(word.format(**town.key) for word in words)) == 1
    assert says in capsys.readouterr().err
    assert town.bytes() == before


@pytest.mark.parametrize(
    "words",
    [
        ("sync", "{spare}"), ("sync", "--human"), ("add",), ("add", "{spare}"), ("add", "--human"),
        ("add", "--host", "vm"),
        ("add", "{spare}", "--human", "--host", "vm"), ("remove",), ("remove", "{host}", "--human"),
        ("remove", "{host}", "--host", "signi"), ("remove", "--host", "nobody"), ("add", "{spare}", "--host", "a/b"),
        ("add", "{spare}", "--host", "a\nb = 1"), ("add", "age1qqqq", "--human"), ("add", "0x1234ABCD", "--human"),
        ("add", "ssh-rsa AAAA", "--human"), ("add", "{spare}\n[agents.eve]", "--human"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_as_such(
    town: Town, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    before = town.bytes()
    assert town.recipients(*(word.format(**town.key) for word in words)) == 2
    assert "identity: hint: " in capsys.readouterr().err
    assert town.bytes() == before


def test_a_private_key_on_the_command_line_is_not_repeated(town: Town, capsys: pytest.CaptureFixture[str]) -> None:
    private = (town.root / "friend.key").read_text().splitlines()[-1]
    for words in (("add", private, "--human"), ("remove", private), ("add", "--host", private, town.key["spare"])):
        assert town.recipients(*words) == 2
        out, err = capsys.readouterr()
        assert private not in out + err


def test_without_a_key_that_opens_them_nothing_is_changed_not_even_the_spec(
    town: Town, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = town.bytes()
    monkeypatch.setenv("SOPS_AGE_KEY_FILE", str(town.root / "stranger.key"))
    assert town.recipients("add", town.key["friend"], "--human") == 1
    assert town.recipients("remove", "--host", "signi") == 1
    assert "SOPS_AGE_KEY_FILE" in capsys.readouterr().err
    assert town.bytes() == before


def test_who_removes_themselves_is_told_that_nothing_was_proven(
    town: Town, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert town.recipients("add", town.key["friend"], "--human") == 0
    monkeypatch.setenv("SOPS_AGE_KEY_FILE", str(town.root / "friend.key"))
    assert town.recipients("remove", town.key["friend"]) == 0
    assert capsys.readouterr().err.count("was not proven here") == 2
    assert town.opens(SECRETS, "human")
    assert not town.opens(SECRETS, "friend")


def test_a_machine_that_removes_its_own_key_is_told(town: Town, capsys: pytest.CaptureFixture[str]) -> None:
    town.spec.write_text(town.spec.read_text().replace("/nonexistent/age.key", str(town.root / "host.key")))
    assert town.recipients("remove", "--host", "signi") == 0
    assert "this machine's own key" in capsys.readouterr().err


def test_a_dry_run_says_all_of_it_and_changes_nothing(town: Town, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in town.root.rglob("*")}
    capsys.readouterr()
    assert town.recipients("remove", "--host", "signi", "--dry-run") == 0
    said = capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in town.root.rglob("*")} == before
    assert town.recipients("remove", "--host", "signi") == 0
    assert capsys.readouterr().out == said
    assert [line.split()[0] for line in said.splitlines()] == ["edit", "rewrap", "rotate", "rotate", "rotate", "rotate"]


def test_an_ssh_key_that_stands_in_a_file_as_it_is_is_written_as_sops_nix_reads_it(
    town: Town, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """sops-nix takes it when it builds and fails at boot."""
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", tmp_path / "id"])
    line = (tmp_path / "id.pub").read_text().strip()
    before = town.opened(SECRETS)
    armored = run(["age", "-a", "-r", line], feed=before.data_key).out.decode().strip()
    text, indented = (town.root / SECRETS).read_text(), armored.replace("\n", "\n" + " " * 12)
    entry = rf"- enc: \|\n[^-]*-----BEGIN[^\n]*\n[^-]*-----END[^\n]*\n *recipient: {town.key['host']}"
    raw = f"- enc: |\n{' ' * 12}{indented}\n          recipient: {line}"
    (town.root / SECRETS).write_text(re.sub(entry, lambda _: raw, text))
    town.spec.write_text(town.spec.read_text().replace(town.key["host"], line))
    assert line in town.readers(SECRETS)
    capsys.readouterr()
    assert town.recipients("sync") == 0
    assert capsys.readouterr().out == f"rewrap  {SECRETS}: recipients written as sops-nix reads them\n"
    assert all(one == "human" or one.startswith("age1") for one in town.readers(SECRETS))
    after = sops.load((town.root / SECRETS).read_bytes(), SECRETS, sops.Keys.of_ssh_file(tmp_path / "id"))
    assert (after.tree, after.data_key) == (before.tree, before.data_key)


def test_a_recipient_in_the_form_of_ssh_joins_and_leaves_by_either_name(town: Town, tmp_path: Path) -> None:
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "vm", "-f", tmp_path / "id"])
    line = (tmp_path / "id.pub").read_text().strip()
    assert town.recipients("add", line, "--host", "vm") == 0
    assert f'vm = "{line}"' in town.spec.read_text()  # as it was given
    (one,) = town.readers(SECRETS) - {"human", "host"}
    assert one.startswith("age1")  # as sops-nix reads it
    assert sops.load((town.root / SECRETS).read_bytes(), SECRETS, sops.Keys.of_ssh_file(tmp_path / "id"))
    assert town.recipients("remove", one) == 0  # known by either name
    assert line not in town.spec.read_text()
    assert town.readers(SECRETS) == {"human", "host"}


def test_an_openpgp_key_joins_and_leaves(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    from identity.keys import gpg

    with gpg.throw_away_home() as home:
        monkeypatch.setenv("GNUPGHOME", str(home))
        quiet = ["gpg", "--batch", "--quiet", "--passphrase", "", "--pinentry-mode", "loopback"]
        run(
            [*quiet, "--quick-gen-key", "Josh <josh@signi.local>", "future-default", "default", "1d"],
            env={"GNUPGHOME": str(home)},
        )
        listed = run(["gpg", "--list-keys", "--with-colons"], env={"GNUPGHOME": str(home)}).out.decode()
        fingerprint = next(line.split(":")[9] for line in listed.splitlines() if line.startswith("fpr:"))
        spaced = f"{fingerprint[:4]} {fingerprint[4:].lower()}"
        assert town.recipients("add", spaced, "--human") == 0
        assert f'"{fingerprint}"]' in town.spec.read_text()
        monkeypatch.delenv("SOPS_AGE_KEY_FILE")
        keys = sops.Keys.of_gnupg_home(home)
        assert sops.load((town.root / RECOVERY).read_bytes(), RECOVERY, keys).tree == town.opened(RECOVERY).tree
        assert town.recipients("add", town.key["friend"], "--human") == 0  # opened with it alone
        monkeypatch.setenv("SOPS_AGE_KEY_FILE", str(town.root / "human.key"))
        assert town.recipients("remove", fingerprint) == 0
        assert town.readers(RECOVERY) == {"human", "friend"}
        with pytest.raises(sops.NoKey):
            sops.load((town.root / SECRETS).read_bytes(), SECRETS, keys)


@pytest.mark.parametrize("harm", ["mode", "comment", "layout", "read-only"])
def test_a_spec_that_cannot_be_changed_here_is_left_and_the_lines_for_it_are_printed(
    town: Town, capsys: pytest.CaptureFixture[str], harm: str
) -> None:
    text = town.spec.read_text()
    match harm:
        case "mode":
            town.spec.chmod(0o444)
        case "comment":
            town.spec.write_text("# Generated by the configuration of this machine.\n" + text)
        case "layout":
            town.spec.write_text(text.replace('"]  # josh', '"""]').replace('humans = ["', 'humans = ["""'))
        case "read-only":
            run(["mount", "--bind", town.spec, town.spec])
            run(["mount", "-o", "remount,bind,ro", town.spec])
    before = town.bytes()
    capsys.readouterr()
    try:
        assert town.recipients("add", "--host", "vm", town.key["spare"]) == (0 if harm == "layout" else 1)
        if harm == "layout":  # a host can be written there; a human cannot
            before = town.bytes()
            assert town.recipients("add", "--human", town.key["friend"]) == 1
        out, err = capsys.readouterr()
        assert town.bytes() == before
    finally:
        if harm == "read-only":
            run(["umount", town.spec])
    lines = out[out.index("[town.recipients]") :]
    import tomllib

    printed = tomllib.loads(lines)["town"]["recipients"]
    assert printed["humans"][0] == town.key["human"]
    assert town.key["friend" if harm == "layout" else "spare"] in lines
    assert "then: identity recipients --spec" in err


def test_a_spec_out_of_the_nix_store_is_left(town: Town, capsys: pytest.CaptureFixture[str]) -> None:
    """The spec that NixOS makes is a link into /nix/store."""
    nix = Path("/nix/store")
    existed = nix.exists()
    nix.mkdir(parents=True, exist_ok=True)
    run(["mount", "-t", "tmpfs", "tmpfs", nix])
    try:
        (nix / "town.toml").write_bytes(town.spec.read_bytes())
        town.spec.unlink()
        town.spec.symlink_to(nix / "town.toml")
        before = town.bytes()
        assert town.recipients("add", "--host", "vm", town.key["spare"]) == 1
        out, err = capsys.readouterr()
        assert f'vm = "{town.key["spare"]}"' in out
        assert "NixOS" in err
        assert town.bytes() == before
    finally:
        run(["umount", nix])
        if not existed:
            nix.rmdir()
            nix.parent.rmdir()


def test_a_link_to_the_spec_stays_a_link_and_mode_and_owner_stay(town: Town) -> None:
    real = town.root / "real.toml"
    town.spec.rename(real)
    town.spec.symlink_to(real)
    real.chmod(0o640)
    os.chown(real, 0, 41190)
    assert town.recipients("add", "--host", "vm", town.key["spare"]) == 0
    assert town.spec.is_symlink()
    found = real.stat()
    assert (found.st_mode & 0o777, found.st_gid) == (0o640, 41190)
    assert town.key["spare"] in real.read_text()


def test_a_spec_that_an_agent_can_change_is_not_acted_on(town: Town, capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever writes there would name themselves, and be given all secrets."""
    os.chown(town.spec, 41100, 41100)
    before = town.bytes()
    for words in (("sync",), ("add", town.key["friend"], "--human")):
        assert town.recipients(*words) == 1
        assert "is not acted on" in capsys.readouterr().err
    assert town.bytes() == before


def _killed(town: Town, step: int, *words: str) -> tuple[int, str]:
    """How a run ended that kills itself, and what it had said."""
    env = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[1])}
    argv = [sys.executable, "-c", _KILLED, str(step), "--spec", str(town.spec), "recipients", *words]
    done = subprocess.run(argv, env=env, capture_output=True, check=False)
    return done.returncode, done.stdout.decode()


@pytest.mark.parametrize("verb", ["add", "remove"])
def test_a_run_killed_at_any_write_is_finished_by_the_next(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    """The spec, the journal, two files: killed at the fifth write is not killed."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for step in range(1, 6):
        root = tmp_path / str(step)
        shutil.copytree(made, root)
        monkeypatch.setenv("SOPS_AGE_KEY_FILE", str(root / "human.key"))
        town = Town(root)
        if verb == "remove":
            assert town.recipients("add", town.key["friend"], "--human") == 0
        words = (verb, town.key["friend"], *(["--human"] if verb == "add" else []))
        status, said = _killed(town, step, *words)
        assert status == (0 if step == 5 else -signal.SIGKILL)
        assert ("identity rotate" in said) == (verb == "remove")  # the next run could not know it
        named = town.key["friend"] in town.spec.read_text()
        if step > 1:  # what is said is never behind the files
            assert named == (verb == "add")
        assert town.recipients(*(words if step == 1 else ("sync",))) == 0
        assert town.identity("check") == 0
        assert town.opens(SECRETS, "friend") == town.opens(RECOVERY, "friend") == (verb == "add")
        assert not list(root.rglob(".*.new"))
        assert not (root / "identities/.gen.journal").exists()


def test_a_run_killed_after_its_journal_is_finished_without_any_key(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _killed(town, 3, "remove", town.key["host"])[0] == -signal.SIGKILL
    monkeypatch.delenv("SOPS_AGE_KEY_FILE")
    assert town.recipients("sync") == 0
    assert not town.opens(SECRETS, "host")


def test_two_runs_at_once_are_refused(town: Town) -> None:
    from identity import guard, places
    from town import spec as specs

    with guard.locked(places.places(specs.load(town.spec))):
        assert town.recipients("sync") == 75
    assert town.recipients("sync") == 0


def test_a_spec_that_is_changed_meanwhile_is_not_written_over(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    from identity import recipients

    real = recipients.prepare

    def slow(*arguments: object) -> object:
        plan = real(*arguments)  # type: ignore[arg-type]
        town.spec.write_text(town.spec.read_text() + "# mine\n")
        return plan

    monkeypatch.setattr(recipients, "prepare", slow)
    before = town.bytes()
    assert town.recipients("add", town.key["friend"], "--human") == 75
    assert town.bytes() == before | {"town.toml": before["town.toml"] + b"# mine\n"}


def test_before_there_are_files_only_the_spec_is_changed_and_gen_makes_them_for_all(
    town: Town, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(town.root / "secrets")
    shutil.rmtree(town.root / "identities")
    capsys.readouterr()
    assert town.recipients("add", town.key["friend"], "--human") == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["edit"]
    assert town.identity("gen", "--all") == 0
    assert town.readers(RECOVERY) == {"human", "friend"}


def test_where_the_spec_names_nobody_the_rules_in_force_are_changed(
    town: Town, capsys: pytest.CaptureFixture[str]
) -> None:
    town.name_by_rules(f"{town.key['human']}   # josh\n          - {town.key['host']}", town.key["human"])
    spec, rules = town.spec.read_bytes(), (town.root / ".sops.yaml").read_text()
    assert town.recipients("sync") == 0
    assert town.recipients("add", town.key["friend"], "--human") == 0
    assert town.readers(SECRETS) == {"human", "host", "friend"}
    assert town.readers(RECOVERY) == {"human", "friend"}
    assert town.recipients("add", town.key["spare"], "--host", "vm") == 0
    assert town.readers(SECRETS) == {"human", "host", "friend", "spare"}
    assert town.readers(RECOVERY) == {"human", "friend"}
    assert town.recipients("remove", town.key["friend"]) == 0
    assert town.recipients("remove", town.key["spare"]) == 0
    assert not town.opens(RECOVERY, "friend")
    assert town.readers(SECRETS) == {"human", "host"}
    assert (town.root / ".sops.yaml").read_text() == rules
    assert town.spec.read_bytes() == spec
    capsys.readouterr()
    assert town.recipients("remove", town.key["human"]) == 1
    assert "nobody else is named" in capsys.readouterr().err
    assert (town.root / ".sops.yaml").read_text() == rules


def test_a_host_is_not_added_to_a_rule_that_is_the_recovery_files_too(
    town: Town, capsys: pytest.CaptureFixture[str]
) -> None:
    town.name_by_rules(town.key["human"], town.key["human"])
    rules = town.root / ".sops.yaml"
    rules.write_text(f"creation_rules:\n  - age: {town.key['human']}\n")
    assert town.recipients("sync") == 0
    before = rules.read_bytes()
    capsys.readouterr()
    assert town.recipients("add", town.key["spare"], "--host", "vm") == 1
    err = capsys.readouterr().err
    assert "is for humans only" in err.replace("which is", "is")
    assert rules.read_bytes() == before
    # The rule of its own that the hint gives makes it possible.
    line = next(line for line in err.splitlines() if "- {" in line)
    rules.write_text(
        rules.read_text().replace("creation_rules:\n", f"creation_rules:\n  {line[line.index('- {') :]}\n")
    )
    assert town.recipients("add", town.key["spare"], "--host", "vm") == 0
    assert town.readers(RECOVERY) == {"human"}
    assert town.readers(SECRETS) == {"human", "spare"}


def test_groups_that_share_a_key_are_brought_to_those_of_the_rule(town: Town) -> None:
    text = re.sub(r"\[town\.recipients\].*?\n(?=\[)", "", town.spec.read_text(), flags=re.DOTALL)
    town.spec.write_text(text)
    human, friend, spare = town.key["human"], town.key["friend"], town.key["spare"]
    (town.root / ".sops.yaml").write_text(
        f"creation_rules:\n  - path_regex: recovery\n    shamir_threshold: 2\n    key_groups:\n"
        f"      - age: ['{human}', '{friend}']\n      - age: ['{human}', '{spare}']\n"
        f"  - age: '{human},{town.key['host']}'\n"
    )
    old = town.opened(RECOVERY)
    assert town.recipients("sync") == 0
    groups, threshold = sops.groups_of((town.root / RECOVERY).read_bytes(), RECOVERY)
    assert ([set(group) for group in groups], threshold) == ([{human, friend}, {human, spare}], 2)
    assert town.opened(RECOVERY).tree == old.tree  # the human holds a share of either group
    assert town.opened(RECOVERY).data_key != old.data_key  # who had it whole has a share now
    assert not town.opens(RECOVERY, "friend")
    before = town.bytes()
    assert town.recipients("sync") == 0
    assert town.bytes() == before


def test_where_nobody_is_named_anywhere_it_says_so(town: Town, capsys: pytest.CaptureFixture[str]) -> None:
    town.name_by_rules("x", "x")
    (town.root / ".sops.yaml").unlink()
    for words in (("sync",), ("add", town.key["friend"], "--human")):
        assert town.recipients(*words) == 1
        assert "nobody is named" in capsys.readouterr().err


def test_json_says_what_was_done(town: Town, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert town.recipients("add", town.key["friend"], "--human", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {
        "edited": [str(town.spec)],
        "files": [
            {"name": name, "joined": [town.key["friend"]], "left": [], "new_data_key": False}
            for name in (SECRETS, RECOVERY)
        ],
        "rotate": [],
    }
    assert town.recipients("remove", town.key["friend"], "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert [one["new_data_key"] for one in report["files"]] == [True, True]


def test_after_many_turns_everything_is_as_it_was_for_those_who_stayed(town: Town) -> None:
    trees = {file: town.opened(file).tree for file in (SECRETS, RECOVERY)}
    for turn in range(times(2)):
        assert town.recipients("add", town.key["friend"], "--human") == 0
        assert town.recipients("remove", town.key["friend"]) == 0
        assert town.recipients("add", town.key["spare"], "--host", f"vm{turn}") == 0
        assert town.recipients("remove", town.key["spare"]) == 0
    for who, file in (("human", SECRETS), ("host", SECRETS), ("human", RECOVERY)):
        assert town.opened(file, who).tree == trees[file]
    assert town.identity("check") == 0
