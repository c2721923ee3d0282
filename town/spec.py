"""town.toml as frozen values: the one thing that every other module is told.

`load` and `parse` check everything once, at the border (`town.reading` holds how); behind them nothing is checked
again. What a key means and its default: docs/formats/spec.md.
"""

import json
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple

from town.failure import WrongUsage
from town.process import Person
from town.terminal import shown

Via = Literal["bind", "store", "both"]
Class = Literal["data", "cache", "credential"]
Type = Literal["directory", "file"]
Signing = Literal["gpg", "ssh", "none"]
WAIT = "30s"  # how long a boot waits for a disk, unless the spec says otherwise


class Human(NamedTuple):
    """The person whose machine this is."""

    user: str
    name: str
    email: str


class Recipients(NamedTuple):
    """Who can open the secrets: age1…, ssh-ed25519 … or an OpenPGP fingerprint (upper-case hex), at least one human."""

    humans: tuple[str, ...]
    hosts: tuple[tuple[str, str], ...] = ()  # (host name, recipient)

    @property
    def all(self) -> tuple[str, ...]:
        """Humans first, then hosts, each once, in the order of the spec."""
        return tuple(dict.fromkeys([*self.humans, *(recipient for _, recipient in self.hosts)]))


class HostKey(NamedTuple):
    """Private keys that open secrets on this machine: the first file that exists, and the keys of a GnuPG home."""

    age: Path = Path("/var/lib/nuketown/age.key")
    ssh: Path = Path("/etc/ssh/ssh_host_ed25519_key")
    gnupg: Path | None = None


class KeepHomes(NamedTuple):
    """Which homes that were set aside stay: newest `homes`, younger than `days`, while `free` is left on the disk."""

    homes: int = 5
    days: int = 14
    free: str = "10%"  # a percentage, or a size such as 20G


class Btrfs(NamedTuple):
    """Where @agents lives. `device` as mount(8) takes it: `UUID=…`, `LABEL=…` or an absolute path."""

    device: str
    subvolume: str = "@agents"
    blank: str = "@agents-blank"
    keep: KeepHomes = KeepHomes()
    wait: str = WAIT  # as systemd.time(7) writes a time span

    @property
    def wait_seconds(self) -> int:
        """How long a boot waits for a device that is not there yet, in whole seconds, rounded up."""
        from math import ceil

        from town import grammar

        return ceil(grammar.seconds(self.wait))

    @property
    def old(self) -> str:
        """The directory at the top level that holds homes set aside."""
        return f"{self.subvolume}-old"

    @property
    def snapshots(self) -> str:
        """The directory at the top level that holds snapshots taken on purpose."""
        return f"{self.subvolume}-snapshots"

    @property
    def ballast(self) -> str:
        """The subvolume at the top level that may be destroyed when metadata is full."""
        return f"{self.subvolume}-ballast"


class KeepSnapshots(NamedTuple):
    """Which store snapshots `prune` leaves."""

    last: int = 48
    hourly: int = 0
    daily: int = 14
    weekly: int = 8
    monthly: int = 0
    yearly: int = 0


class Sync(NamedTuple):
    """How often declared data goes to the store, and how long its history stays."""

    every: str = "15min"  # as systemd.time(7) writes a time span
    keep: KeepSnapshots = KeepSnapshots()


class Persist(NamedTuple):
    """One declared path. `path` is relative to the home, normal, and overlaps no other."""

    path: PurePosixPath
    via: Via
    class_: Class = "data"
    preset: str | None = None
    required: bool = True
    type: Type = "directory"
    upload: bool = False  # whether what is a credential here may go to the store

    @property
    def copied(self) -> bool:
        """Whether it is a file: that is copied into the home and out of it, never bound."""
        return self.type == "file"

    @property
    def bound(self) -> bool:
        """Whether it is a directory that lies under persist_dir and is bound into the home."""
        return self.via in ("bind", "both") and not self.copied

    @property
    def apart(self) -> bool:
        """Whether its data lies below a directory of root's, and not in the home."""
        return self.bound or self.copied

    @property
    def synced(self) -> bool:
        """Whether it goes to the store: caches never do, credentials where the spec says so."""
        sent = self.class_ == "data" or (self.class_ == "credential" and self.upload)
        return sent and self.via in ("store", "both")


class Git(NamedTuple):
    """The name that commits carry, and how they are signed."""

    name: str
    email: str
    signing: Signing = "gpg"


