"""What boots in QEMU: the root disk, and the initrds with the product's glue in them.

The root disk and the initrds are made in a tree that is image.root() with this checkout installed over it, by its own
`persist install`, and kept in the cache under the hash of what they are made from.
"""

import contextlib
import hashlib
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import initrd
from tests.boot import image
from tests.boot.agentsdisk import KEY, LUKS_UUID, UUID
from town import kernel as town_kernel

Crypt = Literal["plain", "luks"]

ROOT_UUID = "5e0a4c2c-6d6e-4d0b-9a53-2f7d1f0a7c01"
ADA = 1100
WAIT = 6
HOUR = 3600

SPEC = f"""\
[town]
domain = "guest.local"
agents_dir = "/agents"
persist_dir = "/persist"

[town.btrfs]
device = "{UUID}"
wait = "{WAIT}s"

[agents.ada]
uid = {ADA}
role = "software"
"""

SHELL = """\
[Unit]
Description=A root shell for the tests, once multi-user.target is reached
After=multi-user.target
[Service]
ExecStart=/usr/bin/python3 -I /usr/local/lib/test-shell.py
StandardInput=null
StandardOutput=null
StandardError=journal+console
"""
SHELL_PY = """\
import os, subprocess, termios, tty
port = os.open("/dev/ttyS1", os.O_RDWR | os.O_NOCTTY)
tty.setraw(port, termios.TCSANOW)
os.write(port, b"SHELL-IS-HERE\\n")
read, write = os.pipe()
env = dict(os.environ, PATH="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin", HOME="/root")
shell = subprocess.Popen(["/bin/sh"], stdin=read, stdout=port, stderr=port, env=env)
while data := os.read(port, 4096):
    os.write(write, data)
"""
TARGET = """\
[Unit]
Description=What a person gets, and then the shell of the tests
Requires=multi-user.target
After=multi-user.target
Wants=test-shell.service
AllowIsolate=yes
"""
# What an emulated machine would spend half of its boot on, and nothing here needs.
MASKED = (
    *("getty.target", "systemd-timesyncd.service", "systemd-pstore.service", "systemd-logind.service", "dbus.service"),
    *("dbus.socket", "e2scrub_reap.service", "e2scrub_all.timer", "apt-daily.timer", "apt-daily-upgrade.timer"),
    *("dpkg-db-backup.timer", "fstrim.timer", "systemd-tmpfiles-clean.timer", "systemd-random-seed.service"),
    *("systemd-update-utmp.service", "systemd-update-utmp-runlevel.service", "systemd-user-sessions.service"),
    *("dev-hugepages.mount", "dev-mqueue.mount", "sys-kernel-debug.mount", "sys-kernel-tracing.mount"),
    *("sys-kernel-config.mount", "sys-fs-fuse-connections.mount", "proc-sys-fs-binfmt_misc.automount"),
    *("modprobe@configfs.service", "modprobe@fuse.service", "modprobe@loop.service", "modprobe@drm.service"),
    *("modprobe@efi_pstore.service", "kmod-static-nodes.service", "systemd-sysctl.service", "dracut-shutdown.service"),
    *("systemd-sysusers.service", "systemd-journal-flush.service", "systemd-modules-load.service"),
)
GENERATORS = (  # debug, fstab and cryptsetup stay
    *("getty", "gpt-auto", "integritysetup", "rc-local", "run", "system-update", "sysv", "veritysetup"),
)
# All devices of an emulated machine are asked what they are: half of a boot. The disks are what matters here.
TRIGGER = """\
[Service]
ExecStart=
ExecStart=udevadm trigger --type=all --action=add --subsystem-match=block --subsystem-match=tty --subsystem-match=mem
"""
DRACUT = """\
omit_dracutmodules+=" nvdimm overlay-root qemu lunmask virtiofs terminfo kernel-modules-extra usrmount "
"""
FILES = {
    "etc/hostname": "guest\n",
    "etc/machine-id": "5a1f0f6f6d3c4a0f9f1b1f4d2f7a9c01\n",
    "etc/fstab": f"UUID={ROOT_UUID} / ext4 rw,noatime 0 0\n",
    "etc/nuketown/town.toml": SPEC,
    "etc/systemd/system/test-shell.service": SHELL,
    "etc/systemd/system/test.target": TARGET,
    "etc/systemd/system/systemd-udev-trigger.service.d/quick.conf": TRIGGER,
    "etc/systemd/journald.conf.d/quick.conf": "[Journal]\nStorage=volatile\n",
    "etc/dracut.conf.d/quick.conf": DRACUT,
    "usr/local/lib/test-shell.py": SHELL_PY,
}
DRIVERS = ("virtio_blk", "virtio_pci", "ext4", "btrfs", "dm_crypt", "aesni_intel")

