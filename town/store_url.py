"""Where the store is, as one URL: `s3://bucket/prefix?endpoint=…&region=…&imds=1`, or `file:///directory`.

`parse` gives it as a frozen value. No message repeats the URL: somebody may have put a password into it.
"""

import re
from pathlib import Path
from typing import NamedTuple

from town.grammar import Wrong, absolute, line

# Amazon S3 User Guide, "General purpose bucket naming rules".
_BUCKET = r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]"
_SEGMENT = r"[A-Za-z0-9_=@+-][A-Za-z0-9._=@+-]{0,199}"
_REGION = r"[A-Za-z0-9-]{1,64}"
_HOST = r"[A-Za-z0-9]([A-Za-z0-9.-]{0,252})|\[[0-9A-Fa-f:.]{2,45}\]"
_PORT = r"[0-9]{1,5}"
_KEYS = ("endpoint", "region", "imds")
_CURE = "write s3://BUCKET/PREFIX?endpoint=https://HOST&region=REGION, or file:///DIRECTORY"


class Bucket(NamedTuple):
    """An S3 bucket. `prefix` has no `/` at its ends; `imds`: the instance's metadata may give the credentials."""

    bucket: str
    prefix: str = ""
    endpoint: str | None = None
    region: str | None = None
    imds: bool = False


class Directory(NamedTuple):
    """A directory of this machine, absolute and normal."""

    path: Path


Place = Bucket | Directory


def parse(url: str) -> Place:
    """The place that a store URL names. Raises Wrong."""
    line(url)
    if "://" not in url:
        raise Wrong("is not the URL of a store", _CURE)
    scheme, rest = url.split("://", 1)
    if "#" in rest:
        raise Wrong("has a fragment (#…), which means nothing here", "leave it out")
    if "@" in rest.split("?", 1)[0].split("/", 1)[0]:
        raise Wrong("has user info (…@) in it", "put the credentials into a file and name it in town.store_credentials")
    match scheme:
        case "s3":
            return _bucket(rest)
        case "file":
            return _directory(rest)
        case _:
            raise Wrong("is neither s3:// nor file://", _CURE)


def _directory(rest: str) -> Directory:
    if "?" in rest or "%" in rest:
        raise Wrong("has `?` or `%` in its path", "name the directory as it is, in plain characters")
    if not rest.startswith("/"):
        raise Wrong("names a host, and a directory store is on this machine", "write file:/// with three slashes")
    absolute(rest)
    if rest == "/":
        raise Wrong("names /", "name a directory of its own, such as file:///var/lib/nuketown/store")
    return Directory(Path(rest))


def _bucket(rest: str) -> Bucket:
    place, _, query = rest.partition("?")
    bucket, _, prefix = place.partition("/")
    if ":" in bucket:
        raise Wrong("has a port where the bucket's name belongs", "name the server in ?endpoint=https://HOST:PORT")
    if not re.fullmatch(_BUCKET, bucket) or ".." in bucket:
        raise Wrong("has no bucket's name", "3 to 63 lower-case letters, digits, `.` and `-`, as in s3://agents/signi")
    prefix = prefix.removesuffix("/")
    if prefix and not all(re.fullmatch(_SEGMENT, part) for part in prefix.split("/")):
        raise Wrong("has a prefix that is not plain", "letters, digits and `._=@+-` between single slashes, no %")
    options = _options(query)
    return Bucket(
        bucket,
        prefix,
        _endpoint(options["endpoint"]) if "endpoint" in options else None,
        _region(options["region"]) if "region" in options else None,
        _imds(options["imds"]) if "imds" in options else False,
    )


def _options(query: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for pair in query.split("&") if query else ():
        key, equals, value = pair.partition("=")
        if key not in _KEYS:
            raise Wrong("has an option that is not known", _nearest(key))
        if key in options:
            raise Wrong(f"has the option {key} twice", "keep one of them")
        if not equals or not value:
            raise Wrong(f"has the option {key} without a value", f"write {key}=VALUE, or leave it out")
        options[key] = line(_unquoted(key, value))
    return options


def _nearest(key: str) -> str:
    from difflib import get_close_matches

    near = get_close_matches(key[:100], _KEYS, n=1)
    known = "the options are endpoint, region and imds; credentials go into town.store_credentials"
    return f"did you mean {near[0]}? {known}" if near else known


def _unquoted(key: str, value: str) -> str:
    from urllib.parse import unquote

    try:
        return unquote(value, errors="strict")
    except UnicodeDecodeError as error:
        raise Wrong(
            f"has the option {key} with %-escapes that are not UTF-8", "write it in plain characters"
        ) from error


def _endpoint(text: str) -> str:
    from urllib.parse import urlsplit

    cure = "write endpoint=https://HOST or endpoint=https://HOST:PORT"
    try:
        split = urlsplit(text)
    except ValueError as error:
        raise Wrong("has an endpoint that is no URL", cure) from error
    if "@" in text:
        raise Wrong("has user info (…@) in its endpoint", "credentials go into the file that store_credentials names")
    if split.scheme not in ("http", "https") or not text.startswith(("http://", "https://")):
        raise Wrong("has an endpoint that is neither http:// nor https://", cure)
    host, port = _host_and_port(split.netloc)
    if not re.fullmatch(_HOST, host) or not (port is None or (re.fullmatch(_PORT, port) and 0 < int(port) < 65536)):
        raise Wrong("has an endpoint without a proper host and port", cure)
    if split.path not in ("", "/") or split.query or split.fragment or text.endswith(("?", "#")):
        raise Wrong("has an endpoint with more than a host and a port", cure)
    return text.removesuffix("/")


def _host_and_port(netloc: str) -> tuple[str, str | None]:
    if netloc.startswith("["):
        host, bracket, port = netloc.partition("]")
        return host + bracket, None if port == "" else port.removeprefix(":") if port[0] == ":" else "?"
    host, colon, port = netloc.partition(":")
    return host, port if colon else None


def _region(text: str) -> str:
    if not re.fullmatch(_REGION, text):
        raise Wrong("has a region that is no name", "write it as in region=us-east-1")
    return text


def _imds(text: str) -> bool:
    if text not in ("0", "1"):
        raise Wrong("has imds with another value than 0 or 1", "imds=1 lets the instance's metadata give credentials")
    return text == "1"
