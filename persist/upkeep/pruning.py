"""One prune of one agent: what is there, what stays, the plan, and carrying it out."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field

from persist.bucket.commits import Name
from persist.bucket.opening import Bucket
from persist.progress import Progress
from persist.store import ObjectMissing, StoreDamaged
from persist.upkeep import epochs, plan
from persist.upkeep.apply import Doing, Done
from persist.upkeep.epochs import Epoch
from persist.upkeep.holdings import Holdings
from persist.upkeep.plan import Action, Bury, Delete, Kept
from persist.upkeep.policy import Past
from town import terminal
from town.terminal import counted

Keep = Callable[[Sequence[Past], Name, float], Mapping[Name, tuple[str, ...]]]


@dataclass(slots=True)
class Pruned:
    """What a prune of one agent planned and did. `kept`: each state that stays, with the reasons."""

    agent: str
    dry_run: bool
    kept: dict[str, tuple[str, ...]] = field(default_factory=dict)
    dropped: int = 0
    actions: list[Action] = field(default_factory=list)
    done: Done = field(default_factory=Done)

    def __str__(self) -> str:
        if not self.kept:
            return f"{self.agent}: nothing in the store yet"
        later = max(0, self.done.buried - self.done.sent)
        said = f"{self.agent}: {counted(len(self.kept), 'state')} kept, {self.dropped:,} dropped"
        said += f"; {terminal.size(self.done.deleted)} freed now, {terminal.size(later)} in a day or later"
        said += f" ({terminal.size(self.done.sent)} written anew)" if self.done.sent else ""
        return said + (" (a dry run: nothing was changed)" if self.dry_run else "")

    @property
    def record(self) -> dict[str, object]:
        """For --json; bytes."""
        return {
            "agent": self.agent,
            "dry_run": self.dry_run,
            "kept": [{"snapshot": name[-64:][:12], "reasons": list(why)} for name, why in self.kept.items()],
            "dropped": self.dropped,
            "actions": [" ".join(str(action).split()) for action in self.actions],
            "freed_now": self.done.deleted,
            "freed_later": max(0, self.done.buried - self.done.sent),
            "sent": self.done.sent,
        }


def pruned(bucket: Bucket, agent: str, head: Name, keep: Keep, *, dry_run: bool = False) -> Pruned:
    """The same without a spec: `keep` says which states stay, and what this machine has seen before is not asked."""
    there = epochs.opened(bucket, agent)
    before = [_Before(epoch) for epoch in there]
    past = [one for each in before for one in each.past]
    stays = keep(past, head, there[0].listing.at)
    found = Pruned(agent, dry_run, {str(name): why for name, why in stays.items()}, len(past) - len(stays))
    with ExitStack() as stack:
        # All that stays is proven whole before the first thing goes.
        kept = [_kept(each, head, stays, stack) for each in before]
        plans = [(one, plan.planned(one, _going(each, stays))) for one, each in zip(kept, before, strict=True)]
        found.actions += [action for _, actions in plans for action in actions]
        if dry_run:
            _foresee(found.done, found.actions)
            return found
        moving = _moving(found.actions)
        progress = stack.enter_context(Progress(f"persist: {agent}: prune", total_bytes=moving, unit=""))
        for one, actions in plans:
            _add(found.done, Doing(one.epoch, one.holdings, lambda bytes_: progress.add(0, bytes_)).run(actions))
    return found


class _Before:
    """What one epoch held: its states, without their contents, and every pack that any of them leads to."""

    def __init__(self, epoch: Epoch) -> None:
        self.epoch, self.past, self.packs = epoch, list[Past](), set[str]()
        for name, commit in epoch.tried(epoch.listing.states):
            if isinstance(commit, ObjectMissing):
                raise commit
            if isinstance(commit, StoreDamaged):
                raise _unreadable(epoch, name, commit)
            self.past.append(Past(name, commit.time, commit.parent, epoch.listing.modified(name)))
            self.packs |= set(epoch.way(name, commit.packs).all)


def _unreadable(epoch: Epoch, name: Name, damaged: StoreDamaged) -> StoreDamaged:
    agent = epoch.keys.agent
    return StoreDamaged(
        f"{damaged.what}; nobody knows what it needs, so nothing was removed",
        hint=f"put it back from a copy of the store; where there is none: persist forget {agent}@{name.short}",
    )


def _kept(before: _Before, head: Name, stays: Mapping[Name, object], stack: ExitStack) -> Kept:
    """The states that stay, the head first, then the newest: in that order their pieces come into new packs."""
    epoch = before.epoch
    names = sorted((one.name for one in before.past if one.name in stays), reverse=True)
    names.sort(key=lambda name: name != head)
    holdings = stack.enter_context(closing(Holdings(epoch.store, epoch.keys)))
    return plan.kept(epoch, dict(epoch.states(names)), before.packs, holdings)


def _going(before: _Before, stays: Mapping[Name, object]) -> Iterator[tuple[Past, str]]:
    return ((one, "not kept by town.sync.keep") for one in before.past if one.name not in stays)


def _moving(actions: Sequence[Action]) -> int:
    return sum(action.live for action in actions if isinstance(action, Bury))


def _foresee(done: Done, actions: Sequence[Action]) -> None:
    for action in actions:
        if isinstance(action, Delete):
            done.deleted += action.size
        elif isinstance(action, Bury):
            done.buried += action.size
            done.sent += action.stored


def _add(to: Done, more: Done) -> None:
    to.deleted += more.deleted
    to.buried += more.buried
    to.sent += more.sent
    to.spared += more.spared
