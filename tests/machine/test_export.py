"""`persist export` and `persist import`: a kept home as one encrypted file, and what hostile files come to."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from random import Random
from typing import Any

import pyrage
import pytest

from persist.about import About
from persist.bucket import commits, trees
from persist.bucket.blobs import Writer
from persist.bucket.commits import Commit, Name, Top
from persist.bucket.content import Content
from persist.bucket.keys import AgentKeys, TownKey
from persist.bucket.trees import Entry
from persist.parcel import story, wire
from persist.parcel.story import Story
from persist.parcel.wire import Incoming, Outgoing
from tests.machine.shapes import Seen, walked
from tests.machine.stores import torture
from tests.machine.towns import ADA, AS_ADA, Said, Town, as_agent, town
from tests.scale import SEED, times
from town import btrfs, files, kernel, process

__all__ = ["town"]
pytestmark = pytest.mark.root
CANARY = "what only the home holds"
VECTORS = Path(__file__).parents[1] / "vectors/export"


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """A person's age key."""
    place = tmp_path / "key"
    place.write_text(str(pyrage.x25519.Identity.generate()) + "\n")
    place.chmod(0o600)
    return place


def public(key: Path) -> str:
    return str(pyrage.x25519.Identity.from_str(key.read_text().strip()).to_public())


@pytest.fixture
def lived(town: Town, key: Path) -> Town:
    """Ada's home, with everything that a tree can hold, kept as ada@one."""
    town.write('["projects"]', town=f'recipients = {{ humans = ["{public(key)}"] }}\n')
    assert town.persist("restore").status == 0
    home = town.agents / "ada"
    (home / "work").mkdir()
    torture(home / "work", small=10, big=3 << 20)
    as_agent(AS_ADA, home, f"open('projects/work', 'w').write('{CANARY}'); open('note', 'w').write('{CANARY}')")
    said = town.persist("snapshot", "ada", "--name", "one", "-m", "before the upgrade")
    assert said.status == 0, said
    return town


@contextmanager
def shelf(town: Town) -> Iterator[Path]:
    """@agents-snapshots at a path."""
    top = town.base / "top"
    top.mkdir(exist_ok=True)
    kernel.mount(town.device, str(top), "btrfs", 0, "subvolid=5")
    try:
        yield top / "@agents-snapshots"
    finally:
        kernel.umount(str(top))


def names(town: Town) -> list[str]:
    """Everything that lies with kept homes, hidden or not, but for what tests put there themselves."""
    with shelf(town) as top:
        return sorted(f"{agent.name}@{entry.name}" for agent in top.iterdir() for entry in agent.iterdir())


def exported(town: Town, *words: str) -> Path:
    file = town.base / "ada.nuketown"
    said = town.persist("export", "ada@one", str(file), *words)
    assert (said.status, said.out) == (0, f"{file}\n"), said
    return file


def brought(town: Town, file: Path, key: Path) -> Said:
    return town.persist("import", str(file), "--key", str(key))


def plain(seen: Seen) -> Seen:
    """Without the bits that would lend somebody's rights."""
    return replace(seen, mode=seen.mode & 0o1777)


def test_a_home_comes_back_as_it_was_with_what_it_persisted(lived: Town, key: Path) -> None:
    file = exported(lived)
    assert file.stat().st_mode & 0o777 == 0o600
    said = brought(lived, file, key)
    assert (said.status, said.out) == (0, "ada@one.1\n"), said
    with shelf(lived) as top:
        for part in ("home", "persisted/projects"):
            before, after = (walked(top / "ada" / name / part) for name in ("one", "one.1"))
            assert set(before) == set(after)
            assert not [path for path in before if plain(before[path]).differs(after[path])]
            assert {path: seen.names for path, seen in before.items()} == {
                path: seen.names for path, seen in after.items()
            }
        with files.opened(files.open_dir(top / "ada/one.1/home")) as fd:
            assert btrfs.info(fd).read_only
        assert (top / "ada/one.1").stat().st_mode & 0o777 == 0o700
    told = json.loads(lived.persist("diff", "ada@one", "ada@one.1", "--json").out)
    assert {tuple(change["what"]) for change in told["changes"]} == {("mode",)}  # the set-id bits


