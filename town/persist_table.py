"""What an agent declares: [agents.NAME] persist, and where each path is kept."""

import os
from pathlib import PurePosixPath
from typing import NamedTuple, cast

from town import grammar, presets
from town.grammar import PATH_MAX, Wrong, quoted
from town.spec import Class, Persist, Town, Type, Via
from town.table import Noted, Place, Table, attempt, flag, indexed, kind, one_of, text

VIAS = ("bind", "store", "both")
CLASSES = ("data", "cache", "credential")
TYPES = ("directory", "file")
# Private keys that `identity install` puts into each home from the secrets file, gpg's where gpg-agent keeps them. They
# never go to the store, also where a declared directory holds them; everything below one is meant too.
KEYS = tuple(map(PurePosixPath, (".ssh/id_ed25519", ".gnupg/private-keys-v1.d")))
# What nuketown writes into each home by itself.
OWNED = (*map(PurePosixPath, (".nuketown", ".config/nuketown", ".ssh/id_ed25519.pub")), *KEYS)


class _Offer(NamedTuple):
    """What the town has for the data of one agent; `room`: the bytes that are left for a path in it."""

    store: bool
    binds: bool
    room: int

    @property
    def via(self) -> Via:
        """How a path is kept when the spec does not say."""
        return "store" if not self.binds else "both" if self.store else "bind"


def persist(value: object, place: Place, name: str, town: Town) -> tuple[Persist, ...]:
    """Every declared path, in the order of the file."""
    roots = [town.agents_dir, *([town.persist_dir / "agents"] if town.persist_dir else [])]
    room = PATH_MAX - 1 - max(len(os.fsencode(root / name)) for root in roots) - 1
    # A store that is named and wrong is a problem already: that there is none would be a second one.
    store = town.store is not None or any(problem.where in ("town", "town.store") for problem in place.problems)
    offer = _Offer(store, town.persist_dir is not None, room)
    entries = indexed(lambda found, at: _entry(found, at, offer), '["projects"]')(value, place)
    _refuse_overlaps(entries, place)
    _refuse_twice(entries, place)
    return tuple(entry for _, entry in entries)


def _entry(value: object, place: Place, offer: _Offer) -> Persist:
    if isinstance(value, str):
        return Persist(_path(value, offer), _via(None, "data", offer, upload=False))
    if not isinstance(value, dict):
        raise Wrong(f"is {kind(value)}, neither a string nor a table", 'write "projects" or { path = "projects" }')
    before = len(place.problems)
    with Table(value, place) as table:
        path = table.need("path", text(lambda found: _path(found, offer), '"projects"'), None, _usual_path(value))
        class_ = cast(Class, table.take("class", text(one_of(CLASSES), '"cache"'), "data"))
        wanted = cast(Via | None, table.take("via", text(one_of(VIAS), '"both"'), None))
        preset = table.take("preset", text(_preset, '"claude-code"'), None)
        required = table.take("required", flag, True)
        upload = table.take("upload", flag, False)
        type_ = cast(Type, table.take("type", text(one_of(TYPES), '"file"'), "directory"))
    if type_ == "file" and preset is not None:
        place.key("preset").wrong("says what lies in a directory, and this is a file", "leave the preset out")
    if upload:
        attempt(lambda *_: _refuse_upload(class_, preset), None, place.key("upload"), None)
    via = attempt(
        lambda *_: _via(wanted, class_, offer, upload=upload), None, place.key("via") if wanted else place, None
    )
    if path is None or via is None or len(place.problems) > before:
        raise Noted
    return Persist(path, via, class_, preset, required, type_, upload)


def _refuse_upload(class_: Class, preset: str | None) -> None:
    """`upload` is of credentials: it says nothing where there are none."""
    if class_ == "cache":
        raise Wrong("is true for a cache, which never goes to the store", "leave upload out")
    if class_ == "data" and not (preset is not None and presets.preset(preset).credential):
        cure = 'leave it out: data goes to the store anyway; for a secret of its own write class = "credential" too'
        raise Wrong("is true where nothing is a credential", cure)


