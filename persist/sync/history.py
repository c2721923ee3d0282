"""An agent's history in the store, as one machine sees it and writes it: the door to what this package knows of it.

seen (one listing, the head) → foreign (does what lies here descend from it?) → holding (the lease) → committing (a
commit or a branch is written); picking (which state is meant).
"""

from persist.bucket.commits import Commit, Name
from persist.sync.committing import Tombed, branch, commit
from persist.sync.foreign import WrittenElsewhere, tell_undeclared
from persist.sync.holding import LeaseHeld, LeaseLost, hold, may_write, refuse_held, release, renew, take
from persist.sync.local import lease_due
from persist.sync.picking import NoSuchState, pick
from persist.sync.seen import Head, State, ask, packs_of

__all__ = [
    "Commit", "Head", "LeaseHeld", "LeaseLost", "Name", "NoSuchState", "State", "Tombed", "WrittenElsewhere", "ask",
    "branch", "commit", "hold", "lease_due", "may_write", "packs_of", "pick", "refuse_held", "release", "renew", "take",
    "tell_undeclared",
]  # fmt: skip
