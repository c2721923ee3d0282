"""documents renders what homes hold from the spec and public halves alone, for a build without secrets and root."""

import os
import shutil
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.machine.gentown import CHECKOUT, Town, full, made, nothing_is_left
from town.process import run

__all__ = ["full", "made", "nothing_is_left"]

_PERSIST = 'persist = ["projects", { path = "kept/claude", preset = "claude-code" }]\n'
_CLAUDE = 'prompts = { runtimes = ["claude-code", "codex"], settings = { model = "opus" } }\n'
_ADA = f"uid = 41100\n{_PERSIST}{_CLAUDE}"


def _files(top: Path) -> dict[str, bytes]:
    return {str(path.relative_to(top)): path.read_bytes() for path in top.rglob("*") if path.is_file()}


def _asked(town: Town, *words: str) -> int:
    return town.identity("documents", "--to", str(town.root / "to"), *words)


def test_documents_are_those_beside_the_spec_by_their_places_in_the_home(full: Town) -> None:
    full.write({"ada": _ADA, "vox": 'uid = 41101\ngit = { signing = "ssh" }'})
    assert full.identity("gen", "--all") == 0
    assert _asked(full) == 0
    made, beside = _files(full.root / "to"), full.root / "identities/ada"
    claude = "ada/kept/claude"
    wanted = {
        "ada/.config/nuketown/identity.toml": "identity.toml",
        "ada/.config/git/config": "gitconfig",
        "ada/.config/environment.d/50-nuketown.conf": "environment.conf",
        "ada/.config/nuketown/environment.sh": "environment.sh",
        f"{claude}/AGENTS.md": "AGENTS.md",
        f"{claude}/CLAUDE.md": "CLAUDE.md",
        f"{claude}/agents/ada-agent.md": "agents/ada-agent.md",
        f"{claude}/settings.json": "settings.json",
        "ada/.codex/AGENTS.md": "codex/AGENTS.md",
    }
    assert {name: data for name, data in made.items() if name.startswith("ada/")} == {
        name: (beside / other).read_bytes() for name, other in wanted.items()
    }
    assert "vox/.config/nuketown/identity.toml" in made


@pytest.fixture
def elsewhere() -> Iterator[Path]:
    """A place that everybody may look into, which a test's own directory is not."""
    place = Path("/run/documents-town")
    place.mkdir(mode=0o755)
    yield place
    shutil.rmtree(place)


def test_documents_need_no_secret_no_root_and_no_account(full: Town, elsewhere: Path) -> None:
    shutil.copytree(full.root / "identities", elsewhere / "identities")
    shutil.copyfile(full.spec, elsewhere / "town.toml")
    to = elsewhere / "to"
    to.mkdir()
    os.chown(to, 65534, 65534)
    argv = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", sys.executable, "-m", "identity.cli"]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(CHECKOUT), "HOME": "/nonexistent"}
    said = run([*argv, "--spec", elsewhere / "town.toml", "documents", "--to", to, "ada"], env=environment).out.decode()
    assert sorted(said.split()) == sorted(_files(to))
    found = to / "ada/.config/nuketown/identity.toml"
    assert (stat.S_IMODE(found.stat().st_mode), stat.S_IMODE(found.parent.stat().st_mode)) == (0o644, 0o755)


@pytest.mark.parametrize(
    ("was", "becomes", "kind"),
    [
        ("uid = 41101", 'uid = 41102\ngit = { signing = "ssh" }', "SSH"),
        ("uid = 41101", "uid = 41101", "OpenPGP"),
    ],
    ids=["an agent that the lock does not name", "a key that the spec asks for since"],
)
def test_an_agent_that_is_still_to_get_a_key_has_no_documents_and_nothing_is_written(
    full: Town, capsys: pytest.CaptureFixture[str], was: str, becomes: str, kind: str
) -> None:
    name = "eve" if kind == "SSH" else "vox"
    full.write({"ada": "uid = 41100", name: becomes})
    capsys.readouterr()
    assert _asked(full) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert f"names no {kind} key of {name}" in err
    assert f"identity gen --spec {full.spec} {name}\n" in err
    assert not (full.root / "to").exists()


def test_documents_of_an_agent_whose_key_was_revoked_say_so(full: Town) -> None:
    assert full.identity("revoke", "ada", "--gpg") == 0
    assert _asked(full, "ada") == 0
    assert "signingKey" not in (full.root / "to/ada/.config/git/config").read_text()
    assert "key was revoked" in (full.root / "to/ada/AGENTS.md").read_text()


def test_documents_are_never_written_over_what_is_there(full: Town, capsys: pytest.CaptureFixture[str]) -> None:
    (full.root / "to/ada").mkdir(parents=True)
    (full.root / "to/ada/mine").write_text("mine")
    capsys.readouterr()
    assert _asked(full, "ada") == 1
    assert "name another with --to" in capsys.readouterr().err
    assert _files(full.root / "to") == {"ada/mine": b"mine"}
