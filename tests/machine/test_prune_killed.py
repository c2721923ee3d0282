"""A prune of a store in a directory, ended by SIGKILL at moments between its calls into the kernel."""

import os
import shutil
from pathlib import Path
from random import Random

from persist.bucket.keys import TownKey
from persist.bucket.opening import Bucket
from persist.store.directory import DirectoryStore
from tests.machine import histories, killing
from tests.machine.days import pass_by
from tests.machine.histories import DAY, Machine, last, prune, restored, states
from tests.machine.test_prune import files
from tests.scale import SEED, times


def test_killed_at_any_call_into_the_kernel_what_stays_is_whole_and_a_later_prune_ends_the_work(
    tmp_path: Path, record_property: object
) -> None:
    first, key = tmp_path / "first", TownKey.random()
    first.mkdir(0o700)
    ours = Machine(Bucket(DirectoryStore(first), key))
    made = {}
    held = files(1)
    for at in range(8):
        held = held | {f"d0/f{at}": Random(at).randbytes(3000)}
        made[ours.sync(held)] = held
        if at == 5:
            prune(ours.bucket, last(4))
            pass_by(DAY + 60, first)

    def copied() -> Bucket:
        shutil.rmtree(tmp_path / "now", ignore_errors=True)
        shutil.copytree(first, tmp_path / "now")
        return Bucket(DirectoryStore(tmp_path / "now"), key)

    def run() -> None:
        os.environ["PYTHONWARNINGS"] = "ignore"
        prune(Bucket(DirectoryStore(tmp_path / "now"), key), last(3))

    copied()
    moments = killing.count(run)
    random = Random(SEED)
    for moment in sorted(random.sample(range(moments), min(moments, times(25)))):
        bucket = copied()
        killing.killed(run, moment)
        kept = list(made)[-3:]
        assert set(kept) <= set(states(bucket))
        for name in states(bucket):
            assert restored(bucket, name) == made[name]
        prune(bucket, last(3))
        pass_by(8 * DAY, tmp_path / "now")
        prune(bucket, last(3))
        pass_by(8 * DAY, tmp_path / "now")
        prune(bucket, last(3))
        assert states(bucket) == tuple(kept)
        for name in kept:
            assert restored(bucket, name) == made[name]
        assert len(histories.packs(bucket)) == 1
