"""Whether the town's store is there and answers: looked at, never opened with its key, and never waited for long."""

import threading

from persist.proof import Trouble
from town.failure import ATTENTION, Failure
from town.spec import Spec
from town.terminal import shown

PATIENCE = 10.0  # seconds: a dead network filesystem would hold a look for ever


def trouble(spec: Spec, patience: float = PATIENCE) -> Trouble | None:
    """What is wrong with the store that the spec declares; None when nothing is, or the town has none."""
    if spec.town.store is None:
        return None
    found: list[Trouble | None] = []
    look = threading.Thread(target=lambda: found.append(_look(spec)), daemon=True)
    look.start()
    look.join(patience)
    if found:
        return found[0]
    return Trouble(ATTENTION, f"the store did not answer within {patience:.0f} s", "see that what holds it is mounted")


def _look(spec: Spec) -> Trouble | None:
    from persist.bucket.opening import has_config
    from persist.store import INIT, open_store

    try:
        if has_config(open_store(spec)):
            return None
    except Failure as failure:
        return Trouble(ATTENTION, failure.what, failure.hint)
    except Exception as error:  # a thread's last line of defence: whatever a store holds, the report goes on
        said = shown(f"{type(error).__name__}: {error}")
        return Trouble(ATTENTION, f"the store cannot be looked at: {said}", "persist sync --dry-run --debug says more")
    what = "the store is empty: it was not made yet, or is not the one"
    return Trouble(ATTENTION, what, f"mount the right one; where there never was one, {INIT}")
