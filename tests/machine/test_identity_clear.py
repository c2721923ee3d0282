"""Secrets in clear are found wherever git would track them: each form, each place, in bounded time, never repeated."""

import os
import random
import re
import shlex
import stat
import string
import subprocess
import sys
import time
from pathlib import Path

import pytest

from identity.check import tracked
from identity.check.forms import FORMS, Forms
from identity.keys import gpg
from tests.machine import checked
from tests.machine.checked import TOKEN, Town
from town.process import run

ROOT = Path(__file__).parents[2]
_RANDOM = random.Random(4)


def _some(count: int, of: str = string.ascii_letters + string.digits) -> str:
    return "".join(_RANDOM.choices(of, k=count))


def _pem(kind: str) -> str:
    body = "\n".join(_some(64) for _ in range(3))
    return f"-----BEGIN {kind}-----\n{body}\n-----END {kind}-----\n"


TOKENS = {
    "a token of Anthropic": f"sk-ant-api03-{_some(93)}",
    "a key of OpenAI": f"sk-proj-{_some(20)}T3BlbkFJ{_some(20)}",
    "a token of GitHub": f"ghp_{_some(36)}",
    "a token of GitLab": f"glpat-{_some(20)}",
    "a key of Google": f"AIza{_some(35)}",
    "a client secret of Google": f"GOCSPX-{_some(28)}",
    "a secret access key of AWS": f'aws_secret_access_key = "{_some(40)}"',
    "a token of Hugging Face": f"hf_{_some(34)}",
    "a token of npm": f"npm_{_some(36)}",
    "a token of PyPI": f"pypi-AgEIcHlwaS5vcmc{_some(80)}",
    "a token of Slack": f"xoxb-{_some(12)}-{_some(24)}",
    "a key of Stripe": f"sk_live_{_some(24)}",
    "a key of Tailscale": f"tskey-auth-{_some(12)}-{_some(20)}",
    "a token of Vault": f"hvs.{_some(40)}",
    "a token of DigitalOcean": f"dop_v1_{_some(64, '0123456789abcdef')}",
    "a token of Docker": f"dckr_pat_{_some(27)}",
    "an age private key": f"AGE-SECRET-KEY-1{_some(58, 'QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L')}",
    "a private key of PuTTY": "PuTTY-User-Key-File-3: ssh-ed25519",
    "a private key": _pem("PRIVATE KEY"),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checked.make(tmp_path_factory.mktemp("made"))


@pytest.fixture
def town(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Town:
    town = checked.copied(made, tmp_path, monkeypatch)
    town.committed()
    return town


def _errors(town: Town, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    status, levels = town.found(capsys)
    assert status == (4 if "error" in levels else 0)
    assert levels.keys() <= {"error"}
    return {one["where"]: one["what"] for one in levels.get("error", [])}


def _whats(text: str) -> list[str]:
    return [hit.what for hit in Forms({}).hits(text.encode())]


def test_every_form_has_an_example_here() -> None:
    assert set(TOKENS) == {kind for kind, _ in FORMS}


@pytest.mark.parametrize("kind", TOKENS)
@pytest.mark.parametrize("place", ["{}\n", "export KEY={}\n", '{{"key": "{}"}}', "\xff\0binary {}\0", "x: {} # why\n"])
def test_each_form_is_found_wherever_it_stands(kind: str, place: str) -> None:
    assert _whats(place.format(TOKENS[kind])) == [kind]


@pytest.mark.parametrize(
    "kind", [f"{kind}PRIVATE KEY" for kind in ("", "RSA ", "EC ", "DSA ", "OPENSSH ", "ENCRYPTED ")]
)
@pytest.mark.parametrize("lines", ["\n", "\r\n", "\\n", "\n    ", '",\n"'])
def test_private_keys_are_found_in_every_wrapping(kind: str, lines: str) -> None:
    assert _whats(_pem(kind).replace("\n", lines)) == ["a private key"]


def test_keys_of_the_real_tools_are_found(tmp_path: Path) -> None:
    for options in (["-t", "ed25519"], ["-t", "rsa", "-b", "2048", "-m", "PEM"], ["-t", "ecdsa", "-m", "PKCS8"]):
        key = tmp_path / "-".join(options)
        run(["ssh-keygen", "-q", *options, "-N", "", "-f", key])
        assert _whats(key.read_text()) == ["a private key"]
        assert _whats(key.with_name(f"{key.name}.pub").read_text()) == []
    run(["age-keygen", "-o", tmp_path / "age"])
    assert _whats((tmp_path / "age").read_text()) == ["an age private key"]
    with gpg.throw_away_home() as home:
        new = gpg.generate(home, "Ada", "ada@signi.local")
    assert [_whats(text) for text in (new.whole, new.subkeys, new.public)] == [["a private key"], ["a private key"], []]


@pytest.mark.parametrize(
    "text",
    [
        "a file that begins with -----BEGIN OPENSSH PRIVATE KEY----- is a key\n",
        'if not text.startswith("-----BEGIN OPENSSH PRIVATE KEY-----\\n"):\n    raise BadKey("no key")\n',
        "-----BEGIN PRIVATE KEY-----\n...\n-----END PRIVATE KEY-----\n",
        "-----BEGIN PRIVATE KEY-----\n" + "x" * 64 + "\n-----END PRIVATE KEY-----\n",
        "-----BEGIN PUBLIC KEY-----\n" + _some(64) + "\n-----END PUBLIC KEY-----\n",
        "-----BEGIN AGE ENCRYPTED FILE-----\n" + _some(64) + "\n-----END AGE ENCRYPTED FILE-----\n",
        "ghp_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx AGE-SECRET-KEY-1" + "Q" * 58,
        "aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
        "AGE-SECRET-KEY-1… sk-ant-… ghp_",
        "x" + TOKENS["a token of GitHub"],
    ],
)
def test_talk_of_keys_and_placeholders_are_no_secrets(text: str) -> None:
    assert _whats(text) == []


def test_this_project_itself_has_no_secret_in_clear_but_what_its_tests_are_made_of() -> None:
    forms, found = Forms({}), set()
    for text in tracked.Tree(ROOT).texts():
        if any(forms.hits(text.data)):
            found.add(text.name.split(b"/")[0])
    assert found <= {b"tests"}


def test_a_hit_names_its_line_and_never_the_secret(town: Town, capsys: pytest.CaptureFixture[str]) -> None:
    secret = TOKENS["a token of GitHub"]
    (town.root / "notes.md").write_text(f"one\ntwo\nthree {secret}\n")
    assert _errors(town, capsys) == {"notes.md": "line 3 holds a token of GitHub in clear"}
    assert town.identity("check") == 4
    out, err = capsys.readouterr()
    assert secret not in out + err


def test_the_value_of_an_extra_secret_is_found_wherever_it_was_copied_to(
    town: Town, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (town.root / "run.sh").write_text(f"#!/bin/sh\nexport TOKEN={TOKEN}\n")
    assert _errors(town, capsys) == {"run.sh": "line 2 holds the value of ada/token in clear"}
    monkeypatch.delenv("SOPS_AGE_KEY_FILE")  # without a key nobody knows it
    assert town.found(capsys)[0] == 0


@pytest.mark.parametrize(
    "name", ["new.txt", "identities/ada/AGENTS.md", "town.toml", "secrets/agents.yaml", "a b/ü\n.x"]
)
def test_tracked_and_new_files_are_looked_at(town: Town, capsys: pytest.CaptureFixture[str], name: str) -> None:
    file = town.root / name
    file.parent.mkdir(exist_ok=True)
    with file.open("a") as out:
        out.write(f"# {TOKENS['a token of npm']}\n")
    _, levels = town.found(capsys)
    assert name in {one["where"] for one in levels["error"] if "a token of npm in clear" in one["what"]}


def test_ignored_files_are_not_looked_at(town: Town, capsys: pytest.CaptureFixture[str]) -> None:
    (town.root / ".gitignore").write_text("*.key\n/private/\n")
    (town.root / "private").mkdir()
    for name in ("human.key", "private/notes"):
        (town.root / name).write_text(TOKENS["an age private key"])
    assert _errors(town, capsys) == {}
    town.git("add", "--force", "human.key")
    assert _errors(town, capsys).keys() == {"human.key"}


def test_what_is_staged_is_looked_at_even_when_the_file_is_not_like_that_any_more(
    town: Town, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("changed", "gone"):
        (town.root / name).write_text(TOKENS["a private key"])
        town.git("add", name)
    (town.root / "changed").write_text("harmless\n")
    (town.root / "gone").unlink()
    what = "as it is staged for a commit, line 1 holds a private key in clear"
    assert _errors(town, capsys) == {"changed": what, "gone": what}
    for one in town.found(capsys)[1]["error"]:
        subprocess.run(one["cure"].split(". ")[0], shell=True, check=True, stdout=subprocess.DEVNULL)
    assert _errors(town, capsys) == {}
    assert (town.root / "changed").read_text() == "harmless\n"


def test_symlinks_fifos_and_other_repositories_are_not_followed(town: Town, capsys: pytest.CaptureFixture[str]) -> None:
    outside = town.root.parent / "outside"
    outside.mkdir()
    (outside / "key").write_text(TOKENS["a private key"])
    (town.root / "link").symlink_to(outside / "key")
    (town.root / "directory").symlink_to(outside)
    os.mkfifo(town.root / "fifo")
    run(["git", "init", "--quiet", town.root / "inner"])
    (town.root / "inner/key").write_text(TOKENS["a private key"])
    assert _errors(town, capsys) == {}
    town.git("add", "link", "directory")
    town.git("update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},module")
    assert town.found(capsys) == (0, {})


def test_a_file_that_gitattributes_marks_is_meant_to_be_in_clear(
    town: Town, capsys: pytest.CaptureFixture[str]
) -> None:
    (town.root / "fixtures").mkdir()
    for name in ("fixtures/key", "key"):
        (town.root / name).write_text(TOKENS["a private key"])
    (town.root / ".gitattributes").write_text(f"fixtures/** {tracked.ATTRIBUTE}\n")
    assert _errors(town, capsys).keys() == {"key"}


def test_without_git_only_what_others_can_read_is_looked_at(town: Town, capsys: pytest.CaptureFixture[str]) -> None:
    run(["rm", "-rf", town.root / ".git"])
    key = town.root / "human.key"
    key.write_text(TOKENS["an age private key"])
    key.chmod(0o600)
    assert _errors(town, capsys) == {}
    key.chmod(0o644)
    assert _errors(town, capsys).keys() == {"human.key"}


def test_where_git_does_not_answer_the_files_are_looked_at_all_the_same_and_it_is_said(
    town: Town, capsys: pytest.CaptureFixture[str]
) -> None:
    (town.root / ".git/HEAD").unlink()
    (town.root / "key").write_text(TOKENS["a private key"])
    status, levels = town.found(capsys)
    assert (status, [one["where"] for one in levels["error"]]) == (4, ["key"])
    (unchecked,) = levels["unchecked"]
    assert unchecked["what"].startswith("which files git would track is not known: git failed with status 128")


def test_a_repository_cannot_make_check_run_a_program(town: Town, capsys: pytest.CaptureFixture[str]) -> None:
    ran = town.root.parent / "ran"
    program = town.root.parent / "program"
    program.write_text(f"#!/bin/sh\necho $0 >>{ran}\ncat\n")
    program.chmod(0o755)
    for key in (
        "core.fsmonitor",
        "filter.x.clean",
        "filter.x.smudge",
        "core.sshCommand",
        "diff.x.textconv",
        "core.pager",
    ):
        town.git("config", key, str(program))
    (town.root / ".gitattributes").write_text("* filter=x diff=x\n")
    ran.unlink(missing_ok=True)
    (town.root / "key").write_text(TOKENS["a private key"])
    assert _errors(town, capsys).keys() == {"key"}
    assert not ran.exists()


def test_check_writes_nothing_not_even_in_the_index(town: Town, capsys: pytest.CaptureFixture[str]) -> None:
    for path in town.root.rglob("*"):
        if path.is_file() and ".git/" not in str(path):
            os.utime(path)  # git would refresh its index now
    before = {path: (path.lstat().st_mtime_ns, path.lstat().st_ino) for path in town.root.rglob("*")}
    assert town.found(capsys) == (0, {})
    assert {path: (path.lstat().st_mtime_ns, path.lstat().st_ino) for path in town.root.rglob("*")} == before


def test_a_commit_with_a_key_in_it_is_refused_by_the_hook(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    hook = town.root / ".git/hooks/pre-commit"
    hook.write_text(_hook(town))
    hook.chmod(0o755)
    (town.root / "notes").write_text("harmless\n")
    town.git("add", "notes")
    town.git("commit", "--quiet", "--message", "harmless")
    (town.root / "notes").write_text(TOKENS["a private key"])
    for words in (["--all"], ["notes"]):  # each is made from an index of its own, which only the hook is told of
        done = _commit(town, *words)
        assert done.returncode == 1
        assert "notes: line 1 holds a private key in clear" in done.stderr
    town.git("add", "notes")
    (town.root / "notes").write_text("harmless\n")
    done = _commit(town)
    assert done.returncode == 1
    assert "notes: as it is staged for a commit, line 1 holds a private key in clear" in done.stderr
    assert "harmless" in town.git("show", "HEAD:notes")


def test_the_hook_looks_into_the_index_that_the_commit_is_made_from(town: Town) -> None:
    hook = town.root / ".git/hooks/pre-commit"
    # The file is harmless again before the hook looks: only the index of this commit has the key.
    hook.write_text(_hook(town).replace("\n", "\necho harmless >notes\n", 1))
    hook.chmod(0o755)
    (town.root / "notes").write_text("one\n")
    town.git("add", "notes")
    (town.root / "notes").write_text(TOKENS["a private key"])
    done = _commit(town, "--all")
    assert done.returncode == 1
    assert "as it is staged for a commit" in done.stderr


def test_a_warning_does_not_stop_a_commit(town: Town) -> None:
    hook = town.root / ".git/hooks/pre-commit"
    hook.write_text(_hook(town))
    hook.chmod(0o755)
    (town.root / "identities/ada/AGENTS.md").write_text("drift\n")
    done = _commit(town, "--all")
    assert done.returncode == 0
    assert "identities/ada/AGENTS.md: is not as the spec has it" in done.stderr


def test_the_hook_for_pre_commit_lets_warnings_pass_and_no_error(town: Town) -> None:
    from ruamel.yaml import YAML

    (hook,) = YAML(typ="safe").load((ROOT / ".pre-commit-hooks.yaml").read_text())
    programs = town.root.parent / "bin"
    programs.mkdir()
    (programs / "identity").write_text(f'#!/bin/sh\nexec {_PROGRAM} "$@"\n')
    (programs / "identity").chmod(0o755)
    env = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "HOME": str(town.root.parent)}
    argv = [*shlex.split(hook["entry"]), "--spec", str(town.spec)]
    statuses = []
    for name, text in (("new", "harmless"), ("identities/ada/AGENTS.md", "drift"), ("new", TOKENS["a private key"])):
        (town.root / name).write_text(text)
        statuses.append(subprocess.run(argv, cwd=town.root, env=env, capture_output=True, check=False).returncode)
    assert statuses == [0, 0, 1]


_PROGRAM = f"env PYTHONPATH={ROOT} {sys.executable} -m identity.cli"


def _hook(town: Town) -> str:
    """As docs/formats/check.md shows it."""
    return f"#!/bin/sh\n{_PROGRAM} --spec {town.spec} check || [ $? -eq 3 ]\n"


def _commit(town: Town, *words: str) -> "subprocess.CompletedProcess[str]":
    env = {**os.environ, "HOME": str(town.root.parent), "GIT_CONFIG_NOSYSTEM": "1"}
    name = ["-c", "user.name=J", "-c", "user.email=j@signi.local"]
    return subprocess.run(
        ["git", *name, "commit", "--quiet", "--message", "x", *words],
        cwd=town.root, env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_a_large_tree_is_gone_through_in_bounded_time_and_memory(
    town: Town, capsys: pytest.CaptureFixture[str]
) -> None:
    large = town.root / "large"
    with large.open("wb") as file:
        file.truncate(1 << 40)
    for at in range(2000):
        (town.root / f"{at}.md").write_text(f"{at}\n" * 100)
    begun = time.process_time()
    status, levels = town.found(capsys)
    assert time.process_time() - begun < 5
    assert status == 0
    assert [(one["where"], one["what"]) for one in levels["unchecked"]] == [
        ("large", "is too large to be looked at whole for secrets in clear")
    ]


def test_what_was_not_looked_at_is_said(
    town: Town, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracked, "_ALL", 5000)
    status, levels = town.found(capsys)
    (unchecked,) = levels["unchecked"]
    assert status == 0
    assert re.match(r"at least \d+ files could not be looked at", unchecked["what"])


def test_a_hostile_file_costs_no_more_than_another() -> None:
    header = "-----BEGIN OPENSSH PRIVATE KEY-----"
    for text in (header * 50_000, "AIza" * 500_000, "sk-" * 500_000, "secret_access_key=" * 100_000, "\n" * 4_000_000):
        begun = time.process_time()
        list(Forms({}).hits(text.encode()))
        assert time.process_time() - begun < 2


def test_mode_bits_of_the_tree_do_not_matter_in_git(town: Town, capsys: pytest.CaptureFixture[str]) -> None:
    key = town.root / "key"
    key.write_text(TOKENS["a private key"])
    key.chmod(0o600)
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert _errors(town, capsys).keys() == {"key"}