class Secrets(NamedTuple):
    """Where the agent's secrets lie in the SOPS file, as `key/key` paths; `gpg_key` is None when it has none."""

    ssh_key: str
    gpg_key: str | None
    extra: tuple[tuple[str, str], ...] = ()  # (file name under /run/nuketown/secrets/AGENT, path in the SOPS file)
    env: tuple[tuple[str, str], ...] = ()  # (variable, name in `extra`)
    gpg_encryption: bool = False  # whether the OpenPGP key has a subkey that others encrypt to


class Device(NamedTuple):
    """One udev match that gives the agent access."""

    subsystem: str
    attrs: tuple[tuple[str, str], ...]
    action: str = "add|bind"
    permission: str = "rw"
    group: str = "plugdev"


class Prompts(NamedTuple):
    """Which runtimes get documents, and what they say beyond the identity."""

    runtimes: tuple[str, ...]
    name: str
    tools: tuple[str, ...] = ()
    settings_json: str = "{}"  # canonical JSON: a frozen, comparable form of a free table
    extra: str = ""

    @property
    def settings(self) -> dict[str, Any]:
        """The settings as a fresh tree that the caller may change."""
        tree: dict[str, Any] = json.loads(self.settings_json)
        return tree


class Agent(NamedTuple):
    """One agent: a Unix user that may not be in /etc/passwd yet."""

    name: str
    uid: int
    gid: int
    role: str
    description: str
    persist: tuple[Persist, ...]
    git: Git
    secrets: Secrets
    sudo: bool
    devices: tuple[Device, ...]
    prompts: Prompts
    delivered: tuple[PurePosixPath, ...] = ()  # in the home, brought by others: `identity install` leaves it alone
    quota: str | None = None  # what home and persisted data may hold together: a size such as 20G; None: no limit

    @property
    def quota_bytes(self) -> int | None:
        """The quota in bytes; None: no limit."""
        from town import grammar

        return None if self.quota is None else grammar.size_bytes(self.quota)

    @property
    def person(self) -> Person:
        """The ids that the agent's own programs run with."""
        return Person(self.uid, self.gid)


class Town(NamedTuple):
    """What all agents of a machine share."""

    domain: str
    agents_dir: Path
    persist_dir: Path | None
    store: str | None  # a checked URL: s3://… or file:///…
    sops_file: Path  # relative to the spec, or absolute
    recovery_file: Path
    human: Human | None
    store_credentials: Path | None
    recipients: Recipients | None  # None: the creation rules of .sops.yaml
    host_key: HostKey
    btrfs: Btrfs | None
    sync: Sync
    machine: str | None = None  # 32 hex digits; None: an id that each machine makes for itself
    keep: KeepHomes = KeepHomes()  # of homes that a restore sets aside, where there is no [town.btrfs]


class Spec(NamedTuple):
    """One town. `file` is where it was read from and no part of its value."""

    town: Town
    agents: tuple[Agent, ...]
    file: Path = Path("town.toml")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Spec) and self[:2] == other[:2]

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(self[:2])

    def agent(self, name: str) -> Agent:
        """The agent of that name. Raises WrongUsage that names the nearest one."""
        for agent in self.agents:
            if agent.name == name:
                return agent
        from difflib import get_close_matches

        names = [agent.name for agent in self.agents]
        near = get_close_matches(name[:60], names, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"the spec has {', '.join(names)}"
        raise WrongUsage(f'the spec has no agent "{shown(name[:60])}"', hint=hint)

    def chosen(self, names: Sequence[str]) -> tuple[Agent, ...]:
        """The agents of those names, each once, in the order of the spec; without names all. Raises WrongUsage."""
        wanted = [self.agent(name) for name in names]
        return tuple(agent for agent in self.agents if not names or agent in wanted)

    def home(self, agent: Agent) -> Path:
        """Where the agent's home is mounted."""
        return self.town.agents_dir / agent.name

    def beside(self, path: Path, out: Path | None = None) -> Path:
        """A path of the spec, relative ones beside the spec file or below `out`."""
        return (out if out is not None else self.file.parent) / path

    @property
    def state_dir(self) -> Path:
        """Root's own records on this machine: leases, lineage, the newest generation seen. Never an agent's."""
        persist_dir = self.town.persist_dir
        return Path("/var/lib/nuketown") if persist_dir is None else persist_dir / ".nuketown"


def load(file: Path) -> Spec:
    """The spec in a file: a regular one of at most 1 MiB, checked whole. Raises BadSpec with every problem found."""
    from town import reading  # which imports this module

    return reading.load(file)


def parse(data: bytes, file: Path) -> Spec:
    """The spec that `data` says; relative paths are judged from where `file` lies. Raises BadSpec."""
    from town import reading

    return reading.parse(data, file)


def dump(spec: Spec) -> str:
    """The spec as TOML with every default written out: parsed again, it is equal."""
    from town import writing

    return writing.dump(spec)
