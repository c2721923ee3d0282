"""What a spec says when it is right: every default, every normal form."""

import os
import subprocess
import sys
from pathlib import Path, PurePosixPath

import pytest

from town import presets, spec
from town.failure import WrongUsage
from town.spec import Btrfs, Persist, Spec

EXAMPLE = Path(__file__).parent.parent / "fixtures/town.toml"
LEAST = "[agents.ada]\nuid = 1100\n"
HUMAN = "age122tdud7k2y8d4nsmnu8ymmh8x64pv42vya3xr9x59ljeuw2vevgsz6e2xk"
HEAVY = {"boto3", "rich", "gnupg", "tomlkit", "cryptography", "ruamel", "zstandard", "blake3", "pyfastcdc", "pyrage"}
FILE = Path("/etc/nuketown/town.toml")


def read(text: str) -> Spec:
    return spec.parse(text.encode(), FILE)


def test_a_spec_is_the_same_wherever_its_file_lies() -> None:
    here, there = read(LEAST), spec.parse(LEAST.encode(), Path("/elsewhere/town.toml"))
    assert here.file != there.file
    assert here == there
    assert (here != there) is False
    assert hash(here) == hash(there)
    assert here != read(LEAST + 'role = "other"\n')
    assert here != (here.town, here.agents)


def test_the_example_is_accepted_as_it_stands() -> None:
    ada, vox = spec.load(EXAMPLE).agents
    assert (ada.uid, ada.gid, ada.sudo, ada.git.signing) == (1100, 1100, True, "gpg")
    assert (
        ada.description
        == "Software collaborator. Thinks before acting.\nSays \"why\" before 'how'; uses \\ and \t freely.\n"
    )
    assert [(str(entry.path), entry.via, entry.class_, entry.required) for entry in ada.persist] == [
        ("projects", "both", "data", True),
        (".claude", "both", "data", True),
        ("notes", "both", "data", True),
        ("models", "bind", "cache", True),
        ("scratch/results", "store", "data", False),
    ]
    assert ada.persist[1].preset == "claude-code"
    assert ada.secrets.env == (("CLAUDE_CODE_OAUTH_TOKEN", "anthropic-key"),)
    assert ada.prompts.settings["permissions"]["defaultMode"] == "acceptEdits"
    assert (vox.git.name, vox.git.email, vox.secrets.gpg_key) == ("Vox", "vox@signi.local", None)


def test_an_agent_needs_nothing_but_a_uid() -> None:
    found = read(LEAST)
    (ada,) = found.agents
    assert (ada.gid, ada.role, ada.description, ada.persist, ada.sudo, ada.devices) == (
        1100,
        "agent",
        "",
        (),
        False,
        (),
    )
    assert (ada.git.name, ada.git.signing) == ("Ada", "gpg")
    assert ada.git.email == f"ada@{found.town.domain}"
    assert (ada.secrets.ssh_key, ada.secrets.gpg_key) == ("ada/ssh-key", "ada/gpg-key")
    assert (ada.prompts.runtimes, ada.prompts.name) == (("claude-code", "agents-md"), "ada-agent")
    town = found.town
    assert (town.agents_dir, town.persist_dir, town.store, town.btrfs) == (
        Path("/agents"),
        Path("/persist"),
        None,
        None,
    )
    assert (str(town.sops_file), str(town.recovery_file)) == ("secrets/agents.yaml", "secrets/recovery.yaml")
    assert (town.human, town.recipients, town.store_credentials, town.machine) == (None, None, None, None)
    assert (town.sync.every, town.sync.keep.last) == ("15min", 48)


def test_a_machine_may_be_given_its_id_and_it_is_written_back() -> None:
    id_ = "0123456789abcdef" * 2
    found = spec.parse(f'[town]\nmachine = "{id_}"\n[agents.ada]\nuid = 1100\n'.encode(), FILE)
    assert found.town.machine == id_
    assert spec.parse(spec.dump(found).encode(), FILE) == found


