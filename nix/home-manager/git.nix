# git's configuration of an agent whose public keys are not known when the system is built: what `identity` writes
# (identity/gitconfig.py; a test compares), without the fingerprint. gpg finds its key by the agent's address.
{
  agent,
  cfg,
  lib,
  name,
}:

let
  nuketown = import ../lib.nix;
  signing = if agent.git.signing == true then "gpg" else agent.git.signing;
  signs = signing != false;

  # Declared data of no program, hidden nowhere: what the agent works on.
  isProject = entry:
    let
      parts = lib.splitString "/" entry.path;
    in
    entry.class or "data" == "data"
    && entry.type or "directory" == "directory"
    && !(entry ? preset)
    && !(lib.any (lib.hasPrefix ".") parts)
    && lib.last parts != "*";
  projects = map (entry: "${cfg.agentsDir}/${name}/${entry.path}") (
    lib.filter isProject (nuketown.persistOf agent)
  );
in
lib.generators.toGitINI (
  {
    user = {
      inherit (agent.git) name email;
    }
    // lib.optionalAttrs (signing == "ssh") { signingKey = "~/.ssh/id_ed25519.pub"; };
    commit.gpgSign = signs;
    tag.gpgSign = signs;
    gpg = {
      ssh.allowedSignersFile = "~/.config/git/allowed_signers";
      ssh.revocationFile = "~/.config/git/revoked.krl";
    }
    // lib.optionalAttrs signs { format = if signing == "gpg" then "openpgp" else "ssh"; };
  }
  // lib.optionalAttrs (projects != [ ]) {
    safe.directory = lib.concatMap (path: [ path "${path}/*" ]) projects;
  }
)
