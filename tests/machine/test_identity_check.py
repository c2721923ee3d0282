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

from identity import check, places
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
    assert (status, levels["warning"][0]["cure"]) == (3, "identity secret set vox token")


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
    (town.root / "identities/.gen.journal").write_text(json.dumps(record))
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
    assert {one["cure"].split(" - ")[0] for one in levels["error"]} == {"identity recipients sync"}


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
    (warning,) = levels["warning"]
    assert (status, warning["where"]) == (3, "identities/vox")
    assert "ssh.pub" not in warning["cure"]
    for name in warning["cure"].split(". ")[0].removeprefix("git rm ").split():
        (town.root / name).unlink()
    assert town.found(capsys) == (0, {})


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
    assert (status, [one["where"] for one in levels["error"]]) == (4, ["identities/ada/gpg.asc"])


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
                    "cure": "identity rotate vox --ssh",
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


def test_a_host_that_is_called_as_this_machine_and_has_another_key_is_a_warning(
    town: Town, capsys: pytest.CaptureFixture[str]
) -> None:
    name = os.uname().nodename.partition(".")[0]
    town.change("hosts = { signi =", f"hosts = {{ {name} =")
    town.change('age = "/nonexistent/age.key"', f'age = "{town.keys["host"]}"')
    assert town.found(capsys) == (0, {})
    town.change(f'"{town.keys["host"]}"', f'"{town.keys["stranger"]}"')
    status, levels = town.found(capsys)
    assert (status, _said(levels, "warning")) == (
        3,
        [f"town.recipients.hosts.{name} is not the key of this machine: install would fail here"],
    )
    assert levels["warning"][0]["cure"].endswith(f"--host {name} {town.recipient('stranger')}")