def test_an_imported_home_is_listed_with_its_origin(lived: Town, key: Path) -> None:
    said = lived.persist("import", str(exported(lived)), "--key", str(key), "--json")
    told = json.loads(said.out)
    assert (told["name"], told["made"], told["message"]) == ("ada@one.1", True, "before the upgrade")
    assert told["origin"]["name"] == "ada@one"
    listed = lived.persist("homes", "ada")
    assert "ada@one.1" in listed.out
    assert "import" in listed.out, listed.out


def test_a_dry_run_makes_nothing(lived: Town, key: Path) -> None:
    before = names(lived)
    said = lived.persist("import", str(exported(lived)), "--key", str(key), "--dry-run")
    assert (said.status, said.out) == (0, "import    ada@one\n"), said
    assert names(lived) == before


def test_only_those_who_were_named_can_open_it(lived: Town, key: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text(str(pyrage.x25519.Identity.generate()) + "\n")
    other.chmod(0o600)
    file = exported(lived)
    said = brought(lived, file, other)
    assert said.status == 1
    assert "no key at hand opens" in said.err
    assert "--key FILE" in said.err
    file.unlink()
    assert brought(lived, exported(lived, "--to", public(other)), other).status == 0
    file.unlink()
    assert brought(lived, exported(lived, "--to", public(other)), key).status == 1
    assert names(lived) == ["ada@one", "ada@one.1"]


def test_an_ssh_key_opens_what_was_made_for_it(lived: Town, tmp_path: Path) -> None:
    key = tmp_path / "id"
    process.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key])
    assert brought(lived, exported(lived, "--to", key.with_suffix(".pub").read_text().strip()), key).status == 0


def test_nothing_of_the_home_stands_in_it_in_clear(lived: Town) -> None:
    data = exported(lived).read_bytes()
    for word in (CANARY.encode(), b"in the middle", b"projects", b"before the upgrade", b"ada@", b"many"):
        assert word not in data, word


def test_who_is_nobody_is_refused_before_anything_is_read(lived: Town) -> None:
    for to in ("age1nobody", "AGE-SECRET-KEY-1", "bob"):
        said = lived.persist("export", "ada@one", str(lived.base / "x"), "--to", to)
        assert said.status == 2, said
        assert not (lived.base / "x").exists()


def test_through_pipes(lived: Town, key: Path) -> None:
    run = [
        sys.executable,
        "-c",
        "import sys; from persist.cli import main; sys.exit(main())",
        "--spec",
        str(lived.file),
    ]
    out = subprocess.run([*run, "export", "ada@one", "-"], check=True, capture_output=True)
    assert out.stdout.startswith(b"nuketown export 1\n")
    done = subprocess.run([*run, "import", "-", "--key", str(key)], input=out.stdout, check=True, capture_output=True)
    assert done.stdout == b"ada@one.1\n"


def test_a_file_that_was_cut_or_changed_anywhere_is_refused_and_nothing_appears(lived: Town, key: Path) -> None:
    whole = exported(lived).read_bytes()
    before, file, random = names(lived), lived.base / "bad", Random(SEED)
    ends = [0, 5, len(wire.MAGIC), len(wire.MAGIC) + 1, len(whole) - 1, *random.sample(range(len(whole)), times(12))]
    damaged = [whole[:end] for end in ends]
    places = [len(wire.MAGIC), len(wire.MAGIC) + 2, len(whole) - 1, *random.sample(range(len(whole)), times(16))]
    damaged += [whole[:at] + bytes([whole[at] ^ random.randrange(1, 256)]) + whole[at + 1 :] for at in places]
    damaged += [whole + b"x", whole + whole[len(wire.MAGIC) :], whole.replace(b"export 1", b"export 2", 1)]
    for data in damaged:
        file.write_bytes(data)
        said = brought(lived, file, key)
        assert said.status == 1, (len(data), said)
        assert "unexpected" not in said.err
        assert "--debug" not in said.err, said
        assert names(lived) == before


def test_objects_in_another_order_or_twice_are_refused(lived: Town, key: Path) -> None:
    file = exported(lived)
    with file.open("rb") as there:
        objects = list(Incoming(there.fileno()).objects)
    parts = {name: _object(file, name) for name in objects}
    before = names(lived)
    for order in (objects[::-1], [*objects, objects[1]], objects[:-2] + objects[-1:], [*objects[1:]], objects[1:2]):
        (lived.base / "bad").write_bytes(wire.MAGIC + b"".join(parts[name] for name in order))
        said = brought(lived, lived.base / "bad", key)
        assert said.status == 1, (order, said)
        assert names(lived) == before


