"""How much a run tries: a seeded sample by default, `times` more with NUKETOWN_SCALE (make prove sets it)."""

import os

SCALE = int(os.environ.get("NUKETOWN_SCALE", "1"))
SEED = int(os.environ.get("NUKETOWN_SEED", "4"))


def times(count: int) -> int:
    """`count` of something in every run, more in a full one."""
    return count * SCALE
