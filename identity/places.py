"""Where the files of `identity` lie beside a spec. Names only: nothing here touches a disk."""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from town.spec import Agent, Spec

IDENTITIES = PurePosixPath("identities")
LOCK = IDENTITIES / "keys.lock.toml"
ALLOWED_SIGNERS = IDENTITIES / "allowed_signers"
REVOKED = IDENTITIES / "revoked.krl"  # PROTOCOL.krl of OpenSSH
JOURNAL = IDENTITIES / ".gen.journal"
LOCKS = PurePosixPath("/run/nuketown/locks")  # root's alone, gone with the boot
SECRETS = PurePosixPath("/run/nuketown/secrets")  # in memory, on the machine where the agents live


@dataclass(frozen=True, slots=True)
class Places:
    """The files of one town: those that gen writes are named relative to `root`, or absolute as the spec says."""

    root: Path
    secrets: Path  # as the spec writes it
    recovery: Path

    def path(self, name: str | PurePosixPath | Path) -> Path:
        """Where a file lies that is named as in the spec, or below identities/."""
        return self.root / name


def places(spec: Spec, out: Path | None = None) -> Places:
    """The places of a town: beside its spec, or below `out`."""
    return Places(spec.beside(Path(), out), spec.town.sops_file, spec.town.recovery_file)


class Named(Protocol):
    """An agent of the spec, or one that left it and whose keys the lock still names."""

    @property
    def name(self) -> str:
        """Its name, which is that of its directory."""


def ssh_public(agent: Named) -> PurePosixPath:
    """The agent's public SSH key, one line as in authorized_keys."""
    return IDENTITIES / agent.name / "ssh.pub"


def gpg_public(agent: Named) -> PurePosixPath:
    """The agent's public OpenPGP key, armored."""
    return IDENTITIES / agent.name / "gpg.asc"


def document(agent: Agent, path: PurePosixPath) -> PurePosixPath:
    """Where a generated document of the agent lies."""
    return IDENTITIES / agent.name / path
