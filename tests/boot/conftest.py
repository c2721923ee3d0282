"""What the boot tests share."""

from pathlib import Path

import pytest

from tests.boot import image, nspawn


@pytest.fixture(scope="session")
def debian() -> Path:
    """The tree that all boots start from; skipped, with the reason, only where its packages cannot be had."""
    try:
        return image.root()
    except image.Unavailable as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def installed(debian: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Layers for an overlay: this checkout with what it needs, over the Debian tree."""
    at = tmp_path_factory.mktemp("installed")
    with nspawn.overlay([debian], at) as tree:
        image.install(tree)
    return [at / "upper", debian]
