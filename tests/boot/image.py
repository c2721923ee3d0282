"""A small Debian to boot: made once for a machine, kept in a cache outside the checkout, never changed afterwards.

`root()` is the tree; `install()` puts this checkout into an overlay on it (tests/boot/guest.py) or a copy of it.
"""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
SUITE = "bookworm"
PACKAGES = (
    # the machine
    "systemd-sysv",
    "udev",
    "dbus",
    "kmod",
    "login",
    "passwd",
    "util-linux",
    "mount",
    "e2fsprogs",
    "libpam-systemd",
    # what nuketown needs
    "python3",
    "libbtrfsutil1",
    "btrfs-progs",
    # what agents sign with, and what they sign
    "gpg",
    "gpg-agent",
    "git",
    "openssh-client",
    # the boot: dracut-core lives beside initramfs-tools, dracut does not
    "linux-image-cloud-amd64",
    "dracut-core",
    "initramfs-tools",
    "busybox",
    "zstd",
    "cpio",
    "dmsetup",
    "cryptsetup-bin",
    "cryptsetup-initramfs",
)
LEFT_OUT = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*")
FORMAT = 1  # of the tree: raised when this module makes another one from the same packages
PYTHON = "usr/local/lib/python3.11/dist-packages"  # Debian's python3 looks there by itself
OURS = ("town", "persist", "identity", "initrd")
COMMANDS = {"persist": "persist.cli", "identity": "identity.cli"}
TIMEOUT = 900.0


class Unavailable(Exception):
    """The packages cannot be had on this machine now: the one reason for which a boot test may be skipped."""


def cache() -> Path:
    """Where trees and disks are kept: $NUKETOWN_CACHE, else /var/cache/nuketown-tests."""
    place = Path(os.environ.get("NUKETOWN_CACHE", "/var/cache/nuketown-tests"))
    place.mkdir(parents=True, exist_ok=True, mode=0o755)
    return place


def key(*parts: str) -> str:
    """A short name for what was made from `parts`."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def cached(name: str, make: Callable[[Path], None]) -> Path:
    """cache()/name, made by `make(path)` when it is not there: whole or not at all, by one process at a time."""
    target = cache() / name
    with lock(name.rpartition("-")[0]):  # one lock for all of a kind: what follows the last dash is a hash
        if not target.exists():
            beside = target.with_name(f".making-{name}")
            _remove(beside)  # of a process that was killed: this one holds the lock
            try:
                make(beside)
                beside.rename(target)
            finally:
                _remove(beside)
    return target


def root() -> Path:
    """The tree of a Debian with all of PACKAGES; never to be changed. Raises Unavailable."""
    return cached(f"root-{key(str(FORMAT), SUITE, *PACKAGES, *LEFT_OUT)}", _bootstrap)


def install(tree: Path) -> None:
    """This checkout and what it depends on, into `tree`: `import persist` works there, and so does /usr/bin/persist."""
    packages = tree / PYTHON
    packages.mkdir(parents=True, exist_ok=True)
    for name in OURS:
        shutil.copytree(CHECKOUT / name, packages / name, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.pyc"))
    for source, name in _dependencies():
        (packages / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, packages / name)
    # Python is slow to start in a machine that is emulated: not slower than it must be.
    subprocess.run([sys.executable, "-m", "compileall", "-q", "-s", str(tree), "-p", "/", str(packages)], check=True)
    for name, module in COMMANDS.items():
        command = tree / "usr/bin" / name
        command.write_text(f"#!/usr/bin/python3\nimport sys\nfrom {module} import main\nsys.exit(main())\n")
        command.chmod(0o755)


def _dependencies() -> Iterator[tuple[Path, str]]:
    """Every file of every package that this checkout needs to run, and its name below site-packages."""
    wanted = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["dependencies"]
    for package in sorted(_needed(wanted, set())):
        distribution = metadata.distribution(package)
        for file in _files(distribution):
            place = Path(str(distribution.locate_file(file)))
            if ".." not in file.parts and file.suffix != ".pyc" and place.is_file():
                yield place, str(file)


def _files(distribution: metadata.Distribution) -> Iterable[Path]:
    """What a package put into site-packages, relative to it."""
    if distribution.read_text("RECORD") is not None:
        return map(Path, distribution.files or ())
    # Built by setuptools without a wheel: it names its modules only, and its metadata is not needed to run.
    folder = Path(str(distribution.locate_file("")))
    names = (distribution.read_text("top_level.txt") or "").split()
    return [
        file.relative_to(folder)
        for name in names
        for found in folder.glob(f"{name}*")
        for file in ([found] if found.is_file() else found.rglob("*"))
    ]


def _needed(requirements: Iterable[str], found: set[str]) -> set[str]:
    """The names of the packages that are required, without extras, and of all that those require: added to `found`."""
    for line in requirements:
        needed = re.match(r"[A-Za-z0-9._-]+", line)
        if needed and "extra ==" not in line and needed[0] not in found and _installed(needed[0]):
            found.add(needed[0])
            _needed(metadata.distribution(needed[0]).requires or (), found)
    return found


def _installed(name: str) -> bool:
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:  # for another system or another Python
        return False
    return True


@contextmanager
def lock(name: str) -> Iterator[None]:
    """The lock goes with the process that holds it: none is ever left behind."""
    with (cache() / f".lock-{name}").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


# ---------------------------------------------------------------- from packages


def _bootstrap(tree: Path) -> None:
    """Debian's packages, from where this machine itself gets them: nothing here names a host."""
    sources = _sources()
    done = subprocess.run(
        [
            "mmdebstrap",
            "--quiet",
            "--mode=root",
            "--variant=minbase",
            "--format=directory",
            *(f"--dpkgopt=path-exclude={place}" for place in LEFT_OUT),
            *(f"--aptopt={line}" for line in _apt_options()),
            f"--include={','.join(PACKAGES)}",
            SUITE,
            str(tree),
            "-",
        ],
        input=sources,
        text=True,
        capture_output=True,
        env=os.environ | {"INITRD": "No"},  # the kernel's package makes none: the tests make their own
        timeout=TIMEOUT,
        check=False,
    )
    if done.returncode:
        words = " / ".join(done.stderr.strip().splitlines()[-4:])
        if _unreachable(done.stderr):
            raise Unavailable(f"the Debian packages of the boot tests cannot be fetched: {words}")
        raise RuntimeError(f"mmdebstrap failed with status {done.returncode}: {words}")


