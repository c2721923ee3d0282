"""What lies in a home and was written after the last sync is there after a power cut: brought over, not fetched."""

import json
import os
import shutil
import time

import pytest

from persist import nested
from persist.restore import origins
from tests.machine.lineages import (
    boot,
    degraded,
    kept,
    no_packs,
    ok,
    record,
    requests,
    run,
    second,
    synced,
    town,
    uuid,
    work,
    write,
)  # fmt: skip
from tests.machine.towns import ADA, AS_ADA, VOX, Town, as_agent, is_subvolume
from town import btrfs, files

__all__ = ["kept", "town"]
pytestmark = pytest.mark.root


def test_each_directory_of_the_store_is_a_subvolume_of_its_own_and_on_record(kept: Town) -> None:
    assert is_subvolume(work(kept))
    assert (work(kept).stat().st_uid, work(kept).stat().st_mode & 0o7777) == (ADA, 0o700)
    (found,) = record(kept)["work"]
    assert (found["uuid"], found["commit"], found["settled"]) == (uuid(work(kept)), "", True)
    file = kept.persisted / ".nuketown/lineage/ada.json"
    assert (file.stat().st_uid, file.stat().st_mode & 0o7777) == (0, 0o600)


def test_what_was_written_after_the_last_sync_survives_a_power_cut_and_nothing_is_fetched(kept: Town) -> None:
    for number in range(30):
        write(kept, f"old{number}")
    synced(kept)
    before = uuid(work(kept))
    write(kept, "new", "after the last sync")
    boot(kept)
    with no_packs(kept):
        said = ok(kept, "restore", "ada")
    assert f"keep    {work(kept)} (from the home set aside, subvolume " in said.out
    assert "with what was written since the last sync" in said.out
    assert "fetch   " not in said.out
    assert (work(kept) / "new").read_text() == "after the last sync"
    assert len(list(work(kept).iterdir())) == 31
    assert [found["uuid"] for found in record(kept)["work"]] == [uuid(work(kept)), before]
    assert "carried over from the home before" in kept.persist("status", "ada").out
    assert origins.known(kept.spec, kept.spec.agent("ada"))
    said_ = synced(kept)
    assert (said_["read_files"], said_["committed"]) == (1, True)
    assert ok(kept, "restore", "ada").out == "ada: nothing to do\n"


def test_a_reboot_without_changes_sends_a_question_and_reads_nothing(kept: Town) -> None:
    write(kept, "a")
    synced(kept)
    boot(kept)
    with no_packs(kept):
        assert requests(kept, "restore", "ada") <= 2
    assert requests(kept, "restore", "ada") == 0
    assert requests(kept, "sync", "ada") == 0
    assert (work(kept) / "a").read_text() == "a"


def test_the_halves_bring_it_over_without_and_ask_with_the_network(kept: Town) -> None:
    write(kept, "a")
    synced(kept)
    write(kept, "b")
    boot(kept)
    assert requests(kept, "restore", "--local", "ada") == 0
    assert (work(kept) / "b").exists()
    assert record(kept)["work"][0]["settled"] is False
    said = ok(kept, "restore", "--fetch", "ada")
    assert "ask     the store for a newer state of" in said.out
    assert "it has none" in said.out
    assert record(kept)["work"][0]["settled"] is True
    assert ok(kept, "restore", "--local", "ada").out == "ada: nothing to do\n"


def test_what_was_never_synced_is_brought_over_too(kept: Town) -> None:
    write(kept, "first")
    boot(kept)
    ok(kept, "restore", "ada")
    assert (work(kept) / "first").read_text() == "first"
    assert synced(kept)["committed"]


def test_boot_after_boot_without_a_sync_loses_nothing(kept: Town) -> None:
    for number in range(5):
        write(kept, f"f{number}")
        boot(kept)
        ok(kept, "restore", "--local", "ada")
    assert sorted(os.listdir(work(kept))) == [f"f{number}" for number in range(5)]
    assert len(record(kept)["work"]) == 3


def test_a_dry_run_says_what_it_would_bring_over_and_changes_nothing(kept: Town) -> None:
    write(kept, "a")
    boot(kept)
    before = record(kept)
    said = ok(kept, "restore", "--dry-run", "ada")
    assert "keep    " in said.out
    assert record(kept) == before
    assert not (kept.agents / "ada").exists()


def test_a_directory_that_the_agent_moved_is_found_by_its_number(kept: Town) -> None:
    write(kept, "a")
    run(kept, "import os; os.makedirs('x/y'); os.rename('work', 'x/y/elsewhere'); os.mkdir('work')")
    run(kept, "open('work/decoy', 'w').write('decoy')")
    boot(kept)
    ok(kept, "restore", "ada")
    assert os.listdir(work(kept)) == ["a"]


def test_a_directory_that_the_agent_removed_comes_from_the_store(kept: Town) -> None:
    write(kept, "a")
    synced(kept)
    boot(kept)
    ok(kept, "restore", "ada")
    write(kept, "b")
    synced(kept)
    run(kept, "import shutil; shutil.rmtree('work')")
    boot(kept)
    said = ok(kept, "restore", "ada")
    assert "fetch   " in said.out, "the home before the last has it too, without what was synced since"
    assert sorted(os.listdir(work(kept))) == ["a", "b"]


