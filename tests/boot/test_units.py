"""The units as files: right for systemd, confined, named and enabled as systemd's own tools do it."""

import os
import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from persist import cli, device, units
from tests.scale import times
from town import spec, unitname
from town.failure import Failure
from town.spec import Btrfs, Spec

PROGRAM = "/usr/bin/true"  # systemd-analyze looks whether it is there


def town(agents: str = "/agents", btrfs: str = 'device = "LABEL=my disk"\nwait = "20s"', file: str = "t.toml") -> Spec:
    text = f'[town]\nagents_dir = "{agents}"\n[town.btrfs]\n{btrfs}\n[agents.ada]\nuid = 51100\n'
    return spec.parse(text.encode(), Path(file))


def write(at: Path, made: tuple[units.Unit, ...]) -> dict[str, Path]:
    at.mkdir(exist_ok=True)
    for unit in made:
        (at / unit.name).write_text(unit.text)
    return {unit.name: at / unit.name for unit in made}


def analyze(at: Path, *words: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"SYSTEMD_UNIT_PATH": f"{at}:"}
    return subprocess.run(["systemd-analyze", *words], capture_output=True, text=True, env=env, check=False)


AGENTS = ["/agents", "/srv/the agents", "/srv/a-b/ä", "/srv/100%/.x", "/a$b", '/srv/"q"']


@pytest.mark.parametrize("agents", AGENTS)
@pytest.mark.parametrize("in_initrd", [True, False])
def test_systemd_finds_nothing_wrong_with_the_units(tmp_path: Path, agents: str, in_initrd: bool) -> None:
    file = f"/etc{agents}/town.toml"
    made = units.render(town(agents.replace('"', '\\"')), program=PROGRAM, file=file, in_initrd=in_initrd)
    found = analyze(tmp_path / "u", "verify", "--man=no", *map(str, write(tmp_path / "u", made).values()))
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")


def test_a_unit_with_an_unknown_key_would_be_found(tmp_path: Path) -> None:
    (made,) = (unit for unit in units.render(town(), program=PROGRAM, file="/t", in_initrd=True) if "tidy" in unit.name)
    made = units.Unit(made.name, made.text.replace("Nice=", "Nize="))
    found = analyze(tmp_path / "u", "verify", "--man=no", *map(str, write(tmp_path / "u", (made,)).values()))
    assert "Nize" in found.stderr


@pytest.mark.parametrize("in_initrd", [True, False])
def test_the_services_are_confined(tmp_path: Path, in_initrd: bool) -> None:
    made = write(tmp_path / "u", units.render(town(), program=PROGRAM, file="/t", in_initrd=in_initrd))
    for name in (units.SERVICE, units.TIDY):
        found = analyze(tmp_path / "u", "security", "--offline=true", "--threshold=30", str(made[name]))
        assert found.returncode == 0, found.stdout[-300:]


@pytest.mark.parametrize("agents", ["/agents", "/srv/the agents", "/srv/a-b"])
def test_the_links_are_those_that_systemctl_enable_makes(tmp_path: Path, agents: str) -> None:
    made = units.render(town(agents), program=PROGRAM, file="/t", in_initrd=True)
    at = tmp_path / "etc/systemd/system"
    at.mkdir(parents=True)
    names = list(write(at, made))
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


def by_name(in_initrd: bool, **more: str) -> dict[str, str]:
    return {
        unit.name: unit.text for unit in units.render(town(**more), program=PROGRAM, file="/t", in_initrd=in_initrd)
    }


def lines(text: str, key: str) -> list[str]:
    return re.findall(rf"(?m)^{key}=(.*)$", text)


def test_a_failed_check_means_that_nothing_is_mounted() -> None:
    made = by_name(True)
    service, mount = made["nuketown-rollback.service"], made["agents.mount"]
    assert lines(service, "RequiredBy") == ["agents.mount"]
    assert "agents.mount" in lines(service, "Before")
    assert "nuketown-rollback.service" in lines(mount, "Requires")
    assert "nuketown-rollback.service" in lines(mount, "After")
    # A unit that a condition skips counts as started.
    assert not re.search(r"(?m)^Condition", service)


