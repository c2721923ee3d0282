"""`persist init`: the filesystem and root's directories, or with --store the store. Once; again changes nothing."""

import argparse
from importlib import import_module

from persist import layout
from persist.ground import require_root
from town import cli, spec
from town.failure import DONE
from town.spec import Spec


def command(arguments: argparse.Namespace) -> int:
    """Prepare what the spec needs. Raises layout.NotAsItShouldBe when something else stands in its place."""
    town = spec.load(cli.spec_file(arguments))
    if arguments.store:
        require_root("init --store", "the store's key and the lock beside the spec are root's")
        status: int = import_module("persist.makestore").make(town, arguments.dry_run)
        return status
    require_root("init", "subvolumes and directories of root's are made")
    return prepare(town, dry_run=arguments.dry_run)


def prepare(town: Spec, *, dry_run: bool = False) -> int:
    """Make what is missing and say each thing on standard output; with `dry_run` only say it."""
    actions = layout.plan(town)
    for action in actions if dry_run else layout.apply(town, actions):
        print(action)
    if not actions:
        print("nothing to do: everything is there and as it should be")
    return DONE
