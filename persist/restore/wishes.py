"""What the command line wants of a restore: which half of it, which state of the store, and how often to ask."""

import argparse
from dataclasses import dataclass
from typing import Literal

from town import cli
from town.failure import WrongUsage

# `local`: what needs no store and may mount; `fetch`: what only the store gives, and mounts nothing.
Half = Literal["both", "local", "fetch"]


@dataclass(frozen=True, slots=True)
class Wishes:
    """Of the store: which state (None: the newest), whose lease, how old, bytes a second.

    `credentials`: with `at`, also logins and tokens as they were then. `retry`: again, while time may cure it.
    """

    at: str | None = None
    take_over: bool = False
    at_least: int = 0
    rate: float | None = None
    credentials: bool = False
    half: Half = "both"
    retry: bool = False


def wanted(arguments: argparse.Namespace) -> Wishes:
    """What was asked for. Raises WrongUsage for what does not go together."""
    half: Half = "local" if arguments.local else "fetch" if arguments.fetch else "both"
    named = {
        "--at": arguments.at is not None,
        "--take-over": arguments.take_over,
        "--at-least": bool(arguments.at_least),
        "--with-credentials": arguments.with_credentials,
    }
    if half == "local" and (option := next((name for name, said in named.items() if said), "")):
        raise WrongUsage(f"{option} is about the store, which --local does not ask", hint="leave one of them out")
    if half == "fetch" and arguments.at is not None:
        raise WrongUsage(
            "--at changes what is mounted in the home, and --fetch mounts nothing", hint="leave --fetch out"
        )
    if arguments.retry and half != "fetch":
        raise WrongUsage("--retry goes with --fetch", hint="add --fetch, or leave --retry out")
    if arguments.with_credentials and arguments.at is None:
        raise WrongUsage("--with-credentials goes with --at", hint="name the state: --at TIME|SNAPSHOT")
    return Wishes(
        arguments.at,
        arguments.take_over,
        arguments.at_least,
        cli.rate(arguments.limit_rate),
        arguments.with_credentials,
        half,
        arguments.retry,
    )
