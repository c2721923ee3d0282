"""What the words of a spec may look like: names, e-mail addresses, paths, devices, durations, sizes.

Each function takes the text as it was written, gives the value, or raises Wrong with what is wrong and the cure.
Patterns are matched whole (`fullmatch`): `$` would let a newline pass at the end. They are text, which `re` compiles
and keeps when it first meets them: most specs need few of them, and each takes 0.2 ms.
"""

import re
import unicodedata
from collections.abc import Callable
from pathlib import PurePosixPath

from town.terminal import shown

# What YAML 1.1 reads as a boolean or null when a key stands without quotes (yaml.org/type/bool.html, null.html).
YAML_WORDS = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null", "~"})
_PRIVATE_KEY = r"(?i)AGE-SECRET-KEY-(PQ-)?1[A-Z0-9]{8}|-----BEGIN [A-Z ]*PRIVATE KEY"
LINE_LENGTH = 1000
PATH_MAX = 4096  # bytes, the NUL at the end included (limits.h)

_AGENT = r"[a-z][a-z0-9-]{0,30}"
_UNIX = r"(?=.{1,32}\Z)_{0,2}[A-Za-z][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*"
_LABEL = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
# RFC 5321 allows more; `*`, `?`, `!` and `,` are patterns in ssh's allowed_signers, a leading `-` is an option.
_LOCAL_PART = r"[A-Za-z0-9_][A-Za-z0-9_%+=~'-]*(\.[A-Za-z0-9_%+=~'-]+)*"
_FILE_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
_VARIABLE = r"[A-Za-z_][A-Za-z0-9_]{0,99}"
_SUBVOLUME = r"[A-Za-z0-9@_][A-Za-z0-9@_.+-]{0,199}"
_PROMPT = r"[a-z][a-z0-9-]{0,63}"
_UUID = r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}"
_SIZE = r"[0-9]{1,9}(\.[0-9]{1,3})?[KMGT]"
_LEAST_QUOTA = 1 << 20
_PERCENT = r"[0-9]{1,2}(\.[0-9]{1,3})?%"
_SPAN = r"\s*([0-9]{1,12}(?:\.[0-9]{1,6})?)\s*([A-Za-zµμ]*)"
_KEY_PART = r"[A-Za-z][A-Za-z0-9._-]{0,63}"

# Directories of the system itself: homes that are wiped, or data of agents, do not belong there.
_SYSTEM = frozenset(
    ["/nix/store", "/var/lib", "/var/tmp"]  # noqa: S108 - named to be refused
    + [f"/{name}" for name in ("bin", "boot", "dev", "etc", "home", "lib", "lib32", "lib64", "nix", "proc", "root")]
    + [f"/{name}" for name in ("run", "sbin", "sys", "tmp", "usr", "var")]
)
# Nothing in them is anybody's own either: made anew at each boot, by the kernel, or by whoever installs the system.
_KEPT_FREE = frozenset({
    "/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/nix/store", "/nix/var", "/proc", "/run", "/sbin",
    "/sys", "/usr", "/var/empty", "/var/lib/nixos", "/var/lock", "/var/log", "/var/run",
})  # fmt: skip
# environ(7), bash(1), ld.so(8), systemd's own: what shells and the programs that they start go by.
_OF_LOGINS = frozenset({
    "BASHOPTS", "BASH_ENV", "DBUS_SESSION_BUS_ADDRESS", "ENV", "EUID", "HOME", "IFS", "LOGNAME", "OLDPWD", "PATH",
    "PPID", "PROMPT_COMMAND", "PS4", "PWD", "SHELL", "SHELLOPTS", "TMPDIR", "UID", "USER", "XDG_RUNTIME_DIR",
})  # fmt: skip


