"""A prune that is killed anywhere, or meets a sync, another prune, a stale listing, a jumping clock, at any request.

The rows of the table in docs/decisions/0043 are tests here. After each: every state that is there is whole, byte for
byte, now and a day later, when packs go; and a later prune ends the work.
"""

from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from random import Random

import pytest

from persist.bucket import agents, tombs
from persist.bucket.blobs import Reader
from persist.bucket.commits import Name
from persist.store import StoreDamaged
from persist.upkeep import plan
from persist.upkeep.apply import Overtaken
from persist.upkeep.looking import looks
from tests.machine import histories, machines
from tests.machine.histories import DAY, HOUR, B, ClockStore, Machine, Stopped, last, machine, prune, restored, states
from tests.machine.test_prune import files, grown, store_of, whole
from tests.scale import SEED, times

KEEP = last(4)
Held = dict[str, bytes]


class Scene:
    """A store in which a prune has everything to do: states to drop, packs to delete, to merge, to bury, a tomb."""

    def __init__(self) -> None:
        self.ours = machine()
        self.made = grown(self.ours, 5)
        prune(self.ours.bucket, KEEP)
        self.store.time += 8 * DAY
        prune(self.ours.bucket, KEEP)  # packs go; the tomb stays with the states that need it
        self.made |= self._grown(files(40), 5)
        orphan = Machine(self.ours.bucket, B).steps(files(41))  # cut off before its commit
        assert [next(orphan), next(orphan)] == ["listed", "sent"]
        self.store.time += 7 * DAY
        prune(self.ours.bucket, last(1000))
        self.store.time += DAY
        self.made |= self._grown(files(42), 3)
        self.objects, self.time = self.store.objects(), self.store.time
        self.known, self.head = dict(self.ours.known), self.ours.head

    @property
    def store(self) -> ClockStore:
        return store_of(self.ours)

    def _grown(self, held: Held, number: int) -> dict[Name, Held]:
        made = {}
        for at in range(number):
            held = held | {f"d0/f{at}": Random(at).randbytes(1500)}
            made[self.ours.sync(held)] = held
            self.store.time += HOUR
        return made

    def again(self) -> None:
        """Everything as it was."""
        self.store.put_back(self.objects)
        self.store.time = self.time
        self.ours.known, self.ours.head = dict(self.known), self.head

    def requests(self) -> list[str]:
        """What a prune asks for here, request by request."""
        seen: list[str] = []
        self.again()
        self.store.before = lambda _number, verb, _key: seen.append(verb)
        prune(self.ours.bucket, KEEP)
        self.again()
        return seen

    def moments(self) -> list[int]:
        """A seeded half of the requests of a prune here; all of them in a full run."""
        every = range(len(self.requests()))
        return sorted(Random(SEED).sample(every, min(len(every), times(len(every) // 2))))

    def on(self, moment: int, act: Callable[[], object], *, after: bool = False) -> None:
        """Act at one request from now, once."""
        self.store.unwatched()
        setattr(self.store, "after" if after else "before", at(moment, act))

    def settles(self, *newer: Name) -> None:
        """All is whole now, a day later, and until nothing is left to do; then nothing lies there for nothing."""
        self.store.unwatched()
        assert set(newer) <= set(states(self.ours.bucket))
        whole(self.ours, self.made)
        left = prune(self.ours.bucket, last(1000)).actions
        whole(self.ours, self.made)
        for _ in range(8):
            self.store.time += 8 * DAY
            left = prune(self.ours.bucket, last(1000)).actions
            whole(self.ours, self.made)
            if not left:
                break
        assert left == []
        assert len(histories.packs(self.ours.bucket)) == 1


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene()


def at(number: int, act: Callable[[], object]) -> Callable[[int, str, str], None]:
    """A watcher that acts at one request, unwatched itself."""
    done = [False]

    def watch(now: int, _verb: str, _key: str) -> None:
        if now == number and not done[0]:
            done[0] = True
            act()

    return watch


def stop() -> None:
    raise Stopped


def test_the_scene_has_everything_to_do(scene: Scene) -> None:
    asked = scene.requests()
    actions = {type(action).__name__ for action in prune(scene.ours.bucket, KEEP, dry_run=True).actions}
    assert actions == {"Drop", "Delete", "Bury", "Clear"}
    assert {"get", "put", "list", "delete"} == set(asked)


@pytest.mark.parametrize("before", [True, False])
def test_killed_at_any_request_every_state_that_stays_is_whole_and_a_later_prune_ends_the_work(
    scene: Scene, before: bool, record_property: Callable[[str, int], None]
) -> None:
    kept = set(prune(scene.ours.bucket, KEEP, dry_run=True).kept)
    moments = len(scene.requests())
    for moment in range(moments):
        scene.again()
        scene.on(moment, stop, after=not before)
        with pytest.raises(Stopped):
            prune(scene.ours.bucket, KEEP)
        scene.store.unwatched()
        assert kept <= set(map(str, states(scene.ours.bucket)))
        whole(scene.ours, scene.made)
        prune(scene.ours.bucket, KEEP)
        assert kept == set(map(str, states(scene.ours.bucket)))
        scene.settles()
    record_property("kills of a prune", moments)


def test_a_request_that_fails_is_said_and_loses_nothing(scene: Scene) -> None:
    from persist.store import StoreFull

    def full() -> None:
        raise StoreFull("no space is left")

    puts = [number for number, verb in enumerate(scene.requests()) if verb == "put"]
    assert puts
    for moment in puts:
        scene.again()
        scene.on(moment, full)
        with pytest.raises(StoreFull):
            prune(scene.ours.bucket, KEEP)
        scene.settles()


OLD = 0  # of `made`: a state that the policy drops, whose pieces a sync may still build on


@pytest.mark.parametrize("step", [0, 1, 2, 3])
def test_a_sync_that_began_before_and_commits_at_any_request_of_a_prune_is_whole(scene: Scene, step: int) -> None:
    held = _dropped_contents(scene)
    for moment in scene.moments():
        scene.again()
        sync = scene.ours.steps(held)
        for _ in range(step):
            next(sync)
        committed: list[Name] = []

        def commit(sync: Iterator[str | Name] = sync, committed: list[Name] = committed) -> None:
            committed += [name for name in sync if isinstance(name, Name)]

        scene.on(moment, commit)
        prune(scene.ours.bucket, KEEP)
        (name,) = committed
        scene.made[name] = held
        scene.settles(name)


def _dropped_contents(scene: Scene) -> Held:
    """Contents of a state that goes: a sync that builds on its packs needs what the prune believes nobody needs."""
    scene.again()
    going = [
        name for name in states(scene.ours.bucket) if str(name) not in prune(scene.ours.bucket, KEEP, dry_run=True).kept
    ]
    return scene.made[going[-1]] | {"d1/newest": b"written meanwhile"}


@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_sync_that_sleeps_through_a_prune_and_wakes_is_whole(scene: Scene, step: int) -> None:
    held = _dropped_contents(scene)
    for asleep in (0.0, HOUR, DAY - HOUR):
        scene.again()
        sync = scene.ours.steps(held)
        for _ in range(step):
            next(sync)
        prune(scene.ours.bucket, KEEP)
        scene.store.time += asleep
        prune(scene.ours.bucket, KEEP)
        *_, name = sync
        assert isinstance(name, Name)
        scene.made[name] = held
        scene.settles(name)


def test_the_engine_looks_at_everything_again_when_a_sync_took_a_day(tmp_path: Path) -> None:
    """Longer ago, tombs of meanwhile may be gone with their packs; until then they are there, and seen."""
    from persist.sync.history import Tombed

    store = ClockStore()
    one = machines.machine(tmp_path / "one", store)
    one.sync(1)
    for took, again in ((DAY - HOUR, False), (DAY, True)):
        state = one.holding()
        store.time += took
        with pytest.raises(Tombed) if again else nullcontext():
            one.finish(state, 2)


def test_a_sync_that_sleeps_for_weeks_before_its_last_look_is_whole(scene: Scene) -> None:
    held = _dropped_contents(scene)
    scene.again()
    sync = scene.ours.steps(held)
    assert [next(sync), next(sync)] == ["listed", "sent"]
    for _ in range(20):
        prune(scene.ours.bucket, KEEP)
        scene.store.time += DAY / 2
    *_, name = sync
    assert isinstance(name, Name)
    scene.made[name] = held
    scene.settles(name)


def test_a_prune_in_the_middle_of_another_at_any_request_loses_nothing(scene: Scene) -> None:
    for moment in scene.moments():
        for later in (0.0, DAY):  # the first one sleeps meanwhile, so the other may delete what it buried

            def other(later: float = later) -> None:
                prune(scene.ours.bucket, KEEP)
                scene.store.time += later
                prune(scene.ours.bucket, last(3))

            scene.again()
            scene.on(moment, other)
            with suppress(StoreDamaged):  # a pack or a state that the other was faster to remove
                prune(scene.ours.bucket, KEEP)
            scene.settles()


def test_a_prune_that_sleeps_for_weeks_at_any_request_loses_nothing(scene: Scene) -> None:
    for moment in scene.moments():
        scene.again()
        scene.on(moment, lambda: _others(scene))
        with suppress(StoreDamaged, Overtaken):
            prune(scene.ours.bucket, KEEP)
        scene.settles()


def test_a_tomb_that_leads_nowhere_is_cleared_by_the_next_prune(scene: Scene) -> None:
    """Its prune slept for weeks right before the tomb, woke, wrote it, and was killed."""
    tomb = next(at for at, verb in reversed(list(enumerate(scene.requests()))) if verb == "put")

    scene.again()
    scene.on(tomb, lambda: _others(scene))
    scene.store.after = at(tomb, stop)
    with pytest.raises(Stopped):
        prune(scene.ours.bucket, KEEP)
    scene.store.unwatched()
    with pytest.raises(StoreDamaged):
        whole(scene.ours, scene.made)  # nothing is lost, but nobody can read it
    assert [damage.what for look in looks(scene.ours.bucket, "ada") for damage in look.damage] == [
        "leads nowhere: persist prune removes it"
    ]
    prune(scene.ours.bucket, last(1000))
    whole(scene.ours, scene.made)
    scene.settles()


def _others(scene: Scene) -> None:
    for _ in range(6):
        scene.store.time += 3 * DAY
        prune(scene.ours.bucket, last(3))


def test_a_prune_that_sleeps_for_weeks_right_before_its_tomb_takes_it_back(scene: Scene) -> None:
    tomb = next(at for at, verb in reversed(list(enumerate(scene.requests()))) if verb == "put")
    scene.again()
    scene.on(tomb, lambda: _others(scene))
    with pytest.raises(Overtaken):
        prune(scene.ours.bucket, KEEP)
    whole(scene.ours, scene.made)
    scene.settles()


def test_a_prune_that_sleeps_for_weeks_before_its_last_look_writes_no_tomb(scene: Scene) -> None:
    pack = next(at for at, verb in enumerate(scene.requests()) if verb == "put")
    wrote = list[str]()
    scene.again()
    scene.on(pack, lambda: None)
    asleep = [True]

    def others(number: int, _verb: str, _key: str) -> None:
        if number == pack and asleep[0]:
            asleep[0] = False
            _others(scene)
            scene.store.before = lambda _number, verb, key: wrote.append(key) if verb == "put" else None

    scene.store.after = others
    with pytest.raises(Overtaken):
        prune(scene.ours.bucket, KEEP)
    assert wrote == []
    scene.settles()


def test_packs_that_were_buried_as_left_over_and_are_led_to_after_all_stay(
    scene: Scene,
) -> None:
    """A prune sleeps for a week right before its tomb; another buries its new packs, and merges nothing itself."""
    tomb = next(at for at, verb in reversed(list(enumerate(scene.requests()))) if verb == "put")

    def other() -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(plan, "SMALL", 0)
            patch.setattr(plan, "_mostly_dead", lambda _total, _needed: False)
            scene.store.time += 7 * DAY + HOUR
            prune(scene.ours.bucket, KEEP)

    scene.again()
    scene.on(tomb, other)
    prune(scene.ours.bucket, KEEP)
    whole(scene.ours, scene.made)
    scene.settles()


def test_a_commit_that_was_on_its_way_for_a_day_and_arrives_before_packs_go_is_whole(scene: Scene) -> None:
    """Its sync looked before the tomb; it arrives at the last while the prune looks before it deletes."""
    held = _dropped_contents(scene)
    seen = list[str]()
    _on_its_way(scene, held)
    scene.store.before = lambda _number, verb, _key: seen.append(verb)
    prune(scene.ours.bucket, KEEP)
    look = max(at for at, verb in enumerate(seen[: seen.index("delete")]) if verb == "list")
    for moment in range(look + 1):
        sync, arrived = _on_its_way(scene, held), list[str | Name]()
        scene.on(moment, lambda sync=sync, arrived=arrived: arrived.extend(sync))  # type: ignore[misc]
        prune(scene.ours.bucket, KEEP)
        (name,) = arrived
        assert isinstance(name, Name)
        scene.made[name] = held
        scene.settles(name)
    scene.ours.stubborn = False


def _on_its_way(scene: Scene, held: Held) -> Iterator[str | Name]:
    scene.again()
    scene.ours.stubborn = True
    sync = scene.ours.steps(held)
    assert [next(sync), next(sync), next(sync)] == ["listed", "sent", "looked"]
    prune(scene.ours.bucket, KEEP)
    scene.store.time += DAY
    scene.store.unwatched()
    return sync


def test_a_pack_that_a_later_state_named_goes_a_day_after_the_tomb_which_that_state_is_seen_by(scene: Scene) -> None:
    held = _dropped_contents(scene)
    scene.again()
    sync = scene.ours.steps(held)
    assert [next(sync), next(sync), next(sync)] == ["listed", "sent", "looked"]
    prune(scene.ours.bucket, KEEP)
    *_, name = sync
    assert isinstance(name, Name)
    scene.made[name] = held
    commit = histories.commits.read(scene.store, scene.ours.keys, name)
    scene.store.time += DAY
    prune(scene.ours.bucket, KEEP)  # its packs are moved now: who looked before may still read them for a day
    prune(scene.ours.bucket, KEEP)
    assert {pack.id for pack in commit.packs} <= histories.packs(scene.ours.bucket).keys()
    scene.store.time += DAY
    prune(scene.ours.bucket, KEEP)
    assert {pack.id for pack in commit.packs}.isdisjoint(histories.packs(scene.ours.bucket))
    scene.settles(name)


def test_a_listing_that_is_a_day_old_loses_nothing(scene: Scene) -> None:
    """Every listing that the prune sees is from before a sync, which built on what the prune removes."""
    held = _dropped_contents(scene)
    scene.again()
    name = scene.ours.sync(held)
    scene.made[name] = held
    newer = scene.store.objects()
    stale = scene.objects

    def old(prefix: str) -> Iterator[histories.Found]:
        now = scene.store.objects()
        gone = {key: value for key, value in stale.items() if key in now}
        return iter(
            [
                histories.Found(key, len(data), when)
                for key, (data, when) in sorted(gone.items())
                if key.startswith(prefix)
            ]
        )

    assert newer.keys() > stale.keys()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scene.store, "list", old)
        for _ in range(2):
            with suppress(Overtaken):  # it does not see its own new packs
                prune(scene.ours.bucket, KEEP)
            scene.store.time += DAY - HOUR
    scene.store.time -= DAY - HOUR
    scene.store.time += HOUR
    scene.settles(name)


@pytest.mark.parametrize("jump", [DAY * 400, -DAY * 400, HOUR])
def test_a_clock_that_jumps_at_any_request_loses_nothing(scene: Scene, jump: float) -> None:
    for moment in scene.moments():

        def leap() -> None:
            scene.store.time += jump

        scene.again()
        scene.on(moment, leap)
        prune(scene.ours.bucket, KEEP)
        scene.store.unwatched()
        whole(scene.ours, scene.made)
        scene.store.time = scene.time
        held = _dropped_or(scene)
        name = scene.ours.sync(held)
        scene.made[name] = held
        prune(scene.ours.bucket, KEEP)
        whole(scene.ours, scene.made)
        assert name in states(scene.ours.bucket)


def _dropped_or(scene: Scene) -> Held:
    return {"d0/after": b"the jump"} | scene.made[scene.head] if scene.head else {}


def test_a_restore_that_looked_before_a_prune_has_a_day_to_end(scene: Scene) -> None:
    scene.again()
    name = scene.ours.head
    assert name is not None
    commit = histories.commits.read(scene.store, scene.ours.keys, name)
    packs = tombs.resolved(name, commit.packs, histories.buried(scene.ours.bucket, scene.ours.keys))
    prune(scene.ours.bucket, KEEP)
    scene.store.time += DAY - 1
    prune(scene.ours.bucket, KEEP)
    reader = Reader(scene.store, scene.ours.keys)
    reader.load_all(packs)
    found: dict[str, bytes] = {}
    histories._read(reader, commit.root[0].entry.content, "", found)
    assert found == scene.made[name]


def test_any_order_of_syncs_prunes_kills_and_sleeps_loses_nothing(record_property: Callable[[str, int], None]) -> None:
    """Two machines and prunes beside each other, by a seeded die: what is listed is always whole."""
    walks = times(25)
    for seed in range(walks):
        _walk(Random(seed))
    record_property("walks of syncs and prunes", walks)


class Walk:
    """A store, two machines, what they have committed, and syncs that are under way."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.ours = machine()
        self.store = store_of(self.ours)
        self.machines = [self.ours, Machine(self.ours.bucket, B)]
        self.made: dict[Name, Held] = {}
        self.running: list[tuple[Machine, Iterator[str | Name], Held]] = []

    def begin(self) -> None:
        """A sync begins on a machine that runs none."""
        idle = [one for one in self.machines if all(one is not other for other, _, _ in self.running)]
        if not idle:
            return
        one, random = self.random.choice(idle), self.random
        commits = agents.listed(self.store, self.ours.keys).commits
        one.head = one.head if one.head in commits else (commits[-1] if commits else None)
        base = random.choice([*self.made.values(), files(random.randrange(5), 3)])
        held = base | {f"d0/f{random.randrange(4)}": random.randbytes(random.randrange(1, 2500))}
        self.running.append((one, one.steps(held), held))

    def step(self) -> None:
        """A sync goes on by one step."""
        if not self.running:
            return self.begin()
        one, sync, held = self.running[self.random.randrange(len(self.running))]
        with suppress(StoreDamaged):  # its head was pruned under it: the real one begins anew
            for found in sync:
                if not isinstance(found, Name):
                    return None
                self.made[found] = held
        self.running.remove((one, sync, held))
        return None

    def prune(self) -> None:
        """A prune, and at one of its requests something else, or its end."""
        if not self.made:
            return
        act = self.random.choice([self.step, self.step, stop, lambda: None, self.nested])
        self.store.unwatched()
        self.store.before = at(self.random.randrange(60), act)
        with suppress(Stopped, StoreDamaged, Overtaken):
            prune(self.ours.bucket, last(self.random.randrange(1, 5)))
        self.store.unwatched()

    def nested(self) -> None:
        """Another prune, whole; perhaps the first one slept before."""
        self.sleep()
        with suppress(StoreDamaged, Overtaken):
            prune(self.ours.bucket, last(self.random.randrange(1, 5)))

    def sleep(self) -> None:
        """Time goes by for all."""
        self.store.time += self.random.choice([1.0, HOUR, 8 * HOUR, DAY, 8 * DAY])


def _walk(random: Random) -> None:
    walk = Walk(random)
    for _ in range(40):
        random.choice([walk.begin, walk.step, walk.step, walk.step, walk.prune, walk.prune, walk.sleep])()
        for name in states(walk.ours.bucket):
            assert restored(walk.ours.bucket, name) == walk.made[name]
