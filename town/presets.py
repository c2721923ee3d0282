"""What well-known programs keep where: data (`presets.toml`), read as frozen values."""

from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple

from town.failure import WrongUsage
from town.terminal import shown

Part = Literal["data", "cache", "credential", "regenerated"]


class Preset(NamedTuple):
    """A program's directory. Paths in it are relative to the directory; `path` is where it usually is in a home."""

    name: str
    path: PurePosixPath
    credential: tuple[PurePosixPath, ...] = ()
    cache: tuple[PurePosixPath, ...] = ()
    regenerated: tuple[PurePosixPath, ...] = ()
    env: tuple[tuple[str, str], ...] = ()  # (variable, value with {path} for the absolute directory)

    def part(self, path: PurePosixPath) -> Part:
        """What a path below the directory is; everything below a named one is the same."""
        chain = {path, *path.parents}
        if not chain.isdisjoint(self.credential):
            return "credential"
        if not chain.isdisjoint(self.regenerated):
            return "regenerated"
        return "data" if chain.isdisjoint(self.cache) else "cache"

    def environment(self, directory: Path) -> dict[str, str]:
        """The variables for the agent's logins and services, when `directory` is where it declared the preset."""
        return {name: value.replace("{path}", str(directory)) for name, value in self.env}


@cache
def names() -> tuple[str, ...]:
    """Every preset, in the order of the file."""
    return tuple(_all())


def preset(name: str) -> Preset:
    """The preset of that name. Raises WrongUsage that names the nearest one."""
    if name in _all():
        return _all()[name]
    from difflib import get_close_matches

    near = get_close_matches(name[:60], names(), n=1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(names())}"
    raise WrongUsage(f'there is no preset "{shown(name)}"', hint=hint)


@cache
def _all() -> dict[str, Preset]:
    import tomllib

    tree = tomllib.loads(Path(__file__).with_name("presets.toml").read_text(encoding="utf-8"))
    return {name: _preset(name, table) for name, table in tree.items()}


def _preset(name: str, table: dict[str, Any]) -> Preset:
    def paths(part: Part) -> tuple[PurePosixPath, ...]:
        return tuple(map(PurePosixPath, table.get(part, ())))

    env = tuple(table.get("env", {}).items())
    return Preset(name, PurePosixPath(table["path"]), paths("credential"), paths("cache"), paths("regenerated"), env)
