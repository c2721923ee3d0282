"""The full numbers: every test with ten times the samples, then the benchmarks; the result goes to docs/proof.md."""

import datetime
import os
import platform
import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
SCALE = os.environ.get("NUKETOWN_SCALE", "10")
SEED = os.environ.get("NUKETOWN_SEED", "4")
PAGE = """# Proof

The last full run, by `make prove` on {date}: kernel {kernel}, {progs}, Python {python}, {cores} cores.

    NUKETOWN_SCALE={scale} NUKETOWN_SEED={seed}
{tests}

`NUKETOWN_SCALE` multiplies the seeded samples of every `make test`: property examples, kills of the hook and of a
sync, interrupted demos. The kills at every single step run whole in both.

## Benchmarks (`make bench`)
{bench}
"""


def _run(argv: list[str]) -> str:
    env = os.environ | {"NUKETOWN_SCALE": SCALE, "NUKETOWN_SEED": SEED}
    done = subprocess.run(argv, cwd=CHECKOUT, env=env, stdout=subprocess.PIPE, text=True, check=False)
    print(done.stdout, flush=True)
    if done.returncode:
        sys.exit(f"prove: error: {' '.join(argv)} failed; docs/proof.md is as it was")
    return done.stdout


def _indented(lines: list[str]) -> str:
    return "\n".join(f"    {line}" for line in lines)


def main() -> None:
    """Run everything; write the page only when all of it held."""
    pytest = [sys.executable, "-m", "pytest", "-q", "-n", "2", "--dist", "loadfile", "-o", "timeout=1200"]
    tests = _run(pytest).splitlines()
    bench = _run([sys.executable, "-m", "bench"]).splitlines()
    page = PAGE.format(
        date=datetime.datetime.now(datetime.UTC).date(),
        kernel=platform.release().split("-")[0],
        progs=subprocess.run(["btrfs", "--version"], capture_output=True, text=True, check=True).stdout.strip(),
        python=platform.python_version(),
        cores=os.cpu_count(),
        scale=SCALE,
        seed=SEED,
        tests=_indented([line for line in tests if " passed" in line or line.startswith("SKIPPED")]),
        bench=_indented(bench),
    )
    (CHECKOUT / "docs/proof.md").write_text(page)


if __name__ == "__main__":
    main()