class Wrong(ValueError):
    """A text that does not say what its place needs: `what` is wrong, and the `cure`."""

    def __init__(self, what: str, cure: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.cure = cure


def holds_secret(text: str) -> bool:
    """Whether a private key, or the beginning of one, is in the text, in capitals or not."""
    upper = text.upper()
    if text.isascii() and "SECRET-KEY" not in upper and "PRIVATE KEY" not in upper:  # most of it is nothing like one
        return False
    return re.search(_PRIVATE_KEY, text) is not None


def quoted(text: str, length: int = 60) -> str:
    """`text` for a message: in quotes, one safe line, cut at `length`; never a private key."""
    if holds_secret(text):
        return "(a private key, not shown)"
    return f'"{shown(text[:length])}{"…" if len(text) > length else ""}"'


def line(text: str, length: int = LINE_LENGTH) -> str:
    """Text that is one line: no control, bidirectional or invisible formatting characters, at most `length` of them."""
    _refuse_hidden(text, allowed="", categories={"Cc", "Cf", "Cs", "Zl", "Zp"})
    if len(text) > length:
        raise Wrong(f"is too long: {len(text):,} characters", f"at most {length:,} characters fit here")
    return text


def word(text: str) -> str:
    """A line that says something: not empty, and no space at either end."""
    line(text)
    if not text:
        raise Wrong("is empty", "say something here, or leave the key out")
    if text != text.strip():
        raise Wrong(f"{quoted(text)} begins or ends with a space", "remove the space")
    return text


def prose(text: str) -> str:
    """Text of any length in which newline and tab may stand, and no other control character."""
    return _refuse_hidden(text, allowed="\n\t", categories={"Cc", "Cs", "Zl", "Zp"})


def _refuse_hidden(text: str, *, allowed: str, categories: set[str]) -> str:
    if holds_secret(text):
        raise Wrong("holds a private key", "take it out of this file, and make a new one: this one has been seen")
    if text.isascii() and text.isprintable():
        return text
    for character in text:
        if character not in allowed and unicodedata.category(character) in categories:
            kind = "control" if unicodedata.category(character) == "Cc" else "invisible formatting"
            raise Wrong(f"holds the {kind} character U+{ord(character):04X}", "remove it")
    return text


def matching(pattern: str, what: str, cure: str) -> Callable[[str], str]:
    """A check that the whole text matches `pattern`."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, line(text)):
            raise Wrong(f"{quoted(text)} is not {what}", cure)
        return text

    return check


file_name = matching(_FILE_NAME, "a file name", "use letters, digits, `.`, `_` and `-`; begin with a letter or digit")
host_name = matching(_FILE_NAME, "a host name", "use letters, digits, `.`, `_` and `-`; begin with a letter or digit")
variable = matching(_VARIABLE, "a variable's name", "use letters, digits and `_`, and no digit first")
unix_name = matching(_UNIX, "a user's or group's name", "use letters, digits, `_`, `.` and `-`, at most 32")
prompt_name = matching(_PROMPT, "a name for an agent definition", "use lower-case letters, digits and `-`, at most 64")


def own_variable(text: str) -> str:
    """A variable that a login has no meaning for: a secret in `PATH` or `LD_PRELOAD` leaves nothing that starts."""
    if variable(text) in _OF_LOGINS or text.startswith("LD_"):
        raise Wrong(f"{quoted(text)} has a meaning of its own for each login", "name a variable of one program")
    return text


def subvolume(text: str) -> str:
    """One plain component of a path, safe in fstab(5) and in the option `subvol=`."""
    what = "one plain name of a subvolume"
    return matching(_SUBVOLUME, what, "write it without `/`: letters, digits, `@`, `_`, `.`, `+`, `-`")(text)


def agent_name(text: str) -> str:
    """A Unix user, a directory, a top-level key of the SOPS file and a part of unit names, all at once."""
    if not re.fullmatch(_AGENT, text):
        raise Wrong(
            f"{quoted(text)} is not a name for an agent",
            "begin with a lower-case letter; then lower-case letters, digits and `-`, at most 31 characters",
        )
    if text == "sops":
        raise Wrong('an agent may not be called "sops"', "SOPS keeps that key for itself: choose another name")
    if text in YAML_WORDS:
        raise Wrong(f"YAML reads {quoted(text)} as a boolean or null", "choose another name")
    if text.endswith(("-unencrypted", "_unencrypted")):
        raise Wrong(f"{quoted(text)} ends as keys do that SOPS leaves in clear", "choose another name")
    if text == "root":
        raise Wrong('an agent may not be called "root"', "choose another name")
    return text


def domain(text: str) -> str:
    """A DNS name: labels of letters, digits and `-`, at most 200 characters, so that an e-mail address has room."""
    if len(line(text)) > 200 or not all(re.fullmatch(_LABEL, label) for label in text.split(".")):
        raise Wrong(f"{quoted(text)} is not a domain", 'write it as in "signi.local" (xn--… for other letters)')
    return text


def email(text: str) -> str:
    """`name@domain`, in the part of RFC 5321 that is safe in git, GPG and ssh's allowed_signers."""
    local, at, rest = line(text).rpartition("@")
    cure = 'write it as in "ada@signi.local"'
    if not at or len(text) > 254 or len(local) > 64 or not re.fullmatch(_LOCAL_PART, local):
        raise Wrong(f"{quoted(text)} is not an e-mail address that git and GPG can carry", cure)
    try:
        domain(rest)
    except Wrong as error:
        raise Wrong(f"{quoted(text)} is not an e-mail address: its domain is not one", cure) from error
    return text


def person_name(text: str) -> str:
    """The name in a commit and a GPG user id: no `<>()`, and something besides punctuation."""
    word(text)
    if found := sorted(set(text) & set("<>()")):
        raise Wrong(f"{quoted(text)} holds {found[0]}", "git and GPG keep <>() for themselves: leave them out")
    if not any(character.isalnum() for character in text) or len(text) > 200:
        raise Wrong(f"{quoted(text)} is not a name", "write a name with at least one letter, at most 200 characters")
    return text


def absolute(text: str) -> str:
    """An absolute path in its normal form."""
    line(text, PATH_MAX - 1)
    if not text.startswith("/"):
        raise Wrong(f"{quoted(text)} is not an absolute path", "begin it with /")
    if text != "/" and not all(_plain(part) for part in text[1:].split("/")):
        raise Wrong(f"{quoted(text)} is not a normal path", "write it without `.`, `..`, `//` and a `/` at the end")
    return text


def is_system(text: str) -> bool:
    """Whether a path is `/` or a directory that belongs to the system itself."""
    return text == "/" or text in _SYSTEM


def place(text: str) -> str:
    """An absolute path that may hold homes or agents' data: neither `/` nor a directory of the system itself."""
    absolute(text)
    if text == "/":
        raise Wrong("may not be /", "name a directory of its own, such as /agents")
    if any(text == each or text.startswith(f"{each}/") for each in _KEPT_FREE):
        raise Wrong(f"{quoted(text)} belongs to the system", "name a directory of its own, such as /agents")
    if is_system(text):
        raise Wrong(f"{quoted(text)} belongs to the system", f"name a directory of its own, such as {text}/nuketown")
    if ":" in text:
        raise Wrong(f"{quoted(text)} holds a colon", "a home with a colon does not fit into passwd(5): leave it out")
    return text


def beside(text: str) -> str:
    """A YAML file beside or below the spec, or an absolute path to one."""
    line(text)
    cure = "write a path below this file, or an absolute one"
    if not text.startswith("/") and (not text or not all(_plain(part) for part in text.split("/"))):
        raise Wrong(f"{quoted(text)} is not a path beside this file", cure)
    if not text.endswith((".yaml", ".yml")):
        raise Wrong(f"{quoted(text)} is not a YAML file", "let its name end in .yaml")
    return absolute(text) if text.startswith("/") else text


def persist_path(text: str) -> PurePosixPath:
    """A declared path: relative to the home, normal, not the home itself, each component at most 255 bytes."""
    line(text, PATH_MAX - 1)
    if text in ("", ".", "./"):
        raise Wrong("names the home itself, which is wiped at every boot", "name a directory in it")
    if text.startswith(("/", "~")):
        raise Wrong(f"{quoted(text)} is not relative to the home", "write it without the home and without `~`")
    parts = text.split("/")
    if ".." in parts:
        raise Wrong(f"{quoted(text)} leaves the home", "write it without `..`")
    if not all(_plain(part) for part in parts):
        raise Wrong(f"{quoted(text)} is not a normal path", "write it without `.`, `//` and a `/` at the end")
    if any(len(part.encode()) > 255 for part in parts) or len(text.encode()) >= PATH_MAX:
        raise Wrong(f"{quoted(text)} is too long", "a component has at most 255 bytes, a path less than 4096")
    return PurePosixPath(text)


def _plain(part: str) -> bool:
    return part not in ("", ".", "..")


def device(text: str) -> str:
    """What mount(8) takes: `UUID=…` (also for a bare UUID), `LABEL=…`, or an absolute path."""
    line(text)
    tag, equals, value = text.partition("=")
    if re.fullmatch(_UUID, text):
        return f"UUID={text.lower()}"
    if equals and tag == "UUID" and re.fullmatch(_UUID, value):
        return f"UUID={value.lower()}"
    if equals and tag == "LABEL" and _is_label(value):
        return text
    if text.startswith("/") and text != "/":
        return absolute(text)
    raise Wrong(
        f"{quoted(text)} names no device",
        "write a filesystem UUID as `blkid` shows it, LABEL=…, or an absolute path such as /dev/disk/by-id/…",
    )


def _is_label(text: str) -> bool:
    return 0 < len(text.encode()) < 256 and text == text.strip() and not set(text) & set("/\\\"'`$")


def secret_path(text: str) -> str:
    """Where a secret lies in the SOPS file: keys joined by `/`. The text is not repeated: it may be the secret."""
    parts = line(text).split("/")
    if len(parts) > 8 or not all(re.fullmatch(_KEY_PART, part) for part in parts):
        raise Wrong(
            "is not the path of a key in the SOPS file",
            'write keys joined by `/`, as in "ada/ssh-key": letters, digits, `.`, `_`, `-`, a letter first, at most 64',
        )
    if parts[0].lower() == "sops":
        raise Wrong("begins with the key `sops`, which SOPS keeps for itself", "begin with the agent's name")
    if any(part.lower() in YAML_WORDS for part in parts):
        raise Wrong("holds a key that YAML reads as a boolean or null", "choose another key")
    if any(part.endswith(("_unencrypted", "-unencrypted")) for part in parts):
        raise Wrong("holds a key that SOPS would leave in clear", "let no key end in _unencrypted")
    return text


# systemd.time(7), "Parsing Time Spans".
_UNITS = {
    1e-6: "usec us µs μs",
    1e-3: "msec ms",
    1: "seconds second sec s",
    60: "minutes minute min m",
    3600: "hours hour hr h",
    86400: "days day d",
    604800: "weeks week w",
    2629800: "months month M",
    31557600: "years year y",
}
_SECONDS = {unit: seconds for seconds, units in _UNITS.items() for unit in units.split()} | {"": 1}


def seconds(text: str) -> float:
    """A time span as systemd.time(7) writes it, in seconds: `1h 30min` is 5400.0."""
    total, position, cure = 0.0, 0, 'write a time span as in "15min" or "1h 30min"'
    stripped, span = text.rstrip(), re.compile(_SPAN)
    while found := span.match(stripped, position):
        number, unit = found.groups()
        if unit not in _SECONDS:
            raise Wrong(f"{quoted(text)} has the unit {quoted(unit)}, which systemd does not know", cure)
        total += float(number) * _SECONDS[unit]
        position = found.end()
    if position != len(stripped) or not stripped:
        raise Wrong(f"{quoted(text)} is not a time span", cure)
    return total


def every(text: str) -> str:
    """A time span between a second and a year."""
    if not 1 <= seconds(line(text)) <= 31557600:
        raise Wrong(f"{quoted(text)} is outside 1s to 1y", 'write a time span as in "15min"')
    return text


def wait(text: str) -> str:
    """A time span between nothing and ten minutes: how long a boot may wait."""
    if not 0 <= seconds(line(text)) <= 600:
        raise Wrong(f"{quoted(text)} is outside 0s to 10min", 'write a time span as in "30s"')
    return text


def free(text: str) -> str:
    """Space to leave free: a percentage below 100, or a size in powers of 1024."""
    if not re.fullmatch(_PERCENT, line(text)) and not re.fullmatch(_SIZE, text):
        raise Wrong(f"{quoted(text)} is neither a percentage nor a size", 'write it as in "10%" or "20G" (K, M, G, T)')
    return text


def free_bytes(text: str, total: int) -> int:
    """What a checked `free` means on a filesystem of `total` bytes."""
    number, unit = float(text[:-1]), text[-1]
    return int(total * number / 100) if unit == "%" else int(number * 1024 ** (" KMGT".index(unit)))


def quota(text: str) -> str:
    """How much an agent may hold: a size in powers of 1024, at least 1M."""
    if not re.fullmatch(_SIZE, line(text)):
        raise Wrong(f"{quoted(text)} is no size", 'write it as in "20G" (K, M, G, T)')
    if not _LEAST_QUOTA <= size_bytes(text) < 1 << 63:
        raise Wrong(f"{quoted(text)} is no size that a home could have", 'write it as in "20G"; at least "1M"')
    return text


def size_bytes(text: str) -> int:
    """What a checked size means in bytes."""
    return int(float(text[:-1]) * 1024 ** (" KMGT".index(text[-1])))


def rate(text: str) -> float:
    """Bytes a second, above 0: a number, or a size in powers of 1024 (`10M`)."""
    number, unit = (text[:-1], text[-1]) if re.fullmatch(_SIZE, text) else (text, "")
    if not number.replace(".", "", 1).isascii() or not number.replace(".", "", 1).isdigit() or float(number) <= 0:
        raise Wrong(f"{quoted(text)} is no number of bytes a second", 'write it as in "10M" (K, M, G, T)')
    return float(number) * float(1024 ** (" KMGT".index(unit) if unit else 0))
