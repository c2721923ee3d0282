"""No private byte where it does not belong: every verb under strace, its output, the logs and what git would take."""

import base64
import io
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import pytest

from identity import cli, guard, places
from identity.keys import home as homes
from tests.machine import forge as forges
from tests.machine.needles import Needles
from tests.machine.watching import Seen, Watched, watch
from town import sops, spec
from town.process import run

pytestmark = pytest.mark.root
VALUE, ENV_VALUE = "canary-value-of-ada-1", "canary-variable-of-ada-1"
ADA, VOX, EVE = 41100, 41101, 41102
AGENTS = {"ada": ADA, "vox": VOX, "eve": EVE}
CHECKOUT = Path(cli.__file__).parents[1]
# Everything that the program itself says goes to its standard error, whatever level it has.
_LOUD = "import logging, sys; logging.basicConfig(level=1); from identity.cli import main; sys.exit(main())"


class Town:
    """A spec in a git repository; keys, homes and output lie beside it. All that is private is in `needles`."""

    def __init__(self, base: Path) -> None:
        self.base, self.root, self.spec = base, base / "repo", base / "repo/town.toml"
        for name in ("repo", "a", "p", "said", "keys"):
            (base / name).mkdir()
        base.chmod(0o755)
        self.needles = Needles()
        self.human, self.host = base / "keys/human.key", base / "keys/host.key"
        humans = self.age(self.human)
        self.spec.write_text(
            f"""
            [town]
            domain = "signi.local"
            agents_dir = "{base}/a"
            persist_dir = "{base}/p"
            host_key = {{ age = "{self.host}", ssh = "{base}/none" }}
            [town.recipients]
            humans = ["{humans}"]
            [agents.ada]
            uid = {ADA}
            [agents.ada.secrets]
            extra = {{ token = "ada/token", plain = "ada/plain" }}
            env = {{ TOKEN = "token" }}
            [agents.vox]
            uid = {VOX}
            git = {{ signing = "ssh" }}
            [agents.eve]
            uid = {EVE}
            """
        )
        for name, uid in AGENTS.items():
            home = base / "a" / name
            home.mkdir(mode=0o700)
            os.chown(home, uid, uid)
        self.needles.text("a value", VALUE)
        self.needles.text("a variable's value", ENV_VALUE)

    def age(self, path: Path) -> str:
        run(["age-keygen", "-o", path])
        self._age_text(path)
        return run(["age-keygen", "-y", path]).out.decode().strip()

    def _age_text(self, path: Path) -> None:
        secret = next(line for line in path.read_text().splitlines() if line.startswith("AGE-SECRET-KEY-"))
        self.needles.text(path.name, secret.removeprefix("AGE-SECRET-KEY-"))

    def identity(self, *words: str, feed: bytes = b"", env: Mapping[str, str]) -> Watched:
        argv = [sys.executable, "-c", _LOUD, "--spec", str(self.spec), "--debug", *words]
        usual = {"PYTHONPATH": str(CHECKOUT), "SOPS_AGE_KEY_FILE": str(self.human), "HOME": str(self.base / "said")}
        done = watch(argv, self.base / "said", feed=feed, env=usual | dict(env))
        assert done.status == 0, (words, done.err.decode())
        self.learn()
        return done

    def learn(self) -> None:
        """Take note of every private half that there is now."""
        if self.host.exists():
            self._age_text(self.host)
        for name in ("agents", "recovery"):
            path = self.root / f"secrets/{name}.yaml"
            if not path.exists():
                continue
            tree = sops.load(path.read_bytes(), str(path), sops.Keys.of_age_file(self.human)).tree
            for agent, values in tree.items():
                for key, value in values.items():
                    if "OPENSSH" in value:
                        self.needles.ssh(f"{agent}/{key}", value)
                    elif "PRIVATE KEY BLOCK" in value:
                        self.needles.pgp(f"{agent}/{key}", value)

    def stray(self, done: Watched) -> set[tuple[str, str, str]]:
        """Private bytes that were seen anywhere but where they belong: the secret, the kind, the place."""
        return {
            (name, one.kind, one.where)
            for one in done.seen
            if not self._belongs(one)
            for name in self.needles.within(one.data)
        }

    def _belongs(self, one: Seen) -> bool:
        if one.kind in ("pipe", "socket"):  # between processes of one errand; sockets are gpg-agent's
            return one.kind == "pipe" or "gpg-agent" in one.where or '"' not in one.where
        return one.kind == "file" and one.where.startswith(
            (
                "/private-keys-v1.d/",  # of a home on a mount without a path
                "/dev/shm/nuketown-gpg-",
                "/run/nuketown/secrets/ada/",
                f"{self.host.parent}/.{self.host.name}.",  # which is what `host init` is for
                str(self.host),
                *(f"{top}/{path}" for top in (*(f"{self.base}/a/{name}" for name in AGENTS), "/run/nuketown/home")
                  for path in (".ssh/", ".gnupg/private-keys-v1.d/")),
            )
        )  # fmt: skip


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Life"]:
    base = Path(tempfile.mkdtemp(prefix="safe-", dir="/tmp"))  # short: gpg's sockets lie in homes below it
    try:
        town = Town(base)
        yield Life(town, _whole_life(town, tmp_path_factory.mktemp("forge")))
    finally:
        shutil.rmtree(base)


