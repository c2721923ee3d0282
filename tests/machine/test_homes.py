"""`persist homes`: what is kept, why, what deleting it would free; and deleting one of them, named whole."""

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from persist import exclusive
from tests.machine import olds, towns
from tests.machine.boots import FIRST, SECOND, old, town
from tests.machine.towns import AS_ADA, Town, as_agent
from town import btrfs, files, kernel, locks, space

__all__ = ["old", "town"]
pytestmark = pytest.mark.root


def listed(town: Town, *words: str) -> dict[str, dict[str, Any]]:
    """What is kept, by name, with every size."""
    said = town.persist("homes", "--json", "--sizes", *words)
    assert said.status == 0, said
    return {home["name"]: home for home in json.loads(said.out)["homes"]}


def test_homes_lists_what_was_set_aside_oldest_first_and_why_it_is_kept(old: Town) -> None:
    said = old.persist("homes", "ada")
    assert said.status == 0
    one, two = said.out.splitlines()
    age = (datetime.now(UTC) - datetime(2026, 11, 20, 8, tzinfo=UTC)).days
    assert one.startswith(f"ada@{FIRST}  set aside 2026-11-20 08:00:00 UTC, boot 11111111-2222, subvolume, frees ")
    left = 14 - age
    if left > 1:
        assert one.endswith(f"; among the newest 5, for {left} days while 10% is free")
    assert two.startswith(
        f"ada@{SECOND}  set aside 2026-11-21 10:15:00 UTC, boot 33333333-4444, subvolume, 1 nested subvolume, frees "
    )
    assert two.endswith("; the newest home always stays")
    homes = json.loads(old.persist("homes", "--json").out)["homes"]
    assert [home["name"] for home in homes] == [
        f"ada@{FIRST}", f"ada@{SECOND}", f"vox@{FIRST}", f"vox@{SECOND}",
    ]  # fmt: skip
    assert homes[1]["nested"][0]["text"] == "a/b/nested"
    assert {home["kind"] for home in homes} == {"aside"}


def test_a_snapshot_is_listed_with_its_message_and_what_lies_beside_it(old: Town) -> None:
    old.persist("snapshot", "ada", "-m", "before\nthe upgrade \x1b[2J", "--name", "safe")
    (line,) = [line for line in old.persist("homes", "ada").out.splitlines() if line.startswith("ada@safe ")]
    assert "  snapshot of 20" in line
    assert ", with 1 persisted directory, frees " in line
    assert line.endswith("; taken on purpose, stays until persist homes --delete: before\\nthe upgrade \\x1b[2J")
    home = listed(old, "ada")["ada@safe"]
    assert (home["kind"], home["message"], home["persisted"]) == (
        "snapshot", "before\nthe upgrade \x1b[2J", ["projects"],
    )  # fmt: skip


def test_the_homes_of_an_agent_that_the_spec_lacks_are_listed_by_its_name(old: Town) -> None:
    text = old.file.read_text()
    old.file.write_text(text[: text.index("[agents.vox]")])
    assert sorted(listed(old, "vox")) == [f"vox@{FIRST}", f"vox@{SECOND}"]
    both = [f"{who}@{key}" for who in ("ada", "vox") for key in (FIRST, SECOND)]
    assert sorted(listed(old, "ada", "vox")) == sorted(both)
    said = old.persist("homes", "ada", "zed")
    assert (said.status, said.out) == (2, "")
    assert 'the spec has no agent "zed"' in said.err


def test_a_recalled_copy_is_listed_with_what_it_is_a_copy_of(old: Town) -> None:
    look = old.base / "look"
    assert old.persist("recall", f"ada@{FIRST}", "--to", str(look)).status == 0
    (home,) = [home for home in listed(old, "ada").values() if home["kind"] == "recalled"]
    assert home["of"] == f"ada@{FIRST}"
    assert home["why"].startswith(f"a recalled copy of ada@{FIRST}")
    assert "goes with the next boot" in home["why"]


@pytest.mark.parametrize(
    ("keep", "first"),
    [
        ("homes = 1", "goes with the next persist tidy: not among the newest 1"),
        ("homes = 9, days = 1", "goes with the next persist tidy: set aside "),
    ],
)
def test_why_says_what_the_next_tidy_would_do(old: Town, keep: str, first: str) -> None:
    old.file.write_text(old.file.read_text().replace("[town.btrfs]\n", f"[town.btrfs]\nkeep = {{ {keep} }}\n"))
    homes = listed(old, "ada")
    assert homes[f"ada@{FIRST}"]["why"].startswith(first)
    assert homes[f"ada@{SECOND}"]["why"] == "the newest home always stays"
    assert old.persist("tidy").status == 0
    assert list(listed(old, "ada")) == [f"ada@{SECOND}"]


