"""Sync and restore as whole processes beside restic and tar, on one S3 server in one run; every figure a row."""

import json
import os
import statistics
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench import clock, corpus, peers, server
from bench.clock import Took
from bench.counter import Traffic
from bench.figures import Report, profiled
from bench.peers import Peer
from bench.server import BUCKET, Server
from demo import loopback
from town import btrfs, files, kernel, process
from town.failure import ToolFailed

FILES = int(os.environ.get("FILES", "20000"))
FLAT = int(os.environ.get("FLAT", str(min(FILES, 100_000))))
SYNCS = int(os.environ.get("SYNCS", "20"))
MILLION = int(os.environ.get("MILLION", "0")) and max(1_000_000, int(os.environ["MILLION"]))
DIRECTORY = os.environ.get("STORE") == "file"  # file:// in place of S3, for comparison
SIZE = 60 << 30  # of the sparse image that holds the homes
ADA, VOX = 41100, 41101
_NOATIME = 1024  # mount(2) MS_NOATIME
_SPEC = """
[town]
domain = "bench.local"
agents_dir = "/agents"
persist_dir = "/persist"
store = "{url}"
store_credentials = "/town/s3"
host_key.age = "/town/age.key"
[town.recipients]
humans = ["{key}"]
hosts = {{ bench = "{key}" }}
[agents.ada]
uid = 41100
persist = [{{ path = "projects", via = "store" }}]
[agents.vox]
uid = 41101
persist = [{{ path = "flat", via = "store" }}]
"""
PROJECTS, FLAT_DIR = Path("/agents/ada/projects"), Path("/agents/vox/flat")
Times = dict[str, float]  # seconds of ours, by row
OTHER = Path("/agents/.peers")  # where peers restore to: the same filesystem


@dataclass(slots=True)
class Bench:
    """One machine with its town, the server and the peers."""

    server: Server
    device: str
    spec: Path
    report: Report = field(default_factory=Report)
    restic: Peer | None = None
    tar: Peer | None = None

    def persist(self, *words: str) -> list[str]:
        """A command line."""
        return ["persist", "--spec", str(self.spec), *words]

    def ours(self, name: str, *words: str, note: str = "", env: Mapping[str, str] | None = None) -> "Ran":
        """Run a command of ours, print its row."""
        os.sync()
        before = self.server.counter.now()
        took = clock.run(self.persist(*words), env=env)
        traffic = self.server.counter.now() - before
        self.report.row(name, "persist", took, traffic, note)
        return Ran(took, traffic)

    def theirs(self, peer: Peer | None, command: tuple[str, ...]) -> Took | None:
        """Run a peer, print its row."""
        if peer is None:
            return None
        os.sync()
        before = self.server.counter.now()
        took = clock.run(command, env=peer.environment)
        self.report.row("", peer.name, took, self.server.counter.now() - before)
        return took

    def against(self, row: str, what: str, ours: float, peer: Took | None, most: float, goal: float | None = None,
                part: str = "wall") -> None:  # fmt: skip
        """A figure that is a ratio to a peer."""
        value = None if peer is None else ours / getattr(peer, part)
        self.report.figure(row, what, value, most, goal)


@dataclass(frozen=True, slots=True)
class Ran:
    """What one of our commands took and sent."""

    took: Took
    traffic: Traffic

    @property
    def wall(self) -> float:
        return self.took.wall


def measure(place: Path) -> None:
    """All rows, in the order of a machine's life; its disks lie in the directory `place`."""
    with machine(place) as bench:
        times: dict[str, float] = {}
        for part in (first, nothing_changed, lease_due, changed, restore, after_restore, flat, many_syncs, million):
            try:
                part(bench, times)
            except (clock.Failed, ToolFailed, KeyError) as error:  # one row that cannot be measured hides no other
                print(f"{part.__name__}: FAILED: {error}", flush=True)
                bench.report.figure(part.__name__, "FAILED, see above", float("inf"), 0)
        bench.report.end()


