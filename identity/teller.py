"""What is said while agents are installed: results as they come, and the status at the end."""

from collections.abc import Mapping

from identity.tenant import Piece
from town import cli
from town.failure import DONE, Failure, status_of, worst
from town.spec import Agent
from town.terminal import shown


class PieceFailed(Failure):
    """One piece could not be brought into a home."""


class Teller:
    """Says what becomes of each piece, and keeps the worst status."""

    def __init__(self, dry: bool) -> None:
        self.dry = dry
        self._changed, self._status = False, DONE
        self.failed: set[str] = set()  # names of agents

    def home(self, agent: Agent, piece: Piece, before: Mapping[str, str]) -> None:
        """A piece in a home; `before` are the digests of what was installed there last, by path."""
        self.piece(agent, piece)
        if piece.what != "rewritten":
            return
        last = before.get(piece.path)
        if last is not None and last == piece.held:
            return  # as it was installed: the spec has changed, and nobody else's hand was in it
        why = "somebody changed it after it was installed" if last else "no record says that it was installed so"
        cli.warn("identity", f"{agent.name}: {shown(piece.path)} was not as the spec has it: {why}")

    def piece(self, agent: Agent, piece: Piece) -> None:
        """One piece, when anything became of it."""
        if piece.what == "failed":
            self.failure(agent, PieceFailed(f"{shown(piece.path)}: {shown(piece.why)}", hint=shown(piece.hint)))
        elif piece.what != "kept":
            self._changed = True
            print(f"{agent.name}: {'would be ' if self.dry else ''}{piece.what} {shown(piece.path)}", flush=True)

    def failure(self, agent: Agent, failure: Failure) -> None:
        """Something that could not be installed; the rest goes on."""
        self._status = worst((self._status, status_of(failure)))
        self.failed.add(agent.name)
        cli.tell("identity", failure, agent.name)

    def end(self) -> int:
        """The status of the command."""
        if not self._changed and self._status == DONE:
            print("nothing to do")
        return self._status
