"""A corpus like what agents keep: 100,589 files, 16,700 directories, 901 MB; the same bytes for the same seed.

Source trees of small text in vocabularies of their own, packages that stand in several places (as in node_modules),
pictures and other bytes that do not compress, a few large files, some symlinks. `count` scales all of it.
"""

import os
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

FULL = 100_589
_DIRECTORIES = 16_700 / FULL
_BYTES = 901_000_000 / FULL
_LARGEST = 48 << 20
_COPIED = 0.35  # of the files of packages: how many belong to a package that stands elsewhere too
Kind = Literal["source", "modules", "notes", "media"]
_SHARES: dict[Kind, float] = {"source": 0.60, "modules": 0.33, "notes": 0.04, "media": 0.03}
_LARGE = 0.0005  # of all files
_LINKS = 0.004
_WORDS = (
    "return self import value for path error state def class if not None else from in is and or with as try raise "
    "assert yield lambda pass True False const let function await async new this string number type interface export "
    "default null undefined map filter length push index item key data result options config name id list dict int "
    "str bytes open read write close file line text test expect describe it should call args print format join"
)
_NAMES = (
    "acc agent back base block buff cache chain check chunk client code conf core count cur data date deep desc dir "
    "disk doc edge emit end env event file filter find fix flag flow frame get group handle hash head hook host http "
    "info init input inner item job json key kind label last layer left line link list load lock log loop main make "
    "map mark match merge mesh meta mode model mount move name net next node note num obj off open out pack page pair "
    "parse part pass path peer pipe plan point pool port post prev proc prop proxy pull push query queue range rank "
    "rate raw read real rec ref reg rel req res ret role root route row run safe save scan score seed seg self send "
    "set shape shard side sign size slot sock sort source spec split stack stage start stat step store stream sub sum "
    "sync table tag tail task temp test text tick time token tool top trace track tree trim turn type unit up url use "
    "user util val var view wait walk warn watch web width win word work wrap write zone"
)
_PARTS = tuple(_NAMES.split())
_SYMBOLS = (
    "(",
    ")",
    "=",
    ".",
    ",",
    ":",
    "\n",
    "\n    ",
    "\n        ",
    "{",
    "}",
    "[",
    "]",
    '"',
    "->",
    "==",
    "+",
    "\n\n",
)


@dataclass(frozen=True, slots=True)
class Made:
    """What a corpus holds: files (symlinks among them), directories, apparent bytes."""

    files: int
    directories: int
    bytes: int


@dataclass(frozen=True, slots=True)
class _Project:
    """One directory below the top, made by one process from its own seed."""

    number: int
    kind: Kind
    files: int
    directories: int
    links: int
    seed: int

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.number:04d}"

    def random(self) -> random.Random:
        return random.Random(f"{self.seed} {self.number}")


def make(top: Path, count: int = FULL, *, seed: int = 1, owner: int = 0, processes: int = 2) -> Made:
    """Make `count` files below the directory `top`, all of `owner`; projects are spread over `processes`."""
    projects = list(_projects(count, seed))
    large = list(_large(count, seed, sum(size for project in projects for _, size in _sizes(project))))
    children = []
    for share in range(processes):
        if (child := os.fork()) == 0:
            _make_share(top, projects[share::processes], large[share::processes], owner, seed)
        children.append(child)
    statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    if any(statuses):
        raise OSError(f"a process that made the corpus ended with {max(statuses)}")
    return measured(top)


def measured(top: Path) -> Made:
    """What lies below `top`."""
    files = directories = size = 0
    for _, folders, names, fd in os.fwalk(top):
        files, directories = files + len(names), directories + len(folders)
        size += sum(os.stat(name, dir_fd=fd, follow_symlinks=False).st_size for name in names)
    return Made(files, directories, size)


