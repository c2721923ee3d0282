"""`identity documents`: the documents of homes alone, for whoever puts them there by another hand, such as a build.

No private key is needed and none is read: documents are a function of the spec and of the lock's public halves.
"""

import argparse
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from identity import places
from identity.documents import documents
from identity.found import read_lock
from identity.halves import Halves
from identity.lock import Entry
from town import cli, files, settings, trust
from town import spec as specs
from town.failure import DONE, Failure
from town.spec import Agent, Spec
from town.terminal import shown


class NoKeys(Failure):
    """The lock does not name the keys that the documents speak of."""


class NotEmpty(Failure):
    """Something is there already that nobody said may be written over."""


def command(arguments: argparse.Namespace) -> int:
    """`identity documents --to DIR [AGENT…]`."""
    spec = specs.load(cli.spec_file(arguments))
    trust.refuse_as_root(spec)
    agents = tuple(dict.fromkeys(map(spec.agent, arguments.agents))) or spec.agents
    where = places.places(spec, None if arguments.out is None else Path(arguments.out))
    lock = read_lock(where)
    # All texts are made before the first is written: a spec that cannot be rendered leaves nothing behind.
    made = {agent: tuple(rendered(spec, agent, lock.get(agent.name))) for agent in agents}
    for agent, texts in made.items():
        _write(Path(arguments.to), agent, texts)
    for doubt in settings.doubts(agents):
        cli.warn("identity", f"{shown(str(spec.file))}: {doubt}", doubt.cure)
    return DONE


def rendered(spec: Spec, agent: Agent, entry: Entry | None) -> Iterator[tuple[PurePosixPath, bytes]]:
    """Each document by its path in the home. Raises NoKeys, BadText."""
    for document in documents(spec, agent, _halves(agent, entry)):
        yield from ((home, document.text.encode()) for home in document.homes)


def _halves(agent: Agent, entry: Entry | None) -> Halves:
    """The keys in use; none in the place of a revoked one. An agent that is still to get a key has no documents."""
    found = Halves(None) if entry is None else entry.halves
    no_ssh = found.ssh is None and not (entry and entry.ssh_revoked)
    no_gpg = agent.secrets.gpg_key is not None and found.gpg is None and not (entry and entry.gpg_revoked)
    if no_ssh or no_gpg:
        kind = "SSH" if no_ssh else "OpenPGP"
        raise NoKeys(
            f"{places.LOCK} names no {kind} key of {agent.name}, and its documents speak of that key",
            hint=f"make it, and commit what that writes: identity gen {agent.name}",
        )
    return found


def _write(to: Path, agent: Agent, texts: tuple[tuple[PurePosixPath, bytes], ...]) -> None:
    owner = (os.geteuid(), os.getegid())
    try:
        to.mkdir(parents=True, exist_ok=True)
        (to / agent.name).mkdir(mode=0o755)
        with files.opened(files.open_dir(to / agent.name)) as top:
            for path, data in texts:
                with files.opened(files.make_dirs(top, path.parent, mode=0o755, owner=owner)) as parent:
                    files.write_beneath(parent, path.name, data)
                print(shown(f"{agent.name}/{path}"))
    except FileExistsError as error:
        raise NotEmpty(
            f"{shown(error.filename)} is there already, and documents are written into a new directory only",
            hint="name another with --to, or remove that one",
        ) from error
    except OSError as error:
        raise files.Unwritable(f"{shown(str(to / agent.name))} cannot be written: {error.strerror}") from error
