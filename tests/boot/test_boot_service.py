"""One boot from an initrd's rollback to an agent that works, and back down again, in QEMU."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from demo import loopback
from identity import cli as identity
from tests.boot import agentsdisk, flavours, guest, qemu, services, story
from town import files, kernel, process

pytestmark = [pytest.mark.root, pytest.mark.timeout(900)]

SPEC = f"""\
[town]
domain = "guest.local"
agents_dir = "/agents"
persist_dir = "/persist"
store = "{services.STORE}"
recipients = {{ humans = ["RECIPIENT"] }}
[town.btrfs]
device = "{agentsdisk.UUID}"
wait = "{guest.WAIT}s"
[agents.ada]
uid = {guest.ADA}
git = {{ signing = false }}
persist = ["mem", {{ path = "data", via = "store" }}]
"""


@contextmanager
def mounted(image: Path) -> Iterator[Path]:
    """The root of the machine, on this one, while it is off."""
    at = image.with_suffix(".root")
    at.mkdir(exist_ok=True)
    with loopback.attached(image) as device:
        kernel.mount(device, str(at), "ext4", 0, "")
        try:
            yield at
        finally:
            kernel.umount(str(at), 0)


def furnish(root: Path, flavour: story.Flavour) -> None:
    """A town with a store, and all its units enabled, where the other boots have them cut down."""
    key = root / "var/lib/nuketown/age.key"
    for place in (key.parent, root / "srv/store"):
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
    process.run(["age-keygen", "-o", key])
    recipient = process.run(["age-keygen", "-y", key]).out.decode().strip()
    spec = root / "etc/nuketown/town.toml"
    spec.write_text(SPEC.replace("RECIPIENT", recipient))
    assert identity.main(["--spec", str(spec), "gen", "ada"]) == 0
    guest.within(root, "persist", "init", "--store")
    guest.within(root, "persist", "install", "--initrd", flavour.kind)


def test_an_agent_is_there_after_the_rollback_and_its_last_words_are_sent(tmp_path: Path, debian: Path) -> None:
    flavour = story.Flavour(flavours.kind("service"), "plain", tmp_path)
    root = tmp_path / "root.img"
    subprocess.run(["cp", "--sparse=always", str(guest.root_disk()), str(root)], check=True)
    with mounted(root) as tree:
        furnish(tree, flavour)
    with flavour.top() as top, files.opened(files.open_beneath(top, "@agents")) as agents:
        files.write_beneath(agents, "of-yesterday", b"")
    with flavour.boot(disks=[qemu.Disk("root", root), qemu.Disk("agents", flavour.disk)]) as machine:
        comes_up(machine)
        says_its_last_words(machine)
        machine.power_off()
    with mounted(root) as tree:
        for path in ("data/last", "mem/last"):
            assert guest.within(tree, "persist", "get", "ada", path) == "shutdown\n"
    with flavour.top() as top, files.opened(files.open_beneath(top, "@agents-old")) as old:
        assert [path.name for path in Path(f"/proc/self/fd/{old}").glob("*/*")] == ["of-yesterday"]


def comes_up(machine: qemu.Machine) -> None:
    machine.login()
    # Already on its way, as multi-user.target wants it: each step is seconds of an emulated processor.
    machine.sh("systemctl start nuketown-agent@ada.target", seconds=300)
    units = "multi-user.target nuketown-rollback.service nuketown-mount.service nuketown-agent@ada.target"
    state = machine.sh(f"systemctl is-active {units}", check=False)
    assert state.split() == ["active"] * 4, f"{state}\n{machine.sh('journalctl -b -u nuketown*', check=False)}"
    assert machine.console().count("is blank and durable") == 1, "the hook ran once"
    assert machine.sh("ls -A /agents") == "ada\n"
    assert machine.sh("stat -c %U:%a /agents/ada /agents/ada/data") == "ada:700\nada:700\n"
    assert "/persist/agents/ada/mem" in machine.sh("findmnt --task 1 -no FSROOT /agents/ada/mem")
    assert machine.sh("persist account") == "ada  open\n"


def says_its_last_words(machine: qemu.Machine) -> None:
    work = "trap 'echo shutdown | tee data/last >mem/last; exit' TERM; touch data/ready; while :; do sleep 0.2; done"
    # In the agent's own slice, as all that it runs: that ends with its target.
    place = f"--slice=user-{guest.ADA}.slice --uid=ada --working-directory=/agents/ada"
    machine.sh(f'systemd-run --quiet --unit=work {place} sh -c "{work}"')
    ready = "[ -e /agents/ada/data/ready ]"
    waits = f"for _ in $(seq 100); do {ready} && break; sleep 0.2; done"
    machine.sh(f"{waits}; {ready} || {{ journalctl -b -u work.service; systemctl list-jobs; false; }}")
