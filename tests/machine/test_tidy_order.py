"""Which home is the newest: the one set aside last, whenever it was made; by real resets, reboots, and hands."""

import json
import os
from datetime import UTC, datetime, timedelta
from random import Random

import pytest

from persist import aside
from tests.machine import olds
from tests.machine.resets import kept, ok, old, say, still
from tests.machine.towns import Town, town
from town import btrfs, files, kernel

__all__ = ["still", "town"]
pytestmark = pytest.mark.root


def keep(town: Town, rule: str) -> None:
    town.file.write_text(town.file.read_text().replace('device = "', f'keep = {{ {rule} }}\ndevice = "'))


def reboot(town: Town, number: int) -> str:
    """A boot and its restore; the name of what it set aside."""
    key = olds.key(-number / 86400, boot=f"{number:08}-1111-2222-3333-444444444444")
    town.boot(key)
    ok(town, "restore")
    return key


def reset(town: Town) -> str:
    """The name in @agents-old of what a reset of ada set aside."""
    return str(json.loads(ok(town, "reset", "ada", "--json").out)["kept"]).partition("@")[2]


def why(town: Town) -> dict[str, str]:
    return {home["name"]: home["why"] for home in json.loads(ok(town, "homes", "ada", "--json").out)["homes"]}


def test_the_home_that_the_last_reboot_took_stays_when_a_reset_set_an_earlier_one_aside(still: Town) -> None:
    keep(still, 'homes = 1, free = "1K"')
    earlier = reset(still)
    say(still, **{"work.md": "the only copy"})
    last = reboot(still, 1)
    assert why(still) == {
        f"ada@{earlier}": "goes with the next persist tidy: not among the newest 1",
        f"ada@{last}": "the newest home always stays",
    }
    assert f"delete    {earlier}: " in ok(still, "tidy", "--dry-run").out
    ok(still, "tidy")
    assert old(still) == [last]
    assert kept(still, f"ada@{last}", "work.md") == "the only copy"
    ok(still, "recall", f"ada@{last}", "--to", str(still.base / "look"))
    assert (still.base / "look/work.md").read_text() == "the only copy"


def test_for_room_the_home_set_aside_first_goes_first(still: Town) -> None:
    keep(still, 'homes = 9, free = "1T"')
    first = reset(still)
    second = reboot(still, 1)
    third = reset(still)
    fourth = reboot(still, 2)
    planned = [action["name"]["text"] for action in json.loads(ok(still, "tidy", "--dry-run", "--json").out)["actions"]
               if action["do"] == "delete"]  # fmt: skip
    assert planned == [first, second, third]
    ok(still, "tidy")
    assert old(still) == [fourth]


@pytest.mark.parametrize("rule", ['homes = 1, free = "1K"', 'homes = 9, free = "1T"'])
def test_no_reset_of_one_agent_lets_the_last_home_of_all_others_go(still: Town, rule: str) -> None:
    keep(still, rule)
    reboot(still, 1)
    last = reboot(still, 2)
    newest = reset(still)
    ok(still, "tidy")
    assert sorted(old(still)) == sorted([last, newest])
    assert why(still) == {f"ada@{name}": "the newest home always stays" for name in (last, newest)}
    again = reboot(still, 3)
    ok(still, "tidy")
    assert old(still) == [again], "a reset's home is protected by being the newest alone"


def test_an_old_home_that_a_person_put_back_and_a_boot_took_again_is_the_newest(still: Town) -> None:
    keep(still, 'homes = 1, free = "1K"')
    first, _ = reboot(still, 1), reboot(still, 2)
    again = olds.key(boot="99999999-1111-2222-3333-444444444444")
    with btrfs.top_level(still.device) as top, files.opened(files.enter(top, "@agents-old")) as fd:
        kernel.renameat2(fd, first, fd, again)  # what moving it to @agents, and the next boot's hook, come to
        btrfs.commit(top)
    ok(still, "tidy")
    assert old(still) == [again]


def test_the_order_is_that_of_coming_there_for_any_names_kinds_and_after_a_new_mount(still: Town) -> None:
    random, now = Random(3), datetime.now(UTC)
    names = [b"%x" % random.getrandbits(64) for _ in range(700)]
    with btrfs.top_level(still.device) as top, files.opened(files.enter(top, "@agents-old")) as fd:
        for number, name in enumerate(names):
            if number % 3:
                os.mkdir(name, dir_fd=fd)
            else:
                files.write_beneath(fd, name.decode(), b"")
            if number == 350:
                btrfs.commit(top)
        for name in names[::7]:  # renamed: they come last
            os.rename(name, b"again-" + name, src_dir_fd=fd, dst_dir_fd=fd)
        expected = [name for name in names if name not in names[::7]] + [b"again-" + name for name in names[::7]]
        assert [entry.name for entry in aside.read(fd, now, _no)] == expected
        btrfs.commit(top)
    with btrfs.top_level(still.device) as top, files.opened(files.enter(top, "@agents-old")) as fd:
        assert [entry.name for entry in aside.read(fd, now, _no)] == expected


def test_what_a_tidy_had_begun_to_delete_makes_nothing_older_or_younger(still: Town) -> None:
    keep(still, 'homes = 9, days = 14, free = "1K"')
    with btrfs.top_level(still.device) as top, files.opened(files.enter(top, "@agents-old")) as fd:
        olds.put(top, olds.key(10), olds.key(1))
        os.close(btrfs.create(fd, f".deleting-{olds.key(40)}"))
        os.close(btrfs.create(fd, f".deleting-{olds.key(0)}"))
        found = aside.read(fd, datetime.now(UTC), _no)
        days = [(entry.deleting, (datetime.now(UTC) - entry.time) // timedelta(days=1)) for entry in found]
    assert days == [(True, 40), (True, 0), (False, 10), (False, 1)]
    ok(still, "tidy")
    assert sorted(old(still)) == sorted([olds.key(10), olds.key(1)])


def _no(name: bytes, failure: Exception) -> None:
    raise AssertionError((name, failure))