def _object(file: Path, name: str) -> bytes:
    with file.open("rb") as there:
        data = Incoming(there.fileno()).get(name)
    return len(name).to_bytes(2, "big") + name.encode() + len(data).to_bytes(8, "big") + data


def test_keys_and_credentials_are_pointed_out_or_left_out(lived: Town, key: Path) -> None:
    home = lived.agents / "ada"
    as_agent(AS_ADA, home, "import os; os.mkdir('.ssh'); open('.ssh/id_ed25519', 'w').write('PRIVATE')")
    as_agent(AS_ADA, home, "[open(name, 'w').write('login') for name in ('.netrc', 'projects/.netrc')]")
    assert lived.persist("snapshot", "ada", "--name", "two").status == 0
    said = lived.persist("export", "ada@two", str(lived.base / "with"))
    assert said.status == 0
    assert "holds keys and credentials" in said.err
    assert ".netrc" in said.err
    said = lived.persist("export", "ada@two", str(lived.base / "without"), "--without-secrets")
    assert said.status == 0, said
    assert "left out" in said.err
    assert lived.persist("import", str(lived.base / "without"), "--key", str(key)).out == "ada@two.1\n"
    with shelf(lived) as top:
        found = walked(top / "ada/two.1")
        assert not [path for path in found if b".netrc" in path or b"id_ed25519" in path]
        assert b"home/note" in found
        kept = walked(top / "ada/two")
        assert b"home/.netrc" in kept
        assert b"persisted/projects/.netrc" in kept
        assert not os.listdir(top.parent / ".nuketown-sync")


def test_files_of_several_nested_subvolumes_stay_apart(lived: Town, key: Path) -> None:
    """Inodes of two subvolumes have the same numbers; so may files with several names."""
    home = lived.agents / "ada"
    with files.opened(files.open_dir(home)) as fd:
        for name in ("s1", "s2"):
            with files.opened(btrfs.create(fd, name)) as inner:
                files.write_beneath(inner, "a", name.encode())
                os.link("a", "b", src_dir_fd=inner, dst_dir_fd=inner)
                with files.opened(btrfs.create(inner, "deeper")) as deeper:
                    files.write_beneath(deeper, "a", b"deeper in " + name.encode())
    assert lived.persist("snapshot", "ada", "--name", "two").status == 0
    assert lived.persist("export", "ada@two", str(lived.base / "x")).status == 0
    assert brought(lived, lived.base / "x", key).status == 0
    with shelf(lived) as top:
        there = top / "ada/two.1/home"
        assert [(there / name).read_text() for name in ("s1/a", "s1/b", "s2/a", "s2/b")] == ["s1", "s1", "s2", "s2"]
        assert (there / "s1/b").samefile(there / "s1/a")
        assert not (there / "s1/a").samefile(there / "s2/a")
        assert (there / "s2/deeper/a").read_text() == "deeper in s2"


def test_what_is_there_is_not_touched(lived: Town) -> None:
    (lived.base / "there").write_text("mine")
    (lived.base / "link").symlink_to("there")
    for name in ("there", "link"):
        said = lived.persist("export", "ada@one", str(lived.base / name))
        assert said.status == 1
        assert "is there already" in said.err
    assert (lived.base / "there").read_text() == "mine"
    assert not [name for name in os.listdir(lived.base) if name.endswith(".new")]


def test_a_full_disk_leaves_no_half_file(lived: Town) -> None:
    small = lived.base / "small"
    small.mkdir()
    kernel.mount("tmpfs", str(small), "tmpfs", 0, "size=1m")
    said = lived.persist("export", "ada@one", str(small / "x"))
    assert said.status == 1
    assert "No space left" in said.err, said
    assert os.listdir(small) == []


