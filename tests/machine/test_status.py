"""`persist status`: what is missing is reported, never raised, and the status says how bad it is."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from persist import ballast, ground, installed, reach
from tests.machine import towns
from tests.machine.towns import ADA, Town, town
from town import btrfs, files, kernel, process
from town.spec import Btrfs

__all__ = ["town"]
pytestmark = pytest.mark.root


@pytest.fixture(autouse=True)
def its_ballast(town: Town) -> Btrfs:
    """What `persist init` makes besides."""
    names = Btrfs(town.device)
    with btrfs.top_level(town.device) as top:
        ballast.make(top, names)
    return names


def _json(town: Town, level: int) -> dict[str, Any]:
    said = town.persist("status", "ada", "--json")
    assert said.status == level, said.out
    return json.loads(said.out)["agents"][0]


def test_a_town_that_was_restored_is_good(town: Town) -> None:
    town.write('["projects", { path = "scratch", required = false }]')
    town.persist("restore")
    said = town.persist("status")
    assert (said.status, said.err) == (0, "")
    agent = _json(town, 0)
    assert agent["home"]["present"]
    assert agent["home"]["subvolume"]
    assert agent["home"]["since"].startswith("20")
    found = [(item["path"]["text"], item["via"], item["class"], item["state"]) for item in agent["directories"]]
    assert found == [("projects", "bind", "data", "bound"), ("scratch", "bind", "data", "bound")]
    assert "projects  bound, made here (via bind, data)" in said.out


def _typed(town: Town, verb: str, *words: str) -> str:
    """A command of a hint: it reads the spec that was read."""
    return " ".join(("persist", verb, "--spec", str(town.file), *words))


def test_a_missing_home_is_broken_and_names_the_next_command(town: Town) -> None:
    agent = _json(town, 4)
    assert not agent["home"]["present"]
    assert agent["troubles"] == [
        {"level": 4, "what": f"no home at {town.agents}/ada", "next": _typed(town, "restore", "ada")}
    ]


def test_a_required_bind_that_is_missing_is_broken_another_needs_attention(town: Town) -> None:
    town.persist("restore")
    town.write('["projects", { path = "scratch", required = false }]')
    assert _json(town, 3)["troubles"][0]["what"] == "scratch is missing (not required)"
    town.write('["projects", "scratch"]')
    assert _json(town, 4)["troubles"][0]["what"] == "scratch is missing"


def test_a_bind_that_was_undone_is_broken(town: Town) -> None:
    town.persist("restore")
    towns.undo(town.agents / "ada/projects")
    agent = _json(town, 4)
    assert agent["directories"][0]["state"] == "not bound"


def test_an_agents_dir_that_is_not_mounted_is_reported(town: Town) -> None:
    towns.undo(town.agents)
    said = town.persist("status")
    assert said.status == 4
    assert "is not the mounted subvolume @agents" in said.out
    assert "next:  mount -t btrfs" in said.out
    assert "umount" not in said.out
    assert said.err == ""


def test_a_good_proof_whose_homes_are_not_mounted_yet_is_no_broken_one(
    town: Town, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ground, "UNITS", tmp_path)
    towns.undo(town.agents)
    trouble = json.loads(town.persist("status", "--json").out)["rollback"]["trouble"]
    assert (trouble["level"], trouble["what"]) == (3, f"@agents is not mounted at {town.agents} yet")
    assert trouble["next"].startswith("mount -t btrfs -o subvol=@agents,")
    out = town.persist("status").out
    assert out.startswith("rollback: @agents was made blank at boot ")
    assert "  note:  @agents is not mounted at " in out


def test_the_unit_that_mounts_is_started_where_it_is_installed(
    town: Town, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ground, "UNITS", tmp_path)
    device = Path("/run/nuketown/device")
    device.unlink(missing_ok=True)  # that alone: other tests may have something mounted below /run/nuketown
    towns.undo(town.agents)
    kernel.mount("tmpfs", str(town.agents), "tmpfs", kernel.MOUNT_NOSUID, "mode=0000")  # the cover, as at boot
    start = "systemctl start nuketown-mount.service"
    (tmp_path / "nuketown-mount.service").touch()
    assert _trouble(town)["next"] == f"systemctl restart nuketown-rollback.service && {start}"
    device.parent.mkdir(exist_ok=True)
    device.symlink_to(town.device)
    assert _trouble(town)["next"] == start
    (tmp_path / "nuketown-mount.service").rename(tmp_path / "other.service")
    assert _trouble(town)["next"].startswith("mount -t btrfs")
    device.unlink()


def test_something_else_that_is_mounted_at_agents_dir_is_broken_and_unmounted_first(town: Town) -> None:
    towns.undo(town.agents)
    kernel.mount(town.device, str(town.agents), "btrfs", 0, "subvol=@persist")
    trouble = _doubt(town, 4)
    assert "does not fit: it is of uuid " in trouble["what"]
    assert f"then: umount -R {town.agents}; persist rollback " in trouble["next"]
    towns.undo(town.agents)
    town.proof.unlink()
    assert "umount" not in _trouble(town)["next"]


def test_a_persist_dir_that_is_missing_is_reported(town: Town) -> None:
    town.persist("restore")
    towns.undo(town.persisted)
    shutil.rmtree(town.persisted)
    assert town.persist("status").status == 4


def test_what_is_unsafe_is_reported(town: Town) -> None:
    town.persist("restore")
    os.chown(town.persisted / "agents/ada", 41100, 41100)
    said = town.persist("status")
    assert said.status == 4
    assert "may be changed by others" in said.out
    assert "vox: good" in said.out


def test_a_home_that_is_a_plain_directory_needs_attention(town: Town) -> None:
    (town.agents / "ada").mkdir(0o700)
    os.chown(town.agents / "ada", 41100, 41100)
    assert town.persist("restore").status == 0
    assert "plain directory" in _json(town, 3)["troubles"][0]["what"]


def _trouble(town: Town) -> dict[str, Any]:
    """What status says of the rollback, in JSON."""
    trouble: dict[str, Any] = json.loads(town.persist("status", "--json").out)["rollback"]["trouble"]
    return trouble


def _doubt(town: Town, level: int) -> dict[str, Any]:
    """What status says of the rollback, in JSON; the same words are in its text."""
    said = town.persist("status", "--json")
    assert said.status == level, said.out
    trouble: dict[str, Any] = json.loads(said.out)["rollback"]["trouble"]
    assert trouble["level"] == level
    text = town.persist("status")
    assert (text.status, text.err) == (level, "")
    assert trouble["what"] in text.out
    assert f"next:  {trouble['next']}" in text.out
    return trouble


def test_a_proof_that_fits_is_shown(town: Town) -> None:
    town.persist("restore")
    town.prove(old="@agents-old/\x1bx")
    said = town.persist("status")
    assert said.status == 0
    first = said.out.splitlines()[0]
    assert first.startswith("rollback: @agents was made blank at boot ")
    assert first.endswith("; set aside: @agents-old/\\x1bx")


def test_a_boot_without_a_proof_needs_attention(town: Town) -> None:
    town.persist("restore")
    town.proof.unlink()
    trouble = _doubt(town, 3)
    assert "left no proof" in trouble["what"]
    assert f"{_typed(town, 'rollback')} && mount -t btrfs" in trouble["next"]
    assert trouble["next"].startswith("see that the initrd runs the hook; reboot, or ")


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ('{"version": 1, "initrd": "none", "files": {}, "links": {}, "directories": []}',
         "nuketown-rollback.service rolls back here: systemctl status nuketown-rollback.service; reboot, or "),
        ('{"version": 1, "initrd": "dracut", "files": {}, "links": {}, "directories": []}', "see that the initrd runs"),
        ("nonsense", "see that the initrd runs"),
    ],
)  # fmt: skip
def test_who_should_have_rolled_back_is_what_was_installed(
    town: Town, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record: str, says: str
) -> None:
    file = tmp_path / "installed.json"
    file.write_text(record)
    monkeypatch.setattr(installed, "RECORD", str(file))
    town.persist("restore")
    town.proof.unlink()
    assert _doubt(town, 3)["next"].startswith(says)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"version": "2"}, "its version is 2, this program knows 1"),
        ({"version": ""}, "its version is missing"),
        ({"boot_id": "00000000-edd7-4c7a-a748-ce7563c808be"}, "it is of boot 00000000-"),
        ({"boot_id": ""}, "it is of boot missing"),
        ({"subvolume": "@homes"}, "it is of the subvolume @homes, the spec says @agents"),
        ({"uuid": "f3399a8a-3ddc-964e-8fae-3b9172eed7f9"}, "it is of uuid f3399a8a-"),
        ({"uuid": ""}, "it is of uuid missing"),
    ],
)
def test_a_proof_that_does_not_fit_is_broken(town: Town, changed: dict[str, str], says: str) -> None:
    town.persist("restore")
    town.prove(**changed)
    assert says in _doubt(town, 4)["what"]
    assert town.persist("status").out.startswith("rollback: the proof does not fit\n")


def test_a_proof_of_another_subvolume_than_the_mounted_one_is_broken(town: Town) -> None:
    before = town.proof.read_bytes()
    town.boot("20261121T101500Z-4f")
    town.proof.write_bytes(before)
    town.persist("restore")
    assert f"{town.agents} shows " in _doubt(town, 4)["what"]


@pytest.mark.parametrize("text", ["", "\0\xff=\n===\n", "version=1\nversion=1\n"])
def test_a_proof_of_nonsense_is_broken(town: Town, text: str) -> None:
    town.persist("restore")
    town.proof.write_bytes(text.encode("latin-1"))
    _doubt(town, 4)


def test_a_proof_that_cannot_be_read_is_broken(town: Town) -> None:
    town.persist("restore")
    town.proof.unlink()
    town.proof.mkdir()
    assert "cannot be read" in _doubt(town, 4)["what"]


def test_a_uuid_that_cannot_be_read_is_reported_and_never_raised(town: Town) -> None:
    towns.undo(town.agents)
    kernel.mount("tmpfs", str(town.agents), "tmpfs", 0, "mode=0755")
    assert "cannot be asked for its uuid" in _doubt(town, 4)["what"]
    towns.undo(town.agents)
    town.agents.rmdir()
    assert "cannot be asked for its uuid" in _doubt(town, 4)["what"]


@pytest.mark.parametrize("what", ["proof", "directory"])
def test_a_proof_that_others_than_root_may_write_is_broken(town: Town, what: str) -> None:
    town.persist("restore")
    (town.proof if what == "proof" else town.proof.parent).chmod(0o777)
    assert "may be changed by others than root" in _doubt(town, 4)["what"]
    assert town.persist("status").out.startswith("rollback: the proof cannot be read\n")


def test_whether_the_proof_was_taken_is_in_the_json(town: Town) -> None:
    town.persist("restore")
    assert json.loads(town.persist("status", "--json").out)["rollback"]["used"] is False
    town.proof.with_name("rollback.used").touch()
    assert json.loads(town.persist("status", "--json").out)["rollback"]["used"] is True


def test_without_a_proof_the_next_step_is_never_to_mount_what_is_there(town: Town) -> None:
    towns.undo(town.agents)
    assert "next:  mount -t btrfs" in town.persist("status").out
    town.proof.unlink()
    out = town.persist("status").out
    assert "next:  mount -t btrfs" not in out
    assert f"{_typed(town, 'rollback')} && mount -t btrfs" in out


def test_a_town_without_btrfs_needs_no_proof(town: Town) -> None:
    town.proof.unlink()
    town.write("[]", btrfs_device="")
    town.persist("restore")
    assert town.persist("status").status == 0


def test_a_rollback_that_failed_is_broken(town: Town) -> None:
    town.persist("restore")
    town.proof.with_name("rollback.failed").write_text("error: no disk\nhint: look\n")
    said = town.persist("status")
    assert said.status == 4
    assert said.out.splitlines()[:2] == ["rollback: FAILED: error: no disk", "    next:  look"]
    assert (said.out.count("no disk"), said.out.count("look")) == (1, 1)
    assert _trouble(town) == {"level": 4, "what": "the rollback of this boot failed: no disk", "next": "look"}
    town.proof.with_name("rollback.failed").write_text("error: no\x1bdisk\n")
    said = town.persist("status")
    assert said.out.startswith("rollback: FAILED: error: no\\x1bdisk\n    next:  reboot, or ")
    assert "broken:" not in said.out


def test_a_ballast_that_is_missing_or_small_needs_attention_until_it_is_there(town: Town, its_ballast: Btrfs) -> None:
    town.persist("restore")
    assert json.loads(town.persist("status", "--json").out)["ballast"] == {"trouble": None}
    with btrfs.top_level(town.device) as top:
        btrfs.delete(top, "@agents-ballast")
        assert _bare(town) == "@agents-ballast is missing: on a full disk a rollback may have no room"
        with files.opened(btrfs.create(top, "@agents-ballast")) as fd:
            for number in range(512):
                os.setxattr(fd, f"trusted.nuketown.ballast.{number:06}", bytes(16000))
            btrfs.commit(fd)
        assert _bare(town) == "@agents-ballast is not of full size: on a full disk a rollback may have no room"
        ballast.make(top, its_ballast)
    assert town.persist("status").status == 0


def test_only_what_stands_at_the_top_level_is_the_ballast(town: Town) -> None:
    town.persist("restore")
    with btrfs.top_level(town.device) as top:
        os.mkdir("@data", dir_fd=top)
        os.rename("@agents-ballast", "@data/@agents-ballast", src_dir_fd=top, dst_dir_fd=top)
        btrfs.commit(top)
    assert "is missing" in _bare(town)


def _bare(town: Town) -> str:
    """What status says of the ballast, the same in words and in JSON."""
    said = town.persist("status")
    assert (said.status, said.err) == (3, "")
    trouble: dict[str, Any] = json.loads(town.persist("status", "--json").out)["ballast"]["trouble"]
    assert trouble["level"] == 3
    assert f"ballast:\n  note:  {trouble['what']}\n    next:  {_typed(town, 'tidy')} makes it" in said.out
    return str(trouble["what"])


def test_a_home_of_somebody_else_is_shown_with_its_owner(town: Town) -> None:
    (town.agents / "ada").mkdir()
    os.chown(town.agents / "ada", 5555, 5555)
    home = _json(town, 4)["home"]
    assert (home["present"], home["owner"]) == (True, 5555)
    said = town.persist("status", "ada")
    assert f"{town.agents}/ada (belongs to uid 5555)" in said.out
    assert "missing" not in said.out
    assert f"belongs to uid 5555, expected uid {ADA}" in said.out


def test_a_home_that_nobody_looked_at_is_not_called_missing(town: Town) -> None:
    towns.undo(town.agents)
    said = town.persist("status", "ada")
    assert f"{town.agents}/ada (not looked at)" in said.out


def _store(town: Town, url: str) -> dict[str, Any]:
    town.write("[]", town=f'store = "{url}"\n')
    town.persist("restore")
    said = town.persist("status", "--json")
    assert (said.status, said.err) == (3, ""), said.out
    trouble: dict[str, Any] = json.loads(said.out)["store"]["trouble"]
    text = town.persist("status").out
    assert trouble["what"] in text
    assert f"next:  {trouble['next']}" in text
    return trouble


def test_a_store_that_is_not_there_needs_attention(town: Town) -> None:
    trouble = _store(town, f"file://{town.base}/store")
    assert trouble["what"] == f"the store {town.base}/store is not there"
    assert _typed(town, "init", "--store") in trouble["next"]


def test_a_store_that_was_never_made_needs_attention(town: Town) -> None:
    (town.base / "store").mkdir(0o700)
    assert "the store is empty" in _store(town, f"file://{town.base}/store")["what"]


def test_a_bucket_without_a_key_needs_attention(town: Town) -> None:
    trouble = _store(town, "s3://bucket/town?region=eu-central-1")
    assert "nothing says with which key" in trouble["what"]
    assert "town.store_credentials" in trouble["next"]


def test_a_store_that_never_answers_is_not_waited_for(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    let_go = threading.Event()
    monkeypatch.setattr(reach, "_look", lambda _spec: let_go.wait() and None)
    town.write("[]", town=f'store = "file://{town.base}/store"\n')
    found = reach.trouble(town.spec, patience=0.2)
    let_go.set()
    assert found is not None
    assert found.what.startswith("the store did not answer")


def test_what_was_never_synced_needs_attention_until_it_is(town: Town) -> None:
    key = process.run(["age-keygen"]).out.decode()
    (town.base / "age.key").write_text(key)
    (town.base / "age.key").chmod(0o600)
    recipient = next(line.split()[-1] for line in key.splitlines() if "public key" in line)
    store = f'store = "file://{town.base}/store"\nrecipients = {{ humans = ["{recipient}"] }}\n'
    town.write('["projects"]', town=f'{store}host_key = {{ age = "{town.base}/age.key" }}')
    assert town.persist("init", "--store").status == 0
    town.persist("restore")
    assert _json(town, 3)["troubles"] == [
        {"level": 3, "what": "never synced from this machine", "next": _typed(town, "sync", "ada")}
    ]
    assert town.persist("sync", "ada").status == 0
    agent = _json(town, 0)
    assert agent["last_sync"]["files"] == 0
    assert agent["last_sync"]["time"].startswith("20")


def test_whatever_a_store_does_the_report_goes_on(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    from persist.bucket import opening

    def broken(_store: object) -> bool:
        raise RecursionError("too\x1bdeep")

    monkeypatch.setattr(opening, "has_config", broken)
    (town.base / "store").mkdir(0o700)
    assert "RecursionError: too\\x1bdeep" in _store(town, f"file://{town.base}/store")["what"]
