"""Root acts on no spec that an agent can change."""

import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from identity import cli as identity
from tests.machine.towns import ADA, VOX, Town, town
from town import acl, trust

pytestmark = pytest.mark.root
__all__ = ["town"]

OTHERS = 5000  # a group that the spec knows nothing of
VERBS = [
    ("init", "--dry-run"), ("init", "--adopt", "--dry-run"), ("init", "--store", "--dry-run"), ("rollback",),
    ("rollback", "--dry-run"), ("rollback", "--confirm"), ("restore",), ("sync",), ("tidy",),
    ("install", "--root", "/usr", "--dry-run"), ("units", "--write", "/run/nowhere"),
    ("recall", "ada@2026", "--to", "/run/nowhere"),
]  # fmt: skip


def allow(path: Path, *named: tuple[int, int, int], group: int = 5, mask: int = 7) -> None:
    """An access list (acl(5)) with these entries (tag, rights, id) besides those that each has."""
    entries = [(0x01, 7, 0xFFFFFFFF), (0x04, group, 0xFFFFFFFF), (0x10, mask, 0xFFFFFFFF), (0x20, 5, 0xFFFFFFFF)]
    entries = sorted([*entries, *named])
    raw = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    os.setxattr(path, "system.posix_acl_access", raw)


@pytest.mark.parametrize("words", VERBS, ids=" ".join)
def test_every_verb_that_acts_refuses_a_spec_of_an_agents(town: Town, words: tuple[str, ...]) -> None:
    os.chown(town.file, ADA, ADA)
    before = sorted(os.listdir(town.base))
    said = town.persist(*words)
    assert said.status == 1
    assert f"error: the spec {town.file} is not acted on: {town.file} belongs to the agent ada" in said.err
    assert f"owner uid {ADA}" in said.err
    assert f"chown -h root:root {town.file}" in said.err
    assert sorted(os.listdir(town.base)) == before


@pytest.mark.parametrize("words", [("install",), ("install", "--dry-run")], ids=" ".join)
def test_identity_installs_nothing_from_a_spec_of_an_agents(town: Town, words: tuple[str, ...]) -> None:
    os.chown(town.file, ADA, ADA)
    town.capsys.readouterr()
    assert identity.main(["--spec", str(town.file), *words]) == 1
    assert f"identity: error: the spec {town.file} is not acted on" in town.capsys.readouterr().err


def _open(town: Town) -> None:
    town.file.chmod(0o666)


def _group(town: Town) -> None:
    os.chown(town.file, 0, VOX)
    town.file.chmod(0o664)


def _listed(town: Town) -> None:
    allow(town.file, (0x02, 6, VOX))


def _listed_group(town: Town) -> None:
    allow(town.file, (0x08, 6, VOX))


def _above(town: Town) -> None:
    os.chown(town.base, ADA, ADA)


def _open_above(town: Town) -> None:
    town.base.chmod(0o777)


def _other_place(town: Town) -> Path:
    """A directory of ada's beside the town."""
    there = town.base / "adas"
    there.mkdir()
    os.chown(there, ADA, ADA)
    return there


def _link(town: Town) -> Path:
    """By way of a link that ada can change, to a file that is root's."""
    link = _other_place(town) / "town.toml"
    link.symlink_to("../town.toml")
    return link


def _link_of_a_link(town: Town) -> Path:
    inner = _link(town)
    outer = town.base / "outer.toml"
    outer.symlink_to(inner)
    return outer


def _through(town: Town) -> Path:
    """By way of a directory link in a directory of ada's, and back."""
    (_other_place(town) / "here").symlink_to(town.base)
    return town.base / "adas/here/town.toml"


def _in_sticky(town: Town) -> Path:
    """A link of ada's own in a directory where everybody may make one."""
    there = town.base / "tmp"
    there.mkdir()
    there.chmod(0o1777)
    (there / "town.toml").symlink_to(town.file)
    os.chown(there / "town.toml", ADA, ADA, follow_symlinks=False)
    return there / "town.toml"


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        (_open, "town.toml can be written by everybody"),
        (_group, "town.toml can be written by the group of the agent vox"),
        (_listed, "town.toml can be written by the agent vox, by its access list"),
        (_listed_group, "town.toml can be written by the group of the agent vox"),
        (_above, "belongs to the agent ada"),
        (_open_above, "can be written by everybody"),
        (_link, "adas belongs to the agent ada"),
        (_link_of_a_link, "adas belongs to the agent ada"),
        (_through, "adas belongs to the agent ada"),
        (_in_sticky, "tmp/town.toml belongs to the agent ada"),
    ],
)
def test_every_way_to_change_the_spec_counts_and_check_warns_of_the_same(
    town: Town, changed: Callable[[Town], Path | None], says: str
) -> None:
    file = changed(town) or town.file
    said = town.persist("--spec", str(file), "restore", "--dry-run")
    assert (said.status, said.out) == (1, "")
    assert says in said.err
    assert says in town.persist("--spec", str(file), "check").err