def forged(file: Path, key: Path, make: Callable[[Writer], list[Top]], **changed: object) -> Path:
    """A file as somebody would make it who knows the format and a recipient: `make` gives what it holds."""
    town_key = TownKey.random()
    keys = AgentKeys.of(town_key, wire.AGENT)
    with file.open("wb") as there:
        out = Outgoing(there.fileno())
        out.put(wire.KEY, wire.seal_key(town_key, (public(key),), datetime.now(UTC)))
        with Writer(out, keys) as writer:
            told = Story("ada", "forged", "snapshot", "host", "now", without_secrets=False, about=About())
            data = story.dumped(told) if "about" not in changed else changed["about"]
            assert isinstance(data, bytes)
            entry = Entry(b"about", "file", 0o600, 0, size=len(data), content=Content((writer.add("data", data),)))
            about = Top(PurePosixPath("about"), directory(writer, b"about", [entry]), 1, len(data))
            tops = (about, *make(writer))
            packs = tuple(each.pack for each in writer.finish())
        commit = Commit(wire.AGENT, datetime.now(UTC), "h", "0" * 32, 1, None, tops, packs, ADA, ADA)
        name = Name.fresh(1, commit.machine)
        out.put(commits.key(keys, name), commits.sealed(keys, name, commit))
    return file


def directory(writer: Writer, name: bytes, entries: list[Entry]) -> Entry:
    return Entry(name, "dir", 0o755, 0, content=trees.write(writer, entries))


def of(writer: Writer, entries: list[Entry], count: int = 1, size: int = 1, path: str = "home") -> list[Top]:
    return [Top(PurePosixPath(path), directory(writer, b"home", entries), count, size)]


def a_file(writer: Writer, name: bytes = b"f", **changed: Any) -> Entry:
    held = Entry(name, "file", 0o644, 0, size=1, content=Content((writer.add("data", b"x"),)))
    return replace(held, **changed)


def large(writer: Writer, name: bytes) -> Entry:
    """256 MiB that are 4 MiB of zeros again and again: some bytes in the file."""
    return a_file(writer, name, size=1 << 28, content=Content((writer.add("data", bytes(4 << 20)),) * 64))


BAD: dict[str, Callable[[Writer], list[Top]]] = {
    "a path": lambda w: of(w, [a_file(w, b"../../etc/x")]),
    "up": lambda w: of(w, [a_file(w, b"..")]),
    "no name": lambda w: of(w, [a_file(w, b"")]),
    "a NUL": lambda w: of(w, [a_file(w, b"a\0b")]),
    "twice": lambda w: of(w, [a_file(w), a_file(w)], 2, 2),
    "more than it says": lambda w: of(w, [a_file(w), a_file(w, b"g")]),
    "less than it says": lambda w: of(w, [a_file(w)], 2, 2),
    "another size": lambda w: of(w, [a_file(w, size=9)], 1, 9),
    "a piece that is not there": lambda w: of(w, [a_file(w, content=Content((bytes(32),)))]),
    "a listing that is a file": lambda w: [
        Top(PurePosixPath("home"), Entry(b"home", "dir", 0o755, 0, content=Content((w.add("data", b"x"),))), 0, 0)
    ],
    "no home": lambda w: of(w, [a_file(w)], path="persisted/x"),
    "something else": lambda w: [*of(w, [a_file(w)]), *of(w, [a_file(w)], path="etc")],
    "links of two files": lambda w: of(
        w, [a_file(w, link="1"), a_file(w, b"g", link="1", content=Content((w.add("data", b"y"),)))], 2, 2
    ),
    "an attribute of root's": lambda w: of(w, [a_file(w, xattrs=((b"security.capability", b"x"),))]),
    "a bomb of pieces": lambda w: of(w, [large(w, b"g%02d" % number) for number in range(30)], 30, 30 << 28),
}  # fmt: skip


def test_a_file_that_lies_is_refused_and_nothing_appears(lived: Town, key: Path) -> None:
    before = names(lived)
    for name, make in BAD.items():
        said = brought(lived, forged(lived.base / "forged", key, make), key)
        assert said.status == 1, (name, said)
        assert "--debug" not in said.err, (name, said)
        assert ("no room" in said.err) == ("bomb" in name), (name, said)
        assert names(lived) == before, name
        assert not Path("/etc/x").exists()


STORIES = [b" ", b"{", b"[]", b'{"version": 2}', json.dumps({"version": 1, "agent": "../x"}).encode()]
STORIES += [
    json.dumps({"version": 1, "agent": agent, "name": "n", "kind": "k", "host": "h", "exported": "e",
                "without_secrets": False, "about": {"version": 1}}).encode()
    for agent in ("../../etc", "", ".", "a/b", "a\nb", "x" * 300)
]  # fmt: skip