def test_what_was_synced_from_a_plain_directory_in_its_place_is_newer_than_what_was_moved_away(kept: Town) -> None:
    write(kept, "a")
    synced(kept)
    run(kept, "import os; os.rename('work', 'old'); os.mkdir('work'); open('work/b', 'w').write('b')")
    synced(kept, "--accept-loss")
    assert "work" not in record(kept)
    boot(kept)
    ok(kept, "restore", "ada")
    assert os.listdir(work(kept)) == ["b"]


def test_a_loss_that_was_accepted_does_not_come_back(kept: Town) -> None:
    write(kept, "a")
    synced(kept)
    run(kept, "import os; os.rename('work', 'old')")
    synced(kept, "--accept-loss")
    boot(kept)
    ok(kept, "restore", "ada")
    assert os.listdir(work(kept)) == []


def test_a_subvolume_that_the_agent_put_there_is_brought_over_once_it_was_synced(kept: Town) -> None:
    write(kept, "a")
    synced(kept)
    as_agent(AS_ADA, kept.agents / "ada", "import os; os.rename('work', 'old')")
    with (
        files.opened(files.open_dir(kept.agents / "ada/old")) as old,
        files.opened(files.open_dir(kept.agents / "ada")) as home,
    ):
        os.close(btrfs.snapshot(old, home, "work", read_only=False))
    write(kept, "b")
    synced(kept)
    write(kept, "c")
    boot(kept)
    ok(kept, "restore", "ada")
    assert sorted(os.listdir(work(kept))) == ["a", "b", "c"]


def test_a_read_only_one_comes_back_writable(kept: Town) -> None:
    write(kept, "a")
    with files.opened(files.open_dir(work(kept))) as fd:
        btrfs.set_read_only(fd, True)
    with files.opened(files.open_dir(kept.agents / "ada")) as fd:
        btrfs.set_read_only(fd, True)
    boot(kept)
    ok(kept, "restore", "ada")
    write(kept, "b")
    assert sorted(os.listdir(work(kept))) == ["a", "b"]


def nest(town: Town, *paths: str) -> None:
    """Subvolumes of ada's below her directory, a file in each."""
    for path in paths:
        place = work(town) / path
        with files.opened(files.open_dir(place.parent)) as fd:
            made = btrfs.create(fd, place.name)
            os.fchown(made, ADA, ADA)
            os.close(made)
        (place / "in").write_text(path)
        os.chown(place / "in", ADA, ADA)


def test_a_hundred_nested_subvolumes_are_brought_over_with_it(kept: Town) -> None:
    run(kept, "import os; os.makedirs('work/deep/er')")
    nest(kept, *(f"n{number}" for number in range(98)), "deep/er/n", "deep/er/n/within")
    times = (work(kept) / "deep/er").stat().st_mtime_ns
    boot(kept)
    said = ok(kept, "restore", "--local", "ada")
    assert said.err == ""
    for path in ("n0", "n97", "deep/er/n", "deep/er/n/within"):
        assert is_subvolume(work(kept) / path)
        assert (work(kept) / path / "in").read_text() == path
    assert (work(kept) / "deep/er").stat().st_mtime_ns == times


