"""What `identity install` put into a home and puts there again at the next boot: by its record, file by file.

STATE/installed/AGENT.json, docs/formats/identity.md. A file that the agent changed since comes back without the change.
Where nothing is recorded nothing comes back: what lies under the names of nuketown's files may be the agent's own.
"""

import hashlib
import json
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import PurePosixPath
from typing import Any

from persist import keybox, worth
from town import files, kernel
from town.failure import Failure
from town.spec import Agent, Spec

Known = Mapping[bytes, bool]
_VERSIONS = (1, 2, 3)
_LIMIT = 1 << 20  # bytes of the record, and of a file that is compared
_MOST = 1000  # files
_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY
_KEYBOX, _BACKUP = ".gnupg/pubring.kbx", ".gnupg/pubring.kbx~"
_TRUST, _SEED = ".gnupg/trustdb.gpg", ".gnupg/random_seed"
_SEED_SIZE = 600  # bytes, of any home's


def read(spec: Spec, agent: Agent, home: int) -> Known:
    """By path whether what lies there is what was installed. Raises nothing: what cannot be read is not known."""
    with suppress(Failure, ValueError, RecursionError):
        tree = json.loads(files.read_bounded(spec.state_dir / "installed" / f"{agent.name}.json", _LIMIT))
        known = {os.fsencode(path): _same(home, path, digest) for path, digest in list(_recorded(tree))[:_MOST]}
        return known | dict(_keyring(home, _keys(tree)))
    return {}


def written_over(spec: Spec, agent: Agent, home: int) -> list[bytes]:
    """Files of an open home that the next `identity install` writes anew, as they differ from its own. Raises nothing.

    What else it brought, and is the agent's to change, is none of them.
    """
    with suppress(Failure, ValueError, RecursionError):
        tree = json.loads(files.read_bounded(spec.state_dir / "installed" / f"{agent.name}.json", _LIMIT))
        found = list(_recorded(tree | {"brought": None} if isinstance(tree, dict) else None))[:_MOST]
        return [os.fsencode(path) for path, digest in found if _is_there(home, path) and not _same(home, path, digest)]
    return []


def _is_there(home: int, path: str) -> bool:
    flags, stay = os.O_PATH | os.O_NOFOLLOW, files.BENEATH | kernel.RESOLVE_NO_XDEV
    with suppress(OSError, ValueError), files.opened(kernel.openat2(home, path, flags, 0, stay)):
        return True
    return False


def lies_below(spec: Spec, agent: Agent, path: PurePosixPath) -> bool:
    """Whether `identity install` put something at a path of the home, or below it. Raises nothing.

    Where there is a record that cannot be read it may have.
    """
    record = spec.state_dir / "installed" / f"{agent.name}.json"
    try:
        tree = json.loads(files.read_bounded(record, _LIMIT))
    except (Failure, ValueError, RecursionError):
        return os.path.lexists(record)
    found = [PurePosixPath(one) for one, _ in _recorded(tree)]
    found += [PurePosixPath(_KEYBOX)] if _keys(tree) else []
    return any(one.is_relative_to(path) for one in found)


def comes_back(path: bytes, known: Known) -> bool:
    """Whether a file of that path is there again, as it is, after the boot."""
    return known.get(path, path in worth.REGENERATED)


def _recorded(tree: Any) -> Iterator[tuple[str, str]]:
    """Paths and digests: of what is held to the spec, and of what else was brought."""
    if not isinstance(tree, dict) or tree.get("version") not in _VERSIONS:
        return
    for part in (tree.get("files"), tree.get("brought")):
        if isinstance(part, dict):
            yield from ((path, digest) for path, digest in part.items() if isinstance(digest, str))


def _keys(tree: Any) -> list[str]:
    found = tree.get("keys") if isinstance(tree, dict) and tree.get("version") in _VERSIONS else None
    return [one for one in found if isinstance(one, str)] if isinstance(found, list) else []


def _keyring(home: int, keys: Collection[str]) -> Iterator[tuple[bytes, bool]]:
    """gpg's own files around the keys that were brought: as good as new while they hold no other.

    By what lies in them: gpg writes times into them whenever it is used.
    """
    if keys:
        own = {name: _holds_only(home, name, keys) for name in (_KEYBOX, _BACKUP)}
        own |= {_TRUST: own[_KEYBOX], _SEED: len(_held(home, _SEED) or b"") == _SEED_SIZE}
        yield from ((os.fsencode(name), back) for name, back in own.items())


def _holds_only(home: int, name: str, keys: Collection[str]) -> bool:
    with suppress(ValueError):
        return set(keybox.primaries(_held(home, name) or b"")) <= set(keys)
    return False


def _same(home: int, path: str, digest: str) -> bool:
    held = _held(home, path)
    return held is not None and hashlib.sha256(held).hexdigest() == digest


def _held(home: int, path: str) -> bytes | None:
    """A plain file of the home, read without leaving it; None for anything else, and for what is too large."""
    stay = files.BENEATH | kernel.RESOLVE_NO_XDEV
    with suppress(OSError, Failure, ValueError), files.opened(kernel.openat2(home, path, _FLAGS, 0, stay)) as fd:
        return files.read_fd(fd, _LIMIT, "")
    return None
