"""A restore that is cut off goes on where it was: what was written is not fetched again, and a part never counts."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest

from persist import fetch
from persist.bucket.opening import Bucket
from persist.fill import ledger, writing
from persist.fill.plan import Row
from persist.store import Store, StoreDamaged, StoreUnreachable
from tests.machine import killing, stores, towns
from tests.machine.states import committed
from tests.machine.stores import torture, with_store
from tests.machine.towns import ADA, AS_ADA, Town, as_agent, town

__all__ = ["town"]
pytestmark = pytest.mark.root
PATHS = '["projects", { path = "scratch/results", via = "store" }]'
SAMPLES = 12


class Counting:
    """Counts what is read of packs, and is out of reach, or gives wrong bytes, after a number of reads."""

    def __init__(self, store: Store, left: int, trouble: type[Exception]) -> None:
        self._store, self._left, self._trouble = store, left, trouble
        self.bytes = 0

    def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        if key.startswith("packs/"):
            self._left -= 1
            if self._left < 0:
                raise self._trouble("enough")
        data = self._store.get(key, offset, length)
        self.bytes += len(data) if key.startswith("packs/") else 0
        return data

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)


@contextmanager
def reads(left: int = 1 << 60, trouble: type[Exception] = StoreUnreachable) -> Iterator[list[Counting]]:
    """For a block, every bucket that is opened counts its reads; all of those."""
    made: list[Counting] = []
    real = fetch.open_bucket

    def opened(*words: object) -> Bucket:
        bucket = real(*words)  # type: ignore[arg-type]
        made.append(Counting(bucket.store, left, trouble))
        return Bucket(made[-1], *(getattr(bucket, name) for name in Bucket.__slots__[1:]))  # type: ignore[arg-type,misc]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fetch, "open_bucket", opened)
        # One frame for each read, so that there is something to cut off between.
        patch.setattr(writing, "_AHEAD", 1)
        yield made


@pytest.fixture
def source(town: Town, tmp_path: Path) -> Path:
    """Forty files of 100 kB that do not compress, and the things that a tree can hold."""
    top = town.persisted / "source"
    top.mkdir()
    torture(top, small=10, big=3 << 20)
    random = Random(5)
    for number in range(40):
        (top / f"f{number}").write_bytes(random.randbytes(100_000))
    os.chown(top, ADA, ADA)
    with_store(town, PATHS)
    assert town.persist("init", "--store").status == 0
    committed(town, {"projects": top, "scratch/results": top / "many"}, piece=400_000)
    return top


def lose(town: Town) -> None:
    """Everything that a restore made but the records is gone, what it did not finish too."""
    towns.undo(town.agents / "ada/projects")
    for path in (town.agents / "ada/scratch", town.persisted / "agents/ada/projects"):
        shutil.rmtree(path, ignore_errors=True)


def whole(town: Town, source: Path) -> None:
    assert stores.facts(town.agents / "ada/projects") == stores.facts(source)
    assert stores.facts(town.agents / "ada/scratch/results") == stores.facts(source / "many")
    for place in (town.agents / "ada", town.persisted / "agents/ada"):
        assert [name for name in os.listdir(place) if name.startswith(".")] == []
    assert os.listdir(town.persisted / ".nuketown/restore") == []


def whole_or_absent(town: Town, source: Path) -> None:
    for path, right in (
        (town.persisted / "agents/ada/projects", source),
        (town.agents / "ada/scratch/results", source / "many"),
    ):
        if path.exists():
            assert stores.facts(path) == stores.facts(right)


def test_what_was_written_before_the_store_was_out_of_reach_is_not_fetched_again(town: Town, source: Path) -> None:
    with reads() as all_of_it:
        assert town.persist("restore", "ada").status == 0
    whole(town, source)
    lose(town)
    with reads(left=10) as first:
        said = town.persist("restore", "ada")
    assert said.status == 75, said.err
    assert not (town.persisted / "agents/ada/projects").exists()
    with reads() as second:
        said = town.persist("restore", "ada")
    assert said.status == 0, said.err
    whole(town, source)
    total, before, after = (sum(each.bytes for each in made) for made in (all_of_it, first, second))
    assert before > 1_000_000
    assert before + after < total + 200_000, "the directory of the pack may come twice, no file does"


def test_a_store_that_stays_out_of_reach_takes_nothing_away(town: Town, source: Path) -> None:
    for left in (8, 2, 2, 0):
        with reads(left=left):
            assert town.persist("restore", "ada").status == 75
    shutil.move(town.base / "store", town.base / "away")
    assert town.persist("restore", "ada").status != 0
    shutil.move(town.base / "away", town.base / "store")
    with reads() as last:
        assert town.persist("restore", "ada").status == 0
    whole(town, source)
    assert sum(each.bytes for each in last) < 6_000_000


def test_after_damage_nothing_of_a_part_stays(town: Town, source: Path) -> None:
    with reads(left=8, trouble=StoreDamaged):
        assert town.persist("restore", "ada").status == 1
    assert os.listdir(town.persisted / "agents/ada") == []
    assert [name for name in os.listdir(town.agents / "ada") if name.startswith(".")] == []
    assert os.listdir(town.persisted / ".nuketown/restore") == []


def cut_off(town: Town, left: int = 10) -> Path:
    """A restore that came so far; the staging of `projects`."""
    with reads(left=left):
        assert town.persist("restore", "ada").status == 75
    (stage,) = (town.persisted / "agents/ada").iterdir()
    return stage


def test_what_lies_behind_the_last_checkpoint_does_not_count_after_a_power_cut(
    town: Town, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints: list[int] = []
    real = ledger.Ledger._checkpoint

    def noted(self: ledger.Ledger, after: int, staging: int) -> None:
        if not checkpoints:  # one, and what is written behind it is in the cache only
            real(self, after, staging)
            checkpoints.append(after)

    monkeypatch.setattr(ledger, "EVERY_BYTES", 1 << 20)
    monkeypatch.setattr(ledger.Ledger, "_checkpoint", noted)
    stage = cut_off(town)
    (mark,) = (town.persisted / ".nuketown/restore").glob("*.mark")
    assert ledger._MARK.unpack(mark.read_bytes())[1] > checkpoints[0] > 0
    # The disk comes back without what was in the cache: every file that was made after the checkpoint is empty.
    lost = files_behind(town, checkpoints[0])
    for path in lost:
        (stage / "whole" / path).write_bytes(b"")
    boot(monkeypatch)
    assert lost
    with reads() as after:
        assert town.persist("restore", "ada").status == 0
    whole(town, source)
    assert sum(each.bytes for each in after) < 7_000_000, "what the checkpoint covers is not fetched again"


def files_behind(town: Town, row: int) -> list[str]:
    """Files whose pieces are all behind that row of the plan, and that were begun."""
    import sqlite3

    (path,) = (town.persisted / ".nuketown/restore").glob("*.plan")
    (stage,) = (town.persisted / "agents/ada").iterdir()
    found = sqlite3.connect(path).execute(
        "SELECT name FROM work w JOIN entries e ON e.no = w.entry WHERE e.dir = 0 GROUP BY e.no HAVING MIN(w.seq) > ?",
        (row,),
    )
    names = [os.fsdecode(name) for (name,) in found.fetchall()]
    return [name for name in names if (stage / "whole" / name).exists()]


def boot(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ledger, "_boot", lambda: b"another boot id of thirty-six letters")


def test_without_a_checkpoint_a_power_cut_begins_anew(
    town: Town, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = cut_off(town)
    boot(monkeypatch)
    said = town.persist("restore", "ada")
    assert said.status == 0
    assert f"remove  {stage} (an interrupted restore left it)" in said.out
    whole(town, source)


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.unlink(),
        lambda path: os.utime(path, ns=(0, 0)),
        lambda path: (path.unlink(), path.mkdir()),
    ],
    ids=["emptied", "gone", "of another time", "a directory"],
)
def test_a_file_that_counts_as_written_and_is_not_makes_it_begin_anew(
    town: Town, source: Path, change: Callable[[Path], object]
) -> None:
    stage = cut_off(town)
    made = (stage / "whole").glob("f*")
    done = next(path for path in made if path.stat().st_mtime_ns == (source / path.name).stat().st_mtime_ns)
    change(done)
    assert town.persist("restore", "ada").status == 0
    whole(town, source)


def in_parts(town: Town, source: Path, patch: pytest.MonkeyPatch, name: str, parts: int = 4) -> Path:
    """A restore that was cut off when it had written so many pieces of the file `name`, which it did not end."""
    real, left = writing.Writing._piece, [1] * parts

    def piece(self: writing.Writing, row: Row, data: memoryview, parent: int) -> None:
        if row[9] == os.fsencode(name):
            if not left:
                raise StoreUnreachable("enough")
            left.pop()
        real(self, row, data, parent)

    with patch.context() as cut, reads():
        cut.setattr(writing.Writing, "_piece", piece)
        assert town.persist("restore", "ada").status == 75
    (path,) = (town.persisted / "agents/ada").glob(f".nuketown-*/whole/{name}")
    assert path.stat().st_mtime_ns != (source / name).stat().st_mtime_ns
    return path


def zeros(path: Path) -> None:
    """Of the same size, and nothing in it."""
    path.write_bytes(bytes(path.stat().st_size))


@pytest.fixture
def holed(town: Town, source: Path) -> Path:
    """The same with a sparse file of several pieces."""
    random = Random(6)
    with (source / "holes").open("wb") as file:
        for at in range(1, 9):
            file.seek(at << 20)
            file.write(random.randbytes(300_000))
    os.chown(source / "holes", ADA, ADA)
    committed(town, {"projects": source, "scratch/results": source / "many"}, piece=400_000, generation=2)
    return source


@pytest.mark.parametrize("name", ["big", "holes"])
@pytest.mark.parametrize(
    "change", [lambda path: os.truncate(path, 0), Path.unlink, zeros], ids=["emptied", "gone", "zeros"]
)
def test_a_file_in_progress_that_lost_what_was_written_is_written_whole_again(
    town: Town, holed: Path, name: str, change: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    change(in_parts(town, holed, monkeypatch, name))
    assert town.persist("restore", "ada").status == 0
    whole(town, holed)


@pytest.mark.parametrize("name", ["big", "holes"])
def test_a_file_in_progress_that_lost_nothing_is_gone_on_with(
    town: Town, holed: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_parts(town, holed, monkeypatch, name)
    said = town.persist("restore", "ada")
    assert said.status == 0, said.err
    assert "an interrupted restore left it" not in said.out
    whole(town, holed)


def test_a_file_that_counts_as_written_and_lost_its_contents_under_its_size_and_time_is_written_again(
    town: Town, source: Path
) -> None:
    made = (cut_off(town) / "whole").glob("f*")
    done = next(path for path in made if path.stat().st_mtime_ns == (source / path.name).stat().st_mtime_ns)
    time = done.stat().st_mtime_ns
    zeros(done)
    os.utime(done, ns=(time, time))
    assert town.persist("restore", "ada").status == 0
    whole(town, source)


def test_a_part_that_is_too_short_is_written_again(town: Town, holed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "EVERY_BYTES", 1)  # a checkpoint behind every frame
    os.truncate(in_parts(town, holed, monkeypatch, "big"), 1000)
    assert town.persist("restore", "ada").status == 0
    whole(town, holed)


def test_what_a_checkpoint_covers_is_not_read_back(town: Town, holed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "EVERY_BYTES", 1)  # one behind every frame
    in_parts(town, holed, monkeypatch, "big")
    monkeypatch.setattr("persist.fill.left._read", lambda *_: pytest.fail("it was read"))
    assert town.persist("restore", "ada").status == 0
    whole(town, holed)


def test_a_damaged_note_is_no_note(town: Town, source: Path) -> None:
    for kind in ("claim", "mark", "plan"):
        cut_off(town)
        (path,) = (town.persisted / ".nuketown/restore").glob(f"*.{kind}")
        path.write_bytes(b"{}")
        said = town.persist("restore", "ada")
        assert said.status == 0, (kind, said.err)
        whole(town, source)
        lose(town)


def test_a_staging_that_an_agent_made_up_is_not_gone_on_with(town: Town, source: Path) -> None:
    with_store(town, '[{ path = "projects", via = "store" }, { path = "scratch/results", via = "store" }]')
    with reads(left=10):
        assert town.persist("restore", "ada").status == 75
    home = town.agents / "ada"
    (stage,) = home.glob(".nuketown-*")
    as_agent(
        AS_ADA, home,
        f"import os; os.rename({stage.name!r}, 'mine'); os.makedirs({stage.name!r} + '/whole/f0', 0o700)\n"
        f"open({stage.name!r} + '/token', 'w').write('x' * 32)",
    )  # fmt: skip
    assert town.persist("restore", "ada").status == 0
    assert stores.facts(home / "projects") == stores.facts(source)
    assert (home / stage.name).stat().st_uid == ADA, "it is the agent's own, and stays"


def test_a_directory_of_roots_with_the_stagings_name_is_not_gone_on_with(town: Town, source: Path) -> None:
    stage = cut_off(town)
    made = (stage / "whole").glob("f*")
    done = next(path for path in made if path.stat().st_mtime_ns == (source / path.name).stat().st_mtime_ns)
    found = done.stat()
    done.write_bytes(bytes(found.st_size))  # of the same size and time
    os.utime(done, ns=(found.st_mtime_ns, found.st_mtime_ns))
    (stage / "token").write_text("f" * 32)
    assert town.persist("restore", "ada").status == 0
    whole(town, source)


def test_another_state_begins_anew(town: Town, source: Path) -> None:
    stage = cut_off(town)
    (source / "new").write_text("new")
    os.chown(source / "new", ADA, ADA)
    committed(town, {"projects": source, "scratch/results": source / "many"}, generation=2)
    said = town.persist("restore", "ada")
    assert said.status == 0
    assert f"remove  {stage}" in said.out
    whole(town, source)


def test_an_agent_never_reads_what_an_interrupted_restore_left(town: Town, source: Path) -> None:
    with_store(town, '[{ path = "projects", via = "store" }, { path = "scratch/results", via = "store" }]')
    with reads(left=10):
        town.persist("restore", "ada")
    said = as_agent(
        AS_ADA, town.agents / "ada",
        "import os\n(name,) = [name for name in os.listdir('.') if name.startswith('.nuketown-')]\n"
        "for act in (lambda: os.listdir(name), lambda: os.listdir(name + '/whole'), lambda: os.rmdir(name)):\n"
        "    try: act(); print('DID')\n    except OSError: pass",
    )  # fmt: skip
    assert said.out == b""


def test_a_restore_that_is_killed_anywhere_is_finished_by_the_next(town: Town, source: Path) -> None:
    def run() -> None:
        with reads():
            town.persist("restore", "ada")

    run()
    lose(town)
    moments = killing.count(run)
    whole(town, source)
    random = Random(7)
    sampled = sorted(random.sample(range(moments), SAMPLES))
    for moment in sampled:
        lose(town)
        killing.killed(run, moment)
        whole_or_absent(town, source)
        said = town.persist("restore", "ada")
        assert said.status == 0, (moment, said.err)
        whole(town, source)
