"""`persist units --package`: what a configuration such as NixOS's takes whole, made by anybody."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from persist import packaged, units
from tests.boot.rendered import BTRFS, LOCAL, S3, town
from town.spec import Spec

TOWNS = {"syncing": town(S3), "without a store": town(agents=LOCAL), "without btrfs": town(S3, btrfs="")}
SPEC = f"[town]\n{BTRFS}\n[agents.ada]\nuid = 51100\n"


def made(of: Spec, *, in_initrd: bool = True) -> tuple[units.Unit, ...]:
    return units.render(of, program="/usr/bin/persist", file="/etc/nuketown/town.toml", in_initrd=in_initrd)


@pytest.mark.parametrize("of", TOWNS.values(), ids=TOWNS.keys())
def test_what_a_link_says_between_two_of_our_units_a_drop_in_says(of: Spec) -> None:
    found = made(of)
    said = set()
    for drop_in in packaged.links(found):
        target = drop_in.name.removesuffix(".d/nuketown-links.conf")
        for line in drop_in.text.splitlines()[2:]:
            key, _, name = line.partition("=")
            said.add(f"{target}.{key.lower()}/{name}")
    ours = {link for link, _ in units.links(found) if link.startswith("nuketown-")}
    assert said == ours
    assert ours
    # What is left to the configuration are targets of the system.
    others = {link.partition("/")[0] for link, _ in units.links(found)} - {link.partition("/")[0] for link in ours}
    assert others <= {"multi-user.target.wants", "timers.target.wants", "sysinit.target.wants"}


def persist(at: Path, *words: str, uid: int = 0) -> subprocess.CompletedProcess[str]:
    """`persist`, by somebody who may write below `at` alone."""
    (at / "t.toml").write_text(SPEC)
    os.chown(at, uid, uid)
    argv = [str(Path(sys.executable).with_name("persist")), "--spec", str(at / "t.toml"), "units", *words]
    return subprocess.run(argv, capture_output=True, text=True, check=False, user=uid, group=uid, extra_groups=[])


@pytest.mark.root
def test_it_needs_no_root_and_names_the_spec_where_it_will_be() -> None:
    import tempfile

    with tempfile.TemporaryDirectory(dir="/var/tmp") as place:
        at = Path(place)
        said = persist(at, "--package", f"{at}/out", "--initrd", "dracut", "--program", "/opt/p/bin/persist", uid=65534)
        assert (said.returncode, said.stderr) == (0, "")
        written = {str(path) for path in at.joinpath("out").rglob("*") if path.is_file()}
        assert set(said.stdout.split()) == written
        homes = (at / "out/lib/systemd/system/nuketown-homes.service").read_text()
        assert "ExecStart=/opt/p/bin/persist --spec /etc/nuketown/town.toml restore --local" in homes
        assert str(at) not in homes
        assert (at / "out/etc/nuketown/agents").read_text() == "ada\n"
        for path in written:
            assert "persist install" not in Path(path).read_text()


@pytest.mark.root
def test_whether_an_initrd_runs_the_hook_and_where_the_program_is_has_to_be_said(tmp_path: Path) -> None:
    for words in ([], ["--initrd", "none"], ["--program", "/usr/bin/persist"]):
        said = persist(tmp_path, "--package", f"{tmp_path}/out", *words)
        assert said.returncode == 2
        assert "hint: add --initrd dracut" in said.stderr
    said = persist(tmp_path, "--package", f"{tmp_path}/out", "--write", f"{tmp_path}/out")
    assert said.returncode == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.root
def test_without_an_initrd_the_unit_of_the_host_runs_the_hook(tmp_path: Path) -> None:
    words = ["--package", f"{tmp_path}/out", "--initrd", "none", "--program", "/usr/bin/persist"]
    assert persist(tmp_path, *words).returncode == 0
    unit = (tmp_path / "out/lib/systemd/system/nuketown-rollback.service").read_text()
    assert "ExecStart=/usr/bin/persist --spec /etc/nuketown/town.toml rollback\n" in unit
