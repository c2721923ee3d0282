"""[town.recipients] in the text of a spec: one name put in or taken out, every other byte as its writer left it.

tomlkit says where a value stands; what is written is the text itself. What comes out is read again and held against
what was meant: a layout that this does not foresee is refused, never guessed at.
"""

import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from identity.lists import Span, Unforeseen, line_break, line_end, line_start, with_item, without_item
from town import sops
from town import spec as specs
from town.failure import BadSpec
from town.spec import Recipients, Spec
from town.terminal import toml_string

_WHERE = ("town", "recipients")
_STRING = r'"(?:\\.|[^"\\\n])*"|' + r"'[^'\n]*'"
_ITEM = re.compile(rf"(?P<string>{_STRING})|#[^\n]*")
_KEY = rf"[A-Za-z0-9_-]+|{_STRING}"
_PAIR = re.compile(rf"(?:{_KEY})[ \t]*=[ \t]*(?:{_STRING})")
_BARE = re.compile(r"[A-Za-z0-9_-]+")


def with_human(spec: Spec, text: str, recipient: str) -> str:
    """The text of a spec that names one human more. Raises Unforeseen."""
    named = _named(spec)
    with _foreseen():
        new = _humans(text, lambda inside, items: with_item(text, inside, items, toml_string(recipient)))
    return _proved(spec, new, named._replace(humans=(*named.humans, recipient)))


def with_host(spec: Spec, text: str, name: str, recipient: str) -> str:
    """The text of a spec that names one host more. Raises Unforeseen."""
    named = _named(spec)
    with _foreseen():
        new = _with_host(text, f"{_key(name)} = {toml_string(recipient)}", name)
    return _proved(spec, new, named._replace(hosts=(*named.hosts, (name, recipient))))


def without(spec: Spec, text: str, gone: str) -> str:
    """The text of a spec that does not name a recipient, given as sops.canonical does. Raises Unforeseen."""
    named, new = _named(spec), text
    with _foreseen():
        for index in reversed(range(len(named.humans))):
            if sops.canonical(named.humans[index]) == gone:
                new = _without_human(new, index)
        for name, one in named.hosts:
            if sops.canonical(one) == gone:
                new = _without_host(new, name)
    return _proved(spec, new, left(named, gone))


def left(named: Recipients, gone: str) -> Recipients:
    """Who is named when a recipient, in its canonical form, no longer is."""
    return Recipients(
        tuple(one for one in named.humans if sops.canonical(one) != gone),
        tuple((name, one) for name, one in named.hosts if sops.canonical(one) != gone),
    )


def lines(named: Recipients) -> str:
    """[town.recipients] as a person would write it."""
    humans = ", ".join(map(toml_string, named.humans))
    hosts = ", ".join(f"{_key(name)} = {toml_string(one)}" for name, one in named.hosts)
    return f"[town.recipients]\nhumans = [{humans}]\nhosts = {{{f' {hosts} ' if hosts else ''}}}"


