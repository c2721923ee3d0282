"""The words of `persist lost`: a finding as lines for a person, everything that an agent named safe to print."""

import sys

from persist import outline
from persist.finding import Finding
from persist.fold import Line, Proposal, Tree
from persist.unsynced import Unsynced
from town import cli
from town.spec import Spec
from town.terminal import say, shown, toml_string

LINES = 40  # of a listing that a person reads
LONGEST = 160  # characters of a path in it


def put_listing(found: Finding, fate: str, tree: Tree | None = None) -> None:
    """What went or would go; as a tree where one is given."""
    least = "" if found.whole else "at least "
    print(f"{found.agent}: {least}{_sum(found.bytes, found.files)} in {shown(found.home)} {fate}")
    if tree is not None:
        print("".join(f"{line}\n" for line in outline.lines(tree)), end="")
    else:
        _put_lines(found)
    if found.regenerated.files:
        print(f"  back by itself (identity install): {_sum(found.regenerated.bytes, found.regenerated.files)}")
    sys.stdout.flush()  # a person reads it while git work trees are looked at


def _put_lines(found: Finding) -> None:
    for line in found.lines[:LINES]:
        print(f"  {_line(line)}")
    rest, count = found.lines[LINES:], max(0, len(found.lines) - LINES)
    bytes_, files = sum(line.bytes for line in rest), sum(line.files for line in rest)
    if found.rest is not None:
        count += int(found.rest.kind.replace(",", ""))
        bytes_, files = bytes_ + found.rest.bytes, files + found.rest.files
    if count:
        print(f"  {count:,} more lines, each smaller: {_sum(bytes_, files)}")


def put_judged(found: Finding, *, propose: bool = True) -> None:
    """What git work trees hold alone, and the ready line."""
    for facts in found.git:
        if facts.at_stake:
            print(f"  git: {_short(facts.path)}: {facts.words}")
    if clean := sum(not facts.at_stake and facts.remote for facts in found.git):
        print(f"  git: {clean:,} other work tree{'' if clean == 1 else 's'}: all pushed, nothing changed")
    if empty := sum(facts.empty for facts in found.git):
        print(f"  git: {empty:,} work tree{'' if empty == 1 else 's'} in which nothing is")
    if found.persist and propose:
        kinds = ", ".join(dict.fromkeys(one.kind for one in found.persist))
        sys.stdout.flush()  # both may go to one place
        say(f"{found.agent}: worth keeping ({kinds}): add these to persist under [agents.{found.agent}]")
        print(f"persist = [{', '.join(map(_item, found.persist))}]")
    sys.stdout.flush()


def _item(one: Proposal) -> str:
    path = toml_string(str(one.path))
    return f'{{ path = {path}, type = "file" }}' if one.file else path


def warn(town: Spec, found: Finding) -> None:
    """What a person should know beside the listing."""
    fate = "would be lost too" if town.town.btrfs is not None else "is in the home alone"
    for aside in found.unbound:
        cli.warn(
            "persist",
            f"{found.agent}: {shown(aside.path)} is declared but not bound: {_sum(aside.bytes, aside.files)} in it "
            f"{fate}",
            "move it aside, persist restore, then copy it back",
        )
    for path in found.mounted:
        cli.warn("persist", f"{found.agent}: something is mounted at {_short(path)}; what lies below was not counted")
    for one in found.unsynced:
        _warn_of_unsynced(found.agent, one)


def _warn_of_unsynced(agent: str, one: Unsynced) -> None:
    what = f"{agent}: {shown(str(one.path))}: {_sum(one.bytes, one.files)} not in the store yet"
    if one.carried:
        cli.warn(
            "persist", f"{what}; no boot takes that, but another machine would not have it", f"persist sync {agent}"
        )
    else:
        cli.warn("persist", f"{what}: the next boot sets that aside with the home", f"persist sync {agent}, before it")


def _sum(bytes_: int, files: int) -> str:
    return outline.counted(bytes_, files)


def _line(line: Line) -> str:
    if line.kind == "file":
        return f"{_short(line.path)}  {_sum(line.bytes, line.files)}"
    name = _short(line.path) + ("" if line.path.endswith(b"/*") else "/…")
    kind = "" if line.kind == "directory" else f"  ({line.kind})"
    return f"{name}  {_sum(line.bytes, line.files)}{kind}"


def _short(path: bytes) -> str:
    text = shown(path)
    return text if len(text) <= LONGEST else text[:LONGEST] + "…"
