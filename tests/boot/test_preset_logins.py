"""A preset's variables reach what the agent runs: a login shell of PAM's, and a service of its own systemd, booted."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from identity import cli as identity
from tests.boot import loginmachine, nspawn

pytestmark = pytest.mark.root
SPEC = """
[town]
agents_dir = "/agents"
persist_dir = "/persist"
recipients = {{ humans = ["{recipient}"] }}
[agents.ada]
uid = 51100
persist = [{{ path = ".state/claude", preset = "claude-code" }}, {{ path = ".codex", preset = "codex" }}]
git = {{ signing = false }}
"""
PROBE = """
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'printenv CLAUDE_CONFIG_DIR CODEX_HOME >/run/user/51100/probe'
"""
SCRIPT = """
useradd --uid 51100 --home-dir /agents/ada --no-create-home --shell /bin/bash ada
persist restore ada && identity install ada
echo "installed $?"
su --login ada -c 'printf "login %s %s\\n" "$CLAUDE_CONFIG_DIR" "$CODEX_HOME"; touch "$CLAUDE_CONFIG_DIR/.claude.json"'
systemctl start user@51100.service
XDG_RUNTIME_DIR=/run/user/51100 setpriv --reuid 51100 --regid 51100 --clear-groups systemctl --user start probe.service
echo "service" $(cat /run/user/51100/probe)
echo "kept $(ls -A /persist/agents/ada/.state/claude | grep claude.json)"
"""


@pytest.fixture
def tree(debian: Path, tmp_path: Path) -> Iterator[Path]:
    """A Debian with this checkout, a spec, and the secrets of its agent."""
    with loginmachine.furnished(debian, tmp_path, SPEC) as tree:
        assert identity.main(["--spec", str(tree / loginmachine.SPEC), "gen", "ada"]) == 0
        (tree / "etc/systemd/user/probe.service").write_text(PROBE)
        yield tree


def test_a_login_shell_and_a_service_of_the_agents_find_what_persists(tree: Path, tmp_path: Path) -> None:
    said = nspawn.boot(tree, SCRIPT, tmp_path, after="systemd-logind.service").said
    where = "/agents/ada/.state/claude /agents/ada/.codex"
    assert "installed 0" in said, said
    assert f"login {where}" in said, said
    assert f"service {where}" in said, said
    assert "kept .claude.json" in said, said
