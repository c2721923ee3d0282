"""A town with a store whose key a human and this machine can open; its objects, and the power that goes at a call."""

import shutil
from pathlib import Path

import pytest

from persist.store.directory import DirectoryStore
from tests.machine.towns import Town


class Cut(BaseException):
    """The power went."""


def cut_at(monkeypatch: pytest.MonkeyPatch, where: object, name: str, number: int, *, after: bool) -> None:
    """Cut at the `number`th call of `where.name`, before or after it is done."""
    real, calls = getattr(where, name), [0]

    def call(*words: object, **more: object) -> object:
        calls[0] += 1
        if calls[0] == number and not after:
            raise Cut
        result = real(*words, **more)
        if calls[0] == number:
            raise Cut
        return result

    monkeypatch.setattr(where, name, call)


def objects(town: Town) -> dict[str, bytes]:
    """Everything in the town's store."""
    store = DirectoryStore(town.base / "store")
    return {found.key: store.get(found.key) for found in store.list("")}


def empty_store(town: Town) -> None:
    """All of it away; its directory stays, ours."""
    shutil.rmtree(town.base / "store")
    (town.base / "store").mkdir(mode=0o700)


def identity(base: Path, name: str) -> str:
    """An age key in `name.age`; its recipient, which also lies in `name`."""
    import pyrage

    made = pyrage.x25519.Identity.generate()
    (base / f"{name}.age").write_text(f"{made}\n")
    (base / f"{name}.age").chmod(0o400)
    (base / name).write_text(str(made.to_public()))
    return str(made.to_public())


def named(town: Town, name: str) -> str:
    """What lies in a file of the town's directory."""
    return (town.base / name).read_text()


def spec(
    town: Town, humans: tuple[str, ...] = ("person",), hosts: tuple[str, ...] = ("here",), key: str = "here"
) -> None:
    """Write the spec: recipients by the names of their identities, and which of them is this machine's own key."""
    people = ", ".join(f'"{named(town, one)}"' for one in humans)
    machines = ", ".join(f'{one} = "{named(town, one)}"' for one in hosts)
    town.write(
        '["projects"]',
        town=f'store = "file://{town.base}/store"\n'
        f"recipients = {{ humans = [{people}], hosts = {{ {machines} }} }}\n"
        f'host_key = {{ age = "{town.base}/{key}.age", ssh = "{town.base}/none" }}\n',
    )


@pytest.fixture
def town(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Town:
    """A town with a store: a human `person`, this machine `here`, both with keys below the town. No filesystem."""
    base = tmp_path / "town"
    (base / "persist").mkdir(parents=True)
    made = Town(base, "", capsys)
    identity(base, "person")
    identity(base, "here")
    spec(made)
    assert made.persist("init", "--store").status == 0
    return made
