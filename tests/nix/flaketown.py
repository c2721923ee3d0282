"""A flake in a git checkout of its own, and `nix run .#identity` in it, with the real evaluator."""

import os
import subprocess
import sys
from pathlib import Path

from pyrage import x25519

from town import process

CHECKOUT = Path(__file__).parent.parent.parent
SCRIPT = CHECKOUT / "nix/identity.sh"

# What the module makes of options, as far as this program asks for it: `lib.nix` is the one of the module.
_FLAKE = """{
  outputs =
    { self }:
    let
      lib = import ./lib.nix;
      town = {
        town = {
          domain = "signi.local";
          # As the module has it: the file by itself in the store, or where it is going to be.
          sops_file =
            if SOPS == null then
              null
            else if builtins.pathExists SOPS then
              "${SOPS}"
            else
              toString SOPS;
          recovery_file = "secrets/recovery.yaml";
          recipients.humans = [ "HUMAN" ];
          host_key.age = "KEY";
        };
        agents.ada = {
          uid = 1100;
          git.signing = "ssh";
          secrets.extra.token = "ada/token";
        };
      };
      nuketown = {
        sopsFile = SOPS;
        identities = IDENTITIES;
        recoveryFile = "secrets/recovery.yaml";
        build = {
          inherit town;
          townText = lib.toTOML town;
        };
      };
    in
    {
      nixosConfigurations = {
        signi.config = { inherit nuketown; };
        MORE
      };
    };
}
"""


class Town:
    """A flake in a git checkout, and the program in it."""

    def __init__(self, top: Path, below: str = ".") -> None:
        self.top, self.private = top / "town", top / "private"
        self.flake = self.top / below
        self.store, self.host_key, self.human = top / "store", top / "age.key", top / "human.txt"
        key = x25519.Identity.generate()
        self.recipient = str(key.to_public())
        self.human.parent.mkdir(exist_ok=True)
        self.human.write_text(f"{key}\n")
        self.flake.mkdir(parents=True)
        self.private.mkdir()
        git(self.top, "init", "--quiet", "--initial-branch=main")

    def write(self, sops: str, *, identities: str = "null", more: str = "") -> None:
        """Write the flake and commit it."""
        text = _FLAKE.replace("SOPS", sops).replace("IDENTITIES", identities).replace("MORE", more)
        (self.flake / "flake.nix").write_text(text.replace("HUMAN", self.recipient).replace("KEY", str(self.host_key)))
        process.run(["cp", "-r", CHECKOUT / "nix/lib", CHECKOUT / "nix/lib.nix", self.flake])
        self.commit()

    def commit(self) -> None:
        """Commit all that is in the checkout."""
        git(self.top, "add", ".")
        git(self.top, "-c", "user.name=h", "-c", "user.email=h@example.org", "commit", "-qm", "town")

    def run(
        self, *words: str, feed: str = "", cwd: Path | None = None, path: str | None = None
    ) -> "subprocess.CompletedProcess[str]":
        """The program, as `nix run` starts it."""
        env = {
            "PATH": path or f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": "/nonexistent",
            "TMPDIR": str(self.private),
            "XDG_CACHE_HOME": str(self.store.parent / "cache"),
            "NIX_CONFIG": f"store = {self.store}",
            "SOPS_AGE_KEY_FILE": str(self.human),
            "NUKETOWN_CHECKOUT": str(CHECKOUT / "nix/checkout.nix"),
        }
        where = self.flake if cwd is None else cwd
        argv = ["bash", str(SCRIPT), *words]
        return subprocess.run(argv, env=env, cwd=where, input=feed, capture_output=True, text=True, check=False)


def git(where: Path, *words: str) -> str:
    return process.run(["git", "-C", where, *words], env={"HOME": "/nonexistent"}).out.decode()
