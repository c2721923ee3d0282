"""check reads only: what it finds, its status, and what it says without any private key."""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from identity import check, cli, places
from identity.keys import ssh
from tests.machine import checked
from tests.machine.checked import Town
from town import sops, spec
from town.process import run
from town.sops import metadata, nodes


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checked.make(tmp_path_factory.mktemp("made"))


@pytest.fixture
def town(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Town:
    return checked.copied(made, tmp_path, monkeypatch)


def test_a_clean_town_is_clean(town: Town, capsys: pytest.CaptureFixture[str]) -> None:
    assert town.found(capsys) == (0, {})


def test_without_a_key_check_says_what_it_did_not_look_at_and_still_passes(
    town: Town, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SOPS_AGE_KEY_FILE")
    status, levels = town.found(capsys)
    assert status == 0
    assert [one["where"] for one in levels.pop("unchecked")] == ["secrets/agents.yaml", "secrets/recovery.yaml"]
    assert levels == {}


@pytest.mark.parametrize("path", ["ada/AGENTS.md", "ada/identity.toml", "vox/gitconfig", "vox/agents/vox-agent.md"])
def test_a_document_that_differs_is_a_warning_that_names_it(
    town: Town, capsys: pytest.CaptureFixture[str], path: str
) -> None:
    with (town.root / "identities" / path).open("a") as file:
        file.write("more\n")
    status, levels = town.found(capsys)
    assert (status, [one["where"] for one in levels["warning"]]) == (3, [f"identities/{path}"])
    (town.root / "identities" / path).unlink()
    assert town.found(capsys)[0] == 3


@pytest.mark.parametrize("path", ["ada/ssh.pub", "ada/gpg.asc", "keys.lock.toml", "allowed_signers"])
def test_a_missing_public_half_is_an_error(town: Town, capsys: pytest.CaptureFixture[str], path: str) -> None:
    (town.root / "identities" / path).unlink()
    assert town.found(capsys)[0] == 4


def test_another_key_in_allowed_signers_is_an_error(town: Town, capsys: pytest.CaptureFixture[str]) -> None:
    with (town.root / "identities/allowed_signers").open("a") as file:
        file.write('ada@signi.local namespaces="git" ssh-ed25519 AAAA\n')
    assert town.found(capsys)[0] == 4


def test_a_swapped_private_half_is_an_error(town: Town, capsys: pytest.CaptureFixture[str]) -> None:
    town.set({"vox/ssh-key": ssh.generate()})
    status, levels = town.found(capsys)
    assert (status, levels["error"][0]["where"]) == (4, "vox")


def test_a_primary_key_among_the_agents_secrets_is_an_error(town: Town, capsys: pytest.CaptureFixture[str]) -> None:
    whole = town.opened(town.recovery).get("ada/gpg-primary-key")
    assert whole is not None
    town.set({"ada/gpg-key": whole})
    status, levels = town.found(capsys)
    assert status == 4
    assert "holds the whole OpenPGP key of ada" in levels["error"][0]["what"]


def test_a_tampered_file_is_an_error(town: Town, capsys: pytest.CaptureFixture[str]) -> None:
    file = town.root / "secrets/agents.yaml"
    file.write_text(file.read_text().replace("vox:", "wox:"))
    assert town.found(capsys)[0] == 4


def test_a_secrets_file_in_clear_is_an_error(town: Town, capsys: pytest.CaptureFixture[str]) -> None:
    (town.root / "secrets/agents.yaml").write_text('ada:\n    ssh-key: "x"\n')
    status, levels = town.found(capsys)
    assert status == 4
    assert any("not encrypted" in one["what"] for one in levels["error"])


def test_recipients_are_held_against_the_spec(town: Town, capsys: pytest.CaptureFixture[str]) -> None:
    who = {name: town.recipient(name) for name in town.keys}
    text = town.spec.read_text()
    town.spec.write_text(text.replace(who["host"], who["stranger"]))
    status, levels = town.found(capsys)
    assert status == 4  # the new host could not install
    assert [one["what"] for one in levels["error"]] == [
        f"{who['stranger']} (host) cannot open it: install would fail"
    ]  # fmt: skip
    assert [one["what"] for one in levels["warning"]] == [f"{who['host']} can open it and is not in the spec"]
    town.spec.write_text(text.replace(who["human"], who["stranger"]))
    status, levels = town.found(capsys)
    assert status == 4
    assert {one["where"] for one in levels["error"]} == {"secrets/agents.yaml", "secrets/recovery.yaml"}
    assert "no human of the spec can open it" in {one["what"] for one in levels["error"]}


def test_a_recovery_file_that_a_host_can_open_is_an_error(town: Town, capsys: pytest.CaptureFixture[str]) -> None:
    secrets, recovery = town.root / "secrets/agents.yaml", town.root / "secrets/recovery.yaml"
    recovery.write_bytes(secrets.read_bytes())
    status, levels = town.found(capsys)
    assert status == 4
    assert any("the host signi can open it" in one["what"] for one in levels["error"])


def test_a_missing_extra_secret_is_a_warning(town: Town, capsys: pytest.CaptureFixture[str]) -> None:
    town.change("git = { signing", 'secrets = { extra = { token = "vox/token" } }\ngit = { signing')
    assert town.identity("gen", "--all") == 0
    status, levels = town.found(capsys)
    assert (status, levels["warning"][0]["cure"]) == (3, f"identity secret --spec {town.spec} set vox token")


def test_expiry_is_told_thirty_days_before(town: Town) -> None:
    made = spec.load(town.spec)
    where = places.places(made)
    entry = (town.root / "identities/keys.lock.toml").read_text().split("expires = ")[1].split()[0]
    expires = datetime.fromisoformat(entry)

    def levels(days: float) -> list[str]:
        return [one.level for one in check.findings(made, made.agents, where, expires - timedelta(days=days))]

    assert levels(31) == []
    assert levels(29) == ["warning"]
    assert levels(-1) == ["error"]


def test_an_interrupted_run_is_a_warning(town: Town, capsys: pytest.CaptureFixture[str]) -> None:
    record = {"version": 1, "writes": [{"name": "identities/ada/AGENTS.md", "before": None, "text": "x"}]}
    journal = town.root / "identities/.gen.journal"
    journal.write_text(json.dumps(record))
    assert town.found(capsys)[0] == 4  # git could have brought it: no run leaves one of that mode
    journal.chmod(0o400)
    assert town.found(capsys)[0] == 3


def _errors(town: Town, capsys: pytest.CaptureFixture[str]) -> list[str]:
    capsys.readouterr()
    town.identity("check")
    return [line for line in capsys.readouterr().err.splitlines() if ": error: " in line]


def test_findings_are_printed_as_errors_and_warnings_are_everywhere(
    town: Town, capsys: pytest.CaptureFixture[str]
) -> None:
    (town.root / "identities/ada/AGENTS.md").unlink()
    (town.root / "identities/allowed_signers").unlink()
    capsys.readouterr()
    assert town.identity("check") == 4
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "identity: error: identities/allowed_signers: is not there",
        f"identity: hint: identity gen --spec {town.spec} --all",
        "identity: warning: identities/ada/AGENTS.md: is not there",
        f"identity: hint: identity gen --spec {town.spec} ada",
    ]


@pytest.mark.parametrize("file", ["secrets/agents.yaml", "secrets/recovery.yaml", "identities/keys.lock.toml"])
@pytest.mark.parametrize("text", ["{", "a: 1\n"])
def test_a_broken_file_is_told_once(town: Town, capsys: pytest.CaptureFixture[str], file: str, text: str) -> None:
    (town.root / file).write_text(text)
    (error,) = _errors(town, capsys)
    assert error.startswith(f"identity: error: {file}: ")


def test_a_lost_secrets_file_is_to_be_brought_back_and_not_made_anew(
    town: Town, capsys: pytest.CaptureFixture[str]
) -> None:
    (town.root / "secrets/agents.yaml").unlink()
    _, levels = town.found(capsys)
    (error,) = levels["error"]
    assert error["cure"].startswith("bring secrets/agents.yaml back from git or a backup")


def test_a_lost_private_half_is_to_be_brought_back(town: Town, capsys: pytest.CaptureFixture[str]) -> None:
    document = town.opened(town.secrets)
    only = {"vox": {"ssh-key": document.get("vox/ssh-key")}}
    town.secrets.write_bytes(sops.create(only, document.recipients, now=datetime.now(UTC)))
    _, levels = town.found(capsys)
    assert {one["cure"].split(":")[0] for one in levels["error"]} == {
        "bring secrets/agents.yaml back from git or a backup"
    }


def test_check_changes_nothing(town: Town, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in town.root.rglob("*")}
    town.found(capsys)
    assert {path: path.stat().st_mtime_ns for path in town.root.rglob("*")} == before


def _said(levels: dict[str, list[dict[str, str]]], level: str) -> list[str]:
    return [one["what"] for one in levels.get(level, [])]


def test_the_cure_for_other_recipients_is_to_sync_them(town: Town, capsys: pytest.CaptureFixture[str]) -> None:
    town.change(town.recipient("human"), town.recipient("stranger"))
    _, levels = town.found(capsys)
    assert {one["cure"].split(" - ")[0] for one in levels["error"]} == {f"identity recipients --spec {town.spec} sync"}


def test_without_recipients_in_the_spec_the_rules_of_sops_are_what_files_are_held_against(
    town: Town, capsys: pytest.CaptureFixture[str]
) -> None:
    town.without_recipients()
    town.rules(["human", "host"], ["human"])
    assert town.found(capsys) == (0, {})
    town.rules(["human", "host", "stranger"], ["human"])
    status, levels = town.found(capsys)
    assert (status, _said(levels, "error")) == (
        4,
        [f"{town.recipient('stranger')} cannot open it, and .sops.yaml names it"],
    )
    town.rules(["human"], ["human"])
    status, levels = town.found(capsys)
    assert (status, _said(levels, "warning")) == (
        3,
        [f"{town.recipient('host')} can open it, and .sops.yaml does not name it"],
    )


def test_without_recipients_anywhere_check_says_so(town: Town, capsys: pytest.CaptureFixture[str]) -> None:
    town.without_recipients()
    status, levels = town.found(capsys)
    assert status == 4
    assert {one["where"] for one in levels["error"]} == {"secrets/agents.yaml", "secrets/recovery.yaml"}
    assert all(what.startswith("nobody is named who may open it") for what in _said(levels, "error"))


def test_a_file_that_no_human_of_the_recovery_file_opens_is_an_error(
    town: Town, capsys: pytest.CaptureFixture[str]
) -> None:
    town.without_recipients()
    town.rules(["host"], ["human"])
    only = sops.rewrap(town.opened(town.secrets), [town.recipient("host")], now=datetime.now(UTC), fresh=True)
    town.secrets.write_bytes(only)
    status, levels = town.found(capsys)
    assert status == 4
    assert _said(levels, "error") == [
        "nobody who can open secrets/recovery.yaml can open it, so it seems to be for machines only"
    ]


def test_rules_of_sops_that_differ_from_the_spec_are_a_warning(town: Town, capsys: pytest.CaptureFixture[str]) -> None:
    town.rules(["human", "host"], ["human"])
    assert town.found(capsys) == (0, {})
    town.rules(["human", "stranger"], ["human"])
    status, levels = town.found(capsys)
    assert (status, {one["where"] for one in levels["warning"]}) == (3, {".sops.yaml"})
    assert [what.split(" for ")[0] for what in _said(levels, "warning")] == [
        f"has no {town.recipient('host')}",
        f"names {town.recipient('stranger')}",
    ]


def test_rules_of_sops_for_other_files_are_nobodys_business(town: Town, capsys: pytest.CaptureFixture[str]) -> None:
    rule = {"path_regex": "^other/", "age": town.recipient("stranger")}
    (town.root / ".sops.yaml").write_text(json.dumps({"creation_rules": [rule]}))
    assert town.found(capsys) == (0, {})


def test_a_recovery_file_that_this_machine_opens_is_an_error(town: Town, capsys: pytest.CaptureFixture[str]) -> None:
    town.without_recipients()
    town.change('age = "/nonexistent/age.key"', f'age = "{town.keys["host"]}"')
    town.rules(["human", "host"], ["human", "host"])
    both = [town.recipient("human"), town.recipient("host")]
    town.recovery.write_bytes(sops.rewrap(town.opened(town.recovery), both, now=datetime.now(UTC), fresh=False))
    status, levels = town.found(capsys)
    assert status == 4
    assert [what.split(" (")[0] for what in _said(levels, "error")] == ["the key of this machine opens it"]


def test_a_recipient_whose_wrapped_key_is_another_files_is_found_with_its_key_at_hand(
    town: Town, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    both = town.root.parent / "both.key"
    both.write_text(town.keys["human"].read_text() + town.keys["host"].read_text())
    both.chmod(0o600)
    monkeypatch.setenv("SOPS_AGE_KEY_FILE", str(both))
    assert town.found(capsys) == (0, {})
    other = sops.create({"x": "y"}, [town.recipient("human"), town.recipient("host")], now=datetime.now(UTC))
    ours, theirs = town.secrets.read_text(), other.decode()
    # What is wrapped for the host comes from the other file, as after a merge by hand.
    for text, recipient in ((ours, town.recipient("host")),):
        mine, foreign = _wrapped(text, recipient), _wrapped(theirs, recipient)
        assert mine in text
        town.secrets.write_text(text.replace(mine, foreign))
    status, levels = town.found(capsys)
    what = f"what is wrapped for {town.recipient('host')} does not open with its key, though the file names it"
    assert (status, _said(levels, "error")) == (4, [what])


def _wrapped(text: str, recipient: str) -> str:
    """The armored lines of one recipient, as they stand in the file."""
    _, root = nodes.parse(text.encode(), "file")
    (enc,) = [one.enc for one in metadata.read(root, "file").groups[0] if one.recipient == recipient]
    inner = enc.strip().splitlines()[1:-1]
    start = text.index(inner[0])
    return text[start : text.index(inner[-1], start) + len(inner[-1])]


def test_a_raw_ssh_recipient_is_a_warning_because_sops_nix_fails_on_it_at_boot(
    town: Town, capsys: pytest.CaptureFixture[str]
) -> None:
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", town.root.parent / "host"])
    raw = (town.root.parent / "host.pub").read_text().strip()
    town.change(town.recipient("host"), raw)
    both = [town.recipient("human"), raw]
    town.secrets.write_bytes(sops.rewrap(town.opened(town.secrets), both, now=datetime.now(UTC), fresh=True))
    assert town.found(capsys) == (0, {})
    town.secrets.write_text(town.secrets.read_text().replace(sops.canonical(raw), raw))
    status, levels = town.found(capsys)
    assert status == 3
    (what,) = _said(levels, "warning")
    assert "raw SSH key" in what
    assert "fails at boot" in what


def test_a_value_that_is_no_text_is_an_error_because_sops_nix_fails_on_it_at_boot(
    town: Town, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = town.opened(town.secrets).tree
    tree["ada"]["token"] = 42
    to = [town.recipient("human"), town.recipient("host")]
    town.secrets.write_bytes(sops.create(tree, to, now=datetime.now(UTC)))
    status, levels = town.found(capsys)
    assert status == 4
    assert [what.split(":")[0] for what in _said(levels, "error")] == [
        "ada/token in secrets/agents.yaml is an integer, and not text"
    ]


def test_keys_that_sops_nix_reads_otherwise_are_a_warning(town: Town, capsys: pytest.CaptureFixture[str]) -> None:
    tree = {"n": {"yes": "a"}, "ada/token": "b"} | town.opened(town.secrets).tree
    to = [town.recipient("human"), town.recipient("host")]
    whole = sops.create(tree, to, now=datetime.now(UTC))
    town.secrets.write_bytes(whole)
    status, levels = town.found(capsys)  # those two are quoted
    assert (status, len(_said(levels, "warning"))) == (3, 1)
    assert "has a slash in it" in _said(levels, "warning")[0]
    town.secrets.write_bytes(whole.replace(b'"n":', b"n:").replace(b'"yes":', b"yes:"))
    _, levels = town.found(capsys)
    assert [what.split(" stands")[0] for what in _said(levels, "warning")] == [
        "line 1: the key n",
        "line 2: the key yes",
        _said(levels, "warning")[2],
    ]


@pytest.mark.parametrize("name", ["revoked.krl", "allowed_signers"])
def test_what_verifiers_read_differs_from_the_lock_only_as_an_error(
    town: Town, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    file = town.root / "identities" / name
    file.write_bytes(file.read_bytes() + b"\n")
    status, levels = town.found(capsys)
    assert (status, [one["where"] for one in levels["error"]]) == (4, [f"identities/{name}"])
    file.unlink()
    assert town.found(capsys)[0] == 4


def test_another_address_in_the_spec_is_drift_and_no_tampering(town: Town, capsys: pytest.CaptureFixture[str]) -> None:
    town.change('git = { signing = "ssh" }', 'git = { signing = "ssh", email = "vox@other.local" }')
    status, levels = town.found(capsys)
    assert (status, "error" in levels) == (3, False)
    assert {"identities/allowed_signers", "identities/keys.lock.toml", "identities/vox/ssh.pub"} <= {
        one["where"] for one in levels["warning"]
    }
    assert town.identity("gen", "--all") == 0
    assert town.found(capsys) == (0, {})


def test_commits_under_an_address_that_the_key_does_not_have_are_a_warning(
    town: Town, capsys: pytest.CaptureFixture[str]
) -> None:
    town.change("uid = 41100", 'uid = 41100\ngit = { email = "ada@other.local" }')
    assert town.identity("gen", "--all") == 0
    status, levels = town.found(capsys)
    assert (status, [one["where"] for one in levels["warning"]]) == (3, ["identities/ada/gpg.asc"])


def test_files_of_an_agent_that_left_are_a_warning_and_its_public_keys_are_not(
    town: Town, capsys: pytest.CaptureFixture[str]
) -> None:
    town.change("[agents.vox]", "[agents.other]")
    assert town.identity("gen", "--all") == 0
    status, levels = town.found(capsys)
    (warning,) = (one for one in levels["warning"] if one["where"] == "identities/vox")
    assert status == 3
    assert "ssh.pub" not in warning["cure"]
    subprocess.run(warning["cure"].split(". ")[0], shell=True, check=True, cwd="/")
    assert not [one for one in town.found(capsys)[1].get("warning", []) if one["where"].startswith("identities/vox")]
    assert (town.root / "identities/vox/ssh.pub").exists()


def test_a_document_that_nothing_makes_any_more_is_a_warning(town: Town, capsys: pytest.CaptureFixture[str]) -> None:
    town.change("uid = 41100", 'uid = 41100\nprompts = { runtimes = ["agents-md"] }')
    assert town.identity("gen", "--all") == 0
    status, levels = town.found(capsys)
    assert (status, {one["where"] for one in levels["warning"]}) == (
        3,
        {"identities/ada/CLAUDE.md", "identities/ada/agents/ada-agent.md"},
    )
    half = town.root / "identities/ada/.AGENTS.md.0123456789ab.new"
    half.write_text("half")
    _, levels = town.found(capsys)
    assert "a run that was killed left it" in _said(levels, "warning")


def test_the_openpgp_key_of_an_agent_that_left_is_still_held_against_the_lock(
    town: Town, capsys: pytest.CaptureFixture[str]
) -> None:
    town.change("[agents.ada]", "[agents.eve]")
    assert town.identity("gen", "--all") == 0
    assert town.found(capsys)[0] == 3  # the documents of ada
    (town.root / "identities/ada/gpg.asc").write_bytes((town.root / "identities/eve/gpg.asc").read_bytes())
    status, levels = town.found(capsys)
    assert (status, {one["where"] for one in levels["error"]}) == (4, {"identities/ada/gpg.asc"})


def test_only_the_named_agents_documents_are_looked_at(town: Town, capsys: pytest.CaptureFixture[str]) -> None:
    (town.root / "identities/ada/AGENTS.md").unlink()
    assert town.found(capsys, "vox")[0] == 0
    assert town.found(capsys, "ada")[0] == 3


def test_names_with_control_characters_do_not_reach_the_terminal(
    town: Town, capsys: pytest.CaptureFixture[str]
) -> None:
    evil = town.root / "identities/\x1b[2Jeve\nidentity: error: forged"
    evil.mkdir()
    (evil / "x\n").write_text("x")
    capsys.readouterr()
    assert town.identity("check") == 3
    out, err = capsys.readouterr()
    assert "\x1b" not in out + err
    assert not [line for line in err.splitlines() if line.startswith("identity: error")]


def test_fifty_agents_are_checked_in_less_than_two_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fifty = "".join(f"[agents.a{at}]\nuid = {41200 + at}\n{_FULL}" for at in range(50))
    with monkeypatch.context() as patch:
        patch.setattr(
            checked, "AGENTS", '[agents.ada]\nuid = 41100\nsecrets = { extra = { token = "ada/token" } }\n' + fifty
        )
        checked.make(tmp_path)
    town = Town(tmp_path)
    town.committed()
    env = os.environ | {"SOPS_AGE_KEY_FILE": str(town.keys["human"]), "HOME": str(tmp_path)}
    with _cpu_seconds() as spent:
        done = subprocess.run(
            [sys.executable, "-m", "identity.cli", "--spec", str(town.spec), "check"],
            env=env, cwd=Path(checked.__file__).parents[2], capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert (done.stdout, done.stderr) == ("everything is as the spec says\n", "")
    assert spent[0] < 2  # of this process and those it runs: what it takes where nothing else runs


_FULL = """git = { signing = "gpg" }
persist = ["projects", { path = ".claude", preset = "claude-code" }]
prompts = { runtimes = ["claude-code", "agents-md", "codex", "gemini", "opencode"] }
"""


@contextmanager
def _cpu_seconds() -> Iterator[list[float]]:
    before, spent = resource.getrusage(resource.RUSAGE_CHILDREN), [0.0]
    yield spent
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent[0] = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_after_rotate_and_revoke_the_town_is_clean_but_for_what_is_still_to_be_done(
    town: Town, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (("rotate", "ada", "--ssh"), ("rotate", "ada", "--gpg"), ("revoke", "vox", "--ssh")):
        assert town.identity(*words) == 0
    status, levels = town.found(capsys)
    assert (status, levels) == (
        3,
        {
            "warning": [
                {
                    "level": "warning",
                    "where": "vox",
                    "what": "its SSH key was revoked and it has no other",
                    "cure": f"identity rotate --spec {town.spec} vox --ssh",
                }
            ]
        },
    )
    assert town.identity("rotate", "vox", "--ssh") == 0
    assert town.found(capsys) == (0, {})


def test_a_revocation_that_is_taken_back_in_gpg_asc_is_an_error(town: Town, capsys: pytest.CaptureFixture[str]) -> None:
    file = town.root / "identities/ada/gpg.asc"
    before = file.read_bytes()
    assert town.identity("revoke", "ada", "--gpg") == 0
    file.write_bytes(before)
    status, levels = town.found(capsys)
    assert status == 4
    assert [(one["where"], one["what"].split(" that ")[0]) for one in levels["error"]] == [
        ("identities/ada/gpg.asc", "does not say")
    ]


def test_an_older_key_that_is_missing_in_gpg_asc_is_an_error(town: Town, capsys: pytest.CaptureFixture[str]) -> None:
    file = town.root / "identities/ada/gpg.asc"
    before = file.read_bytes()
    assert town.identity("rotate", "ada", "--gpg") == 0
    assert town.found(capsys) == (0, {})
    file.write_bytes(before)  # has the first subkey only
    status, levels = town.found(capsys)
    assert status == 4
    assert {one["where"] for one in levels["error"]} <= {"ada", "identities/ada/gpg.asc"}


def test_the_private_half_of_a_revoked_key_that_is_still_there_is_an_error(
    town: Town, capsys: pytest.CaptureFixture[str]
) -> None:
    before = town.secrets.read_bytes()
    assert town.identity("revoke", "vox", "--ssh") == 0
    town.secrets.write_bytes(before)
    status, levels = town.found(capsys)
    assert (status, _said(levels, "error")) == (
        4,
        ["secrets/agents.yaml still has vox/ssh-key, the private half of a key that was revoked"],
    )


def test_where_the_data_key_is_split_a_host_that_has_too_few_shares_is_an_error(
    town: Town, capsys: pytest.CaptureFixture[str]
) -> None:
    human, host = town.recipient("human"), town.recipient("host")
    split = sops.rewrap(
        town.opened(town.secrets), (human, host), groups=((human, host), (human,)), now=datetime.now(UTC), fresh=True
    )
    town.secrets.write_bytes(split)
    status, levels = town.found(capsys)
    assert (status, _said(levels, "error")) == (
        4,
        ["its key is split: the host signi can open 1 of the 2 groups that are needed"],
    )


def test_a_machine_whose_own_key_does_not_open_the_secrets_is_a_warning(
    town: Town, capsys: pytest.CaptureFixture[str]
) -> None:
    name = os.uname().nodename.partition(".")[0]
    town.change('age = "/nonexistent/age.key"', f'age = "{town.keys["host"]}"')
    assert town.found(capsys) == (0, {})  # under another name than the machine's own, which opens them all the same
    town.change(f'"{town.keys["host"]}"', f'"{town.keys["stranger"]}"')
    status, levels = town.found(capsys)
    (warning,) = levels["warning"]
    stranger = town.recipient("stranger")
    assert (status, warning["what"]) == (3, f"the key of this machine ({stranger}) cannot open it: install fails here")
    add = f"identity recipients --spec {town.spec} add --host {name} {stranger}"
    assert warning["cure"] == add
    town.change("hosts = { signi =", f"hosts = {{ {name} =")
    (warning,) = town.found(capsys)[1]["warning"]
    assert warning["cure"] == f"identity recipients --spec {town.spec} remove --host {name}, then {add}"


def test_the_cure_for_a_machine_that_cannot_install_makes_check_clean(
    town: Town, capsys: pytest.CaptureFixture[str]
) -> None:
    name = os.uname().nodename.partition(".")[0]
    town.change("hosts = { signi =", f"hosts = {{ {name} =")
    town.change('age = "/nonexistent/age.key"', f'age = "{town.keys["stranger"]}"')
    (warning,) = town.found(capsys)[1]["warning"]
    for words in warning["cure"].split(", then "):
        assert cli.main(words.split()[1:]) == 0
    assert town.found(capsys) == (0, {})


def test_another_key_called_as_this_machine_is_no_matter_where_its_own_key_opens(
    town: Town, capsys: pytest.CaptureFixture[str]
) -> None:
    name = os.uname().nodename.partition(".")[0]
    assert town.identity("recipients", "add", "--host", name, town.recipient("stranger")) == 0
    town.change('age = "/nonexistent/age.key"', f'age = "{town.keys["host"]}"')
    assert town.found(capsys) == (0, {})


def test_the_ssh_key_of_a_machine_that_is_none_of_the_towns_is_no_matter(
    town: Town, capsys: pytest.CaptureFixture[str]
) -> None:
    key = town.root.parent / "ssh_host"
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key])
    town.change('ssh = "/nonexistent/ssh"', f'ssh = "{key}"')
    assert town.found(capsys) == (0, {})  # every machine has one
    town.change("hosts = { signi =", f"hosts = {{ {os.uname().nodename.partition('.')[0]} =")
    assert town.found(capsys)[0] == 3


def test_one_rule_for_both_files_is_a_warning(town: Town, capsys: pytest.CaptureFixture[str]) -> None:
    town.without_recipients()
    both = [town.recipient("human"), town.recipient("host")]
    town.recovery.write_bytes(sops.rewrap(town.opened(town.recovery), both, now=datetime.now(UTC), fresh=False))
    (town.root / ".sops.yaml").write_text(json.dumps({"creation_rules": [{"age": ",".join(both)}]}))
    status, levels = town.found(capsys)
    (warning,) = levels["warning"]
    assert (status, warning["where"]) == (3, ".sops.yaml")
    assert "creation_rules[0] is for secrets/agents.yaml and for secrets/recovery.yaml" in warning["what"]
    assert "path_regex" in warning["cure"]


def test_a_missing_lock_is_to_be_brought_back_and_nothing_is_to_be_deleted(
    town: Town, capsys: pytest.CaptureFixture[str]
) -> None:
    town.committed()
    town.change("[agents.vox]", "[agents.other]")
    before = (town.root / "identities/keys.lock.toml").read_bytes()
    (town.root / "identities/keys.lock.toml").unlink()
    status, levels = town.found(capsys)
    assert status == 4
    assert not [one for level in levels.values() for one in level if "rm " in one["cure"]]
    (lock,) = (one for one in levels["error"] if one["where"] == "identities/keys.lock.toml")
    assert "gen" not in lock["cure"]
    subprocess.run(lock["cure"].split(": ")[1], shell=True, check=True, cwd="/")
    assert (town.root / "identities/keys.lock.toml").read_bytes() == before


def test_files_of_an_agent_that_the_lock_does_not_name_are_no_leftovers(
    town: Town, capsys: pytest.CaptureFixture[str]
) -> None:
    lock = town.root / "identities/keys.lock.toml"
    text = lock.read_text()
    lock.write_text(text[: text.index("[agents.vox]")])
    _, levels = town.found(capsys)
    assert not [one for level in levels.values() for one in level if "rm " in one["cure"]]


def test_every_cure_has_the_directory_that_was_named(town: Town, capsys: pytest.CaptureFixture[str]) -> None:
    out = town.root.parent / "o ut"
    out.mkdir()
    for name in ("identities", "secrets"):
        (town.root / name).rename(out / name)
    (out / "identities/ada/AGENTS.md").unlink()
    capsys.readouterr()
    assert town.identity("check", "--out", str(out)) == 3
    assert f"identity gen --spec {town.spec} --out '{out}' ada" in capsys.readouterr().err
    assert town.identity("check", "--json", "--out", str(out)) == 3
    (one,) = json.loads(capsys.readouterr().out)["findings"]
    assert one["cure"] == f"identity gen --spec {town.spec} --out '{out}' ada"


def test_the_file_is_said_once_in_a_line(town: Town, capsys: pytest.CaptureFixture[str]) -> None:
    file = town.root / "secrets/agents.yaml"
    file.write_text(file.read_text().replace("vox:", "wox:"))
    assert town.identity("check") == 4
    for line in capsys.readouterr().err.splitlines():
        assert line.split("hint:")[0].count("secrets/agents.yaml") < 2
    file.write_text("ada: clear\n")
    assert town.identity("check") == 4
    for line in capsys.readouterr().err.splitlines():
        assert line.split("hint:")[0].count("secrets/agents.yaml") < 2


def test_the_private_half_of_an_agent_that_left_is_a_warning(town: Town, capsys: pytest.CaptureFixture[str]) -> None:
    town.change("[agents.ada]", "[agents.eve]")
    town.change('token = "ada/token"', 'token = "eve/token"')
    assert town.identity("gen", "--all") == 0
    _, levels = town.found(capsys)
    (said,) = (one for one in levels["warning"] if "private half" in one["what"])
    assert said["where"] == "secrets/agents.yaml"
    assert "ada/ssh-key, ada/gpg-key" in said["what"]
    assert str(town.secrets) in said["cure"]
    opened = town.opened(town.secrets)
    gone = ["ada/ssh-key", "ada/gpg-key"]
    town.secrets.write_bytes(sops.update(opened, {}, now=datetime.now(UTC), remove=gone))
    assert not [one for one in town.found(capsys)[1]["warning"] if "private half" in one["what"]]
