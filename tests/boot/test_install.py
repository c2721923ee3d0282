"""`persist install` and `uninstall`: on a tree that will be a machine, and what they leave of one that is."""

import json
import os
from pathlib import Path

import pytest

import initrd
from persist import check, fstab
from tests.boot.tree import UNITS, Tree, rebuild, tree
from town import spec

pytestmark = pytest.mark.root

__all__ = ["tree"]


@pytest.mark.parametrize("kind", [*initrd.KINDS, "none"])
def test_install_puts_everything_there_and_uninstall_takes_exactly_that_away(tree: Tree, kind: str) -> None:
    (tree.root / "usr/sbin/update-initramfs").touch()
    before = {name: fact for name, fact in tree.facts().items() if not (tree.root / name).is_dir()}
    said = tree.persist("install", "--initrd", kind)
    assert said.status == 0, said.err
    for name in ("nuketown-rollback.service", "agents.mount", "nuketown-tidy.service"):
        assert (tree.root / UNITS / name).is_file()
    link = tree.root / UNITS / "nuketown-mount.service.requires/nuketown-rollback.service"
    assert os.readlink(link) == "/etc/systemd/system/nuketown-rollback.service"
    assert "NUKETOWN_WAIT='30'\n" in (tree.root / "etc/nuketown/rollback.conf").read_text()
    if kind != "none":
        for placed in initrd.glue("dracut" if kind == "dracut" else "initramfs-tools"):
            there = tree.root / placed.target.lstrip("/")
            assert there.read_bytes() == placed.source.read_bytes()
            assert there.stat().st_mode & 0o7777 == placed.mode
        assert f"hint: chroot {tree.root} {rebuild(kind)}\n" in said.err
    service = (tree.root / UNITS / "nuketown-rollback.service").read_text()
    assert "ExecStart=/usr/bin/persist --spec /etc/nuketown/town.toml rollback --confirm\n" in service
    assert tree.persist("uninstall").status == 0
    after = tree.facts()
    assert {name: fact for name, fact in after.items() if not (tree.root / name).is_dir()} == before
    assert sorted(name for name in after if (tree.root / name).is_dir()) == [
        "etc", "etc/nuketown", "usr", "usr/lib", "usr/lib/systemd", "usr/sbin",
    ]  # fmt: skip


def test_a_second_install_changes_nothing(tree: Tree) -> None:
    tree.persist("install", "--initrd", "dracut")
    before = tree.facts()
    said = tree.persist("install", "--initrd", "dracut")
    assert (said.status, said.out) == (0, "nothing to do: everything is there and as it should be\n")
    assert tree.facts() == before


@pytest.mark.parametrize("verb", ["install", "uninstall"])
def test_a_dry_run_says_everything_and_changes_nothing(tree: Tree, verb: str) -> None:
    if verb == "uninstall":
        tree.persist("install")
    before = tree.facts()
    dry = tree.persist(verb, "--dry-run")
    assert tree.facts() == before
    assert dry.out == tree.persist(verb).out
    assert tree.facts() != before


def test_what_differs_is_shown_and_put_right(tree: Tree) -> None:
    tree.persist("install")
    conf = tree.root / "etc/nuketown/rollback.conf"
    right = conf.read_bytes()
    conf.write_bytes(right.replace(b"'30'", b"'99\x1b[2J'"))
    said = tree.persist("install", "--dry-run")
    assert f"change  {tree.root}/etc/nuketown/rollback.conf\n" in said.out
    assert "  -NUKETOWN_WAIT='99\\x1b[2J'\n  +NUKETOWN_WAIT='30'\n" in said.out
    tree.persist("install")
    assert conf.read_bytes() == right
    conf.chmod(0o666)
    assert "only owner, mode" in tree.persist("install").out
    assert conf.stat().st_mode & 0o7777 == 0o644


def test_another_spec_takes_the_old_units_with_it(tree: Tree) -> None:
    tree.persist("install")
    tree.spec(agents="/srv/homes", wait="1min")
    said = tree.persist("install")
    assert f"remove  {tree.root}/etc/systemd/system/agents.mount\n" in said.out
    names = [path.name for path in (tree.root / UNITS).rglob("*.mount") if not path.is_dir()]
    assert names == ["srv-homes.mount"] * 2
    assert "Where=/srv/homes\n" in (tree.root / UNITS / "srv-homes.mount").read_text()
    assert "NUKETOWN_WAIT='60'" in (tree.root / "etc/nuketown/rollback.conf").read_text()
    tree.persist("uninstall")
    assert sorted(path.name for path in (tree.root / "etc").rglob("*")) == ["nuketown", "town.toml"]


