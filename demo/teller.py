"""How the story is told: the command that a person would type, how long it took, the facts that must hold."""

import os
import shlex
import sys
import time
from collections.abc import Mapping

from town import process
from town.failure import Failure
from town.process import Done, Person
from town.terminal import shown


class NotSo(Failure):
    """A fact of the story does not hold."""


class Teller:
    """Runs commands, prints them with their times, checks facts."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.facts = 0

    def chapter(self, title: str) -> None:
        """A heading."""
        print(f"\n== {title}", flush=True)

    def note(self, text: str) -> None:
        """A sentence between two commands."""
        print(f"   {text}", flush=True)

    def run(
        self,
        *argv: str,
        env: Mapping[str, str] | None = None,
        person: Person | None = None,
        cwd: str = "/",
        feed: bytes = b"",
        show: int = 0,
        typed: str = "",
        prompt: str = "#",
    ) -> Done:
        """Run one command to its end; it must end with status 0. `show` lines of its output are printed."""
        start = time.monotonic()
        done = process.run(argv, env=env, person=person, cwd=cwd, feed=feed, check=False)
        took = time.monotonic() - start
        print(f"{prompt} {typed or shlex.join(argv):<86} {took:6.2f} s", flush=True)
        _show(done.out, show)
        if done.status != 0:
            _show(done.out + done.err, 200)
            raise NotSo(f"`{typed or shlex.join(argv)}` ended with status {done.status}")
        return done

    def fact(self, sentence: str, holds: object, detail: str = "") -> None:
        """State a fact; the story stops at the first one that is not so."""
        if not holds:
            raise NotSo(f"not so: {sentence}" + (f" ({detail})" if detail else ""))
        self.facts += 1
        print(f"   ok: {sentence}", flush=True)

    def same(self, sentence: str, before: Mapping[str, object], after: Mapping[str, object]) -> None:
        """State that two manifests are equal, and name the first difference when they are not."""
        different = sorted(path for path in {*before, *after} if before.get(path) != after.get(path))
        detail = ""
        if different:
            path = different[0]
            detail = f"{len(different)} differ, first {shown(path)}: {before.get(path)} -> {after.get(path)}"
        self.fact(f"{sentence} ({len(before)} entries)", before and not different, detail)

    def end(self) -> None:
        """The last line."""
        print(f"\n{self.facts} facts hold. The story took {time.monotonic() - self.began:.1f} s.", flush=True)


def _show(output: bytes, lines: int) -> None:
    for line in output.splitlines()[:lines]:
        print(f"  | {shown(line)}", flush=True)


def as_agent(name: str, home: str) -> dict[str, str]:
    """The environment of an agent's login."""
    return {"HOME": home, "USER": name, "LOGNAME": name, "PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}


def fail(message: str) -> int:
    """Say why the demo cannot go on, as the commands do."""
    print(f"demo: error: {message}", file=sys.stderr, flush=True)
    return os.EX_NOPERM
