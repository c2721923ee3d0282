# home-manager, where it is imported: an environment for each agent, made in each fresh home before the agent comes.
{ config, lib, options, pkgs, utils, ... }:

let
  nuketown = import ./lib.nix;
  documents = import ./documents.nix;
  cfg = config.nuketown;

  # Where it is not imported its options do not exist, and even mkIf false may not name one.
  isThere = options ? home-manager;
  agents = lib.optionalAttrs cfg.enable (nuketown.enabled cfg);

  # Documents of keys that are still to be made cannot be rendered: until then the unit brings them at boot.
  isLinked = documents.isKnown cfg.identities;

  # The order of a boot (docs/boot.md): homes and what was fetched into them, this, keys, the account. `requiredBy`
  # holds the agent back where this fails. Nothing of it is in the way of anybody else: home-manager would have it
  # started by multi-user.target, before logins are allowed.
  service = name: agent: {
    wantedBy = lib.mkForce [ ];
    before = lib.mkForce [
      "nuketown-identity@${name}.service"
      "nuketown-open@${name}.service"
      "nuketown-agent@${name}.target"
    ];
    # After the sweep, too: the agent's profile of the last boot, which an activation would take over, goes with that.
    # And after leave@: while the last sync still reads the home, nothing is put into it.
    after = [
      "nuketown-homes.service"
      "nuketown-sweep.service"
      "nuketown-restore@${name}.service"
      "nuketown-bind@${name}.service"
      "nuketown-leave@${name}.service"
    ];
    requiredBy = [ "nuketown-open@${name}.service" ];
    # What it would put into an empty directory would be in the way of what is fetched.
    requires =
      lib.optional (cfg.btrfsDevice != null) "nuketown-mount.service"
      ++ lib.optional (import ./stored.nix cfg agent) "nuketown-bind@${name}.service";
    # It ends with the agent, so that it runs again when the agent comes back, perhaps to another home.
    partOf = [ "nuketown-agent@${name}.target" ];
    # A restart would take what requires it along: the agent, with all that it runs. A new configuration is put into a
    # home that is in use as it is put into a fresh one.
    reloadIfChanged = true;
    serviceConfig.ExecReload = pkgs.writeScript "nuketown-home-manager-${name}" ''
      #! ${pkgs.runtimeShell} -el
      exec ${config.home-manager.users.${name}.home.activationPackage}/activate${driver}
    '';
  };
  # As home-manager starts it by itself (its nixos/default.nix); before it had this option there was nothing to say.
  driver = lib.optionalString (options.home-manager ? enableLegacyProfileManagement) (
    if config.home-manager.enableLegacyProfileManagement then " --driver-version 0" else " --driver-version 1"
  );
  unit = name: "home-manager-${utils.escapeSystemdPath name}";

  # Without home-manager the packages are the account's own.
  packages = agent:
    cfg.basePackages
    ++ agent.packages
    ++ lib.optional (agent.claudeCode.enable && agent.claudeCode.package != null) agent.claudeCode.package;
in
{
  # Declared a second time, so that a part of an agent can depend on the rest of it.
  options.nuketown.agents = lib.mkOption {
    type = lib.types.attrsOf (
      lib.types.submodule (
        { name, config, ... }:
        {
          # git's configuration is home-manager's in either case (home-manager/agent.nix).
          config.delivered = lib.mkIf (isThere && cfg.enable) (
            if isLinked name then documents.paths config else [ documents.gitConfig ]
          );
        }
      )
    );
  };

  config = lib.mkMerge [
    (lib.optionalAttrs isThere {
      assertions = lib.optional (agents != { }) {
        assertion = !(config.home-manager.startAsUserService or false); # an option that not every release has
        message = ''
          nuketown: home-manager.startAsUserService would make an agent's environment only when it is there already, and
          keep its first login waiting for it. Set home-manager.startAsUserService = false.
        '';
      };

      home-manager.users = lib.mapAttrs (name: agent: {
        imports = [
          (import ./home-manager/agent.nix {
            inherit agent cfg name;
            isLinked = isLinked name;
            stateVersion = config.system.stateVersion;
          })
          agent.extraHomeConfig
        ];
      }) agents;

      systemd.services = lib.mapAttrs' (name: agent: lib.nameValuePair (unit name) (service name agent)) agents;
    })

    (lib.optionalAttrs (!isThere) {
      users.users = lib.mapAttrs (_: agent: { packages = packages agent; }) agents;
    })
  ];
}
