"""The units as files: right for systemd, confined, named and enabled as systemd's own tools do it."""

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from persist import cli, units
from tests.boot.rendered import AGENTS, BTRFS, LOCAL, S3, Units, program, rendered, town, write
from tests.scale import times
from town import unitname
from town.failure import Failure
from town.spec import Btrfs, Spec

__all__ = ["program"]
STORE = 'store = "file:///srv/the store"\n'
PLACES = ["/agents", "/srv/the agents", "/srv/a-b/ä", "/srv/100%/.x", "/a$b", '/srv/"q"']
TOWNS = {
    "with a bucket": town(S3),
    "with a directory": town(STORE),
    "without a store": town(agents=LOCAL),
    "without btrfs": town(STORE, btrfs=""),
    "without btrfs and persist_dir": town(f'persist_dir = "none"\n{S3}', btrfs="", agents=AGENTS),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("in_initrd", [True, False])
def test_systemd_finds_nothing_wrong_with_the_units(tmp_path: Path, program: str, place: str, in_initrd: bool) -> None:
    said = place.replace('"', '\\"')
    found = town(f'agents_dir = "{said}"\npersist_dir = "{said}2"\n{STORE}')
    made = rendered(tmp_path / "u", found, program, file=f"/etc{place}/town.toml", in_initrd=in_initrd)
    verified(made)


@pytest.mark.parametrize("of", TOWNS.values(), ids=TOWNS.keys())
def test_systemd_finds_nothing_wrong_with_the_units_of_any_town(tmp_path: Path, program: str, of: Spec) -> None:
    verified(rendered(tmp_path / "u", of, program))


def verified(made: Units) -> None:
    found = made.analyze("verify", "--man=no", *made.names)
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")


def test_a_unit_with_an_unknown_key_would_be_found(tmp_path: Path, program: str) -> None:
    made = rendered(tmp_path / "u", town(S3), program)
    file = made.at / "nuketown-sync@.service"
    file.write_text(file.read_text().replace("Nice=", "Nize="))
    assert "Nize" in made.analyze("verify", "--man=no", *made.names).stderr


MOUNTS, FETCHES, SYNCS, OTHERS = 40, 28, 22, 20
EXPOSED = {
    "nuketown-rollback.service": MOUNTS,
    "nuketown-mount.service": MOUNTS,
    "nuketown-homes.service": MOUNTS,
    "nuketown-bind@.service": MOUNTS,
    "nuketown-tidy.service": MOUNTS,  # of the filesystem's top level, where no path leads
    "nuketown-restore@.service": FETCHES,
    "nuketown-sync@.service": SYNCS,
    "nuketown-leave@.service": SYNCS,
    "nuketown-sweep.service": OTHERS,
    "nuketown-lost.service": OTHERS,
    "nuketown-identity@.service": OTHERS,
    "nuketown-open@.service": OTHERS,
    "nuketown-close@.service": OTHERS,
    "nuketown-failed@.service": OTHERS,
}


@pytest.mark.parametrize("name", EXPOSED)
@pytest.mark.parametrize("store", [S3, STORE], ids=["bucket", "directory"])
def test_no_service_is_exposed_more_than_its_work_needs(tmp_path: Path, program: str, name: str, store: str) -> None:
    made = rendered(tmp_path / "u", town(store), program, in_initrd=False)
    file = str(made.at / name)
    found = made.analyze("security", "--offline=true", f"--threshold={EXPOSED[name]}", "--no-pager", file)
    assert found.returncode == 0, found.stdout[-300:]
    assert made.analyze("security", "--offline=true", "--threshold=5", "--no-pager", file).returncode != 0


def test_every_service_of_a_town_has_its_limit(tmp_path: Path) -> None:
    made = rendered(tmp_path / "u", town(S3))
    assert {unit.name for unit in made.made if unit.name.endswith(".service")} == set(EXPOSED)


@pytest.mark.parametrize("name", [name for name, limit in EXPOSED.items() if limit in (MOUNTS, OTHERS)])
def test_what_mounts_and_what_needs_no_store_has_no_network(tmp_path: Path, name: str) -> None:
    made = rendered(tmp_path / "u", town(S3))
    assert made.lines(name, "PrivateNetwork") == ["yes"]
    assert made.lines(name, "IPAddressDeny") == ["any"]
    assert not {"AF_INET", "AF_INET6"} & set(made.words(name, "RestrictAddressFamilies"))


@pytest.mark.parametrize("name", [name for name, limit in EXPOSED.items() if limit in (FETCHES, SYNCS)])
def test_what_has_the_network_has_no_call_that_mounts(tmp_path: Path, name: str) -> None:
    made = rendered(tmp_path / "u", town(S3))
    assert "@mount" not in made.words(name, "SystemCallFilter")
    assert made.lines(name, "PrivateMounts") == ["yes"]


@pytest.mark.parametrize("name", ["nuketown-homes.service", "nuketown-bind@.service", "nuketown-mount.service"])
def test_what_mounts_for_all_has_nothing_that_would_give_it_mounts_of_its_own(tmp_path: Path, name: str) -> None:
    made = rendered(tmp_path / "u", town(S3))
    keys = {line.partition("=")[0] for line in made.text(name).splitlines()}
    # systemd.exec(5), "Sandboxing": each of these runs a service in a mount namespace of its own.
    assert not {
        "ProtectSystem", "ProtectHome", "PrivateTmp", "PrivateDevices", "ProtectKernelModules", "ProtectKernelLogs",
        "ProtectKernelTunables", "ProtectControlGroups", "ProtectProc", "ProcSubset", "ReadWritePaths", "ReadOnlyPaths",
        "InaccessiblePaths", "BindPaths", "BindReadOnlyPaths", "TemporaryFileSystem", "PrivateUsers", "PrivateIPC",
    } & keys  # fmt: skip
    assert made.lines(name, "PrivateMounts") == ["no"]


def test_no_service_is_kept_from_setgid_directories_and_openat2(tmp_path: Path) -> None:
    assert not any("\nRestrictSUIDSGID=" in unit.text for unit in rendered(tmp_path / "u", town(S3)).made)


def test_a_store_that_is_a_directory_needs_no_network(tmp_path: Path) -> None:
    made = rendered(tmp_path / "u", town(STORE))
    for name in ("nuketown-restore@.service", "nuketown-sync@.service", "nuketown-leave@.service"):
        assert made.lines(name, "PrivateNetwork") == ["yes"]
        assert "network-online.target" not in made.words(name, "Wants")
        assert '"-/srv/the store"' in made.text(name)


@pytest.mark.parametrize(
    ("keys", "hidden"),
    [
        (S3, "yes"),
        (f'agents_dir = "/home/agents"\n{S3}', "read-only"),
        (f'store_credentials = "/root/s3"\n{S3}', "read-only"),
        (f'{S3}[town.host_key]\nage = "/home/josh/age.key"\n', "read-only"),
    ],
)
def test_homes_of_people_are_hidden_unless_the_town_lies_there(tmp_path: Path, keys: str, hidden: str) -> None:
    made = rendered(tmp_path / "u", town(keys))
    for name in ("nuketown-sync@.service", "nuketown-identity@.service"):
        assert made.lines(name, "ProtectHome") == [hidden]


@pytest.mark.parametrize("place", ["/agents", "/srv/the agents", "/srv/a-b"])
def test_the_links_are_those_that_systemctl_enable_makes(tmp_path: Path, place: str) -> None:
    made = units.render(town(f'agents_dir = "{place}"\n{S3}'), program="/p", file="/t", in_initrd=True)
    at = tmp_path / "etc/systemd/system"
    for unit in made:
        (at / unit.name).parent.mkdir(parents=True, exist_ok=True)
        (at / unit.name).write_text(unit.text)
    names = [unit.name for unit in made if "@." not in unit.name and ".d/" not in unit.name]
    names += [unit.name.replace("@.", f"@{agent}.") for unit in made for agent in unit.agents]
    subprocess.run(["systemctl", f"--root={tmp_path}", "--quiet", "enable", "--", *names], check=True)
    enabled = {str(path.relative_to(at)): os.readlink(path) for path in at.rglob("*") if path.is_symlink()}
    assert enabled == {link: f"/etc/systemd/system/{name}" for link, name in units.links(made)}


def _escaped(*paths: str) -> list[str]:
    done = subprocess.run(["systemd-escape", "--path", "--", *paths], capture_output=True, check=True)
    return done.stdout.decode().split()


@settings(max_examples=times(15), deadline=None)
@given(
    st.lists(
        st.lists(
            # A name of more than 255 bytes is no name: systemd-escape refuses it.
            st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=60),
            min_size=1,
        )
        .filter(lambda parts: not {".", ".."} & set(parts))
        .map(lambda parts: "/" + "/".join(parts)),
        min_size=1,
        max_size=20,
    )
)
def test_a_path_is_escaped_as_systemd_escape_does_it(paths: list[str]) -> None:
    assert [unitname.escaped(Path(path)) for path in paths] == _escaped(*paths)


