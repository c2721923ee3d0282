"""Secrets as variables, booted: services of the agent's own systemd, its logins, system services that run as it."""

import base64
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.boot import image, loginmachine, nspawn
from town import process

pytestmark = pytest.mark.root
SPEC = """
[town]
agents_dir = "/agents"
persist_dir = "/persist"
recipients = {{ humans = ["{recipient}"] }}
[agents.ada]
uid = 51100
persist = ["projects"]
git = {{ signing = false }}
secrets = {{ extra = {{ token = "ada/token" }}, env = {{ TOKEN = "token" }} }}
"""
VALUE = "a \"b' $HOME `id` \\n #\n second = line\\ ü"
PROBE = """
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'printf %%s "$TOKEN" | base64 -w0 >/run/user/51100/probe'
"""
SYSTEM = """
[Service]
Type=oneshot
User=ada
EnvironmentFile=-/run/nuketown/secrets/ada/.environment
ExecStart=/bin/sh -c 'printf %%s "$TOKEN" | base64 -w0 >/tmp/probe'
"""
SCRIPT = """
useradd --uid 51100 --home-dir /agents/ada --no-create-home --shell /bin/bash ada
mv /var/lib/nuketown/age.key /root/moved.key
persist restore ada
identity install ada; echo "without a key $?"
systemd-run --quiet --wait --pipe -p LoadCredential=nuketown.host-key:/root/moved.key identity install ada
echo "with a credential $?"
echo "login" $(su --login ada -c 'printf %s "$TOKEN" | base64 -w0')
systemctl start user@51100.service
XDG_RUNTIME_DIR=/run/user/51100 setpriv --reuid 51100 --regid 51100 --clear-groups systemctl --user start probe.service
echo "service" $(cat /run/user/51100/probe)
systemctl start probe-system.service
echo "system" $(cat /tmp/probe)
manager=$(systemctl show -p MainPID --value user@51100.service)
echo "manager $(tr '\\0' '\\n' </proc/$manager/environ | grep -c ^TOKEN)"
echo "mode $(stat -c '%u %a' /run/nuketown/secrets/ada/.environment)"
"""


@pytest.fixture
def tree(debian: Path, tmp_path: Path) -> Iterator[Path]:
    """A Debian with this checkout, a spec, and the secrets of its agent."""
    with loginmachine.furnished(debian, tmp_path, SPEC) as tree:
        argv = [sys.executable, "-m", "identity.cli", "--spec", str(tree / loginmachine.SPEC)]
        env = {"PYTHONPATH": str(image.CHECKOUT), "SOPS_AGE_KEY_FILE": str(tree / loginmachine.KEY)}
        process.run([*argv, "gen", "ada"], env=env)
        process.run([*argv, "secret", "set", "ada", "token"], env=env, feed=VALUE.encode())
        (tree / "etc/systemd/user/probe.service").write_text(PROBE)
        (tree / "etc/systemd/system/probe-system.service").write_text(SYSTEM)
        yield tree


def test_a_secret_of_secrets_env_reaches_logins_and_services_whole_and_nothing_else(tree: Path, tmp_path: Path) -> None:
    said = nspawn.boot(tree, SCRIPT, tmp_path, after="systemd-logind.service").said
    value = base64.b64encode(VALUE.encode()).decode()
    assert "without a key 1" in said, said
    assert "with a credential 0" in said, said
    for who in ("login", "service", "system"):
        assert f"{who} {value}\n" in said, said
    assert "manager 0" in said, said
    assert "mode 51100 400" in said, said