def test_the_human_waits_for_none_of_the_units() -> None:
    for name, text in by_name(False).items():
        assert lines(text, "WantedBy") in ([], ["multi-user.target"])
        # multi-user.target comes after what it wants, unless that says one of these.
        assert lines(text, "DefaultDependencies") == ["no"] or "multi-user.target" in " ".join(lines(text, "After"))
        assert "local-fs.target" not in text, name


def test_no_unit_depends_on_a_device() -> None:
    for text in by_name(True, btrfs='device = "/dev/disk/by-id/x"').values():
        assert "/dev/disk" not in text
        assert ".device" not in text


def test_the_mount_is_of_the_confirmed_disk_without_suid_and_devices() -> None:
    mount = by_name(True, btrfs='device = "/dev/x"\nsubvolume = "@homes"')["agents.mount"]
    assert lines(mount, "Options") == ["subvol=@homes,nosuid,nodev,noatime"]
    assert lines(mount, "What") == ["/run/nuketown/device"]


def test_a_host_without_a_hook_in_its_initrd_rolls_back_and_then_checks() -> None:
    command = f"{PROGRAM} --spec /t rollback"
    assert lines(by_name(False)[units.SERVICE], "ExecStart") == [command, f"{command} --confirm"]
    assert lines(by_name(True)[units.SERVICE], "ExecStart") == [f"{command} --confirm"]


def test_the_bound_of_the_service_grows_with_the_wait_of_the_spec() -> None:
    (short,) = lines(by_name(True)[units.SERVICE], "TimeoutStartSec")
    (long,) = lines(by_name(True, btrfs='device = "/dev/x"\nwait = "10min"')[units.SERVICE], "TimeoutStartSec")
    assert (short, long) == ("110s", "690s")


def test_a_town_without_btrfs_has_no_units() -> None:
    plain = spec.parse(b"[agents.ada]\nuid = 51100\n", Path("t.toml"))
    with pytest.raises(device.NoBtrfs):
        units.render(plain, program=PROGRAM, file="/t", in_initrd=True)


@pytest.mark.parametrize("program", ["persist", "/usr/bin/per sist", "/x;y", "/%n", ""])
def test_a_program_that_systemd_would_read_otherwise_is_refused(program: str) -> None:
    with pytest.raises(units.CannotBeWritten):
        units.render(town(), program=program, file="/t", in_initrd=True)


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
    found.write_text('[town.btrfs]\ndevice = "LABEL=x"\n[agents.ada]\nuid = 51100\n')
    return found


def test_the_units_are_printed_where_no_directory_is_said(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--spec", str(file), "units", "--initrd", "dracut", "--program", PROGRAM]) == 0
    out = capsys.readouterr().out
    assert "# ---- agents.mount\n" in out
    assert f"ExecStart={PROGRAM} --spec {file} rollback --confirm" in out


@pytest.mark.root
def test_units_are_written_whole_and_a_second_run_changes_nothing(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--spec", str(file), "units", "--initrd", "none", "--write", str(tmp_path / "a/b")]
    assert cli.main(words) == 0
    made = {path.name: path.stat() for path in (tmp_path / "a/b").iterdir()}
    assert sorted(made) == ["agents.mount", "nuketown-rollback.service", "nuketown-tidy.service"]
    assert {(found.st_uid, found.st_gid, found.st_mode & 0o7777) for found in made.values()} == {(0, 0, 0o644)}
    capsys.readouterr()
    assert cli.main(words) == 0
    assert capsys.readouterr().out.startswith("nothing to do")
    assert {path.name: path.stat().st_ino for path in (tmp_path / "a/b").iterdir()} == {
        name: found.st_ino for name, found in made.items()
    }


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
