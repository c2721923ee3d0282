"""The scenarios that are about the disk itself: missing, late, something else, failing; and about the machine.

Like those of scenariotable.py; run by test_rollback_scenarios.py.
"""

import os
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from demo import loopback
from tests.machine import scenarios
from tests.machine import scenariostates as states
from tests.machine.scenarios import Disk
from tests.machine.scenariotable import Closed, Either, Expected, Scenario, Works
from town import process

NOWHERE = "/dev/nuketown-is-not-here"


# ---------------------------------------------------------------- the device


def _dirty(made: Disk) -> None:
    with made.top() as top:
        states.dirty(top)


def _right_device(made: Disk) -> None:
    made.told, made.wait = made.device, 0


def _other(made: Disk, *mkfs: str, size: int = 128 << 20) -> str:
    """Another image, made by `mkfs`, on a loop device."""
    image = scenarios.sparse(made.at / "other.img", size)
    made.ends.callback(image.unlink)
    if mkfs:
        process.run([*mkfs, image])
    return made.ends.enter_context(loopback.attached(image))


def no_device(made: Disk) -> None:
    _dirty(made)
    made.told = NOWHERE


def no_device_within_two_seconds(made: Disk) -> None:
    no_device(made)
    made.wait, made.at_least = 2, 1


def no_uuid(made: Disk) -> None:
    _dirty(made)
    made.told = "UUID=11111111-2222-3333-4444-555555555555"


def no_label_within_two_seconds(made: Disk) -> None:
    _dirty(made)
    made.told, made.wait, made.at_least = "LABEL=nuketown has none", 2, 1


def a_device_that_comes_late(made: Disk) -> None:
    _dirty(made)
    link = made.at / "late"
    made.told, made.wait, made.meanwhile = str(link), 20, lambda: link.symlink_to(made.device)


def a_uuid_that_comes_late(made: Disk) -> None:
    _dirty(made)
    made.told, made.wait, made.meanwhile = f"UUID={_tag(made.device, 'UUID')}", 20, made.attach
    made.ready = made.detach


def a_label_that_comes_late(made: Disk) -> None:
    _dirty(made)
    label = f"late {os.getpid()}"
    process.run(["btrfs", "filesystem", "label", made.device, label])
    made.told, made.wait, made.meanwhile = f"LABEL={label}", 20, made.attach
    made.ready = made.detach


def _tag(device: str, name: str) -> str:
    return process.run(["blkid", "-p", "-s", name, "-o", "value", device]).out.decode().strip()


def ext4(made: Disk) -> None:
    _dirty(made)
    made.told = _other(made, "mkfs.ext4", "-q")


def swap(made: Disk) -> None:
    _dirty(made)
    made.told = _other(made, "mkswap")


def zeroes(made: Disk) -> None:
    _dirty(made)
    made.told = _other(made)


def zeroes_waited_for(made: Disk) -> None:
    """A device that is there and is no btrfs is not waited for: it will never be one."""
    zeroes(made)
    made.wait, made.at_most = 20, 10


def a_truncated_btrfs(made: Disk) -> None:
    _dirty(made)
    image = scenarios.sparse(made.at / "other.img", 256 << 20)
    made.ends.callback(image.unlink)
    process.run(["mkfs.btrfs", "--quiet", image])
    os.truncate(image, 160 << 20)
    made.told = made.ends.enter_context(loopback.attached(image))


def a_btrfs_of_somebody_else(made: Disk) -> None:
    """No blank there: nothing is made on it."""
    _dirty(made)
    made.told = _other(made, "mkfs.btrfs", "--quiet")


def two_of_one_label(made: Disk) -> None:
    _dirty(made)
    label = f"town {os.getpid()}"
    process.run(["btrfs", "filesystem", "label", made.device, label])
    _other(made, "mkfs.btrfs", "--quiet", "--label", label)
    made.told = f"LABEL={label}"


def a_label_of_another_kind_of_filesystem_too(made: Disk) -> None:
    _dirty(made)
    label = f"town{os.getpid()}"
    process.run(["btrfs", "filesystem", "label", made.device, label])
    _other(made, "mkfs.ext4", "-q", "-L", label)
    made.told = f"LABEL={label}"


def a_read_only_device(made: Disk) -> None:
    _dirty(made)

    def ready() -> None:
        made.detach()
        made.attach(read_only=True)
        made.told = made.device

    made.ready = ready


def _writable_device(made: Disk) -> None:
    made.detach()
    made.attach()
    made.told = made.device


def mounted_read_only_elsewhere(made: Disk) -> None:
    _dirty(made)
    scenarios.mounted(made, "ro")


def _two_devices(made: Disk) -> ExitStack:
    """The filesystem on two devices; when what is returned is closed, the second is gone and the kernel forgot it."""
    _dirty(made)
    image = scenarios.sparse(made.at / "second.img", 256 << 20)
    made.ends.callback(image.unlink)
    second = ExitStack()
    made.ends.callback(second.close)
    other = second.enter_context(loopback.attached(image))
    with made.top() as top:
        words = [["device", "add", "-f", other], ["balance", "start", "-mconvert=raid1", "-f"]]
        for word in words:
            process.run(["btrfs", *word, f"/proc/self/fd/{top}"], fds=[top])
    second.callback(process.run, ["btrfs", "device", "scan", "--forget", other])
    made.wait = 20
    return second


def _second(made: Disk) -> None:
    made.ends.enter_context(loopback.attached(made.at / "second.img"))


def both_of_two_devices(made: Disk) -> None:
    """Both are there, and nothing has told the kernel so."""
    second = _two_devices(made)

    def ready() -> None:
        second.close()
        _second(made)

    made.ready = ready


