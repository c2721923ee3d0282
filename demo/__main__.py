"""`make demo`: the story, on a machine of its own inside this one. Needs root; leaves nothing behind."""

import os
import sys

from demo import private, story
from demo.teller import fail
from town.failure import Failure


def _told() -> int:
    try:
        return story.tell()
    except Failure as failure:
        hint = f"\ndemo: hint: {failure.hint}" if failure.hint else ""
        print(f"demo: error: {failure.what}{hint}", file=sys.stderr, flush=True)
        return failure.status


def main() -> int:
    """Check for root, then tell the story."""
    if os.geteuid() != 0:
        return fail("it needs root, for mounts, loop devices and the agents' uids: sudo make demo")
    try:
        return private.run(_told, story.CHECKOUT)
    except OSError as error:
        return fail(f"this machine does not allow what the demo needs (namespaces, mounts): {error}")


if __name__ == "__main__":
    sys.exit(main())
