# What `config.nuketown` is after an evaluation, for tests that have the evaluator and no lib of nixpkgs: the defaults
# of nix/options.nix, and on top of them what a test says. test_options.py holds these against the real ones.
{
  town ? { },
  agents ? { },
}:

let
  inherit (builtins) isAttrs mapAttrs;
  inherit (import ../../nix/lib.nix) promptName;

  # As lib.recursiveUpdate, and a set that stands for a whole value (attrs, settings) is merged just the same.
  merge =
    under: over:
    let
      isBoth = name: isAttrs over.${name} && isAttrs (under.${name} or null);
    in
    under // mapAttrs (name: value: if isBoth name then merge under.${name} value else value) over;

  agent =
    name: said:
    let
      made = merge (base name) said;
      claude = made.claudeCode.enable;
    in
    # Defaults that follow what else is said.
    merge made (
      merge {
        gid = made.uid;
        claudeCode.agentName = promptName name made.role;
        prompts = {
          runtimes = if claude then [ "claude-code" "agents-md" ] else [ "agents-md" ];
          name = if claude then made.claudeCode.agentName or (promptName name made.role) else null;
          tools = if claude then [ "Read" "Edit" "Write" "Bash" "Glob" "Grep" ] else [ ];
          settings = if claude then made.claudeCode.settings else { };
          extra = if claude then made.claudeCode.extraPrompt else "";
        };
      } said
    );

  base = name: {
    enable = true;
    role = "general";
    description = "";
    git = { inherit name; email = "${name}@${all.domain}"; signing = true; };
    persist = [ "projects" ];
    delivered = [ ];
    quota = null;
    secrets = { sshKey = null; gpgKey = null; gpgEncryption = false; extraSecrets = { }; env = { }; };
    devices = [ ];
    sudo = { enable = false; commands = [ ]; };
    claudeCode = { enable = false; settings = { }; extraPrompt = ""; extraAgents = { }; };
    prompts = { };
  };

  all = merge {
    enable = true;
    domain = "signi.local";
    agentsDir = "/agents";
    persistDir = "/persist";
    store = null;
    storeCredentials = null;
    machine = null;
    sopsFile = null;
    recoveryFile = "secrets/recovery.yaml";
    identities = null;
    humanUser = null;
    humanName = if all.humanUser == null then null else all.humanUser;
    humanEmail = if all.humanUser == null then null else "${all.humanUser}@${all.domain}";
    recipients = { humans = [ ]; hosts = { }; };
    hostKey = { age = null; ssh = null; gnupg = null; };
    btrfsDevice = null;
    btrfs = { subvolume = "@agents"; blank = "@agents-blank"; };
    wait = "30s";
    keep = { homes = 5; days = 14; free = "10%"; };
    sync = { every = "15min"; keep = { last = 48; hourly = 0; daily = 14; weekly = 8; monthly = 0; yearly = 0; }; };
  } town;
in
all // { agents = mapAttrs agent agents; }
