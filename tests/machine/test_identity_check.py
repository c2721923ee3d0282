"""check reads only: what it finds, its status, and what it says without any private key."""

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from identity import check, cli, places
from identity.keys import ssh
from town import sops, spec
from town.process import run


class Town:
    def __init__(self, root: Path) -> None:
        self.root, self.spec, self.key = root, root / "town.toml", root / "human.key"

    def identity(self, *words: str) -> int:
        return cli.main(["--spec", str(self.spec), *words])

    def found(self, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, list[dict[str, str]]]]:
        capsys.readouterr()
        status = self.identity("check", "--json")
        report = json.loads(capsys.readouterr().out)
        assert report["status"] == status
        levels: dict[str, list[dict[str, str]]] = {}
        for finding in report["findings"]:
            levels.setdefault(finding["level"], []).append(finding)
        return status, levels

    def set(self, changes: dict[str, str]) -> None:
        file = self.root / "secrets/agents.yaml"
        document = sops.load(file.read_bytes(), "agents.yaml", sops.Keys.of_age_file(self.key))
        file.write_bytes(sops.update(document, changes, now=datetime.now(UTC)))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made")
    recipients = {}
    for name in ("human", "host", "stranger"):
        run(["age-keygen", "-o", root / f"{name}.key"])
        recipients[name] = run(["age-keygen", "-y", root / f"{name}.key"]).out.decode().strip()
    (root / "recipients.json").write_text(json.dumps(recipients))
    (root / "town.toml").write_text(
        f"""
        [town]
        domain = "signi.local"
        [town.recipients]
        humans = ["{recipients["human"]}"]
        hosts = {{ signi = "{recipients["host"]}" }}
        [town.host_key]
        age = "/nonexistent/age.key"
        ssh = "/nonexistent/ssh"
        [agents.ada]
        uid = 41100
        [agents.vox]
        uid = 41101
        git = {{ signing = "ssh" }}
        """
    )
    assert cli.main(["--spec", str(root / "town.toml"), "gen", "--all"]) == 0
    return root


@pytest.fixture
def town(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Town:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.setenv("SOPS_AGE_KEY_FILE", str(tmp_path / "human.key"))
    monkeypatch.setenv("HOME", str(tmp_path))
    return Town(tmp_path)


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
    recovery = (town.root / "secrets/recovery.yaml").read_bytes()
    whole = sops.load(recovery, "recovery", sops.Keys.of_age_file(town.key)).get("ada/gpg-primary-key")
    assert whole is not None
    town.set({"ada/gpg-key": whole})
    status, levels = town.found(capsys)
    assert status == 4
    assert "holds the primary key" in levels["error"][0]["what"]


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
    who = json.loads((town.root / "recipients.json").read_text())
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
    town.spec.write_text(town.spec.read_text() + 'secrets = { extra = { token = "vox/token" } }\n')
    assert town.identity("gen", "--all") == 0
    status, levels = town.found(capsys)
    assert (status, levels["warning"][0]["cure"]) == (3, "identity secret set vox token")


def test_expiry_is_told_thirty_days_before(town: Town) -> None:
    made = spec.load(town.spec)
    where = places.places(made)
    entry = (town.root / "identities/keys.lock.toml").read_text().split("expires = ")[1].split()[0]
    expires = datetime.fromisoformat(entry)

    def levels(days: float) -> list[str]:
        from datetime import timedelta

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
    file = town.root / "secrets/agents.yaml"
    document = sops.load(file.read_bytes(), "agents.yaml", sops.Keys.of_age_file(town.key))
    whole = sops.create({"vox": {"ssh-key": document.get("vox/ssh-key")}}, document.recipients, now=datetime.now(UTC))
    file.write_bytes(whole)
    _, levels = town.found(capsys)
    assert {one["cure"].split(":")[0] for one in levels["error"]} == {
        "bring secrets/agents.yaml back from git or a backup"
    }


@pytest.mark.parametrize("file", ["agents.yaml", "recovery.yaml"])
def test_the_cure_for_other_recipients_is_a_rule_that_gives_those_of_the_spec(
    town: Town, capsys: pytest.CaptureFixture[str], file: str
) -> None:
    who = json.loads((town.root / "recipients.json").read_text())
    town.spec.write_text(town.spec.read_text().replace(who["human"], who["stranger"]))
    _, levels = town.found(capsys)
    (cure,) = {one["cure"] for one in levels["error"] if one["where"] == f"secrets/{file}"}
    assert "program sops" in cure
    assert cure.endswith(f"cd {town.root}/secrets && sops updatekeys {file}")
    rule = cure[cure.index("- {") : cure.index("} - ") + 1]
    (town.root / "secrets/.sops.yaml").write_text(f"creation_rules:\n{rule}\n")
    wanted = {who["stranger"]} | ({who["host"]} if file == "agents.yaml" else set())
    assert set(sops.creation_recipients(town.root / "secrets" / file, start=town.root / "secrets") or ()) == wanted


def test_check_changes_nothing(town: Town, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in town.root.rglob("*")}
    town.found(capsys)
    assert {path: path.stat().st_mtime_ns for path in town.root.rglob("*")} == before