def test_tidy_leaves_snapshots_alone_and_takes_only_what_kills_left_of_them(old: Town) -> None:
    old.file.write_text(
        old.file.read_text().replace("[town.btrfs]\n", '[town.btrfs]\nkeep = { homes = 1, days = 1, free = "99%" }\n')
    )
    old.persist("snapshot", "ada", "--name", "safe")
    with btrfs.top_level(old.device) as top, files.opened(files.open_beneath(top, "@agents-snapshots/ada")) as above:
        for name in (".new-1", ".deleting-1"):
            os.mkdir(name, 0o700, dir_fd=above)
            with files.opened(files.enter(above, name)) as fd:
                os.close(btrfs.create(fd, "home"))
        assert old.persist("tidy").status == 0
        assert files.names(above) == [b"safe"]
    assert "ada@safe" in listed(old)


def test_that_there_are_no_old_homes_is_said(town: Town) -> None:
    said = town.persist("homes")
    assert (said.status, said.out, said.err) == (0, "", "no old homes: a rollback sets them aside\n")
    said = town.persist("homes", "ada", "vox")
    assert (said.status, said.err) == (0, "no old homes of ada, vox: a rollback sets them aside\n")
    assert json.loads(town.persist("homes", "--json").out) == {"homes": []}


def test_what_was_set_aside_and_holds_no_home_is_counted_where_there_is_nothing_else(old: Town) -> None:
    with btrfs.top_level(old.device) as top:
        for name in ("@agents-old/empty", "@agents-old/.deleting-1"):
            os.mkdir(f"/proc/self/fd/{top}/{name}")
        Path(f"/proc/self/fd/{top}/@agents-old/file").touch()
        nobody = old.file.read_text() + "[agents.zed]\nuid = 41199\n"
        old.file.write_text(nobody)
        assert old.persist("homes", "--sizes").err == ""
        said = old.persist("homes", "zed")
        assert (said.status, said.out) == (0, "")
        assert said.err == "no old homes of zed: 4 entries of @agents-old hold no home of these agents\n"
        for name in (FIRST, SECOND):
            os.rename(f"@agents-old/{name}", f"@{name}", src_dir_fd=top, dst_dir_fd=top)
        assert old.persist("homes").err == "no old homes: 2 entries of @agents-old hold no home\n"
        os.unlink("@agents-old/file", dir_fd=top)
        assert old.persist("homes").err == "no old homes: 1 entry of @agents-old holds no home\n"


def test_names_from_the_disk_are_shown_escaped(old: Town) -> None:
    with btrfs.top_level(old.device) as top:
        os.makedirs(f"/proc/self/fd/{top}/@agents-old/\x1b[2J\nkey/ad\na")
    said = old.persist("homes")
    assert "\x1b" not in said.out
    assert "ad\\na@\\x1b[2J\\nkey  set aside time unknown, boot unknown, plain directory" in said.out


def test_a_nested_subvolume_too_deep_for_any_path_is_counted(old: Town) -> None:
    fd = files.open_dir(old.agents / "ada")
    for _ in range(40):
        name = "d" * 200
        os.mkdir(name, dir_fd=fd)
        below = files.enter(fd, name)
        os.close(fd)
        fd = below
    with files.opened(fd):
        os.close(btrfs.create(fd, "hidden"))
    old.boot("20261122T000000Z-5")
    assert "boot 5, subvolume, 1 nested subvolume" in old.persist("homes", "ada").out


def test_a_broken_note_beside_a_snapshot_hides_nothing(old: Town) -> None:
    for name in ("one", "two", "three"):
        old.persist("snapshot", "ada", "--name", name)
    with btrfs.top_level(old.device) as top, files.opened(files.open_beneath(top, "@agents-snapshots/ada")) as above:
        for name, text in (("one", b"{"), ("two", b'{"version": 9}')):
            with files.opened(files.enter(above, name)) as fd:
                files.write_beneath(fd, "about.json", text)
        os.unlink("three/about.json", dir_fd=above)
    homes = listed(old, "ada")
    assert {"ada@one", "ada@two", "ada@three"} <= set(homes)
    assert all(homes[f"ada@{name}"]["time"] for name in ("one", "two", "three"))


def used(top: int) -> tuple[int, int]:
    """Bytes of data and of metadata, once all that was deleted is free."""
    olds.wait_freed(top)
    found = space.of(top)
    return found.data.used, found.metadata.used