def _as_it_is(town: Town) -> None:
    pass


def _humans(town: Town) -> None:
    os.chown(town.file, 1000, 1000)


def _sticky(town: Town) -> None:
    town.base.chmod(0o1777)


def _masked(town: Town) -> None:
    allow(town.file, (0x02, 6, VOX), mask=5)


def _readable(town: Town) -> None:
    os.chown(town.file, 0, VOX)
    town.file.chmod(0o640)


@pytest.mark.parametrize("changed", [_as_it_is, _humans, _sticky, _masked, _readable])
def test_a_spec_that_no_agent_can_change_is_acted_on(town: Town, changed: Callable[[Town], None]) -> None:
    changed(town)
    said = town.persist("restore", "--dry-run")
    assert said.status == 0, said.err


def test_a_group_that_an_agent_was_put_into_counts(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    os.chown(town.file, 0, OTHERS)
    town.file.chmod(0o664)
    assert town.persist("restore", "--dry-run").status == 0
    # /etc/group is this machine's: a test does not write to it.
    monkeypatch.setattr(os, "getgrouplist", lambda name, gid: [gid, OTHERS] if name == "vox" else [gid])
    assert "by a group that the agent vox is in" in town.persist("restore", "--dry-run").err


def test_the_way_of_a_path_goes_through_each_link_and_what_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "real/deep").mkdir(parents=True)
    (tmp_path / "real/deep/file").touch()
    (tmp_path / "one").symlink_to("real/../two")
    (tmp_path / "two").symlink_to(tmp_path / "real/deep")
    above = [Path("/"), *reversed(tmp_path.parents[:-1]), tmp_path]
    found = [tmp_path / name for name in ("one", "real", "two", "real/deep", "real/deep/file")]
    assert trust.way(tmp_path / "one/file") == [*above, *found]


def test_a_circle_of_links_ends(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert set(trust.way(tmp_path / "a")) >= {tmp_path / "a", tmp_path / "b"}


# ---------------------------------------------------------------- where a recalled home is shown


@pytest.mark.parametrize("sticky", [0, 0o1000])
@pytest.mark.parametrize(
    ("mode", "group", "entries", "refused"),
    [
        (0o775, OTHERS, [], True),
        (0o2775, OTHERS, [], True),
        (0o775, 0, [], False),
        (0o755, OTHERS, [], False),
        (0o755, 0, [(0x02, 7, 1000)], True),
        (0o755, 0, [(0x08, 7, OTHERS)], True),
        (0o755, 0, [(0x02, 5, 1000), (0x08, 5, OTHERS)], False),
        (0o755, 0, [(0x02, 7, 0), (0x08, 7, 0)], False),
    ],
)
def test_a_place_is_refused_where_any_group_but_roots_or_any_list_lets_others_write(
    town: Town, sticky: int, mode: int, group: int, entries: list[tuple[int, int, int]], refused: bool
) -> None:
    town.boot("20261121T101500Z-0a")
    town.persist("restore")
    town.boot("20261121T101600Z-0b")
    above = town.base / "shared"
    above.mkdir()
    os.chown(above, 0, group)
    above.chmod(mode | sticky)
    if entries:
        allow(above, *entries)
    said = town.persist("recall", "ada@20261121T101600Z", "--to", str(above / "look"), "--dry-run")
    assert (said.status == 1) == refused, said.err
    if refused:
        assert f"{above} can be changed by an agent, or by a group" in said.err
        assert "below /srv" in said.err


def test_writers_are_told_as_the_kernel_decides(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    os.chown(file, 0, OTHERS)
    allow(file, (0x02, 7, VOX), (0x02, 5, ADA), group=5)
    assert {(writer.kind, writer.id) for writer in acl.writers(file)} == {("user", VOX)}
    assert file.stat().st_mode & 0o020  # the mask's bit, not the group's
    allow(file, (0x02, 7, VOX), group=7, mask=5)
    assert list(acl.writers(file)) == []
