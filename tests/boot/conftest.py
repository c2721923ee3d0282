"""What the boot tests share."""

from pathlib import Path

import pytest

from tests.boot import image


@pytest.fixture(scope="session")
def debian() -> Path:
    """The tree that all boots start from; skipped, with the reason, only where its packages cannot be had."""
    try:
        return image.root()
    except image.Unavailable as error:
        pytest.skip(str(error))