@contextmanager
def machine(place: Path) -> Iterator[Bench]:
    """A town with a home on btrfs, an empty bucket, and the corpus in the home."""
    process.run(["age-keygen", "-o", "/town/age.key"])
    Path("/town/age.key").chmod(0o400)
    key = process.run(["age-keygen", "-y", "/town/age.key"]).out.decode().strip()
    with _disk(place, "homes") as device, _disk(place, "server") as other:
        _mount(device, "agents", "persist")
        _mount(other, "backup")
        with server.started(Path("/backup/s3")) as there:
            bench = _town(there, device, key)
            made = corpus.make(PROJECTS, FILES, owner=ADA)
            OTHER.mkdir()
            bench.restic, bench.tar = peers.found(there, PROJECTS, OTHER)
            _introduce(bench, made)
            yield bench


def _town(there: Server, device: str, key: str) -> Bench:
    path, spec = Path("/town/s3"), Path("/town/town.toml")
    path.touch(mode=0o400)
    path.write_text(f"[default]\naws_access_key_id = {there.access}\naws_secret_access_key = {there.secret}\n")
    url = "file:///backup/store" if DIRECTORY else there.url("town")
    spec.write_text(_SPEC.format(url=url, key=key))
    bench = Bench(there, device, spec)
    process.run(bench.persist("init", "--store"))
    process.run(bench.persist("restore"))
    return bench


def _introduce(bench: Bench, made: corpus.Made) -> None:
    size = f"{made.files} files, {made.directories} directories, {made.bytes / 1e6:.0f} MB on btrfs"
    print(f"\nsync: {size}; {bench.server.name}")
    print("wall, CPU with children, peak memory of one process; requests and bytes between client and server")
    if bench.restic is None:
        print(peers.NO_RESTIC)


@contextmanager
def _disk(place: Path, name: str) -> Iterator[str]:
    """A btrfs of its own; its image has no name any more when this returns, so nothing is left however this ends."""
    image = place / f"nuketown-bench-{name}-{os.getpid()}"
    with image.open("xb") as file:
        file.truncate(SIZE)
    try:
        process.run(["mkfs.btrfs", "--quiet", image])
        attached = loopback.attached(image)
        device = attached.__enter__()
    finally:
        image.unlink()
    try:
        yield device
    finally:
        attached.__exit__(None, None, None)


def _mount(device: str, *names: str) -> None:
    with btrfs.top_level(device) as top:
        for name in names:
            os.close(btrfs.create(top, f"@{name}"))
    for name in names:
        Path("/", name).mkdir(exist_ok=True)
        kernel.mount(device, f"/{name}", "btrfs", _NOATIME, f"subvol=@{name}")


def first(bench: Bench, _: Times) -> None:
    """The first sync of everything."""
    row = "first sync"
    ours = bench.ours(row, "sync", "ada")
    restic = bench.theirs(bench.restic, bench.restic.backup if bench.restic else ())
    tar = bench.theirs(bench.tar, bench.tar.backup if bench.tar else ())
    bench.against(row, f"of {_name(bench.restic)}'s time", ours.wall, restic, 0.75, 0.6)
    bench.against(row, f"of {_name(bench.restic)}'s CPU", ours.took.cpu, restic, 0.6, part="cpu")
    bench.against(row, "of tar | zstd -1 | upload", ours.wall, tar, 1.6, 1.3)
    _memory(bench, row, ours)
    stored = bench.server.size("town") if not DIRECTORY else _du(Path("/backup/store"))
    theirs = bench.server.size(bench.restic.prefix) if bench.restic else None
    print(f"{'stored bytes':<26}persist {stored / 1e6:.1f} MB, {_name(bench.restic)} {(theirs or 0) / 1e6:.1f} MB")
    bench.report.figure("stored bytes", f"of {_name(bench.restic)}'s", theirs and stored / theirs, 1.02)
    bench.report.repeatable(row, lambda: _first_profiled(bench))
    bench.report.profile_missed(row)