def touch(top: Path, count: int, *, seed: int = 2) -> int:
    """Insert some lines into `count` text files, spread over the corpus; the bytes of those files."""
    dice, touched = random.Random(seed), 0
    found = sorted(os.path.join(folder, name) for folder, _, names in os.walk(top) for name in names if _is_text(name))
    text = _Text(dice)
    for path in dice.sample(found, min(count, len(found))):
        before = Path(path).read_bytes()[: 64 << 10]
        at = dice.randrange(len(before) + 1)
        after = before[:at] + text.bytes(dice, dice.randrange(20, 400)) + before[at:]
        Path(path).write_bytes(after)
        touched += len(after)
    return touched


def flat(top: Path, count: int) -> None:
    """`count` small files in one directory."""
    top.mkdir()
    with os.scandir(top):
        for number in range(count):
            fd = os.open(f"{top}/entry-{number:07d}.txt", os.O_CREAT | os.O_WRONLY, 0o644)
            os.write(fd, b"%d\n" % (number * 7919))
            os.close(fd)


def _projects(count: int, seed: int) -> Iterator[_Project]:
    dice = random.Random(f"{seed} projects")
    links, folders = round(count * _LINKS), round(count * _DIRECTORIES)
    total = count - links - max(1, round(count * _LARGE))
    made: dict[Kind, int] = dict.fromkeys(_SHARES, 0)
    number = files = made_folders = made_links = 0
    while files < total:
        kind = max(_SHARES, key=lambda each: _SHARES[each] * (files + 1) - made[each])
        size = min(total - files, max(20, int(dice.lognormvariate(5.7, 0.8))), 3000)
        files, made[kind] = files + size, made[kind] + size
        # What is due by now, so that the sums come out.
        here = max(1, round(folders * files / total) - made_folders)
        linked = round(links * files / total) - made_links
        yield _Project(number, kind, size, here, linked, seed)
        made_folders, made_links, number = made_folders + here, made_links + linked, number + 1


def _large(count: int, seed: int, smaller: int) -> Iterator[tuple[str, int]]:
    """The large files, (name, size): together they bring the corpus to its size."""
    dice, number = random.Random(f"{seed} large"), max(1, round(count * _LARGE))
    weights = [dice.lognormvariate(0, 0.9) for _ in range(number)]
    left = max(number * 4096, round(count * _BYTES) - smaller)
    for at, weight in enumerate(weights):
        yield f"large-{at:03d}.{'log' if at % 8 == 7 else 'bin'}", min(_LARGEST, int(left * weight / sum(weights)))


def _sizes(project: _Project) -> Iterator[tuple[str, int]]:
    """(extension, size) of each file of a project."""
    dice = project.random()
    if project.kind == "modules":
        left = project.files
        while left:
            for extension, size in _package_sizes(_package(dice, project), project.seed)[:left]:
                yield extension, size
                left -= 1
        return
    for _ in range(project.files):
        yield _size(dice, project.kind)


def _size(dice: random.Random, kind: Kind) -> tuple[str, int]:
    if kind == "media":
        return dice.choice(("png", "jpg", "woff2", "whl")), min(int(dice.lognormvariate(10.0, 1.1)), 2_000_000)
    if dice.random() < 0.01:
        return "pyc", min(int(dice.lognormvariate(9.0, 0.7)), 300_000)
    median = 7.78 if kind == "source" else 7.5
    return dice.choice(("py", "ts", "md", "json", "js")), min(int(dice.lognormvariate(median, 1.25)), 400_000)


def _package(dice: random.Random, project: _Project) -> int:
    """The number of a package: a common one that others have too, or one of this project alone."""
    if dice.random() < _COPIED * 1.5:  # the first place of a common one is no copy
        return int(dice.paretovariate(0.7)) % 400
    return 1_000_000 + project.number * 10_000 + dice.randrange(10_000)


def _package_sizes(number: int, seed: int) -> list[tuple[str, int]]:
    dice = random.Random(f"{seed} package {number}")
    return [_size(dice, "source") for _ in range(max(2, int(dice.lognormvariate(2.3, 0.7))))]