@contextmanager
def _foreseen() -> Iterator[None]:
    """What tomlkit says of a layout that it or this module cannot change is Unforeseen."""
    from tomlkit.exceptions import TOMLKitError

    try:
        yield
    except (TOMLKitError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise Unforeseen from error


def _named(spec: Spec) -> Recipients:
    assert spec.town.recipients is not None
    return spec.town.recipients


def _proved(spec: Spec, new: str, wanted: Recipients) -> str:
    """The new text, if it says what is wanted and nothing else is different. Raises Unforeseen."""
    try:
        made = specs.parse(new.encode(), spec.file)
    except BadSpec as error:
        raise Unforeseen from error
    named = made.town.recipients
    expected = spec._replace(town=spec.town._replace(recipients=named))
    # The order of a table of hosts says nothing.
    if made != expected or named is None or (named.humans, dict(named.hosts)) != (wanted.humans, dict(wanted.hosts)):
        raise Unforeseen
    return new


def _place(text: str, *below: str) -> tuple[Span, Any]:
    """Where a value below [town.recipients] stands, and the value. Raises Unforeseen, KeyError.

    tomlkit keeps no positions: another value is put in its place, and what is different then is where it stood.
    """
    import tomlkit

    path, mark = (*_WHERE, *below), secrets.token_hex(16)
    document: Any = tomlkit.parse(text)
    holder = document
    for key in path[:-1]:
        holder = holder[key]
    value = holder[path[-1]]
    old = value.as_string()
    holder[path[-1]] = mark
    head, found, tail = tomlkit.dumps(document).partition(f'"{mark}"')
    if not found or head + old + tail != text:
        raise Unforeseen
    return Span(len(head), len(head) + len(old)), value


def _humans(text: str, change: Callable[[Span, list[Span]], str]) -> str:
    span, value = _place(text, "humans")
    inside = Span(span.start + 1, span.end - 1)
    items = [Span(*found.span()) for found in _ITEM.finditer(text, *inside) if found["string"]]
    if len(items) != len(value):
        raise Unforeseen
    return change(inside, items)


def _without_human(text: str, index: int) -> str:
    return _humans(text, lambda inside, items: without_item(text, inside, items, index))


def _with_host(text: str, entry: str, name: str) -> str:
    from tomlkit.items import InlineTable

    try:
        hosts = _value(text, "hosts")
    except KeyError:
        return _first_host(text, entry)
    if isinstance(hosts, InlineTable):
        span, _ = _place(text, "hosts")
        inside, items = _pairs(text, span, len(hosts))
        return with_item(text, inside, items, entry)
    if not hosts:
        return _under_header(text, entry)
    last = list(hosts)[-1]
    span, _ = _place(text, "hosts", last)
    begun = line_start(text, span.start)
    head = re.fullmatch(rf"(?P<head>[^#]*?)(?:{_spellings(last)})[ \t]*=[ \t]*", text[begun : span.start])
    if head is None or name in hosts:
        raise Unforeseen
    return _line_behind(text, span.end, head["head"] + entry)


def _first_host(text: str, entry: str) -> str:
    """A key `hosts` behind `humans`, written as that is."""
    from tomlkit.items import InlineTable

    span, _ = _place(text, "humans")
    if isinstance(_value(text), InlineTable):
        return f"{text[: span.end]}, hosts = {{ {entry} }}{text[span.end :]}"
    begun = line_start(text, span.start)
    head = re.fullmatch(rf"(?P<head>[^#]*?)(?:{_spellings('humans')})[ \t]*=[ \t]*", text[begun : span.start])
    if head is None:
        raise Unforeseen
    return _line_behind(text, span.end, f"{head['head']}hosts = {{ {entry} }}")


def _under_header(text: str, entry: str) -> str:
    """The first line of a table [town.recipients.hosts] that is empty."""
    found = re.search(r"^[ \t]*\[[ \t]*town[ \t]*\.[ \t]*recipients[ \t]*\.[ \t]*hosts[ \t]*\]", text, re.MULTILINE)
    if found is None:
        raise Unforeseen
    return _line_behind(text, found.end(), entry)


def _without_host(text: str, name: str) -> str:
    from tomlkit.items import InlineTable

    hosts = _value(text, "hosts")
    if isinstance(hosts, InlineTable):
        span, _ = _place(text, "hosts")
        inside, items = _pairs(text, span, len(hosts))
        return without_item(text, inside, items, list(hosts).index(name))
    span, _ = _place(text, "hosts", name)
    return text[: line_start(text, span.start)] + text[line_end(text, span.end) :]


def _pairs(text: str, span: Span, count: int) -> tuple[Span, list[Span]]:
    inside = Span(span.start + 1, span.end - 1)
    items = [Span(*found.span()) for found in _PAIR.finditer(text, *inside)]
    if len(items) != count:
        raise Unforeseen
    return inside, items


def _value(text: str, *below: str) -> Any:
    import tomlkit

    value: Any = tomlkit.parse(text)
    for key in (*_WHERE, *below):
        value = value[key]
    return value


def _line_behind(text: str, at: int, line: str) -> str:
    end, ending = line_end(text, at), line_break(text)
    begun = "" if text[:end].endswith("\n") else ending
    return f"{text[:end]}{begun}{line}{ending if not begun else ''}{text[end:]}"


def _spellings(key: str) -> str:
    """How a key may be written, as a regular expression."""
    return "|".join(map(re.escape, (key, f'"{key}"', f"'{key}'")))


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else toml_string(name)
