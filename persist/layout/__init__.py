"""What a town needs on its disks before the first boot: subvolumes and root's directories, planned, then made.

Nothing that is there is changed: it is as it should be, or the plan is refused with the cure. The one exception is a
blank subvolume that is empty but writable, which is made read-only. A plan that adopts changes what it can take over
without a loss, and only that. docs/formats/disk.md says what each part is for.
"""

from contextlib import ExitStack

from persist import device
from persist.layout import aside, directories, strangers, top, way
from persist.layout.actions import Action, Findings, NotAsItShouldBe, Plan
from persist.layout.doing import apply
from town.spec import Spec

__all__ = ["Action", "NotAsItShouldBe", "Plan", "apply", "plan"]


def plan(spec: Spec, *, adopt: bool = False) -> Plan:
    """What is missing, and with `adopt` what is taken over, in the order of doing. Changes nothing.

    Raises NotAsItShouldBe with everything that stands in the way, or what `device.top` raises.
    """
    found = Findings()
    with ExitStack() as stack:
        names = spec.town.btrfs
        fd = -1 if names is None else stack.enter_context(device.top(spec))
        if names is not None:
            strangers.look(fd, spec, found, adopt=adopt)
            top.look(fd, names, found, adopt=adopt)
        directories.look(spec, found, adopt=adopt)
        if adopt:
            way.look(spec, found)
        if names is not None:
            if adopt:
                aside.look(fd, spec, found)
            top.ballast_last(fd, names, found)
    return found.plan()
