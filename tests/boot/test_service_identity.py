"""Keys as nuketown-identity@ brings them, booted: one agent signs with OpenPGP, one with SSH, in logins of their own.

Three boots of one machine, which find the secrets by the age key file, by a credential and by the machine's GnuPG home;
ada's .gnupg is kept from boot to boot, and holds for the last one what she could plant there. Whoever verifies has
identities/ and nothing else.
"""

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import pytest

from identity.keys import gpg
from persist import cli as persist
from tests.boot import services
from tests.boot.services import Said, Town
from tests.machine.needles import Needles
from town import sops
from town.process import run

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]

UNIT = "nuketown-identity@ada.service"
KEY, MOVED, GNUPG = "var/lib/nuketown/age.key", "root/moved.key", "var/lib/nuketown/gnupg"
SPEC = f"""
[town]
domain = "signi.local"
agents_dir = "/agents"
persist_dir = "/persist"
recipients = {{ humans = ["{{recipient}}"] }}
[town.btrfs]
device = "{{uuid}}"
wait = "5s"
[agents.ada]
uid = {services.ADA}
persist = [{{ path = ".gnupg", via = "bind" }}]
[agents.vox]
uid = {services.VOX}
git = {{ signing = "ssh" }}
"""
# The sweep runs beside the rollback. Where it is the first to make /run/nuketown, agents must get through it, too.
AFTER_SWEEP = """\
[Service]
ExecStartPre=sh -c 'until [ -e /run/nuketown/swept.json ]; do sleep 0.1; done; stat -c %%a /run/nuketown >/run/mode'
"""
CREDENTIAL = f"[Service]\nLoadCredential=nuketown.host-key:/{MOVED}\n"
BEGIN = f"""
agents() {{ for one in /proc/[0-9]*; do grep -qx gpg-agent $one/comm 2>/dev/null && echo -n "${{one#/proc/}} "; done; }}
commit() {{  # USER MESSAGE
    su --login "$1" -c "[ -d work ] || git init -q work; cd work && git commit -q --allow-empty -m $2"
    echo "commit.$2 $?"
}}
bundle() {{ for user in ada vox; do su --login $user -c 'git -C work bundle create -q - --all' >/srv/$user.$1; done; }}
grips() {{ echo "$1 $(ls /agents/ada/.gnupg/private-keys-v1.d | sort | tr '\\n' ' ')"; }}
systemctl start nuketown-agent@ada.target nuketown-agent@vox.target; echo "started $?"
echo "mode $(cat /run/mode)"
echo "left.boot $(agents)"
asked open ada vox
systemd-analyze security --no-pager --threshold=20 {UNIT} >/dev/null; echo "exposed $?"
"""
FIRST = f"""{BEGIN}
commit ada of-ada
commit vox of-vox
su --login ada -c 'echo $$ >here; exec sleep infinity' &
until_ [ -s /agents/ada/here ]
commit ada while-logged-in
before=$(agents)
identity install ada; echo "beside $?"
[ "$before" ] && [ "$(agents)" = "$before" ]; echo "untouched $?"
chmod 0700 /run/nuketown
grips old
SOPS_AGE_KEY_FILE=/{KEY} identity rotate ada --gpg >/dev/null; echo "rotate $?"
systemctl restart {UNIT}; echo "restart $?"
until_ systemctl --quiet is-active nuketown-agent@ada.target
kill "$(cat /agents/ada/here)"
echo "left.restart $(agents)"
asked again ada
grips new
commit ada rotated
bundle first
"""
SECOND = f"""{BEGIN}
commit ada kept
commit vox by-credential
grips kept
bundle second
as ada sh -c 'cd /agents/ada/.gnupg
    printf "#!/bin/sh\\ntouch /agents/ada/.gnupg/ran\\nsleep 60\\n" >evil; chmod 755 evil
    printf "agent-program $PWD/evil\\ndry-run\\ntrust-model none-such\\n" >gpg.conf
    printf "pinentry-program $PWD/evil\\nlog-file $PWD/ran\\nno-such-option\\n" >gpg-agent.conf
    rm private-keys-v1.d/*
    printf "         1\\n%s\\n" "$(uname -n)" >pubring.kbx.lock'
"""
THIRD = f"""{BEGIN}
su --login ada -c 'gpg --list-keys'; echo "hostile $?"
[ -e /agents/ada/.gnupg/ran ]; echo "ran $?"
as ada rm /agents/ada/.gnupg/gpg.conf /agents/ada/.gnupg/gpg-agent.conf
commit ada after-all
commit vox by-gnupg
grips planted
bundle third
"""


