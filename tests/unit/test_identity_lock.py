"""keys.lock.toml as text: a hostile one costs no more than a good one, and is refused with the cure."""

import time
from datetime import UTC, datetime, timedelta

import pytest

from identity import lock
from identity.halves import GpgKey, SshKey
from identity.lock import BadLock, Entry, KeptGpg, KeptSsh

_TIME = """version = 2
[agents.ada]
email = "ada@signi.local"
[[agents.ada.gpg]]
primary = "A"
signing = "B"
created = {}
"""


@pytest.mark.parametrize(
    "text",
    [
        "version = 2\n" + ".".join(["a"] * 26_000) + " = 1\n",
        "version = 2\n[" + ".".join(["a"] * 26_000) + "]\n",
        "version = 2\na = " + "[" * 20_000 + "\n",
        "version = 2\na = " + "{a = " * 20_000 + "\n",
        _TIME.format("0001-01-01T00:00:00+23:59"),
        _TIME.format("9999-12-31T23:59:59-23:59"),
        "version = " + "1" * 5000 + "\n",
        "version = 2\n# \0\n",
        "version = 2\nagents = 1\n",
    ],
)
def test_a_hostile_lock_is_refused_at_once_with_the_cure(text: str) -> None:
    begun = time.process_time()
    with pytest.raises(BadLock) as refused:
        lock.parse(text.encode(), "identities/keys.lock.toml")
    assert time.process_time() - begun < 1
    assert "git checkout" in refused.value.hint


def test_the_lock_of_many_agents_over_many_years_is_read() -> None:
    begun = datetime(2030, 1, 1, tzinfo=UTC)
    line = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
    times = [begun + timedelta(days=30 * at) for at in range(100)]
    ssh = tuple(KeptSsh(SshKey(line), since, since + timedelta(days=30)) for since in times)
    gpg = tuple(KeptGpg(GpgKey("A" * 40, "B" * 40, made, None)) for made in times)
    entry = Entry("a@signi.local", ssh, gpg)
    head, table = lock.text({"a0": entry}).split("[agents.a0]", 1)
    tables = (f"[agents.a0]{table}".replace("agents.a0", f"agents.a{at}") for at in range(50))
    text = (head + "".join(tables)).encode()
    assert len(text) > 1 << 20
    assert lock.parse(text, "the lock") == {f"a{at}": entry for at in range(50)}
