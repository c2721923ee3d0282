"""Every document is read back by the programs that read it in life, whatever a spec that is accepted says."""

import json
import subprocess
import sys
import tomllib
import unicodedata
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from identity import prompts
from identity.documents import documents
from identity.gitconfig import projects
from identity.halves import Halves
from tests.scale import times
from tests.unit.test_documents import FIVE, FIXTURES, HALVES
from town import presets
from town import spec as specs
from town.failure import BadSpec
from town.process import run
from town.spec import Agent, Spec

GENERATOR = Path("/usr/lib/systemd/user-environment-generators/30-systemd-environment-d-generator")
PROSE = ("AGENTS.md", "codex/AGENTS.md", "gemini/GEMINI.md", "opencode/AGENTS.md")
# What each format has its own trouble with, besides whatever else Unicode has.
TROUBLE = st.sampled_from([*"\"'\\`$#;=[]{}()<>*&!|%@:-~ \t\n,", "\u202e", "\ufeff", "\u200b", '"""', "---\n", "\n\n"])
PIECES = st.lists(TROUBLE | st.characters(exclude_categories=["Cs", "Cc"]), max_size=40).map("".join)
LINE = PIECES.map(lambda text: "".join(one for one in text if unicodedata.category(one) not in ("Cf", "Cc")).strip())


def read(spec: Spec, agent: Agent, directory: Path) -> None:
    """Hold every document of an agent against the spec, each as its own reader reads it."""
    found = {str(one.path): one.text for one in documents(spec, agent, HALVES)}
    facts = tomllib.loads(found["identity.toml"])
    assert {key: facts[key] for key in ("name", "role", "email", "domain", "home", "uid", "description")} == {
        "name": agent.name, "role": agent.role, "email": agent.git.email, "domain": spec.town.domain,
        "home": str(spec.home(agent)), "uid": agent.uid, "description": {"text": agent.description},
    }  # fmt: skip
    assert [entry["path"] for entry in facts.get("persist", [])] == [str(entry.path) for entry in agent.persist]
    _git(spec, agent, found["gitconfig"], directory)
    if "environment.conf" in found:
        _variables(spec, agent, found, directory)
    if "claude-code" in agent.prompts.runtimes:
        _definition(agent, found[f"agents/{agent.prompts.name}.md"])
    if "settings.json" in found:
        assert json.loads(found["settings.json"]) == agent.prompts.settings
    for path in PROSE:
        if path in found:
            _prose(spec, agent, found[path])


def _git(spec: Spec, agent: Agent, text: str, directory: Path) -> None:
    file = directory / "gitconfig"
    file.write_text(text)
    listed = run(["git", "config", "--file", file, "--null", "--list"]).out.decode().split("\0")[:-1]
    said = [tuple(item.split("\n", 1)) for item in listed]
    assert ("user.name", agent.git.name) in said
    assert ("user.email", agent.git.email) in said
    keys = {"gpg": [("user.signingkey", HALVES.gpg.primary)], "ssh": [("user.signingkey", "~/.ssh/id_ed25519.pub")]}  # type: ignore[union-attr]
    assert [item for item in said if item[0] == "user.signingkey"] == keys.get(agent.git.signing, [])
    safe = [value for key, value in said if key == "safe.directory"]
    assert safe == [value for path in projects(spec, agent) for value in (str(path), f"{path}/*")]
    known = {"user.name", "user.email", "user.signingkey", "gpg.format", "commit.gpgsign", "tag.gpgsign"}
    known |= {"gpg.ssh.allowedsignersfile", "gpg.ssh.revocationfile", "safe.directory"}
    assert {key for key, _ in said} <= known, "a value made a key of its own"


def _variables(spec: Spec, agent: Agent, found: dict[str, str], directory: Path) -> None:
    wanted = {
        name: value
        for entry in agent.persist
        if entry.preset is not None
        for name, value in presets.preset(entry.preset).environment(spec.home(agent) / entry.path).items()
    }
    conf = directory / "environment.d/50-nuketown.conf"
    conf.parent.mkdir(exist_ok=True)
    conf.write_text(found["environment.conf"])
    environment = {"XDG_CONFIG_HOME": str(directory), "HOME": "/wrong", "PATH": "/usr/bin:/bin"}
    said = subprocess.run([GENERATOR], env=environment, capture_output=True, check=True)
    assert not said.stderr
    for script in (said.stdout, found["environment.sh"].encode()):
        asked = b"".join(b'\nprintf "%%s\\0" "$%s"' % name.encode() for name in wanted)
        done = subprocess.run(["sh"], input=script + asked, env=environment, capture_output=True, check=True)
        assert done.stdout.decode().split("\0")[:-1] == list(wanted.values())
        assert not done.stderr


