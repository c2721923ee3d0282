"""What requests are signed with, and from which files: none that an agent could have written."""

import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from persist.store import NoCredentials, StoreDenied, WrongCredentials
from town import files, trust
from town.failure import Unsafe
from town.files import opened
from town.spec import Spec
from town.store_url import Bucket
from town.terminal import shell_word, shown

_LIMIT = 64 << 10
_FORM = "an AWS shared-credentials file: [default], aws_access_key_id = …, aws_secret_access_key = …"
# What boto3's chain reads by the name in a variable, or where that is not set by the path beside it.
_CHAIN = {
    "AWS_CONFIG_FILE": "~/.aws/config",
    "AWS_SHARED_CREDENTIALS_FILE": "~/.aws/credentials",
    "BOTO_CONFIG": "~/.boto",
    "AWS_CREDENTIAL_FILE": "",
    "AWS_WEB_IDENTITY_TOKEN_FILE": "",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": "",
    "AWS_LOGIN_CACHE_DIRECTORY": "~/.aws/login/cache",
}


@dataclass(frozen=True, slots=True)
class Keys:
    """An access key and its secret; `token` where it is a temporary one."""

    access: str
    secret: str = field(repr=False)
    token: str | None = field(repr=False, default=None)


@dataclass(frozen=True, slots=True)
class Access:
    """How to sign: with `keys`, or where they are None as boto3's chain says.

    `bundle`: certificates to believe; `file`: what names the file of the keys, and its path, for messages.
    """

    keys: Keys | None
    imds: bool = False
    bundle: str | None = None
    file: str = ""


def access(spec: Spec, place: Bucket, environ: Mapping[str, str] = os.environ) -> Access:
    """What the spec and the environment say. Raises NoCredentials, WrongCredentials, StoreDenied, Unsafe."""
    bundle = environ.get("AWS_CA_BUNDLE") or None
    if bundle is not None:
        _refuse_writable(spec, Path(bundle), "AWS_CA_BUNDLE")
    path, name = _file(spec, environ)
    if path is not None:
        return Access(_read(spec, path, name), bundle=bundle, file=f"{name}: {shown(str(path))}")
    for one, variable in _chain(environ):
        _refuse_writable(spec, one, variable)
    return Access(None, place.imds, bundle)


def _file(spec: Spec, environ: Mapping[str, str]) -> tuple[Path | None, str]:
    if spec.town.store_credentials is not None:
        return spec.town.store_credentials, "town.store_credentials"
    given = environ.get("CREDENTIALS_DIRECTORY", "")  # systemd.exec(5), "Credentials"
    path = Path(given) / "s3"
    return (path, "$CREDENTIALS_DIRECTORY/s3") if given and os.path.lexists(path) else (None, "")


def _chain(environ: Mapping[str, str]) -> Iterator[tuple[Path, str]]:
    for variable, path in _CHAIN.items():
        if found := environ.get(variable) or path:
            yield Path(os.path.expanduser(found)), variable if environ.get(variable) else "HOME"


def _refuse_writable(spec: Spec, path: Path, name: str) -> None:
    """Raises Unsafe when an agent can change a file, or put one where none is yet."""
    for at in trust.way(path):
        if reason := trust.changeable(spec, at):
            raise Unsafe(
                f"{shown(str(path))}, which {name} leads to, is not read: {shown(str(at))} {reason}",
                hint="name a file of root's in town.store_credentials"
                if name == "HOME"
                else f"set {name} to a file of root's, or leave it out",
            )


def _read(spec: Spec, path: Path, name: str) -> Keys:
    _refuse_writable(spec, path, name)
    try:
        with opened(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)) as fd:
            _refuse_open_to_others(os.fstat(fd), path, name)
            data = files.read_fd(fd, _LIMIT, shown(str(path)))
    except FileNotFoundError as error:
        raise NoCredentials(f"{name}: {shown(str(path))} is not there", hint=f"put it there, 0400: {_FORM}") from error
    except OSError as error:
        raise StoreDenied(f"{name}: {shown(str(path))} cannot be read: {error.strerror}") from error
    return _parsed(data, f"{name}: {shown(str(path))}")


def _refuse_open_to_others(found: os.stat_result, path: Path, name: str) -> None:
    if found.st_uid in (0, os.geteuid()) and not (stat.S_ISREG(found.st_mode) and found.st_mode & 0o077):
        return
    word = shell_word(str(path))
    raise Unsafe(
        f"{name}: others can read or change {shown(str(path))} "
        f"(owner uid {found.st_uid}, mode {found.st_mode & 0o7777:04o})",
        hint=f"make a new key if somebody may have seen this one; then: chown root:root {word} && chmod 0400 {word}",
    )


def _parsed(data: bytes, what: str) -> Keys:
    from configparser import Error, RawConfigParser

    parser = RawConfigParser()
    try:
        parser.read_string(data.decode())
    except (Error, UnicodeDecodeError):
        # Not `from error`: its message repeats lines of the file.
        raise WrongCredentials(f"{what} cannot be read as its form asks", hint=f"write {_FORM}") from None
    sections = ["default"] if parser.has_section("default") else parser.sections()
    if len(sections) != 1:
        raise WrongCredentials(f"{what} has no section [default]", hint=f"write {_FORM}")
    return _keys(dict(parser.items(sections[0])), what)


def _keys(section: Mapping[str, Any], what: str) -> Keys:
    names = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
    access_key, secret, token = (str(section.get(name) or "").strip() for name in names)
    for name, value in (*zip(names, (access_key, secret, token), strict=True),):
        if (not value and name != names[2]) or not (value.isascii() and (value.isprintable() and " " not in value)):
            raise WrongCredentials(f"{what} has no proper {name}", hint=f"write {_FORM}")
    return Keys(access_key, secret, token or None)
