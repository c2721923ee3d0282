"""What git work trees hold alone, read without git: the same word as git's own, and nothing of a hostile one acts."""

import json
import os
import shutil
import socket
import struct
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from persist import git
from persist.git import Clock, Facts, Unknown, ignore, index
from tests.machine.towns import Town, town
from tests.scale import SEED, times
from town import files

__all__ = ["town"]
pytestmark = pytest.mark.root
CLEAN = "all pushed, nothing changed"
ENV = {
    "PATH": os.environ["PATH"], "HOME": "/nonexistent", "GIT_CONFIG_NOSYSTEM": "1", "GIT_AUTHOR_NAME": "a",
    "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b",
}  # fmt: skip


def run(place: Path, *words: str) -> str:
    safe = ["git", "-c", "init.defaultBranch=main", "-c", "protocol.file.allow=always", "-c", "safe.directory=*"]
    return subprocess.run([*safe, *words], cwd=place, env=ENV, check=True, capture_output=True, text=True).stdout


def look(home: Path, name: str = "tree", seconds: float = 10) -> Facts:
    with files.opened(files.open_dir(home)) as fd:
        return git.look(fd, name.encode(), seconds, bytes(home))


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A home with `tree`, a clone in which nothing was changed."""
    home = tmp_path / "home"
    (home / "seed").mkdir(parents=True)
    run(home, "init", "-q", "--bare", "upstream")
    run(home, "init", "-q", "seed")
    for name in ("one", "dir/two", "dir/deep/three", "run.sh"):
        (home / "seed" / name).parent.mkdir(parents=True, exist_ok=True)
        (home / "seed" / name).write_text(name)
    (home / "seed/run.sh").chmod(0o755)
    (home / "seed/link").symlink_to("one")
    (home / "seed/.gitignore").write_text("*.log\n/out/\n!keep.log\ndir/**/skip\n# a comment\n\\#odd\n")
    run(home / "seed", "add", ".")
    run(home / "seed", "commit", "-qm", "first")
    run(home / "seed", "remote", "add", "origin", str(home / "upstream"))
    run(home / "seed", "push", "-q", "origin", "main")
    run(home, "clone", "-q", str(home / "upstream"), "tree")
    return home


def _append(tree: Path) -> None:
    with (tree / "one").open("a") as file:
        file.write("more")


def _stage(tree: Path) -> None:
    _append(tree)
    run(tree, "add", "one")


def _commit(tree: Path) -> None:
    _stage(tree)
    run(tree, "commit", "-qm", "second")


def _stash(tree: Path) -> None:
    _append(tree)
    run(tree, "stash", "-q")


def _ignored(tree: Path) -> None:
    for name in ("a.log", "out/x", "dir/deep/skip", "#odd", "node_modules/x"):
        (tree / name).parent.mkdir(exist_ok=True)
        (tree / name).write_text("x")


def _same_size(tree: Path) -> None:
    before = (tree / "one").stat()
    (tree / "one").write_text("two")
    os.utime(tree / "one", ns=(before.st_atime_ns, before.st_mtime_ns + 1))


def _behind(tree: Path) -> None:
    seed = tree.parent / "seed"
    (seed / "later").write_text("x")
    run(seed, "add", "later")
    run(seed, "commit", "-qm", "later")
    run(seed, "push", "-q", "origin", "main")
    run(tree, "fetch", "-q")


def _branch(tree: Path) -> None:
    run(tree, "checkout", "-qb", "fix/one")
    _commit(tree)
    run(tree, "checkout", "-q", "main")
    run(tree, "pack-refs", "--all")


def _detached(tree: Path) -> None:
    run(tree, "checkout", "-q", "--detach")
    _commit(tree)


def _pushed(tree: Path) -> None:
    _commit(tree)
    run(tree, "push", "-q", "origin", "main")


def _conflict(tree: Path) -> None:
    run(tree, "checkout", "-qb", "other")
    _commit(tree)
    run(tree, "push", "-q", "origin", "other")
    run(tree, "checkout", "-q", "main")
    (tree / "one").write_text("something else")
    run(tree, "commit", "-qam", "third")
    run(tree, "push", "-q", "origin", "main")
    subprocess.run(["git", "merge", "-q", "other"], cwd=tree, env=ENV, check=False, capture_output=True)


STATES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a clone": (lambda _tree: None, CLEAN),
    "a change": (_append, "1 file changed"),
    "a change of the same size": (_same_size, "1 file changed"),
    "a file removed": (lambda tree: (tree / "dir/two").unlink(), "1 file changed"),
    "a file made executable": (lambda tree: (tree / "one").chmod(0o755), "1 file changed"),
    "a link that leads elsewhere": (
        lambda tree: ((tree / "link").unlink(), (tree / "link").symlink_to("two")), "1 file changed"
    ),
    "touched only": (lambda tree: os.utime(tree / "one"), CLEAN),
    "staged": (_stage, "staged changes"),
    "intended": (lambda tree: ((tree / "n").write_text("x"), run(tree, "add", "-N", "n")), "1 file changed"),
    "staged and taken back": (lambda tree: (_stage(tree), run(tree, "reset", "-q", "--hard")), CLEAN),
    "staged over packs": (lambda tree: (run(tree, "gc", "-q"), _stage(tree)), "staged changes"),
    "untracked": (lambda tree: (tree / "dir/new").write_text("x"), "1 untracked"),
    "taken back from what is ignored": (lambda tree: (tree / "keep.log").write_text("x"), "1 untracked"),
    "ignored": (_ignored, CLEAN),
    "excluded": (
        lambda tree: ((tree / ".git/info/exclude").write_text("mine\n"), (tree / "mine").write_text("x")),
        CLEAN,
    ),
    "a commit": (_commit, "1 branch not pushed (main)"),
    "a branch, packed": (_branch, "1 branch not pushed (fix/one)"),
    "a commit on no branch": (_detached, "1 branch not pushed (HEAD)"),
    "pushed": (_pushed, CLEAN),
    "behind its remote": (_behind, CLEAN),
    "a stash": (_stash, "a stash"),
    "a merge that stopped": (_conflict, "1 file changed, staged changes"),
    "an index of version 4": (lambda tree: run(tree, "update-index", "--index-version", "4"), CLEAN),
    "assumed unchanged": (
        lambda tree: (run(tree, "update-index", "--assume-unchanged", "one"), _append(tree)), CLEAN
    ),
}  # fmt: skip


@pytest.mark.parametrize(("change", "words"), STATES.values(), ids=STATES.keys())
def test_each_state_of_a_work_tree_is_told(work: Path, change: Callable[[Path], object], words: str) -> None:
    change(work / "tree")
    assert look(work).words == words
    assert look(work).at_stake == (words != CLEAN)


@pytest.mark.parametrize("round_", range(times(4)))
def test_after_random_work_it_says_what_git_says(work: Path, round_: int) -> None:
    random, tree = Random(f"{SEED}-{round_}"), work / "tree"
    for _ in range(12):
        name = tree / random.choice(["one", "dir/two", "dir/n1", "n2", "x.log", "dir/deep/three", "out/y"])
        match random.randrange(6):
            case 0 | 1:
                name.parent.mkdir(exist_ok=True)
                name.write_text(str(random.randrange(10**6)))
            case 2:
                name.unlink(missing_ok=True)
            case 3:
                run(tree, "add", "-A")
            case 4:
                run(tree, "commit", "-q", "--allow-empty", "-am", "x")
            case 5:
                run(tree, "push", "-q", "origin", "HEAD")
        said = look(work)
        status = run(tree, "status", "--porcelain", "-uall").splitlines()
        assert said.unknown == ()
        assert said.staged == any(line[0] not in " ?" for line in status), (status, said)
        # A tracked file that is gone from the index alone is untracked: git says so in both columns.
        assert said.changed == sum(line[1] in "MDTA" for line in status), (status, said)
        assert said.untracked == sum(line.startswith("??") for line in status), (status, said)
        assert bool(said.unpushed) == bool(run(tree, "log", "--oneline", "--branches", "--not", "--remotes"))


def test_a_tree_that_was_never_pushed_says_so(work: Path) -> None:
    assert look(work, "seed").words == CLEAN
    run(work, "init", "-q", "fresh")
    assert (look(work, "fresh").words, look(work, "fresh").at_stake) == ("nothing is in it", False)
    (work / "fresh/x").write_text("x")
    assert look(work, "fresh").words == "never pushed, 1 untracked"
    (work / "fresh/x").unlink()
    run(work / "fresh", "commit", "-q", "--allow-empty", "-m", "x")
    assert look(work, "fresh").words == "never pushed (main)"


def test_commits_that_no_branch_names_are_at_stake(work: Path) -> None:
    run(work, "init", "-q", "odd")
    run(work / "odd", "commit", "-q", "--allow-empty", "-m", "x")
    run(work / "odd", "tag", "kept")
    run(work / "odd", "update-ref", "-d", "HEAD")
    found = look(work, "odd")
    assert found.at_stake
    assert found.words == "never pushed, not known: it has no remote, and commits that no branch names"


def test_linked_work_trees_and_submodules_are_followed_inside_the_home(work: Path) -> None:
    run(work / "tree", "worktree", "add", "-q", str(work / "linked"))
    assert look(work, "linked").words == CLEAN
    (work / "linked/new").write_text("x")
    assert look(work, "linked").words == "1 untracked"
    run(work / "tree", "submodule", "--quiet", "add", str(work / "upstream"), "sub")
    assert look(work, "tree/sub").words == CLEAN


@pytest.mark.parametrize(
    "said", ["gitdir: ../../../etc", "gitdir: /etc", "gitdir: ", "nothing", "gitdir: /proc/1/root"]
)
def test_a_git_directory_outside_the_home_is_not_looked_at(work: Path, said: str) -> None:
    (work / "trap").mkdir()
    (work / "trap/.git").write_text(f"{said}\n")
    found = look(work, "trap")
    assert found.at_stake
    assert len(found.unknown) == 1


# ---- hostile ones


def _fifo(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def _link(path: Path, to: str) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(to)


def _count(path: Path) -> None:
    path.write_bytes(struct.pack(">4sII", b"DIRC", 2, 0xFFFFFFFF) + bytes(100))


def _endless(path: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 40)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


TRAPS: dict[str, Callable[[Path], object]] = {
    "an index that is a pipe": lambda tree: _fifo(tree / ".git/index"),
    "an index that is a link": lambda tree: _link(tree / ".git/index", "/etc/shadow"),
    "a HEAD that is a pipe": lambda tree: _fifo(tree / ".git/HEAD"),
    "packed refs that are a device": lambda tree: _link(tree / ".git/packed-refs", "/dev/zero"),
    "an endless packed-refs": lambda tree: _endless(tree / ".git/packed-refs"),
    "an index that counts too many": lambda tree: _count(tree / ".git/index"),
    "an index cut off": lambda tree: os.truncate(tree / ".git/index", 200),
    "an index of another version": lambda tree: (tree / ".git/index").write_bytes(b"DIRC" + bytes(60)),
    "refs that are a link": lambda tree: (shutil.rmtree(tree / ".git/refs"), _link(tree / ".git/refs", "/")),
    "a format that nobody knows": lambda tree: (tree / ".git/config").write_text("[extensions]\nrefStorage=reftable\n"),
    "a tracked file that is a pipe": lambda tree: _fifo(tree / "one"),
    "a socket": lambda tree: _socket(tree / "s"),
}  # fmt: skip


@pytest.mark.parametrize("trap", TRAPS.values(), ids=TRAPS.keys())
def test_a_hostile_repository_ends_the_look_at_once(work: Path, trap: Callable[[Path], object]) -> None:
    trap(work / "tree")
    began = time.monotonic()
    found = look(work)
    assert time.monotonic() - began < 2
    assert found.words


def test_a_pattern_that_would_take_for_ever_does_not(work: Path) -> None:
    tree = work / "tree"
    (tree / ".gitignore").write_text(("*a" * 200 + "b\n") * 200 + "**/" * 200 + "x\n")
    (tree / ("a" * 250)).write_text("x")
    deep = tree
    for _ in range(15):
        deep = deep / ("a" * 100)
        deep.mkdir()
    (deep / "y").write_text("x")
    began = time.monotonic()
    found = look(work, seconds=2)
    assert time.monotonic() - began < 6
    assert found.at_stake


def test_no_program_that_the_configuration_names_is_run(town: Town, tmp_path: Path) -> None:
    town.write("[]")
    town.persist("restore")
    home, ran = town.agents / "ada", tmp_path / "ran"
    run(home, "init", "-q", "trap")
    (home / "trap/x").write_text("x")
    run(home / "trap", "add", "x")
    touch = f"touch {ran}"
    (home / "trap/.git/config").write_text(
        f"[core]\nfsmonitor = {touch}\npager = {touch}\nsshCommand = {touch}\nhooksPath = {home}/trap\n"
        f'[diff "x"]\ncommand = {touch}\ntextconv = {touch}\n[filter "x"]\nclean = {touch}\nprocess = {touch}\n'
        f"[credential]\nhelper = {touch}\n[include]\npath = {home}/trap/more\n"
    )
    (home / "trap/.gitattributes").write_text("* filter=x diff=x\n")
    said = town.persist("lost", "ada")
    assert said.status == 0
    assert "git: trap: never pushed, 1 untracked, staged changes" in said.out
    assert not ran.exists()


def test_random_bytes_as_an_index_are_read_or_refused() -> None:
    random = Random(SEED)
    for _ in range(times(300)):
        count = random.randrange(4)
        data = bytearray(struct.pack(">4sII", b"DIRC", random.choice([2, 3, 4]), count))
        data += random.randbytes(random.randrange(400))
        try:
            index.parse(bytes(data), size=20, clock=Clock(5))
        except Unknown:
            continue


@pytest.mark.parametrize(
    ("pattern", "path", "fits"),
    [
        ("*.o", "a/b.o", True), ("/*.o", "a/b.o", False), ("a/", "a", False), ("a/**", "a", False),
        ("a/**", "a/b/c", True), ("**/c", "a/b/c", True), ("**/c", "c", True), ("a/**/c", "a/c", True),
        ("a/**/c", "a/x/y/c", True), ("a/*/c", "a/x/y/c", False), ("[a-c]x", "bx", True), ("[!a-c]x", "bx", False),
        ("[]]", "]", True), ("a?", "ab", True), ("\\*", "*", True), ("\\*", "b", False), ("a b ", "a b", True),
        ("dir/x", "other/dir/x", False), ("", "a", False),
    ],
)  # fmt: skip
def test_a_pattern_fits_as_gitignore_says(pattern: str, path: str, fits: bool) -> None:
    found = ignore.rules(pattern.encode())
    parts = path.encode().split(b"/")
    assert any(rule.fits(parts, directory=False) for rule in found) == fits


# ---- in the listing


def test_what_git_holds_alone_comes_after_the_listing_and_first_in_the_line(town: Town, work: Path) -> None:
    town.write("[]")
    town.persist("restore")
    home = town.agents / "ada"
    for name in ("clean", "dirty"):
        run(home, "clone", "-q", str(work / "upstream"), name)
    (home / "clean/.git/large").write_bytes(bytes(100_000))
    _append(home / "dirty")
    (home / "diary").mkdir()
    (home / "diary/today.md").write_text("x")
    said = town.persist("lost", "ada")
    lines = said.out.splitlines()
    assert lines[-1] == 'persist = ["dirty", "diary", "clean"]'
    (agent,) = json.loads(town.persist("lost", "ada", "--json").out)["agents"]
    assert [(one["path"]["text"], one["at_stake"], one["changed"]) for one in agent["git"]] == [
        ("dirty", True, 1),
        ("clean", False, 0),
    ]


def test_git_facts_have_a_time_limit_and_the_listing_has_none(
    town: Town, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    town.write("[]")
    town.persist("restore")
    run(town.agents / "ada", "clone", "-q", str(work / "upstream"), "tree")
    monkeypatch.setattr("persist.lost.GIT_SECONDS", 0.0)
    said = town.persist("lost", "ada")
    assert "tree/…" in said.out
    assert "git: tree: not known: it took too long" in said.out
    assert 'persist = ["tree"]' in said.out
