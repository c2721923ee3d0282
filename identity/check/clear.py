"""Secrets in clear: below the spec's directory in files that git would track, and in whatever is staged."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from identity.check import repository
from identity.check.forms import Forms, Hit
from identity.check.own import Own
from identity.check.tracked import ATTRIBUTE, Text, Tree
from identity.finding import Finding
from identity.lock import Lock
from identity.places import Places
from town import sops
from town.failure import Failure
from town.spec import Spec
from town.terminal import counted, shell_word, shown

_TOLD = 3  # hits of one file
_LISTED = 20  # files that are meant to be in clear


def findings(spec: Spec, where: Places, lock: Lock, values: Mapping[str, str]) -> Iterator[Finding]:
    """What lies in clear. `values` are secrets that a key at hand opened, by their paths: they are looked for too."""
    looked = _Looked(Forms(values), Own.of_town(lock, _recipients(spec, where)))
    folders, tops = _folders(spec, where), set[Path | None]()
    for folder in folders:
        top = repository.top(folder)
        beside = None if top in tops else [one for one in folders if one != folder]
        yield from _below(Tree(folder, _of_agents(spec), beside), looked, whole=len(folders) > 1)
        tops.add(top)


def _folders(spec: Spec, where: Places) -> list[Path]:
    """The directory of the spec and that of its files, the one inside the other only once."""
    found = {Path(os.path.abspath(folder)) for folder in (spec.file.parent, where.root)}
    return sorted(one for one in found if one.is_dir() and not found & set(one.parents))


def _of_agents(spec: Spec) -> list[Path]:
    return [one for one in (spec.town.agents_dir, spec.town.persist_dir) if one is not None]


def _recipients(spec: Spec, where: Places) -> Sequence[str]:
    if spec.town.recipients is not None:
        return spec.town.recipients.all
    try:
        return sops.creation_recipients(where.path(where.secrets), start=where.root) or ()
    except Failure:  # that is said of the file
        return ()


def _below(tree: Tree, looked: "_Looked", *, whole: bool) -> Iterator[Finding]:
    """What lies in clear in one tree; `whole`: of several, where a relative name would not say which file it is."""
    found, failure = list[_Found](), None
    try:
        found.extend(one for text in tree.texts() if (one := looked.at(text)).hits)
    except Failure as error:
        failure = error
    marked, meant = tree.meant(sorted({one.text.name for one in found})), list[bytes]()
    for one in found:
        name = one.text.name
        if name in marked and not one.own:
            meant.append(name)
            continue
        found_in = str(tree.path(name) if whole else os.fsdecode(name))
        cure = _cure(tree, one.text, excused=name not in marked)
        yield Finding("error", found_in, _what_own(one) if name in marked else _what(one.text, one.hits), cure)
    if failure is not None:
        yield Finding("error", str(tree.folder), failure.what, failure.hint)
    yield from _meant(tree, sorted(set(meant)))
    yield from _not_looked_at(tree)


@dataclass(frozen=True, slots=True)
class _Found:
    text: Text
    hits: list[Hit]
    own: list[str]  # that no mark excuses


@dataclass(frozen=True, slots=True)
class _Looked:
    """What is looked for."""

    forms: Forms
    own: Own

    def at(self, text: Text) -> _Found:
        """What is in a text; the text itself is not kept."""
        hits = list(islice(self.forms.hits(text.data), _TOLD + 1))
        own = [*self.forms.known(text.data), *self.own.held(text.data)] if hits else []
        return _Found(replace(text, data=b""), hits, own)


def _what_own(found: _Found) -> str:
    more = " and more" if len(found.own) > _TOLD else ""
    staged = "as it is staged for a commit, " if found.text.staged else ""
    told = ", ".join(found.own[:_TOLD])
    return f"{staged}holds {told}{more} in clear, which no mark in .gitattributes excuses"


def _meant(tree: Tree, names: list[bytes]) -> Iterator[Finding]:
    if names:
        told = ", ".join(shown(os.fsdecode(name)) for name in names[:_LISTED])
        more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
        what = f"what .gitattributes marks with {ATTRIBUTE} is meant to be in clear, and was not judged: {told}{more}"
        yield Finding("unchecked", str(tree.folder), what)


def _what(text: Text, hits: list[Hit]) -> str:
    told = ", ".join(f"line {hit.line} holds {hit.what}" for hit in hits[:_TOLD])
    more = " and there are more" if len(hits) > _TOLD else ""
    staged = "as it is staged for a commit, " if text.staged else ""
    return f"{staged}{told}{more} in clear"


def _cure(tree: Tree, text: Text, *, excused: bool) -> str:
    name = shell_word(text.name)
    away = f"git -C {shell_word(str(tree.folder))} rm -f --cached {name}" if text.staged else "move it out of the tree"
    known = f"{away}. If it was ever committed or pushed it is known: make a new one"
    return f"{known}. If it is meant to stand there, say so in {_mark(text.name)}" if excused else known


def _mark(name: bytes) -> str:
    """Where and how a file is marked; a directory's .gitattributes says nothing of what lies above it."""
    above, last = os.path.split(name) if name.startswith(b"../") else (b"", name)
    return f"{shown(os.fsdecode(os.path.join(above, b'.gitattributes')))}: {shell_word(last)} {ATTRIBUTE}"


def _not_looked_at(tree: Tree) -> Iterator[Finding]:
    folder = str(tree.folder)
    if tree.no_git:
        what = (
            f"which files git would track is not known: {tree.no_git}. Every file was looked at, ignored ones too, for "
            f"neither .gitignore nor .gitattributes was read{'' if tree.index else '; what is only staged was not'}"
        )
        yield Finding("unchecked", folder, what, tree.git_cure)
    if tree.left:
        what = f"at least {counted(tree.left, 'file')} could not be read, to look for secrets in clear"
        yield Finding("unchecked", folder, what)
    if tree.late:
        what = f"at least {counted(tree.late, 'file')} could not be looked at for secrets in clear: there is too much"
        yield Finding("warning", folder, what, "keep what git should not have out of the tree, or in .gitignore")
    for name in sorted(tree.large - tree.meant(sorted(tree.large)))[:_TOLD]:
        what = "is too large to be looked at whole for secrets in clear"
        yield Finding("warning", os.fsdecode(name), what, f"look at it, then say in {_mark(name)}")
