"""An attribute set of Nix as TOML: what is read back is what was written, whatever stands in it."""

import json
import random
import tomllib
from pathlib import Path
from typing import Any

from tests.nix.bare import ask
from town import spec

GOLDEN = Path(__file__).parent.parent / "golden/nix"

HOSTILE = [
    "",
    " ",
    '"',
    "'",
    "\\",
    "\\n",
    '"""',
    "'''",
    "#",
    "a = 1",
    "[agents.root]",
    "]",
    "${builtins.getEnv}",
    "''${x}",
    "$(reboot)",
    "`id`",
    "line\nline\n",
    "\r\n",
    "\ttab",
    "\b\f",
    "\x01\x1f",
    "\x1b[2J",
    "\x7f",
    "\x80\x9f",
    "ä€😀",
    "\u2028\u2029\u202e",
    "\ufeff",
    "%d %s",
    "a.b",
    "true",
    "1979-05-27",
    "x" * 5000,
]


def _read(tree: object, tmp_path: Path) -> dict[str, Any]:
    return tomllib.loads(ask("nuketown.toTOML given", tree, tmp_path))


def test_every_hostile_text_is_read_back_as_a_value_and_as_a_key(tmp_path: Path) -> None:
    tree = {
        "values": HOSTILE,
        "keys": {text: index for index, text in enumerate(HOSTILE)},
        "tables": {text: {"here": text} for text in HOSTILE},
        "inline": [{text: [text]} for text in HOSTILE],
    }
    assert _read(tree, tmp_path) == tree


def _tree(rng: random.Random, depth: int) -> Any:
    kind = rng.choice(
        ["text", "whole", "flag", "float", "list", "table", "table"] if depth else ["text", "whole", "flag"]
    )
    match kind:
        case "text":
            return "".join(rng.choices([*"ab\"\\\n'#=.[]{}, \x7f\x01é", *HOSTILE[:20]], k=rng.randrange(6)))
        case "whole":
            return rng.choice([0, -1, 1, 2**53, -(2**63), 2**63 - 1])
        case "flag":
            return rng.random() < 0.5
        case "float":
            return rng.choice([0.5, -1.25, 1.0, 1e30, 2.5e-7])
        case "list":
            return [_tree(rng, depth - 1) for _ in range(rng.randrange(4))]
        case _:
            return {
                rng.choice([*HOSTILE[:24], "a", "b-c", "d_1"]): _tree(rng, depth - 1) for _ in range(rng.randrange(5))
            }


def test_trees_of_all_kinds_are_read_back_as_they_were(tmp_path: Path) -> None:
    rng = random.Random(8)
    trees = [{"top": _tree(rng, 5), "more": _tree(rng, 3)} for _ in range(200)]
    texts = ask("map nuketown.toTOML given", trees, tmp_path)
    assert [tomllib.loads(text) for text in texts] == trees


def test_whole_numbers_and_floats_stay_what_they_are(tmp_path: Path) -> None:
    found = _read({"whole": 1, "float": 1.0, "list": [1, 2.0]}, tmp_path)
    assert [type(found["whole"]), type(found["float"]), *map(type, found["list"])] == [int, float, int, float]


def test_what_is_null_is_left_out_of_tables(tmp_path: Path) -> None:
    found = _read({"a": None, "b": {"c": None}, "d": [{"e": None, "f": 1}]}, tmp_path)
    assert found == {"b": {}, "d": [{"f": 1}]}


def test_null_in_a_list_and_a_function_are_refused_by_their_place() -> None:
    tried = 'builtins.tryEval (builtins.deepSeq (nuketown.toTOML { a.b = [ 1 null ]; }) "written")'
    assert ask(f"({tried}).success") is False
    assert ask("(builtins.tryEval (nuketown.toTOML { a = x: x; })).success") is False


def test_a_path_stands_for_its_copy_in_the_store_and_a_derivation_for_what_it_makes(tmp_path: Path) -> None:
    (tmp_path / "agents.yaml").write_text("sops: {}\n")
    text = ask(f'nuketown.toTOML {{ a = {tmp_path}/agents.yaml; b = {{ outPath = "/nix/store/x"; }}; }}')
    found = tomllib.loads(text)
    assert found["a"].startswith("/nix/store/")
    assert found["a"].endswith("-agents.yaml")
    assert found["b"] == "/nix/store/x"


def test_what_a_text_depends_on_goes_with_it(tmp_path: Path) -> None:
    (tmp_path / "agents.yaml").write_text("sops: {}\n")
    expression = f"builtins.hasContext (nuketown.toTOML {{ a = {tmp_path}/agents.yaml; }})"
    assert ask(expression) is True


