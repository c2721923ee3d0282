"""Lines of nuketown's in files of others: PAM's common-account, cron.deny, at.deny. All other lines stay."""

import json
import os
from pathlib import Path

import pytest

from persist import pam
from persist.placing import Tree as Placing
from tests.boot.tree import Tree, tree

pytestmark = pytest.mark.root
__all__ = ["tree"]

DEBIAN = """\
#
# /etc/pam.d/common-account - authorization settings common to all services
#
account required pam_access.so # mine

# here are the per-package modules (the "Primary" block)
account	[success=1 new_authtok_reqd=done default=ignore]	pam_unix.so
account	requisite			pam_deny.so
account	required			pam_permit.so
# end of pam-auth-update config
"""
BLOCK = "".join(f"{line}\n" for line in pam.RULE)


@pytest.fixture
def common(tree: Tree) -> Path:
    """A machine with PAM, cron and at, whose person denied cron to some already."""
    (tree.root / "etc/pam.d").mkdir()
    found = tree.root / "etc/pam.d/common-account"
    found.write_text(DEBIAN)
    return found


def facts(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_uid, found.st_gid, found.st_mode & 0o7777


def test_the_rule_goes_before_what_debian_writes_and_is_taken_back_whole(tree: Tree, common: Path) -> None:
    assert tree.persist("install").status == 0
    before, _, after = common.read_text().partition(BLOCK)
    assert before + after == DEBIAN
    assert after.startswith('# here are the per-package modules (the "Primary" block)')
    assert (tree.root / "etc/nuketown/agents").read_text() == "ada\n"
    assert tree.persist("uninstall").status == 0
    assert common.read_text() == DEBIAN


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("@include other\naccount required pam_unix.so\n", "@include other"),
        ("# nothing\n-account required pam_x.so", "-account required pam_x.so"),
        ("", ""),
        ("# no end of line", ""),
    ],
)
def test_where_debian_wrote_nothing_it_goes_before_the_first_rule(
    tree: Tree, common: Path, text: str, first: str
) -> None:
    common.write_text(text)
    tree.persist("install")
    lines = common.read_text().splitlines()
    at = lines.index(pam.RULE[0])
    assert tuple(lines[at : at + len(pam.RULE)]) == pam.RULE
    assert lines[at + len(pam.RULE) :][:1] == ([first] if first else [])
    tree.persist("uninstall")
    assert common.read_text().rstrip("\n") == text.rstrip("\n")


def test_a_second_install_leaves_every_line_alone(tree: Tree, common: Path) -> None:
    (tree.root / "etc/cron.deny").write_text("eve\n")
    (tree.root / "etc/at.deny").write_text("daemon")
    tree.persist("install")
    before = tree.facts()
    assert tree.persist("install").out.startswith("nothing to do")
    assert tree.facts() == before


def test_a_dry_run_shows_the_lines_and_changes_none(tree: Tree, common: Path) -> None:
    before = tree.facts()
    said = tree.persist("install", "--dry-run")
    assert f"change  {tree.root}/etc/pam.d/common-account\n" in said.out
    assert f"  +{pam.RULE[1]}\n" in said.out
    assert f"write   {tree.root}/etc/cron.deny\n" in said.out
    assert tree.facts() == before


def test_a_block_that_was_changed_is_put_right_by_install_and_stays_at_uninstall(tree: Tree, common: Path) -> None:
    tree.persist("install")
    changed = common.read_text().replace("onerr=fail", "onerr=succeed")
    common.write_text(changed)
    said = tree.persist("uninstall")
    assert f"{common} stays: what was put there was changed since" in said.err
    assert common.read_text() == changed
    assert tree.persist("install").status == 0
    assert common.read_text().count(BLOCK) == 1
    assert common.read_text().replace(BLOCK, "") == DEBIAN


def test_a_line_of_a_persons_inside_of_the_block_stays_at_uninstall(tree: Tree, common: Path) -> None:
    tree.persist("install")
    common.write_text(common.read_text().replace(pam.RULE[1], f"account optional pam_echo.so\n{pam.RULE[1]}"))
    before = common.read_text()
    tree.persist("uninstall")
    assert common.read_text() == before


@pytest.mark.parametrize("lost", [0, -1])
def test_half_a_block_is_refused_and_nothing_is_made(tree: Tree, common: Path, lost: int) -> None:
    common.write_text(DEBIAN + BLOCK.replace(f"{pam.RULE[lost]}\n", ""))
    before = tree.facts()
    said = tree.persist("install")
    assert said.status == 1
    assert f"{common} holds no whole block of nuketown's" in said.err
    assert tree.facts() == before


def test_owner_and_mode_of_a_file_of_others_stay(tree: Tree, common: Path) -> None:
    deny = tree.root / "etc/cron.deny"
    deny.write_text("eve\n")
    for path, mode, group in ((deny, 0o640, 42), (common, 0o600, 0)):
        path.chmod(mode)
        os.chown(path, 0, group)
    tree.persist("install")
    assert (facts(deny), facts(common)) == ((0, 42, 0o640), (0, 0, 0o600))
    assert deny.read_text() == "eve\nada\n"
    tree.persist("uninstall")
    assert (facts(deny), facts(common)) == ((0, 42, 0o640), (0, 0, 0o600))
    assert deny.read_text() == "eve\n"


