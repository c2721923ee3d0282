"""The same values for other recipients: with the data key that was, or with a new one."""

import re
import secrets
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path as Folder
from typing import Any

from town.sops import editing, layout, metadata, nodes, sealing, sharing, writing
from town.sops.document import Document
from town.sops.errors import BadRecipient, BadSopsFile, Tampered
from town.sops.metadata import Metadata, Wrapped
from town.sops.nodes import Mapping, Node, Scalar
from town.sops.recipients import canonical
from town.sops.resealing import resealed
from town.sops.sharing import Sharing
from town.sops.values import KEY_BYTES, Sealer
from town.terminal import shown


def rewrap(
    document: Document,
    recipients: Sequence[str],
    *,
    now: datetime,
    fresh: bool,
    gnupg_home: Folder | None = None,
    groups: Sequence[Sequence[str]] | None = None,
    threshold: int | None = None,
) -> bytes:
    """The file for exactly these recipients, with the values, the rule and the comments that it has.

    Without `fresh` the data key stays: every value, `mac` and `lastmodified` stay byte for byte, and so do the
    entries of recipients who stay; the same recipients change nothing at all. With `fresh` a new data key is made and
    every value is encrypted anew: for whenever somebody leaves. Entries of key services can only be kept (named
    `kms:arn…`, as `recipients_of` names them). `groups` (of these same recipients) and `threshold` say who shares the
    key; without them a file of several groups keeps its groups less those who leave, and who joins needs `groups`.
    Public OpenPGP keys come from `gnupg_home`, else from the caller's keyring. `now` has a time zone. Raises
    BadRecipient, BadSopsFile.
    """
    form = layout.of(document.data, document.name)
    text, root = form.parse(document.data, document.name)
    about = metadata.read(root, document.name)
    wanted = _sharing(about, recipients, groups, threshold, fresh=fresh)
    if not fresh and _same(about, wanted):
        return document.data
    key = secrets.token_bytes(KEY_BYTES) if fresh else document.data_key
    kept = {} if fresh or len(about.groups) > 1 else _kept(text, root, about)
    parts = sharing.block(key, wanted, sealing.rfc3339(now), gnupg_home, kept)
    edits = [_block(text, root, parts)]
    if fresh:
        edits += resealed(text, root, about, Sealer(document.data_key), Sealer(key), document.name)
    try:
        return _proved(form.tidied(editing.applied(text, edits), document.name), document, key, now if fresh else None)
    except (BadSopsFile, Tampered) as error:
        raise BadSopsFile(
            f"{shown(document.name)} cannot be rewrapped as it is laid out: {error.what}",
            hint="its layout is unusual: run `sops edit` on it once, which writes it anew",
        ) from error


def _sharing(
    about: Metadata,
    recipients: Sequence[str],
    groups: Sequence[Sequence[str]] | None,
    threshold: int | None,
    *,
    fresh: bool,
) -> Sharing:
    services = frozenset(one.label for group in about.groups for one in group if one.kind not in ("age", "pgp"))
    kept = frozenset() if fresh or len(about.groups) > 1 or len(groups or ()) > 1 else services
    wanted = sharing.among([recipients], services=kept)
    if groups is not None:
        named = sharing.among(groups, _threshold(about, groups, threshold), services=kept)
        if set(named.recipients) != set(wanted.recipients):
            raise BadRecipient("the groups and the recipients are not the same people")
        return named
    return wanted if len(about.groups) == 1 else _shape(about, wanted.groups[0])


def _threshold(about: Metadata, groups: Sequence[Sequence[str]], threshold: int | None) -> int | None:
    """The one that is given, else that of the file where it has as many groups."""
    return about.threshold if threshold is None and len(groups) == len(about.groups) else threshold


def _shape(about: Metadata, wanted: Sequence[str]) -> Sharing:
    """The groups of the file, less who is not wanted any more."""
    groups = [[one for one in map(_named, group) if one in wanted] for group in about.groups]
    if strangers := [one for one in wanted if not any(one in group for group in groups)]:
        raise BadRecipient(
            f"{shown(strangers[0])} is in none of the {len(groups)} groups that share the data key of this file",
            hint="say which group it joins: groups=, or sops updatekeys with key_groups in .sops.yaml",
        )
    return sharing.among(groups, about.threshold)


