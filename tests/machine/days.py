"""Time that goes by for a store in a directory and for the machines that use it, without waiting for it."""

import json
import os
from pathlib import Path

DAY = 24 * 3600.0


def pass_by(seconds: float, store: Path, *states: Path) -> None:
    """Everything in the store, and every lease that the machines with those state directories hold, grows older."""
    for found in store.rglob("*"):
        if found.is_file():
            entry = found.stat()
            os.utime(found, ns=(entry.st_atime_ns, entry.st_mtime_ns - int(seconds * 1e9)))
    for state in states:
        for record in state.glob("sync/*.json"):
            tree = json.loads(record.read_text())
            if tree.get("lease"):
                tree["lease"]["wall"] -= seconds
                tree["lease"]["granted"] -= seconds
                record.write_text(json.dumps(tree))