def test_a_change_of_the_initrds_maker_takes_the_old_glue_with_it(tree: Tree) -> None:
    tree.persist("install", "--initrd", "dracut")
    tree.persist("install", "--initrd", "initramfs-tools")
    assert not (tree.root / "usr/lib/dracut/modules.d/90nuketown/module-setup.sh").exists()
    assert (tree.root / "etc/initramfs-tools/hooks/nuketown").exists()


def test_what_a_person_changed_is_not_removed(tree: Tree) -> None:
    tree.persist("install")
    unit = tree.root / UNITS / "nuketown-tidy.service"
    unit.write_text(unit.read_text() + "# mine\n")
    said = tree.persist("uninstall")
    assert said.status == 0
    assert f"{tree.root}/etc/systemd/system/nuketown-tidy.service stays: it was changed" in said.err
    assert unit.exists()
    assert not (tree.root / UNITS / "agents.mount").exists()


@pytest.mark.parametrize(
    "name", [f"{UNITS}/agents.mount", "etc/nuketown/rollback.conf", "etc/initramfs-tools/hooks/nuketown"]
)
def test_what_somebody_else_put_there_is_refused_and_nothing_is_made(tree: Tree, name: str) -> None:
    mine = tree.root / name
    mine.parent.mkdir(parents=True, exist_ok=True)
    mine.write_text("mine\n")
    before = tree.facts()
    said = tree.persist("install", "--initrd", "initramfs-tools")
    assert said.status == 1
    assert f"{mine} is there already, and is not one that nuketown wrote" in said.err
    assert f"mv {mine} {mine}.mine" in said.err
    assert tree.facts() == before


def test_a_link_in_the_tree_leads_nowhere_else(tree: Tree, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tree.root / "etc/systemd").symlink_to(tmp_path / "outside")
    said = tree.persist("install")
    assert said.status == 1
    assert "symlink" in said.err
    assert list((tmp_path / "outside").iterdir()) == []


def test_uninstall_where_nothing_is_installed_says_so(tree: Tree) -> None:
    before = tree.facts()
    said = tree.persist("uninstall")
    assert (said.status, said.out) == (0, "nothing to do: nothing is installed\n")
    assert tree.facts() == before


def record(**changed: object) -> str:
    whole: dict[str, object] = {"version": 1, "initrd": "none", "files": {}, "links": {}, "directories": []}
    return json.dumps(whole | changed)


@pytest.mark.parametrize(
    "text",
    ["", "[]", record(version=9), record(files={"/../x": ""}), record(initrd="x"), record(program=1), record(links=3)],
)
def test_a_record_that_cannot_be_read_stops_both(tree: Tree, text: str) -> None:
    (tree.root / "etc/nuketown/installed.json").write_text(text)
    for verb in ("install", "uninstall"):
        said = tree.persist(verb)
        assert said.status == 1
        assert f"{tree.root}/etc/nuketown/installed.json cannot be read" in said.err


