"""A machine of our own inside this one: private mounts, processes, network and host name, and a root of its own.

Nothing in it can outlive it: the kernel takes every mount, loop device and process away when its first process ends,
however it ends. What the real machine has is seen read-only; /etc, /usr, /run, /tmp and what a town has are the demo's,
and what a town of the real machine left in them is not seen.
"""

import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType

from demo import forgotten
from town import kernel, process

FRESH = {"tmp": "1777", "run": "0755", "var/tmp": "1777", "dev/shm": "1777"}  # the demo's own, empty, with this mode
# What a town of this machine may have at its root, and what the demo, the benchmarks and the README's test make there.
_TOWN = {"agents", "persist", "backup", "josh", "vega", "images", "look", "town", "second", "mnt-top", "mnt-readme"}
LEFT_OUT = {*_TOWN, ".own", "proc", "etc", "tmp", "run", "lost+found"}
WRITABLE = {"dev", "sys"}
_NAMESPACES = kernel.CLONE_NEWNS | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS | kernel.CLONE_NEWNET


def run(story: Callable[[], int], checkout: Path) -> int:
    """Run `story` on such a machine and return its status. SIGINT, SIGTERM and SIGHUP end all of it at once."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    kernel.unshare(kernel.CLONE_NEWPID)  # for the child: pid 1, with whose end all processes end
    child = os.fork()
    if child == 0:
        _become(story, checkout)
    _end_with_us(child)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


_REFUSED = "demo: error: this machine does not allow what the demo needs (namespaces, mounts; no chroot)"
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def _end_with_us(child: int) -> None:
    def end(number: int, _: FrameType | None) -> None:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)  # its namespaces are taken apart before this returns
        raise SystemExit(128 + number)

    for number in _ENDING:
        signal.signal(number, end)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)


def _become(story: Callable[[], int], checkout: Path) -> None:
    """The first process of the new machine; never returns."""
    status = 1
    try:
        kernel.die_with_parent(signal.SIGKILL)
        for number in _ENDING:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
        os.umask(0o022)  # whatever root's own is: homes and mount points here are entered by agents
        try:
            _own_root(checkout)
        except OSError as error:
            raise SystemExit(f"{_REFUSED}: {error}") from error
        status = story()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # nobody listens any more
    except SystemExit as refused:
        print(refused.code, file=sys.stderr)
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _own_root(checkout: Path) -> None:
    kernel.unshare(_NAMESPACES)
    kernel.mount("none", "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
    ours = os.open(checkout, os.O_PATH)  # before its path may be covered
    root = Path("/tmp")  # noqa: S108 - there on every machine: nothing has to be made on it, so nothing can be left
    kernel.mount("tmpfs", str(root), "tmpfs", 0, "mode=0755")
    for name in sorted(set(os.listdir("/")) - LEFT_OUT):
        _show(name, root)
    for name in ("usr", "var/lib"):  # `persist install` puts glue there, `identity host init` a key
        _own(root, name)
    process.run(["cp", "-a", "/etc", str(root)])
    forgotten.forget(root, _TOWN)
    (root / "proc").mkdir()
    kernel.mount("proc", str(root / "proc"), "proc", 0)
    for name, mode in FRESH.items():
        _fresh(root / name, mode)
    if not (root / checkout.relative_to("/") / "pyproject.toml").exists():  # it lay below a directory that is fresh now
        _bind(ours, root / checkout.relative_to("/"))
    os.close(ours)
    old = root / ".old"
    old.mkdir()
    kernel.pivot_root(str(root), str(old))
    os.chdir("/")
    kernel.umount("/.old", kernel.MNT_DETACH)
    Path("/.old").rmdir()


def _show(name: str, root: Path) -> None:
    """The machine's /name at the same place of the new root, read-only."""
    source, target = Path("/", name), root / name
    if source.is_symlink():
        target.symlink_to(source.readlink())
    elif source.is_dir():
        fd = os.open(source, os.O_PATH)
        _bind(fd, target, read_only=name not in WRITABLE)
        os.close(fd)


def _own(root: Path, name: str) -> None:
    """A directory of the machine that can be written, in memory. Without overlayfs it stays as it is."""
    above = root / ".own" / name
    (above / "upper").mkdir(parents=True, mode=0o755)
    (above / "work").mkdir()
    data = f"lowerdir=/{name},upperdir={above}/upper,workdir={above}/work"
    with suppress(OSError):  # a kernel without overlayfs
        kernel.mount("overlay", str(root / name), "overlay", 0, data)


def _bind(source: int, target: Path, *, read_only: bool = True) -> None:
    """What `source` has open, with all that is mounted below it, at `target`."""
    target.mkdir(parents=True, exist_ok=True)
    flags = kernel.OPEN_TREE_CLONE | kernel.AT_EMPTY_PATH | kernel.AT_RECURSIVE
    tree = kernel.open_tree(source, "", flags)
    if read_only:
        kernel.mount_setattr(tree, add=kernel.MOUNT_RDONLY, recursive=True)
    fd = os.open(target, os.O_PATH)
    kernel.move_mount(tree, fd)
    os.close(fd)
    os.close(tree)


def _fresh(target: Path, mode: str) -> None:
    if target.is_symlink() or target.parent.is_symlink():  # /var/tmp -> /tmp: fresh already
        return
    if not target.is_dir():
        target.mkdir()
    kernel.mount("tmpfs", str(target), "tmpfs", kernel.MOUNT_NOSUID | kernel.MOUNT_NODEV, f"mode={mode}")
