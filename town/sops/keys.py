"""Private keys at hand, where they come from, and the data key opened with them."""

import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from town import accounts, files
from town.failure import Unsafe
from town.sops import gpg, unwrap
from town.sops.errors import NoKey
from town.sops.metadata import Group
from town.sops.recipients import age_identity
from town.spec import HostKey
from town.terminal import shell_word, shown

_MAX_KEY_FILE = 1 << 20
_MAX_LINKS = 20
_MAX_HOME = 86
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class _Secret:
    """One private key: an age identity (text), or an OpenSSH private key (PEM)."""

    kind: str
    material: str = field(repr=False)


@dataclass(frozen=True, slots=True, repr=False)
class Keys:
    """What private keys are at hand. `a | b` joins them; no text of it shows key material."""

    secrets: tuple[_Secret, ...] = ()
    gnupg_homes: tuple[Path, ...] = ()
    looked: tuple[str, ...] = ()  # where keys were looked for
    notes: tuple[str, ...] = ()  # what was found there and could not be used
    cure: str = ""

    def __repr__(self) -> str:
        return f"Keys({len(self.secrets)} private keys; looked in {', '.join(self.looked) or 'no place'})"

    def __or__(self, other: "Keys") -> "Keys":
        return Keys(
            secrets=_joined(self.secrets, other.secrets),
            gnupg_homes=_joined(self.gnupg_homes, other.gnupg_homes),
            looked=_joined(self.looked, other.looked),
            notes=_joined(self.notes, other.notes),
            cure=self.cure or other.cure,
        )

    @property
    def recipients(self) -> tuple[str, ...]:
        """The age recipients (`age1…`) that these keys open files of; OpenPGP keys are not asked for."""
        import pyrage

        ages = (one.material for one in self.secrets if one.kind == "age")
        return tuple(str(pyrage.x25519.Identity.from_str(text).to_public()) for text in ages)

    @classmethod
    def of_host(cls, host_key: HostKey) -> "Keys":
        """The first of the machine's age file and SSH host key that exists, and the keys of its GnuPG home.

        None is an error only when one is needed. Raises Unsafe when others than its owner can read or replace one,
        NoKey when a file holds no usable key.
        """
        if (home := host_key.gnupg) is not None:
            refuse_shared(home)
            return cls.of_host(host_key._replace(gnupg=None)) | cls.of_gnupg_home(home)
        looked = (str(host_key.age), str(host_key.ssh))
        for path, read in ((host_key.age, _age_file), (host_key.ssh, _ssh_file)):
            if os.path.lexists(path):
                refuse_shared(path)
                return cls(read(path), looked=looked)
        return cls(looked=looked, cure="make the machine's key: identity host init")

    @classmethod
    def of_age_file(cls, path: Path) -> "Keys":
        """The identities of an age key file, as age-keygen writes it. Raises Unreadable, NoKey."""
        return cls(_age_file(path), looked=(str(path),))

    @classmethod
    def of_ssh_file(cls, path: Path) -> "Keys":
        """An unencrypted OpenSSH private key of type ed25519. Raises Unreadable, NoKey."""
        return cls(_ssh_file(path), looked=(str(path),))

    @classmethod
    def of_gnupg_home(cls, home: Path) -> "Keys":
        """The private OpenPGP keys of a gpg home; nothing in it is changed."""
        place = home.absolute()
        # The socket of gpg-agent lies in the home, and the path of a socket is short (unix(7)).
        too_long = len(os.fsencode(place)) > _MAX_HOME
        note = f"{shown(str(place))} is longer than the {_MAX_HOME} characters that gpg-agent can work with"
        return cls(gnupg_homes=(place,), looked=(str(home),), notes=(note,) if too_long else ())

    @classmethod
    def of_person(cls) -> "Keys":
        """What sops 3 finds for the caller: $SOPS_AGE_KEY, $SOPS_AGE_KEY_FILE, sops/age/keys.txt in the configuration
        directory, $SOPS_AGE_SSH_PRIVATE_KEY_FILE, ~/.ssh/id_ed25519 and the gpg keyring.

        A place that holds nothing usable is passed over and named when no other key opens the file.
        """
        return _of_person()

    def data_key(self, groups: Sequence[Group], threshold: int, name: str) -> bytes:
        """The data key (32 bytes) of a file, age recipients first. Raises NoKey, BadSopsFile."""
        return unwrap.data_key(self, groups, threshold, name)


def _joined(ours: tuple[_T, ...], theirs: tuple[_T, ...]) -> tuple[_T, ...]:
    return tuple(dict.fromkeys([*ours, *theirs]))


def _age_file(path: Path) -> tuple[_Secret, ...]:
    return _age_secrets(_text(path), str(path))


def _text(path: Path) -> str:
    try:
        return files.read_bounded(path, _MAX_KEY_FILE).decode("utf-8")
    except UnicodeDecodeError:
        raise NoKey(f"{shown(str(path))} is not a text file with a private key") from None