def test_an_install_that_was_cut_off_can_be_undone(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    from persist.placing import MakeLink
    from persist.placing import Tree as Placing

    do = Placing.do

    def cut_off(self: Placing, action: object) -> None:
        if isinstance(action, MakeLink):
            raise KeyboardInterrupt
        do(self, action)  # type: ignore[arg-type]

    monkeypatch.setattr(Placing, "do", cut_off)
    tree.persist("install")
    monkeypatch.undo()
    assert (tree.root / UNITS / "agents.mount").exists()
    assert tree.persist("uninstall").status == 0
    assert sorted(path.name for path in (tree.root / "etc").rglob("*")) == ["nuketown", "town.toml"]


# ---- which machine

CALLED = ("dracut", "initramfs-tools")


@pytest.mark.parametrize(
    ("has", "kind"),
    [
        ([], "none"),
        (["usr/sbin/mkinitramfs"], "none"),  # initramfs-tools-core alone makes none for a new kernel
        (["usr/sbin/update-initramfs"], "initramfs-tools"),
        (["usr/bin/dracut"], "dracut"),
        (["usr/bin/dracut", "usr/sbin/update-initramfs", "etc/kernel/postinst.d/initramfs-tools"], "initramfs-tools"),
        (["usr/bin/dracut", "usr/sbin/update-initramfs", "etc/kernel/postinst.d/dracut"], "dracut"),
        # Debian after `apt install dracut`: initramfs-tools-core is there for others, and the conffiles stay.
        (["usr/bin/dracut", "usr/sbin/mkinitramfs", *(f"etc/kernel/postinst.d/{kind}" for kind in CALLED)], "dracut"),
    ],
)
def test_what_makes_the_initrds_is_found_out(tree: Tree, has: list[str], kind: str) -> None:
    tree.has(*has)
    assert tree.persist("install").status == 0
    assert json.loads((tree.root / "etc/nuketown/installed.json").read_text())["initrd"] == kind
    service = (tree.root / UNITS / "nuketown-rollback.service").read_text()
    assert service.count("ExecStart=") == (2 if kind == "none" else 1)


@pytest.mark.parametrize("called", [(), CALLED])
def test_a_machine_with_two_makers_of_initrds_is_asked_about(tree: Tree, called: tuple[str, ...]) -> None:
    tree.has("usr/bin/dracut", "usr/sbin/update-initramfs", *(f"etc/kernel/postinst.d/{kind}" for kind in called))
    said = tree.persist("install")
    assert said.status == 2
    assert "hint: say --initrd dracut or initramfs-tools" in said.err


def test_a_machine_without_systemd_and_nixos_are_refused(tree: Tree) -> None:
    (tree.root / "etc/NIXOS").touch()
    said = tree.persist("install")
    assert "this is NixOS" in said.err
    for name in ("units --write DIR", str(initrd.hook()), str(initrd.unit())):
        assert name in said.err.replace(f" --spec {tree.root}/etc/nuketown/town.toml", "")
    (tree.root / "etc/NIXOS").unlink()
    (tree.root / "usr/lib/systemd/systemd").unlink()
    said = tree.persist("install")
    assert said.status == 1
    assert "there is no systemd in " in said.err


def test_a_town_without_btrfs_has_units_and_no_rollback(tree: Tree) -> None:
    tree.has("usr/bin/dracut")
    tree.persist("install")
    (tree.root / "etc/nuketown/town.toml").write_text("[agents.ada]\nuid = 51100\n")
    said = tree.persist("install")
    assert said.status == 0, said.err
    names = {path.name for path in (tree.root / "etc").rglob("*") if not path.is_dir()}
    assert {"nuketown-homes.service", "nuketown-agent@ada.target", "agents"} <= names
    assert not {"agents.mount", "nuketown-mount.service", "nuketown-rollback.service", "rollback.conf"} & names
    assert not (tree.root / "usr/lib/dracut/modules.d/90nuketown/module-setup.sh").exists()
    assert "initrds that dracut made before still hold the hook" in said.err
    assert tree.persist("install").out.startswith("nothing to do")


# ---- fstab

HOLDS = "LABEL=x /agents btrfs subvol=@agents,noatime 0 0"


@pytest.mark.parametrize(
    ("line", "refused"),
    [
        (HOLDS, True),
        ("LABEL=x\t/agents/\tbtrfs", True),
        ("/dev/a /agents//  btrfs x-systemd.automount 0 0", True),
        (HOLDS.replace("noatime", "nofail"), False),
        (HOLDS.replace("noatime", "noauto"), False),
        (f"# {HOLDS}", False),
        ("LABEL=x /agents2 btrfs defaults 0 0", False),
        ("LABEL=x", False),
    ],
)
def test_an_fstab_line_that_would_hold_the_humans_boot_is_refused(tree: Tree, line: str, refused: bool) -> None:
    (tree.root / "etc/fstab").write_text(f"proc /proc proc defaults 0 0\n{line}\n")
    said = tree.persist("install")
    assert said.status == int(refused)
    if refused:
        assert f"{tree.root}/etc/fstab line 2 mounts " in said.err
        assert "would stop this machine's own boot" in said.err
        assert f"hint: remove line 2 of {tree.root}/etc/fstab: " in said.err
        assert not (tree.root / UNITS).exists()


def test_a_path_with_a_space_is_found_in_fstab(tree: Tree) -> None:
    tree.spec(agents="/srv/the homes")
    (tree.root / "etc/fstab").write_text("LABEL=x /srv/the\\040homes btrfs defaults 0 0\n")
    assert tree.persist("install").status == 1


def test_check_warns_of_such_a_line_too(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tree.root / "etc/fstab"
    lines = fstab.lines
    monkeypatch.setattr(fstab, "lines", lambda path: lines(path, file))
    town = spec.load(tree.root / "etc/nuketown/town.toml")
    assert list(check._fstab(town)) == []
    file.write_text(f"{HOLDS}\n")
    (found,) = check._fstab(town)
    assert found.where == "town.agents_dir"
    assert "line 1 mounts LABEL=x there without nofail" in found.what
