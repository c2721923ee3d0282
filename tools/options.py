"""docs/options.md, made of nix/options.nix: `NIXPKGS_LIB=DIR python tools/options.py` writes it anew.

NIXPKGS_LIB is a checkout of nix-community/nixpkgs.lib; nothing is built or fetched.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parent.parent
PAGE = CHECKOUT / "docs/options.md"
HEAD = """# The options of the NixOS module

Made of nix/options.nix by `tools/options.py`: change the descriptions there. How they are used: [nixos](nixos.md). What
the words mean: [spec](formats/spec.md), for most of them become keys of /etc/nuketown/town.toml.
"""


def options(lib: Path) -> list[dict[str, Any]]:
    """Every option with what is said of it: those of the town first, then those of an agent."""
    expression = f'import {CHECKOUT}/nix/options-doc.nix {{ lib = import "{lib}/lib"; }}'
    argv = ["nix-instantiate", "--eval", "--strict", "--json", "--store", "dummy://", "-E", expression]
    done = subprocess.run(argv, capture_output=True, check=False, env={**os.environ, "HOME": "/nonexistent"})
    if done.returncode:
        sys.exit(f"error: nix/options.nix was not evaluated:\n{done.stderr.decode(errors='replace')}")
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return sorted(found, key=lambda option: ("agents" in option["name"].split("."), option["name"]))


def page(lib: Path) -> str:
    """The whole page."""
    return "\n".join([HEAD, *(_paragraph(option) for option in options(lib))])


def _paragraph(option: dict[str, Any]) -> str:
    facts = [("type", option["type"]), ("default", option["default"]), ("example", option["example"])]
    said = "; ".join(f"{what}: {_code(found)}" for what, found in facts if found is not None)
    return f"### `{option['name']}`\n{' '.join(option['description'].split())}\\\n{said}\n"


def _code(text: str) -> str:
    """One line of code, whatever backticks it holds (CommonMark, 6.1)."""
    line = " ".join(text.split())
    return f"`` {line} ``" if "`" in line else f"`{line}`"


def main() -> None:
    """Write the page."""
    given = os.environ.get("NIXPKGS_LIB", "")
    if not given:
        sys.exit("error: NIXPKGS_LIB is not given\nhint: name a checkout of nix-community/nixpkgs.lib")
    PAGE.write_text(page(Path(given).resolve()), encoding="utf-8")


if __name__ == "__main__":
    main()
