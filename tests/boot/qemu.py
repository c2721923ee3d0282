"""A machine in QEMU: one boot each, without KVM, a hard limit on everything, its console kept in a file.

The console is the first serial port. On the second one a root shell listens once multi-user.target is reached
(tests/boot/guest.py); `sh()` runs a line in it.
"""

import os
import re
import secrets
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

BOOT = 180.0  # s: 15 to 30 on an idle machine, and tests run side by side
LINE = 90.0


class Stuck(AssertionError):
    """The machine did not do what was waited for; the end of its console is in the message."""


@dataclass(frozen=True)
class Disk:
    """In the guest it is /dev/disk/by-id/virtio-<name>. What is written to a volatile one is lost."""

    name: str
    image: Path
    volatile: bool = False

    def arguments(self) -> list[str]:
        drive = f"file={self.image},format=raw,if=none,id={self.name},cache=unsafe"
        snapshot = ",snapshot=on" if self.volatile else ""
        return ["-drive", drive + snapshot, "-device", f"virtio-blk-pci,drive={self.name},serial={self.name}"]


@dataclass
class Machine:
    """A machine that runs. What its processes saw of time is the host's time: nothing is paused."""

    process: "subprocess.Popen[bytes]"
    log: Path
    socket: Path
    started: float = field(default_factory=time.monotonic)
    _shell: socket.socket | None = None
    _said: bytes = b""

    def console(self) -> str:
        """Everything that the console showed so far, colours removed."""
        text = self.log.read_bytes().decode(errors="replace").replace("\r", "")
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)

    def wait_for(self, pattern: str, seconds: float = BOOT) -> re.Match[str]:
        """Until the console shows it. Raises Stuck."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if found := re.search(pattern, self.console()):
                return found
            if self.process.poll() is not None:
                break
            time.sleep(0.1)
        raise self._stuck(f"the console never showed {pattern!r} within {seconds:.0f} s")

    def login(self, seconds: float = BOOT) -> None:
        """Until the shell of multi-user.target answers. Raises Stuck."""
        self._connect()
        self._until(b"SHELL-IS-HERE\n", seconds)

    def _connect(self) -> None:
        self._shell = socket.socket(socket.AF_UNIX)
        self._shell.connect(str(self.socket))

    def sh(self, line: str, *, check: bool = True, seconds: float = LINE) -> str:
        """Run a line of shell as root; what it said. Raises Stuck, and AssertionError for another status than 0."""
        assert self._shell is not None, "login() first"
        start, end = secrets.token_hex(8), secrets.token_hex(8)
        self._shell.sendall(f"echo {start}; {{ {line}\n}} </dev/null; echo {end} $?\n".encode())
        said = self._until(rf"(?m){end} \d+\n".encode(), seconds)
        out, _, status = said.partition(f"{start}\n".encode())[2].rpartition(end.encode())
        if check and int(status) != 0:
            raise AssertionError(f"status {int(status)} from {line!r}\n{out.decode()}\n{self._end_of_console()}")
        return out.decode()

    def kill(self) -> None:
        """The power cut: SIGKILL. What the guest's kernel did not hand to the disk is lost."""
        if self._shell is not None:
            self._shell.close()
        self.process.kill()
        self.process.wait()

    def hibernate(self, seconds: float = BOOT) -> None:
        """Write the memory to the swap and switch off. Raises Stuck."""
        assert self._shell is not None, "login() first"
        self._shell.sendall(b"echo disk >/sys/power/state\n")
        self.ended(seconds)

    def resumed(self, seconds: float = BOOT) -> None:
        """Until the shell of before answers, in a machine that resumes. Raises Stuck."""
        self._connect()
        end, word = time.monotonic() + seconds, secrets.token_hex(8)
        while True:  # what is sent before it listens again is lost, or arrives in part
            self._shell.sendall(f"\necho {word}\n".encode())
            try:
                self._until(rf"(?m)^{word}\n".encode(), 5)
                return
            except Stuck:
                if time.monotonic() > end or self.process.poll() is not None:
                    raise

    def power_off(self, seconds: float = LINE) -> None:
        """An orderly end. Raises Stuck."""
        assert self._shell is not None, "login() first"
        self._shell.sendall(b"systemctl poweroff\n")
        self.ended(seconds)

    def ended(self, seconds: float) -> None:
        """Until the machine switched itself off. Raises Stuck."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired as error:
            raise self._stuck(f"it did not switch itself off within {seconds:.0f} s") from error

    def _until(self, pattern: bytes, seconds: float) -> bytes:
        """What the shell says up to and with `pattern`."""
        assert self._shell is not None
        end = time.monotonic() + seconds
        while not (found := re.search(pattern, self._said)):
            self._shell.settimeout(max(end - time.monotonic(), 0.001))
            try:
                piece = self._shell.recv(1 << 16)
            except TimeoutError as error:
                raise self._stuck(f"the shell said nothing like {pattern!r} within {seconds:.0f} s") from error
            if not piece:
                raise self._stuck("the machine is off")
            self._said += piece.replace(b"\r", b"")
        said, self._said = self._said[: found.end()], self._said[found.end() :]
        return said

    def _stuck(self, what: str) -> Stuck:
        return Stuck(f"{what} (shell: {self._said[-2000:]!r})\n{self._end_of_console()}")

    def _end_of_console(self) -> str:
        return f"--- the end of {self.log}:\n{self.console()[-6000:]}"


@contextmanager
def boot(
    folder: Path, kernel: Path, initrd: Path, *, append: str, disks: Sequence[Disk], label: str = "boot"
) -> Iterator[Machine]:
    """A machine that is killed at the end if it still runs. Its console is in folder/label.log."""
    log = folder / f"{label}.log"
    log.unlink(missing_ok=True)
    log.touch()
    shell = Path(f"/tmp/nuketown-{os.getpid()}-{secrets.token_hex(4)}.sock")  # a socket's name is 107 bytes at most
    argv = [
        *("qemu-system-x86_64", "-M", "q35", "-cpu", "qemu64", "-smp", "1", "-m", "512"),
        *("-accel", "tcg,tb-size=512", "-nodefaults", "-display", "none", "-no-reboot"),
        *("-serial", f"file:{log}", "-serial", f"unix:{shell},server=on,wait=off"),
        *("-kernel", str(kernel), "-initrd", str(initrd), "-append", f"console=ttyS0 {append}"),
        *(word for disk in disks for word in disk.arguments()),
    ]
    with (folder / f"{label}.qemu").open("wb") as words:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=words, stderr=words)
    machine = Machine(process, log, shell)
    try:
        _listening(machine, folder / f"{label}.qemu")
        yield machine
    finally:
        machine.kill()
        shell.unlink(missing_ok=True)


def _listening(machine: Machine, words: Path) -> None:
    for _ in range(200):
        if machine.process.poll() is not None:
            raise AssertionError(f"qemu ended at once: {words.read_text()[-2000:]}")
        if machine.socket.exists():
            return
        time.sleep(0.05)
    raise AssertionError("qemu does not listen after 10 s")