_TOWN = """plain {
  town = {
    humanUser = "josh";
    btrfsDevice = "38b243a0-c875-4758-8998-cc6c6a4c451e";
    store = "s3://agents/signi?endpoint=http://127.0.0.1:9000&region=us-east-1";
    storeCredentials = "/run/secrets/nuketown-s3";
    sopsFile = "/var/lib/town/agents.yaml";
    recipients.humans = [ "age122tdud7k2y8d4nsmnu8ymmh8x64pv42vya3xr9x59ljeuw2vevgsz6e2xk" ];
    hostKey.gnupg = "/var/lib/nuketown/gnupg";
    machine = "0123456789abcdef0123456789abcdef";
  };
  agents.ada = {
    uid = 1100;
    role = "software";
    description = ''
      Says "why" before 'how'; uses \\\\ and \\t freely.
      # no comment
    '';
    persist = [ "projects" ".config/claude" { path = "models"; class = "cache"; } ];
    secrets = { extraSecrets.key = "ada/key"; env.KEY = "key"; };
    devices = [ { subsystem = "tty"; attrs.idVendor = "0483"; action = "add"; permission = "rw"; group = "plugdev"; } ];
    sudo.enable = true;
    quota = "20G";
    delivered = [ ".config/git/config" ];
    claudeCode = {
      enable = true;
      settings.permissions = { defaultMode = "acceptEdits"; allow = [ "Bash(npm run *)" ]; };
      settings.hooks.PreToolUse = [ { matcher = "Bash"; hooks = [ { type = "command"; command = "true"; } ]; } ];
      extraPrompt = "## Own\\n";
    };
  };
  agents.vox = { uid = 1101; git.signing = "ssh"; persist = [ ]; };
  agents.off = { enable = false; uid = 1; };
}"""


def test_the_spec_of_a_town_is_as_it_was() -> None:
    found = ask(f"nuketown.toTOML (nuketown.town ({_TOWN}))")
    assert found == (GOLDEN / "town.toml").read_text()


def test_the_spec_of_a_town_is_read_by_the_programs() -> None:
    read = spec.parse(ask(f"nuketown.toTOML (nuketown.town ({_TOWN}))").encode(), Path("/etc/nuketown/town.toml"))
    ada, vox = read.agents
    assert (ada.name, ada.uid, ada.git.signing, ada.quota) == ("ada", 1100, "gpg", "20G")
    assert ada.description == "Says \"why\" before 'how'; uses \\\\ and \\t freely.\n# no comment\n"
    assert [(str(path.path), path.preset, path.class_) for path in ada.persist] == [
        ("projects", None, "data"),
        (".config/claude", "claude-code", "data"),
        ("models", None, "cache"),
    ]
    assert ada.prompts.settings["hooks"]["PreToolUse"][0]["hooks"][0]["command"] == "true"
    assert (vox.git.signing, vox.persist, vox.prompts.runtimes) == ("ssh", (), ("agents-md",))
    assert read.town.btrfs is not None
    assert read.town.btrfs.device == "UUID=38b243a0-c875-4758-8998-cc6c6a4c451e"
    assert json.loads(ada.prompts.settings_json)["permissions"]["defaultMode"] == "acceptEdits"


def test_the_directory_of_claude_code_gets_its_preset_unless_the_preset_stands_elsewhere() -> None:
    made = "map (agent: map (entry: entry.preset or null) (nuketown.persistOf agent)) (builtins.attrValues town.agents)"
    agents = """
      a = { uid = 1101; claudeCode.enable = true; persist = [ "x" ".claude" ".config/claude" ]; };
      b = { uid = 1102; claudeCode.enable = true; persist = [ ".claude" { path = "y"; preset = "claude-code"; } ]; };
      c = { uid = 1103; claudeCode.enable = true; persist = [ { path = ".claude"; } ]; };
      d = { uid = 1104; persist = [ ".claude" ]; };
    """
    found = ask(f"let town = plain {{ agents = {{ {agents} }}; }}; in {made}")
    assert found == [[None, "claude-code", None], [None, "claude-code"], ["claude-code"], [None]]


def test_a_town_with_nothing_said_has_the_defaults_of_the_spec() -> None:
    made = ask("nuketown.toTOML (nuketown.town (plain { agents.ada.uid = 1100; }))")
    read = spec.parse(made.encode(), Path("/etc/nuketown/town.toml"))
    usual = spec.parse(b'[town]\ndomain = "signi.local"\n[agents.ada]\nuid = 1100\n', Path("/etc/nuketown/town.toml"))
    assert read.town == usual.town
    assert read.agents[0].secrets == usual.agents[0].secrets
    # What the module says otherwise, for those who know it from there.
    assert read.agents[0].role == "general"
    assert read.agents[0].git.name == "ada"
    assert [str(entry.path) for entry in read.agents[0].persist] == ["projects"]


def test_a_town_without_a_persist_dir_and_without_signatures() -> None:
    said = '{ persistDir = null; store = "file:///srv/store"; }'
    town = f"plain {{ town = {said}; agents.ada = {{ uid = 1100; git.signing = false; }}; }}"
    read = spec.parse(ask(f"nuketown.toTOML (nuketown.town ({town}))").encode(), Path("/etc/nuketown/town.toml"))
    assert read.town.persist_dir is None
    assert read.agents[0].git.signing == "none"
    assert read.agents[0].persist[0].via == "store"