def _age_secrets(text: str, where: str) -> tuple[_Secret, ...]:
    """The identities of a key file: one a line, `#` begins a comment."""
    import pyrage

    found = []
    for line in filter(None, (line.strip() for line in text.splitlines())):
        if line.startswith("#"):
            continue
        try:
            pyrage.x25519.Identity.from_str(line)
        except pyrage.IdentityError:
            raise NoKey(
                f"{shown(where)}: a line of it is no age private key (AGE-SECRET-KEY-1…)",
                hint="plugin and post-quantum identities are not supported: use what age-keygen writes",
            ) from None
        found.append(_Secret("age", line))
    if not found:
        raise NoKey(f"{shown(where)} holds no age private key", hint="make one in a new file: age-keygen -o FILE")
    return tuple(found)


def _ssh_file(path: Path) -> tuple[_Secret, ...]:
    return ssh_secrets(_text(path), str(path))


def ssh_secrets(pem: str, where: str) -> tuple[_Secret, ...]:
    """An SSH private key as the age identity of the same key, and as itself for raw ssh-ed25519 recipients."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_ssh_private_key

    try:
        key = load_ssh_private_key(pem.encode(), password=None)
    except TypeError:  # the library's word for "a passphrase is needed"
        raise NoKey(
            f"{shown(where)} is protected by a passphrase, which nobody can type here",
            hint="use an age key (age-keygen), or a copy without a passphrase: ssh-keygen -p",
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise NoKey(f"{shown(where)} is not an OpenSSH private key", hint="make one: ssh-keygen -t ed25519") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise NoKey(f"{shown(where)} is not an ed25519 key", hint="make one: ssh-keygen -t ed25519")
    return (_Secret("age", age_identity(key.private_bytes_raw())), _Secret("ssh", pem))


def refuse_shared(path: Path) -> None:
    """Refuse a key file that others than root and the caller can read or replace. Raises Unsafe with the cure."""
    for place in _trail(path):
        found = os.lstat(place)
        name, word = shown(place), shell_word(place)
        if found.st_uid not in (0, os.geteuid()):
            raise Unsafe(f"{name} belongs to uid {found.st_uid}", hint=f"chown root: {word}")
        if stat.S_ISLNK(found.st_mode):
            continue
        if stat.S_ISDIR(found.st_mode):
            # In a sticky directory (/tmp) others can add names, but not replace ours.
            if found.st_mode & 0o022 and not found.st_mode & stat.S_ISVTX:
                raise Unsafe(f"others can write in {name}, so they can replace the key", hint=f"chmod go-w {word}")
        elif not stat.S_ISREG(found.st_mode):
            raise Unsafe(f"{name} is not a regular file")
        elif found.st_mode & 0o077:
            raise Unsafe(f"others can read the private key {name}", hint=f"chmod 0400 {word}")


def _trail(path: Path) -> list[str]:
    """Every name that is looked up on the way to a file: directories, links and what they lead to."""
    pending = list(reversed(Path(os.path.abspath(path)).parts[1:]))
    here, trail, links = "/", ["/"], 0
    while pending:
        part = pending.pop()
        here = os.path.dirname(here) if part == ".." else os.path.join(here, part)
        trail.append(here)
        if not os.path.islink(here):
            continue
        links += 1
        if links > _MAX_LINKS:
            raise Unsafe(f"{shown(str(path))} goes through too many links")
        target = Path(os.readlink(here))
        pending += reversed(target.parts[1:] if target.is_absolute() else target.parts)
        here = "/" if target.is_absolute() else os.path.dirname(here)
    if not os.path.exists(here):
        raise Unsafe(
            f"{shown(str(path))} is a link to a file that does not exist", hint="remove it, or make its target"
        )
    return trail


def _of_person() -> Keys:
    environment, home = os.environ, accounts.own_home()
    config = Path(environment.get("XDG_CONFIG_HOME") or home / ".config")
    keys = Keys()
    if "SOPS_AGE_KEY" in environment:
        words = "\n".join(environment["SOPS_AGE_KEY"].split())
        keys |= _tried("$SOPS_AGE_KEY", lambda: _age_secrets(words, "$SOPS_AGE_KEY"))
    for path, read, named in (
        (environment.get("SOPS_AGE_KEY_FILE"), _age_file, True),
        (config / "sops/age/keys.txt", _age_file, False),
        (environment.get("SOPS_AGE_SSH_PRIVATE_KEY_FILE"), _ssh_file, True),
        (home / ".ssh/id_ed25519", _ssh_file, False),
    ):
        if path:
            keys |= _from_file(Path(path), read, named=named)
    return keys | Keys.of_gnupg_home(gpg.home_of_caller())


def _from_file(path: Path, read: Callable[[Path], tuple[_Secret, ...]], *, named: bool) -> Keys:
    """What a file gives, if anything; that it is missing is worth a note only when it was asked for by name."""
    if not named and not os.path.exists(path):
        return Keys(looked=(str(path),))
    return _tried(str(path), lambda: read(path))


def _tried(where: str, read: Callable[[], tuple[_Secret, ...]]) -> Keys:
    try:
        return Keys(read(), looked=(where,))
    except (NoKey, files.Unreadable) as error:
        return Keys(looked=(where,), notes=(error.what,))
