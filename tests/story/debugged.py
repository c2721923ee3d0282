"""The machine of docs/debugging.md: a town with ada, booted, and what is typed there."""

import os
import subprocess
from pathlib import Path

from tests.story import sessions

UID = 1100
_MAKE = """
set -e
mkdir -p ~/.config/sops/age /etc/nuketown /agents /persist /mnt-top
age-keygen -o ~/.config/sops/age/keys.txt 2>/dev/null; chmod 0400 ~/.config/sops/age/keys.txt
host=$(identity host init)
mkfs.btrfs --quiet $DISK
mount -o subvolid=5 $DISK /mnt-top; btrfs --quiet subvolume create /mnt-top/@persist; umount /mnt-top
mount -o subvol=@persist,noatime,nosuid,nodev $DISK /persist
cat > /etc/nuketown/town.toml <<END
[town]
domain = "example.org"
store = "file:///backup/store"
human = { user = "root", name = "You", email = "you@example.org" }
recipients.humans = ["$(age-keygen -y ~/.config/sops/age/keys.txt)"]
recipients.hosts.this = "$host"
btrfs.device = "$DISK"
[agents.ada]
uid = UID
git.signing = false
persist = ["projects"]
END
useradd --uid UID --home-dir /agents/ada --no-create-home --shell /bin/bash ada
identity gen --all; persist init; persist init --store
mount -o subvol=@agents,noatime,nosuid,nodev $DISK /agents
"""
# What a shutdown and a boot do, without the units.
_TOOLS = """
boot() {
    persist rollback && persist rollback --confirm && mount -o subvol=@agents,noatime,nosuid,nodev $DISK /agents &&
    persist restore && persist sweep && identity install && persist account open ada
}
reboot() {
    { persist lost --record; persist release ada --stop; umount -R /agents
      cat /proc/sys/kernel/random/uuid >/run/boot-id; mount --bind /run/boot-id /proc/sys/kernel/random/boot_id
      rm -f /run/nuketown/rollback* /run/nuketown/open /run/nuketown/installed/*; boot; } >/run/booted 2>&1 ||
    { cat /run/booted; return 1; }
}
"""


def play(checkout: Path, disk: str, document: str) -> int:
    """Make the machine, type all of the document; how many commands it was, on standard output."""
    os.environ |= {"PATH": f"{checkout}/.venv/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/josh", "DISK": disk}
    made = subprocess.run(["bash", "-c", _MAKE.replace("UID", str(UID))], capture_output=True, text=True, check=False)
    first = _run("", "umount /agents; boot")
    if made.returncode or first[0]:
        print(made.stdout, made.stderr, first[1])
        return 1
    commands = sessions.typed(document)
    try:
        sessions.play(commands, _run)
    except sessions.Differs as differs:
        print(differs)
        return 1
    print(f"{len(commands)} commands")
    return 0


def _run(who: str, command: str) -> tuple[int, str]:
    home = "/agents/ada" if who else "/josh"
    environment = dict(os.environ) | {"HOME": home, "USER": who or "root", "LANG": "C.UTF-8", "COLUMNS": "120"}
    as_agent = {"user": UID, "group": UID, "extra_groups": []} if who else {}
    if command.endswith(" &"):
        subprocess.Popen(
            ["bash", "-c", f"exec {command.removesuffix(' &')}"], cwd=home, env=environment, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **as_agent,
        )  # fmt: skip
        return 0, ""
    done = subprocess.run(
        ["bash", "-c", f"{_TOOLS}\n{command}"], cwd=home, env=environment, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="surrogateescape", check=False, **as_agent,
    )  # fmt: skip
    return done.returncode, done.stdout
