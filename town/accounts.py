"""Accounts of this machine, read from /etc/passwd and /etc/group through the C library (so NSS modules count too)."""

import grp
import pwd
from pathlib import Path
from typing import NamedTuple


class Account(NamedTuple):
    """A passwd entry: name, uid, gid, home."""

    name: str
    uid: int
    gid: int
    home: str


def by_name(name: str) -> Account | None:
    """The account of that name, or None."""
    try:
        return _account(pwd.getpwnam(name))
    except KeyError:
        return None


def by_uid(uid: int) -> Account | None:
    """The account with that uid, or None."""
    try:
        return _account(pwd.getpwuid(uid))
    except KeyError:
        return None


def everybody() -> tuple[Account, ...]:
    """Every account that the machine lists. NSS may know more by name or uid than it lists (LDAP, systemd)."""
    return tuple(map(_account, pwd.getpwall()))


def group_name(gid: int) -> str | None:
    """The name of the group with that gid, or None."""
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return None


def group_by_name(name: str) -> int | None:
    """The gid of the group of that name, or None."""
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return None


def own_home() -> Path:
    """The caller's home: $HOME, else that of its account; a path that is nowhere for a uid without either."""
    try:
        return Path.home()
    except RuntimeError:  # no $HOME, and no entry for the uid
        return Path("/nonexistent")


def _account(entry: pwd.struct_passwd) -> Account:
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid, entry.pw_dir)