BOOT_ARGUMENTS = f"root=UUID={ROOT_UUID} rootfstype=ext4 rw quiet systemd.unit=test.target mitigations=off nokaslr"
LUKS_ARGUMENTS = f"rd.luks.name={LUKS_UUID}=agents rd.luks.key={LUKS_UUID}=/etc/nuketown/disk.key"


def arguments(kind: initrd.Kind, crypt: Crypt) -> str:
    """The kernel's command line: as a person would write it for such a machine."""
    return f"{BOOT_ARGUMENTS} {LUKS_ARGUMENTS if (kind, crypt) == ('dracut', 'luks') else ''}"


def kernel() -> Path:
    """The kernel that all of them boot."""
    return next((image.root() / "boot").glob("vmlinuz-*"))


def root_disk() -> Path:
    """The root: ext4, with this checkout and its units installed. Never to be written to. Raises image.Unavailable."""
    name = f"guest-root-{image.key(_digest(*image.OURS), image.root().name)}"
    _forget_older("guest-root-", name)
    return image.cached(name, _make_root)


def initramfs(kind: initrd.Kind, crypt: Crypt) -> Path:
    """The initrd of a machine whose agents' disk is `crypt`, made by its own program from the product's glue."""
    made_from = _digest("initrd", "persist/units", "persist/install.py")
    name = f"guest-{kind}-{crypt}-{image.key(made_from, image.root().name)}"
    _forget_older(f"guest-{kind}-{crypt}-", name)

    def make(target: Path) -> None:
        with tree(kind, crypt) as root:
            build(root, kind, "/boot/made.img", luks=crypt == "luks")
            shutil.copyfile(root / "boot/made.img", target)

    return image.cached(name, make)


_OWN = Path(__file__).read_bytes()  # as it was read: somebody may be changing it


def _digest(*packages: str) -> str:
    """Of all files that a build takes from this checkout, this module among them."""
    digest = hashlib.sha256(_OWN)
    for package in packages:
        place = image.CHECKOUT / package
        for file in [place] if place.is_file() else sorted(place.rglob("*")):
            if file.is_file() and file.suffix != ".pyc":
                digest.update(f"{file.relative_to(image.CHECKOUT)} {file.stat().st_mode:o}\n".encode())
                digest.update(file.read_bytes())
    return digest.hexdigest()


def _forget_older(prefix: str, name: str) -> None:
    """At most three of a kind stay in the cache: each change of the checkout makes another one."""
    found = [path for path in image.cache().glob(f"{prefix}*") if path.name != name]
    found.sort(key=lambda path: path.stat().st_mtime)
    for path in found[:-2]:
        path.unlink(missing_ok=True)  # a machine that still runs on it has it open


# ---------------------------------------------------------------- the tree


@contextlib.contextmanager
def tree(kind: initrd.Kind = "dracut", crypt: Crypt = "plain") -> Iterator[Path]:
    """A root tree that may be written to: Debian, this checkout, its units and glue, the files of the tests."""
    for left in image.cache().glob(".tree-*"):  # by a process that was killed
        if time.time() - left.stat().st_mtime > HOUR:
            shutil.rmtree(left, ignore_errors=True)
    scratch = Path(tempfile.mkdtemp(prefix=".tree-", dir=image.cache()))
    try:
        with overlay(image.root(), scratch) as root:
            image.install(root)
            _furnish(root, kind, crypt)
            yield root
    finally:
        shutil.rmtree(scratch)


@contextlib.contextmanager
def overlay(lower: Path, scratch: Path) -> Iterator[Path]:
    """`lower`, with what is written to it in `scratch`."""
    for name in ("upper", "work", "root"):
        (scratch / name).mkdir()
    root = scratch / "root"
    options = f"lowerdir={lower},upperdir={scratch}/upper,workdir={scratch}/work"
    town_kernel.mount("overlay", str(root), "overlay", 0, options)
    try:
        yield root
    finally:
        town_kernel.umount(str(root), town_kernel.MNT_DETACH)


