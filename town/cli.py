"""What both commands share: options that stand before or after the verb, one place that prints failures.

Only `run` prints: `persist: error: …`, then `persist: hint: …`, on standard error. A traceback needs --debug.
"""

import argparse
import errno
import gc
import io
import json
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from town import __version__, again, parsers, terminal
from town.failure import FAILED, BadSpec, Failure, WrongUsage

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer

DEFAULT_SPEC = Path("/etc/nuketown/town.toml")
Parser = parsers.Parser
Verb = Callable[[argparse.Namespace], int]
_DIGITS = 18  # of a number in an option
_STATUSES = (
    "exit status: 0 done, 1 failed, 2 wrong usage, 75 try again later, 78 the spec is wrong; "
    "of status and check also 3 needs attention, 4 does not work"
)


def lazy(module: str, function: str = "command") -> Verb:
    """The verb that is `function` in `module`, imported when it is run: the others' packages cost nothing then."""

    def act(arguments: argparse.Namespace) -> int:
        status: int = getattr(import_module(module), function)(arguments)
        return status

    return act


def parser(prog: str, description: str) -> tuple[Parser, "argparse._SubParsersAction[Parser]"]:
    """The parser of a command and the place its verbs go."""
    top = Parser(prog=prog, description=description, epilog=_STATUSES, formatter_class=parsers.Help, allow_abbrev=False)
    top.add_argument("--version", action="version", version=f"{prog} (nuketown) {__version__}")
    _shared(top)
    return top, top.add_subparsers(prog=prog, dest="verb", metavar="VERB", parser_class=parsers.Later)


def count(text: str) -> int:
    """A whole number from 0, as an option says it. Raises argparse's error, which ends with status 2."""
    if not (text.isascii() and text.isdigit() and len(text) <= _DIGITS):
        raise argparse.ArgumentTypeError(f"{terminal.shown(text[:40])} is no whole number from 0")
    return int(text)


def rate(text: str | None) -> float | None:
    """The bytes a second of --limit-rate; None where it is not said. Raises WrongUsage."""
    from town import grammar

    try:
        return None if text is None else grammar.rate(text)
    except grammar.Wrong as wrong:
        raise WrongUsage(f"--limit-rate: {wrong.what}", hint=wrong.cure) from wrong


def verb(
    verbs: "argparse._SubParsersAction[Parser]",
    name: str,
    act: Verb,
    *,
    says: str,
    example: str,
    agents: str = "",
) -> Parser:
    """One verb: what it does, an example for --help, and (with `agents`: "*", "?", …) the agents it takes."""
    made = verbs.add_parser(
        name,
        help=says,
        description=says,
        epilog=f"example:\n  {example}",
        formatter_class=parsers.HelpAsItIs,
        allow_abbrev=False,
    )
    _shared(made)
    if agents:
        none = "" if agents == "+" else "; none: all"
        made.add_argument("agents", nargs=agents, metavar="AGENT", help=f"agents of the spec{none}")
    made.set_defaults(act=act)
    return made


def _shared(to: argparse.ArgumentParser) -> None:
    # SUPPRESS: a verb's parser must not put its default over what stood before the verb.
    quiet: dict[str, Any] = {"default": argparse.SUPPRESS}
    to.add_argument(
        "--spec", metavar="FILE", help=f"the town's spec (else $NUKETOWN_SPEC, else {DEFAULT_SPEC})", **quiet
    )
    to.add_argument("--debug", action="store_true", help="show a traceback when something fails", **quiet)


def spec_file(arguments: argparse.Namespace) -> Path:
    """Where the spec is: --spec, else $NUKETOWN_SPEC, else /etc/nuketown/town.toml."""
    return Path(getattr(arguments, "spec", None) or os.environ.get("NUKETOWN_SPEC") or DEFAULT_SPEC)


def run(prog: str, top: Parser, argv: Sequence[str] | None) -> int:
    """Parse, act, and turn every failure into words and a status."""
    words = list(sys.argv[1:] if argv is None else argv)
    _open_standard_streams()
    with again.running(words):
        status = _run(prog, top, words)
    if argv is None:
        gc.freeze()  # the process ends: to look through all that it imported for something to collect takes 5 ms
    return status


def _run(prog: str, top: Parser, words: list[str]) -> int:
    debug = "--debug" in words
    try:
        arguments = _parsed(top, words)
        if not hasattr(arguments, "act"):
            raise WrongUsage(f"{prog} needs a verb", hint=f"{prog} --help lists them")
        if (spec := spec_file(arguments)) != DEFAULT_SPEC:
            again.reads(spec)
        if prog == "identity" and (out := getattr(arguments, "out", None)) is not None:
            again.puts(out)  # where the files of a town are; of persist it is one file that is fetched
        act: Verb = arguments.act
        status = act(arguments)
        sys.stdout.flush()
        return status
    except BadSpec as failure:
        _tell_problems(prog, failure)
        return _ended(failure, debug)
    except Failure as failure:
        _tell(prog, failure.what, failure.hint)
        return _ended(failure, debug)
    except KeyboardInterrupt:
        _tell(prog, "interrupted", "")
        return 130
    except Exception as error:  # the last line of defence: a person gets a sentence, not a stack
        number = error.errno if isinstance(error, OSError) else None
        _tell(prog, unexpected(error), _CURES.get(number or 0, _REPORT))
        if debug:
            import traceback

            traceback.print_exc()
        return FAILED


