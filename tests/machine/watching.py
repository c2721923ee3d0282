"""A command under strace: all that it, and every program it starts, put into arguments, environments and files."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from town import process

Kind = Literal["arguments", "environment", "file", "pipe", "socket"]
_CALLS = "execve,execveat,write,pwrite64,writev,pwritev,pwritev2,sendto,sendmsg,sendmmsg"
# What would bring bytes into a file without a word of them on record; and what the guards are made with.
_UNSEEN = "sendfile,copy_file_range,splice,vmsplice,io_uring_setup,mmap"
_GUARDS = "prctl,prlimit64,mlockall"
_OWN = ("out", "err")
_LINE = re.compile(rb"^(\d+) +(\w+)\((.*)", re.DOTALL)
_TEXT = re.compile(rb'"((?:\\x[0-9a-f]{2})*)"')
_TARGET = re.compile(rb"^\d+<((?:\\x[0-9a-f]{2}|[^>])*)>")


@dataclass(frozen=True)
class Seen:
    """Bytes that left the memory of a process, and where they went: a path as the process knew it, a pipe, a socket."""

    kind: Kind
    where: str
    data: bytes


@dataclass(frozen=True)
class Watched:
    """What a command left, and all that was seen of it."""

    status: int
    out: bytes
    err: bytes
    seen: tuple[Seen, ...]
    unseen: tuple[str, ...]  # calls that could write what strace does not show
    guards: frozenset[str]  # what the command itself said to the kernel about its memory


def watch(argv: Sequence[str | Path], place: Path, *, feed: bytes = b"", env: Mapping[str, str]) -> Watched:
    """Run it to its end, with a /run of its own in memory. Its output goes to files in `place`."""
    out, err, log = place / "out", place / "err", place / "strace"
    apart = f'mount -t tmpfs tmpfs /run; mount --make-rprivate /; exec "$@" >{out} 2>{err}'
    calls = f"trace={_CALLS},{_UNSEEN},{_GUARDS}"
    spy = ["strace", "-f", "--seccomp-bpf", "-o", log, "-e", calls, "-e", "signal=none", "-yy", "-xx", "-v"]
    words = ["unshare", "-m", "sh", "-ec", apart, "sh", *spy, "-s", str(16 << 20), *argv]
    done = process.run(words, feed=feed, env=env, check=False, timeout=120)
    assert log.stat().st_size > 0, done.err
    lines = [found for line in log.read_bytes().splitlines() if (found := _LINE.match(line))]
    first = lines[0][1]
    return Watched(
        done.status,
        out.read_bytes(),
        err.read_bytes(),
        tuple(seen for line in lines for seen in _seen(line[2].decode(), line[3])),
        tuple(where for line in lines if (where := _hidden(line[2].decode(), line[3]))),
        frozenset(_guard(line[2].decode(), line[3]) for line in lines if line[1] == first) - {""},
    )


def _seen(call: str, rest: bytes) -> Iterator[Seen]:
    if call.startswith("execve"):
        program, words, variables = _parts(rest)
        yield Seen("arguments", program, words)
        yield Seen("environment", program, variables)
    elif call.startswith(("write", "pwrite", "send")) and (target := _TARGET.match(rest)):
        where = os.fsdecode(_bytes(target[1]))
        yield Seen(_kind(where), where, b"".join(_bytes(text) for text in _TEXT.findall(rest)))


def _parts(rest: bytes) -> tuple[str, bytes, bytes]:
    """The program, its arguments and its environment, each string ended by a newline."""
    program, _, after = rest.partition(b", [")
    words, _, variables = after.partition(b"], ")
    texts = _TEXT.findall(program)
    return (
        os.fsdecode(_bytes(texts[-1]) if texts else b"?"),
        *(b"\n".join(_bytes(text) for text in _TEXT.findall(part)) for part in (words, variables)),
    )  # type: ignore[return-value]


def _kind(where: str) -> Kind:
    if where.startswith(("pipe:", "anon_inode:")):
        return "pipe"
    return "socket" if re.match(r"(socket|UNIX|TCP|UDP|NETLINK)", where) else "file"


def _hidden(call: str, rest: bytes) -> str:
    """What a call may have written unseen; empty for nothing."""
    if call == "mmap":
        shared = b"MAP_SHARED" in rest and b"PROT_WRITE" in rest and b"MAP_ANONYMOUS" not in rest
        return f"mmap {_plain(rest)}" if shared else ""
    return f"{call} {_plain(rest)}" if call in _UNSEEN.split(",") else ""


def _guard(call: str, rest: bytes) -> str:
    return f"{call}({_plain(rest)}" if call in _GUARDS.split(",") else ""


def _plain(rest: bytes) -> str:
    return re.sub(rb"(?:\\x[0-9a-f]{2})+", lambda found: _bytes(found[0]), rest).decode("utf-8", "replace")


def _bytes(text: bytes) -> bytes:
    """What `-xx` wrote; the rest (a pipe's number, say) as it stands."""
    return re.sub(rb"\\x([0-9a-f]{2})", lambda found: bytes.fromhex(found[1].decode()), text)
