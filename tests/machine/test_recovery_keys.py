"""docs/recovery.md: the store's keys come out with age or gpg, and Debian's Python."""

import os
import re
import shutil
from pathlib import Path

import pytest

from persist.bucket import keyfile
from persist.bucket.opening import open_bucket
from tests.machine.keystores import town
from tests.machine.recovery import DOC, PROGRAMS, PYTHON, programs, ran
from tests.machine.towns import Town
from town import process

__all__ = ["programs", "town"]
pytestmark = pytest.mark.root


def key(town: Town, programs: Path, number: int) -> list[str]:
    return [PYTHON, str(programs / "key.py"), str(town.base / "store" / keyfile.name(number))]


def test_with_age_and_without_sops_the_keys_of_all_epochs_come_out(town: Town, programs: Path) -> None:
    town.persist("key", "rotate")
    said = ran([*key(town, programs, 2), "age", "-d", "-i", str(town.base / "person.age")])
    assert said.returncode == 0, said.stderr
    bucket = open_bucket(town.spec)
    assert said.stdout.splitlines() == [
        f"store-key: {bucket.key.secret.hex()}",
        f"store-key-0000000000000001: {bucket.earlier[0].secret.hex()}",
    ]


@pytest.mark.parametrize("passphrase", ["", "correct horse"])
def test_with_an_ssh_key_the_keys_come_out(town: Town, programs: Path, passphrase: str) -> None:
    ssh = town.base / "id"
    process.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-f", str(ssh)])
    assert town.persist("key", "add", (town.base / "id.pub").read_text().strip()).status == 0
    if passphrase:
        process.run(["ssh-keygen", "-q", "-p", "-P", passphrase, "-N", "", "-f", str(ssh)])
    said = ran([PYTHON, str(programs / "identity.py"), str(ssh)])
    assert said.returncode == 0, said.stderr
    (town.base / "made.age").write_text(said.stdout)
    said = ran([*key(town, programs, 2), "age", "-d", "-i", str(town.base / "made.age")])
    assert said.stdout == f"store-key: {open_bucket(town.spec).key.secret.hex()}\n"


def test_with_gpg_the_keys_come_out(town: Town, programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Path("/tmp") / f"nuketown-test-{os.getpid()}"  # a socket lies in it: the path must be short
    home.mkdir(mode=0o700)
    env = {"GNUPGHOME": str(home)}
    try:
        made = ran(["gpg", "--batch", "--passphrase", "", "--quick-gen-key", "person", "ed25519", "sign"], **env)
        assert made.returncode == 0, made.stderr
        listed = ran(["gpg", "--batch", "--with-colons", "--list-keys"], **env).stdout
        primary = re.findall(r"(?m)^fpr:+([0-9A-F]{40}):", listed)[0]
        ran(["gpg", "--batch", "--passphrase", "", "--quick-add-key", primary, "cv25519", "encr"], **env)
        with monkeypatch.context() as patch:
            patch.setenv("GNUPGHOME", str(home))
            said = town.persist("key", "add", primary)
            assert said.status == 0, said.err
        found = ran([*key(town, programs, 2), "gpg", "--batch", "-d"], **env)
        assert found.stdout == f"store-key: {open_bucket(town.spec).key.secret.hex()}\n"
    finally:
        ran(["gpgconf", "--kill", "all"], **env)
        shutil.rmtree(home)


def test_who_can_open_nothing_gets_nothing(town: Town, programs: Path) -> None:
    process.run(["age-keygen", "-o", str(town.base / "stranger.age")])
    said = ran([*key(town, programs, 1), "age", "-d", "-i", str(town.base / "stranger.age")])
    assert said.returncode == 1
    assert said.stdout == ""


def test_the_doc_names_the_commands_that_are_run_here() -> None:
    assert set(PROGRAMS) == {"recover", "key", "identity"}
    for command in ("age -d -i IDENTITY | python3 recover.py copy ada new", "gpg -d | python3 recover.py", "sops -d"):
        assert command in DOC