def test_what_deleting_would_free_is_what_deleting_frees(old: Town) -> None:
    """Of a home that shares with nothing, of a snapshot whose origin changed since, and of what is reflinked."""
    as_agent(
        AS_ADA,
        old.agents / "ada",
        "import os\n"
        "for n in range(300): open(f'f{n}', 'wb').write(os.urandom(9000))\n"
        "open('projects/p', 'wb').write(os.urandom(200_000))\n",
    )
    with btrfs.top_level(old.device) as top:
        kernel.syncfs(top)
        assert old.persist("snapshot", "ada", "--name", "a").status == 0
        as_agent(AS_ADA, old.agents / "ada", "import os\nfor n in range(0, 300, 3): os.unlink(f'f{n}')\n")
        as_agent(AS_ADA, old.agents / "ada", "import os; open('projects/p', 'r+b').write(os.urandom(100_000))")
        kernel.syncfs(top)
        assert old.persist("snapshot", "ada", "--name", "b").status == 0
        for name in (f"ada@{FIRST}", "ada@a", "ada@b"):
            told = listed(old)[name]["frees"]
            assert told["whole"]
            before = used(top)
            assert old.persist("homes", "--delete", name).out == f"deleted   {name}\n"
            after = used(top)
            assert before[0] - after[0] == told["data"], name
            least, most = told["metadata"], told["metadata"] + told["doubtful"]
            assert least - 100_000 <= before[1] - after[1] <= most + 100_000, name