@pytest.mark.parametrize(
    ("town", "entry", "via"),
    [
        ("", '"a"', "bind"),
        ('store = "none"', '"a"', "bind"),
        ('store = "file:///s"', '"a"', "both"),
        ('store = "file:///s"', '{ path = "a", via = "bind" }', "bind"),
        ('store = "file:///s"\npersist_dir = "none"', '"a"', "store"),
        ('store = "file:///s"', '{ path = "a", class = "cache" }', "bind"),
        ('store = "file:///s"', '{ path = "a", class = "credential", via = "bind" }', "bind"),
    ],
)
def test_a_path_is_kept_where_the_town_can_keep_it(town: str, entry: str, via: str) -> None:
    found = read(f"[town]\n{town}\n{LEAST}persist = [{entry}]")
    assert [kept.via for kept in found.agents[0].persist] == [via]


@pytest.mark.parametrize(
    ("written", "device"),
    [
        ("38B243A0-c875-4758-8998-cc6c6a4c451e", "UUID=38b243a0-c875-4758-8998-cc6c6a4c451e"),
        ("UUID=38b243a0-C875-4758-8998-cc6c6a4c451e", "UUID=38b243a0-c875-4758-8998-cc6c6a4c451e"),
        ("LABEL=my disk", "LABEL=my disk"),
        ("/dev/disk/by-id/nvme-eui.01", "/dev/disk/by-id/nvme-eui.01"),
    ],
)
def test_a_device_has_one_form(written: str, device: str) -> None:
    assert read(f'[town.btrfs]\ndevice = "{written}"\n{LEAST}').town.btrfs == Btrfs(device)


@pytest.mark.parametrize(
    ("written", "seconds"), [("", 30), ('wait = "0s"', 0), ('wait = "1min 1.5s"', 62), ('wait = "10min"', 600)]
)
def test_a_boot_waits_for_its_disk_in_whole_seconds(written: str, seconds: int) -> None:
    found = read(f'[town.btrfs]\ndevice = "/dev/a"\n{written}\n{LEAST}').town.btrfs
    assert found is not None
    assert found.wait_seconds == seconds


def test_recipients_have_one_form() -> None:
    fingerprint = "0123456789abcdef0123456789abcdef01234567"
    spaced = " ".join(fingerprint[i : i + 4] for i in range(0, 40, 4))
    ssh = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILgS7AESKvnZJoAy2KXvi+E5kJI9RnWtloqUSGOLo4fm josh"
    found = read(f'[town.recipients]\nhumans = ["{fingerprint}", "{spaced}", "0x{fingerprint}", "{ssh}"]\n{LEAST}')
    assert found.town.recipients is not None
    assert found.town.recipients.all == (fingerprint.upper(), ssh)


def test_signing_false_is_none_and_needs_no_gpg_key() -> None:
    (ada,) = read(LEAST + "git = { signing = false }").agents
    assert (ada.git.signing, ada.secrets.gpg_key) == ("none", None)
    (ada,) = read(LEAST + 'git = { signing = "ssh" }\nsecrets = { gpg_key = "ada/other" }').agents
    assert ada.secrets.gpg_key == "ada/other"


def test_what_others_bring_is_a_path_below_the_home_and_nothing_by_default() -> None:
    (ada,) = read(LEAST).agents
    assert ada.delivered == ()
    (ada,) = read(LEAST + 'delivered = [".ssh", ".config/git/config"]').agents
    assert ada.delivered == (PurePosixPath(".ssh"), PurePosixPath(".config/git/config"))


@pytest.mark.parametrize(("said", "meant"), [("20G", 20 << 30), ("1.5T", 3 << 39), ("1M", 1 << 20), ("2048K", 2 << 20)])
def test_a_quota_is_a_size_in_powers_of_1024_and_no_limit_by_default(said: str, meant: int) -> None:
    (ada,) = read(LEAST).agents
    assert (ada.quota, ada.quota_bytes) == (None, None)
    (ada,) = read(f'{LEAST}quota = "{said}"').agents
    assert (ada.quota, ada.quota_bytes) == (said, meant)


def test_an_encryption_subkey_is_made_on_request_only() -> None:
    (ada,) = read(LEAST).agents
    assert not ada.secrets.gpg_encryption
    (ada,) = read(LEAST + "secrets = { gpg_encryption = true }").agents
    assert ada.secrets.gpg_encryption


