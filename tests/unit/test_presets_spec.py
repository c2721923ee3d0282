"""The keys `type` and `upload` of a declared path, what a preset leaves out, and paths that run code."""

from pathlib import Path, PurePosixPath

import pytest

from persist import cli, places, startup
from persist.sync import declared
from town import presets, spec
from town.failure import BadSpec
from town.spec import Persist, Spec

STORE = '[town]\nstore = "file:///srv/store"\n'
ADA = "[agents.ada]\nuid = 1100\npersist = "


def read(persist: str, town: str = STORE) -> Spec:
    return spec.parse(f"{town}{ADA}[{persist}]".encode(), Path("town.toml"))


def only(persist: str, town: str = STORE) -> Persist:
    (entry,) = read(persist, town).agents[0].persist
    return entry


def wrong(persist: str, town: str = STORE) -> tuple[str, str]:
    with pytest.raises(BadSpec) as caught:
        read(persist, town)
    (problem,) = caught.value.problems
    return problem.where, problem.what


def test_a_path_is_a_directory_whose_logins_stay_here_unless_the_spec_says_otherwise() -> None:
    entry = only('{ path = ".claude", preset = "claude-code" }')
    assert (entry.type, entry.upload, entry.bound, entry.copied, entry.synced) == (
        "directory",
        False,
        True,
        False,
        True,
    )
    assert PurePosixPath(".credentials.json") in declared.left_out(entry)


def test_upload_sends_the_logins_of_a_preset_and_neither_caches_nor_what_is_written_anew() -> None:
    entry = only('{ path = ".claude", preset = "claude-code", upload = true }')
    assert declared.parts(entry).credential == (PurePosixPath(".credentials.json"),)
    left = declared.left_out(entry)
    assert PurePosixPath(".credentials.json") not in left
    assert {PurePosixPath("cache"), PurePosixPath("CLAUDE.md")} <= left


@pytest.mark.parametrize(("said", "via"), [("", "both"), (', via = "store"', "store"), (', via = "both"', "both")])
def test_a_credential_with_upload_is_kept_like_data(said: str, via: str) -> None:
    entry = only(f'{{ path = "token", class = "credential", upload = true{said} }}')
    assert (entry.via, entry.synced) == (via, True)
    assert not only('{ path = "token", class = "credential" }').synced


@pytest.mark.parametrize("via", ["bind", "both", "store"])
def test_a_file_is_never_bound_and_lies_apart_from_the_home(via: str) -> None:
    entry = only(f'{{ path = ".netrc", type = "file", via = "{via}" }}')
    assert (entry.copied, entry.bound, entry.apart, entry.synced) == (True, False, True, via != "bind")
    town = read(f'{{ path = ".netrc", type = "file", via = "{via}" }}')
    assert places.source(town, town.agents[0], entry) == Path("/persist/agents/ada/.netrc")


def test_without_a_persist_dir_a_file_lies_in_the_state_directory() -> None:
    town = read('{ path = ".netrc", type = "file" }', f'{STORE}persist_dir = "none"\n')
    (entry,) = town.agents[0].persist
    assert entry.via == "store"
    assert places.source(town, town.agents[0], entry) == Path("/var/lib/nuketown/files/ada/.netrc")


@pytest.mark.parametrize(
    ("persist", "where", "what"),
    [
        ('{ path = "a", type = "link" }', "type", "not known"),
        ('{ path = "a", type = true }', "type", "a boolean, not a string"),
        ('{ path = "a", upload = "yes" }', "upload", "not a boolean"),
        ('{ path = "a", upload = true }', "upload", "where nothing is a credential"),
        ('{ path = "a", preset = "shell-history", upload = true }', "upload", "where nothing is a credential"),
        ('{ path = "a", class = "cache", upload = true }', "upload", "for a cache"),
        ('{ path = "a", class = "credential", upload = true, via = "bind" }', "via", "never sends"),
        ('{ path = "a", class = "credential", via = "both" }', "via", "never goes without upload = true"),
        ('{ path = "a", type = "file", preset = "codex" }', "preset", "this is a file"),
    ],
)
def test_what_does_not_fit_is_told_once_at_its_key(persist: str, where: str, what: str) -> None:
    found = wrong(persist)
    assert found[0] == f"agents.ada.persist[0].{where}"
    assert what in found[1]


def test_upload_needs_a_store() -> None:
    where, what = wrong('{ path = "a", class = "credential", upload = true }', "")
    assert (where, "the town has none" in what) == ("agents.ada.persist[0]", True)


def test_the_keys_are_written_and_read_back() -> None:
    found = read(
        '{ path = ".netrc", type = "file", class = "credential", upload = true }, "projects", '
        '{ path = ".codex", preset = "codex", upload = true }'
    )
    text = spec.dump(found)
    assert spec.parse(text.encode(), Path("town.toml")) == found
    assert (text.count('type = "file"'), text.count("upload = true"), text.count("upload = false")) == (1, 2, 1)


@pytest.mark.parametrize("name", presets.names())
def test_every_preset_says_of_each_part_one_thing(name: str) -> None:
    found = presets.preset(name)
    parts = [*found.credential, *found.cache, *found.regenerated]
    assert len(set(parts)) == len(parts)
    assert not [path for path in parts if path.is_absolute() or ".." in path.parts]


RUNS = (".ssh", ".ssh/config", ".gnupg", ".bashrc", ".profile", ".config", ".config/systemd/user", ".local/bin",
        ".local", "work/.git/hooks", ".gitconfig", ".git", "bin")  # fmt: skip


@pytest.mark.parametrize("path", RUNS)
def test_a_path_that_runs_code_at_the_next_login_is_warned_of(path: str) -> None:
    (found,) = startup.warnings(read(f'"projects", "{path}"'))
    assert found.where == "agents.ada.persist[1]"
    assert "runs code at the next login" in found.what


@pytest.mark.parametrize(
    "path", ["projects", ".ssh/known_hosts", ".claude", ".config/git", ".local/state/ssh", "binary"]
)
def test_a_path_that_runs_nothing_is_not_warned_of(path: str) -> None:
    assert list(startup.warnings(read(f'"{path}"'))) == []


def test_persist_check_warns_and_says_so_by_its_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "town.toml"
    file.write_text(f'{STORE}{ADA}[{{ path = ".bashrc", type = "file" }}]')
    assert cli.main(["--spec", str(file), "check"]) == 3
    said = capsys.readouterr()
    assert ".bashrc (a file)" in said.out
    assert "agents.ada.persist[0]: .bashrc runs code at the next login (bash)" in said.err
