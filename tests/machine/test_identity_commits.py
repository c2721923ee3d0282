"""From a spec to commits that verify: gen, import and install, then agents at work, then somebody with a clone.

ada signs with OpenPGP, vox with SSH, and eve with an OpenPGP key that she had before. Whoever verifies has a fresh
clone, and nothing of it but identities/.
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from identity import lock
from identity.keys import gpg
from tests.machine import gentown
from tests.machine.gentown import CHECKOUT, age_key
from town.process import Done, Person, run

pytestmark = pytest.mark.root
nothing_is_left = gentown.nothing_is_left
PEOPLE = {"ada": Person(41100, 41100), "vox": Person(41101, 41101), "eve": Person(41102, 41102)}
HUMAN = {"GIT_AUTHOR_NAME": "Josh", "GIT_AUTHOR_EMAIL": "josh@signi.local",
         "GIT_COMMITTER_NAME": "Josh", "GIT_COMMITTER_EMAIL": "josh@signi.local"}  # fmt: skip


class Judged(NamedTuple):
    """What git says of a signature: its status, the letter of `%G?` and the fingerprint of the key."""

    status: int
    letter: str
    key: str


class Story:
    """The town's repository and homes, and the commits that were made, by name."""

    def __init__(self, root: Path) -> None:
        self.root, self.repository, self.bundle = root, root / "town", root / "bundle"
        self.commits: dict[str, str] = {}
        self.fresh = root / "fresh"

    def identity(self, *words: str) -> None:
        """The command with a /run of its own: the machine's is not touched."""
        (self.root / "run").mkdir(exist_ok=True)
        apart = ["unshare", "-m", "sh", "-ec", f'mount --bind {self.root}/run /run; exec "$@"', "sh"]
        argv = [sys.executable, "-m", "identity.cli", "--spec", self.repository / "town.toml", *words]
        env = {"PYTHONPATH": str(CHECKOUT), "SOPS_AGE_KEY_FILE": str(self.root / "human.key")}
        run([*apart, *argv], env=env)

    def git(self, *words: str, at: Path | None = None, env: dict[str, str] | None = None, check: bool = True) -> Done:
        """git of somebody who has no configuration."""
        plain = {"HOME": str(self.root / "nobody"), "GIT_CONFIG_NOSYSTEM": "1", **(env or {})}
        return run(["git", *words], env=plain, cwd=at or self.repository, check=check)

    def home(self, name: str) -> Path:
        return self.root / "a" / name

    def agent(self, name: str, *words: str, at: Path) -> Done:
        """A program of an agent, in its home, configured by what install put there alone."""
        # ssh-keygen refuses a uid without an account: the accounts exist in this mount namespace only.
        lines = [f"{one}:x:{who.uid}:{who.gid}::{self.home(one)}:/bin/sh\n" for one, who in PEOPLE.items()]
        (self.root / "passwd").write_text("root:x:0:0::/root:/bin/sh\n" + "".join(lines))
        uid, gid = str(PEOPLE[name].uid), str(PEOPLE[name].gid)
        dropped = ["setpriv", "--reuid", uid, "--regid", gid, "--clear-groups", "--", *words]
        script = f'mount --bind {self.root}/passwd /etc/passwd; cd "$0"; exec "$@"'
        env = {"HOME": str(self.home(name)), "GIT_CONFIG_NOSYSTEM": "1"}
        return run(["unshare", "-m", "sh", "-ec", script, at, *dropped], env=env)

    def published(self, name: str = "human") -> None:
        """What was committed last becomes what everybody clones."""
        at = self.repository if name == "human" else self.home(name) / "work"
        made = self.home(name) / "out" if name != "human" else self.root / "out"
        command = ("git", "bundle", "create", str(made), "main", "--tags")
        if name == "human":
            self.git(*command[1:])
        else:
            self.agent(name, *command, at=at)
        shutil.copy(made, self.bundle)
        self.bundle.chmod(0o644)

    def works(self, name: str) -> None:
        """An agent clones, commits and tags, and what it made is published."""
        work = self.home(name) / "work"
        self.agent(name, "git", "clone", "--quiet", "--branch", "main", str(self.bundle), str(work), at=self.home(name))
        (work / f"{name}.txt").write_text("work\n")
        os.chown(work / f"{name}.txt", PEOPLE[name].uid, PEOPLE[name].gid)
        self.agent(name, "git", "add", ".", at=work)
        self.agent(name, "git", "commit", "--quiet", "--message", f"By {name}", at=work)
        self.agent(name, "git", "tag", "--message", f"Of {name}", f"v-{name}", at=work)
        self.commits[name] = self.agent(name, "git", "rev-parse", "HEAD", at=work).out.decode().strip()
        self.published(name)

    def judged(self, commit: str, kind: str = "commit") -> Judged:
        """What the clone's owner is told, whose keyring has what identities/ has."""
        identities = self.fresh / "identities"
        with gpg.throw_away_home() as home:
            env = {"GNUPGHOME": str(home)}
            run(["gpg", "--batch", "--quiet", "--import", *sorted(identities.glob("*/gpg.asc"))], env=env)
            files = (
                ("-c", f"gpg.ssh.allowedSignersFile={identities}/allowed_signers"),
                ("-c", f"gpg.ssh.revocationFile={identities}/revoked.krl"),
            )
            options = [word for pair in files for word in pair]
            status = self.git(*options, f"verify-{kind}", commit, at=self.fresh, env=env, check=False).status
            said = self.git(*options, "log", "-1", "--format=%G? %GF", commit, at=self.fresh, env=env)
        letter, _, key = said.out.decode().strip().partition(" ")
        return Judged(status, letter, key)