def test_a_file_that_says_it_is_of_nobody_is_refused(lived: Town, key: Path) -> None:
    before = names(lived)
    for told in STORIES:
        file = forged(lived.base / "forged", key, lambda w: of(w, [a_file(w)]), about=told)
        said = brought(lived, file, key)
        assert said.status == 1, (told, said)
        assert "--debug" not in said.err, (told, said)
        assert names(lived) == before


def test_nothing_in_it_lends_rights_and_nobody_but_root_reaches_it(lived: Town, key: Path) -> None:
    entries = [
        ("setuid", {"mode": 0o6755}), ("roots", {"mode": 0o4755, "owner": "root"}), ("open", {"mode": 0o777}),
    ]  # fmt: skip
    file = forged(
        lived.base / "forged", key,
        lambda w: of(w, sorted([a_file(w, name.encode(), **more) for name, more in entries]
                               + [Entry(b"link", "symlink", 0o777, 0, target=b"/etc/shadow")],
                               key=lambda entry: entry.name), 4, 3),
    )  # fmt: skip
    assert brought(lived, file, key).out == "ada@forged\n"
    with shelf(lived) as top:
        home = top / "ada/forged/home"
        assert {(home / name).stat().st_mode & 0o6000 for name, _ in entries} == {0}
        assert os.readlink(home / "link") == "/etc/shadow"
        for above in (top, top / "ada", top / "ada/forged"):
            assert (above.stat().st_uid, above.stat().st_mode & 0o777) == (0, 0o700)


def test_a_home_of_an_agent_that_is_not_here_is_roots(lived: Town, key: Path) -> None:
    told = Story("grace", "her home", "aside", "host", "now", without_secrets=False, about=About())
    file = forged(lived.base / "forged", key, lambda w: of(w, [a_file(w, mode=0o4711)]), about=story.dumped(told))
    said = brought(lived, file, key)
    assert said.status == 0, said
    assert said.out.startswith("grace@2")  # its name is none that a home can have here
    with shelf(lived) as top:
        (home,) = (top / "grace").iterdir()
        found = (home / "home/f").stat()
        assert (found.st_uid, found.st_gid, found.st_mode & 0o7777) == (0, 0, 0o711)


def test_an_import_that_is_killed_leaves_nothing_that_counts(lived: Town, key: Path) -> None:
    (lived.agents / "ada/large").write_bytes(os.urandom(8 << 20))
    assert lived.persist("snapshot", "ada", "--name", "two").status == 0
    assert lived.persist("export", "ada@two", str(lived.base / "x")).status == 0
    before = names(lived)
    words = ["--spec", str(lived.file), "import", str(lived.base / "x"), "--key", str(key)]
    program = (
        "import os, signal, sys\nfrom persist.cli import main\nfrom persist.fill.facts import Facts\n"
        "give = Facts.give_plain\nleft = [int(sys.argv.pop(1))]\n"
        "def kill(*words):\n    left[0] -= 1\n    left[0] < 0 and os.kill(os.getpid(), signal.SIGKILL)\n"
        "    give(*words)\nFacts.give_plain = kill\nsys.exit(main())\n"
    )
    for count in (0, 3, 8):
        done = subprocess.run([sys.executable, "-c", program, str(count), *words], check=False, capture_output=True)
        assert done.returncode == -9, done
        left = [name for name in names(lived) if name not in before]
        assert all(name.startswith("ada@.new-") for name in left)
        listed = json.loads(lived.persist("homes", "--json").out)
        assert ".new-" not in json.dumps(listed)
    assert brought(lived, lived.base / "x", key).out == "ada@two.1\n"
    assert names(lived) == sorted([*before, "ada@two.1"])


@pytest.mark.parametrize("file", sorted(VECTORS.glob("*.nuketown")), ids=lambda file: file.stem)
def test_a_file_that_an_earlier_version_wrote_is_read_for_ever(lived: Town, file: Path) -> None:
    said = brought(lived, file, VECTORS / "key.txt")
    assert said.status == 0, said
    with shelf(lived) as top:
        home = top / "ada" / said.out.strip().partition("@")[2]
        wanted = json.loads(file.with_suffix(".json").read_text())
        assert {
            str(path.relative_to(home)): path.read_text() for path in home.rglob("*") if path.is_file()
            and path.name != "about.json"
        } == wanted  # fmt: skip
