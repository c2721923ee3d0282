"""Which transactions of a filesystem had ended at which times: noted by who commits, and told by what was made.

RUN/transactions/UUID (of the filesystem, in hex), root's, 0600: `{"version": 1, "ended": [[TRANSACTION, NS], …]}`, NS
since the epoch, oldest first. Homes are new at each boot, so a reboot may take it. docs/formats/lost.md.
"""

import json
import time as time_
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import groupby, islice
from operator import itemgetter
from pathlib import PurePosixPath
from typing import Any

from town import btrfs, changes, files, moment, standing
from town.failure import Failure

Pair = tuple[int, int]  # a transaction, and a time (ns since the epoch) at which it had ended

_DIRECTORY, _VERSION, _LIMIT = "transactions", 1, 1 << 16
_SECOND = 10**9
_MOST = 200  # pairs
_LOOKED_AT = 8_000  # inodes: 25 ms


def before(pairs: Sequence[Pair], time: int) -> int:
    """The latest transaction that is known to have ended before a time; 0 where none is.

    In the order of transactions, which only ever rise: a clock that ran behind once is no proof of anything after it.
    """
    last = 0
    for transid, at in sorted(pairs):
        if at > time - _SECOND:
            break
        last = transid
    return last


def commit(fd: int) -> int:
    """btrfs.commit, noted: nothing that is written from now on is of that transaction. Raises BtrfsFailed."""
    transid = btrfs.commit(fd)
    with suppress(Failure, OSError):  # it only makes a later look quicker
        _note(fd, (transid, time_.time_ns()))
    return transid


def noted(fd: int) -> list[Pair]:
    """What was noted of the filesystem that `fd` lies on, oldest first. Raises nothing."""
    with suppress(Failure, OSError, ValueError, RecursionError):
        path = standing.RUN / _DIRECTORY / moment.filesystem(fd).hex()
        return _parsed(json.loads(files.read_bounded(path, _LIMIT)))
    return []


def born(fd: int, time: int, *, newest: int, known: int = 0) -> list[Pair]:
    """The same as what was made in the subvolume of `fd` before a time tells, near the transaction that ran then.

    Looks back from `newest` in steps that grow, until one shows something that is as old, or is at `known`. Raises
    OSError.
    """
    found: list[Pair] = []
    step, upto, left = 1, newest, _LOOKED_AT
    while left > 0 and upto > known:
        lowest = max(known, newest - step)
        for transid, made in islice(changes.births(fd, lowest, upto), left):
            left -= 1
            if 0 < made <= time - _SECOND:
                found.append((transid - 1, made))
                if transid > lowest:
                    return found
        step, upto = step * 2, lowest
    return found


def _note(fd: int, new: Pair) -> None:
    with files.opened(files.open_dir(standing.RUN.parent)) as above:
        where = PurePosixPath(standing.RUN.name, _DIRECTORY)
        directory = files.make_dirs(above, where, mode=0o755, owner=(0, 0))
    with files.opened(directory):
        pairs = thinned([*noted(fd), new])
        text = json.dumps({"version": _VERSION, "ended": pairs}).encode() + b"\n"
        files.write_beneath(directory, moment.filesystem(fd).hex(), text, mode=0o600, owner=(0, 0))


def thinned(pairs: Sequence[Pair]) -> list[Pair]:
    """Of each transaction the earliest, a second apart at least; the older they are, the further."""
    every = [min(same) for _, same in groupby(sorted(pairs), key=itemgetter(0))]
    now, kept = every[-1][1], list[Pair]()
    for one, newer in zip(every, [*every[1:], None], strict=True):
        if not (kept and newer and _stands_in(kept[-1], one, newer, now)):
            kept.append(one)
    return kept[-_MOST:]


def _stands_in(older: Pair, one: Pair, newer: Pair, now: int) -> bool:
    in_order = older[1] <= one[1] <= newer[1]  # else a clock was set back: that is not forgotten
    return in_order and newer[1] - older[1] < max(_SECOND, (now - newer[1]) // 4)


def _parsed(tree: Any) -> list[Pair]:
    if not isinstance(tree, dict) or tree.get("version") != _VERSION or not isinstance(tree.get("ended"), list):
        return []
    return list(_pairs(tree["ended"]))


def _pairs(found: list[Any]) -> Iterator[Pair]:
    for one in found:
        if isinstance(one, list) and len(one) == 2 and all(type(number) is int and number > 0 for number in one):
            yield one[0], one[1]
