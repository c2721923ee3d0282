"""The full numbers: every test with ten times the samples, then the benchmarks; the result goes to docs/proof.md.

It takes more than an hour, so it goes by parts, each with the commit that it was run on: all of them, or those named as
arguments. A part that fails leaves the page as it was.
"""

import datetime
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
SCALE = os.environ.get("NUKETOWN_SCALE", "10")
SEED = os.environ.get("NUKETOWN_SEED", "4")
PAGE = CHECKOUT / "docs/proof.md"
HEAD = """# Proof

The last full run, by `make prove`; `make prove PARTS=boots` runs one part anew. `NUKETOWN_SCALE` multiplies the seeded
samples of every `make test`: property examples, kills of the hook, of a sync and of a tidy, crash states, scenarios,
interrupted demos, real boots. The kills at every single step run whole in both.
"""
PYTEST = ("-m", "pytest", "-q", "-n", "2", "--dist", "loadfile", "--no-loadscope-reorder", "-o", "timeout=2400")
PARTS = {
    "rollback": (
        "The rollback: scenarios, crash replay, kills",
        (*PYTEST, "-k", "rollback or tidy or ballast or full_boots or replay"),
    ),
    "boots": ("Real boots", (*PYTEST, "tests/boot")),
    "others": (
        "All other tests",
        (*PYTEST, "--ignore", "tests/boot", "-k", "not (rollback or tidy or ballast or full_boots or replay)"),
    ),
    "bench": ("Benchmarks (`make bench`)", ("-m", "bench")),
}


# What the benchmarks take whole: the corpus of the figures, a thousand syncs, and a million files on a real disk.
WHOLE = {"FILES": "100589", "SYNCS": "1000", "MILLION": "1", "IMAGES": "/var/tmp"}


def _run(words: tuple[str, ...]) -> list[str]:
    env = WHOLE | os.environ | {"NUKETOWN_SCALE": SCALE, "NUKETOWN_SEED": SEED}
    argv = [sys.executable, *words]
    with subprocess.Popen(argv, cwd=CHECKOUT, env=env, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        lines = []
        for line in running.stdout:
            print(line, end="", flush=True)
            lines.append(line.rstrip("\n"))
    if running.returncode:
        sys.exit(f"prove: error: {' '.join(argv)} failed; docs/proof.md is as it was")
    return lines


def _section(name: str) -> str:
    title, words = PARTS[name]
    lines = _run(words)
    if "pytest" in words:
        lines = [line for line in lines if re.search(r"\d passed|^SKIPPED|^counted:", line)]
    body = "\n".join(f"    {line}".rstrip() for line in lines)
    return f"## {title}\n{_when()}\n\n{body}\n"


def _when() -> str:
    commit = _git("describe", "--always")
    if _git("status", "--porcelain", "--", ".", ":!docs/proof.md"):  # the page itself changes from part to part
        commit += "-dirty"
    progs = subprocess.run(["btrfs", "--version"], capture_output=True, text=True, check=True).stdout.strip()
    return (
        f"{datetime.datetime.now(datetime.UTC).date()}, commit {commit or 'unknown'}, kernel "
        f"{platform.release().split('-')[0]}, {progs}, Python {platform.python_version()}, {os.cpu_count()} cores, "
        f"NUKETOWN_SCALE={SCALE} NUKETOWN_SEED={SEED}."
    )


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=CHECKOUT, capture_output=True, text=True, check=False).stdout.strip()


def _kept() -> dict[str, str]:
    """The sections of the page as it is, by part."""
    text = PAGE.read_text() if PAGE.exists() else ""
    found = {section.partition("\n")[0]: f"## {section.rstrip()}\n" for section in text.split("\n## ")[1:]}
    return {name: found[title] for name, (title, _) in PARTS.items() if title in found}


def main() -> None:
    """Run the parts; write each into the page when all of it held."""
    wanted = sys.argv[1:] or list(PARTS)
    if unknown := [name for name in wanted if name not in PARTS]:
        sys.exit(f"prove: error: no part is called {unknown[0]}; there are: {', '.join(PARTS)}")
    for name in wanted:
        sections = _kept() | {name: _section(name)}
        PAGE.write_text("\n".join([HEAD, *(sections[part] for part in PARTS if part in sections)]))


if __name__ == "__main__":
    main()
