"""Real boots with an initramfs of initramfs-tools: three, the power failing in the middle of the hook in the second."""

from pathlib import Path

import pytest

from tests.boot import flavours, guest, story

pytestmark = [pytest.mark.root, pytest.mark.timeout(1800)]


@pytest.mark.parametrize(("crypt", "cut"), flavours.cases("initramfs-tools"))
def test_what_an_agent_left_is_set_aside_once_whatever_the_power_does(
    crypt: guest.Crypt, cut: tuple[str, str], tmp_path: Path, debian: Path
) -> None:
    story.three_boots(story.Flavour("initramfs-tools", crypt, tmp_path), cut)
