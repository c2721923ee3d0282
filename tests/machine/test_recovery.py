"""docs/recovery.md: what stands there brings data back from a store that was really synced, without this program."""

import ast
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from persist.bucket import agents, keyfile, tombs
from persist.bucket.opening import open_bucket
from tests.gosops import go_sops
from tests.machine.recovery import PROGRAMS, PYTHON, programs, ran
from tests.machine.stores import facts, source, torture, with_store
from tests.machine.towns import Town, town
from town import sops

__all__ = ["programs", "town"]
pytestmark = pytest.mark.root


@pytest.fixture
def synced(town: Town) -> Town:
    """A town whose ada has synced everything that a tree can hold."""
    with_store(town, '["projects", {path = "deep/er", via = "both"}]')
    assert town.persist("init", "--store").status == 0
    said = town.persist("restore")
    assert said.status == 0, said.err
    torture(source(town))
    (source(town, "deep/er") / "note").write_text("here too")
    sync(town)
    return town


def sync(town: Town, *words: str) -> str:
    said = town.persist("sync", *words)
    assert said.status == 0, said.err
    return said.out


def decrypted(town: Town) -> str:
    """What `sops -d` prints of the newest key file; where there is no sops, the same from its values."""
    store = open_bucket(town.spec, ask=True).store
    number, data = keyfile.newest(store)
    if program := go_sops():
        argv = [program, "-d", "--input-type", "yaml", "--output-type", "yaml"]
        argv += [str(town.base / "store" / keyfile.name(number))]
        return ran(argv, SOPS_AGE_KEY_FILE=str(town.base / "host.age")).stdout
    tree = sops.load(data, keyfile.name(number), sops.Keys.of_age_file(town.base / "host.age")).tree
    return "".join(f"{key}: {value}\n" for key, value in tree.items())


def recovered(town: Town, programs: Path, agent: str = "ada", into: str = "new") -> subprocess.CompletedProcess[str]:
    argv = [PYTHON, str(programs / "recover.py"), str(town.base / "store"), agent, str(programs / into)]
    return ran(argv, decrypted(town))


def test_it_has_sixty_lines_at_most_and_needs_two_packages() -> None:
    assert len(PROGRAMS["recover"].splitlines()) <= 60
    assert max(map(len, PROGRAMS["recover"].splitlines())) <= 120
    for text in PROGRAMS.values():
        imported = {
            (node.names[0].name if isinstance(node, ast.Import) else node.module or "").split(".")[0]
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.Import | ast.ImportFrom)
        }
        assert imported - set(sys.stdlib_module_names) <= {"cryptography", "zstandard"}


def test_a_synced_tree_comes_back_whole(synced: Town, programs: Path) -> None:
    said = recovered(synced, programs)
    assert (said.returncode, said.stderr) == (0, "")
    assert open_bucket(synced.spec).key.commitment in said.stdout
    for path in ("projects", "deep/er"):
        assert facts(programs / "new" / path) == facts(source(synced, path))
    sparse = (programs / "new/projects/sparse").stat()
    assert sparse.st_blocks * 512 < sparse.st_size // 2
    assert stat.S_IMODE((programs / "new").stat().st_mode) == 0o700


def test_a_file_of_many_pieces_and_a_directory_of_many_names_come_back(synced: Town, programs: Path) -> None:
    top, random = source(synced), Random(3)
    (top / "long").write_bytes(random.randbytes(9 << 20))
    (top / "wide").mkdir()
    for number in range(3000):
        (top / f"wide/a rather long name, so that the listing is split, {number}").touch()
    sync(synced)
    assert recovered(synced, programs).returncode == 0
    assert facts(programs / "new/projects") == facts(top)


def test_an_older_state_comes_back_by_its_id(synced: Town, programs: Path) -> None:
    before = facts(source(synced))
    shutil.rmtree(source(synced) / "many")
    sync(synced, "--accept-loss")
    assert recovered(synced, programs).returncode == 0
    assert facts(programs / "new/projects") == facts(source(synced))
    names = [
        line.strip() for line in recovered(synced, programs, into="again").stdout.splitlines() if "commit-" in line
    ]
    assert len(names) == 2
    older = names[0].rpartition("-")[2][:12]
    assert recovered(synced, programs, f"ada@{older}", "older").returncode == 0
    assert facts(programs / "older/projects") == before


