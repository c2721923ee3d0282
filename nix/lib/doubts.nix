# What is accepted and may not be what was meant, in the form of rules.nix: these are warnings.
cfg:

let
  kit = import ./rules/kit.nix;
  inherit (kit) at each eachOf entries option quote rule unless;
  inherit (builtins) attrNames filter;
  presets = builtins.fromTOML (builtins.readFile ../../town/presets.toml);

  said = keys: filter (key: key != null) keys;
  changed = found: usual: name: if found != usual then name else null;
  idle = cure: names: unless (names == [ ]) "nuketown.${kit.joined names}: without effect, ${cure}";

  # Directories of programs that hold a login, declared by their path alone.
  hasLogin = preset: preset.credential or [ ] != [ ];
  ofProgram = path: filter (name: presets.${name}.path == path && hasLogin presets.${name}) (attrNames presets);
  isBare = entry: entry.preset or null == null && entry.class or "data" == "data";
in
[
  (rule "directories with logins" (eachOf cfg (name: agent: map
    (entry: at (option name "persist") (unless
      (cfg.store == null || !isBare entry || ofProgram entry.path == [ ] || kit.claudeDir agent == entry.path)
      ("${quote entry.path} holds a login of ${kit.joined (ofProgram entry.path)}, which goes to the store: "
        + "write { path = ${quote entry.path}; preset = \"${kit.joined (ofProgram entry.path)}\"; }")))
    (entries agent))))

  (rule "Claude Code is not enabled" (each cfg (name: agent:
    let
      found = said [
        (changed agent.claudeCode.settings { } "settings")
        (changed agent.claudeCode.extraPrompt "" "extraPrompt")
        (changed agent.claudeCode.extraAgents { } "extraAgents")
      ];
    in
    at (option name "claudeCode") (unless (agent.claudeCode.enable || found == [ ])
      "${kit.joined found}: without effect, claudeCode.enable is false: set it to true, or leave them out"))))

  (rule "addresses of several" (each cfg (name: agent:
    let
      agents = kit.enabled cfg;
      same = filter (other: other != name && agents.${other}.git.email == agent.git.email) (attrNames agents);
    in
    at (option name "git.email") (unless (same == [ ])
      ("${quote agent.git.email} is that of ${kit.joined same} too: "
        + "commits do not say whose they are; give each its own")))))

  (rule "the person's address" (each cfg (name: agent:
    at (option name "git.email") (unless (cfg.humanUser == null || cfg.humanEmail != agent.git.email)
      "${quote agent.git.email} is the person's: commits of the agent would look like theirs; give it its own"))))

  (rule "options of a disk that is not there" [
    (if cfg.btrfsDevice != null then null else idle "btrfsDevice is null: set it, or leave them out" (said [
      (changed cfg.btrfs.subvolume "@agents" "btrfs.subvolume")
      (changed cfg.btrfs.blank "@agents-blank" "btrfs.blank")
      (changed cfg.wait "30s" "wait")
    ]))
  ])

  (rule "options of a store that is not there" [
    (if cfg.store != null then null else idle "store is null: set it, or leave them out" (said [
      (changed cfg.storeCredentials null "storeCredentials")
      (changed cfg.sync.every "15min" "sync.every")
    ]))
  ])

  (rule "quotas of a disk that is not there" (each cfg (name: agent:
    at (option name "quota") (unless (agent.quota == null || cfg.btrfsDevice != null)
      "quotas are those of btrfs, and btrfsDevice is null: where homes lie on no btrfs the agent stays out"))))
]
