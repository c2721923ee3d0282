"""`persist metrics`: the values of `persist status` in the text format of Prometheus, written whole."""

import json
import os
import re
from pathlib import Path

import pytest

from persist import metrics
from persist.metrics import Sample
from tests.machine.towns import ADA, Town, town

__all__ = ["town"]
pytestmark = pytest.mark.root

# https://prometheus.io/docs/instrumenting/exposition_formats/, text-based format, version 0.0.4
_VALUE = r'(?:[^"\\\n]|\\\\|\\"|\\n)*'
_LABEL = rf'[a-zA-Z_][a-zA-Z0-9_]*="{_VALUE}"'
_LINE = re.compile(rf"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{{({_LABEL}(?:,{_LABEL})*)\}})? (-?[0-9.]+(?:e[+-]?[0-9]+)?)")


def _parsed(text: str) -> dict[tuple[str, str], float]:
    """The values by metric and labels; the form of every line is checked on the way."""
    found: dict[tuple[str, str], float] = {}
    begun: list[str] = []
    assert text.endswith("\n")
    lines = text[:-1].split("\n")
    for before, line in zip(["", *lines], lines, strict=False):
        if line.startswith("# HELP "):
            begun.append(line.split(" ")[2])
        elif line.startswith("# TYPE "):
            assert line == f"# TYPE {begun[-1]} gauge"
            assert before.startswith(f"# HELP {begun[-1]} ")
        else:
            match = _LINE.fullmatch(line)
            assert match is not None, line
            assert match[1] == begun[-1], "values of a metric stand together"
            assert (match[1], match[2] or "") not in found
            found[match[1], match[2] or ""] = float(match[3])
    assert len(set(begun)) == len(begun)
    return found


def test_the_file_says_what_status_says_and_everybody_may_read_it(town: Town, tmp_path: Path) -> None:
    town.write('["projects", { path = "scratch", required = false }]')
    town.persist("restore")
    (town.agents / "ada/projects/file").write_text("12345")
    (town.agents / "ada/loose").write_text("123")
    file = tmp_path / "nuketown.prom"
    said = town.persist("metrics", str(file))
    assert (said.status, said.out, said.err) == (0, "", "")
    assert file.stat().st_mode & 0o7777 == 0o644
    found = _parsed(file.read_text())
    projects = 'agent="ada",path="projects",via="bind",class="data"'
    assert found["nuketown_directory_bytes", projects] == 5
    assert found["nuketown_directory_files", projects] == 1
    assert found["nuketown_directory_in_place", projects] == 1
    assert found["nuketown_would_be_lost_bytes", 'agent="ada"'] == 3
    assert (
        found["nuketown_agent_level", 'agent="ada"']
        == json.loads(town.persist("status", "--json").out)["agents"][0]["level"]
    )
    assert found["nuketown_rollback_proven", ""] == 1
    assert [path.name for path in tmp_path.iterdir() if "prom" in path.name] == ["nuketown.prom"]


def test_trouble_is_a_value_and_no_failure(town: Town) -> None:
    said = town.persist("metrics")
    assert (said.status, said.err) == (0, "")
    found = _parsed(said.out)
    assert found["nuketown_agent_level", 'agent="ada"'] == 4
    assert found["nuketown_home_present", 'agent="ada"'] == 0
    assert ("nuketown_home_since_seconds", 'agent="ada"') not in found
    town.proof.unlink()
    assert _parsed(town.persist("metrics").out)["nuketown_rollback_proven", ""] == 0


def test_a_file_that_stood_there_is_replaced_whole_and_a_link_not_followed(town: Town, tmp_path: Path) -> None:
    precious, file = tmp_path / "precious", tmp_path / "nuketown.prom"
    precious.write_text("precious")
    file.symlink_to(precious)
    assert town.persist("metrics", str(file)).status == 0
    assert precious.read_text() == "precious"
    assert not file.is_symlink()


@pytest.mark.parametrize("how", ["agent's", "everybody's", "sticky", "above", "link"])
def test_a_directory_that_an_agent_can_write_is_refused(town: Town, tmp_path: Path, how: str) -> None:
    above = tmp_path / "above"
    directory = above / "textfiles"
    directory.mkdir(parents=True)
    if how == "agent's":
        os.chown(directory, ADA, ADA)
    elif how == "above":
        os.chown(above, ADA, ADA)
    elif how == "link":
        os.chown(directory, ADA, ADA)
        (tmp_path / "link").symlink_to(directory)
        directory = tmp_path / "link"
    else:
        directory.chmod(0o777 if how == "everybody's" else 0o1777)
    said = town.persist("metrics", str(directory / "nuketown.prom"))
    assert said.status == 1
    assert "is not written: " in said.err
    assert list(directory.iterdir()) == []


def test_a_directory_that_is_missing_is_a_failure_with_its_name(town: Town, tmp_path: Path) -> None:
    said = town.persist("metrics", str(tmp_path / "nowhere/nuketown.prom"))
    assert said.status == 1
    assert "nowhere/nuketown.prom cannot be written" in said.err


def test_labels_of_any_text_are_escaped(town: Town) -> None:
    odd = 'a\\b"c\n\udcff'
    text = metrics.rendered([Sample("nuketown_agent_level", 3, (("agent", odd),)), Sample("nuketown_town_level", 1.5)])
    assert _parsed(text) == {
        ("nuketown_agent_level", 'agent="a\\\\b\\"c\\n�"'): 3, ("nuketown_town_level", ""): 1.5,
    }  # fmt: skip
    town.write('["we \\"quote\\" \\\\ it"]')
    town.persist("restore")
    assert any('path="we \\"quote\\" \\\\ it"' in labels for _, labels in _parsed(town.persist("metrics").out))


def test_every_metric_has_its_help_and_follows_the_naming_rules() -> None:
    assert all(re.fullmatch(r"nuketown_[a-z_]+", metric) and help_ for metric, help_ in metrics.HELP.items())


def test_without_btrfs_and_without_a_store_what_is_not_there_has_no_value(town: Town) -> None:
    town.write("[]", btrfs_device="")
    found = {metric for metric, _ in _parsed(town.persist("metrics").out)}
    assert not found & {"nuketown_rollback_proven", "nuketown_store_reachable", "nuketown_last_sync_bytes"}


def test_a_ballast_that_is_missing_is_in_the_level_of_the_town(town: Town) -> None:
    assert _parsed(town.persist("metrics").out)["nuketown_town_level", ""] == 3
