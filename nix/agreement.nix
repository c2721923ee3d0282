# The accounts of the system against those of the spec. The programs know an agent by what the spec says of it: an
# account that differs would be somebody else's, or nobody's.
{ config, lib, options, ... }:

let
  nuketown = import ./lib.nix;
  cfg = config.nuketown;
  agents = nuketown.enabled cfg;
  inherit (config.users) users groups;
  inherit (builtins) toJSON;

  # Each with the option, what it is, and what it has to be.
  said = name: agent:
    let
      account = users.${name};
      group = groups.${name};
      user = key: wanted: { option = "users.users.${name}.${key}"; found = account.${key} or wanted; inherit wanted; };
      home = "${cfg.agentsDir}/${name}";
    in
    [
      (user "name" name)
      (user "enable" true)
      (user "uid" agent.uid)
      (user "group" name)
      (user "home" home)
      # A home that NixOS made while the system is activated would stand in the place of the fresh one.
      (user "createHome" false)
      { option = "users.groups.${name}.name"; found = group.name or name; wanted = name; }
      { option = "users.groups.${name}.gid"; found = group.gid; wanted = agent.gid; }
    ]
    ++ lib.optionals (options ? home-manager && config.home-manager.users ? ${name}) (
      let
        of = config.home-manager.users.${name}.home;
        option = key: "home-manager.users.${name}.home.${key}";
      in
      [
        { option = option "username"; found = of.username; wanted = name; }
        { option = option "homeDirectory"; found = of.homeDirectory; wanted = home; }
      ]
    );
  shown = value: if lib.isPath value then toString value else toJSON value;
  differs = one: toString one.found != toString one.wanted;
  differences = name: agent: map
    (one: "nuketown.agents.${name}: ${one.option} is ${shown one.found} and not ${shown one.wanted}, which the programs"
      + " go by: take that definition out, or change nuketown.agents.${name} or nuketown.agentsDir")
    (lib.filter differs (said name agent));

  # An account of another attribute that is called like an agent.
  namesake = other: one:
    lib.optional (!(agents ? ${other}) && agents ? ${one.name or other})
      "nuketown.agents.${one.name}: users.users.${other}.name is ${toJSON one.name} too: choose another name";

  # NixOS numbers people who have no uid from 1000 on, or as the machine has them already. Which that is cannot be seen
  # here, and an agent with it would be that person. No machine has a hundred people whom nobody numbered.
  people = lib.filterAttrs (name: one: !(agents ? ${name}) && one.isNormalUser or false && one.enable or true) users;
  isUnnumbered = key: one: one.${key} or null == null;
  ofPeople = lib.filter (group: groups ? ${group} && isUnnumbered "gid" groups.${group}) (
    lib.unique (map (one: one.group or "") (lib.attrValues people))
  );
  unnumbered = map (name: { what = "users.users.${name}"; key = "uid"; how = "id -u ${name}"; })
    (lib.attrNames (lib.filterAttrs (_: isUnnumbered "uid") people))
  ++ map (name: { what = "users.groups.${name}"; key = "gid"; how = "getent group ${name}"; }) ofPeople;
  isLow = number: number >= 1000 && number < 1100;
  low = name: agent: map (key: { inherit key name; number = agent.${key}; }) (
    lib.optional (isLow agent.uid) "uid" ++ lib.optional (isLow agent.gid && agent.gid != agent.uid) "gid"
  );
  lows = lib.concatLists (lib.mapAttrsToList low agents);
  perhaps = one:
    let
      other = lib.head unnumbered;
    in
    "nuketown.agents.${one.name}.${one.key}: ${toString one.number} may be the number of ${other.what}, which says"
    + " none: give ${other.what}.${other.key} the one that the machine has (${other.how}), or the agent one"
    + " from 1100 on";

  isUnknown = cfg.humanUser != null && !(users ? ${cfg.humanUser}) && config.users.mutableUsers or true;

  refuse = offenders: {
    assertion = offenders == [ ];
    message = lib.concatStringsSep "\n" offenders;
  };
in
{
  config = lib.mkIf cfg.enable {
    assertions = [
      (refuse (lib.concatLists (lib.mapAttrsToList differences agents)))
      (refuse (lib.concatLists (lib.mapAttrsToList namesake users)))
      (refuse (lib.optionals (unnumbered != [ ]) (map perhaps lows)))
    ];

    # Made by hand, so the configuration cannot know the number.
    warnings = lib.optionals isUnknown (map
      (one: "nuketown.agents.${one.name}.${one.key}: ${toString one.number} may be the number of ${cfg.humanUser},"
        + " whose account is not in this configuration: give the agent one from 1100 on, or declare"
        + " users.users.${cfg.humanUser}.uid")
      lows);
  };
}