class Judged(NamedTuple):
    """What git says of a commit to who has identities/ alone: its status, and the key that made the signature."""

    status: int
    key: str


@dataclass(frozen=True)
class Days:
    """What was seen in three boots, and stood in their journals; what git says of each commit, by its message.

    `leaked`: the secrets that a journal or a console held; `sought`: for each private value, what is found in itself.
    """

    first: Said
    second: Said
    third: Said
    judged: dict[str, Judged]
    journals: list[str]
    leaked: set[str]
    sought: list[set[str]]


@pytest.fixture(scope="module")
def days(installed: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Days]:
    at = tmp_path_factory.mktemp("identity")
    with services.town(installed, at, SPEC) as town:
        town.drop_in("nuketown-rollback.service", AFTER_SWEEP)
        needles, booted, journals = Needles(), list[Said](), list[str]()

        def boot(script: str) -> None:
            booted.append(town.boot(script))
            journals.append(json.dumps(town.journal()))

        needles.text("age key", re.findall("AGE-SECRET-KEY-.*", (town.tree / KEY).read_text())[0])
        _private(town, needles)
        boot(FIRST)
        private = _private(town, needles)  # with what rotate made
        (town.tree / KEY).rename(town.tree / MOVED)
        town.drop_in("nuketown-identity@.service", CREDENTIAL)
        boot(SECOND)
        _by_gnupg(town, needles)
        boot(THIRD)
        leaked = needles.anywhere(text.encode() for text in [*journals, *(said["console"] for said in booted)])
        sought = [needles.within(value.encode()) for value in private]
        yield Days(*booted, _judged(town.tree, at), journals, leaked, sought)


def _private(town: Town, needles: Needles) -> list[str]:
    """Every private key of the agents, which is sought from now on."""
    found = list[str]()
    for file in ("agents", "recovery"):
        for agent, keys in _opened(town, file, town.tree / KEY).tree.items():
            for name, value in keys.items():
                if "PRIVATE KEY" in value:  # and no certificate of revocation
                    (needles.ssh if "OPENSSH" in value else needles.pgp)(f"{agent}/{name}", value)
                    found.append(value)
    return found


def _opened(town: Town, file: str, key: Path) -> sops.Document:
    path = town.tree / f"etc/nuketown/secrets/{file}.yaml"
    return sops.load(path.read_bytes(), file, sops.Keys.of_age_file(key))


def _by_gnupg(town: Town, needles: Needles) -> None:
    """From now on the machine's GnuPG home alone opens the secrets."""
    moved = town.tree / MOVED
    with gpg.throw_away_home() as home:
        own = ["gpg", "--homedir", home, "--batch", "--quiet", "--passphrase", ""]
        run([*own, "--quick-generate-key", "host", "rsa2048", "encrypt"])
        listed = run([*own, "--with-colons", "--list-keys"]).out.decode()
        (fingerprint,) = re.findall(r"(?m)^fpr:+([0-9A-F]{40}):", listed)
        needles.pgp("host", run([*own, "--armor", "--export-secret-keys"]).out.decode())
        data = sops.create(_opened(town, "agents", moved).tree, [fingerprint], now=datetime.now(UTC), gnupg_home=home)
        shutil.copytree(home, town.tree / GNUPG, ignore=shutil.ignore_patterns("S.*"))
    (town.tree / GNUPG).chmod(0o700)
    (town.tree / "etc/nuketown/secrets/agents.yaml").write_bytes(data)
    moved.unlink()
    (town.tree / "etc/systemd/system/nuketown-identity@.service.d/test.conf").unlink()
    file = town.tree / "etc/nuketown/town.toml"
    file.write_text(file.read_text().replace("[town.btrfs]", f'host_key = {{ gnupg = "/{GNUPG}" }}\n[town.btrfs]'))
    assert persist.main(["--spec", str(file), "install", "--root", str(town.tree), "--initrd", "none"]) == 0


