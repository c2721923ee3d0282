# The spec (docs/formats/spec.md) made of the evaluated options: an attribute set for `toTOML`.
let
  inherit (builtins)
    any attrNames attrValues elem filter getContext head isAttrs isBool isPath listToAttrs mapAttrs pathExists storeDir
    stringLength substring;

  # Without nixpkgs' lib, for this file needs nothing but builtins.
  filterAttrs = keep: set:
    listToAttrs (map (name: { inherit name; value = set.${name}; }) (filter (name: keep set.${name}) (attrNames set)));
  orNull = condition: value: if condition then value else null;

  # What an evaluation may look at: a path, or text that names what is in the store already. Not what a build makes, for
  # which it would have to wait (an import from derivation).
  isThere = found:
    (isPath found || substring 0 (stringLength storeDir) found == storeDir)
    && !any (one: one ? outputs || one ? allOutputs) (attrValues (getContext "${toString found}"))
    && pathExists found;

  # A path of the checkout is copied into the store by itself, so the system holds the file and not the whole checkout.
  # Where it is not there yet (before the first `identity gen`) its place is named and nothing is copied.
  file = found:
    if found == null then null
    else if isPath found && !pathExists found then toString found
    else "${found}";

  enabled = cfg: filterAttrs (agent: agent.enable) cfg.agents;

  # An entry of persist as a table; null stands for "the default of the spec".
  entry = found: if isAttrs found then found else { path = found; };
  plain = found: filterAttrs (value: value != null) (entry found);

  claudeDirs = [ ".claude" ".config/claude" ];
  isBareClaude = found: !((entry found) ? preset && (entry found).preset != null) && elem (entry found).path claudeDirs;

  # Claude Code's directory, declared by its path alone, as a login that would otherwise go to the store whole: the
  # first one gets the preset. Where an entry says the preset itself, nothing is added.
  claudeDir = agent:
    let
      bare = filter isBareClaude agent.persist;
      named = filter (found: (entry found).preset or null == "claude-code") agent.persist;
    in
    orNull (agent.claudeCode.enable && bare != [ ] && named == [ ]) (entry (head bare)).path;

  persist = agent:
    let
      dir = claudeDir agent;
      isIt = found: dir != null && found.path == dir && isBareClaude found;
      preset = found: if isIt found then { preset = "claude-code"; } else { };
    in
    map (found: plain found // preset (entry found)) agent.persist;

  signing = found: if isBool found then (if found then "gpg" else false) else found;

  agent = name: found: {
    inherit (found) uid gid role description delivered quota;
    persist = persist found;
    git = { inherit (found.git) name email; signing = signing found.git.signing; };
    secrets = {
      ssh_key = found.secrets.sshKey;
      gpg_key = found.secrets.gpgKey;
      gpg_encryption = found.secrets.gpgEncryption;
      extra = found.secrets.extraSecrets;
      inherit (found.secrets) env;
    };
    # Nothing grants root yet: the documents would tell the agent of a command that it does not have.
    sudo = false;
    devices = map (device: { inherit (device) subsystem attrs action permission group; }) found.devices;
    prompts = { inherit (found.prompts) runtimes name tools settings extra; };
  };

  keep = cfg: { inherit (cfg.keep) homes days free; };

  town = cfg: {
    town = {
      inherit (cfg) domain store machine;
      agents_dir = cfg.agentsDir;
      persist_dir = if cfg.persistDir == null then "none" else cfg.persistDir;
      sops_file = file cfg.sopsFile;
      recovery_file = cfg.recoveryFile;
      store_credentials = orNull (cfg.storeCredentials != null) (toString cfg.storeCredentials);
      human = orNull (cfg.humanUser != null) { user = cfg.humanUser; name = cfg.humanName; email = cfg.humanEmail; };
      recipients = orNull (cfg.recipients.humans != [ ] || cfg.recipients.hosts != { }) {
        inherit (cfg.recipients) humans hosts;
      };
      host_key = mapAttrs (_: found: orNull (found != null) (toString found)) {
        inherit (cfg.hostKey) age ssh gnupg;
      };
      btrfs = orNull (cfg.btrfsDevice != null) {
        device = cfg.btrfsDevice;
        inherit (cfg.btrfs) subvolume blank;
        inherit (cfg) wait;
        keep = keep cfg;
      };
      # Beside [town.btrfs] it is refused: there it is a part of that.
      keep = orNull (cfg.btrfsDevice == null) (keep cfg);
      sync = {
        inherit (cfg.sync) every;
        keep = { inherit (cfg.sync.keep) last hourly daily weekly monthly yearly; };
      };
    };
    agents = mapAttrs agent (enabled cfg);
  };
in
{
  inherit claudeDir enabled file isThere town;
  agentNames = cfg: attrNames (enabled cfg);
  persistOf = persist;
  # `identities` beside the directory of the secrets, where gen puts it: secrets/agents.yaml and identities/.
  identitiesOf = sopsFile:
    let
      found = dirOf (dirOf sopsFile) + "/identities";
    in
    orNull (sopsFile != null && isThere found) found;
  # As the programs make it: the first label of the host name, for a host without one (DHCP gives it) a word for it.
  hostDomain = hostName:
    let
      label = head (builtins.split "\\." (builtins.replaceStrings [ "_" ] [ "-" ] hostName));
    in
    "${if label == "" then "nuketown" else label}.local";
}
