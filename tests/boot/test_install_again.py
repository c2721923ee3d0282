"""What a later `persist install` keeps of an earlier one, and what every one says."""

import json
from pathlib import Path

import pytest

import initrd
from tests.boot.tree import UNITS, Tree, rebuild, tree

pytestmark = pytest.mark.root
__all__ = ["tree"]


def _service(tree: Tree) -> str:
    return (tree.root / UNITS / "nuketown-rollback.service").read_text()


def _record(tree: Tree) -> Path:
    return tree.root / "etc/nuketown/installed.json"


@pytest.mark.parametrize("kind", [*initrd.KINDS, "none"])
def test_a_later_install_keeps_the_kind_and_the_program_that_were_said(tree: Tree, kind: str) -> None:
    tree.has("usr/bin/dracut", "usr/sbin/update-initramfs", "opt/n/persist")
    tree.persist("install", "--initrd", kind, "--program", "/opt/n/persist")
    before = tree.facts()
    said = tree.persist("install")
    assert (said.status, said.out.startswith("nothing to do")) == (0, True), said.err
    assert "as the last install had it" in said.err
    assert tree.facts() == before
    tree.spec(wait="1min")
    assert tree.persist("install").status == 0
    assert json.loads(_record(tree).read_text())["initrd"] == kind
    assert "ExecStart=/opt/n/persist --spec" in _service(tree)
    assert tree.facts().keys() == before.keys()


def test_what_is_said_goes_before_what_was_said(tree: Tree) -> None:
    tree.persist("install", "--initrd", "dracut", "--program", "/opt/n/persist")
    tree.persist("install", "--initrd", "none", "--program", "/opt/m/persist")
    said = json.loads(_record(tree).read_text())
    assert (said["initrd"], said["program"]) == ("none", "/opt/m/persist")
    assert "ExecStart=/opt/m/persist --spec" in _service(tree)


def test_a_record_of_an_older_release_names_no_program(tree: Tree) -> None:
    tree.persist("install")
    old = json.loads(_record(tree).read_text())
    del old["program"]
    _record(tree).write_text(json.dumps(old))
    tree.spec(wait="1min")
    assert tree.persist("install").status == 0
    assert json.loads(_record(tree).read_text())["program"] is None


def test_a_kind_whose_maker_is_gone_is_kept_and_said(tree: Tree) -> None:
    tree.has("usr/sbin/update-initramfs")
    assert "not here any more" not in tree.persist("install").err
    (tree.root / "usr/sbin/update-initramfs").unlink()
    tree.has("usr/bin/dracut")
    said = tree.persist("install")
    assert "persist: warning: initramfs-tools, which the last install was for, is not here any more\n" in said.err
    spec_file = tree.root / "etc/nuketown/town.toml"
    assert f"hint: persist install --spec {spec_file} --initrd dracut --root {tree.root}\n" in said.err
    assert (tree.root / "etc/initramfs-tools/hooks/nuketown").exists()


def test_a_maker_that_came_later_is_named(tree: Tree) -> None:
    tree.persist("install")
    tree.has("usr/bin/dracut")
    assert "dracut found here; to run the hook in the initrd: --initrd dracut" in tree.persist("install").err


@pytest.mark.parametrize("kind", initrd.KINDS)
def test_the_kind_and_the_command_are_said_always(tree: Tree, kind: str) -> None:
    tree.has(f"usr/bin/{initrd.maker('dracut' if kind == 'dracut' else 'initramfs-tools')}")
    for words in (["--dry-run"], [], [], ["--dry-run"]):
        said = tree.persist("install", *words)
        assert f"note: the initrds are made by {kind} (" in said.err, words
        assert f"hint: chroot {tree.root} {rebuild(kind)}\n" in said.err, words
    said = tree.persist("uninstall")
    assert f"initrds that {kind} made before still hold the hook" in said.err
    assert f"hint: chroot {tree.root} {rebuild(kind)}\n" in said.err


@pytest.mark.parametrize("kind", initrd.KINDS)
def test_who_leaves_the_initrd_hears_that_the_old_ones_still_hold_the_hook(tree: Tree, kind: str) -> None:
    assert "still hold" not in tree.persist("install", "--initrd", kind).err
    for words in (["--dry-run"], []):
        said = tree.persist("install", "--initrd", "none", *words)
        assert f"initrds that {kind} made before still hold the hook" in said.err
        assert f"hint: chroot {tree.root} {rebuild(kind)}\n" in said.err
    assert "still hold" not in tree.persist("install").err


def test_every_path_that_is_printed_is_one_of_the_tree(tree: Tree) -> None:
    for verb in ("install", "uninstall"):
        paths = [line.split()[1] for line in tree.persist(verb).out.splitlines()]
        assert paths
        assert all(path.startswith(f"{tree.root}/") for path in paths)


@pytest.mark.parametrize("verb", ["install", "uninstall"])
@pytest.mark.parametrize("root", ["/nonexist", "", "/etc/passwd"])
def test_a_root_that_is_no_directory_is_said(tree: Tree, verb: str, root: str) -> None:
    said = tree.persist(verb, "--root", root)
    assert said.status == 2
    assert f"persist: error: --root {root}: there is no such directory\n" in said.err
