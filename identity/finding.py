"""One thing that `identity check` has to say."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from town import cli
from town.failure import Failure
from town.terminal import say, shown

Level = Literal["error", "warning", "unchecked"]


class NotAsItShouldBe(Failure):
    """A finding of level error, as it is printed."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be: the file or the agent it is about, what, and the cure."""

    level: Level
    where: str
    what: str
    cure: str = ""

    def tell(self) -> None:
        """Print it on standard error, in the form that errors and warnings have everywhere."""
        line = self._line()
        match self.level:
            case "error":
                cli.tell("identity", NotAsItShouldBe(line, hint=self.cure))
            case "warning":
                cli.warn("identity", line, self.cure)
            case "unchecked":
                say(f"identity: unchecked: {line}")
                cli.advise("identity", self.cure)

    def _line(self) -> str:
        """Where and what; a failure names its file by itself, which is not said twice."""
        where = shown(self.where)
        folder, named, rest = self.what.partition(where)
        again = named and rest[:1] in (" ", ":") and (not folder or (folder.endswith("/") and " " not in folder))
        return f"{where}: {rest.lstrip(': ') if again else self.what}"


def caught(where: str, check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """The findings of a check; a failure that ends it is one of them, about `where`."""
    try:
        yield from check()
    except Failure as failure:
        yield Finding("error", where, failure.what, failure.hint)