def _named(one: Wrapped) -> str:
    try:
        return canonical(one.recipient) if one.kind in ("age", "pgp") else one.label
    except BadRecipient:
        return one.label  # a plugin's, say: it can only leave


def _same(about: Metadata, wanted: Sharing) -> bool:
    """Whether nothing is to be done. The order of recipients in a group says nothing, that of groups neither."""
    there = sorted(sorted(one.label for one in group) for group in about.groups)
    return there == sorted(map(sorted, wanted.groups)) and about.threshold == wanted.threshold


def _kept(text: str, root: Mapping, about: Metadata) -> dict[str, tuple[str, Any]]:
    """The entries of the file by recipient: kind, and what is to be written."""
    block = root.get("sops")
    assert isinstance(block, Mapping)
    found: dict[str, tuple[str, Any]] = {}
    for one, entry in _entries(block, about.groups[0]):
        found.setdefault(one.label, (one.kind, _again(entry, None if root.flow else text)))
    return found


def _entries(block: Mapping, wrapped: Sequence[Wrapped]) -> Iterator[tuple[Wrapped, Node]]:
    if several := block.get("key_groups"):  # a list of one group
        assert isinstance(several, nodes.Sequence)
        assert isinstance(several.items[0], Mapping)
        block = several.items[0]
    position = dict.fromkeys({one.kind for one in wrapped}, 0)
    for one in wrapped:
        entries = block.get(one.kind)
        assert isinstance(entries, nodes.Sequence)
        yield one, entries.items[position[one.kind]]
        position[one.kind] += 1


def _block(text: str, root: Mapping, parts: dict[str, Any]) -> editing.Edit:
    """The whole `sops:` entry, written again with other recipients."""
    name, block = next(entry for entry in root.items if entry[0].value == "sops")
    assert isinstance(block, Mapping)
    flow = root.flow or block.flow
    replaced = {*metadata.KINDS, *sharing.PARTS}
    rest = {
        str(key.value): _again(value, None if flow else text) for key, value in block.items if key.value not in replaced
    }
    new = dict(sorted((rest | parts).items()))
    if flow:
        return editing.Edit(block.start, block.end, "{" + writing.flow(new) + "}")
    start, end = editing.line_start(text, name.start), editing.end_of(text, name, block)
    return editing.Edit(
        start, end, writing.block({"sops": new}, root.start - editing.line_start(text, root.start)).removesuffix("\n")
    )


def _again(node: Node, text: str | None) -> Any:
    """A node as `writing` takes it, short values of `text` to the letter; it is read again as the same."""
    match node:
        case Mapping():
            return {str(key.value): _again(value, text) for key, value in node.items}
        case nodes.Sequence():
            return [_again(item, text) for item in node.items]
        case Scalar(value=None):
            return writing.Raw("null")
        case Scalar():
            written = "" if text is None or node.literal else text[node.start : node.end]
            return writing.Raw(written) if written and "\n" not in written else _anew(node.value)


def _anew(value: object) -> str:
    if not isinstance(value, str):
        return writing.Raw(str(value).lower())
    return (
        writing.Literal(value)
        if re.fullmatch(r"[!-~][ -~]*\n(?:[!-~][ -~]*\n|\n)*(?:[!-~][ -~]*\n?)", value)
        else value
    )


def _proved(text: str, document: Document, key: bytes, now: datetime | None) -> bytes:
    """The text, sealed anew at `now` if given; it holds what the document held, or BadSopsFile, Tampered is raised."""
    if now is not None:
        return sealing.finished(text, document.tree, Sealer(key), now=now, name=document.name)
    root = layout.root(text.encode(), document.name)
    if sealing.opened(root, metadata.read(root, document.name), Sealer(key), document.name) != document.tree:
        raise BadSopsFile(f"{shown(document.name)} would not hold what it should")
    return text.encode()
