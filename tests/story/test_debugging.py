"""The terminal sessions of docs/debugging.md are run, in their order, on a private machine: what is shown is said."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.story import sessions
from tests.story.sessions import Differs, Typed

CHECKOUT = Path(__file__).parent.parent.parent
DOCUMENT = CHECKOUT / "docs/debugging.md"
VERBS = ("homes", "snapshot", "recall", "reset", "lost", "diff", "export", "import")

# The town that the document is about, on the private machine of the demo; a `reboot` that does what a boot does.
_INSIDE = """
import os, sys
from pathlib import Path
from demo import loopback, private
from demo.story import CHECKOUT
from tests.story import debugged

def story():
    for name in ("/josh", "/images", "/backup"):
        Path(name).mkdir()
    with open("/images/disk", "wb") as disk:
        disk.truncate(1 << 30)
    with loopback.attached(Path("/images/disk")) as device:
        return debugged.play(CHECKOUT, device, sys.stdin.read())

sys.exit(private.run(story, CHECKOUT))
"""


@pytest.mark.root
def test_every_session_of_the_document_says_what_is_shown() -> None:
    done = _played(DOCUMENT.read_text())
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-6000:]
    assert done.stdout.endswith(f"{len(sessions.typed(DOCUMENT.read_text()))} commands\n")


def _played(document: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _INSIDE], cwd=CHECKOUT, input=document, capture_output=True, text=True, check=False
    )


# A town that something else laid out: its data lies in a plain directory, which no quota counts.
_PLAIN = """```console
# sed -i 's/^uid = 1100$/&\\nquota = "64M"/' /etc/nuketown/town.toml
# persist release ada; btrfs --quiet subvolume delete /persist/agents/ada; mkdir -m 0711 /persist/agents/ada
…
# install -d -o 1100 -g 1100 -m 0700 /persist/agents/ada/projects; persist restore ada
…
ada$ head -c 10M /dev/urandom > projects/kept; ln -s kept projects/link; sha256sum projects/kept > sum
# sync; persist status ada
…
  note:  what it persists does not count for its quota: it lies in a plain directory, not in a subvolume
…
# {commands}
…
# sync; persist status ada
…
  quota    10.… MB of 64M (67.1 MB)
…
# persist status ada | grep "plain directory" || true
ada$ sha256sum --check sum && readlink projects/link
projects/kept: OK
kept
# ls /persist/agents; btrfs subvolume show /persist/agents/ada | head -1; persist account
ada
@persist/agents/ada
ada  open
…
```
"""


@pytest.mark.root
def test_a_plain_directory_becomes_a_subvolume_that_counts_by_the_commands_of_the_document() -> None:
    text = (CHECKOUT / "docs/formats/disk.md").read_text().partition("It becomes a subvolume")[2]
    commands = [line.strip() for line in text.partition("\n## ")[0].splitlines() if line.startswith("    ")]
    assert len(commands) == 4
    done = _played(_PLAIN.format(commands="set -ex; " + "; ".join(commands)))
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-6000:]


def test_the_document_has_a_session_of_each_command() -> None:
    typed = [one.command for one in sessions.typed(DOCUMENT.read_text())]
    for verb in VERBS:
        assert any(command.startswith(f"persist {verb} ") for command in typed), verb
    for option in (
        "recall ada@before --to ",
        " --replace",
        " --end",
        "lost ada --last",
        "lost ada --since ",
        " --tree",
    ):
        assert any(option in command for command in typed), option


def _play(document: str, *said: str) -> list[str]:
    ran: list[str] = []
    texts = iter(said)

    def run(_who: str, command: str) -> tuple[int, str]:
        ran.append(command)
        return 0, next(texts)

    sessions.play(sessions.typed(document), run)
    return ran


@pytest.mark.parametrize(
    ("shown", "said"),
    [
        ("one", "two"),
        ("one", "one\ntwo"),
        ("one\ntwo", "one"),
        ("one …", "on e"),
        ("one", "prefix one"),
        ("ada@20261122T031500Z\nada@20261122T031500Z", "ada@20261122T031501Z\nada@20261122T031502Z"),
        ("persist: error: x", "persist: error: x"),  # and it ended well
    ],
)
def test_what_is_not_as_shown_is_told(shown: str, said: str) -> None:
    with pytest.raises(Differs):
        _play(f"```console\n# do\n{shown}\n```\n", said)


def test_a_time_of_the_document_stands_for_the_one_that_was_said() -> None:
    document = "```console\n# one\nada@20261122T031500Z  … kept\n```\n```console\n# two 20261122T031500Z\n…\n```\n"
    ran = _play(document, "ada@20270101T000000Z 5 kept\n", "anything\nat all")
    assert ran == ["one", "two 20270101T000000Z"]


def test_a_command_goes_on_after_a_backslash_and_agents_type_too() -> None:
    found = sessions.typed("```console\nada$ a \\\n  b\nsays\n# c\n```\ntext\n```sh\n# no\n```\n")
    assert found == [Typed("ada", "a   b", ["says"]), Typed("", "c", [])]
