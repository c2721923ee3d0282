"""Parsers of the command line: argparse, with errors that read like all others here, and at the cost of one verb."""

import argparse
from collections.abc import Callable
from typing import Any, NoReturn

from town import terminal
from town.failure import WrongUsage


class Parser(argparse.ArgumentParser):
    """argparse whose errors read like all others here and end with status 2."""

    def error(self, message: str) -> NoReturn:
        raise WrongUsage(terminal.shown(message), hint=f"{self.prog} --help shows what can be said")


class Help(argparse.HelpFormatter):
    """argparse's. By itself it asks a module that loads every compressor how wide the terminal is, 3 ms for nothing."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=terminal.columns() - 2)


class HelpAsItIs(Help, argparse.RawDescriptionHelpFormatter):
    """The same, with the lines of an example as they are."""


class Later(Parser):
    """The parser of a verb. What is said of it is taken down; it is made when something looks into it.

    Only the verb that was typed is: to make those of all takes 12 ms.
    """

    _mixing = False

    def __init__(self, **how: Any) -> None:
        self._how = how
        self._said: list[Callable[[], object]] = []

    def __getattr__(self, name: str) -> Any:  # for what is not there: it was not made yet
        if (said := self.__dict__.pop("_said", None)) is None:
            raise AttributeError(name)
        super().__init__(**self._how)
        for say in said:
            say()
        return getattr(self, name)

    def _say(self, say: Callable[[], object]) -> None:
        said: list[Callable[[], object]] | None = self.__dict__.get("_said")
        if said is None:
            say()
        else:
            said.append(say)

    def add_argument(self, *names: Any, **how: Any) -> Any:
        add = super().add_argument
        self._say(lambda: add(*names, **how))

    def set_defaults(self, **how: Any) -> None:
        put = super().set_defaults
        self._say(lambda: put(**how))

    def add_mutually_exclusive_group(self, **how: Any) -> Any:
        make, group = super().add_mutually_exclusive_group, _Group()
        self._say(lambda: group.onto(make(**how)))
        return group

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's, and a word behind an option still finds its place: `open --force ada`."""
        found, unknown = super().parse_known_args(args, namespace)
        if self._mixing or all(word.startswith("-") for word in unknown):
            return found, unknown
        self._mixing = True  # what follows comes here again, twice
        try:
            return super().parse_known_intermixed_args(args, namespace)
        finally:
            self._mixing = False


class _Group:
    """Arguments of which one at most may be given, taken down."""

    def __init__(self) -> None:
        self._arguments: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def add_argument(self, *names: Any, **how: Any) -> None:
        self._arguments.append((names, how))

    def onto(self, group: "argparse._MutuallyExclusiveGroup") -> None:
        for names, how in self._arguments:
            group.add_argument(*names, **how)
