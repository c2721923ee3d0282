"""The creation rules of .sops.yaml, found and read as sops does."""

from pathlib import Path

import pytest

from town import sops

HOST = "age13du3mtpekxl6wrdydf8n23vwqvyypr95qm0cs8zrymeqcv04svlqtmkpt5"
ADMIN = "age122tdud7k2y8d4nsmnu8ymmh8x64pv42vya3xr9x59ljeuw2vevgsz6e2xk"
PGP = "9E10F7F9A82E35A49B07963E54DFBA02A1784D17"
SSH = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOHz+U0YtjINc54dZiJNclfmEFifF7RXCFlNlTbuZBji joerg@turingmachine"
SSH_AS_AGE = "age17044m9wgakla6pzftf4srtl3h5mcsr85jysgt5fg23zpnta8sfdqhzn452"


@pytest.fixture(autouse=True)
def no_override(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOPS_CONFIG", raising=False)


def rules(folder: Path, text: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ".sops.yaml").write_text(text)


def found(folder: Path, file: str = "secrets/agents.yaml") -> tuple[str, ...] | None:
    return sops.creation_recipients(folder / file, start=folder)


def test_without_a_configuration_there_is_none(tmp_path: Path) -> None:
    assert found(tmp_path) is None
    rules(tmp_path, "destination_rules: []\n")
    assert found(tmp_path) is None


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (f"age: {HOST}", (HOST,)),
        (f"age: '{HOST}, {ADMIN},'", (HOST, ADMIN)),
        (f"age: >-\n      {HOST},\n      {ADMIN}", (HOST, ADMIN)),
        (f"age: [{HOST}, {ADMIN}]", (HOST, ADMIN)),
        (f"pgp: {PGP.lower()}\n    age: {HOST}", (HOST, PGP)),
        (f"pgp: ['{PGP[:20]} {PGP[20:]}']", (PGP,)),
        (f"key_groups:\n      - age: [{HOST}]\n        pgp: [{PGP}]", (HOST, PGP)),
        (f'age: "{SSH}"', (SSH_AS_AGE,)),
        (f"age: [{HOST}, {HOST}]\n    encrypted_regex: ^x$\n    kms: ''", (HOST,)),
    ],
)
def test_recipients_are_read_in_every_form_that_sops_takes(
    tmp_path: Path, rule: str, expected: tuple[str, ...]
) -> None:
    rules(tmp_path, f"creation_rules:\n  - path_regex: .*\n    {rule}\n")
    assert found(tmp_path) == expected


def test_anchors_and_aliases_are_read_as_sops_nix_users_write_them(tmp_path: Path) -> None:
    rules(
        tmp_path,
        f"keys:\n  - &josh {ADMIN}\n  - &signi {HOST}\ncreation_rules:\n  - path_regex: secrets/[^/]+\\.(yaml|json)$\n"
        "    key_groups:\n      - age:\n          - *josh\n          - *signi\n",
    )
    assert found(tmp_path) == (ADMIN, HOST)


def test_the_first_rule_whose_pattern_is_found_in_the_relative_path_wins(tmp_path: Path) -> None:
    rules(
        tmp_path,
        f"creation_rules:\n  - path_regex: ^agents\n    age: {ADMIN}\n  - path_regex: ^secrets/a\n    age: {HOST}\n"
        f"  - age: {ADMIN}\n",
    )
    assert found(tmp_path) == (HOST,)
    assert found(tmp_path, "other.yaml") == (ADMIN,)
    assert found(tmp_path, "secrets/../agents.yaml") == (ADMIN,)


def test_the_search_goes_up_from_the_start_not_from_the_file(tmp_path: Path) -> None:
    rules(tmp_path / "repo", f"creation_rules:\n  - age: {HOST}\n")
    rules(tmp_path / "elsewhere", f"creation_rules:\n  - path_regex: ^/.*x.yaml$\n    age: {ADMIN}\n")
    (tmp_path / "repo/deep/er").mkdir(parents=True)
    assert sops.creation_recipients(tmp_path / "elsewhere/x.yaml", start=tmp_path / "repo/deep/er") == (HOST,)
    # A file outside the configuration's folder is matched by its absolute path.
    assert sops.creation_recipients(tmp_path / "repo/x.yaml", start=tmp_path / "elsewhere") == (ADMIN,)