def nothing_changed(bench: Bench, times: Times) -> None:
    """A sync of what was synced: the median of three runs."""
    row = "nothing changed"
    runs = [bench.ours(row, "sync", "ada") for _ in range(3)]
    restic = bench.theirs(bench.restic, bench.restic.backup if bench.restic else ())
    wall = statistics.median(run.wall for run in runs)
    bench.against(row, f"of {_name(bench.restic)}'s time", wall, restic, 0.05)
    bench.report.figure(row, "ms", wall * 1e3, 150)
    bench.report.figure(row, "requests", max(run.traffic.requests for run in runs), 0)
    bench.report.figure(row, "modules of boto3 imported", _boto(bench), 0)
    times[row] = wall
    bench.report.repeatable(row, lambda: profiled(bench.persist("sync", "ada")))
    bench.report.profile_missed(row)


def lease_due(bench: Bench, _: Times) -> None:
    """The same where the lease is due: half of its time is gone."""
    row = "lease due"
    if not _age_lease("ada"):
        print(f"{row:<26}no lease is known here: not measured")
        return
    ours = bench.ours(row, "sync", "ada")
    bench.report.figure(row, "ms", ours.wall * 1e3, 600)
    bench.report.figure(row, "requests", ours.traffic.requests, 1)


def changed(bench: Bench, times: Times) -> None:
    """10 and 100 files of all changed."""
    corpus.touch(PROJECTS, 10, seed=3)
    times["10 changed"] = bench.ours("10 changed", "sync", "ada").wall
    row = "100 changed"
    corpus.touch(PROJECTS, 100, seed=4)
    ours = bench.ours(row, "sync", "ada")
    restic = bench.theirs(bench.restic, bench.restic.backup if bench.restic else ())
    bench.against(row, f"of {_name(bench.restic)}'s time", ours.wall, restic, 0.15)
    bench.report.figure(row, "requests", ours.traffic.requests, 6)
    bench.report.figure(row, "MB sent", ours.traffic.sent / 1e6, 2)
    bench.report.repeatable(row, lambda: _profiled_after(bench, lambda: corpus.touch(PROJECTS, 100, seed=5)))
    bench.report.profile_missed(row)


def restore(bench: Bench, times: Times) -> None:
    """Everything back into an empty home, after a reboot."""
    row = "full restore"
    reboot(bench)
    ours = bench.ours(row, "restore", "ada")
    restic = _restored(bench, bench.restic)
    tar = _restored(bench, bench.tar)
    bench.against(row, f"of {_name(bench.restic)}'s time", ours.wall, restic, 0.6)
    bench.against(row, "of download | zstd -d | tar x", ours.wall, tar, 1.1)
    _memory(bench, row, ours)
    bench.report.repeatable(row, lambda: _profiled_restore(bench))
    times[row] = ours.wall


def after_restore(bench: Bench, times: Times) -> None:
    """The first sync after a reboot and restore knows what the restore wrote."""
    row = "sync after restore"
    ours = bench.ours(row, "sync", "ada")
    bench.report.figure(row, "of `nothing changed`", ours.wall / times["nothing changed"], 2)
    bench.report.profile_missed("full restore")


def flat(bench: Bench, _: Times) -> None:
    """One name changed in a directory of 100,000."""
    row = f"1 of {FLAT} in one dir"
    process.run(bench.persist("restore", "vox"))
    corpus.flat(FLAT_DIR / "names", FLAT)
    process.run(["chown", "-R", f"{VOX}:{VOX}", str(FLAT_DIR / "names")])
    bench.ours("", "sync", "vox", note="(its first)")
    (FLAT_DIR / f"names/entry-{FLAT // 2:07d}.txt").write_text("changed\n")
    ours = bench.ours(row, "sync", "vox")
    bench.report.figure(row, "KB sent", ours.traffic.sent / 1e3, 200)


def many_syncs(bench: Bench, times: Times) -> None:
    """A history of syncs and one prune make a restore little slower."""
    row = f"restore after {SYNCS} syncs"
    for number in range(SYNCS):
        corpus.touch(PROJECTS, 100, seed=1000 + number)
        process.run(bench.persist("sync", "ada"))
    bench.ours("", "prune", "ada", note="(prune)")
    reboot(bench)
    ours = bench.ours(row, "restore", "ada")
    bench.report.figure(row, "of the restore after one", ours.wall / times["full restore"], 1.3)
    _memory(bench, row, ours)


