"""host init: the machine's key is root's, in one place, made once; and the first step of a new machine."""

import os
import shutil
import signal
import stat
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from identity import cli, host
from tests import reach
from tests.scale import times
from town import files, kernel, locks, sops
from town.failure import TryLater
from town.process import Person, run

pytestmark = pytest.mark.root
NOBODY = Person(41190, 41190)
# Runs host init and kills itself at the N-th call that changes something.
_KILLED = """
import os, signal, sys
left = [int(sys.argv.pop(1))]
def counted(real):
    def call(*arguments, **keywords):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **keywords)
    return call
from town import files, kernel
import pyrage
for module, name in ((os, "link"), (os, "unlink"), (os, "fchmod"), (os, "fsync"), (os, "write"), (os, "mkdir"),
                     (kernel, "renameat2")):
    setattr(module, name, counted(getattr(module, name)))
from identity.cli import main
sys.exit(main(sys.argv[1:]))
"""


class Machine:
    """A machine whose key belongs at `key`, and a spec that says so."""

    def __init__(self, root: Path) -> None:
        self.root, self.spec, self.key = root, root / "town.toml", root / "var/nuketown/age.key"
        self.human, self.agents_dir = root / "human.key", root / "agents"
        run(["age-keygen", "-o", self.human])
        self.write(self.key)

    def write(self, key: Path, *, hosts: str = "", ssh: str = "/nonexistent/ssh") -> None:
        recipient = run(["age-keygen", "-y", self.human]).out.decode().strip()
        self.spec.write_text(
            f'[town]\nagents_dir = "{self.agents_dir}"\npersist_dir = "{self.root}/persist"\ndomain = "signi.local"\n'
            f'[town.recipients]\nhumans = ["{recipient}"]\nhosts = {{ {hosts} }}\n'
            f'[town.host_key]\nage = "{key}"\nssh = "{ssh}"\n[agents.ada]\nuid = 41100\n'
        )

    def init(self, *words: str) -> int:
        return cli.main(["--spec", str(self.spec), "host", "init", *words])


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine(tmp_path)
    monkeypatch.setenv("SOPS_AGE_KEY_FILE", str(made.human))
    monkeypatch.setenv("HOME", str(tmp_path))
    return made


def test_the_key_is_roots_and_nobody_elses_and_age_reads_it(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    assert machine.init() == 0
    found = machine.key.stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode), found.st_nlink) == (0, 0, 0o400, 1)
    above = machine.key.parent
    assert [(one.stat().st_uid, stat.S_IMODE(one.stat().st_mode)) for one in (above, above.parent)] == [
        (0, 0o700),
        (0, 0o755),
    ]
    out = capsys.readouterr().out
    assert out == run(["age-keygen", "-y", machine.key]).out.decode()  # the recipient, and nothing else
    sealed = run(["age", "-r", out.strip()], feed=b"a secret").out
    assert run(["age", "-d", "-i", machine.key], feed=sealed).out == b"a secret"
    assert os.listdir(above) == ["age.key"]