def _definition(agent: Agent, text: str) -> None:
    head = text.removeprefix("---\n").split("\n---\n", 1)[0]
    for front in (yaml.safe_load(head), prompts.frontmatter(text, (1, 1)), prompts.frontmatter(text, (1, 2))):
        assert front["name"] == agent.prompts.name
        assert isinstance(front["description"], str)
        assert "\n" not in front["description"]
        assert front.get("tools") == (", ".join(agent.prompts.tools) or None)
        assert set(front) <= {"name", "description", "tools"}


def _prose(spec: Spec, agent: Agent, text: str) -> None:
    tokens = MarkdownIt("commonmark").parse(text)
    titles = [tokens[at + 1].content for at, token in enumerate(tokens) if token.type == "heading_open"]
    wanted = {
        "Identity": True, "About You": agent.description.strip(), "Environment": True, "Sudo": agent.sudo,
        "Hardware Access": agent.devices, "Collaboration": True, "Extra": agent.prompts.extra.strip(),
    }  # fmt: skip
    expected = [agent.name, *(title for title, applies in wanted.items() if applies)]
    assert titles[: len(expected)] == expected
    if agent.description.strip():
        about = next(token for token in tokens if token.type == "fence")
        assert about.content.removesuffix("\n") == agent.description.removesuffix("\n")
    spans = [one.content for token in tokens for one in token.children or () if one.type == "code_inline"]
    for line in (agent.role, agent.git.name, str(spec.home(agent)), *(str(entry.path) for entry in agent.persist)):
        assert line in spans
    if not agent.prompts.extra.strip():
        bare = [one.content for token in tokens for one in token.children or () if one.type == "text"]
        # Claude Code and Gemini read @path outside of code as a file to take in.
        assert not any("@" in line for line in bare)


@pytest.mark.parametrize(("file", "name"), FIVE)
def test_the_golden_documents_are_read_back_by_their_readers(file: str, name: str, tmp_path: Path) -> None:
    spec = specs.load(FIXTURES / f"{file}.toml")
    read(spec, spec.agent(name), tmp_path)


@pytest.mark.parametrize(("file", "name"), FIVE)
def test_a_home_on_a_path_full_of_dollars_and_quotes_is_read_back(file: str, name: str, tmp_path: Path) -> None:
    spec = specs.load(FIXTURES / f"{file}.toml")
    moved = spec._replace(town=spec.town._replace(agents_dir=Path("/a $HOME `id` \"q\" 'q' \\ ${X} $$ %h #")))
    read(moved, moved.agent(name), tmp_path)