def million(bench: Bench, times: Times) -> None:
    """10 changed of a million files, in place of the smaller corpus; and a whole restore of them, for its memory."""
    if not MILLION:
        return
    row = f"10 of {MILLION}"
    process.run(["find", str(PROJECTS), "-mindepth", "1", "-delete"])
    made = corpus.make(PROJECTS, MILLION, owner=ADA)
    print(f"a million: {made.files} files, {made.directories} directories, {made.bytes / 1e6:.0f} MB")
    whole = bench.ours("", "sync", "ada", "--accept-loss", note="(its first)")
    corpus.touch(PROJECTS, 10, seed=6)
    ours = bench.ours(row, "sync", "ada")
    bench.report.figure(row, f"of 10 of {FILES}", ours.wall / times["10 changed"], 1.5)
    bench.report.figure(row, "MB of memory, first sync", whole.took.peak, 400)
    reboot(bench)
    back = bench.ours("", "restore", "ada", note="(all of it back)")
    bench.report.figure(row, "MB of memory, restore", back.took.peak, 400)


def reboot(bench: Bench) -> None:
    """What a boot does to homes: @agents is a new, empty subvolume. What peers restored goes too."""
    process.run(["umount", "--recursive", "--lazy", "/agents"])
    with btrfs.top_level(bench.device) as top:
        _delete(top, "@agents")
        os.close(btrfs.create(top, "@agents"))
        btrfs.commit(top)
    kernel.mount(bench.device, "/agents", "btrfs", _NOATIME, "subvol=@agents")
    OTHER.mkdir()


def _delete(directory: int, name: str) -> None:
    """Delete a subvolume with those in it, which lie right below its own root."""
    with files.opened(files.open_beneath(directory, name)) as fd:
        for nested in btrfs.nested(fd):
            _delete(fd, os.fsdecode(nested.path))
    btrfs.delete(directory, name)


def _restored(bench: Bench, peer: Peer | None) -> Took | None:
    took = bench.theirs(peer, peer.restore if peer else ())
    process.run(["find", str(OTHER), "-mindepth", "1", "-delete"])
    return took


def _memory(bench: Bench, row: str, ran: Ran) -> None:
    bench.report.figure(row, "MB of memory", ran.took.peak, 200 if FILES <= 100_589 else 400)


def _name(peer: Peer | None) -> str:
    return peer.name if peer else "restic"


def _boto(bench: Bench) -> int:
    """How many modules of boto3 a sync without changes imports."""
    argv = bench.persist("sync", "ada")
    env = os.environ | {"PYTHONPROFILEIMPORTTIME": "1"}
    said = subprocess.run(argv, env=env, capture_output=True, check=True, text=True).stderr
    return sum("boto" in line for line in said.splitlines() if line.startswith("import time:"))


def _age_lease(agent: str, hours: float = 13) -> bool:
    """Put back when this machine's own record says that its lease was granted; False when it says nothing."""
    found = next(Path("/persist").rglob(f"sync/{agent}.json"), None)
    record = json.loads(found.read_text()) if found else {}
    if found is None or not record.get("lease"):
        return False
    record["lease"]["wall"] -= hours * 3600
    found.write_text(json.dumps(record))
    return True


def _du(path: Path) -> int:
    return sum(found.stat().st_size for found in path.rglob("*") if found.is_file())


def _first_profiled(bench: Bench) -> str:
    """A first sync once more: another store, another state directory, the same home."""
    spec = Path("/town/again/town.toml")
    spec.parent.mkdir()
    text = bench.spec.read_text().replace('"/persist"', '"/persist/again"').replace(f"{BUCKET}/town", f"{BUCKET}/again")
    Path("/persist/again").mkdir(mode=0o755)
    spec.write_text(text.replace("/backup/store", "/backup/again"))
    other = Bench(bench.server, bench.device, spec)
    process.run(other.persist("init", "--store"))
    return profiled(other.persist("sync", "ada"))


def _profiled_after(bench: Bench, change: Callable[[], object]) -> str:
    change()
    return profiled(bench.persist("sync", "ada"))


def _profiled_restore(bench: Bench) -> str:
    reboot(bench)
    return profiled(bench.persist("restore", "ada"))