def _unreachable(words: str) -> bool:
    signs = ("Failed to fetch", "Could not resolve", "Temporary failure", "Unable to connect", "Could not connect")
    return any(sign in words for sign in signs)


def _sources() -> str:
    """This machine's own apt sources for SUITE of Debian, in the format that they have. Raises Unavailable."""
    places = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]
    stanzas: list[str] = []
    for place in places:
        if place.suffix == ".sources":
            stanzas += [text for text in re.split(r"\n\s*\n", place.read_text()) if _wanted_stanza(text)]
        elif place.suffix == ".list" and place.is_file():
            stanzas += [text for line in place.read_text().splitlines() if (text := _as_stanza(line))]
    if not stanzas:
        raise Unavailable(f"this machine's apt has no source for Debian {SUITE}: the boot tests have no packages")
    return "\n\n".join(stanza.strip() for stanza in stanzas) + "\n"


def _wanted_stanza(text: str) -> bool:
    fields = dict(re.findall(r"(?m)^([A-Za-z-]+):[ \t]*(.*)$", text))
    return (
        "deb" in fields.get("Types", "").split()
        and fields.get("Enabled", "yes").strip().lower() != "no"
        and "main" in fields.get("Components", "").split()
        and any(_ours(suite) for suite in fields.get("Suites", "").split())
    )


def _as_stanza(line: str) -> str:
    """A line of the one-line format as a deb822 stanza; empty when it is not one of SUITE."""
    found = re.match(r"deb\s+(?:\[([^]]*)\]\s+)?(\S+)\s+(\S+)\s+(.+)$", line.split("#", maxsplit=1)[0].strip())
    if not found or not _ours(found[3]) or "main" not in found[4].split():
        return ""
    signed = re.search(r"signed-by=(\S+)", found[1] or "")
    stanza = f"Types: deb\nURIs: {found[2]}\nSuites: {found[3]}\nComponents: main"
    return stanza + (f"\nSigned-By: {signed[1]}" if signed else "")


def _ours(suite: str) -> bool:
    return suite == SUITE or suite.startswith(f"{SUITE}-")


def _apt_options() -> list[str]:
    """What this machine's apt was told about the way to its sources: proxies, certificates, clocks."""
    dump = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=True).stdout
    wanted = re.compile(r'(Acquire::(https?|ftp|Check|Force|Retries|Queue|Send)[^ ]*) "(?!";)')
    return [line for line in dump.splitlines() if wanted.match(line)]
