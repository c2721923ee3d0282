"""Late boot for real: PID 1, units and mounts of a Debian tree in systemd-nspawn, a second each. No udev, no initrd.

The tree is an overlay of a test's own; the host's /run and cgroups are covered, so nothing is registered anywhere.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from town import kernel

TIMEOUT = 60
_REPORT = """\
[Unit]
After=multi-user.target {after}
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'bash /report/script >/report/out 2>&1; systemctl exit 0'
[Install]
WantedBy=multi-user.target
"""


@dataclass(frozen=True)
class Booted:
    """One boot: what stood on the console, and what the script said, once everything had started or failed."""

    console: str
    said: str


@contextmanager
def overlay(lower: list[Path], at: Path) -> Iterator[Path]:
    """A tree that may be changed: `lower` (the first on top) stays as it is, what is changed lies in at/upper."""
    for name in ("upper", "work", "tree"):
        (at / name).mkdir(parents=True, exist_ok=True)
    options = f"lowerdir={':'.join(map(str, lower))},upperdir={at}/upper,workdir={at}/work"
    kernel.mount("overlay", str(at / "tree"), "overlay", 0, options)
    try:
        yield at / "tree"
    finally:
        kernel.umount(str(at / "tree"), kernel.MNT_DETACH)


def unit(tree: Path, name: str, text: str) -> None:
    """A unit of the test's own, enabled as its [Install] section says."""
    units = tree / "etc/systemd/system"
    (units / name).write_text(text)
    for line in text.splitlines():
        key, _, value = line.partition("=")
        if key in ("WantedBy", "RequiredBy"):
            folder = units / f"{value}.{'wants' if key == 'WantedBy' else 'requires'}"
            folder.mkdir(exist_ok=True)
            (folder / name).unlink(missing_ok=True)  # of the boot before
            (folder / name).symlink_to(f"/etc/systemd/system/{name}")


def boot(
    tree: Path, script: str, at: Path, *, after: str, devices: Mapping[str, str] | None = None, seconds: float = TIMEOUT
) -> Booted:
    """Boot the tree to multi-user.target, run a shell script there once the units in `after` are done, and halt."""
    report = at / "report"
    report.mkdir(exist_ok=True)
    (report / "script").write_text(script)
    (report / "out").unlink(missing_ok=True)
    unit(tree, "report.service", _REPORT.format(after=after))
    binds = [f"--bind={source}:{target}" for source, target in (devices or {}).items()]
    argv = ["systemd-nspawn", "--quiet", "--boot", f"--directory={tree}", f"--machine=nuketown-{os.getpid()}",
            "--register=no", "--keep-unit", "--console=read-only", "--link-journal=no",
            # A machine allows it to root, a container does not: persist tidy works by file handles.
            "--system-call-filter=open_by_handle_at", f"--bind={report}:/report", *binds]  # fmt: skip
    console = _console([sys.executable, "-c", _PRIVATE, *argv], seconds)
    out = report / "out"
    assert out.exists(), console
    return Booted(console, out.read_text())


def _console(argv: list[str], seconds: float) -> str:
    """What the machine wrote to its console until it halted, or was stopped because it did not."""
    with subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=Path(__file__).parents[2]
    ) as machine:
        late = False
        try:
            said, _ = machine.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            machine.kill()  # and with nspawn goes all that it started
            said, _ = machine.communicate()
            late = True
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", said.decode("utf-8", "replace"))
    assert not late, f"it did not halt within {seconds} s: {text}"
    return text


# In a process of its own, which nspawn then replaces: a /run and a cgroup2 mount that nothing else sees, and a cgroup
# below which no other machine is: each would remove the other's (nspawn calls both "payload").
_PRIVATE = """
import os, sys
from pathlib import Path
from town import kernel, mounts
kernel.unshare(kernel.CLONE_NEWNS)
kernel.mount("none", "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
kernel.mount("tmpfs", "/run", "tmpfs", 0, "mode=0755")
top = Path("/sys/fs/cgroup")
for mount in [*mounts.below(top), *filter(None, [mounts.at(top)])]:
    kernel.umount(os.fsdecode(mount.target), kernel.MNT_DETACH)
kernel.mount("cgroup2", str(top), "cgroup2", 0)
for left in top.glob("nuketown-*"):
    if not os.path.exists(f"/proc/{left.name.removeprefix('nuketown-')}"):  # of a machine that is off
        for folder, _, _ in os.walk(left, topdown=False):
            try:
                os.rmdir(folder)
            except OSError:
                pass  # another test does it, too
own = top / f"nuketown-{os.getpid()}"
own.mkdir()
(own / "cgroup.procs").write_text("0")
os.execvp(sys.argv[1], sys.argv[1:])
"""