def test_the_next_command_is_printed_and_makes_the_secrets_open_here(
    machine: Machine, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli.main(["--spec", str(machine.spec), "gen", "--all"]) == 0
    capsys.readouterr()
    assert machine.init() == 0
    out, err = capsys.readouterr()
    name = os.uname().nodename.partition(".")[0]
    command = f"identity recipients --spec {machine.spec} add --host {name} {out.strip()}"
    assert err.splitlines()[-1].endswith(command)
    assert cli.main(command.split()[1:]) == 0
    file = machine.root / "secrets/agents.yaml"
    opened = sops.load(file.read_bytes(), "agents.yaml", sops.Keys.of_age_file(machine.key))
    assert opened.get("ada/ssh-key")
    capsys.readouterr()
    assert machine.init() == 0
    assert capsys.readouterr().err == ""  # the secrets know it: there is no next command


def test_a_key_that_is_there_is_kept_and_its_recipient_is_printed(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    assert machine.init() == 0
    first, before = capsys.readouterr().out, machine.key.read_bytes()
    for words in ((), ("--dry-run",)):
        assert machine.init(*words) == 0
        assert capsys.readouterr().out == first
    assert machine.key.read_bytes() == before


@pytest.mark.parametrize("held", ["", "AGE-SECRET-KEY-1QQQ\n", "nonsense\n", "-----BEGIN OPENSSH PRIVATE KEY-----\n"])
def test_a_key_that_cannot_be_used_is_told_and_not_replaced(
    machine: Machine, capsys: pytest.CaptureFixture[str], held: str
) -> None:
    machine.key.parent.mkdir(parents=True, mode=0o700)
    machine.key.write_text(held)
    machine.key.chmod(0o400)
    assert machine.init() == 1
    out, err = capsys.readouterr()
    assert "is there, and cannot be used" in err
    assert not held.strip() or held.strip() not in out + err
    assert machine.key.read_text() == held


def test_a_key_that_others_can_read_is_told_and_not_replaced(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    assert machine.init() == 0
    machine.key.chmod(0o444)
    before = machine.key.read_bytes()
    assert machine.init() == 1
    assert "chmod 0400" in capsys.readouterr().err
    assert machine.key.read_bytes() == before


def test_a_link_that_leads_nowhere_is_nothing_to_write_through(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.key.parent.mkdir(parents=True, mode=0o700)
    machine.key.symlink_to(machine.root / "elsewhere")
    assert machine.init() == 1
    assert "cannot be used" in capsys.readouterr().err
    assert machine.key.is_symlink()
    assert not (machine.root / "elsewhere").exists()


@pytest.mark.parametrize(
    ("place", "status"),
    [("agents/ada/age.key", 78), ("persist/agents/ada/age.key", 78), ("way/age.key", 1), ("other/ada/age.key", 1)],
)
def test_a_place_among_the_agents_data_is_refused(
    machine: Machine, capsys: pytest.CaptureFixture[str], place: str, status: int
) -> None:
    """agents_dir is wiped at every boot, and what agents persist is theirs. A link into them is no way round."""
    for folder in (machine.agents_dir / "ada", machine.root / "persist/agents/ada"):
        folder.mkdir(parents=True)
    (machine.root / "way").symlink_to(machine.agents_dir)
    (machine.root / "other").symlink_to(machine.root / "persist/agents")
    machine.write(machine.root / place)
    assert machine.init() == status
    assert ("among the agents' data" in capsys.readouterr().err) == (status == 1)
    assert not (machine.root / place).exists()


def test_a_place_behind_a_link_that_agents_dir_is_is_refused(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    (machine.root / "disk").mkdir()
    machine.agents_dir.symlink_to(machine.root / "disk")
    machine.write(machine.root / "disk/age.key")
    assert machine.init() == 1
    assert "among the agents' data" in capsys.readouterr().err


def test_a_place_that_others_can_change_is_refused(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever can put another directory there can put another key there, which they know."""
    folder = machine.key.parent
    folder.mkdir(parents=True)
    for owner, mode, says in ((41100, 0o700, "belongs to uid 41100"), (0, 0o775, "others than root can write")):
        os.chown(folder, owner, 0)
        folder.chmod(mode)
        assert machine.init() == 1
        assert says in capsys.readouterr().err
        assert not machine.key.exists()
    os.chown(folder, 0, 0)
    folder.chmod(0o700)
    link = machine.root / "link"
    link.symlink_to(folder)
    os.chown(link, 41100, 41100, follow_symlinks=False)
    machine.write(link / "age.key")
    assert machine.init() == 1
    assert "belongs to uid 41100" in capsys.readouterr().err


def test_links_of_roots_on_the_way_are_followed(machine: Machine) -> None:
    (machine.root / "real").mkdir()
    (machine.root / "link").symlink_to("real")
    machine.write(machine.root / "link/nuketown/age.key")
    assert machine.init() == 0
    assert (machine.root / "real/nuketown/age.key").exists()


def test_what_is_in_the_way_is_told(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    machine.key.parent.parent.mkdir()
    machine.key.parent.write_text("a file")
    assert machine.init() == 1
    assert "Not a directory" in capsys.readouterr().err


def test_a_dry_run_makes_nothing(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    assert machine.init("--dry-run") == 0
    assert capsys.readouterr().out == f"make    {machine.key}\n"
    assert not machine.key.parent.parent.exists()


def test_a_key_that_would_be_gone_with_the_boot_is_a_warning(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    place = machine.root / "memory"
    place.mkdir()
    kernel.mount("tmpfs", str(place), "tmpfs", 0, "mode=0755")
    try:
        machine.write(place / "age.key")
        assert machine.init() == 0
        assert "lies in memory" in capsys.readouterr().err
    finally:
        kernel.umount(str(place), kernel.MNT_DETACH)


def test_without_a_spec_the_key_goes_where_it_is_looked_for(capsys: pytest.CaptureFixture[str]) -> None:
    """A new machine has no spec yet. What /etc and /var hold here is hidden for the while, not changed."""
    places = ("/etc/nuketown", "/var/lib")
    made = [place for place in places if not Path(place).exists()]
    for place in places:
        Path(place).mkdir(parents=True, exist_ok=True)
        kernel.mount("tmpfs", place, "tmpfs", 0, "mode=0755")
    try:
        assert cli.main(["host", "init"]) == 0
        out, err = capsys.readouterr()
        key = Path("/var/lib/nuketown/age.key")
        assert stat.S_IMODE(key.stat().st_mode) == 0o400
        assert out == run(["age-keygen", "-y", key]).out.decode()
        assert f"identity recipients add --host {host.host_name()} {out.strip()}" in err
    finally:
        for place in places:
            kernel.umount(place, kernel.MNT_DETACH)
        for place in made:
            Path(place).rmdir()


def test_a_spec_that_was_named_must_be_there(tmp_path: Path) -> None:
    assert cli.main(["--spec", str(tmp_path / "none.toml"), "host", "init"]) == 78


def test_a_spec_that_an_agent_can_change_does_not_say_where_roots_key_goes(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    os.chown(machine.spec, 41100, 41100)
    assert machine.init() == 1
    assert "is not acted on" in capsys.readouterr().err
    assert not machine.key.exists()


def test_only_root_makes_it(machine: Machine) -> None:
    for path in (machine.root, machine.spec):
        os.chown(path, NOBODY.uid, NOBODY.gid)
    for path in machine.root.parents[: len(machine.root.parents) - 2]:  # pytest's own directories are 0700
        path.chmod(0o755)
    code = "import sys; from identity.cli import main; sys.exit(main(sys.argv[1:]))"
    with reach.checkout() as (_, packages):
        argv = [reach.PYTHON, "-c", code, "--spec", machine.spec, "host", "init"]
        done = run(argv, env=packages, person=NOBODY, check=False)
    assert done.status == 1
    assert b"identity: hint: sudo " in done.err
    assert not machine.key.exists()


def test_a_change_from_the_ssh_key_to_an_age_key_is_told(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    """The first key that exists is used, so a new age key takes the place of the SSH key that opened the secrets."""
    ssh = machine.root / "ssh_host"
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", ssh])
    line = ssh.with_suffix(".pub").read_text().strip()
    machine.write(machine.key, ssh=str(ssh), hosts=f'signi = "{line}"')
    assert machine.init() == 0
    err = capsys.readouterr().err
    assert f"until now {ssh} opened the secrets here" in err
    assert f"rm {machine.key}" in err


def test_a_host_of_that_name_with_another_key_leaves_first(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    other = run(["age-keygen"]).out.decode().splitlines()[-1]
    recipient = run(["age-keygen", "-y"], feed=other.encode()).out.decode().strip()
    machine.write(machine.key, hosts=f'"{host.host_name()}" = "{recipient}"')
    assert machine.init() == 0
    err = capsys.readouterr().err
    assert f"remove --host {host.host_name()}, then identity recipients" in err


def test_no_private_key_is_said_or_left_anywhere(machine: Machine, capfd: pytest.CaptureFixture[str]) -> None:
    assert machine.init() == 0
    private = machine.key.read_text().splitlines()[-1]
    out, err = capfd.readouterr()
    assert private not in out + err
    for path in machine.root.rglob("*"):
        assert path == machine.key or not path.is_file() or private not in path.read_text()


def test_killed_anywhere_it_leaves_a_whole_key_or_none_and_the_next_run_ends_well(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    env = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[1])}
    killed = 0
    for step in range(1, 40):
        shutil.rmtree(machine.key.parent.parent, ignore_errors=True)
        argv = [sys.executable, "-c", _KILLED, str(step), "--spec", str(machine.spec), "host", "init"]
        done = subprocess.run(argv, env=env, capture_output=True, check=False)
        before = machine.key.read_bytes() if machine.key.exists() else None
        capsys.readouterr()
        assert machine.init() == 0
        assert before in (None, machine.key.read_bytes())  # never replaced
        assert capsys.readouterr().out == run(["age-keygen", "-y", machine.key]).out.decode()
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL
        killed += 1
        if before is None:
            assert os.listdir(machine.key.parent) == ["age.key"]
    assert killed > 8


def test_many_runs_at_once_make_one_key(machine: Machine) -> None:
    env = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[1])}
    argv = [sys.executable, "-m", "identity.cli", "--spec", str(machine.spec), "host", "init"]
    for _ in range(times(1)):
        shutil.rmtree(machine.key.parent.parent, ignore_errors=True)
        runs = [subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(6)]
        done = [(*one.communicate(), one.returncode) for one in runs]
        assert {status for _, _, status in done} <= {0, 75}
        assert {out for out, _, status in done if status == 0} == {run(["age-keygen", "-y", machine.key]).out}
        assert os.listdir(machine.key.parent) == ["age.key"]


def test_a_key_that_came_meanwhile_is_kept(machine: Machine) -> None:
    """Another program, or a person, that takes no lock."""
    assert machine.init() == 0
    before = machine.key.read_bytes()
    assert host.make(machine.key) == run(["age-keygen", "-y", machine.key]).out.decode().strip()
    assert machine.key.read_bytes() == before


def test_while_another_run_makes_it_nothing_is_made(machine: Machine) -> None:
    machine.key.parent.mkdir(parents=True, mode=0o700)
    with files.opened(files.open_dir(machine.key.parent)) as fd:
        locks.take(fd, TryLater("held"))
        assert machine.init() == 75
    assert os.listdir(machine.key.parent) == []
    assert machine.init() == 0


def test_a_full_disk_leaves_no_half_key(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    place = machine.root / "full"
    place.mkdir()
    kernel.mount("tmpfs", str(place), "tmpfs", 0, "mode=0755,size=64k")
    try:
        with suppress(OSError):
            (place / "fill").write_bytes(bytes(1 << 20))
        machine.write(place / "age.key")
        assert machine.init() == 1
        assert "No space left" in capsys.readouterr().err
        assert os.listdir(place) == ["fill"]
    finally:
        kernel.umount(str(place), kernel.MNT_DETACH)