def one_of_two_devices_late(made: Disk) -> None:
    second = _two_devices(made)
    made.ready, made.meanwhile = second.close, lambda: _second(made)


def one_of_two_devices_missing(made: Disk) -> None:
    second = _two_devices(made)
    made.ready, made.wait, made.at_least = second.close, 2, 1


def _second_is_back(made: Disk) -> None:
    _second(made)
    process.run(["btrfs", "device", "scan"])


# ---------------------------------------------------------------- errors, and the machine


def failing(kind: str, name: str, **where: int) -> Callable[[Disk], None]:
    def make(made: Disk) -> None:
        _dirty(made)
        made.ends.callback(made.errors.close)

        def ready() -> None:
            made.detach()
            made.told = made.errors.enter_context(scenarios.failing(made.image, made.at, kind, **where))

        made.ready = ready

    make.__name__ = f"every_{name}_fails"
    return make


def _sound_again(made: Disk) -> None:
    made.errors.close()
    made.attach()
    made.told = made.device


def run_read_only(made: Disk) -> None:
    _dirty(made)
    made.before = "mount -o remount,bind,ro /run"


def run_full(made: Disk) -> None:
    _dirty(made)
    made.before = (
        "mount -t tmpfs -o size=64k tmpfs /run && mkdir -m 755 /run/nuketown && { cat /dev/zero >/run/full 2>&-; :; }"
    )


def run_without_inodes(made: Disk) -> None:
    _dirty(made)
    made.before = "mount -t tmpfs -o nr_inodes=2 tmpfs /run && : >/run/full"


def _sound_run(made: Disk) -> None:
    made.before = "true"


def clock(year: str) -> Callable[[Disk], None]:
    """A machine whose clock is wrong. An old home has the very name of this boot and that time."""

    def make(made: Disk) -> None:
        _dirty(made)
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        with made.top() as top:
            for number in ("", ".1", ".2"):
                os.mkdir(f"@agents-old/{year}0101T000000Z-{boot}{number}", dir_fd=top)
        date = f"s/20[0-9][0-9]-[0-9][0-9]-[0-9][0-9] [0-9:.]* /{year}-01-01 00:00:00.000000000 /"
        for program in ("stat", "date"):
            made.programs[program] = f'#!/bin/sh\nPATH=/usr/bin:/bin\nTHE_REAL_ONE "$@" | sed "{date}"\n'

    make.__name__ = f"a_clock_in_{year}"
    return make


def homes_mounted_in_another_namespace(made: Disk) -> None:
    """An agent keeps a mount of its home alive where nobody sees it."""
    _dirty(made)
    target = made.at / "pinned"
    target.mkdir()
    words = f"mount -o subvol=@agents/ada {made.device} '{target}' && cd '{target}' && echo and exec sleep 600"
    pinned = subprocess.Popen(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", words.replace("echo and", "echo x &&")],
        stdout=subprocess.PIPE,
    )
    assert pinned.stdout is not None
    assert pinned.stdout.readline()
    made.ends.callback(pinned.communicate)
    made.ends.callback(pinned.kill)


_TABLE: list[tuple[Callable[[Disk], None], Expected]] = [
    (no_device, Closed(NOWHERE, _right_device)),
    (no_device_within_two_seconds, Closed(NOWHERE, _right_device)),
    (no_uuid, Closed("11111111-2222-3333-4444-555555555555", _right_device)),
    (no_label_within_two_seconds, Closed("nuketown has none", _right_device)),
    (a_device_that_comes_late, Works(1)),
    (a_uuid_that_comes_late, Works(1)),
    (a_label_that_comes_late, Works(1)),
    (ext4, Closed("cannot be mounted as btrfs", _right_device)),
    (swap, Closed("cannot be mounted as btrfs", _right_device)),
    (zeroes, Closed("cannot be mounted as btrfs", _right_device)),
    (zeroes_waited_for, Closed("cannot be mounted as btrfs", _right_device)),
    (a_truncated_btrfs, Closed("cannot be mounted as btrfs", _right_device)),
    (a_btrfs_of_somebody_else, Closed("the blank subvolume @agents-blank is missing", _right_device)),
    (two_of_one_label, Closed("more than one", _right_device)),
    (a_label_of_another_kind_of_filesystem_too, Either(Works(1), Closed("LABEL=town", _right_device))),
    (a_read_only_device, Closed("ead-only file system", _writable_device, blind=True)),
    (mounted_read_only_elsewhere, Works(1)),
    (both_of_two_devices, Works(1)),
    (one_of_two_devices_late, Works(1)),
    (one_of_two_devices_missing, Closed("cannot be mounted as btrfs", _second_is_back, blind=True)),
    (failing("read", "read"), Closed("cannot be mounted as btrfs", _sound_again, blind=True)),
    (failing("write", "write"), Closed("", _sound_again, blind=True)),
    (failing("flush", "flush"), Closed("", _sound_again, blind=True)),
    (failing("write", "write_of_the_superblock", sector=128), Closed("", _sound_again, blind=True)),
    (run_read_only, Closed("", _sound_run, mute=True)),
    (run_full, Closed("", _sound_run, mute=True)),
    (run_without_inodes, Closed("", _sound_run, mute=True)),
    (clock("1970"), Works(1)),
    (clock("2100"), Works(1)),
    (homes_mounted_in_another_namespace, Works(1)),
]

_ALWAYS = (no_device_within_two_seconds, a_label_that_comes_late, both_of_two_devices, two_of_one_label, ext4)
DEVICES = [Scenario(make, expected, always=make in _ALWAYS) for make, expected in _TABLE]