@settings(max_examples=times(50), deadline=None)
@given(description=PIECES, role=LINE, person=LINE, path=LINE, hidden=LINE, extra=PIECES, device=LINE, setting=PIECES)
def test_whatever_a_spec_may_say_is_read_back_by_every_reader(
    description: str, role: str, person: str, path: str, hidden: str, extra: str, device: str, setting: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:  # fmt: skip
    values = {
        "uid": "41100", "description": description, "role": role, "persist": [path],
        "git": {"name": person}, "sudo": "true",
        "devices": [{"subsystem": "usb", "attrs": {"product": device}}],
        "prompts": {"extra": extra, "runtimes": ["claude-code", "agents-md", "codex", "gemini", "opencode"]},
    }  # fmt: skip
    # What the spec refuses by itself is left out, and the rest is tried.
    accepted = {key: value for key, value in values.items() if _accepted({"uid": "41100", key: value})}
    claude = {"persist": [{"path": f".{hidden}", "preset": "claude-code"}]}
    if "persist" in accepted and _accepted({"uid": "41100", "persist": [path, *claude["persist"]]}):
        accepted["persist"] = [path, *claude["persist"]]
    if _accepted({"uid": "41100", "prompts": {"settings": {"model": setting}}}):
        accepted.setdefault("prompts", {})["settings"] = {"model": setting}  # type: ignore[index]
    spec = _accepted(accepted)
    assert spec is not None
    read(spec, spec.agent("ada"), tmp_path_factory.mktemp("read"))


def _accepted(table: dict[str, object]) -> Spec | None:
    try:
        return specs.parse(b'[town]\ndomain="signi.local"\n[agents]\nada = ' + _toml(table).encode(), Path("town.toml"))
    except BadSpec:
        return None


def _toml(value: object) -> str:
    match value:
        case dict():
            return "{" + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + "}"
        case list():
            return "[" + ", ".join(map(_toml, value)) + "]"
        case "41100" | "true":
            return str(value)
        case _:
            return json.dumps(value, ensure_ascii=False)


@pytest.mark.parametrize("written", ["a\\rb", "a\\u0000b", "a\\u001bb", "a\\u0085b", "a\\u2028b", "a\rb", "a\x00b"])
def test_a_character_that_no_format_carries_is_refused_by_name(written: str) -> None:
    for key in ("description", "role"):
        with pytest.raises(BadSpec) as refused:
            specs.parse(f'[agents.ada]\nuid = 41100\n{key} = "{written}"\n'.encode(), Path("town.toml"))
        (problem,) = refused.value.problems
        assert problem.cure
        assert f"agents.ada.{key}" in problem.where or "line 3" in problem.where


def test_a_description_with_the_line_ends_of_another_system_is_read_as_if_it_had_ours() -> None:
    text = b'[agents.ada]\r\nuid = 41100\r\ndescription = """\r\none\r\ntwo\r\n"""\r\n'
    assert specs.parse(text, Path("town.toml")).agent("ada").description == "one\ntwo\n"


def test_the_line_that_a_list_of_agents_shows_turns_no_text_around() -> None:
    spec = specs.load(FIXTURES / "three.toml")
    found = {str(one.path): one.text for one in documents(spec, spec.agent("noa"), HALVES)}
    front = yaml.safe_load(found["agents/noa-1e3.md"].split("---\n")[1])
    assert not any(unicodedata.category(one) == "Cf" for one in front["description"])
    assert "\u202e" in found["AGENTS.md"], "the section About You has it as it was written"


@pytest.mark.parametrize("name", ["no", "on", "y", "off", "null", "true"])
def test_a_name_that_yaml_could_take_for_something_else_stays_a_name(name: str) -> None:
    spec = specs.parse(f'[agents.ada]\nuid = 41100\nprompts.name = "{name}"\n'.encode(), Path("town.toml"))
    agent = spec.agent("ada")
    found = {str(one.path): one.text for one in documents(spec, agent, HALVES)}
    _definition(agent, found[f"agents/{name}.md"])


def test_the_same_spec_gives_the_same_bytes_in_any_process() -> None:
    program = (
        "import sys, hashlib; sys.path.insert(0, '.')\n"
        "from tests.unit.test_documents import FIVE, FIXTURES, HALVES\n"
        "from identity.documents import documents\nfrom town import spec as specs\n"
        "for file, name in FIVE:\n"
        "    spec = specs.load(FIXTURES / f'{file}.toml')\n"
        "    print(hashlib.sha256(repr(documents(spec, spec.agent(name), HALVES)).encode()).hexdigest())\n"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", program], capture_output=True, check=True, cwd=FIXTURES.parents[1],
            env={"PATH": "/usr/bin:/bin", "PYTHONHASHSEED": seed, "LC_ALL": locale, "TZ": zone},
        ).stdout
        for seed, locale, zone in (("1", "C", "UTC"), ("2", "C.UTF-8", "Asia/Tokyo"))
    }  # fmt: skip
    (one,) = said
    assert len(one.split()) == len(FIVE)


def test_git_is_told_to_trust_declared_projects_and_nothing_else() -> None:
    spec = specs.load(FIXTURES / "town.toml")
    assert list(map(str, projects(spec, spec.agent("ada")))) == [
        "/agents/ada/projects", "/agents/ada/notes", "/agents/ada/scratch/results",
    ]  # fmt: skip
    three = specs.load(FIXTURES / "three.toml")
    assert projects(three, three.agent("ida")) == []
    assert list(map(str, projects(three, three.agent("rex")))) == ["/agents/rex/work"]


