"""One entry of [agents.NAME] devices: a udev match that gives the agent access."""

import re

from town import grammar
from town.grammar import Wrong, line, matching, quoted
from town.spec import Device
from town.table import Place, Table, pairs, text

ACTIONS = ("add", "remove", "change", "move", "online", "offline", "bind", "unbind")  # udev(7), ACTION

_subsystem = matching(r"[A-Za-z0-9_-]{1,64}", "a subsystem", 'write it as in "usb" or "tty"')
_attribute = matching(
    r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,63}(/[A-Za-z0-9_][A-Za-z0-9_.:-]{0,63}){0,7}",
    "the name of an attribute",
    "write it as `udevadm info --attribute-walk` shows it, such as idVendor",
)


def device(value: object, place: Place) -> Device:
    """One rule; it must match something less than everything."""
    with Table(value, place, '{ subsystem = "usb", attrs = { product = "…" } }') as table:
        before = len(place.problems)
        example = '{ idVendor = "0483" }, values in quotes'
        attrs = table.need("attrs", pairs(_attribute, text(_match, '"0483"'), example), (), f"write attrs = {example}")
        if len(place.problems) == before and not any(_says_something(found) for _, found in attrs):
            cure = "name at least one attribute with a value, such as idVendor and idProduct"
            place.key("attrs").wrong("matches every device of the subsystem", cure)
        return Device(
            table.need("subsystem", text(_subsystem, '"usb"'), "", 'write subsystem = "usb" or "tty"'),
            attrs,
            table.take("action", text(_action, '"add|bind"'), "add|bind"),
            table.take("permission", text(_permission, '"rw"'), "rw"),
            table.take("group", text(grammar.unix_name, '"plugdev"'), "plugdev"),
        )


def _match(found: str) -> str:
    """A value as udev(7) matches it: a shell pattern, alternatives with `|`."""
    if set(line(found)) & set('"\\'):
        raise Wrong(f"{quoted(found)} holds a quote or a backslash", "write ? in its place: it matches any character")
    if not found:
        raise Wrong("is empty", "write the value that the device shows, or leave the attribute out")
    return found


def _says_something(found: str) -> bool:
    """Whether every alternative has a letter or digit outside of a pattern: `*`, `?*` and `[!x]*` say nothing."""
    return all(re.search(r"[^\W_]", re.sub(r"\[[^]]*\]?", "", one)) for one in found.split("|"))


def _action(found: str) -> str:
    words = line(found).split("|")
    if not set(words) <= set(ACTIONS) or len(set(words)) != len(words):
        raise Wrong(f"{quoted(found)} is no action of udev", f"join with |, each once: {', '.join(ACTIONS)}")
    return found


def _permission(found: str) -> str:
    if not found or not set(found) <= set("rwx") or len(set(found)) != len(found):
        raise Wrong(
            f"{quoted(found)} is no permission", 'write the letters r, w, x that are given, each once, as in "rw"'
        )
    return found
