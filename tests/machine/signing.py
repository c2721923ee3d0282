"""A town whose agents sign commits with the keys in its secrets file, and a fresh clone that verifies them.

The clone has the commits, identities/ and an empty GnuPG home: what anybody has who got the repository alone.
"""

import os
import shutil
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from identity import cli
from identity.halves import GpgKey, SshKey
from identity.keys import gpg
from identity.lock import Entry, parse
from town import sops
from town.process import run

Files = dict[str, bytes]  # what files hold, by their names below the town
AGENTS = {"ada": "uid = 41100", "vox": 'uid = 41101\ngit = { signing = "ssh" }'}
# Runs identity and kills itself at the N-th durable step: a file that is put into place, or one that is removed.
_KILLED = """
import os, signal, sys
from town import files
left, write_beneath, unlink = [int(sys.argv.pop(1))], files.write_beneath, os.unlink
def step():
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
def write(*arguments, **keywords):
    step()
    write_beneath(*arguments, **keywords)
def remove(path, **keywords):
    if os.path.basename(path) in (".gen.journal", "ssh.pub"):
        step()
    unlink(path, **keywords)
files.write_beneath, os.unlink = write, remove
from identity.cli import main
sys.exit(main(sys.argv[1:]))
"""


class Verdict(NamedTuple):
    """What git says of a commit in the clone: its status, its letter (git-log(1), %G?) and its words."""

    status: int
    letter: str
    words: str


class SigningTown:
    """A town in a directory, with one human's and one host's age key, and a repository beside it."""

    def __init__(self, root: Path, agents: dict[str, str] = AGENTS) -> None:
        self.root, self.spec = root / "town", root / "town/town.toml"
        self.human, self.host, self.git = root / "human.key", root / "host.key", root / "git"
        self.root.mkdir()
        self._clone = root / "clone"
        run(["git", "init", "-q", "-b", "main", self.git])
        self.write(agents)

    def copied(self, root: Path) -> "SigningTown":
        """The same town in another directory, with the same keys: gen is run once for many tests."""
        made = object.__new__(SigningTown)
        made.root, made.spec, made.git, made._clone = (
            root / "town",
            root / "town/town.toml",
            root / "git",
            root / "clone",
        )
        made.human, made.host = self.human, self.host
        shutil.copytree(self.root, made.root)
        shutil.copytree(self.git, made.git)
        return made

    def write(self, agents: dict[str, str]) -> None:
        for key in (self.human, self.host):
            if not key.exists():
                run(["age-keygen", "-o", key])
        human, host = (run(["age-keygen", "-y", key]).out.decode().strip() for key in (self.human, self.host))
        head = (
            f'[town]\ndomain = "signi.local"\n[town.recipients]\nhumans = ["{human}"]\nhosts = {{ signi = "{host}" }}\n'
            f'[town.host_key]\nage = "{self.host}"\nssh = "{self.root}/none"\n'
        )
        self.spec.write_text(head + "".join(f"[agents.{name}]\n{body}\n" for name, body in agents.items()))

    def identity(self, *words: str) -> int:
        return cli.main(["--spec", str(self.spec), *words])

    def killed(self, step: int, *words: str) -> int:
        """The status of `identity` that kills itself at its `step`-th durable step."""
        argv = [sys.executable, "-c", _KILLED, str(step), "--spec", str(self.spec), *words]
        return subprocess.run(
            argv, env=os.environ | {"PYTHONPATH": os.getcwd()}, capture_output=True, check=False
        ).returncode

    def file(self, name: str) -> Path:
        return self.root / name

    def text(self, name: str) -> str:
        return self.file(name).read_text()

    def opened(self, file: str = "secrets/agents.yaml") -> sops.Document:
        return sops.load(self.file(file).read_bytes(), file, sops.Keys.of_age_file(self.human))

    def entry(self, agent: str) -> Entry:
        return parse(self.file("identities/keys.lock.toml").read_bytes(), "lock")[agent]

    def ssh(self, agent: str) -> SshKey:
        """The SSH key in use."""
        key = self.entry(agent).halves.ssh
        assert key is not None
        return key

    def gpg(self, agent: str) -> GpgKey:
        """The OpenPGP key in use."""
        key = self.entry(agent).halves.gpg
        assert key is not None
        return key

    def held(self) -> Files:
        tops = (self.root / "secrets", self.root / "identities")
        return {
            str(path.relative_to(self.root)): path.read_bytes()
            for top in tops
            for path in top.rglob("*")
            if path.is_file()
        }

    def put_back(self, held: Files) -> None:
        """Every file of the town as `held` gave it."""
        for name in self.held().keys() - held.keys():
            self.file(name).unlink()
        for name, data in held.items():
            self.file(name).parent.mkdir(exist_ok=True)
            self.file(name).write_bytes(data)

    def commit(self, agent: str, *, private: str | None = None, when: datetime | None = None) -> str:
        """A commit as the agent signs it (its private key of now, or `private`); its id."""
        kind = "ssh" if (private or "").startswith("-----BEGIN OPENSSH") else "gpg"
        if private is None:
            kind = "ssh" if 'signing = "ssh"' in AGENTS.get(agent, "") else "gpg"
            private = self.opened().get(f"{agent}/{kind}-key")
        assert private is not None
        return self._signed(agent, kind, private, when)

    def _signed(self, agent: str, kind: str, private: str, when: datetime | None) -> str:
        with gpg.throw_away_home() as home:
            if kind == "ssh":
                (home / "key").write_text(private)
                (home / "key").chmod(0o600)
                key, form = str(home / "key"), "ssh"
            else:
                run(["gpg", "--batch", "--quiet", "--import"], feed=private.encode(), env={"GNUPGHOME": str(home)})
                key, form = f"{agent}@signi.local", "openpgp"
            said = {
                "user.name": agent,
                "user.email": f"{agent}@signi.local",
                "user.signingkey": key,
                "gpg.format": form,
            }
            options = [word for name, value in said.items() for word in ("-c", f"{name}={value}")]
            env = {"GNUPGHOME": str(home)} | ({"GIT_COMMITTER_DATE": f"{when:%Y-%m-%dT%H:%M:%SZ}"} if when else {})
            run(["git", "-C", self.git, *options, "commit", "-q", "-S", "--allow-empty", "-m", "work"], env=env)
        return run(["git", "-C", self.git, "rev-parse", "HEAD"]).out.decode().strip()

    def verdict(self, commit: str, *, revocation_file: bool = True) -> Verdict:
        """What git says of a commit in a fresh clone that has nothing but identities/."""
        shutil.rmtree(self._clone, ignore_errors=True)
        run(["git", "clone", "-q", self.git, self._clone])
        shutil.copytree(self.root / "identities", self._clone / "identities")
        said = {"gpg.ssh.allowedSignersFile": "identities/allowed_signers"}
        if revocation_file:
            said["gpg.ssh.revocationFile"] = "identities/revoked.krl"
        git = ["git", "-C", str(self._clone), *(word for pair in said.items() for word in ("-c", "=".join(pair)))]
        with gpg.throw_away_home() as home:
            env = {"GNUPGHOME": str(home)}
            for key in sorted((self._clone / "identities").glob("*/gpg.asc")):
                run(["gpg", "--batch", "--quiet", "--import", key], env=env)
            done = run([*git, "verify-commit", commit], env=env, check=False)
            letter = run([*git, "log", "-1", "--format=%G?", commit], env=env).out.decode().strip()
        return Verdict(done.status, letter, done.err.decode())
