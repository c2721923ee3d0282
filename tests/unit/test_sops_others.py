"""Other programs that know SOPS read what is written here, and the reverse."""

import json
import os
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.gosops import go_sops
from tests.unit.gnupghome import gnupg_home
from town import sops
from town.sops import jsontext

FIXTURES = Path(__file__).parent.parent / "fixtures" / "sops"
HOST = "age13du3mtpekxl6wrdydf8n23vwqvyypr95qm0cs8zrymeqcv04svlqtmkpt5"
ADMIN = "age122tdud7k2y8d4nsmnu8ymmh8x64pv42vya3xr9x59ljeuw2vevgsz6e2xk"
PGP = "9E10F7F9A82E35A49B07963E54DFBA02A1784D17"
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
LATER = NOW + timedelta(days=1)
TREE: dict[str, Any] = {
    "ada": {"ssh-key": "one\ntwo\n", "text": "ünï <code> ✓", "empty": "", "yes": "no"},
    "vox": {"numbers": [1, -5, 0.25, 1e21, True], "deep": [{"a": ["b"]}], "note_unencrypted": "plain"},
}


needs_go = pytest.mark.skipif(go_sops() is None, reason="no Go sops here: neither on PATH nor in $SOPS_BIN")


def go(*words: str | Path, home: Path | None = None, **more: str) -> bytes:
    """What Go sops prints, with the test host's age key."""
    env = {**os.environ, "SOPS_AGE_KEY_FILE": str(FIXTURES / "keys" / "age-host.txt"), **more}
    env |= {"GNUPGHOME": str(home)} if home else {}
    return subprocess.run([str(go_sops()), *words], env=env, capture_output=True, check=True).stdout


def host() -> sops.Keys:
    return sops.Keys.of_age_file(FIXTURES / "keys" / "age-host.txt")


def read(data: bytes, name: str) -> Any:
    return json.loads(data) if name.endswith(".json") else YAML(typ="safe", pure=True).load(data)


@needs_go
@pytest.mark.parametrize("name", ["f.yaml", "f.json"])
def test_go_sops_reads_what_is_written_and_the_reverse(name: str, tmp_path: Path) -> None:
    file = tmp_path / name
    document = sops.load(sops.create(TREE, [HOST], now=NOW, name=name), name, host())
    file.write_bytes(sops.update(document, {"zoe/ssh-key": "a\nb\n"}, now=LATER, remove=["ada/empty"]))
    expected = {**TREE, "ada": {key: value for key, value in TREE["ada"].items() if key != "empty"}}
    assert read(go("decrypt", file), name) == expected | {"zoe": {"ssh-key": "a\nb\n"}}
    go("set", file, '["zoe"]["new"]', '"from go"')
    assert sops.load(file.read_bytes(), name, host()).get("zoe/new") == "from go"
    if name.endswith(".json"):
        assert jsontext.tidied(file.read_text(), name) == file.read_text()


@needs_go
@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("name", ["f.yaml", "f.json"])
def test_go_sops_reads_what_was_rewrapped(name: str, fresh: bool, tmp_path: Path) -> None:
    admin = sops.Keys.of_age_file(FIXTURES / "keys" / "age-admin.txt")
    file = tmp_path / name
    before = sops.load(sops.create(TREE, [ADMIN], now=NOW, name=name), name, admin)
    file.write_bytes(sops.rewrap(before, [HOST], now=LATER, fresh=fresh))
    assert read(go("decrypt", file), name) == TREE


@needs_go
@pytest.mark.parametrize("name", ["f.yaml", "f.json"])
def test_go_sops_reads_key_groups_and_the_reverse(name: str, tmp_path: Path) -> None:
    file = tmp_path / name
    with gnupg_home(FIXTURES / "keys" / "pgp-admin.asc") as home:
        groups = [[HOST], [PGP], [ADMIN]]
        file.write_bytes(sops.create(TREE, [], now=NOW, groups=groups, threshold=2, gnupg_home=home, name=name))
        assert read(go("decrypt", file, home=home), name) == TREE
        go("rotate", "-i", file, home=home)
        document = sops.load(file.read_bytes(), name, host() | sops.Keys.of_gnupg_home(home))
    assert document.tree == TREE
    assert sops.groups_of(document.data, name) == (((HOST,), (PGP,), (ADMIN,)), 2)


@needs_go
def test_comments_that_go_sops_encrypts_survive_a_new_key(tmp_path: Path) -> None:
    file = tmp_path / "f.yaml"
    text = (
        "# top\nada:\n    # first\n    k: v # behind\n    l:\n        # in the list\n        - a\n        - b\n# end\n"
    )
    file.write_text(text)
    (tmp_path / ".sops.yaml").write_text(f"creation_rules: [{{age: {HOST}}}]\n")
    go("encrypt", "-i", file, SOPS_CONFIG=str(tmp_path / ".sops.yaml"))
    assert file.read_text().count("type:comment") == 5
    before = go("decrypt", file)
    file.write_bytes(sops.rewrap(sops.load(file.read_bytes(), "f.yaml", host()), [HOST], now=LATER, fresh=True))
    assert go("decrypt", file) == before
    assert sorted(re.findall(r"#.*", before.decode())) == sorted(re.findall(r"#.*", text))


# PyPI's sops 1.18, the Python program that sops once was. It asks ruamel.yaml for a function that is no more.
_SECOND = """
import sys, ruamel.yaml
ruamel.yaml.RoundTripLoader = None
ruamel.yaml.load = lambda file, _: ruamel.yaml.YAML(typ="rt", pure=True).load(file)
import sops, json
tree = sops.load_file_into_tree(sys.argv[1], "json" if sys.argv[1].endswith("json") else "yaml")
sops.INPUT_VERSION = str(tree["sops"]["version"])
key, tree = sops.get_key(tree)
tree = sops.walk_and_decrypt(tree, key)
del tree["sops"]
print(json.dumps(tree))
"""


@pytest.mark.parametrize("name", ["f.yaml", "f.json"])
def test_the_sops_of_python_reads_what_is_written_for_pgp(name: str, tmp_path: Path) -> None:
    file = tmp_path / name
    with gnupg_home(FIXTURES / "keys" / "pgp-admin.asc") as home:
        keys = sops.Keys.of_gnupg_home(home)
        made = sops.create(TREE, [HOST], now=NOW, name=name)
        fresh = sops.rewrap(sops.load(made, name, host()), [PGP], now=NOW, fresh=True, gnupg_home=home)
        file.write_bytes(sops.update(sops.load(fresh, name, keys), {"zoe/k": "z"}, now=LATER, remove=["ada/yes"]))
        env = {**os.environ, "GNUPGHOME": str(home)}
        done = subprocess.run([sys.executable, "-c", _SECOND, file], env=env, capture_output=True, check=True)
    ada = {key: value for key, value in TREE["ada"].items() if key != "yes"}
    assert json.loads(done.stdout) == {**TREE, "ada": ada, "zoe": {"k": "z"}}