class _Text:
    """Text of one vocabulary: words of the language, names of the project, lines that come again."""

    def __init__(self, dice: random.Random) -> None:
        names = ["".join((dice.choice(_PARTS), dice.choice(("_", "")), dice.choice(_PARTS))) for _ in range(700)]
        self._tokens = [*_SYMBOLS, *_WORDS.split(), *_PARTS, *names]
        dice.shuffle(self._tokens)
        self._weights = self._zipf(len(self._tokens))
        self._lines = [self._fresh(dice, dice.randrange(30, 90)) + "\n" for _ in range(600)]

    @staticmethod
    def _zipf(count: int) -> list[float]:
        weights, total = [], 0.0
        for rank in range(count):
            total += 1 / (rank + 8)
            weights.append(total)
        return weights

    def bytes(self, dice: random.Random, size: int) -> bytes:
        """`size` bytes: a fresh line, then some that the project repeats."""
        parts: list[str] = []
        length = 0
        while length < size:
            parts.append(self._fresh(dice, 160) + "\n")
            parts += dice.choices(self._lines, k=3)
            length += sum(map(len, parts[-4:]))
        return "".join(parts).encode()[:size]

    def _fresh(self, dice: random.Random, size: int) -> str:
        return " ".join(dice.choices(self._tokens, cum_weights=self._weights, k=size // 6 + 1))


def _make_share(
    top: Path, projects: Sequence[_Project], large: Sequence[tuple[str, int]], owner: int, seed: int
) -> None:
    """One process's part; never returns."""
    status = 1
    try:
        os.umask(0o022)
        if os.geteuid() != owner:
            os.setgroups([])
            os.setgid(owner)
            os.setuid(owner)
        for project in projects:
            _make_project(top, project)
        for name, size in large:
            _write_large(f"{top}/{name}", size, random.Random(f"{seed} {name}"))
        status = 0
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
    finally:
        os._exit(status)


def _make_project(top: Path, project: _Project) -> None:
    dice = random.Random(f"{project.seed} {project.number} tree")
    folders = _folders(str(top / project.name), project.directories, dice)
    if project.kind == "modules":
        names = _make_modules(project, folders)
    else:
        text = _Text(dice)
        names = []
        for number, (extension, size) in enumerate(_sizes(project)):
            names.append(f"{folders[number % len(folders)]}/{dice.choice(_PARTS)}{number}.{extension}")
            _write(names[-1], text.bytes(dice, size) if _is_text(names[-1]) else dice.randbytes(size))
    for number in range(project.links):
        to = os.path.relpath(dice.choice(names), folders[number % len(folders)])
        os.symlink(to, f"{folders[number % len(folders)]}/link-{number}")


def _make_modules(project: _Project, folders: list[str]) -> list[str]:
    dice, place = project.random(), 0
    names: list[str] = []
    while len(names) < project.files:
        number = _package(dice, project)
        inner, text = random.Random(f"{project.seed} package {number} text"), _author(project.seed, number % 40)
        for at, (extension, size) in enumerate(_package_sizes(number, project.seed)[: project.files - len(names)]):
            data = text.bytes(inner, size) if _is_text(f".{extension}") else inner.randbytes(size)
            names.append(f"{folders[(place + at // 6) % len(folders)]}/p{number}-{len(names)}.{extension}")
            _write(names[-1], data)
        place += 1
    return names


@lru_cache(maxsize=64)
def _author(seed: int, number: int) -> _Text:
    """Who wrote a package: several packages share a vocabulary."""
    return _Text(random.Random(f"{seed} author {number}"))


def _folders(top: str, count: int, dice: random.Random) -> list[str]:
    folders = [top]
    for number in range(count - 1):
        folders.append(f"{dice.choice(folders[-12:])}/{dice.choice(_PARTS)}{number}")
    for folder in folders:
        os.mkdir(folder)
    return folders


def _write(path: str, data: bytes) -> None:
    fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o644)
    os.write(fd, data)
    os.close(fd)


def _write_large(path: str, size: int, dice: random.Random) -> None:
    text = _Text(dice)
    with open(path, "wb", buffering=0) as file:
        for at in range(0, size, 1 << 20):
            here = min(1 << 20, size - at)
            file.write(text.bytes(dice, here) if path.endswith(".log") else dice.randbytes(here))


def _is_text(name: str) -> bool:
    return name.endswith((".py", ".ts", ".md", ".json", ".js"))
