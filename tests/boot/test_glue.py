"""What makes an initrd run the hook: built by the initrds' own programs in a Debian tree, without booting it."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import initrd
from tests.boot import flavours, growth, guest

pytestmark = pytest.mark.root
SHELL = [
    *("boot.sh", "rollback.sh", "dracut/90nuketown/module-setup.sh", "dracut/90nuketown/pre-mount.sh"),
    *("initramfs-tools/hooks/nuketown", "initramfs-tools/scripts/local-premount/nuketown"),
]
LISTED = {"dracut": "lsinitrd", "initramfs-tools": "lsinitramfs"}


def contents(root: Path, kind: initrd.Kind) -> str:
    """The names in an initrd."""
    return guest.within(root, LISTED[kind], "/boot/made.img")


def programs() -> list[str]:
    """What the hook says it needs."""
    return re.findall(r"(?m)^    for program in (.*); do$", initrd.hook().read_text())[0].split()


@pytest.mark.parametrize("name", SHELL)
def test_the_shell_of_the_initrd_is_clean(name: str) -> None:
    subprocess.run(["shellcheck", str(initrd.HERE / name)], check=True)


def test_every_file_of_the_glue_is_in_the_package_and_has_one_place() -> None:
    for kind in initrd.KINDS:
        glue = initrd.glue(kind)
        assert all(file.source.is_file() for file in glue)
        assert len({file.target for file in glue}) == len(glue)


def test_the_unit_says_nothing_that_systemd_does_not_know(tmp_path: Path) -> None:
    text = initrd.unit().read_text().replace("/usr/lib/nuketown/boot.sh", str(initrd.HERE / "boot.sh"))
    (tmp_path / initrd.UNIT).write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / initrd.UNIT)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_dracut_puts_in_the_hook_and_all_it_needs(debian: Path) -> None:
    with guest.tree("dracut") as root:
        said = guest.build(root, "dracut", "/boot/made.img")
        names = contents(root, "dracut")
    assert "nuketown" not in said, "nothing to warn of"
    for program in (*programs(), "timeout"):
        assert re.search(rf"usr/s?bin/{program}( |$)", names, re.MULTILINE), program
    for file in ("etc/nuketown/rollback.conf", "usr/lib/nuketown/rollback.sh", "usr/lib/nuketown/boot.sh", "btrfs.ko"):
        assert file in names
    assert f"initrd.target.wants/{initrd.UNIT} -> ../{initrd.UNIT}" in names


def test_dracut_without_systemd_runs_it_before_the_root_is_mounted_and_after_the_resume(debian: Path) -> None:
    with guest.tree("dracut") as root:
        guest.within(
            root, "dracut", "-q", "-f", "-N", "--no-compress", "--omit", "systemd", "/boot/made.img", version(root)
        )
        names = contents(root, "dracut")
    assert "hooks/pre-mount/50-pre-mount.sh" in names
    assert initrd.UNIT not in names


def test_initramfs_tools_puts_in_the_hook_and_all_it_needs(debian: Path) -> None:
    with guest.tree("initramfs-tools") as root:
        said = guest.build(root, "initramfs-tools", "/boot/made.img")
        names = contents(root, "initramfs-tools").splitlines()
        order = order_of(root, "local-premount")
    assert "nuketown" not in said, "nothing to warn of"
    for program in (*programs(), "timeout"):
        assert f"usr/lib/nuketown/bin/{program}" in names or f"usr/bin/{program}" in names, program
    for file in ("etc/nuketown/rollback.conf", "usr/lib/nuketown/rollback.sh", "usr/lib/nuketown/boot.sh"):
        assert file in names
    assert any(name.endswith("/btrfs.ko") for name in names)
    assert order.index("nuketown") > order.index("resume"), "a resume never rolls back"
    assert order.index("nuketown") > order.index("btrfs"), "the kernel has been told of all devices"


@pytest.mark.parametrize("kind", initrd.KINDS)
def test_without_a_configuration_the_initrd_is_made_with_a_warning(kind: initrd.Kind, debian: Path) -> None:
    with guest.tree(kind) as root:
        (root / "etc/nuketown/rollback.conf").unlink()
        said = guest.build(root, kind, "/boot/made.img")
        names = contents(root, kind)
    assert "nuketown: /etc/nuketown/rollback.conf is missing" in said
    assert "usr/lib/nuketown/boot.sh" in names


def test_a_btrfs_program_that_is_missing_breaks_nobodys_initramfs(debian: Path) -> None:
    with guest.tree("initramfs-tools") as root:
        (root / "usr/bin/btrfs").unlink()
        said = guest.build(root, "initramfs-tools", "/boot/made.img")
        assert (root / "boot/made.img").stat().st_size > 1 << 20
    assert "W: nuketown: btrfs is not here" in said


@pytest.mark.parametrize("kind", flavours.some("growth", list(initrd.KINDS)))
def test_the_initrd_grows_by_half_a_megabyte_at_most(kind: initrd.Kind, debian: Path) -> None:
    assert growth.growth(kind) <= 500_000


# ---------------------------------------------------------------- boot.sh, with a hook that stands in


def boot(tmp_path: Path, hook: str, env: dict[str, str], limit: int | None = None) -> tuple[int, str, str]:
    """Run boot.sh beside `hook`; its status, its words, and the limit that it gave (or `limit`, in its place)."""
    (tmp_path / "bin").mkdir()
    shutil.copy(initrd.HERE / "boot.sh", tmp_path)
    (tmp_path / "rollback.sh").write_text(hook)
    waits = f'echo "$3" >{tmp_path}/limit; shift 3; exec /usr/bin/timeout -k 1 {limit or 60} "$@"'
    (tmp_path / "bin/timeout").write_text(f"#!/bin/sh\n{waits}\n")
    (tmp_path / "bin/timeout").chmod(0o755)
    for name in ("rollback", "rollback.failed"):  # those alone: other tests may have something mounted beside them
        Path("/run/nuketown", name).unlink(missing_ok=True)
    done = subprocess.run(
        ["sh", str(tmp_path / "boot.sh")], env=env, capture_output=True, text=True, timeout=60, check=False
    )
    given = (tmp_path / "limit").read_text().strip() if (tmp_path / "limit").exists() else ""
    return done.returncode, done.stderr, given


def test_a_hook_that_never_ends_is_stopped_and_leaves_the_reason_and_no_proof(tmp_path: Path) -> None:
    hook = "trap '' TERM\nmkdir -p /run/nuketown\necho version=1 >/run/nuketown/rollback\nwhile :; do sleep 1; done\n"
    status, said, limit = boot(tmp_path, hook, {"NUKETOWN_DEVICE": "/dev/x", "NUKETOWN_WAIT": "30"}, limit=1)
    assert (status, limit) == (137, "150")
    assert "nuketown: error: the rollback did not end within 150 s and was stopped" in said
    assert Path("/run/nuketown/rollback.failed").read_text().startswith("error: the rollback did not end within 150 s")
    assert not Path("/run/nuketown/rollback").exists()


def test_without_a_configuration_the_hook_is_not_run_and_the_reason_is_left(tmp_path: Path) -> None:
    status, said, limit = boot(tmp_path, "exit 0\n", {})
    assert (status, limit) == (1, "")
    assert "made without /etc/nuketown/rollback.conf" in said
    assert "made without" in Path("/run/nuketown/rollback.failed").read_text()
    assert os.stat("/run/nuketown/rollback.failed").st_mode & 0o777 == 0o644


def test_the_status_of_the_hook_is_the_status_of_the_boot_script(tmp_path: Path) -> None:
    assert boot(tmp_path, "exit 7\n", {"NUKETOWN_DEVICE": "/dev/x"})[0] == 7


# ---------------------------------------------------------------- the tree


def version(root: Path) -> str:
    return next((root / "lib/modules").iterdir()).name


def order_of(root: Path, stage: str) -> list[str]:
    """The scripts of a stage in the order in which initramfs-tools itself put them."""
    guest.within(root, "unmkinitramfs", "/boot/made.img", "/boot/unpacked")
    found = list((root / "boot/unpacked").rglob(f"scripts/{stage}/ORDER"))
    return re.findall(rf"(?m)^/scripts/{stage}/(\S+)", found[0].read_text())
