"""What is said while agents are installed: results as they come, and the status at the end."""

from collections.abc import Mapping

from identity.pieces import Piece
from town import cli
from town.failure import DONE, Failure, status_of, worst
from town.spec import Agent
from town.terminal import say, shown, toml_string


class PieceFailed(Failure):
    """One piece could not be brought into a home."""


class Teller:
    """Says what becomes of each piece, and keeps the worst status."""

    def __init__(self, dry: bool) -> None:
        self.dry = dry
        self._changed, self._status = False, DONE
        self._said: set[int] = set()  # failures, by id, that were told once for all agents
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
        what, hint = f"{agent.name}: {shown(piece.path)} was not as the spec has it: {why}", ""
        if piece.why:
            what = f"{agent.name}: {shown(piece.path)} was {shown(piece.why)}, which does not hold what the spec has"
            place = f"agents.{agent.name}.delivered = [{toml_string(piece.path)}]"
            hint = f"if sops-nix or home-manager shall bring it, say so in the spec: {place}"
        cli.warn("identity", what, hint)

    def piece(self, agent: Agent, piece: Piece) -> None:
        """One piece, when anything became of it."""
        path = shown(piece.path)
        match piece.what:
            case "failed":
                self.failure(agent, PieceFailed(f"{path}: {shown(piece.why)}", hint=shown(piece.hint)))
            case "made" | "rewritten" | "removed":
                self._changed = True
                print(f"{agent.name}: {'would be ' if self.dry else ''}{piece.what} {path}", flush=True)
            case "left":
                self._left(agent, path, piece.why)
            case "stays":
                what = f"{agent.name}: {path} is not of the spec any more, and was changed after it was installed"
                cli.warn("identity", f"{what}: it stays", "remove it, or move what is of use elsewhere")
            case "kept" | "absent":
                pass

    def _left(self, agent: Agent, path: str, why: str) -> None:
        if why:
            say(f"identity: note: {agent.name}: {path} is brought by others ({shown(why)}): it is left to them")
        else:
            hint = f"let it be brought before nuketown-identity@{agent.name}.service, or take it out of the spec"
            cli.warn("identity", f"{agent.name}: {path} is left to others who bring it, and is not there", hint)

    def failure(self, agent: Agent, failure: Failure) -> None:
        """Something that could not be installed; the rest goes on."""
        self._fails(agent, failure)
        cli.tell("identity", failure, agent.name)

    def of_all(self, agent: Agent, failure: Failure) -> None:
        """The same failure for every agent that needs what failed: it is told once."""
        self._fails(agent, failure)
        if id(failure) not in self._said:
            self._said.add(id(failure))
            cli.tell("identity", failure)

    def _fails(self, agent: Agent, failure: Failure) -> None:
        self._status = worst((self._status, status_of(failure)))
        self.failed.add(agent.name)

    def gone(self, piece: Piece) -> None:
        """What was taken away of an agent that the spec no longer has."""
        self._changed = True
        print(f"{'would be ' if self.dry else ''}{piece.what} {shown(piece.path)}", flush=True)

    def end(self) -> int:
        """The status of the command."""
        if not self._changed and self._status == DONE:
            print("nothing to do")
        return self._status
