"""The two machines of the story: a btrfs image on a loop device each, powered on and cut off."""

import os
import re
import signal
import socket
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path

import initrd
from demo import loopback, manifest
from demo.teller import NotSo, Teller
from town import kernel, process

_SUPERBLOCK, _GENERATION = 0x10000, 0x48  # struct btrfs_super_block: u64 generation
SIZE = 512 << 20


@dataclass
class Machine:
    """One machine: everything of it lies below `root` ("" for the first), its disk is `image`."""

    name: str
    root: str
    image: Path
    tell: Teller
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    device: str = ""
    loop: int = -1

    @property
    def spec(self) -> str:
        """The machine's town.toml."""
        return f"{self.root}/etc/nuketown/town.toml"

    def home(self, agent: str) -> Path:
        """An agent's home."""
        return Path(f"{self.root}/agents/{agent}")

    def power_on(self) -> None:
        """What the firmware does: the disk is there, /run is empty, nothing is mounted yet."""
        kernel.umount("/run", kernel.MNT_DETACH)
        kernel.mount("tmpfs", "/run", "tmpfs", kernel.MOUNT_NOSUID | kernel.MOUNT_NODEV, "mode=0755")
        socket.sethostname(self.name)
        self.device, self.loop = loopback.attach(self.image)

    def boot(self) -> None:
        """The boot up to the agents' homes: the initrd hook, the mounts, `persist restore`, `identity install`."""
        tell = self.tell
        hook = str(initrd.hook())
        where = [f"NUKETOWN_DEVICE=UUID={self.id}", "NUKETOWN_SUBVOLUME=@agents", "NUKETOWN_BLANK=@agents-blank"]
        path = "PATH=/usr/sbin:/usr/bin:/sbin:/bin"
        tell.run("env", "-i", path, *where, "sh", hook, typed="sh initrd/rollback.sh     (in the initrd)", show=3)
        self.mount("@agents", "agents")
        if not os.path.ismount(f"{self.root}/persist"):
            self.mount("@persist", "persist")
        tell.run("persist", *self._spec(), "restore", show=12)
        tell.run("identity", *self._spec(), "install", show=4)

    def mount(self, subvolume: str, name: str) -> None:
        """Mount one subvolume where the spec has it."""
        target = f"{self.root}/{name}"
        Path(target).mkdir(parents=True, exist_ok=True)
        options = f"subvol={subvolume},noatime,nosuid,nodev"
        self.tell.run("mount", "-t", "btrfs", "-o", options, self.device, target)

    def cut_power(self) -> None:
        """Lose everything that had not reached the disk: go on with a copy of the image as it was at one moment.

        The copy is what the platter held: no unmount, no sync. btrfs never overwrites what its superblock refers to,
        so a copy during which the superblock did not change is a state that a power cut leaves.
        """
        after = self.image.with_suffix(".after")
        while True:
            before = self._generation(self.image)
            process.run(["cp", "--sparse=always", self.image, after])
            if before == self._generation(self.image) == self._generation(after):
                break
        self._off()
        after.rename(self.image)

    def power_off(self) -> None:
        """An orderly end."""
        self._off()

    def _off(self) -> None:
        os.kill(-1, signal.SIGKILL)  # every process but this one, which is pid 1 here
        for target in (f"{self.root}/agents", f"{self.root}/persist"):
            process.run(["umount", "--recursive", "--lazy", target])
        os.close(self.loop)
        self._wait_until_off()

    def _wait_until_off(self) -> None:
        """Wait for the killed processes to be gone, and with them the last use of the disk."""
        file = Path(f"/sys/block/{Path(self.device).name}/loop/backing_file")
        deadline = time.monotonic() + 20
        while file.exists() and self.image.name in file.read_text():
            if time.monotonic() > deadline:
                raise NotSo(f"{self.device} is still in use 20 s after the power was cut")
            time.sleep(0.01)

    def _generation(self, image: Path) -> bytes:
        with image.open("rb") as file:
            file.seek(_SUPERBLOCK + _GENERATION)
            return file.read(8)

    def _spec(self) -> list[str]:
        return ["--spec", self.spec] if self.root else []

    def persist(self, *words: str, show: int = 12) -> str:
        """One `persist` command on this machine; what it printed."""
        return self.tell.run("persist", *self._spec(), *words, show=show).out.decode()

    def identity(self, *words: str, show: int = 12) -> str:
        """One `identity` command on this machine; what it printed."""
        return self.tell.run("identity", *self._spec(), *words, show=show).out.decode()

    def kept(self, agent: str) -> str:
        """The newest old home of an agent, as `persist homes` names it."""
        names = re.findall(rf"\b{agent}@\S+", self.persist("homes", agent))
        self.tell.fact(f"`persist homes` lists an old home of {agent}", names)
        return str(names[0])

    def declared(self, agent: str, *paths: str) -> dict[str, object]:
        """Every fact of the agent's declared directories."""
        found: dict[str, object] = {}
        for path in paths:
            found |= {f"{path}/{name}": facts for name, facts in manifest.of(self.home(agent) / path).items()}
        return found