def test_the_root_and_a_dot_in_front_are_escaped_as_systemd_escape_does_it() -> None:
    paths = ["/", "/.hidden/.x", "/a.b:c_d", "/home/jö"]
    assert [unitname.escaped(Path(path)) for path in paths] == _escaped(*paths)


def test_a_path_that_no_unit_can_be_named_for_is_refused() -> None:
    assert unitname.mount(Path("/" + "a" * 249)).endswith("a.mount")
    with pytest.raises(unitname.NameTooLong):
        unitname.mount(Path("/" + "a" * 250))


@pytest.mark.parametrize("path", ["persist", "/usr/bin/per sist", "/x;y", "/%n", ""])
def test_a_program_that_systemd_would_read_otherwise_is_refused(path: str) -> None:
    with pytest.raises(units.CannotBeWritten):
        units.render(town(S3), program=path, file="/t", in_initrd=True)


# ---- rollback.conf


def read_by_sh(file: Path) -> dict[str, str]:
    script = 'set -a; . "$1"; env -0'
    done = subprocess.run(["sh", "-c", script, "sh", file], capture_output=True, env={}, check=True)
    pairs = (line.partition("=") for line in done.stdout.decode().split("\0"))
    return {name: value for name, _, value in pairs if name.startswith("NUKETOWN_")}


