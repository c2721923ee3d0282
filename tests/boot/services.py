"""A town on a small Debian, to be booted in systemd-nspawn: its agents, a human, its store, what a test asks in there.

The disk is a btrfs on a loop device with @agents and @persist; there is no initrd, so nuketown-rollback.service rolls
back itself. What the machine did until its very end stands in its journal, which is read from outside.
"""

import json
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from demo import loopback
from identity import cli as identity
from persist import cli as persist
from tests.boot import guest, nspawn
from tests.machine import rollbackdisk
from town import btrfs, process

ADA, VOX, HUMAN = 51100, 51101, 1000
STORE = "file:///srv/store"
# What the specs of `town` begin with: agents follow. {recipient} and {uuid} are of the machine.
HEAD = """
[town]
agents_dir = "/agents"
persist_dir = "/persist"
recipients = { humans = ["{recipient}"] }
[town.btrfs]
device = "{uuid}"
wait = "5s"
"""
STORED = f'{HEAD}[town.sync]\nevery = "1h"\n'.replace("[town]", f'[town]\nstore = "{STORE}"')
# Every program that lets a user in asks PAM under a name of its own; those of Debian's packages that are not installed
# here include what these do.
SERVICES = ("login", "su", "su-l", "systemd-user", "cron", "atd", "sshd", "chsh")
_INCLUDES = "@include common-auth\nsession required pam_loginuid.so\n@include common-account\n@include common-session\n"
_PAM = """\
import ctypes, sys
class Talk(ctypes.Structure):
    _fields_ = [("ask", ctypes.c_void_p), ("data", ctypes.c_void_p)]
pam = ctypes.CDLL("libpam.so.0")
pam.pam_acct_mgmt.argtypes = [ctypes.c_void_p, ctypes.c_int]
label, services, *users = sys.argv[1:]
for user in users:
    for service in services.split():
        handle = ctypes.c_void_p()
        assert pam.pam_start(service.encode(), user.encode(), ctypes.byref(Talk()), ctypes.byref(handle)) == 0
        print(f"{label}.{user}.{service}", "in" if pam.pam_acct_mgmt(handle, 0) == 0 else "out")
"""
# For the scripts: each line that they print is a name and a value.
TOOLS = f"""
exec 2>&1
try() {{ if timeout 60 "${{@:2}}" >/run/said 2>&1; then echo "$1 in"; else echo "$1 out"; fi; }}
asked() {{ python3 /usr/local/lib/pam.py "$1" "{" ".join(SERVICES)}" "${{@:2}}"; }}
who() {{  # LABEL USER...: who may log in; asked of PAM, and tried
    asked "$@"
    for user in "${{@:2}}"; do
        try "$1.$user.by-su" su "$user" -c true
        try "$1.$user.by-machinectl" systemd-run --quiet --wait --collect -p "User=$user" -p PAMName=login true
    done
}}
is() {{ for unit in "${{@:2}}"; do echo "$1.$unit $(systemctl show -P ActiveState "$unit")"; done; }}
as() {{ runuser -u "$1" -- "${{@:2}}"; }}
until_() {{ for _ in $(seq 300); do "$@" && return; sleep 0.1; done; echo "never: $*"; }}
"""


class Said(dict[str, str]):
    """What a boot's script said, by name; `said` is the whole of it, `console` what stood there."""

    def lets(self, label: str, user: str) -> dict[str, bool]:
        """Whether the user was let in, by the way in."""
        return {way: value == "in" for way, value in self.states(f"{label}.{user}").items()}

    def states(self, label: str) -> dict[str, str]:
        """The state of each unit that was asked for: all that was said under that label."""
        return {name.removeprefix(f"{label}."): value for name, value in self.items() if name.startswith(f"{label}.")}


