"""The one door to other programs. Arguments are a list, never a shell line; secrets go in by a pipe, never by argv."""

import os
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from town.failure import ToolFailed, ToolMissing
from town.terminal import shown

if TYPE_CHECKING:
    import subprocess

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
    most: int | None = None,
) -> Done:
    """Run a program to its end and return what it said.

    `feed` is its standard input; `env` is added to `environment()`; `person` drops to another uid for good; `fds`
    stay open in it under their own numbers; `timeout` is in seconds; `most` is how many bytes it may say on either
    output. Raises ToolMissing, or ToolFailed when it times out, says more, or (with `check`) ends with another status
    than 0.
    """
    import subprocess  # 4 ms, and most commands run no other program

    words = [os.fspath(word) for word in argv]
    as_person = {} if person is None else _dropped(person)
    try:
        with subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(env),
            cwd=cwd,
            pass_fds=tuple(fds),
            **as_person,  # type: ignore[call-overload]
        ) as running:
            try:
                if most is None:
                    out, err = running.communicate(feed, timeout)
                else:
                    out, err = _heard(words[0], running, feed, timeout, most)
            except BaseException:
                running.kill()
                raise
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
    if check and running.returncode != 0:
        raise ToolFailed(f"{words[0]} failed with status {running.returncode}: {last_words(err)}")
    return Done(running.returncode, out, err)


def _heard(
    name: str, running: "subprocess.Popen[bytes]", feed: bytes, timeout: float, most: int
) -> tuple[bytes, bytes]:
    """What a program says, read only so far. Raises subprocess.TimeoutExpired, ToolFailed."""
    import selectors
    import subprocess

    assert running.stdin is not None
    assert running.stdout is not None
    assert running.stderr is not None
    said = {running.stdout.fileno(): bytearray(), running.stderr.fileno(): bytearray()}
    until = time.monotonic() + timeout
    os.set_blocking(running.stdin.fileno(), False)
    with selectors.DefaultSelector() as ready:
        for fd in said:
            ready.register(fd, selectors.EVENT_READ)
        ready.register(running.stdin, selectors.EVENT_WRITE)
        while ready.get_map():
            if (left := until - time.monotonic()) <= 0:
                raise subprocess.TimeoutExpired(running.args, timeout)
            for key, _ in ready.select(left):
                if key.fd not in said:
                    feed = _fed(key.fd, feed)
                    if not feed:
                        ready.unregister(running.stdin)
                        running.stdin.close()
                    continue
                said[key.fd] += (piece := os.read(key.fd, 1 << 16))
                if not piece:
                    ready.unregister(key.fd)
                elif len(said[key.fd]) > most:
                    raise ToolFailed(f"{name} said more than {most:,} bytes")
    running.wait(max(0.1, until - time.monotonic()))
    out, err = (bytes(text) for text in said.values())
    return out, err


def _fed(fd: int, feed: bytes) -> bytes:
    """What is left of `feed` once as much was written as fits; nothing when nobody reads any more."""
    try:
        return feed[os.write(fd, feed) :]
    except BlockingIOError:
        return feed
    except BrokenPipeError:
        return b""


def last_words(err: bytes, lines: int = 4) -> str:
    """The last lines that a program wrote to standard error, as one safe line."""
    kept = [shown(line.strip()) for line in err.splitlines() if line.strip()][-lines:]
    return "; ".join(kept) or "it said nothing"


def _dropped(person: Person) -> dict[str, object]:
    return {"user": person.uid, "group": person.gid, "extra_groups": list(person.groups), "umask": 0o077}
