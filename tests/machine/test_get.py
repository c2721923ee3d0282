"""`persist get`: one file or directory out of a state in the store. It is root's, and nothing lands anywhere else."""

import io
import os
import pty
import stat
import subprocess
import sys
from contextlib import redirect_stdout, suppress
from pathlib import Path

import pytest

from persist import cli, fetch
from persist.bucket.opening import open_bucket
from tests.machine import stores
from tests.machine.states import committed
from tests.machine.stores import acl, torture, with_store
from tests.machine.towns import ADA, VOX, Town, town
from tests.reach import PYTHON
from town import files, process
from town.process import Person

__all__ = ["town"]
pytestmark = pytest.mark.root


@pytest.fixture
def source(town: Town) -> Path:
    """What ada's `projects` holds in the store: a tree with everything."""
    top = town.persisted / "source"
    top.mkdir()
    torture(top, small=10, big=3 << 20)
    (top / "notes.md").write_text("ümläut\tand a \\ backslash\n")
    (top / "escape").write_bytes(b"\x1b]0;title\x07")
    (top / "sub").mkdir()
    (top / "sub/notes.md").write_text("another")
    with_store(town)
    assert town.persist("init", "--store").status == 0
    committed(town, {"projects": top, "scratch/results": top / "many"}, piece=300_000)
    return top


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where things are put: no agent reaches it."""
    return tmp_path / "look"


def raw(town: Town, *words: str) -> bytes:
    """Standard output, as bytes; nothing failed."""
    held = io.BytesIO()
    out = io.TextIOWrapper(held)
    town.capsys.readouterr()
    with redirect_stdout(out):
        status = cli.main(["--spec", str(town.file), "get", *words])
    assert status == 0, town.capsys.readouterr().err
    return held.getvalue()


def test_a_file_goes_to_standard_output_byte_for_byte(town: Town, source: Path) -> None:
    for name in ("big", "notes.md", "empty", "sparse", "all hole", "escape", "dir/two", "many/f3"):
        assert raw(town, "ada", f"projects/{name}") == (source / name).read_bytes()


def test_as_a_program_it_writes_what_it_read_and_no_word_more(town: Town, source: Path) -> None:
    argv = [sys.executable, "-m", "persist.cli", "--spec", town.file, "get", "ada", "projects/big"]
    done = process.run(argv, cwd=Path(__file__).parents[2])
    assert done.out == (source / "big").read_bytes()


def test_any_name_that_a_file_can_have_is_found(town: Town, source: Path) -> None:
    for name in stores.ODD:
        assert raw(town, "ada", f"projects/{os.fsdecode(name)}") == name


def test_a_state_is_named_by_its_id_and_the_newest_is_not_asked(town: Town, source: Path) -> None:
    (source / "notes.md").write_text("newer")
    new = committed(town, {"projects": source}, generation=2)
    branch = committed(town, {"projects": source / "sub"}, generation=2, kind="branch")
    assert raw(town, "ada", "projects/notes.md") == b"newer"
    assert raw(town, f"ada@{new.short}", "projects/notes.md") == b"newer"
    assert raw(town, f"ada@{branch.short[:6]}", "projects/notes.md") == b"another"
    assert raw(town, f"ada@store:{branch.short}", "projects/notes.md") == b"another"


def test_only_what_is_needed_is_read(town: Town, source: Path) -> None:
    bucket = open_bucket(town.spec)
    keys = bucket.keys("ada")
    total = sum(found.size for found in bucket.store.list(f"packs/{keys.place}/"))
    held = fetch.newest(town.spec, town.spec.agent("ada"))
    assert held is not None
    store = held.source().store
    read: list[int] = []
    get = type(store).get

    def counted(self: object, *words: object) -> bytes:
        data: bytes = get(self, *words)  # type: ignore[arg-type]
        read.append(len(data))
        return data

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(store), "get", counted)
        raw(town, "ada", "projects/notes.md")
    assert total > 3_000_000
    assert sum(read) < 200_000


def test_directories_files_and_links_go_into_a_directory_that_is_made(town: Town, source: Path, place: Path) -> None:
    said = town.persist("get", "ada", "projects", "scratch/results/f0", "projects/link", "--to", str(place / "new"))
    assert said.status == 0, said.err
    assert said.out.split() == [str(place / "new" / name) for name in ("projects", "f0", "link")]
    assert stat.S_IMODE((place / "new").stat().st_mode) == 0o700
    assert sorted(os.listdir(place / "new")) == ["f0", "link", "projects"]
    assert os.readlink(os.fsencode(place / "new/link")) == os.readlink(os.fsencode(source / "link"))
    assert (place / "new/projects/big").read_bytes() == (source / "big").read_bytes()
    assert os.listdir(town.persisted / ".nuketown/restore") == []


def test_what_comes_out_is_roots_and_lends_nobody_its_rights(town: Town, source: Path, place: Path) -> None:
    for path in (source / "many/f4", source / "many/f5"):
        assert path.stat().st_mode & 0o6000
    assert town.persist("get", "ada", "projects", "--to", str(place)).status == 0
    for found in (place / "projects", *(place / "projects").rglob("*")):
        entry = found.lstat()
        assert (entry.st_uid, entry.st_gid, entry.st_mode & 0o6000) == (0, 0, 0) or found.is_symlink()
    assert stat.S_IMODE((place / "projects").stat().st_mode) & 0o077 == 0, "a home lets nobody else in"


def test_an_agent_reads_nothing_of_anothers_in_a_directory_that_it_may_enter(
    town: Town, source: Path, place: Path
) -> None:
    access = acl((1, 6, 0xFFFFFFFF), (2, 4, VOX), (4, 4, 0xFFFFFFFF), (16, 6, 0xFFFFFFFF), (32, 4, 0xFFFFFFFF))
    os.setxattr(source / "notes.md", "system.posix_acl_access", access)
    committed(town, {"projects": source}, generation=2)
    place.mkdir(mode=0o755)
    assert town.persist("get", "ada", "projects/notes.md", "--to", str(place)).status == 0
    with files.opened(os.open(place, os.O_RDONLY)) as fd:
        program = f"open('/proc/self/fd/{fd}/notes.md').read()"
        done = process.run([PYTHON, "-c", program], person=Person(VOX, VOX), fds=(fd,), check=False)
    assert b"PermissionError" in done.err


def test_what_is_there_already_is_not_touched(town: Town, source: Path, place: Path) -> None:
    place.mkdir(mode=0o700)
    (place / "notes.md").symlink_to("/etc/passwd")
    said = town.persist("get", "ada", "projects/big", "projects/notes.md", "--to", str(place))
    assert said.status == 1
    assert "notes.md is there already" in said.err
    assert os.listdir(place) == ["notes.md"], "nothing came before it was looked at"


def test_two_paths_of_one_name_are_refused(town: Town, source: Path, place: Path) -> None:
    said = town.persist("get", "ada", "projects/notes.md", "projects/sub/notes.md", "--to", str(place))
    assert said.status == 2
    assert not place.exists()


def test_a_directory_that_an_agent_can_change_is_refused(town: Town, source: Path, place: Path) -> None:
    place.mkdir()
    for make in (lambda: os.chown(place, VOX, VOX), lambda: (os.chown(place, 0, 0), place.chmod(0o777))):
        make()
        for where in (place, place / "below"):
            said = town.persist("get", "ada", "projects/big", "--to", str(where))
            assert said.status == 1
            assert "can be changed by an agent" in said.err
    assert os.listdir(place) == []


def test_a_symlink_on_the_way_is_refused(town: Town, source: Path, place: Path) -> None:
    place.symlink_to(town.base)
    said = town.persist("get", "ada", "projects/big", "--to", str(place / "below"))
    assert said.status == 1
    assert "symbolic link" in said.err
    assert not (town.base / "below").exists()


REFUSED = [
    (["ada", "projects/none"], 1, "does not hold projects/none"),
    (["ada", "projects/big/none"], 1, "does not hold projects/big/none"),
    (["ada", "other"], 1, "it holds projects, scratch/results"),
    (["ada", "scratch"], 1, "it holds projects, scratch/results"),
    (["ada", "projects"], 1, "projects is a directory"),
    (["ada", "projects/link"], 1, "is a symbolic link to"),
    (["ada", "projects/fifo"], 1, "is a FIFO"),
    (["ada", "projects/big", "projects/empty"], 2, "with --to DIR"),
    (["ada", "/etc/passwd"], 2, "is no path in a home"),
    (["ada", "projects/../../etc"], 2, "is no path in a home"),
    (["ada", ""], 2, "is no path in a home"),
    (["ada@", "projects/big"], 2, "is not of the form"),
    (["@x", "projects/big"], 2, "is not of the form"),
    (["nobody", "projects/big"], 2, "nobody"),
    (["ada@ffffffff", "projects/big"], 1, "no state ffffffff"),
    (["vox", "projects/big"], 1, "holds nothing of vox"),
]


def test_what_cannot_be_given_is_said(town: Town, source: Path) -> None:
    for words, status, says in REFUSED:
        said = town.persist("get", *words)
        assert (said.status, said.out) == (status, ""), words
        assert says in said.err


def test_a_terminal_is_given_plain_text_and_nothing_else(town: Town, source: Path) -> None:
    assert on_a_terminal(town, "notes.md") == (0, (source / "notes.md").read_bytes(), b"")
    for name in ("escape", "big"):
        status, out, err = on_a_terminal(town, name)
        assert (status, out) == (1, b"")
        assert b"send it to a file" in err


def on_a_terminal(town: Town, name: str) -> tuple[int, bytes, bytes]:
    """`persist get` with a terminal as its standard output, and what came there."""
    reading, writing = pty.openpty()
    with files.opened(reading), files.opened(writing):
        argv = [sys.executable, "-m", "persist.cli", "--spec", str(town.file), "get", "ada", f"projects/{name}"]
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, stdout=writing, stderr=subprocess.PIPE, timeout=60, check=False,
            cwd=Path(__file__).parents[2],
        )  # fmt: skip
        os.set_blocking(reading, False)
        out = b""
        with suppress(BlockingIOError):
            out = os.read(reading, 1 << 16).replace(b"\r\n", b"\n")
    err = b"".join(line for line in done.stderr.splitlines(keepends=True) if b"first look" not in line)
    return done.returncode, out, err


def test_a_damaged_pack_gives_nothing_to_a_directory(town: Town, source: Path, place: Path) -> None:
    for pack in (town.base / "store/packs").rglob("*"):
        if pack.is_file():
            data = bytearray(pack.read_bytes())
            data[len(data) // 3] ^= 1
            pack.write_bytes(data)
    assert town.persist("get", "ada", "projects", "--to", str(place)).status == 1
    assert os.listdir(place) == []


def test_no_lease_is_asked_for_and_nothing_of_the_agent_is_made(town: Town, source: Path) -> None:
    raw(town, "ada", "projects/notes.md")
    bucket = open_bucket(town.spec)
    assert list(bucket.store.list(f"agents/{bucket.keys('ada').place}/lease-")) == []
    assert os.listdir(town.agents) == []


def test_without_root_it_says_so(town: Town, source: Path) -> None:
    from tests import reach

    town.file.chmod(0o644)
    with files.opened(os.open(town.file, os.O_RDONLY)) as fd, reach.checkout() as (where, packages):
        argv = [PYTHON, "-m", "persist.cli", "--spec", f"/proc/self/fd/{fd}", "get", "ada", "projects/big"]
        done = process.run(argv, person=Person(ADA, ADA), env=packages, cwd=where, check=False, fds=(fd,))
    assert done.status == 1
    assert done.err.startswith(b"persist: error: persist get needs root")
