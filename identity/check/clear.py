"""Secrets in clear: anywhere below the spec's directory, in files that git would track and in what is staged."""

import os
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path

from identity.check.forms import Forms, Hit
from identity.check.tracked import ATTRIBUTE, Text, Tree
from identity.finding import Finding
from identity.places import Places
from town.spec import Spec
from town.terminal import counted, shell_word

_TOLD = 3  # hits of one file


def findings(spec: Spec, where: Places, values: Mapping[str, str]) -> Iterator[Finding]:
    """What lies in clear. `values` are secrets that a key at hand opened, by their paths: they are looked for too."""
    forms = Forms(values)
    for folder in _folders(spec, where):
        yield from _below(Tree(folder, _of_agents(spec)), forms)


def _folders(spec: Spec, where: Places) -> list[Path]:
    """The directory of the spec and that of its files, the one inside the other only once."""
    found = {Path(os.path.abspath(folder)) for folder in (spec.file.parent, where.root)}
    return sorted(one for one in found if one.is_dir() and not found & set(one.parents))


def _of_agents(spec: Spec) -> list[Path]:
    return [one for one in (spec.town.agents_dir, spec.town.persist_dir) if one is not None]


def _below(tree: Tree, forms: Forms) -> Iterator[Finding]:
    found = [(text, hits) for text in tree.texts() if (hits := list(islice(forms.hits(text.data), _TOLD + 1)))]
    meant = tree.meant(sorted({text.name for text, _ in found}))
    for text, hits in found:
        if text.name not in meant:
            yield _finding(tree, text, hits)
    yield from _not_looked_at(tree)


def _finding(tree: Tree, text: Text, hits: list[Hit]) -> Finding:
    told = ", ".join(f"line {hit.line} holds {hit.what}" for hit in hits[:_TOLD])
    more = " and there are more" if len(hits) > _TOLD else ""
    staged = "as it is staged for a commit, " if text.staged else ""
    return Finding("error", os.fsdecode(text.name), f"{staged}{told}{more} in clear", _cure(tree, text))


def _cure(tree: Tree, text: Text) -> str:
    name = shell_word(text.name)
    away = f"git -C {shell_word(str(tree.folder))} rm -f --cached {name}" if text.staged else "move it out of the tree"
    return (
        f"{away}. If it was ever committed or pushed it is known: make a new one. "
        f"If it is meant to stand there, say so in .gitattributes: {name} {ATTRIBUTE}"
    )


def _not_looked_at(tree: Tree) -> Iterator[Finding]:
    folder = str(tree.folder)
    if tree.no_git:
        yield Finding("unchecked", folder, f"which files git would track is not known: {tree.no_git}")
    if tree.left:
        what = f"at least {counted(tree.left, 'file')} could not be looked at for secrets in clear, or not in time"
        yield Finding("unchecked", folder, what)
    for name in sorted(tree.large)[:_TOLD]:
        yield Finding("unchecked", os.fsdecode(name), "is too large to be looked at whole for secrets in clear")
