"""Claude Code's settings in a spec: what is wrong for certain is refused, what nobody published is a warning."""

import json
import tomllib
from pathlib import Path

import pytest

import town
from persist import cli as persist
from town import settings
from town import spec as specs
from town.failure import ATTENTION, BAD_CONFIG, DONE, BadSpec, Problem

DATA = tomllib.loads(Path(town.__file__).with_name("claude-settings.toml").read_text())
AT = "agents.ada.prompts."
ALLOW = "settings.permissions.allow"
DENY = "settings.permissions.deny"
MODE = "settings.permissions.defaultMode"
BYPASS = "settings.permissions.disableBypassPermissionsMode"
DIRECTORIES = "settings.permissions.additionalDirectories"
DOMAINS = "settings.sandbox.network.allowManagedDomainsOnly"
MANAGED = "/etc/claude-code/managed-settings.json"

# (below [agents.ada.prompts], where, words of what is wrong, words of the cure)
REFUSED = [
    ('settings.permissions.defaultMode = "allowEdits"', MODE, "not known", "did you mean acceptEdits?"),
    ("settings.permissions.defaultMode = true", MODE, "a boolean", "acceptEdits"),
    ("settings.allowEdits = true", "settings.allowEdits", "not a key", 'permissions.defaultMode = "acceptEdits"'),
    ("settings.permissions.allowEdits = true", "settings.permissions.allowEdits", "not a key", "acceptEdits"),
    ('settings.defaultMode = "plan"', "settings.defaultMode", "outside of permissions", "permissions.defaultMode"),
    ('settings.deny = ["Read(./.env)"]', "settings.deny", "outside of permissions", "permissions.deny"),
    ('settings.permissions.denny = ["Read"]', "settings.permissions.denny", "not a key", "did you mean deny?"),
    ('settings.permissions.deny = "Read"', DENY, "a string, not an array", ""),
    ("settings.permissions.deny = [1]", DENY + "[0]", "an integer", "Bash(npm run *)"),
    *((f'settings.permissions.allow = ["Read", "{rule}"]', ALLOW + "[1]", "no permission rule", "Bash(npm run *)")
      for rule in ("", " ", "Bash(", "Bash()", "Bash(ls", "Bash(ls) x")),
    ("settings.permissions.disableBypassPermissionsMode = true", BYPASS, "a boolean", "disable"),
    ('settings.permissions.disableBypassPermissionsMode = "disabled"', BYPASS, "not known", "disable"),
    ("settings.permissions = []", "settings.permissions", "an array, not a table", "defaultMode"),
    ('settings.permissions.additionalDirectories = "/x"', DIRECTORIES, "not an array", ""),
    ("settings.model = 1", "settings.model", "an integer, not a string", ""),
    ("settings.cleanupPeriodDays = true", "settings.cleanupPeriodDays", "a boolean, not an integer", ""),
    ("settings.verbose = 1", "settings.verbose", "an integer, not a boolean", ""),
    ("settings.env.X = 1", "settings.env.X", "an integer, not a string", ""),
    ("settings.env = []", "settings.env", "an array, not a table", ""),
    ("settings.hooks.Stop = {}", "settings.hooks.Stop", "a table, not an array", ""),
    ("settings.sandbox.network = 1", "settings.sandbox.network", "an integer, not a table", ""),
    ("settings.availableModels = [1]", "settings.availableModels[0]", "an integer, not a string", ""),
    ('tools = ["Read, Edit"]', "tools[0]", "a comma", '["Read", "Edit"]'),
]  # fmt: skip

DOUBTFUL = [
    ('settings.modle = "opus"', "settings.modle", "not a key", "did you mean model?"),
    ("settings.somethingQuiteNew = [1]", "settings.somethingQuiteNew", "not a key", "spelling"),
    ("settings.hooks.Stopp = []", "settings.hooks.Stopp", "not a key", "did you mean Stop?"),
    ('settings.effortLevel = "hihg"', "settings.effortLevel", "not known", "did you mean high?"),
    ('settings.claudeMd = "x"', "settings.claudeMd", "managed settings only", MANAGED),
    (f"{DOMAINS} = true", DOMAINS, "managed settings only", MANAGED),
    ('settings.env.ANTHROPIC_API_KEY = "x"', "settings.env.ANTHROPIC_API_KEY", "in clear", "secrets.env"),
    ('settings.permissions.allow = ["Raed"]', ALLOW + "[0]", '"Raed" is not a tool', "did you mean Read?"),
    ('settings.permissions.allow = ["bash(ls)"]', ALLOW + "[0]", '"bash" is not a tool', "did you mean Bash?"),
    ('tools = ["Read", "Gerp"]', "tools[1]", '"Gerp" is not a tool', "did you mean Grep?"),
    ('runtimes = ["codex"]\ntools = ["Read"]', "tools", "does nothing", "claude-code"),
    ('runtimes = ["codex"]\nsettings.model = "opus"', "settings", "does nothing", "claude-code"),
]  # fmt: skip

