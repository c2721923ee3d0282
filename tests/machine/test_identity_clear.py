"""Secrets in clear are found wherever git would track them: each form, each place, in bounded time, never repeated."""

import base64
import json
import os
import random
import re
import shlex
import stat
import string
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from identity.check import repository, tracked
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
    "a private key in base64": base64.b64encode(_pem("OPENSSH PRIVATE KEY").encode()).decode(),
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
    status, levels = town.found(capsys)
    assert (status, [one["where"] for one in levels["error"]]) == (4, ["key"])
    (unchecked,) = levels["unchecked"]
    assert "identity-clear" in unchecked["what"]
    assert unchecked["what"].endswith(": fixtures/key")


def _openssh(town: Town) -> str:
    return town.opened(town.secrets).get("vox/ssh-key") or ""


def _openpgp(town: Town) -> str:
    return town.opened(town.secrets).get("ada/gpg-key") or ""


def _primary(town: Town) -> str:
    return town.opened(town.recovery).get("ada/gpg-primary-key") or ""


def _of_a_host(town: Town) -> str:
    return town.keys["host"].read_text()


WRAPPINGS = {
    "as it is": lambda text: text,
    "in JSON": json.dumps,
    "indented": lambda text: text.replace("\n", "\n    "),
    "in base64": lambda text: base64.encodebytes(text.encode()).decode(),
    "in UTF-16": lambda text: text.encode("utf-16"),
    "behind many placeholders": lambda text: "ghp_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\n" * 2000 + text,
    "behind many headers": lambda text: "-----BEGIN PGP PRIVATE KEY BLOCK-----\n" * 2000 + text,
}


def _value(_: Town) -> str:
    return TOKEN


@pytest.mark.parametrize(
    ("secret", "wrapping"),
    [
        (secret, wrapping)
        for secret in (_openssh, _openpgp, _primary, _of_a_host, _value)
        for wrapping in WRAPPINGS
        if wrapping != "in base64" or secret in (_openssh, _openpgp, _primary)  # others have no header to know it by
    ],
)
def test_no_mark_makes_the_towns_own_secrets_harmless(
    town: Town,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    secret: Callable[[Town], str],
    wrapping: str,
) -> None:
    text = secret(town)
    held = WRAPPINGS[wrapping](text)
    (town.root / "leak").write_bytes(held if isinstance(held, bytes) else held.encode())
    (town.root / ".gitattributes").write_text(f"* {tracked.ATTRIBUTE}\n")
    if text != TOKEN:  # what a public half is enough for
        monkeypatch.delenv("SOPS_AGE_KEY_FILE")
    status, levels = town.found(capsys)
    assert (status, [one["where"] for one in levels["error"]]) == (4, ["leak"])
    (error,) = levels["error"]
    assert "If it is meant" not in error["cure"]


def test_public_keys_of_agents_in_a_marked_file_are_harmless(town: Town, capsys: pytest.CaptureFixture[str]) -> None:
    public = (town.root / "identities/ada/gpg.asc").read_text() + (town.root / "identities/ada/ssh.pub").read_text()
    (town.root / "note").write_text(public + TOKENS["a private key"])
    (town.root / ".gitattributes").write_text(f"* {tracked.ATTRIBUTE}\n")
    status, levels = town.found(capsys)
    assert (status, list(levels)) == (0, ["unchecked"])


