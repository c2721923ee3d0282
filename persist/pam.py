"""Who may log in, as a machine's own files say it: a rule of PAM's, and the lists of who may not use cron and at.

Debian's common-account is asked for every login: getty, ssh, su (root's too), machinectl, cron, at, user@.service. What
stands outside of pam-auth-update's own block stays when that writes the file again (pam-auth-update(8)).
"""

import re
from collections.abc import Iterable
from pathlib import Path

from persist.lines import Lines
from persist.placing import File, Tree
from town import files

AGENTS, OPEN = "/etc/nuketown/agents", "/run/nuketown/open"
COMMON, LOGIN = "/etc/pam.d/common-account", "/etc/pam.d/login"
CRON, AT = "/etc/cron.deny", "/etc/at.deny"
_BEGIN, _END = "# begin nuketown", "# end nuketown"
# Only a name that is in the list goes on to the second rule: whatever else is wrong there keeps nobody else out.
# What keeps agents out is that the second file is not there, until `persist account open` writes it.
RULE = (
    f"{_BEGIN}: an agent logs in only while all that it declared is there (persist account)",
    f"account [auth_err=ignore default=1] pam_listfile.so item=user sense=deny file={AGENTS} onerr=succeed quiet",
    f"account requisite pam_listfile.so item=user sense=allow file={OPEN} onerr=fail",
    _END,
)
_LIMIT = 1 << 20
_PRIMARY = '# here are the per-package modules (the "Primary" block)'  # where pam-auth-update's block begins


def agents_file(names: Iterable[str]) -> File:
    """The list of agents, as pam_listfile(8) reads it: one name a line."""
    return File(AGENTS, "".join(f"{name}\n" for name in sorted(names)).encode())


def wanted(there: Tree, names: Iterable[str]) -> list[Lines]:
    """What should stand in files that belong to others."""
    denied = tuple(sorted(names))
    found = [Lines(CRON, denied)]
    if there.entry(COMMON) is not None:
        found.insert(0, Lines(COMMON, RULE, block=True, before=(_PRIMARY, "@include", "account", "-account")))
    # Where there is neither at.allow nor at.deny only root may use at (at.allow(5)): a list would let others in.
    if there.entry(AT) is not None:
        found.append(Lines(AT, denied))
    return found


def allowed(there: Tree, names: Iterable[str]) -> list[str]:
    """Lists that say who may use cron and at, go before those that say who may not, and name an agent."""
    return [
        path
        for path in ("/etc/cron.allow", "/etc/at.allow")
        if there.entry(path) is not None and set(names) & set(there.read(path).decode("utf-8", "replace").split())
    ]


def ruled(root: Path) -> bool:
    """Whether the rule stands where a machine's logins find it, whole: in common-account, on NixOS in each service."""
    from persist import placing
    from town.failure import Failure

    if (root / "etc/NIXOS").exists():
        return _first_in(root / LOGIN.lstrip("/"))
    try:
        with placing.tree(root) as there:
            text = there.read(COMMON).decode("utf-8", "replace")
    except (OSError, Failure):
        return False
    return "\n".join(RULE) in text


def _first_in(service: Path) -> bool:
    """Whether the account stack of a service begins with both lines: modules by any path, words after a # left out."""
    try:
        text = files.read_bounded(service, _LIMIT).decode("utf-8", "replace")
    except files.Unreadable:
        return False
    said = [re.sub(r"/\S*/(?=pam_)", "", line.partition("#")[0]).split() for line in text.splitlines()]
    found = [words for words in said if words[:1] == ["account"]]
    return found[:2] == [line.split() for line in RULE[1:3]]