def _path(found: str, offer: _Offer) -> PurePosixPath:
    path = grammar.persist_path(found)
    if len(bytes(path)) > offer.room:
        raise Wrong(f"{quoted(found)} is too long", f"with the home before it a path has at most {PATH_MAX - 1} bytes")
    if owned := next((owned for owned in OWNED if path.is_relative_to(owned)), None):
        cure = "leave it out" if path == owned else f"keep data elsewhere than below {owned}"
        raise Wrong(f"{quoted(found)} is what nuketown writes anew at each boot", cure)
    return path


def _usual_path(entry: dict[str, object]) -> str:
    name = entry.get("preset")
    if isinstance(name, str) and name in presets.names():
        return f'write path = "{presets.preset(name).path}"'
    return 'write path = "projects"'


def _preset(found: str) -> str:
    return one_of(presets.names())(found)


def _via(wanted: Via | None, class_: Class, offer: _Offer, *, upload: bool) -> Via:
    """How a path is kept. Raises Wrong where the town does not have what that takes."""
    if upload and class_ != "cache" and (wanted == "bind" or not offer.store):
        lacking = 'via = "bind" never sends' if wanted == "bind" else "the town has none"
        raise Wrong(f"upload = true sends to the store, and {lacking}", "leave upload out")
    if class_ == "cache" or (class_ == "credential" and not upload):
        if wanted in ("store", "both"):
            never = "never goes" if class_ == "cache" else "never goes without upload = true"
            raise Wrong(f'"{wanted}" sends to the store, where the class {class_} {never}', "leave via out")
        if not offer.binds:
            cure = "leave the entry out, or give the town a persist_dir"
            raise Wrong(f"the class {class_} is kept on this machine, and the town has no persist_dir", cure)
        return "bind"
    via = wanted or offer.via
    if via != "bind" and not offer.store:
        cure = 'give town.store a URL such as "file:///var/lib/nuketown/store"'
        if offer.binds:
            raise Wrong(f'"{via}" needs a store, and the town has none', f'{cure}, or write via = "bind"')
        raise Wrong("nothing keeps it: the town has neither a persist_dir nor a store", f"{cure}, or a persist_dir")
    if via != "store" and not offer.binds:
        raise Wrong(
            f'"{via}" needs a persist_dir, and the town has none', 'write via = "store", or set town.persist_dir'
        )
    return via


def _refuse_overlaps(entries: tuple[tuple[int, Persist], ...], place: Place) -> None:
    """What is kept twice would be bound over itself. In the order of components a path comes before all below it."""
    found: dict[int, tuple[int, Persist]] = {}
    top: tuple[int, Persist] | None = None
    for index, entry in sorted(entries, key=lambda item: item[1].path.parts):
        if top is not None and entry.path.is_relative_to(top[1].path):
            found[index] = top
        else:
            top = index, entry
    for index, entry in entries:
        if index in found:
            above, holder = found[index]
            if holder.path == entry.path:
                place.item(index).wrong(f"is persist[{above}] again", "leave one of them out")
            else:
                what = f"lies inside persist[{above}], {quoted(str(holder.path))}"
                place.item(index).wrong(
                    what, "leave it out: what holds it is kept whole; or declare only parts of that"
                )


def _refuse_twice(entries: tuple[tuple[int, Persist], ...], place: Place) -> None:
    """A preset that sets variables can stand once: a variable has one value."""
    first: dict[str, int] = {}
    for index, entry in entries:
        if entry.preset is None or not presets.preset(entry.preset).env:
            continue
        if first.setdefault(entry.preset, index) != index:
            what = f"has the preset of persist[{first[entry.preset]}], which sets variables for one directory"
            place.item(index).key("preset").wrong(what, "leave the preset out here")
