"""A Debian with this checkout and a spec, for what the agent's logins and services see. Nothing rolls back here."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.boot import image, nspawn
from town import process

KEY, SPEC = "var/lib/nuketown/age.key", "etc/nuketown/town.toml"


@contextmanager
def furnished(debian: Path, place: Path, spec: str) -> Iterator[Path]:
    """Its tree; the machine's age key is the {recipient} of the spec."""
    with nspawn.overlay([debian], place / "overlay") as tree:
        image.install(tree)
        for made in (tree / "agents", tree / "persist", (tree / SPEC).parent, (tree / KEY).parent):
            made.mkdir(mode=0o755)
        process.run(["age-keygen", "-o", tree / KEY])
        recipient = process.run(["age-keygen", "-y", tree / KEY]).out.decode().strip()
        (tree / SPEC).write_text(spec.format(recipient=recipient))
        yield tree