@dataclass(frozen=True)
class Town:
    """A machine that was set up, before a boot of it."""

    tree: Path
    at: Path
    device: str
    top: int
    agents: Mapping[str, int] = field(default_factory=lambda: {"ada": ADA, "vox": VOX})

    def drop_in(self, unit: str, text: str) -> None:
        """What the test wants otherwise of one of the units, beside what is installed."""
        folder = self.tree / f"etc/systemd/system/{unit}.d"
        folder.mkdir(exist_ok=True)
        (folder / "test.conf").write_text(text)

    def hold(self, unit: str) -> str:
        """Make a unit wait before it does anything; the command that lets it go on."""
        word = f"/run/go-{unit.partition('.')[0]}"
        self.drop_in(unit, f"[Service]\nExecStartPre=/bin/sh -c 'until [ -e {word} ]; do sleep 0.1; done'\n")
        return f"touch {word}\n"

    def boot(self, script: str, *, seconds: float = 120) -> Said:
        """Boot, run a script when the human could log in, halt; what it said, as name and value."""
        try:
            booted = nspawn.boot(
                self.tree, TOOLS + script, self.at, after="", devices={self.device: self.device}, seconds=seconds
            )
        except AssertionError as error:
            said = self.at / "report/out"
            raise AssertionError(f"{error}\n{said.read_text() if said.exists() else ''}") from error
        pairs = [line.partition(" ") for line in booted.said.splitlines()]
        return Said({name: value for name, _, value in pairs}, said=booted.said, console=booted.console)

    def inside(self, *argv: str) -> str:
        """Run a program in the tree while the machine is off."""
        return guest.within(self.tree, *argv)

    def journal(self, *words: str) -> list[dict[str, str]]:
        """What the machine wrote into its journal in its last boot, from the first line to the last."""
        folder = next((self.tree / "var/log/journal").iterdir())
        argv = ["journalctl", f"--directory={folder}", "--boot", "--output=json", "--no-pager", *words]
        done = subprocess.run(argv, capture_output=True, text=True, check=True)
        return [json.loads(line) for line in done.stdout.splitlines()]

    def stops(self) -> list[str]:
        """The units whose stop ended, in that order, in the last boot."""
        return [line["UNIT"] for line in self.journal("_PID=1", "JOB_TYPE=stop") if "JOB_RESULT" in line]


@contextmanager
def town(
    layers: list[Path], at: Path, spec: str, agents: Mapping[str, int] | None = None, *, known: Sequence[str] = ()
) -> Iterator[Town]:
    """A machine with this spec, installed; {recipient} and {uuid} in it stand for what the machine has.

    `known`: the agents that have secrets, when these are not all.
    """
    with _disk(at / "disk.img") as (device, top), nspawn.overlay(layers, at / "overlay") as tree:
        made = Town(tree, at, device, top, agents or {"ada": ADA, "vox": VOX})
        _furnish(made)
        file = tree / "etc/nuketown/town.toml"
        file.write_text(_head(made, spec))
        assert identity.main(["--spec", str(file), "gen", *(known or made.agents)]) == 0
        assert persist.main(["--spec", str(file), "install", "--root", str(tree), "--initrd", "none"]) == 0
        yield made


@contextmanager
def _disk(image: Path) -> Iterator[tuple[str, int]]:
    with image.open("wb") as file:
        file.truncate(256 << 20)
    process.run(["mkfs.btrfs", "--quiet", "--metadata", "single", image])
    with loopback.attached(image) as device, btrfs.top_level(device) as top:
        os.mkdir("@agents-old", 0o700, dir_fd=top)
        os.close(btrfs.create(top, "@persist"))
        rollbackdisk.lay_out(top)
        yield device, top


def _head(made: Town, spec: str) -> str:
    recipient = process.run(["age-keygen", "-y", made.tree / "var/lib/nuketown/age.key"]).out.decode().strip()
    uuid = process.run(["blkid", "-p", "-s", "UUID", "-o", "value", made.device]).out.decode().strip()
    return spec.replace("{recipient}", recipient).replace("{uuid}", uuid)


def _furnish(made: Town) -> None:
    tree, key = made.tree, made.tree / "var/lib/nuketown/age.key"
    for name in ("agents", "persist", "srv/store", "etc/nuketown", "var/lib/nuketown", "var/log/journal"):
        (tree / name).mkdir(mode=0o755, parents=True, exist_ok=True)
    (tree / "srv/store").chmod(0o700)
    process.run(["age-keygen", "-o", key])
    for name in ("cron", "atd", "sshd"):
        (tree / "etc/pam.d" / name).write_text(_INCLUDES)
    (tree / "usr/local/lib/pam.py").write_text(_PAM)
    for name, uid in {**made.agents, "human": HUMAN}.items():
        home = "/home/human" if uid == HUMAN else f"/agents/{name}"
        _add(tree / "etc/passwd", f"{name}:x:{uid}:{uid}::{home}:/bin/sh")
        _add(tree / "etc/group", f"{name}:x:{uid}:")
        _add(tree / "etc/shadow", f"{name}:*:19000:0:99999:7:::")
    # As a line of /etc/fstab would make it, which systemd leaves out in a container.
    nspawn.unit(
        tree,
        "persist.mount",
        f"[Unit]\n[Mount]\nWhat={made.device}\nWhere=/persist\nType=btrfs\nOptions=subvol=@persist\n"
        "[Install]\nWantedBy=local-fs.target\n",
    )


def _add(table: Path, line: str) -> None:
    with table.open("a") as file:
        file.write(f"{line}\n")