def test_a_machine_without_lists_gets_one_for_cron_and_none_for_at(tree: Tree) -> None:
    """Without both of its lists at is root's alone: one that denies some would let all others in (at.allow(5))."""
    tree.persist("install")
    assert (tree.root / "etc/cron.deny").read_text() == "ada\n"
    assert facts(tree.root / "etc/cron.deny") == (0, 0, 0o644)
    assert not (tree.root / "etc/at.deny").exists()
    tree.persist("uninstall")
    assert not (tree.root / "etc/cron.deny").exists()


def test_a_name_that_was_there_before_stays_at_uninstall(tree: Tree) -> None:
    for name in ("cron", "at"):
        (tree.root / f"etc/{name}.deny").write_text("ada\neve")
    tree.persist("install")
    tree.persist("uninstall")
    assert [(tree.root / f"etc/{name}.deny").read_text() for name in ("cron", "at")] == ["ada\neve"] * 2


def test_a_list_that_a_person_wrote_to_stays_when_it_was_made_here(tree: Tree) -> None:
    tree.persist("install")
    deny = tree.root / "etc/cron.deny"
    deny.write_text("ada\neve\n")
    tree.persist("uninstall")
    assert deny.read_text() == "eve\n"


def test_an_agent_that_left_the_spec_is_denied_nothing_any_more(tree: Tree, common: Path) -> None:
    (tree.root / "etc/at.deny").write_text("daemon\n")
    tree.persist("install")
    file = tree.root / "etc/nuketown/town.toml"
    file.write_text(file.read_text().replace("[agents.ada]", "[agents.vox]"))
    assert tree.persist("install").status == 0
    assert (tree.root / "etc/cron.deny").read_text() == "vox\n"
    assert (tree.root / "etc/at.deny").read_text() == "daemon\nvox\n"
    assert (tree.root / "etc/nuketown/agents").read_text() == "vox\n"
    tree.persist("uninstall")
    assert (tree.root / "etc/at.deny").read_text() == "daemon\n"


def test_who_lets_an_agent_use_cron_hears_of_it(tree: Tree) -> None:
    assert "lets an agent in" not in tree.persist("install").err
    (tree.root / "etc/cron.allow").write_text("josh\nada\n")
    assert f"warning: {tree.root}/etc/cron.allow lets an agent in" in tree.persist("install").err


def test_a_machine_without_common_account_hears_that_nothing_asks_who_is_open(tree: Tree) -> None:
    said = tree.persist("install")
    assert said.status == 0
    assert "etc/pam.d/common-account is not there: no rule of PAM keeps agents out" in said.err


def test_an_install_that_was_cut_off_at_any_step_is_taken_back_whole(
    tree: Tree, common: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tree.root / "etc/at.deny").write_text("daemon\n")
    do, steps = Placing.do, [0, 0]

    def cut_off(self: Placing, action: object) -> None:
        steps[0] += 1
        if steps[0] > steps[1]:
            raise KeyboardInterrupt
        do(self, action)  # type: ignore[arg-type]

    for steps[1] in range(0, 31, 3):
        steps[0] = 0
        monkeypatch.setattr(Placing, "do", cut_off)
        tree.persist("install")
        monkeypatch.undo()
        tree.persist("uninstall")
        assert sorted(path.name for path in (tree.root / "etc").rglob("*")) == [
            "at.deny", "common-account", "nuketown", "pam.d", "town.toml",
        ]  # fmt: skip
        assert common.read_text() == DEBIAN
        assert (tree.root / "etc/at.deny").read_text() == "daemon\n"
    assert steps[0] < steps[1], "every step was one to be cut off at"


def test_a_link_where_a_list_belongs_is_not_followed(tree: Tree, tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("mine\n")
    (tree.root / "etc/cron.deny").symlink_to(tmp_path / "outside")
    said = tree.persist("install")
    assert said.status == 1
    assert "etc/cron.deny is no regular file" in said.err
    assert (tmp_path / "outside").read_text() == "mine\n"


def test_a_record_of_an_older_release_has_no_lines(tree: Tree, common: Path) -> None:
    tree.persist("install")
    record = tree.root / "etc/nuketown/installed.json"
    old = json.loads(record.read_text())
    assert old["version"] == 2
    assert old["lines"]["/etc/cron.deny"] == ["ada"]
    common.write_text(DEBIAN)
    (tree.root / "etc/cron.deny").unlink()
    record.write_text(
        json.dumps({key: said for key, said in old.items() if key not in ("lines", "made")} | {"version": 1})
    )
    assert tree.persist("install").status == 0
    assert BLOCK in common.read_text()
    tree.persist("uninstall")
    assert common.read_text() == DEBIAN