@pytest.fixture(scope="module")
def story() -> Iterator[Story]:
    """The whole of it, once: everything below only looks."""
    root = Path(tempfile.mkdtemp(prefix="town-", dir="/tmp"))  # gpg's sockets need a short path
    try:
        root.chmod(0o755)
        told = Story(root)
        _town(told)
        _eve_before(told)
        told.identity("gen", "ada", "vox")
        told.identity("import", "eve", "--gpg", str(root / "eve.asc"))
        told.identity("gen", "--all")
        told.git("add", ".")
        told.git("commit", "--quiet", "--message", "Identities", env=HUMAN)
        told.published()
        told.identity("install")
        for name in PEOPLE:
            told.works(name)
        _forged(told)
        _fresh_clone(told)
        yield told
    finally:
        for name, person in PEOPLE.items():
            run(["gpgconf", "--kill", "all"], env={"HOME": str(root / "a" / name)}, person=person, check=False)
        shutil.rmtree(root)


def _town(told: Story) -> None:
    root = told.root
    for name in ("nobody", "town", "p", "a"):
        (root / name).mkdir()
    for name, person in PEOPLE.items():
        told.home(name).mkdir(mode=0o700)
        os.chown(told.home(name), person.uid, person.gid)
    human, host = age_key(root / "human.key"), age_key(root / "host.key")
    (told.repository / "town.toml").write_text(
        f'[town]\ndomain = "signi.local"\nagents_dir = "{root}/a"\npersist_dir = "{root}/p"\n'
        f'recipients = {{ humans = ["{human}"], hosts = {{ signi = "{host}" }} }}\n'
        f'host_key = {{ age = "{root}/host.key", ssh = "{root}/none" }}\n'
        '[agents.ada]\nuid = 41100\n[agents.vox]\nuid = 41101\ngit = { signing = "ssh" }\n'
        "[agents.eve]\nuid = 41102\nsecrets = { gpg_encryption = true }\n"
    )
    told.git("init", "--quiet", "--initial-branch", "main")


def _eve_before(told: Story) -> None:
    """eve's key as gpg makes one by default, and a commit that she signed with its primary key long before."""
    with gpg.throw_away_home() as home:
        env = {"GNUPGHOME": str(home)}
        argv = ["gpg", "--batch", "--quiet", "--pinentry-mode", "loopback", "--passphrase", ""]
        run([*argv, "--quick-gen-key", "Eve <eve@signi.local>", "future-default", "default", "never"], env=env)
        (told.root / "eve.asc").write_bytes(run([*argv, "--armor", "--export-secret-keys"], env=env).out)
        told.git(
            "commit", "--quiet", "--allow-empty", "--gpg-sign=eve@signi.local", "--message", "Before", env=HUMAN | env
        )
    told.commits["eve before"] = told.git("rev-parse", "HEAD").out.decode().strip()