class Life(NamedTuple):
    """A town, and what was seen of each verb that was run in it."""

    town: Town
    verbs: dict[str, Watched]


def _whole_life(town: Town, place: Path) -> dict[str, Watched]:
    """Every verb, in an order that a town could see."""
    said: dict[str, Watched] = {}

    def verb(*words: str, feed: bytes = b"", **more: str) -> None:
        said[" ".join(words[:3])] = town.identity(*words, feed=feed, env=more)

    verb("host", "init")
    verb("recipients", "add", said["host init"].out.decode().strip(), "--host", "signi")
    ssh, pgp = _keys_of_eve(town)
    verb("import", "eve", "--ssh", ssh, "--gpg", pgp)
    verb("gen", "--all")
    verb("secret", "set", "ada", "token", feed=ENV_VALUE.encode())
    verb("secret", "set", "ada", "plain", feed=VALUE.encode())
    verb("install")
    verb("rotate", "ada", "--ssh")
    verb("rotate", "ada", "--gpg")
    verb("recipients", "add", "--human", town.age(town.base / "keys/second.key"))
    verb("recipients", "sync")
    verb("show", "ada")
    verb("check")
    verb("install", "ada")
    verb("revoke", "vox", "--ssh")
    token = town.base / "keys/token"
    token.write_text(forges.TOKEN)
    token.chmod(0o600)
    town.needles.text("the token", forges.TOKEN)
    with forges.forge(place) as forge:
        words = ("--github", "--token-file", str(token), "--api", forge.api)
        verb("publish", "ada", *words, SSL_CERT_FILE=str(place / "ca.pem"))
    return said


def _keys_of_eve(town: Town) -> tuple[str, str]:
    """Keys that somebody had before: made by ssh-keygen and gpg."""
    ssh, pgp = town.base / "keys/eve", town.base / "keys/eve.asc"
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "eve@signi.local", "-f", ssh])
    quiet = ["gpg", "--batch", "--pinentry-mode", "loopback", "--passphrase", ""]
    with homes.throw_away_home() as home:
        env = {"GNUPGHOME": str(home)}
        run([*quiet, "--quick-gen-key", "Eve <eve@signi.local>", "ed25519", "cert", "0"], env=env)
        fingerprint = next(home.glob("openpgp-revocs.d/*.rev")).stem
        run([*quiet, "--quick-add-key", fingerprint, "ed25519", "sign", "1y"], env=env)
        pgp.write_bytes(run([*quiet, "--armor", "--export-secret-keys"], env=env).out)
    pgp.chmod(0o600)
    return str(ssh), str(pgp)


VERBS = (
    "host init", "recipients add --human", "import eve --ssh", "gen --all", "secret set ada", "install",
    "rotate ada --ssh", "rotate ada --gpg", "recipients sync", "show ada", "check", "install ada", "revoke vox --ssh",
    "publish ada --github",
)  # fmt: skip


@pytest.mark.parametrize("verb", VERBS)
def test_no_private_byte_is_in_arguments_environments_files_or_output(life: Life, verb: str) -> None:
    done = life.verbs[verb]
    assert life.town.stray(done) == set()
    assert done.unseen == ()
    assert life.town.needles.within(done.out + done.err) == set()