@pytest.mark.parametrize(
    ("role", "name"),
    [
        ("software", "ada-software"),
        ("Réseau & Sécurité!", "ada-reseau-securite"),
        ("研究", "ada"),
        ("x" * 99, "ada-" + "x" * 32),
    ],
)
def test_the_name_of_the_prompt_is_safe_whatever_the_role(role: str, name: str) -> None:
    assert read(f'{LEAST}role = "{role}"').agents[0].prompts.name == name


@pytest.mark.parametrize(
    ("node", "domain"),
    [("signi", "signi.local"), ("Signi.example.org", "signi.local"), ("", "nuketown.local"),
     ("-_\udcff-", "nuketown.local"), ("x" * 64, "x" * 63 + ".local"), ("(none)", "none.local")],
)  # fmt: skip
def test_the_domain_comes_from_any_host_name(monkeypatch: pytest.MonkeyPatch, node: str, domain: str) -> None:
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", node, "", "", "")))
    found = read(LEAST)
    assert found.town.domain == domain
    assert read(spec.dump(found)) == found


def test_two_agents_may_share_an_extra_secret_and_a_group() -> None:
    found = read(
        '[agents.ada]\nuid = 1100\ngid = 2000\nsecrets.extra = { token = "shared/token" }\n'
        '[agents.vox]\nuid = 1101\ngid = 2000\nsecrets.extra = { token = "shared/token" }\n'
    )
    assert {agent.gid for agent in found.agents} == {2000}
    assert read(spec.dump(found)) == found


def test_a_spec_written_and_read_is_equal() -> None:
    found = spec.load(EXAMPLE)
    again = spec.parse(spec.dump(found).encode(), EXAMPLE)
    assert again == found
    assert spec.dump(again) == spec.dump(found)


def test_no_agent_by_that_name_names_the_nearest() -> None:
    found = spec.load(EXAMPLE)
    assert found.agent("vox").uid == 1101
    with pytest.raises(WrongUsage) as caught:
        found.agent("vix\n")
    assert (caught.value.what, caught.value.hint) == ('the spec has no agent "vix\\n"', "did you mean vox?")


def test_agents_are_chosen_once_each_and_in_the_order_of_the_spec() -> None:
    found = spec.load(EXAMPLE)
    assert [agent.name for agent in found.chosen(["vox", "ada", "vox"])] == ["ada", "vox"]
    assert found.chosen([]) == found.agents
    with pytest.raises(WrongUsage, match="no agent"):
        found.chosen(["ada", "eve"])


def test_a_preset_says_what_each_part_of_its_directory_is() -> None:
    claude = presets.preset("claude-code")
    parts = {
        name: claude.part(PurePosixPath(name))
        for name in (".credentials.json", "agents/ada.md", "cache/x/y", "projects/p")
    }
    assert list(parts.values()) == ["credential", "regenerated", "cache", "data"]
    assert claude.environment(Path("/agents/ada/.claude")) == {"CLAUDE_CONFIG_DIR": "/agents/ada/.claude"}
    with pytest.raises(WrongUsage) as caught:
        presets.preset("claude")
    assert caught.value.hint == "did you mean claude-code?"


@pytest.mark.parametrize("name", presets.names())
def test_every_preset_stands_in_a_spec_at_its_usual_path(name: str) -> None:
    path = presets.preset(name).path
    (entry,) = read(f'{LEAST}persist = [{{ path = "{path}", preset = "{name}" }}]').agents[0].persist
    assert entry == Persist(path, "bind", preset=name)


def test_there_is_a_preset_for_each_of_the_programs_that_agents_use() -> None:
    wanted = {"claude-code", "codex", "gemini", "opencode", "git", "ssh-known-hosts", "shell-history"}
    assert set(presets.names()) == wanted


@pytest.mark.parametrize(("recipients", "loaded"), [("", "[]"), ('humans = ["%s"]', "['pyrage']")])
def test_reading_a_spec_imports_nothing_heavy(tmp_path: Path, recipients: str, loaded: str) -> None:
    file = tmp_path / "town.toml"
    table = f"[town.recipients]\n{recipients % HUMAN}\n" if recipients else ""
    file.write_text(table + LEAST)
    code = "import sys; from town import spec; spec.load(spec.Path(sys.argv[1])); "
    code += f"print(sorted({HEAVY} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code, file], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == loaded