def test_a_path_that_git_would_read_as_a_pattern_is_not_trusted() -> None:
    text = b'[agents.ada]\nuid = 41100\npersist = ["work/*", "*/work"]\n'
    spec = specs.parse(b'[town]\ndomain = "signi.local"\n' + text, Path("town.toml"))
    assert list(map(str, projects(spec, spec.agent("ada")))) == ["/agents/ada/*/work"]


def test_a_document_lies_where_its_program_looks_for_it() -> None:
    spec = specs.load(FIXTURES / "three.toml")
    homes = {str(one.path): [str(home) for home in one.homes] for one in documents(spec, spec.agent("rex"), HALVES)}
    assert homes["codex/AGENTS.md"] == ["state/codex/AGENTS.md"], "CODEX_HOME names it"
    assert homes["gemini/GEMINI.md"] == [".gemini/GEMINI.md"], "nothing tells Gemini of another directory"
    assert homes["opencode/AGENTS.md"] == [".config/opencode/AGENTS.md"]
    assert not any(path.startswith(("AGENTS", "CLAUDE", "agents/")) for path in homes)


@pytest.mark.root
def test_git_works_in_a_project_that_another_user_touched_and_nowhere_else(tmp_path: Path) -> None:
    spec = specs.load(FIXTURES / "three.toml")
    spec = spec._replace(town=spec.town._replace(agents_dir=tmp_path))
    agent = spec.agent("rex")
    config = tmp_path / "gitconfig"
    config.write_text({str(one.path): one.text for one in documents(spec, agent, HALVES)}["gitconfig"])
    environment = {"GIT_CONFIG_GLOBAL": str(config), "GIT_CONFIG_NOSYSTEM": "1", "HOME": str(tmp_path)}
    for path in ("rex/work", "rex/elsewhere", "rex/workshop"):
        run(["git", "init", "--quiet", tmp_path / path], env=environment)
        for one in (tmp_path / path, tmp_path / path / ".git"):
            subprocess.run(["chown", "41200", one], check=True)
    done = {
        path: run(["git", "-C", tmp_path / path, "status", "--short"], env=environment, check=False)
        for path in ("rex/work", "rex/elsewhere", "rex/workshop")
    }
    assert done["rex/work"].status == 0
    for path in ("rex/elsewhere", "rex/workshop"):
        assert b"dubious ownership" in done[path].err


@pytest.mark.parametrize(("signing", "kind"), [("gpg", "OpenPGP"), ("ssh", "SSH")])
def test_an_agent_whose_key_was_revoked_is_told_so_and_commits_nothing_unsigned(
    signing: str, kind: str, tmp_path: Path
) -> None:
    spec = specs.parse(
        f'[town]\ndomain="signi.local"\n[agents.ada]\nuid=41100\ngit.signing="{signing}"\n'.encode(), Path("t")
    )
    agent = spec.agent("ada")
    halves = Halves(HALVES.ssh if signing == "gpg" else None, HALVES.gpg if signing == "ssh" else None)
    found = {str(one.path): one.text for one in documents(spec, agent, halves)}
    assert f"Your {kind} key was revoked." in found["AGENTS.md"]
    config = tmp_path / "gitconfig"
    config.write_text(found["gitconfig"])
    (tmp_path / "gnupg").mkdir(mode=0o700)
    environment = {
        "GIT_CONFIG_GLOBAL": str(config), "GIT_CONFIG_NOSYSTEM": "1", "HOME": str(tmp_path),
        "GNUPGHOME": str(tmp_path / "gnupg"),
    }  # fmt: skip
    run(["git", "init", "--quiet", tmp_path / "project"], env=environment)
    here = ["git", "-C", tmp_path / "project"]
    try:
        done = run([*here, "commit", "--quiet", "--allow-empty", "--message", "x"], env=environment, check=False)
    finally:
        run(["gpgconf", "--homedir", tmp_path / "gnupg", "--kill", "all"], check=False)
    assert done.status != 0
    assert b"gpg" in done.err, "it is the signature that fails"
    assert run([*here, "rev-parse", "--verify", "HEAD"], env=environment, check=False).status != 0