def test_the_watch_knows_every_key_and_sees_them_where_they_belong(life: Life) -> None:
    town = life.town
    assert town.needles.names() >= {
        "a value", "a variable's value", "the token", "human.key", "host.key", "ada/ssh-key", "vox/ssh-key",
        "eve/ssh-key", "ada/gpg-primary-key, packet 5", "ada/gpg-primary-key, packet 7",
        "eve/gpg-primary-key, packet 5",
    }  # fmt: skip
    kept = [one for one in life.verbs["install"].seen if one.kind == "file" and town.needles.within(one.data)]
    places = {Path(one.where).parent.name for one in kept}
    assert places >= {".ssh", "private-keys-v1.d", "ada"}
    assert town.needles.within((town.base / "a/ada/.ssh/id_ed25519").read_bytes()) == {"ada/ssh-key"}


_LEAKS = {
    "arguments": "import subprocess; subprocess.run(['true', '{value}'])",
    "environment": "import subprocess; subprocess.run(['true'], env={{'A': '{value}'}})",
    "file": "open('{place}/leak', 'wb').write(b'{wrapped}')",
}


@pytest.mark.parametrize("kind", _LEAKS)
def test_the_watch_finds_what_leaks(life: Life, kind: str, tmp_path: Path) -> None:
    wrapped = base64.b64encode(b"x" + VALUE.encode()).decode()
    code = _LEAKS[kind].format(value=VALUE, place=tmp_path, wrapped=wrapped[:9] + "\\n    " + wrapped[9:])
    done = watch([sys.executable, "-c", code], tmp_path, env={})
    assert {(name, found) for name, found, _ in life.town.stray(done)} >= {("a value", kind)}


def test_nothing_private_stands_in_the_files_beside_the_spec_or_in_gits_index(life: Life) -> None:
    root, needles = life.town.root, life.town.needles
    run(["git", "init", "-q", root])
    run(["git", "-C", root, "add", "-A"])
    listed = run(["git", "-C", root, "ls-files", "-s"]).out.decode().splitlines()
    names = [line.split("\t")[1] for line in listed]
    assert {"secrets/agents.yaml", "secrets/recovery.yaml", "identities/keys.lock.toml"} <= set(names)
    for line in listed:
        blob = run(["git", "-C", root, "cat-file", "blob", line.split()[1]]).out
        assert needles.within(blob) == set(), line
    assert needles.anywhere(path.read_bytes() for path in root.rglob("*") if path.is_file()) == set()


HOLDERS = tuple(verb for verb in VERBS if verb != "show ada")


@pytest.mark.parametrize("verb", HOLDERS)
def test_who_holds_private_keys_leaves_no_core_and_goes_into_no_swap(life: Life, verb: str) -> None:
    guards = life.verbs[verb].guards
    assert "prctl(PR_SET_DUMPABLE, SUID_DUMP_DISABLE) = 0" in guards
    assert any(said.startswith("prlimit64(0, RLIMIT_CORE, {rlim_cur=1, ") and said.endswith(" = 0") for said in guards)
    assert "mlockall(MCL_CURRENT|MCL_FUTURE|MCL_ONFAULT) = 0" in guards


class Fast:
    """A town whose commands run in this process, for what need not be watched from outside."""

    def __init__(self, root: Path) -> None:
        self.root, self.spec, self.human = root, root / "town.toml", root / "human.key"
        run(["age-keygen", "-o", self.human])
        human = run(["age-keygen", "-y", self.human]).out.decode().strip()
        self.spec.write_text(
            f'''
            [town]
            domain = "signi.local"
            host_key = {{ age = "{root}/none", ssh = "{root}/none" }}
            [town.recipients]
            humans = ["{human}"]
            [agents.ada]
            uid = {ADA}
            secrets = {{ extra = {{ token = "ada/token" }} }}
            '''
        )

    def identity(self, *words: str) -> int:
        return cli.main(["--spec", str(self.spec), "--debug", *words])

    def tree(self) -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in self.root.rglob("*") if path.is_file()}

    def put(self, path: str, value: str) -> None:
        """A value in the secrets file, as somebody with sops puts it there."""
        file = self.root / "secrets/agents.yaml"
        document = sops.load(file.read_bytes(), str(file), sops.Keys.of_age_file(self.human))
        file.write_bytes(sops.update(document, {path: value}, now=datetime.now(UTC)))