@pytest.mark.parametrize(
    "name", ["UUID=38b243a0-c875-4758-8998-cc6c6a4c451e", "LABEL=my disk; #1 ä", '/dev/a b$(x)`y`"z']
)
def test_a_shell_reads_the_settings_as_they_are(tmp_path: Path, name: str) -> None:
    file = tmp_path / "rollback.conf"
    file.write_text(units.environment(Btrfs(name, wait="1min")))
    said = {
        "NUKETOWN_DEVICE": name,
        "NUKETOWN_SUBVOLUME": "@agents",
        "NUKETOWN_BLANK": "@agents-blank",
        "NUKETOWN_WAIT": "60",
    }
    assert read_by_sh(file) == said


@pytest.mark.parametrize("name", ["/dev/it's", "/dev/a\\b", "/dev/a\nb", "/dev/\x7f", "/dev/\u202e"])
def test_a_setting_that_the_two_would_read_differently_is_refused(name: str) -> None:
    with pytest.raises(Failure, match=r"town\.btrfs\.device"):
        units.environment(Btrfs(name))


# ---- persist units


@pytest.fixture
def file(tmp_path: Path) -> Path:
    found = tmp_path / "town.toml"
    found.write_text(f"[town]\n{S3}{BTRFS}{AGENTS}")
    return found


def test_the_units_are_printed_where_no_directory_is_said(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--spec", str(file), "units", "--initrd", "dracut", "--program", "/usr/bin/persist"]) == 0
    out = capsys.readouterr().out
    assert "# ---- agents.mount\n" in out
    assert "# ---- user@51100.service.d/nuketown.conf\n" in out
    assert f"ExecStart=/usr/bin/persist --spec {file} rollback --confirm" in out


@pytest.mark.root
def test_units_are_written_whole_and_a_second_run_changes_nothing(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--spec", str(file), "units", "--initrd", "none", "--write", str(tmp_path / "a/b")]
    assert cli.main(words) == 0
    made = {path: path.lstat() for path in (tmp_path / "a/b").rglob("*") if not path.is_dir() or path.is_symlink()}
    assert tmp_path / "a/b/user@51100.service.d/nuketown.conf" in made
    files = [found for path, found in made.items() if not path.is_symlink()]
    assert {(found.st_uid, found.st_gid, found.st_mode & 0o7777) for found in files} == {(0, 0, 0o644)}
    capsys.readouterr()
    assert cli.main(words) == 0
    assert capsys.readouterr().out.startswith("nothing to do")
    assert {path: path.lstat().st_ino for path in made} == {path: found.st_ino for path, found in made.items()}


@pytest.mark.root
def test_a_directory_of_units_is_complete_and_systemd_follows_its_links(
    file: Path, tmp_path: Path, program: str
) -> None:
    at = tmp_path / "u"
    words = ["--spec", str(file), "units", "--initrd", "none", "--program", program, "--write", str(at)]
    assert cli.main(words) == 0
    links = {str(path.relative_to(at)): path for path in at.rglob("*") if path.is_symlink()}
    assert "multi-user.target.wants/nuketown-agent@b-x.target" in links
    assert all(path.exists() for path in links.values())
    made = rendered(tmp_path / "v", town(S3, file=str(file)), program, file=str(file), in_initrd=False)
    assert set(links) == {link for link, _ in units.links(made.made)}
    verified(Units(at, made.made))


@pytest.mark.root
@pytest.mark.parametrize("linked", [True, False])
def test_a_unit_that_somebody_else_wrote_stays(
    file: Path, tmp_path: Path, linked: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "units/agents.mount"
    mine.parent.mkdir()
    if linked:
        mine.symlink_to("/dev/null")  # masked
    else:
        mine.write_text("[Mount]\nWhat=/dev/sdz\nWhere=/agents\n")
    before = mine.lstat()
    assert cli.main(["--spec", str(file), "units", "--initrd", "none", "--write", str(mine.parent)]) == 1
    err = capsys.readouterr().err
    assert f"{mine} is there already, and is not one that nuketown wrote" in err
    assert "hint: look at it; then move it away" in err
    assert (mine.lstat().st_ino, list(mine.parent.iterdir())) == (before.st_ino, [mine])


def test_a_value_is_never_taken_for_a_word_of_a_template(tmp_path: Path) -> None:
    of = town('agents_dir = "/srv/@spec@"\npersist_dir = "/srv/@store@"\n' + S3)
    made = write(tmp_path / "u", units.render(of, program="/p", file="/etc/@write@.toml", in_initrd=True))
    assert made.lines("srv-\\x40spec\\x40.mount", "Where") == ["/srv/@spec@"]
    assert "--spec /etc/@write@.toml restore --local" in made.text("nuketown-homes.service")
    assert "-/srv/@store@" in made.words("nuketown-sync@.service", "ReadWritePaths")
