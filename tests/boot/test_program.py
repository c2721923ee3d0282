"""The program that root's units call: named as a unit can name it, there, and nobody's but root's to change."""

import os
from pathlib import Path

import pytest

from persist import install, program
from tests.boot.tree import Tree, tree

pytestmark = pytest.mark.root
__all__ = ["tree"]


@pytest.mark.parametrize(
    ("named", "wrong"),
    [
        ("foo", "it is not an absolute path"),
        ("./persist", "it is not an absolute path"),
        ("", "it is not an absolute path"),
        ("/opt/my town/persist", "it holds a blank; "),
        ("/opt/\u202e/persist", "it holds \\u202e; "),
        ("/opt/50%/persist", "it holds %; "),
        ("/opt/../persist", "it is not in its shortest form"),
        ("/opt/persist/", "it is not in its shortest form"),
        ("//opt/persist", "it is not in its shortest form"),
    ],
)
def test_a_program_that_no_unit_can_name_is_wrong_usage_and_says_why(tree: Tree, named: str, wrong: str) -> None:
    before = tree.facts()
    said = tree.persist("install", "--program", named)
    assert said.status == 2
    assert wrong in said.err
    assert tree.facts() == before


def test_a_program_that_a_tree_does_not_have_yet_is_said(tree: Tree) -> None:
    assert f"note: {tree.root}/usr/bin/persist, which the units call, is not there yet" in tree.persist("install").err
    tree.has("usr/bin/persist")
    assert f"{tree.root}/usr/bin/identity, which the units call, is not there" in tree.persist("install").err
    tree.has("usr/bin/identity")
    assert "not there yet" not in tree.persist("install").err


