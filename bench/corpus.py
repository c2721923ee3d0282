"""A corpus like an agent's projects: many small text files, some large binary ones, the same for the same seed."""

import os
import random
from pathlib import Path

_WORDS = (
    "return",
    "self",
    "import",
    "value",
    "for",
    "path",
    "error",
    "state",
    "def",
    "class",
    "if",
    "not",
    "None",
    "=",
    "(",
    ")",
)


def make(top: Path, files: int, *, seed: int = 1) -> int:
    """Make `files` files in about a sixth as many directories below `top`; the bytes written."""
    dice = random.Random(seed)
    folders = [top]
    written = 0
    for number in range(files):
        if number % 6 == 0:
            folder = dice.choice(folders[-50:]) / f"d{number}"
            folder.mkdir(parents=True)
            folders.append(folder)
        data = _content(dice)
        (folders[-1] / f"f{number}.py").write_bytes(data)
        written += len(data)
    return written


def touch(top: Path, count: int, *, seed: int = 2) -> None:
    """Rewrite `count` of the files, spread over the corpus."""
    dice = random.Random(seed)
    found = sorted(Path(folder) / name for folder, _, names in os.walk(top) for name in names)
    for path in dice.sample(found, min(count, len(found))):
        path.write_bytes(_content(dice))


def _content(dice: random.Random) -> bytes:
    size = min(int(dice.lognormvariate(7.6, 1.4)), 4_000_000)  # median 2 kB, a long tail
    if dice.random() < 0.05:
        return dice.randbytes(size)
    return " ".join(dice.choices(_WORDS, k=size // 5 + 1)).encode()[:size]
