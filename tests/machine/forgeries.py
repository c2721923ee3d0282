"""States that no sync writes, sealed with the right key: a bug's, or those of somebody who has stolen it."""

from tests.machine.tampering import (
    Tampering,
    entry,
    forged_line,
    forged_record,
    forged_state,
    forged_top,
)
from tests.machine.tamperings import CANNOT
from tests.scale import SCALE, SEED

NAMES = (b"..", b".", b"", b"../out", b"/tmp/out", b"a/b", b"a\0b", b"x" * 256, b"dir/../../out")
KINDS = ("file", "symlink", "dir", "fifo")
FORGED = (
    *(
        Tampering(
            f"the name {name!r} of a {kind}",
            forged_state(entries=[entry(name, kind, **({"target": b"/etc"} if kind == "symlink" else {}))]),
            "no directory can hold",
        )
        for at, name in enumerate(NAMES)
        for kind in (KINDS if SCALE > 1 else [KINDS[(at + SEED) % len(KINDS)]])  # all of them in a full run
    ),
    Tampering(
        "a link and a directory of one name",
        forged_state(entries=[entry(b"d", "symlink", target=b"/etc"), entry(b"d", "dir")], sort=False),
        "twice",
    ),
    Tampering(
        "a directory and a link of one name",
        forged_state(entries=[entry(b"d", "dir"), entry(b"d", "symlink", target=b"/etc")], sort=False),
        "twice",
    ),
    Tampering(
        "names out of order", forged_state(entries=[entry(b"b"), entry(b"a")], files=2, sort=False), "out of order"
    ),
    Tampering(
        "a file that is a symlink by its link",
        forged_state(entries=[entry(b"a", "symlink", target=b"/etc/passwd", link="1"), entry(b"b", link="1")], files=2),
        "shares its link|link",
    ),
    *(
        Tampering(f"the declared path {path!r}", forged_top(path=path), CANNOT)
        for path in ("/etc", "../x", "a/../b", "", ".", "a//b")
    ),
    Tampering(
        "overlapping declared paths",
        forged_state(change=lambda fields: fields["root"].append({**fields["root"][0], "path": "projects/in"})),
        "overlap",
    ),
    *(
        Tampering(f"a commit that says {what}", forged_record(**wrong), CANNOT + "|another commit|agent")
        for what, wrong in {
            "another agent": {"agent": "vox"},
            "another generation": {"generation": 300},
            "another machine": {"machine": "f" * 32},
            "a time without a zone": {"time": "2026-11-21T10:00:00"},
            "a parent that is no name": {"parent": "../../x"},
            "packs that are none": {"packs": [["x", 1, 1]]},
            "a key that is not known": {"run": "rm"},
            "a root that is no list": {"root": {}},
            "a lease in words": {"lease": "1"},
        }.items()
    ),
    *(
        Tampering(
            f"an entry with {what}", forged_line(**wrong), CANNOT + "|unknown|extents|time|mode|size|format|twice|many"
        )
        for what, wrong in {
            "an unknown kind": {"kind": "device"},
            "an unknown key": {"shell": "rm"},
            "a mode beyond bits": {"mode": 0o100644},
            "a size below zero": {"size": -1},
            "a size beyond files": {"size": 1 << 63},
            "a size that is a word": {"size": "1"},
            "a time beyond time": {"mtime": 1 << 200},
            "an owner by number": {"owner": 0},
            "an unknown owner": {"owner": "vox"},
            "root's attributes": {"xattrs": {"security.capability": "x"}},
            "an attribute that is no string": {"xattrs": {"user.x": 1}},
            "a name beyond bytes": {"name": "\u20ac"},
            "extents that overlap": {"size": 10, "data": [[0, 5], [4, 2]]},
            "extents that leave the file": {"size": 10, "data": [[8, 5]]},
            "extents that are no numbers": {"size": 10, "data": [[0.5, 1]]},
            "ids that are no ids": {"content": ["abc"]},
            "too many ids": {"content": ["00" * 32] * 65},
            "a depth without end": {"depth": 5},
        }.items()
    ),
    *(
        Tampering(f"the line {line[:20]!r}", forged_state(lines=line), "(?i)record|object|format|listing|entry")
        for line in (b"[]\n", b"{\n", b"\xff\n", b"null\n", b"[" * 100_000 + b"\n", b"\n")
    ),
)
