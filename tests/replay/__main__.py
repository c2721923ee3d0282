"""Make the image of one crash again: python -m tests.replay BASE LOG STATE IMAGE, as a failing test prints it."""

import sys
from pathlib import Path

from tests.replay import image, log, states


def main() -> None:
    """Write the base with the state's writes to IMAGE, under a filesystem UUID of its own."""
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    base, recorded, state, target = sys.argv[1:]
    image.build(image.load(Path(base)), states.writes(log.read(Path(recorded)), states.parse(state)), Path(target))


if __name__ == "__main__":
    main()
