"""Where homes lie on NixOS: the cover, directories that have to be there, and what may not be mounted beside them."""

import subprocess
from pathlib import Path

import pytest

from tests.nix.evaluated import evaluate, messages

BTRFS = 'nuketown.btrfsDevice = "38b243a0-c875-4758-8998-cc6c6a4c451e";'


# A colon: only where it is made does it get the mode (tmpfiles.d(5)).
DIRECTORIES = {"/agents": ":0755", "/persist": ":0711"}
TMPFILES = "config.systemd.tmpfiles.settings.nuketown"


def modules(keys: str) -> str:
    town = "nuketown.enable = true; nuketown.agents.ada = { enable = true; uid = 51100; };"
    return f"[ {{ {town} }} ({{ lib, ... }}: {{ {keys} }}) ]"


def test_the_cover_is_empty_read_only_and_nothing_of_the_boot_waits_for_it() -> None:
    found = evaluate(modules(BTRFS), 'config.fileSystems."/agents"')
    assert (found["device"], found["fsType"], found["neededForBoot"]) == ("tmpfs", "tmpfs", False)
    assert {"ro", "mode=0000", "nofail", "nosuid", "nodev", "noexec"} <= set(found["options"])


def test_a_town_without_btrfs_has_no_cover() -> None:
    assert evaluate(modules(""), "config.fileSystems") == {}


@pytest.mark.parametrize("keys", [BTRFS, ""], ids=["with btrfs", "without"])
def test_both_directories_are_made_where_they_are_missing(keys: str) -> None:
    made = {name: {"d": {"mode": mode, "user": "root", "group": "root"}} for name, mode in DIRECTORIES.items()}
    assert evaluate(modules(keys), TMPFILES) == made


def test_characters_that_tmpfiles_reads_stand_for_themselves(tmp_path: Path) -> None:
    names = ("a 50%h", "it's", "b\\x41")
    for name in names:
        said = name.replace("\\", "\\\\")
        found = evaluate(modules(f'nuketown.agentsDir = "{tmp_path}/{said}";'), TMPFILES)
        # As NixOS writes it (nixos/modules/system/boot/systemd/tmpfiles.nix).
        rules = tmp_path / "town.conf"
        rules.write_text("".join(f"'d' '{path}' '0755' '-' '-' '-' \n" for path in found if str(tmp_path) in path))
        done = subprocess.run(["systemd-tmpfiles", "--create", rules], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        rules.unlink()
    assert {one.name for one in tmp_path.iterdir()} == set(names)


def test_a_town_without_a_persist_dir_has_none_made() -> None:
    found = evaluate(modules(BTRFS + 'nuketown.persistDir = null; nuketown.store = "s3://agents/b";'), TMPFILES)
    assert list(found) == ["/agents"]


# By another name than btrfsDevice has, as a person's own are.
ON_DISK = " ".join(
    f'fileSystems."{at}" = {{ device = "/dev/sda2"; fsType = "btrfs"; options = [ "subvol={name}" "noatime" ]; }};'
    for at, name in (("/", "@"), ("/home", "@home"), ("/persist", "/@persist"))
)
MOUNTS = {
    'fileSystems."/agents" = { device = "/dev/disk/by-uuid/x"; fsType = "btrfs"; options = [ "subvol=@agents" ]; };':
        'fileSystems."/agents" is defined in',
    'fileSystems."/agents".neededForBoot = true;': 'fileSystems."/agents" is defined in',
    'fileSystems."/agents" = lib.mkIf true { device = "/dev/x"; };': 'fileSystems."/agents" is defined in',
    'fileSystems.other = { mountPoint = "/agents/"; device = "/dev/x"; fsType = "btrfs"; };':
        'fileSystems."other" mounts something at /agents',
    'systemd.mounts = [ { where = "/agents"; what = "/dev/x"; } ];':
        'systemd.mounts (where = "/agents") mounts something at /agents',
    'systemd.automounts = [ { where = "/agents"; } ];': "systemd.automounts",
    'fileSystems."/agents/ada/projects" = { device = "/dev/x"; };': "lies in nuketown.agentsDir",
    'systemd.mounts = [ { where = "/agents/ada/x"; what = "/dev/x"; } ];': "lies in nuketown.agentsDir",
    f'{ON_DISK} nuketown.btrfs.subvolume = "@home";': 'fileSystems."/home" mounts what belongs to the homes',
    f'{ON_DISK} nuketown.btrfs.subvolume = "@";': 'fileSystems."/" mounts what belongs to the homes',
    f'{ON_DISK} nuketown.btrfs.blank = "@persist";': 'fileSystems."/persist" mounts what belongs to the homes',
    'fileSystems."/mnt" = { fsType = "btrfs"; options = [ "noatime" "subvol=/@agents-old" ]; };': "@agents-snapshots",
    'fileSystems."/mnt" = { fsType = "btrfs"; options = [ "subvol=/@agents/ada/" ]; };': "or take the mount out",
    'systemd.mounts = [ { where = "/mnt"; options = "noatime,subvol=@agents"; } ];': "mounts what belongs to the homes",
    'fileSystems."/" = { device = "none"; fsType = "tmpfs"; };': "which a reboot empties",
    'fileSystems."/".fsType = "ext4"; fileSystems."/persist".fsType = "tmpfs";': "which a reboot empties",
}  # fmt: skip


@pytest.mark.parametrize(("keys", "said"), MOUNTS.items())
def test_a_mount_that_does_not_fit_is_refused_with_the_cure(keys: str, said: str) -> None:
    failed, _ = messages(modules(BTRFS + keys))
    assert len(failed) == 1
    assert said in failed[0]
    assert failed[0].startswith("nuketown")
    assert any(word in failed[0] for word in ("Remove", "Declare", "Name a directory", "names that nothing else has"))


FITTING = [
    # What NixOS puts in the place of fileSystems in a virtual machine (virtualisation.fileSystems).
    """fileSystems = lib.mkOverride 10 { "/agents" = { device = "tmpfs"; fsType = "tmpfs"; options =
      [ "ro" "mode=0000" "nosuid" "nodev" "noexec" "size=4k" "nofail" ]; }; };""",
    "fileSystems = lib.mkOverride 10 { };",
    'fileSystems."/agents" = lib.mkIf false { device = "/dev/x"; };',
    'fileSystems."/agents2" = { device = "/dev/x"; };',
    ON_DISK,
    'fileSystems."/mnt" = { fsType = "btrfs"; options = [ "subvol=@agentsmine" ]; };',
    'systemd.mounts = [ { where = "/mnt"; what = "/dev/x"; } ];',
    'fileSystems."/" = { device = "none"; fsType = "tmpfs"; }; fileSystems."/persist".fsType = "btrfs";',
    'fileSystems."/" = { fsType = "tmpfs"; }; nuketown.persistDir = null; nuketown.store = "s3://agents/b";',
]


@pytest.mark.parametrize("keys", FITTING)
def test_a_mount_that_fits_is_left_alone(keys: str) -> None:
    assert messages(modules(BTRFS + keys))[0] == []


def test_without_btrfs_homes_may_lie_on_a_filesystem_of_their_own() -> None:
    keys = 'fileSystems."/agents" = { device = "/dev/x"; fsType = "xfs"; };'
    assert messages(modules(keys))[0] == []
    assert evaluate(modules(keys), 'config.fileSystems."/agents".fsType') == "xfs"