def test_sops_config_overrides_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rules(tmp_path, f"creation_rules:\n  - age: {HOST}\n")
    (tmp_path / "other.yaml").write_text(f"creation_rules:\n  - age: {ADMIN}\n")
    monkeypatch.setenv("SOPS_CONFIG", str(tmp_path / "other.yaml"))
    assert found(tmp_path) == (ADMIN,)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("creation_rules: {}\n", "not a list"),
        ("creation_rules: [x]\n", "not a list"),
        ("creation_rules: []\n", "no creation rule matches secrets/agents.yaml"),
        ("creation_rules: [{path_regex: nowhere, age: x}]\n", "no creation rule matches"),
        ("creation_rules: [{path_regex: 1, age: x}]\n", r"creation_rules\[0\]\.path_regex is not a string"),
        ("creation_rules: [{path_regex: '(?!x)', age: x}]\n", "path_regex cannot be used: .*lookaround"),
        (r"creation_rules: [{path_regex: '(s)\1', age: x}]", "path_regex cannot be used: .*backreferences"),
        ("creation_rules: [{kms: 'arn:aws:x'}]\n", r"creation_rules\[0\]\.kms is not supported"),
        ("creation_rules: [{hc_vault_transit_uri: x}]\n", "hc_vault_transit_uri is not supported"),
        ("creation_rules: [{key_groups: [{gcp_kms: [{resource_id: x}]}]}]\n", r"key_groups\[0\]\.gcp_kms is not"),
        ("creation_rules: [{key_groups: [{merge: [{}]}]}]\n", r"key_groups\[0\] names no age or pgp recipient"),
        ("creation_rules: [{key_groups: [{merge: x}]}]\n", "merge is not a list of maps"),
        (f"creation_rules: [{{key_groups: [{{age: [{HOST}]}}, {{age: [{ADMIN}]}}]}}]\n", "several groups"),
        ("creation_rules: [{key_groups: [{age: [x]}], shamir_threshold: two}]\n", "shamir_threshold is not a number"),
        (f"creation_rules: [{{age: {HOST}, encrypted_regex: a, encrypted_suffix: b}}]\n", "one rule at most"),
        (f"creation_rules: [{{age: {HOST}, encrypted_comment_regex: a}}]\n", "comment_regex is not supported"),
        (f"creation_rules: [{{age: {HOST}, encrypted_regex: '(?=a)'}}]\n", "encrypted_regex cannot be used"),
        (f"creation_rules: [{{age: {HOST}, encrypted_suffix: [a]}}]\n", "encrypted_suffix is not a string"),
        (f"creation_rules: [{{age: {HOST}, mac_only_encrypted: maybe}}]\n", "neither true nor false"),
        ("creation_rules: [{key_groups: x}]\n", "key_groups is not a list"),
        ("creation_rules: [{}]\n", "names no age or pgp recipient"),
        ("creation_rules: [{age: 1}]\n", "age is neither a string nor a list"),
        ("creation_rules: [{age: [1]}]\n", "age is neither a string nor a list"),
        ("creation_rules: [", "not valid YAML"),
        ("- a\n", "top level is not a map"),
        ("", "is empty"),
    ],
)
def test_rules_that_cannot_be_used_are_refused_by_name(tmp_path: Path, text: str, words: str) -> None:
    rules(tmp_path, text)
    with pytest.raises(sops.BadSopsFile, match=words) as caught:
        found(tmp_path)
    assert str(tmp_path / ".sops.yaml") in str(caught.value)


def test_a_mistyped_recipient_is_refused(tmp_path: Path) -> None:
    rules(tmp_path, f"creation_rules:\n  - age: {HOST[:-1]}\n")
    with pytest.raises(sops.BadRecipient):
        found(tmp_path)


def test_aliases_of_aliases_cannot_fill_the_memory(tmp_path: Path) -> None:
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    bomb += "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12))
    rules(tmp_path, bomb)
    with pytest.raises(sops.BadSopsFile, match="aliases stand for more than"):
        found(tmp_path)
    deep = "a0: &a0 x\n" + "".join(f"a{n}: &a{n} {'[' * 50}*a{n - 1}{']' * 50}\n" for n in range(1, 60))
    rules(tmp_path, deep)
    with pytest.raises(sops.BadSopsFile, match="aliases stand for more than"):
        found(tmp_path)