def test_nested_subvolumes_beyond_the_bound_are_said(kept: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    nest(kept, *(f"n{number}" for number in range(6)))
    boot(kept)
    monkeypatch.setattr(nested, "MOST", 4)
    said = ok(kept, "restore", "--local", "ada")
    assert "2 nested subvolumes were not brought over" in said.err
    assert sum(is_subvolume(work(kept) / f"n{number}") for number in range(6)) == 4


def test_nothing_newer_in_the_store_is_told_from_reading_alone(kept: Town) -> None:
    """Without noatime a read writes inodes: that is no change."""
    write(kept, "a")
    time.sleep(0.05)  # the kernel's clock for files may lag by a tick: within that, everything counts as a change
    synced(kept)
    assert (work(kept) / "a").read_text() == "a"
    boot(kept)
    assert "with what was written" not in ok(kept, "restore", "ada").out


def test_once_the_homes_set_aside_are_tidied_it_comes_from_the_store(kept: Town) -> None:
    write(kept, "a")
    synced(kept)
    boot(kept)
    with btrfs.top_level(kept.device) as top, files.opened(files.enter(top, "@agents-old")) as old:
        from town import subvolumes

        for name in files.names(old):
            subvolumes.remove(old, name)
    said = kept.persist("restore", "--local", "ada")
    assert "wait    work" in said.out
    assert "fetch   " in ok(kept, "restore", "ada").out
    assert (work(kept) / "a").read_text() == "a"


def test_a_town_whose_homes_nobody_rolls_back_brings_it_over_too(kept: Town) -> None:
    from town import standing

    text = kept.file.read_text()
    kept.file.write_text(text.replace(f'[town.btrfs]\ndevice = "{kept.device}"\n', ""))
    write(kept, "a")
    shutil.rmtree(standing.RUN, ignore_errors=True)
    ok(kept, "restore", "ada")
    assert list((kept.agents / ".old").iterdir())
    assert (work(kept) / "a").read_text() == "a"


# ---- the record


def test_a_forged_record_brings_over_nothing_of_another_agent(kept: Town) -> None:
    with files.opened(files.open_dir(kept.agents)) as agents:
        made = btrfs.create(agents, "theirs")
        os.fchown(made, VOX, VOX)
        found = btrfs.info(made)
        os.close(made)
    (kept.agents / "theirs/secret").write_text("vox's")
    tree = record(kept)
    tree["work"][0] |= {"subvolume": found.id, "uuid": found.uuid_bytes.hex()}
    boot_after(kept, {"version": 1, "paths": tree})
    said = ok(kept, "restore", "ada")
    assert os.listdir(work(kept)) == []
    assert f"belongs to uid {VOX}, expected uid {ADA}: it is not brought over" in said.err


def test_a_number_whose_uuid_is_another_is_not_brought_over(kept: Town) -> None:
    write(kept, "a")
    tree = record(kept)
    tree["work"][0]["uuid"] = "0" * 32
    boot_after(kept, {"version": 1, "paths": tree})
    ok(kept, "restore", "ada")
    assert os.listdir(work(kept)) == []


def boot_after(town: Town, tree: object) -> None:
    boot(town)
    (town.persisted / ".nuketown/lineage/ada.json").write_text(json.dumps(tree))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"version": 2, "paths": {}}',
        '{"version": 1, "paths": {"work": [{"subvolume": "312"}]}}',
        "9" * 99,
    ],
)
def test_a_record_that_does_not_parse_is_said_and_counts_as_none(kept: Town, text: str) -> None:
    write(kept, "a")
    synced(kept)
    boot(kept)
    (kept.persisted / ".nuketown/lineage/ada.json").write_text(text)
    said = ok(kept, "restore", "ada")
    assert "lineage/ada.json is damaged" in said.err
    assert (work(kept) / "a").read_text() == "a", "from the store"
    assert len(record(kept)["work"]) == 1


# ---- another machine


def elsewhere(kept: Town, *names: str) -> Town:
    """Another machine took over, and synced files of these names."""
    two = second(kept)
    ok(two, "restore", "--take-over", "ada")
    for name in names:
        write(two, name, f"{name} of two")
    ok(two, "sync", "--release", "ada")
    return two


def test_what_another_machine_wrote_since_is_fetched_over_it_and_what_lay_there_is_set_aside(kept: Town) -> None:
    write(kept, "a")
    synced(kept)
    elsewhere(kept, "b")
    boot(kept)
    said = ok(kept, "restore", "ada")
    assert "ask     the store" in said.out
    assert "what was there is now" in said.out
    (aside,) = (kept.agents / "ada").glob("work.before-*/whole")
    assert os.listdir(aside) == ["a"]
    assert ok(kept, "restore", "ada").out == "ada: nothing to do\n"
    write(kept, "c")
    assert synced(kept)["read_files"] == 1
    assert (work(kept) / "b").read_text() == "b of two"
    boot(kept)
    ok(kept, "restore", "ada")
    assert sorted(os.listdir(work(kept))) == ["a", "b", "c"]


def test_where_both_wrote_nothing_is_overwritten_and_the_next_sync_keeps_a_branch(kept: Town) -> None:
    write(kept, "a")
    synced(kept)
    write(kept, "mine", "after the last sync")
    elsewhere(kept, "theirs")
    boot(kept)
    said = ok(kept, "restore", "ada")
    assert "nothing was overwritten" in said.err
    assert sorted(os.listdir(work(kept))) == ["a", "mine"]
    assert "this one wrote since too" in degraded(kept)["work"]["why"]
    status = kept.persist("status", "ada")
    assert status.status == 3
    assert "another machine has synced a newer state" in status.out
    said = kept.persist("sync", "ada")
    assert said.status == 1
    assert "has taken over ada" in said.err
    log = json.loads(ok(kept, "log", "ada", "--json").out)["agents"][0]["states"]
    assert [state["kind"] for state in log].count("branch") == 1
    assert degraded(kept) == {}


def test_while_another_machine_holds_the_lease_the_agent_does_not_start_and_nothing_is_lost(kept: Town) -> None:
    write(kept, "a")
    synced(kept)
    write(kept, "mine")
    two = second(kept)
    ok(two, "restore", "--take-over", "ada")
    boot(kept)
    said = kept.persist("restore", "ada")
    assert said.status == 75
    assert "syncs ada, until" in said.err
    assert sorted(os.listdir(work(kept))) == ["a", "mine"]


def test_what_another_machine_wrote_elsewhere_does_not_matter_to_what_it_does_not_hold(kept: Town) -> None:
    write(kept, "a")
    two = second(kept)
    two.file.write_text(two.file.read_text().replace('path = "work"', 'path = "other"'))
    ok(two, "restore", "ada")
    (two.agents / "ada/other/f").write_text("f")
    ok(two, "sync", "--release", "ada")
    boot(kept)
    ok(kept, "restore", "ada")
    assert os.listdir(work(kept)) == ["a"]