def _judged(tree: Path, at: Path) -> dict[str, Judged]:
    identities, found = tree / "etc/nuketown/identities", dict[str, Judged]()
    with gpg.throw_away_home() as home:
        env = {"GNUPGHOME": str(home), "HOME": str(at), "GIT_CONFIG_NOSYSTEM": "1"}
        run(["gpg", "--batch", "--quiet", "--import", identities / "ada/gpg.asc"], env=env)
        # One in which nothing was committed is empty, and no bundle.
        for bundle in sorted(file for file in (tree / "srv").glob("*.*") if file.stat().st_size):
            clone = at / f"clone-{bundle.name}"
            run(["git", "clone", "--quiet", bundle, clone], env=env)
            signers = ["git", "-c", f"gpg.ssh.allowedSignersFile={identities}/allowed_signers"]
            for line in run([*signers, "log", "--format=%H %GF %s"], env=env, cwd=clone).out.decode().splitlines():
                commit, key, message = line.split(" ")
                status = run([*signers, "verify-commit", commit], env=env, cwd=clone, check=False).status
                found[message] = Judged(status, key)
    return found


def is_well(said: Said) -> None:
    """Both accounts are open, with /run/nuketown open to them from its first; no gpg-agent of the install is left."""
    assert said["started"] == "0", said["said"]
    assert (said["mode"], said["left.boot"]) == ("755", ""), said["said"]
    for agent in ("ada", "vox"):
        assert set(said.lets("open", agent).values()) == {True}, said["said"]
    assert {name: value for name, value in said.items() if name.startswith("commit.") and value != "0"} == {}


def signed(days: Days, *messages: str) -> set[str]:
    """The keys of these commits, which all verify."""
    assert [(message, days.judged[message].status) for message in messages] == [(one, 0) for one in messages]
    return {days.judged[message].key for message in messages}


def test_agents_sign_in_their_logins_with_openpgp_and_with_ssh_and_identities_alone_verify_it(days: Days) -> None:
    is_well(days.first)
    (ada,) = signed(days, "of-ada", "while-logged-in")
    (vox,) = signed(days, "of-vox", "by-credential", "by-gnupg")
    assert re.fullmatch("[0-9A-F]{40}", ada)
    assert vox.startswith("SHA256:")


def test_an_install_beside_the_agents_own_gpg_agent_leaves_it_alone(days: Days) -> None:
    assert (days.first["beside"], days.first["untouched"]) == ("0", "0"), days.first["said"]


def test_a_restart_while_the_agent_is_logged_in_and_has_signed_opens_its_account_again(days: Days) -> None:
    assert days.first["restart"] == "0", days.first["said"]
    assert days.first["left.restart"] == ""
    assert set(days.first.lets("again", "ada").values()) == {True}, days.first["said"]


def test_after_a_rotation_a_restart_brings_the_new_subkey_and_takes_the_old_one_away(days: Days) -> None:
    assert days.first["rotate"] == "0", days.first["said"]
    (old,), (new,) = days.first["old"].split(), days.first["new"].split()
    assert old != new
    assert signed(days, "rotated").isdisjoint(signed(days, "of-ada"))


def test_a_credential_opens_the_secrets_and_a_kept_keyring_is_used_again(days: Days) -> None:
    is_well(days.second)
    assert days.second["kept"] == days.first["new"]
    assert signed(days, "kept") == signed(days, "rotated")


def test_the_machines_gnupg_home_opens_the_secrets_and_what_an_agent_planted_in_its_own_stops_nothing(
    days: Days,
) -> None:
    is_well(days.third)
    assert days.third["hostile"] != "0", days.third["said"]
    assert days.third["ran"] == "1"
    assert days.third["planted"] == days.first["new"]
    assert signed(days, "after-all") == signed(days, "rotated")


def test_the_unit_is_confined_as_loaded(days: Days) -> None:
    assert [said["exposed"] for said in (days.first, days.second, days.third)] == ["0"] * 3


def test_no_journal_and_no_console_holds_a_private_byte(days: Days) -> None:
    assert "ada: made .gnupg" in days.journals[0]
    assert (
        len(days.sought) == 4
    )  # of ada in agents.yaml an SSH key and a subkey, and the whole key elsewhere; of vox one
    assert all(days.sought)
    assert days.leaked == set()