def within(root: Path, *argv: str) -> str:
    """Run a program in the tree, with /proc, /sys, /dev and an empty /run of its own; what it wrote."""
    script = (
        'cd "$1" && mount -t proc proc proc && mount -t sysfs -o ro sys sys && mount --rbind /dev dev &&'
        ' mount -t tmpfs run run && mount -t tmpfs tmp var/tmp && shift && exec chroot . "$@"'
    )
    done = subprocess.run(
        ["unshare", "--mount", "--propagation=private", "sh", "-c", script, "sh", str(root), *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"},
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"{argv[0]} ended with status {done.returncode}:\n{done.stdout.decode()[-4000:]}"
    return done.stdout.decode()


def _furnish(root: Path, kind: initrd.Kind, crypt: Crypt) -> None:
    for name, text in FILES.items():
        _write(root / name, text)
    for name in MASKED:
        (root / "etc/systemd/system" / name).unlink(missing_ok=True)
        (root / "etc/systemd/system" / name).symlink_to("/dev/null")
    for name in GENERATORS:
        (root / "etc/systemd/system-generators").mkdir(exist_ok=True)
        (root / f"etc/systemd/system-generators/systemd-{name}-generator").symlink_to("/dev/null")
    for file, line in (("passwd", f"ada:x:{ADA}:{ADA}::/agents/ada:/bin/sh"), ("group", f"ada:x:{ADA}:")):
        with (root / "etc" / file).open("a") as table:
            table.write(line + "\n")
    (root / "persist").mkdir(mode=0o711)
    _settings_of_makers(root)
    if crypt == "luks":
        _with_luks(root)
    within(root, "persist", "install", "--initrd", kind)
    for name in ("nuketown-homes.service", "nuketown-sweep.service", "nuketown-agent@ada.target"):
        # These boots are about the rollback, and end with a blank @agents: what starts agents is proved without QEMU.
        (root / "etc/systemd/system/multi-user.target.wants" / name).unlink()


def _settings_of_makers(root: Path) -> None:
    """Small and quick: only the drivers of the virtual machine, and nothing compressed that an emulator must unpack."""
    folder = root / "etc/initramfs-tools"
    settings = (folder / "initramfs.conf").read_text()
    _write(folder / "initramfs.conf", settings.replace("MODULES=most", "MODULES=list"))
    _write(folder / "modules", "".join(f"{name}\n" for name in DRIVERS))


def usual(root: Path) -> None:
    """Undo that: what Debian takes in by itself."""
    folder = root / "etc/initramfs-tools"
    _write(folder / "initramfs.conf", (folder / "initramfs.conf").read_text().replace("MODULES=list", "MODULES=most"))
    _write(folder / "modules", "")
    (root / "etc/dracut.conf.d/quick.conf").unlink()


def _with_luks(root: Path) -> None:
    """As docs/boot.md tells a person to do it."""
    _write(root / "etc/nuketown/disk.key", KEY)
    (root / "etc/nuketown/disk.key").chmod(0o400)
    _write(
        root / "etc/crypttab",
        f"agents UUID={LUKS_UUID} /etc/nuketown/disk.key luks,nofail,initramfs,x-systemd.device-timeout={WAIT}s\n",
    )
    with (root / "etc/cryptsetup-initramfs/conf-hook").open("a") as conf:
        conf.write("KEYFILE_PATTERN=/etc/nuketown/*.key\n")


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.unlink(missing_ok=True)
    file.write_text(text)
    file.chmod(0o644)


def build(root: Path, kind: initrd.Kind, target: str, *, luks: bool = False, compress: str = "none") -> str:
    """Let the tree's own program make an initrd at `target` in it. Returns what the program said."""
    (version,) = (path.name for path in (root / "lib/modules").iterdir())
    match kind:
        case "initramfs-tools":
            settings = (root / "etc/initramfs-tools/initramfs.conf").read_text()
            _write(root / "etc/initramfs-tools/initramfs.conf", re.sub("(?m)^COMPRESS=.*", "COMPRESS=zstd", settings))
            return within(root, "mkinitramfs", "-o", target, version)
        case "dracut":
            extra = ("--install", "/etc/nuketown/disk.key") if luks else ()
            drivers = " ".join(DRIVERS)
            packed = "--zstd" if compress == "zstd" else "--no-compress"
            return within(
                *(root, "dracut", "--quiet", "--force", "--no-hostonly", "--reproducible", packed, *extra),
                *("--drivers", drivers, target, version),
            )


# ---------------------------------------------------------------- disks


def _make_root(target: Path) -> None:
    with tree() as root:
        with target.open("wb") as file:
            file.truncate(900 << 20)
        # -O ^…: what a root does not need and mkfs takes time for.
        subprocess.run(
            ["mkfs.ext4", "-q", "-F", "-U", ROOT_UUID, "-O", "^has_journal", "-d", str(root), str(target)],
            check=True,
            capture_output=True,
        )