def test_a_program_git_that_does_not_answer_costs_little_and_hides_nothing(
    town: Town, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fifo = town.root.parent / "fifo"
    os.mkfifo(fifo)
    (town.root / "new").write_text(TOKENS["a private key"])
    (town.root / "staged").write_text(TOKENS["a private key"])
    town.git("add", "staged")
    (town.root / "staged").unlink()
    monkeypatch.setattr(repository, "_SECONDS", 0.5)
    for key in ("core.excludesFile", "core.attributesFile", "include.path"):
        town.git("config", key, str(fifo))
        begun = time.monotonic()
        status, levels = town.found(capsys)
        assert time.monotonic() - begun < 8
        assert status == 4
        wanted = {"new"} if key == "include.path" else {"new", "staged"}
        assert {one["where"] for one in levels["error"]} == wanted
        assert any("git did not finish" in one["what"] for one in levels["unchecked"])
        (town.root / ".git/config").write_text("[core]\n\trepositoryformatversion = 0\n")


@pytest.mark.parametrize("folder", ["", "sub"])
def test_a_work_tree_that_is_said_to_be_elsewhere_hides_nothing(
    town: Town, capsys: pytest.CaptureFixture[str], folder: str
) -> None:
    if folder:
        _in_a_subdirectory(town)
    (town.root / "new").write_text(TOKENS["a private key"])
    elsewhere = town.root.parent / "elsewhere"
    elsewhere.mkdir()
    town.git("config", "core.worktree", str(elsewhere))
    assert _errors(town, capsys).keys() == {"new"}


def test_a_small_file_is_looked_at_before_much_that_is_large(
    town: Town, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracked, "_ALL", 1 << 20)
    for at in range(40):
        (town.root / f"{at}.junk").write_bytes(os.urandom(1 << 16))
    (town.root / "zz").write_text(TOKENS["a private key"])
    for tracks in (False, True):
        if tracks:
            town.git("add", ".")
        status, levels = town.found(capsys)
        assert (status, [one["where"] for one in levels["error"]]) == (4, ["zz"])
        assert [one["what"].split(" files")[0] for one in levels["warning"]] == ["at least 26"] or levels["warning"]
    (town.root / "zz").unlink()
    town.git("rm", "--quiet", "--cached", "zz")
    assert town.found(capsys)[0] == 3


def test_a_key_at_the_end_of_a_large_file_is_found(town: Town, capsys: pytest.CaptureFixture[str]) -> None:
    with (town.root / "large").open("wb") as file:
        file.truncate(8 << 20)
        file.seek(8 << 20)
        file.write(TOKENS["a private key"].encode())
    assert _errors(town, capsys).keys() == {"large"}
    town.git("add", "large")
    (town.root / "large").write_text("harmless\n")
    assert _errors(town, capsys).keys() == {"large"}


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


def test_without_the_program_git_every_file_of_a_repository_is_looked_at(
    town: Town, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _own_key(town)
    monkeypatch.setenv("PATH", "/nonexistent")
    status, levels = town.found(capsys)
    assert (status, [one["where"] for one in levels["error"]]) == (4, ["sub/key"])
    (unchecked,) = levels["unchecked"]
    assert ".gitignore" in unchecked["what"]
    assert "apt install git" in unchecked["cure"]
    assert town.identity("check") == 4
    assert "hint: install the package" in capsys.readouterr().err


@pytest.mark.root
def test_where_git_refuses_a_repository_of_another_uid_every_file_is_looked_at(
    town: Town, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _own_key(town)
    monkeypatch.delenv("SUDO_UID", raising=False)
    for path in (town.root, *town.root.rglob("*")):
        os.chown(path, 1500, 1500, follow_symlinks=False)
    status, levels = town.found(capsys)
    assert (status, [one["where"] for one in levels["error"]]) == (4, ["sub/key"])
    (unchecked,) = levels["unchecked"]
    assert unchecked["cure"] == f"git config --global --add safe.directory {town.root}"
    subprocess.run(unchecked["cure"], shell=True, check=True)
    assert _errors(town, capsys).keys() == {"sub/key"}


def _own_key(town: Town) -> None:
    """A key that nobody but its owner can read, in a directory of the tree."""
    key = town.root / "sub/key"
    key.parent.mkdir()
    key.write_text(TOKENS["a private key"])
    key.chmod(0o600)


def _in_a_subdirectory(town: Town) -> Path:
    """The town's repository is now that of the directory above it."""
    top = town.root.parent
    run(["mv", town.root / ".git", top / ".git"])
    (top / ".gitignore").write_text("*.key\n/.gnupg/\n/.config/\n")
    _git(top, "add", ".")
    _git(top, "commit", "--quiet", "--message", "moved")
    return top


def _git(folder: Path, *words: str) -> str:
    name = ["-c", "user.name=J", "-c", "user.email=j@signi.local"]
    return run(["git", *name, *words], cwd=folder, env={"HOME": str(folder)}).out.decode()


def test_what_is_staged_above_the_spec_counts_too(town: Town, capsys: pytest.CaptureFixture[str]) -> None:
    top = _in_a_subdirectory(town)
    (top / "old").write_text(TOKENS["a token of npm"])
    _git(top, "add", "old")
    _git(top, "commit", "--quiet", "--message", "as it was before")
    for name in ("a b", "marked"):
        (top / name).write_text(TOKENS["a private key"])
        _git(top, "add", name)
    (top / "marked.d").mkdir()
    (top / ".gitattributes").write_text(f"marked {tracked.ATTRIBUTE}\n")
    what = "as it is staged for a commit, line 1 holds a private key in clear"
    status, levels = town.found(capsys)
    assert (status, {one["where"]: one["what"] for one in levels["error"]}) == (4, {"../a b": what})
    assert [one["what"].endswith(": ../marked") for one in levels["unchecked"]] == [True]
    assert town.identity("check", "--out", str(town.root)) == 4
    (one,) = town.found(capsys)[1]["error"]
    subprocess.run(one["cure"].split(". ")[0], shell=True, check=True, stdout=subprocess.DEVNULL, cwd="/")
    assert town.found(capsys)[0] == 0


def test_a_first_commit_above_the_spec_is_looked_at(town: Town, capsys: pytest.CaptureFixture[str]) -> None:
    top = town.root.parent
    run(["rm", "-rf", town.root / ".git"])
    _git(top, "init", "--quiet")
    (top / "key").write_text(TOKENS["a private key"])
    _git(top, "add", "key")
    assert _errors(town, capsys).keys() == {"../key"}


def test_what_is_staged_is_told_once_where_files_lie_in_two_places(
    town: Town, capsys: pytest.CaptureFixture[str]
) -> None:
    top = _in_a_subdirectory(town)
    run(["cp", "-r", town.root, top / "out"])
    for folder in (top, top / "out", town.root):
        (folder / "note").write_text(TOKENS["a private key"])
        _git(folder, "add", "note")
    capsys.readouterr()
    assert town.identity("check", "--json", "--out", str(top / "out")) == 4
    assert [one["where"] for one in json.loads(capsys.readouterr().out)["findings"] if "holds" in one["what"]] == [
        str(folder / "note") for folder in (top / "out", top, town.root)
    ]


def test_the_hook_of_a_repository_refuses_a_key_above_the_spec(town: Town) -> None:
    top = _in_a_subdirectory(town)
    hook = top / ".git/hooks/pre-commit"
    hook.write_text(_hook(town))
    hook.chmod(0o755)
    (top / "notes").write_text("harmless\n")
    _git(top, "add", "notes")
    assert _commit(town).returncode == 0
    (top / "notes").write_text(TOKENS["a private key"])
    done = _commit(town, "--all")
    assert done.returncode == 1
    assert "../notes: as it is staged for a commit, line 1 holds a private key in clear" in done.stderr


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_a_key_in_utf_16_is_found(encoding: str) -> None:
    hits = list(Forms({}).hits(f"one\r\n{TOKENS['an age private key']}\r\n".encode(encoding)))
    assert [(hit.line, hit.what) for hit in hits] == [(2, "an age private key")]


def test_a_certificate_in_base64_is_no_private_key() -> None:
    assert _whats("data: " + base64.b64encode(_pem("CERTIFICATE").encode()).decode()) == []
    wrapped = base64.encodebytes(_pem("PRIVATE KEY").encode()).decode()  # as the program base64 gives it
    assert _whats(wrapped) == ["a private key in base64"]


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
    assert status == 3
    assert [(one["where"], one["what"]) for one in levels["warning"]] == [
        ("large", "is too large to be looked at whole for secrets in clear")
    ]


def test_what_was_not_looked_at_is_said(
    town: Town, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracked, "_ALL", 5000)
    status, levels = town.found(capsys)
    (warning,) = levels["warning"]
    assert status == 3
    assert re.match(r"at least \d+ files could not be looked at", warning["what"])


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