def _forged(told: Story) -> None:
    """Commits in ada's name: unsigned, and signed with an SSH key that is nobody's."""
    at = told.root / "forger"
    told.git("clone", "--quiet", "--branch", "main", str(told.bundle), str(at), at=told.root)
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", told.root / "forged"])
    ada = {name: value.replace("Josh", "Ada").replace("josh@", "ada@") for name, value in HUMAN.items()}
    signs = ["-c", "gpg.format=ssh", "-c", f"user.signingKey={told.root}/forged.pub"]
    for name, options, how in (("unsigned", [], "--no-gpg-sign"), ("of nobody", signs, "--gpg-sign")):
        told.git(*options, "commit", "--quiet", "--allow-empty", how, "--message", name, at=at, env=ada)
        told.commits[name] = told.git("rev-parse", "HEAD", at=at).out.decode().strip()
    told.git("bundle", "create", str(told.bundle), "main", "--tags", at=at)


def _fresh_clone(told: Story) -> None:
    told.git("clone", "--quiet", "--branch", "main", str(told.bundle), str(told.fresh), at=told.root)
    for left in told.fresh.iterdir():
        if left.name not in (".git", "identities"):
            shutil.rmtree(left) if left.is_dir() else left.unlink()


def _entry(story: Story, name: str) -> lock.Entry:
    file = story.fresh / "identities/keys.lock.toml"
    return lock.parse(file.read_bytes(), str(file))[name]


def test_a_commit_that_ada_signed_with_openpgp_verifies_in_a_fresh_clone(story: Story) -> None:
    halves = _entry(story, "ada").halves
    assert halves.gpg is not None
    # U: a good signature; that the key is ada's is what identities/ says, and no web of trust.
    assert story.judged(story.commits["ada"]) == Judged(0, "U", halves.gpg.signing)


def test_a_commit_that_vox_signed_with_ssh_verifies_in_a_fresh_clone(story: Story) -> None:
    halves = _entry(story, "vox").halves
    assert halves.ssh is not None
    assert story.judged(story.commits["vox"]) == Judged(0, "G", halves.ssh.fingerprint)


def test_what_an_imported_key_signed_before_and_after_verifies(story: Story) -> None:
    halves = _entry(story, "eve").halves
    assert halves.gpg is not None
    assert story.judged(story.commits["eve before"]) == Judged(0, "U", halves.gpg.primary)
    assert story.judged(story.commits["eve"]) == Judged(0, "U", halves.gpg.signing)


@pytest.mark.parametrize("name", list(PEOPLE))
def test_the_author_is_who_the_spec_says_and_the_tag_is_signed_too(story: Story, name: str) -> None:
    said = story.git("log", "-1", "--format=%an <%ae>, %cn <%ce>", story.commits[name], at=story.fresh).out.decode()
    assert said == f"{name.capitalize()} <{name}@signi.local>, {name.capitalize()} <{name}@signi.local>\n"
    assert story.judged(f"v-{name}", "tag").status == 0


@pytest.mark.parametrize("name", ["unsigned", "of nobody"])
def test_a_commit_in_adas_name_that_her_key_did_not_sign_does_not_verify(story: Story, name: str) -> None:
    found, halves = story.judged(story.commits[name]), _entry(story, "ada").halves
    assert found.status == 1
    assert halves.ssh is not None
    assert found.key not in (halves.ssh.fingerprint, halves.gpg and halves.gpg.signing)


def test_who_has_the_clone_can_write_to_eve_and_only_eve_reads_it(story: Story) -> None:
    with gpg.throw_away_home() as home:
        env = {"GNUPGHOME": str(home)}
        run(["gpg", "--batch", "--quiet", "--import", story.fresh / "identities/eve/gpg.asc"], env=env)
        argv = ["gpg", "--batch", "--quiet", "--trust-model", "always", "--encrypt", "--recipient", "eve@signi.local"]
        message = run(argv, feed=b"for eve", env=env).out
    for name, status in (("eve", 0), ("ada", 2)):
        decrypted = run(
            ["gpg", "--batch", "--quiet", "--decrypt"], feed=message, env={"HOME": str(story.home(name))},
            person=PEOPLE[name], check=False,
        )  # fmt: skip
        assert (decrypted.status, decrypted.out) == (status, b"for eve" if status == 0 else b"")


def test_no_private_key_is_in_what_was_committed(story: Story) -> None:
    shown = story.git("log", "--all", "--patch", "--format=", at=story.fresh).out
    assert b"ENC[AES256_GCM" in shown
    for kind in (b"OPENSSH PRIVATE KEY", b"PGP PRIVATE KEY", b"AGE-SECRET-KEY"):
        assert kind not in shown