def _script(path: Path, first: str = "#!/bin/sh") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{first}\nexit 0\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory for programs, nobody's but root's on the whole way."""
    return tmp_path / "opt"


def _commands(folder: Path) -> Path:
    """Both commands of nuketown; the one that is named."""
    _script(folder / "identity")
    return _script(folder / "persist")


def _give_away(path: Path) -> None:
    os.chown(path, 51100, 51100, follow_symlinks=False)


def _refused(path: Path, who: Path) -> None:
    with pytest.raises(program.OthersProgram, match="may be changed by others than root") as caught:
        program.refuse(str(path))
    assert caught.value.what.startswith(f"{who} ")
    assert f"chown -hR root:root {who} && chmod -R go-w {who}" in caught.value.hint


def test_a_program_of_roots_on_the_whole_way_is_taken(place: Path) -> None:
    program.refuse(str(_script(place / "a/persist")))
    (place / "link").symlink_to("a/persist")
    (place / "round").symlink_to(place)
    program.refuse(f"{place}/round/round/link")


@pytest.mark.parametrize("part", ["a/persist", "a", "."])
@pytest.mark.parametrize("how", ["owner", "group", "everybody"])
def test_a_program_that_somebody_else_may_change_on_its_way_is_refused(place: Path, part: str, how: str) -> None:
    path = _script(place / "a/persist")
    who = place / part
    _give_away(who) if how == "owner" else who.chmod(0o775 if how == "group" else 0o757)
    _refused(path, who)


def test_a_link_or_what_it_leads_to_that_is_anothers_is_refused(place: Path) -> None:
    real = _script(place / "real/persist")
    link = place / "bin/persist"
    link.parent.mkdir()
    link.symlink_to("../real/persist")
    program.refuse(str(link))
    _give_away(link)
    _refused(link, link)
    os.chown(link, 0, 0, follow_symlinks=False)
    _give_away(real.parent)
    _refused(link, real.parent)


@pytest.mark.parametrize("long", [True, False])
def test_an_interpreter_that_is_anothers_is_refused(place: Path, long: bool) -> None:
    python = _script(place / "py/python3")
    # The first form is pip's, for a path that is too long for a first line.
    first = f"#!/bin/sh\n'''exec' {python} \"$0\" \"$@\"\n' '''" if long else f"#!{python} -I"
    path = _script(place / "bin/persist", first)
    program.refuse(str(path))
    _give_away(python)
    _refused(path, python)


def test_a_virtual_environment_is_looked_at_whole_with_the_checkout_behind_it(place: Path) -> None:
    path = _script(place / "venv/bin/persist")
    (place / "venv/pyvenv.cfg").touch()
    packages = place / "venv/lib/python3.11/site-packages"
    packages.mkdir(parents=True)
    module = place / "checkout/persist/deep/module.py"
    module.parent.mkdir(parents=True)
    module.touch()
    (packages / "x.pth").write_text(f"import os\n{place}/checkout\n")
    program.refuse(str(path))
    for who in (module, module.parent, place / "checkout", packages / "x.pth", packages):
        _give_away(who)
        _refused(path, who)
        os.chown(who, 0, 0)


def test_in_a_sticky_directory_it_is_the_program_that_counts(place: Path) -> None:
    path = _script(place / "tmp/persist")
    path.parent.chmod(0o1777)
    program.refuse(str(path))
    _give_away(path)
    _refused(path, path)


@pytest.mark.parametrize("how", ["missing", "dangling", "circle", "directory", "plain"])
def test_what_is_no_program_is_refused(place: Path, how: str) -> None:
    path = place / "persist"
    place.mkdir()
    if how in ("dangling", "circle"):
        path.symlink_to("nowhere" if how == "dangling" else "persist")
    elif how == "directory":
        path.mkdir()
    elif how == "plain":
        path.touch()
    with pytest.raises(program.NoProgram, match=str(path)) as caught:
        program.refuse(str(path))
    assert "--program" in caught.value.hint


def test_the_packages_of_the_running_program_are_looked_at(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from persist import units

    path = _script(place / "persist")
    monkeypatch.setattr(units, "own_program", lambda: str(path))
    looked: list[str] = []
    monkeypatch.setattr(program, "_whole", looked.append)
    program.refuse(str(path))
    checkout = Path(__file__).parent.parent.parent
    assert looked == [str(checkout / name) for name in ("persist", "town", "identity", "initrd")]


@pytest.fixture
def here(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> Tree:
    """The tree stands for this machine: nothing outside of it is written, no systemd is told."""
    monkeypatch.setattr(install, "THIS", tree.root)
    monkeypatch.setattr(install, "_reload", lambda _: None)
    return tree


def test_this_machine_takes_no_program_that_is_somebody_elses(here: Tree, place: Path) -> None:
    before = here.facts()
    path = _commands(place)
    _give_away(path)
    for words in ([], ["--dry-run"]):
        said = here.persist("install", "--program", str(path), *words)
        assert said.status == 1
        assert f"persist: error: {path} may be changed by others than root (owner uid 51100, mode 0755)" in said.err
        assert here.persist("install", "--program", f"{place}/none", *words).status == 1
    assert here.facts() == before
    os.chown(path, 0, 0)
    said = here.persist("install", "--program", str(path))
    assert said.status == 0, said.err
    assert said.err.count(f"persist: note: the units run {path} from where it lies\n") == 1


def test_what_installs_identities_is_looked_at_too(here: Tree, place: Path) -> None:
    path = _commands(place)
    _give_away(place / "identity")
    said = here.persist("install", "--program", str(path))
    assert said.status == 1
    assert f"persist: error: {place}/identity may be changed by others than root" in said.err
    (place / "identity").unlink()
    said = here.persist("install", "--program", str(path))
    assert f"persist: error: {place}/identity cannot be the program of the units: " in said.err
    assert "the commands persist and identity, side by side" in said.err


def test_a_program_that_was_kept_is_looked_at_again(here: Tree, place: Path) -> None:
    path = _commands(place)
    assert here.persist("install", "--program", str(path)).status == 0
    _give_away(path)
    assert here.persist("install").status == 1


def test_who_runs_a_virtual_environment_hears_that_it_must_stay(here: Tree, place: Path) -> None:
    path = _commands(place / "venv/bin")
    (place / "venv/pyvenv.cfg").touch()
    said = here.persist("install", "--program", str(path))
    assert f"from where it lies: {place}/venv, and a checkout that it lies in, must stay there\n" in said.err
