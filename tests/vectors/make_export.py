"""Makes tests/vectors/export: a file of `persist export`, a key, what it holds. Once a version, by hand."""

import json
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

import pyrage

from persist.about import About
from persist.bucket import commits, trees
from persist.bucket.blobs import Writer
from persist.bucket.commits import Commit, Name, Top
from persist.bucket.content import Content
from persist.bucket.keys import AgentKeys, TownKey
from persist.bucket.trees import Entry
from persist.parcel import story, wire
from persist.parcel.story import Story
from persist.parcel.wire import Outgoing

PLACE = Path(__file__).parent / "export"
NOW = datetime(2026, 11, 22, 3, 30, tzinfo=UTC)
HELD = {"home/notes.md": "remember\n", "home/work/empty": "", "persisted/projects/a": "x" * 5000}


def main() -> None:
    """Write the three files."""
    identity = pyrage.x25519.Identity.generate()
    (PLACE / "key.txt").write_text(f"# for tests\n{identity}\n")
    key = TownKey.random()
    keys = AgentKeys.of(key, wire.AGENT)
    with (PLACE / "version-1.nuketown").open("wb") as file:
        out = Outgoing(file.fileno())
        out.put(wire.KEY, wire.seal_key(key, (str(identity.to_public()),), NOW))
        with Writer(out, keys) as writer:
            tops = _tops(writer)
            packs = tuple(placed.pack for placed in writer.finish())
        commit = Commit(wire.AGENT, NOW, "moon", "0" * 32, 1, None, tops, packs, 1100, 1100)
        name = Name.fresh(1, commit.machine)
        out.put(commits.key(keys, name), commits.sealed(keys, name, commit))
    (PLACE / "version-1.json").write_text(json.dumps(HELD, indent=1) + "\n")


def _tops(writer: Writer) -> tuple[Top, ...]:
    told = Story("ada", "one", "snapshot", "moon", "2026-11-22T03:30:00Z", False, About(time=NOW, message="a vector"))
    said = story.dumped(told)
    work = _directory(writer, "work", [_file(writer, "empty", b"")])
    home = _directory(writer, "home", [_file(writer, "notes.md", HELD["home/notes.md"].encode()), work])
    projects = _directory(writer, "projects", [_file(writer, "a", HELD["persisted/projects/a"].encode())])
    return (
        Top(PurePosixPath("about"), _directory(writer, "about", [_file(writer, "about", said)]), 1, len(said)),
        Top(PurePosixPath("home"), home, 2, len(HELD["home/notes.md"])),
        Top(PurePosixPath("persisted/projects"), projects, 1, len(HELD["persisted/projects/a"])),
    )


def _file(writer: Writer, name: str, data: bytes) -> Entry:
    content = Content((writer.add("data", data),) if data else ())
    return Entry(name.encode(), "file", 0o644, 10**18, size=len(data), content=content)


def _directory(writer: Writer, name: str, entries: list[Entry]) -> Entry:
    return Entry(name.encode(), "dir", 0o755, 10**18, content=trees.write(writer, entries))


if __name__ == "__main__":
    main()
