"""One entry of [agents.NAME] devices: a udev match that gives the agent access."""

import re
import tomllib
from functools import cache
from pathlib import Path

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
        if len(place.problems) == before and not any(_tells_apart(*pair) for pair in attrs):
            cure = "name at least one attribute with a value of its own, such as idVendor and idProduct"
            place.key("attrs").wrong("matches every device of the subsystem, or nearly so", cure)
        return Device(
            table.need("subsystem", text(_subsystem, '"usb"'), "", 'write subsystem = "usb" or "tty"'),
            attrs,
            table.take("action", text(_action, '"add|bind"'), "add|bind"),
            table.take("permission", text(_permission, '"rw"'), "rw"),
            table.take("group", text(_group, '"plugdev"'), "plugdev"),
        )


def _match(found: str) -> str:
    """A value as udev(7) matches it: a shell pattern, alternatives with `|`."""
    if set(line(found)) & set('"\\'):
        raise Wrong(f"{quoted(found)} holds a quote or a backslash", "write ? in its place: it matches any character")
    if not found:
        raise Wrong("is empty", "write the value that the device shows, or leave the attribute out")
    return found


def _tells_apart(name: str, found: str) -> bool:
    """Whether this attribute with this value is one that most devices do not have."""
    common = _data()["common"]
    return name not in common and f"{name.partition('/')[0]}/" not in common and _says_something(found)


def _says_something(found: str) -> bool:
    """Whether every alternative has a letter or digit outside of a pattern: `*`, `?*` and `[!x]*` say nothing.

    One with a pattern in it has two, and does not begin with `*`: `0*|1*|2*|…` and `*0*` match nearly everything.
    """
    return all(_is_narrow(one) for one in found.split("|"))


def _is_narrow(alternative: str) -> bool:
    outside = re.findall(r"[^\W_]", re.sub(r"\[[^]]*\]?", "", alternative))
    is_pattern = set(alternative) & set("*?[")
    return len(outside) >= (2 if is_pattern else 1) and not alternative.startswith("*")


def _group(found: str) -> str:
    if grammar.unix_name(found) in _data()["groups"]:
        raise Wrong(f"the members of {quoted(found)} can become root", 'name a group for devices, such as "plugdev"')
    return found


@cache
def _data() -> dict[str, list[str]]:
    return tomllib.loads(Path(__file__).with_name("devices.toml").read_text(encoding="utf-8"))


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