def test_after_a_rotation_the_new_epoch_and_the_one_before_come_back(synced: Town, programs: Path) -> None:
    before = facts(source(synced))
    older = recovered(synced, programs, into="first").stdout.splitlines()[-1].rpartition("-")[2][:12]
    assert synced.persist("key", "rotate").status == 0
    said = recovered(synced, programs, into="not synced yet")
    assert said.returncode == 0
    (source(synced) / "new file").write_text("of the second epoch")
    sync(synced)
    said = recovered(synced, programs)
    assert (said.returncode, said.stderr) == (0, "")
    assert open_bucket(synced.spec).key.commitment in said.stdout
    assert facts(programs / "new/projects") == facts(source(synced))
    assert recovered(synced, programs, f"ada@{older}", "older").returncode == 0
    assert facts(programs / "older/projects") == before == facts(programs / "not synced yet/projects")


def test_64_hex_digits_are_enough(synced: Town, programs: Path) -> None:
    argv = [PYTHON, str(programs / "recover.py"), str(synced.base / "store"), "ada", str(programs / "new")]
    assert ran(argv, open_bucket(synced.spec).key.secret.hex() + "\n").returncode == 0
    assert facts(programs / "new/projects") == facts(source(synced))


def test_what_age_alone_gives_is_enough(synced: Town, programs: Path) -> None:
    argv = [PYTHON, str(programs / "key.py"), str(synced.base / "store" / keyfile.name(1))]
    keys = ran([*argv, "age", "-d", "-i", str(synced.base / "host.age")]).stdout
    argv = [PYTHON, str(programs / "recover.py"), str(synced.base / "store"), "ada", str(programs / "new")]
    assert ran(argv, keys).returncode == 0
    assert facts(programs / "new/projects") == facts(source(synced))


def test_the_key_of_another_town_opens_nothing(synced: Town, programs: Path) -> None:
    argv = [PYTHON, str(programs / "recover.py"), str(synced.base / "store"), "ada", str(programs / "new")]
    said = ran(argv, "11" * 32)
    assert (said.returncode, said.stderr) == (1, "the copy holds no such state of that agent\n")
    assert not (programs / "new").exists()


def test_what_does_not_open_is_named_and_all_else_comes_back(synced: Town, programs: Path) -> None:
    (source(synced) / "second").write_bytes(Random(5).randbytes(300_000))
    before = {path for path in (synced.base / "store/packs").rglob("*") if path.is_file()}
    sync(synced)
    (source(synced) / "third").write_bytes(b"in a third pack")
    mine = {path for path in (synced.base / "store/packs").rglob("*") if path.is_file()} - before
    sync(synced)
    for path in mine:
        data = bytearray(path.read_bytes())
        data[2000] ^= 1
        path.write_bytes(data)
    said = recovered(synced, programs)
    assert said.returncode == 1
    assert "b'second'" in said.stderr or "'second'" in said.stderr
    assert "1 packs, files or directories are not whole" in said.stderr
    assert not (programs / "new/projects/second").exists()
    assert (programs / "new/projects/third").read_bytes() == b"in a third pack"
    assert (programs / "new/deep/er/note").read_text() == "here too"


def test_nothing_that_is_there_is_written_over(synced: Town, programs: Path) -> None:
    (programs / "new").mkdir()
    (programs / "new/mine").touch()
    said = recovered(synced, programs)
    assert said.returncode == 1
    assert "FileExistsError" in said.stderr
    assert [path.name for path in (programs / "new").iterdir()] == ["mine"]


def test_after_a_prune_the_pieces_are_found_where_they_went(synced: Town, programs: Path) -> None:
    for number in range(4):
        (source(synced) / f"note {number}").write_bytes(Random(number).randbytes(20_000))
        sync(synced)
    said = synced.persist("prune")
    assert said.status == 0, said.err
    bucket = open_bucket(synced.spec)
    keys = bucket.keys("ada")
    buried = [tombs.read(bucket.store, keys, name) for name in agents.listed(bucket.store, keys).tombs]
    gone = {id_ for tomb in buried for id_ in tomb.packs}
    assert gone, "the prune merged small packs"
    for id_ in gone:  # as a prune does a day later
        bucket.store.delete(f"packs/{keys.place}/{id_}")
    said_by = recovered(synced, programs)
    assert (said_by.returncode, said_by.stderr) == (0, "")
    assert facts(programs / "new/projects") == facts(source(synced))
