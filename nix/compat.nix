# What a configuration says and this version does not carry out is said, by the name of each option that is set.
{ config, lib, options, ... }:

let
  nuketown = import ./lib.nix;
  cfg = config.nuketown;
  agents = nuketown.enabled cfg;

  # Set by anybody: a default that an option declares for itself has the priority 1500 (lib.mkOptionDefault).
  isSet = option: option.highestPrio < (lib.mkOptionDefault null).priority;
  saysSomething = option: isSet option && !lib.elem option.value [ false null "" [ ] { } ];
  named = set: lib.filter saysSomething (lib.collect lib.isOption set);
  names = set: map (option: lib.showOption option.loc) (named set);

  later = options: {
    inherit (options) sudo portal daemon xmpp;
  };

  warn = what: found: lib.optional (found != [ ]) "nuketown: ${lib.concatStringsSep ", " found}: ${what}";

  withoutEffect =
    "accepted, and without effect in this version: no portal, no root by approval, no daemon and no chat, "
    + "and agents are told of none. Nothing else depends on it; leave it for a later version, or take it out.";
  needsHome =
    "is for home-manager, which is not imported, and has no effect. "
    + "Import home-manager.nixosModules.home-manager, or take it out.";
  preset = name: dir:
    "nuketown: agents.${name}.persist: ${dir} is kept with the preset claude-code, for claudeCode.enable is set: "
    + "Claude Code is told of the directory, its login stays on this machine and its caches are not sent. "
    + "To say so yourself: { path = \"${dir}\"; preset = \"claude-code\"; }.";

  presets = lib.filterAttrs (_: dir: dir != null) (lib.mapAttrs (_: nuketown.claudeDir) agents);
in
{
  # What is set of an agent can only be asked among its own options.
  options.nuketown.agents = lib.mkOption {
    type = lib.types.attrsOf (
      lib.types.submodule (
        { options, ... }:
        {
          options.notCarriedOut = lib.mkOption {
            type = lib.types.listOf lib.types.str;
            internal = true;
            readOnly = true;
            description = "The options of this agent that are set and that this version does not carry out.";
          };
          options.forHomeManager = lib.mkOption {
            type = lib.types.listOf lib.types.str;
            internal = true;
            readOnly = true;
            description = "The options of this agent that are set and that need home-manager.";
          };
          config.notCarriedOut = names (later options);
          config.forHomeManager = map (option: lib.showOption option.loc) (
            # Nobody else looks at them then: what is of another type is told here.
            lib.filter (option: isSet option && builtins.seq option.value true) [
              options.extraHomeConfig
              options.claudeCode.extraAgents
            ]
          );
        }
      )
    );
  };

  config = lib.mkIf cfg.enable {
    warnings =
      warn withoutEffect (
        names { inherit (options.nuketown) projectDirs; }
        ++ lib.concatMap (agent: agent.notCarriedOut) (lib.attrValues agents)
      )
      ++ lib.optionals (!(options ? home-manager)) (
        warn needsHome (lib.concatMap (agent: agent.forHomeManager) (lib.attrValues agents))
      )
      ++ lib.mapAttrsToList preset presets;
  };
}