def test_the_list_says_where_it_did_not_look_at_everything(old: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("persist.sizes.AT_ONCE", 0.0)
    said = old.persist("homes", "ada")
    assert said.out.count(", frees 0 B or more; ") == 2
    assert said.err == "note: not all was looked at, to be quick: persist homes --sizes takes the time\n"
    assert "or more" not in old.persist("homes", "ada", "--sizes").out


def test_an_extent_with_a_thousand_names_is_not_asked_for(old: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent can make millions of references to one extent; the kernel would look at each of them."""
    as_agent(
        AS_ADA,
        old.agents / "ada",
        "import fcntl, os\n"
        "open('f', 'wb').write(os.urandom(8192)); one = open('f'); os.sync()\n"
        "for n in range(1200): fcntl.ioctl(open(f'g{n}', 'w'), 0x40049409, one.fileno())\n",
    )
    old.persist("snapshot", "ada", "--name", "a")
    as_agent(AS_ADA, old.agents / "ada", "import os\nfor name in os.listdir(): name != 'projects' and os.unlink(name)")
    with btrfs.top_level(old.device) as top:
        kernel.syncfs(top)
    asked: list[int] = []
    monkeypatch.setattr(exclusive._Looking, "_is_ours", lambda _self, address: asked.append(address))
    assert not listed(old)["ada@a"]["frees"]["whole"]
    assert asked == []


def test_what_is_deleted_is_named_whole_and_a_dry_run_deletes_nothing(old: Town) -> None:
    for name in ("safe", "safer"):
        old.persist("snapshot", "ada", "--name", name)
    said = old.persist("homes", "--delete", "ada@saf")
    assert said.status == 1
    assert "is the beginning of" in said.err
    said = old.persist("homes", "--delete", "ada@safer", "--delete", "ada@safe", "--dry-run")
    assert (said.status, said.out) == (0, "delete    ada@safer\ndelete    ada@safe\n")
    said = old.persist("homes", "--delete", "ada@2026112")
    assert said.status == 1
    for words in (["homes", "ada", "--delete", "ada@safe"], ["homes", "--delete", "ada"], ["homes", "--dry-run"]):
        assert old.persist(*words).status == 2
    assert len(listed(old, "ada")) == 4
    said = old.persist("homes", "--delete", "ada@safe", "--json")
    assert json.loads(said.out) == {"dry_run": False, "deleted": ["ada@safe"]}
    assert set(listed(old, "ada")) == {"ada@safer", f"ada@{FIRST}", f"ada@{SECOND}"}
    assert old.persist("homes", "--delete", "ada@safe").status == 1


@pytest.mark.parametrize("name", ["ada@now", "ada@", "ada@.", "ada@..", "ada@../ada", "ada@home", "@safe", "vox@safe"])
def test_the_living_home_and_what_is_none_cannot_be_deleted(old: Town, name: str) -> None:
    old.persist("snapshot", "ada", "--name", "safe")
    before = towns.facts(old.agents), set(listed(old))
    assert old.persist("homes", "--delete", name).status in (1, 2)
    assert (towns.facts(old.agents), set(listed(old))) == before


def test_one_home_of_a_boot_is_deleted_and_the_others_stay(old: Town) -> None:
    assert old.persist("homes", "--delete", f"ada@{SECOND}").status == 0
    assert set(listed(old)) == {f"ada@{FIRST}", f"vox@{FIRST}", f"vox@{SECOND}"}
    with btrfs.top_level(old.device) as top, files.opened(files.open_beneath(top, f"@agents-old/{SECOND}")) as boot:
        assert files.names(boot) == [b"vox"]


def test_a_home_with_what_no_restore_brought_over_yet_is_not_deleted(town: Town) -> None:
    town.write('[{ path = ".x", type = "file" }]')
    assert town.persist("restore").status == 0
    as_agent(AS_ADA, town.agents / "ada", "open('.x', 'w').write('1')")
    town.persist("restore")
    assert (town.persisted / ".nuketown/copies/ada.json").exists()
    town.boot(FIRST)
    said = town.persist("homes", "--delete", f"ada@{FIRST}")
    assert said.status == 1
    assert "it has declared files of ada, which no restore has brought over yet" in said.err
    assert town.persist("restore").status == 0
    assert (town.agents / "ada/.x").read_text() == "1"
    assert town.persist("homes", "--delete", f"ada@{FIRST}").status == 0


def test_what_somebody_mounts_or_reads_is_not_deleted(old: Town) -> None:
    old.persist("snapshot", "ada", "--name", "safe")
    look = old.base / "seen"
    look.mkdir()
    for name, place in (("ada@safe", "@agents-snapshots/ada/safe/home"), (f"ada@{FIRST}", f"@agents-old/{FIRST}/ada")):
        kernel.mount(old.device, str(look), "btrfs", 1, f"subvol={place}")
        said = old.persist("homes", "--delete", name)
        assert (said.status, said.out) == (1, "")
        assert f"is in use: mounted at {look}" in said.err
        kernel.umount(str(look))
    with btrfs.top_level(old.device) as top:
        for name, place in (("ada@safe", "@agents-snapshots/ada/safe"), (f"ada@{FIRST}", f"@agents-old/{FIRST}")):
            with files.opened(files.open_beneath(top, place)) as fd:
                assert locks.free(fd, shared=True)
                said = old.persist("homes", "--delete", name)
                assert said.status == 1
                assert "is being read by another command" in said.err
        with files.opened(files.open_beneath(top, f"@agents-old/{FIRST}")) as fd:
            assert locks.free(fd, shared=True)
            old.file.write_text(
                old.file.read_text().replace("[town.btrfs]\n", "[town.btrfs]\nkeep = { homes = 1, days = 1 }\n")
            )
            assert "is being read by another command" in old.persist("tidy").err
    assert {"ada@safe", f"ada@{FIRST}"} <= set(listed(old, "ada"))
    assert old.persist("tidy").status == 0
    assert f"ada@{FIRST}" not in listed(old)


def test_two_at_once_are_told_of_each_other(old: Town) -> None:
    from persist.alone import alone

    old.persist("snapshot", "ada", "--name", "safe")
    with alone(old.spec, old.spec.agent("ada")):
        for words in (["snapshot", "ada"], ["homes", "--delete", "ada@safe"]):
            said = old.persist(*words)
            assert said.status == 75, said
            assert "at work on ada" in said.err
    assert "ada@safe" in listed(old)


def test_homes_of_who_is_no_agent_any_more_are_listed_and_can_be_deleted(old: Town) -> None:
    old.persist("snapshot", "vox", "--name", "safe")
    old.file.write_text(old.file.read_text().partition("[agents.vox]")[0])
    assert {"vox@safe", f"vox@{FIRST}"} <= set(listed(old))
    assert "snapshots" in old.persist("status").out
    assert old.persist("homes", "--delete", "vox@safe", "--delete", f"vox@{FIRST}").status == 0
    assert set(listed(old)) == {f"ada@{FIRST}", f"ada@{SECOND}", f"vox@{SECOND}"}


def test_without_btrfs_homes_of_earlier_boots_are_listed_with_what_they_take(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    town = Town(tmp_path, "", capsys)
    keys = [f"{datetime.now(UTC) - timedelta(days=days):%Y%m%dT%H%M%SZ}-1234" for days in (20, 3)]
    for key in keys:
        home = town.agents / ".old" / key / "ada"
        home.mkdir(parents=True)
        for path in (home.parent.parent, home.parent):
            path.chmod(0o700)
        (home / "x").write_bytes(os.urandom(100_000))
        (home / "y").hardlink_to(home / "x")
    town.persisted.mkdir()
    town.write("[]")
    homes = listed(town)
    assert list(homes) == [f"ada@{key}" for key in keys]
    assert all(100_000 <= home["frees"]["bytes"] + home["frees"]["doubtful"] < 120_000 for home in homes.values())
    assert homes[f"ada@{keys[0]}"]["why"] == "goes with the next persist tidy: set aside 20 days ago"
    assert town.persist("homes", "--delete", f"ada@{keys[1]}").status == 0
    assert list(listed(town)) == [f"ada@{keys[0]}"]
    assert town.persist("snapshot", "ada").status == 78
