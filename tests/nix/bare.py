"""Expressions for the evaluator alone: no lib of nixpkgs, nothing fetched."""

import json
from pathlib import Path
from typing import Any

from tests.nix.evaluated import CHECKOUT, instantiate

LIB = CHECKOUT / "nix/lib.nix"
PLAIN = CHECKOUT / "tests/nix/plain.nix"
_HEAD = """
let
  nuketown = import {lib};
  plain = import {plain};
  given = {given};
in
{ask}
"""


def ask(expression: str, given: object = None, folder: Path | None = None) -> Any:
    """What an expression gives, over nuketown (nix/lib.nix), plain (plain.nix) and `given`, which needs a folder."""
    said = "null"
    if folder is not None:
        (folder / "given.json").write_text(json.dumps(given, ensure_ascii=False), encoding="utf-8")
        said = f"builtins.fromJSON (builtins.readFile {folder}/given.json)"
    done = instantiate(_HEAD.format(lib=LIB, plain=PLAIN, given=said, ask=expression), check=False)
    assert done.status == 0, done.err.decode()
    return json.loads(done.out)
