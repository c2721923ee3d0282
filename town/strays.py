"""Where agents can leave things outside their homes: data (`strays.toml`), read as frozen values."""

from pathlib import Path
from typing import Literal, NamedTuple

By = Literal["owner", "name"]
Take = Literal["remove", "aside"]
FILE = Path(__file__).with_name("strays.toml")


class Place(NamedTuple):
    """A directory that users share; `name` is one word. What an agent's is, and what becomes of it: `strays.toml`."""

    path: Path
    name: str
    by: By = "owner"
    take: Take = "remove"


def places() -> tuple[Place, ...]:
    """Every place, in the order of the file."""
    import tomllib

    tables = tomllib.loads(FILE.read_text(encoding="utf-8"))["place"]
    return tuple(
        Place(Path(table["path"]), table["name"], table.get("by", "owner"), table.get("take", "remove"))
        for table in tables
    )
