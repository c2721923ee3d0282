"""Every Nix file parses and is laid out one way: two spaces, no tab, no `with lib;` over a whole file, short files."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from town import process

CHECKOUT = Path(__file__).parent.parent.parent
FILES = sorted(
    path
    for top in ("flake.nix", "nix", "tests")
    for path in ([CHECKOUT / top] if top.endswith(".nix") else CHECKOUT.glob(f"{top}/**/*.nix"))
)
_LONGEST, _MOST_LINES, _ON_ONE_LINE = 120, 200, 3

# How text ends, and what in it does not end it.
_INSIDE = {'"': re.compile(r"""\\.|"|\$\{""", re.DOTALL), "''": re.compile(r"""''[$']|''\\.|''|\$\$|\$\{""", re.DOTALL)}
_OUTSIDE = re.compile(r"""\#[^\n]*|/\*.*?\*/|"|''|\{|\}""", re.DOTALL)
_ARGUMENTS = re.compile(r"\{([^{}=;]*)\}\s*(?:@\s*\w+\s*)?:(?=\s)")


def wrong(text: str) -> Iterator[str]:
    """What of a file is not laid out as all others are; each with the number of its line."""
    if not text.endswith("\n") or text.endswith("\n\n"):
        yield "the file does not end with one line break"
    if len(text.splitlines()) > _MOST_LINES:
        yield f"the file has more than {_MOST_LINES} lines: one concern a file"
    code = _code(text)
    for number, (line, said) in enumerate(zip(text.splitlines(), code.splitlines(), strict=True), 1):
        yield from (f"{number}: {what}" for what in _wrong_in(line, said))
    for found in re.finditer(r"\bwith\s+(lib|pkgs)\s*;", code):
        if not _is_within(code, found.start()):
            yield f"{_line(code, found)}: with {found[1]}; for a whole file: name what is meant, or inherit (lib) …"
    for found in _ARGUMENTS.finditer(code):
        names = [name for name in found[1].split(",") if name.strip()]
        if len(names) > _ON_ONE_LINE and "\n" not in found[1] and "..." not in found[1]:
            yield f"{_line(code, found)}: more than {_ON_ONE_LINE} arguments on one line: one a line"


def _code(text: str) -> str:
    """A file with each character of its comments and strings made NUL; what stands in ${} of a string is code."""
    kept, at, within = list(text), 0, [""]  # the innermost last: a string by its quotes, code by a brace
    while found := (_INSIDE.get(within[-1]) or _OUTSIDE).search(text, at):
        if within[-1] in _INSIDE:
            _blank(kept, at, found.end())
            if found[0] == within[-1]:
                within.pop()
            elif found[0] == "${":
                within.append("{")
        elif found[0] == "}":
            closed = within.pop()
            if within[-1] in _INSIDE:
                _blank(kept, found.start(), found.end())
            assert closed == "{"
        elif found[0] in ('"', "''", "{"):
            within.append(found[0])
            if found[0] != "{":
                _blank(kept, found.start(), found.end())
        else:
            _blank(kept, found.start(), found.end())
        at = found.end()
    return "".join(kept)


def _blank(kept: list[str], start: int, end: int) -> None:
    kept[start:end] = ("\n" if character == "\n" else "\0" for character in kept[start:end])


def _wrong_in(line: str, code: str) -> Iterator[str]:
    if "\t" in line:
        yield "a tab"
    if "\r" in line:
        yield "a carriage return"
    if line != line.rstrip():
        yield "blanks at the end"
    if len(line) > _LONGEST:
        yield f"longer than {_LONGEST} characters"
    # A line that begins inside of a string is indented as its text wants it.
    if code[:1] != "\0" and (len(code) - len(code.lstrip(" "))) % 2:
        yield "not indented by twos"
    if re.search(r"\( |\S \)|\[[^\s\]]|[^\s\[]\]| ;", code):
        yield "blanks: it is [ one two ], (one two), one;"


def _is_within(code: str, at: int) -> bool:
    """Whether a place lies inside of brackets, or after an `=`: not over a whole file."""
    before = code[:at]
    depth = sum(before.count(sign) for sign in "([{") - sum(before.count(sign) for sign in ")]}")
    return depth > 0 or before.rstrip().endswith("=")


def _line(code: str, found: "re.Match[str]") -> int:
    return code.count("\n", 0, found.start()) + 1


def test_there_are_nix_files_to_look_at() -> None:
    assert {"flake.nix", "module.nix", "options.nix", "lib.nix", "package.nix"} <= {path.name for path in FILES}


def test_every_nix_file_parses() -> None:
    argv = ["nix-instantiate", "--parse", "--store", "dummy://", *map(str, FILES)]
    done = process.run(argv, env={"HOME": "/nonexistent"}, check=False, most=64 << 20)
    assert done.status == 0, done.err.decode()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CHECKOUT)))
def test_the_nix_file_is_laid_out_as_all_are(path: Path) -> None:
    assert list(wrong(path.read_text())) == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{ }", "does not end with one line break"),
        ("{ }\n\n", "does not end with one line break"),
        ("{\n\ta = 1;\n}\n", "2: a tab"),
        ("{\n  a = 1; \n}\n", "2: blanks at the end"),
        ("{\n   a = 1;\n}\n", "2: not indented by twos"),
        ("{ lib }: with lib; { }\n", "1: with lib; for a whole file"),
        ("{ lib }:\nlet\n  a = 1;\nin\nwith lib;\n{ }\n", "5: with lib; for a whole file"),
        ("{ a, b, c, d }: { }\n", "1: more than 3 arguments on one line"),
        ("[1 2 ]\n", "1: blanks"),
        ("( 1)\n", "1: blanks"),
        (f"# {'x' * 120}\n", "1: longer than 120 characters"),
        ("{ }\n" + "#\n" * 200, "more than 200 lines"),
    ],
)
def test_the_checker_finds_what_is_laid_out_otherwise(text: str, says: str) -> None:
    assert any(says in found for found in wrong(text))


@pytest.mark.parametrize(
    "text",
    [
        "{\n  a = ''\n     text of its own\n    [x] ( y )\n  '';\n}\n",
        '{\n  a = "with lib; ( [x]";\n}\n',
        "{\n  a = \"${f \"( [x]\"}; [y]\" + ''\n   ( ''${b} ''';\n    ${f [ \"[\" ]}\n  '';\n}\n",
        "{ pkgs }:\n{\n  a = with pkgs; [ git ];\n}\n",
        "{\n  a,\n  b,\n  c,\n  d,\n}:\n{ }\n",
        "# with lib;\n{ }\n",
        "{ config, lib, pkgs, ... }:\n{ }\n",
    ],
)
def test_the_checker_leaves_text_and_short_lists_alone(text: str) -> None:
    assert list(wrong(text)) == []
