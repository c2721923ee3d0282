# What is refused, and what is warned about. What needs the options of nuketown alone is in lib/rules.nix and
# lib/doubts.nix; here stands what the rest of the system says: accounts, groups, who is trusted.
{ config, lib, ... }:

let
  nuketown = import ./lib.nix;
  cfg = config.nuketown;
  agents = nuketown.enabled cfg;

  assertion = rule: {
    assertion = rule.offenders == [ ];
    message = lib.concatStringsSep "\n" rule.offenders;
  };
  rule = name: offenders: { inherit name offenders; };
  isInHomes = account: nuketown.inside cfg.agentsDir (toString (account.home or ""));
  isUndeclared = cfg.humanUser != null && !(config.users.mutableUsers or true)
    && !(config.users.users ? ${cfg.humanUser});

  # Accounts and groups of others that have a number of an agent.
  others = found: key: number:
    lib.attrNames (lib.filterAttrs (other: one: !(agents ? ${other}) && one.${key} or null == number) found);
  clash = option: found: key: of: lib.concatLists (lib.mapAttrsToList
    (name: agent:
      let
        same = others found key (of agent);
      in
      lib.optional (same != [ ])
        ("nuketown.agents.${name}.${key}: ${toString (of agent)} is that of ${option}.${lib.head same} too: "
          + "give the agent a number that no account has"))
    agents);

  # Whoever is in them is root, or can become it without being asked.
  mighty = [ "wheel" "root" "disk" "libvirtd" "docker" "podman" "lxd" "incus-admin" "shadow" "kmem" "sudo" ];
  groupsOf = name:
    let
      account = config.users.users.${name} or { };
      listed = lib.attrNames (lib.filterAttrs (_: group: lib.elem name (group.members or [ ])) config.users.groups);
    in
    lib.unique ([ (account.group or "") ] ++ account.extraGroups or [ ] ++ listed);
  mightyOf = name: lib.intersectLists mighty (groupsOf name);

  # nix.conf(5): names, `@` and a group, or `*`; what comes by the extra- form may be one text.
  settings = config.nix.settings or { };
  trusted = lib.concatMap (found: lib.splitString " " found) (
    lib.toList (settings.trusted-users or [ ]) ++ lib.toList (settings.extra-trusted-users or [ ])
  );
  trustedAs = name: lib.intersectLists ([ name ] ++ map (group: "@${group}") (groupsOf name)) trusted;

  # What /etc has of the store. A link to a file of the machine, by its path as text, is none of it.
  inherit (config.environment) etc;
  isStored = entry: lib.isPath entry.source || lib.hasPrefix builtins.storeDir (toString entry.source);
  isAt = name: found: nuketown.inside "/etc/${etc.${name}.target or name}" (toString found);
  storedAs = found: lib.filter
    (name: found != null && isAt name found && etc.${name}.enable or true && isStored etc.${name})
    (lib.attrNames etc);
  keys = {
    inherit (cfg) storeCredentials;
    "hostKey.age" = cfg.hostKey.age;
    "hostKey.ssh" = cfg.hostKey.ssh;
    "hostKey.gnupg" = cfg.hostKey.gnupg;
  };
in
{
  config = lib.mkIf cfg.enable {
    assertions = map assertion (nuketown.rules cfg ++ [
      (rule "uids of the system" (clash "users.users" config.users.users "uid" (agent: agent.uid)))
      (rule "gids of the system" (clash "users.groups" config.users.groups "gid" (agent: agent.gid)))

      (rule "homes of others are elsewhere" (lib.concatLists (lib.mapAttrsToList
        (name: account: lib.optional (!(agents ? ${name}) && isInHomes account)
          ("users.users.${name}.home: ${account.home} lies in nuketown.agentsDir, which begins empty at each boot: "
            + "choose another home"))
        config.users.users)))

      (rule "agents are no one of the system" (lib.concatMap
        (name: lib.optional (config.users.users.${name}.isSystemUser or false)
          "nuketown.agents.${name}: users.users.${name} is an account of the system: choose another name for the agent")
        (lib.attrNames agents)))

      (rule "keys of the machine are not in the store by way of /etc" (lib.concatLists (lib.mapAttrsToList
        (key: found: map
          (entry: "nuketown.${key}: ${toString found} is environment.etc.\"${entry}\", which lies in the Nix store, in "
            + "clear: name a file that the machine has by itself, such as \"/run/secrets/…\", and make a new key")
          (storedAs found))
        keys)))
    ]);

    warnings = lib.concatMap (found: found.offenders) (nuketown.doubts cfg)
      ++ lib.concatMap
        (name: lib.optional (mightyOf name != [ ])
          ("nuketown.agents.${name}: is in ${lib.concatStringsSep ", " (mightyOf name)}, which makes it root unasked: "
            + "take it out of users.users.${name}.extraGroups and of the group's members"))
        (lib.attrNames agents)
      ++ lib.concatMap
        (name: lib.optional (trustedAs name != [ ])
          ("nuketown.agents.${name}: is in nix.settings.trusted-users (${lib.head (trustedAs name)}), which makes it "
            + "root unasked: take it out; nix.settings.allowed-users is enough to build"))
        (lib.attrNames agents)
      ++ lib.optional (lib.elem "*" trusted)
      "nuketown: nix.settings.trusted-users has \"*\", which makes every agent root: name the people that are meant"
      ++ lib.optional isUndeclared
      "nuketown.humanUser: there is no account \"${cfg.humanUser}\": declare users.users.${cfg.humanUser}";
  };
}
