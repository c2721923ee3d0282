"""Which program makes a machine's initrds, how that was found out, and what a person has to do after an install."""

from dataclasses import dataclass
from pathlib import Path

import initrd
from persist.installed import Record
from town import cli
from town.failure import WrongUsage
from town.terminal import say, shell_word

NONE = "none"
_BIN = ("usr/bin", "usr/sbin", "usr/local/bin", "usr/local/sbin", "bin", "sbin")


@dataclass(frozen=True, slots=True)
class Choice:
    """A kind of initrd, or "none", and in a few words why it is that one."""

    kind: str
    why: str


def choose(root: Path, said: str | None, old: Record | None) -> Choice:
    """The kind that was said, else that of the last install, else the one that is there. Raises WrongUsage."""
    if said is not None:
        return Choice(said, "as --initrd says")
    if old is not None:
        _refind(root, old.initrd)
        return Choice(old.initrd, "as the last install had it")
    kind = _found(root)
    return Choice(kind, "no maker of initrds was found" if kind == NONE else "found here")


def _refind(root: Path, kind: str) -> None:
    """Say so when what the last install was for is gone, or when there is something now where nothing was."""
    there = _there(root)
    others = " or ".join(there) or NONE
    if kind == NONE and there:
        say(f"persist: note: {' and '.join(there)} found here; to run the hook in the initrd: --initrd {others}")
    elif kind != NONE and kind not in there:
        what = f"{kind}, which the last install was for, is not here any more"
        cli.warn("persist", what, f"persist install --initrd {others}{_at(root)}")


def _found(root: Path) -> str:
    """By who is called for a new kernel where there are several, else by the program that is there."""
    there = _there(root)
    called = [kind for kind in there if (root / "etc/kernel/postinst.d" / kind).exists()]
    found = called if len(called) == 1 else there
    if len(found) > 1:
        raise WrongUsage("this machine has more than one maker of initrds", hint=f"say --initrd {' or '.join(found)}")
    return found[0] if found else NONE


def _there(root: Path) -> list[str]:
    return [kind for kind in initrd.KINDS if any((root / place / initrd.maker(kind)).exists() for place in _BIN)]


def tell(choice: Choice, root: Path) -> None:
    """Which kind it is, and the command that makes the initrds anew."""
    if choice.kind == NONE:
        say(
            f"persist: note: no initrd runs the hook ({choice.why}): nuketown-rollback.service rolls back at boot, "
            "before the homes"
        )
        return
    say(
        f"persist: note: the initrds are made by {choice.kind} ({choice.why}); the hook runs from the next boot on, "
        "once they are made anew"
    )
    _tell_command(choice.kind, root)


def tell_left(kind: str, root: Path) -> None:
    """What was made by `kind` holds the hook, and nothing takes it out by itself."""
    if kind != NONE:
        say(f"persist: note: initrds that {kind} made before still hold the hook, and roll back until made anew")
        _tell_command(kind, root)


def _tell_command(kind: str, root: Path) -> None:
    command = initrd.rebuild("dracut" if kind == "dracut" else "initramfs-tools")
    words = command if root == Path("/") else ("chroot", str(root), *command)
    say(f"persist: hint: {' '.join(map(shell_word, words))}")


def _at(root: Path) -> str:
    return "" if root == Path("/") else f" --root {shell_word(str(root))}"