def _parsed(top: Parser, words: list[str]) -> argparse.Namespace:
    arguments, unknown = top.parse_known_args(words)
    if unknown:
        verb = getattr(arguments, "verb", None)
        of = f"{top.prog} {verb}" if verb else top.prog
        raise WrongUsage(
            f"unrecognized arguments: {terminal.shown(' '.join(unknown))}", hint=f"{of} --help shows what can be said"
        )
    return arguments


class _Outlet(io.RawIOBase):
    """Standard output whose reader may go away (`| head`): what is printed then is lost, what is being done is not."""

    def __init__(self, fd: int) -> None:
        self._fd, self._broken = fd, False

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._fd

    def isatty(self) -> bool:
        return os.isatty(self._fd)

    def write(self, data: "Buffer") -> int:
        try:
            return os.write(self._fd, data)
        except BrokenPipeError:
            return memoryview(data).nbytes
        except OSError:
            if self._broken:  # said once; Python flushes again at its end
                return memoryview(data).nbytes
            self._broken = True
            raise


def _open_standard_streams() -> None:
    # A standard stream that is closed would give its number to the next file that is opened.
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    buffer = getattr(sys.stdout, "buffer", None)
    if sys.stdout is None or isinstance(getattr(buffer, "raw", buffer), io.FileIO):  # anything else is a test's
        outlet = io.BufferedWriter(_Outlet(1))
        # backslashreplace, as stderr has it: a terminal without UTF-8 still gets every line.
        encoding = sys.stdout.encoding if sys.stdout is not None else "utf-8"
        sys.stdout = io.TextIOWrapper(outlet, encoding, "backslashreplace", line_buffering=os.isatty(1))
    if sys.stderr is None:
        sys.stderr = io.TextIOWrapper(io.BufferedWriter(io.FileIO(2, "w", closefd=False)), "utf-8", "backslashreplace")


_REPORT = "run it again with --debug and report what it shows"
_CURES = {
    errno.EACCES: "run it as root: sudo",
    errno.EPERM: "run it as root: sudo",
    errno.ENOSPC: "make room there, then run it again: what was begun is finished",
    errno.EDQUOT: "make room there, then run it again: what was begun is finished",
    errno.EROFS: "it is mounted read-only: mount it writable, or look at dmesg for a disk that fails",
}


def unexpected(error: Exception) -> str:
    """What an error that is no Failure says, safe to print."""
    if isinstance(error, OSError) and error.strerror:
        named = f"{terminal.shown(os.fsdecode(error.filename))}: " if isinstance(error.filename, (str, bytes)) else ""
        return f"{named}{error.strerror}"
    return terminal.shown(f"{type(error).__name__}: {error}")


def _ended(failure: Failure, debug: bool) -> int:
    if debug:
        import traceback

        traceback.print_exception(failure)
    return failure.status


def tell(prog: str, failure: Failure, about: str = "") -> None:
    """A failure that ends one part of the work (an agent's, say, named by `about`) and not the rest of it."""
    named = f"{about}: " if about else ""
    if isinstance(failure, BadSpec):
        _tell_problems(prog, failure)
    else:
        _tell(prog, f"{named}{failure.what}", failure.hint)


def _tell(prog: str, what: str, hint: str) -> None:
    terminal.say(f"{prog}: error: {what}")
    advise(prog, hint)


def _tell_problems(prog: str, failure: BadSpec) -> None:
    for problem in failure.problems:
        _tell(prog, f"{failure.file}: {problem}", problem.cure)


def warn(prog: str, what: str, hint: str = "") -> None:
    """Something that needs attention and stops nothing."""
    terminal.say(f"{prog}: warning: {what}")
    advise(prog, hint)


def advise(prog: str, hint: str) -> None:
    """A cure, or a next step; its commands of this project read the spec that this one reads. Nothing for ""."""
    if hint:
        terminal.say(f"{prog}: hint: {again.with_spec(hint)}")


def put_json(value: object) -> None:
    """One JSON document on standard output."""
    print(json.dumps(value, indent=2, ensure_ascii=True, default=str))


def named(raw: bytes) -> dict[str, str]:
    """A name from outside for --json: readable `text`, and `base64` of its exact bytes."""
    import base64

    return {"text": terminal.shown(raw), "base64": base64.b64encode(raw).decode()}
