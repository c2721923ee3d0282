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
        line = f"{shown(self.where)}: {self.what}"
        match self.level:
            case "error":
                cli.tell("identity", NotAsItShouldBe(line, hint=self.cure))
            case "warning":
                cli.warn("identity", line, self.cure)
            case "unchecked":
                say(f"identity: unchecked: {line}")


def caught(where: str, check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """The findings of a check; a failure that ends it is one of them, about `where`."""
    try:
        yield from check()
    except Failure as failure:
        yield Finding("error", where, failure.what, failure.hint)
