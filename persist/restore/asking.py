"""Directories that were brought over from a home set aside: has another machine a newer state of them in the store?

Nothing is overwritten that was written here and nowhere else. The question has 20 s, for all paths of an agent: where
the store does not answer in that time, and nobody is known to have synced the agent since this machine did, its copy is
used, and a note says so (`persist.degraded`).
"""

from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from persist import degraded, entering, lineage
from persist.restore import carry, fetching, question
from persist.restore import site as site_
from persist.restore.actions import Ask, Credentials, Fetch, origin
from persist.restore.question import Answer
from persist.restore.site import Site
from persist.sync import local
from town import btrfs, cli
from town.failure import Failure
from town.terminal import shown

if TYPE_CHECKING:
    from persist.fetch import Held


def settle(site: Site, action: Ask) -> str:
    """Ask, once for the agent, and do what the answer means for one path; what there is to say.

    Raises what the store raised, or LeaseHeld; Unanswered where its copy may not be used without an answer.
    """
    answer = _answer(site, action)
    if answer.failure is not None:
        if answer.away and (not action.entry.required or local.held_last(local.record(site.spec, site.agent))):
            return _without(site, action, answer.failure)
        raise answer.failure
    path = action.entry.path
    if str(path) not in answer.newer:
        _settled(site, path)
        return "it has none"
    if _written(site, path):
        return _both(site, action, answer)
    held, credentials = _state(site, answer), _credentials(action)
    done = fetching.fetch_home(site, Fetch(action.entry, action.path, held, over=True, credentials=credentials))
    degraded.forget(site.spec, site.agent, path)
    return f"fetched {origin(held)}: {done}"


def _credentials(action: Ask) -> Credentials:
    return "newest" if action.entry.upload else "live"


def _answer(site: Site, action: Ask) -> Answer:
    if site.answer is None:
        if action.failure is not None:
            site.answer = Answer(failure=action.failure, away=question.is_away(site.spec, action.failure))
        elif action.held is not None:
            site.answer = Answer(_newer_in(site, action.held), state=action.held)
        else:
            site.answer = question.ask(site)
    return site.answer


def _newer_in(site: Site, held: "Held") -> frozenset[str]:
    record, (newest, _) = local.record(site.spec, site.agent), held.stands
    return question.newer(site, record, newest, set(held.paths))


def _state(site: Site, answer: Answer) -> "Held":
    """The newest state, whole."""
    from persist import fetch

    if answer.state is None:
        wishes = site.wishes
        options = fetch.Options(None, wishes.take_over, wishes.at_least, wishes.rate)
        answer.state = fetch.chosen(site.spec, site.agent, options)
    assert answer.state is not None, "it has something newer"
    return answer.state


def _settled(site: Site, path: PurePosixPath) -> None:
    """There is nothing newer, so a sync goes on top of what there is."""
    stands = question.stands(site).get(path)

    def now(before: lineage.Known) -> lineage.Known:
        found = before.get(path, ())
        return {**before, path: (found[0]._replace(settled=True), *found[1:])} if found else before

    lineage.change(site.spec, site.agent, now)
    degraded.forget(site.spec, site.agent, path)
    if stands is not None and stands.commit:  # a crash may have come between a fetch and its note
        local.change(site.spec, site.agent, lambda record: _descends(record, str(path), stands.commit))


def _descends(record: local.Record, path: str, commit: str) -> local.Record:
    if record.head != commit or record.known.get(path) == commit:
        return record
    return record._replace(known={**record.known, path: commit})


def _written(site: Site, path: PurePosixPath) -> bool:
    """Whether this machine wrote after the state that its copy goes on from, as far as anybody can tell."""
    stands = question.stands(site).get(path)
    with site_.home(site) as home, entering.down(home, path, site.spec.home(site.agent)) as fd:
        if fd is None or stands is None or not btrfs.is_subvolume(fd):
            return True
        if btrfs.info(fd).uuid_bytes.hex() != stands.uuid:
            return True
        return carry.written(fd, stands)


def _without(site: Site, action: Ask, failure: Failure) -> str:
    """The copy here is used though nobody knows whether it is the newest."""
    path = shown(str(action.entry.path))
    degraded.note(site.spec, site.agent, action.entry.path, failure.what, site.now)
    local.change(site.spec, site.agent, local.holding_again)
    cli.warn(
        "persist",
        f"{site.agent.name}: {path}: degraded: the copy on this machine is used without the store's word: "
        f"{failure.what}",
        f"the next sync that reaches the store reconciles them: persist sync {site.agent.name}",
    )
    return "no answer: the copy on this machine is used"


def _both(site: Site, action: Ask, answer: Answer) -> str:
    """Another machine wrote, and this one: nothing gives way, and the next sync keeps what lies here as a branch."""
    path, agent = shown(str(action.entry.path)), site.agent.name
    why = "another machine has synced a newer state, and this one wrote since too: nothing was overwritten"
    degraded.note(site.spec, site.agent, action.entry.path, why, site.now)
    if answer.held is not None:
        raise answer.held
    local.change(site.spec, site.agent, local.holding_again)
    cli.warn(
        "persist",
        f"{agent}: {path}: {why}",
        f"persist sync {agent} keeps what lies here as a branch, and says how to go on; persist log {agent} shows both",
    )
    return "it has one, and what lies here was written since: nothing was overwritten"