ACCEPTED = [
    'settings.permissions = { defaultMode = "acceptEdits", additionalDirectories = ["/home/josh/dev"] }',
    'settings.permissions = { allow = ["Bash(npm run *)", "mcp__github", "WebFetch(domain:x.y)", "Agent(Explore)"] }',
    'settings.permissions = { deny = ["Read(./.env)", "Bash(python -c \\"print(1)\\")"], disableAutoMode = "disable" }',
    'settings.env = { CLAUDE_CODE_ENABLE_TELEMETRY = "0" }\nsettings.model = "opus"\nsettings.verbose = true',
    'settings.hooks.Stop = [{ hooks = [{ type = "command", command = "true" }] }]',
    'settings.sandbox = { enabled = true, network = { allowedDomains = ["x.y"] } }',
    "settings.feedbackSurveyRate = 0.5\nsettings.cleanupPeriodDays = 20",
    'settings.env.ANTHROPIC_API_KEY = ""',
    'tools = ["Read", "Agent(reader, writer)", "mcp__github__search"]',
]


def spec(body: str) -> bytes:
    return f"[agents.ada]\nuid = 41100\n[agents.ada.prompts]\n{body}\n".encode()


def doubts(body: str) -> list[Problem]:
    return list(settings.doubts(specs.parse(spec(body), Path("town.toml")).agents))


@pytest.mark.parametrize(("body", "where", "what", "cure"), REFUSED)
def test_what_is_wrong_for_certain_is_refused_with_its_place_and_cure(
    body: str, where: str, what: str, cure: str
) -> None:
    with pytest.raises(BadSpec) as refused:
        specs.parse(spec(body), Path("town.toml"))
    (problem,) = refused.value.problems
    assert problem.where == AT + where
    assert what in problem.what
    assert cure in problem.cure


@pytest.mark.parametrize(("body", "where", "what", "cure"), DOUBTFUL)
def test_what_nobody_published_is_accepted_and_doubted(body: str, where: str, what: str, cure: str) -> None:
    (problem,) = doubts(body)
    assert problem.where == AT + where
    assert what in problem.what
    assert cure in problem.cure


@pytest.mark.parametrize("body", ACCEPTED)
def test_what_is_published_is_accepted_without_a_word(body: str) -> None:
    assert doubts(body) == []


@pytest.mark.parametrize("mode", DATA["settings"]["permissions"]["defaultMode"])
def test_every_published_mode_is_accepted(mode: str) -> None:
    assert doubts(f'settings.permissions.defaultMode = "{mode}"') == []


def test_every_published_key_is_accepted_with_a_value_of_its_kind() -> None:
    values = {
        "any": 1, "boolean": True, "integer": 1, "number": 0.5, "rules": ["Read"], "string": "x", "strings": ["x"],
        "table": {}, "tables": [{}], "variables": {"X": "x"},
    }  # fmt: skip

    def filled(wanted: object) -> object:
        if isinstance(wanted, dict):
            return {key: filled(value) for key, value in wanted.items()}
        return wanted[0] if isinstance(wanted, list) else values[str(wanted)]

    tree = filled(DATA["settings"])
    body = "settings = " + json.dumps(tree).replace(": ", " = ")
    assert doubts(body) == []
    assert specs.parse(spec(body), Path("town.toml")).agent("ada").prompts.settings == tree


def test_a_secret_that_stands_in_the_settings_is_not_repeated() -> None:
    (problem,) = doubts('settings.env.CLAUDE_CODE_OAUTH_TOKEN = "sk-ant-oat01-abc"')
    assert "sk-ant" not in f"{problem} {problem.cure}"


def test_many_unknown_keys_are_no_slower_to_accept_and_are_not_all_told() -> None:
    body = "\n".join(f"settings.key{number}x = 1" for number in range(3000))
    assert len(doubts(body)) == 20


def test_check_tells_a_doubt_and_ends_with_the_status_of_warnings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "town.toml"
    for body, status in ((ACCEPTED[0], DONE), (DOUBTFUL[0][0], ATTENTION), (REFUSED[0][0], BAD_CONFIG)):
        file.write_bytes(spec(body))
        assert persist.main(["--spec", str(file), "check"]) == status
    said = capsys.readouterr().err
    assert f"{AT}settings.modle: is not a key that Claude Code is known to read" in said
    assert "did you mean acceptEdits?" in said
