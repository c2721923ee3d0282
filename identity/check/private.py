"""What only a private key can tell, as far as those at hand open the files: values, halves, and every recipient."""

from collections.abc import Callable, Iterator

from identity import held, plan
from identity.finding import Finding, caught
from identity.found import Found
from identity.vault import Vault
from town import sops
from town.failure import Failure
from town.sops import metadata, nodes, plainform
from town.spec import Agent
from town.terminal import shown

_BACK = "bring back the last good version of the file from git, then: identity recipients sync"


def findings(agents: tuple[Agent, ...], found: Found) -> Iterator[Finding]:
    """Both files opened: private halves against public ones, primary keys, and every recipient whose key is at hand."""
    for vault, checks in ((found.secrets, (held.ssh_key, held.gpg_key)), (found.recovery, (_primary_key,))):
        if not readable(vault):
            continue
        try:
            vault.document  # noqa: B018 - opens it
        except sops.NoKey:
            yield Finding("unchecked", vault.name, "no key at hand opens it, so its values were not looked at")
            continue
        except Failure as failure:
            yield Finding("error", vault.name, failure.what, failure.hint)
            continue
        yield from caught(vault.name, lambda vault=vault: _each_recipient(vault))  # type: ignore[misc]
        for agent in agents:
            for check in checks:
                yield from _held(check, agent, found)


def readable(vault: Vault) -> bool:
    """Whether a file is there and its names can be read; if not, that was said when the file was looked at."""
    try:
        return vault.data is not None and vault.names is not None
    except Failure:
        return False


def values(agents: tuple[Agent, ...], secrets: Vault) -> dict[str, str]:
    """Extra secrets that were opened, by their paths: what must not stand anywhere in clear."""
    found: dict[str, str] = {}
    if "document" not in vars(secrets):
        return found
    for path in sorted({path for agent in agents for _, path in agent.secrets.extra} & secrets.names):
        try:
            found[shown(path)] = secrets.get(path)
        except Failure:  # no text: that is said elsewhere
            continue
    return found


def _held(check: Callable[[Agent, Found], None], agent: Agent, found: Found) -> Iterator[Finding]:
    if agent.name not in found.public:  # its public halves could not be read, which was said
        return
    try:
        check(agent, found)
    except Failure as failure:
        yield Finding("error", agent.name, failure.what, failure.hint)


def _primary_key(agent: Agent, found: Found) -> None:
    entry = found.lock.get(agent.name)
    path = plan.recovery_path(agent)
    if agent.secrets.gpg_key is None or entry is None or entry.halves.gpg is None:
        return
    if path not in found.recovery.names:
        raise _NoPrimary(
            f"{found.recovery.name} has no {path}: its OpenPGP key cannot be renewed or revoked",
            hint=f"bring {shown(found.recovery.name)} back from git or a backup",
        )
    held.primary_key(agent, found)


class _NoPrimary(Failure):
    """The recovery file has no primary key of an agent."""


def _each_recipient(vault: Vault) -> Iterator[Finding]:
    """A recipient whose private key is at hand must really get the file's data key out of what is wrapped for it.

    That another recipient opens the file says nothing of that: two versions merged by hand give such a file. Where the
    key is split between groups, nothing is said of a single one.
    """
    assert vault.data is not None
    root = plainform.read(vault.data) or nodes.parse(vault.data, str(vault.path))[1]
    groups = metadata.read(root, str(vault.path)).groups
    for secret in vault.keys().secrets if len(groups) == 1 else ():
        key = sops.Keys((secret,))
        for recipient in key.recipients:
            mine = tuple(one for one in groups[0] if one.recipient == recipient)
            if mine and not _opens(key, mine, vault):
                what = f"what is wrapped for {recipient} does not open with its key, though the file names it"
                yield Finding("error", vault.name, what, _BACK)


def _opens(key: sops.Keys, mine: metadata.Group, vault: Vault) -> bool:
    try:
        return key.data_key((mine,), 1, vault.name) == vault.document.data_key
    except sops.NoKey:
        return False
