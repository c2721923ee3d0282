"""The one door to other programs. Arguments are a list, never a shell line; secrets go in by a pipe, never by argv."""

import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from town.failure import ToolFailed, ToolMissing
from town.terminal import shown

# What a child gets when nothing else is said: no LD_*, no GIT_*, nothing that the caller's shell happened to export.
PASSED = ("PATH", "LANG", "LC_ALL", "TZ", "TMPDIR")
PACKAGES = {
    "age": "age",
    "blkid": "util-linux",
    "btrfs": "btrfs-progs",
    "git": "git",
    "gpg": "gnupg",
    "gpgconf": "gnupg",
    "losetup": "mount",
    "ssh-keygen": "openssh-client",
    "unshare": "util-linux",
}


class Person(NamedTuple):
    """The uid, gid and groups that a program runs with."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()


class Done(NamedTuple):
    """What a program left: exit status (negative: the signal that ended it), and what it wrote."""

    status: int
    out: bytes
    err: bytes


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment for a child: PATH and the locale, and what the caller adds."""
    kept = {name: os.environ[name] for name in PASSED if name in os.environ}
    kept.setdefault("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    return kept | dict(extra or {})


def run(
    argv: Sequence[str | os.PathLike[str]],
    *,
    feed: bytes = b"",
    env: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] = "/",
    person: Person | None = None,
    fds: Sequence[int] = (),
    timeout: float = 120,
    check: bool = True,
) -> Done:
    """Run a program to its end and return what it said.

    `feed` is its standard input; `env` is added to `environment()`; `person` drops to another uid for good; `fds`
    stay open in it under their own numbers; `timeout` is in seconds. Raises ToolMissing, or ToolFailed when it times
    out or (with `check`) ends with another status than 0.
    """
    import subprocess  # 4 ms, and most commands run no other program

    words = [os.fspath(word) for word in argv]
    as_person = {} if person is None else _dropped(person)
    try:
        done = subprocess.run(
            words,
            input=feed,
            capture_output=True,
            env=environment(env),
            cwd=cwd,
            pass_fds=tuple(fds),
            timeout=timeout,
            check=False,
            **as_person,  # type: ignore[call-overload]
        )
    except FileNotFoundError as error:
        if not os.path.isdir(cwd):
            raise ToolFailed(f"{words[0]} cannot run in {shown(os.fspath(cwd))}: there is no such directory") from error
        package = PACKAGES.get(words[0], words[0])
        raise ToolMissing(
            f"{words[0]} is not installed",
            hint=f"install the package that holds it, on Debian: apt install {package}",
        ) from error
    except subprocess.TimeoutExpired as error:
        raise ToolFailed(f"{words[0]} did not finish within {timeout:.0f} s") from error
    except OSError as error:
        raise ToolFailed(f"{words[0]} cannot be run: {error.strerror}") from error
    if check and done.returncode != 0:
        raise ToolFailed(f"{words[0]} failed with status {done.returncode}: {last_words(done.stderr)}")
    return Done(done.returncode, done.stdout, done.stderr)


def last_words(err: bytes, lines: int = 4) -> str:
    """The last lines that a program wrote to standard error, as one safe line."""
    kept = [shown(line.strip()) for line in err.splitlines() if line.strip()][-lines:]
    return "; ".join(kept) or "it said nothing"


def _dropped(person: Person) -> dict[str, object]:
    return {"user": person.uid, "group": person.gid, "extra_groups": list(person.groups), "umask": 0o077}