@pytest.fixture
def fast(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fast:
    made = Fast(tmp_path)
    monkeypatch.setenv("SOPS_AGE_KEY_FILE", str(made.human))
    assert made.identity("gen", "--all") == 0
    return made


_WRITES = {
    "gen": ("gen", "--all"),
    "secret": ("secret", "set", "ada", "token"),
    "rotate ssh": ("rotate", "ada", "--ssh"),
    "rotate gpg": ("rotate", "ada", "--gpg"),
    "revoke ssh": ("revoke", "ada", "--ssh"),
    "revoke gpg": ("revoke", "ada", "--gpg"),
    "sync": ("recipients", "sync"),
    "add": ("recipients", "add", "--human", "age122tdud7k2y8d4nsmnu8ymmh8x64pv42vya3xr9x59ljeuw2vevgsz6e2xk"),
    "remove": ("recipients", "remove", "age122tdud7k2y8d4nsmnu8ymmh8x64pv42vya3xr9x59ljeuw2vevgsz6e2xk"),
    "import": ("import", "ada", "--ssh"),
}


@pytest.mark.parametrize("verb", _WRITES)
def test_while_one_run_writes_no_other_does(fast: Fast, verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = list(_WRITES[verb])
    if verb == "import":
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", fast.root / "key"])
        words.append(str(fast.root / "key"))
    if verb == "remove":
        assert fast.identity(*_WRITES["add"]) == 0
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"value\n")))
    before = fast.tree()
    with guard.locked(places.places(spec.load(fast.spec))):
        assert fast.identity(*words) == 75
    assert fast.tree() == before


_BAD_SSH = {
    "cut": lambda pem: pem[: len(pem) // 2],
    "no last newline": lambda pem: pem.rstrip(),
    "one bit": lambda pem: pem.replace("AAAA", "AAAB", 1),
    "two of them": lambda pem: pem + pem,
    "another armor": lambda pem: pem.replace("OPENSSH ", ""),
    "no armor": lambda pem: "".join(pem.splitlines()[1:-1]),
    "indented": lambda pem: pem.replace("\n", "\n    "),
}


@pytest.mark.parametrize("how", _BAD_SSH)
def test_no_message_or_traceback_repeats_a_private_key_that_is_broken(
    fast: Fast, how: str, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(1)
    file = fast.root / "id"
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", file])
    good = file.read_text()
    bad = _BAD_SSH[how](good)
    file.write_text(bad)
    parts = {line.strip() for line in good.splitlines()[2:-1]}  # the first line is the same in all, nearly
    fast.put("ada/ssh-key", bad)
    (fast.root / "identities/ada/ssh.pub").unlink()
    words = [
        ("gen", "--all"),
        ("check",),
        ("import", "ada", "--ssh", str(file)),
        ("rotate", "ada", "--ssh"),
        ("show", "ada"),
    ]
    for verb in words:
        fast.identity(*verb)
    said = capsys.readouterr()
    told = said.out + said.err + caplog.text
    assert [line for line in parts if line[:40] in told] == []


def test_no_message_or_traceback_repeats_a_value_that_is_refused(
    fast: Fast, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for value in (b"canary-secret\0", b"canary-secret\xff", b"canary-secret" * 100_000, b""):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(value)))
        assert fast.identity("secret", "set", "ada", "token") in (1, 2)
    said = capsys.readouterr()
    assert "canary-secret" not in said.out + said.err


def test_nothing_private_stands_in_proc_while_it_works(fast: Fast) -> None:
    needles, seen, done = Needles(), [b""], threading.Event()

    def look() -> None:
        while not done.wait(0.002):
            for path in (*Path("/proc").glob("[0-9]*/cmdline"), *Path("/proc").glob("[0-9]*/environ")):
                with suppress(OSError):
                    seen.append(path.read_bytes())

    watching = threading.Thread(target=look)
    watching.start()
    try:
        assert fast.identity("rotate", "ada", "--gpg") == fast.identity("rotate", "ada", "--ssh") == 0
    finally:
        done.set()
        watching.join()
    for name in ("agents", "recovery"):
        file = fast.root / f"secrets/{name}.yaml"
        for key, value in sops.load(file.read_bytes(), name, sops.Keys.of_age_file(fast.human)).tree["ada"].items():
            if "OPENSSH" in value:
                needles.ssh(key, value)
            elif "PRIVATE" in value:
                needles.pgp(key, value)
    assert len(needles.names()) >= 3
    assert [one for one in seen if b"gpg-agent" in one] != []
    assert needles.anywhere(seen) == set()
