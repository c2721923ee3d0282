"""The figures that the store has to reach, each with what was measured: met, or missed and told why."""

import os
import pstats
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path

from bench.clock import Took
from bench.counter import Traffic

PROFILE = "PROFILE" in os.environ
_LINES = 14


@dataclass(frozen=True, slots=True)
class Figure:
    """One number that may be at most so large; `value` is None where there was nothing to compare with."""

    row: str
    what: str
    value: float | None
    most: float
    goal: float | None = None

    @property
    def missed(self) -> bool:
        """Whether it was measured and is too large."""
        return self.value is not None and self.value > self.most

    def __str__(self) -> str:
        goal = f" (goal {self.goal:g})" if self.goal is not None else ""
        if self.value is None:
            return f"{self.row:<26}{self.what:<44}{'-':>9}  at most {self.most:g}{goal}: not measured"
        verdict = "MISSED" if self.missed else "met"
        return f"{self.row:<26}{self.what:<44}{self.value:9.3g}  at most {self.most:g}{goal}: {verdict}"


@dataclass(slots=True)
class Report:
    """Rows as they come, figures for the end."""

    figures: list[Figure] = field(default_factory=list)
    _again: dict[str, Callable[[], str]] = field(default_factory=dict)

    def row(self, name: str, who: str, took: Took, traffic: Traffic | None = None, note: str = "") -> None:
        """Print one measured run."""
        print(f"{name:<26}{who:<18}{took}  {traffic or ''} {note}".rstrip(), flush=True)

    def figure(self, row: str, what: str, value: float | None, most: float, goal: float | None = None) -> None:
        """Note one figure."""
        self.figures.append(Figure(row, what, value, most, goal))

    def repeatable(self, row: str, profile: Callable[[], str]) -> None:
        """How to run a row once more under the profiler, should it miss."""
        self._again[row] = profile

    def profile_missed(self, row: str) -> None:
        """Print where the time of a row went when one of its figures missed (or with PROFILE set)."""
        if row in self._again and (PROFILE or any(figure.missed for figure in self.figures if figure.row == row)):
            print(f"\nwhere `{row}` spends its time (the main thread of one more run, by cProfile)")
            print(self._again[row](), flush=True)

    def end(self) -> None:
        """Print all figures."""
        print("\nfigures")
        for figure in self.figures:
            print(figure)
        missed = sum(figure.missed for figure in self.figures)
        print(f"{len(self.figures)} figures, {missed} missed", flush=True)


def profiled(argv: Sequence[str], env: dict[str, str] | None = None) -> str:
    """Run `persist …` once under cProfile; the functions that took the most time of their own."""
    out = Path("/town/profile")
    program = [sys.executable, "-m", "cProfile", "-o", str(out), "-m", "persist.cli", *argv[1:]]
    done = subprocess.run(program, env=env, cwd=Path(__file__).parent.parent, capture_output=True, check=False)
    if done.returncode:
        return f"    the profiled run failed: {done.stderr[-300:].decode(errors='replace')}"
    said = StringIO()
    pstats.Stats(str(out), stream=said).strip_dirs().sort_stats("tottime").print_stats(_LINES)
    lines = [line for line in said.getvalue().splitlines() if line.strip()]
    return "\n".join(f"    {line}" for line in lines[1:])
