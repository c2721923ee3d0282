# For the home-manager configuration of the person who works with agents. Its options are those that configurations of
# nuketown have; there is no root by approval in this version, so whatever is set is said to have no effect.
{ config, lib, ... }:

let
  inherit (lib) mkOption types;
  cfg = config.nuketown.approvalDaemon;
  later = "Accepted, and without effect in this version.";

  text = default: example: what: mkOption {
    type = types.nullOr types.str;
    inherit default example;
    description = "${what} ${later}";
  };
  switch = what: mkOption {
    type = types.bool;
    default = false;
    example = true;
    description = "${what} ${later}";
  };
in
{
  options.nuketown.approvalDaemon = {
    enable = switch "The service that asks a person whether an agent may run a command as root.";
    xmpp = {
      enable = switch "Asking by XMPP as well.";
      jid = text null "josh@example.com" "The address of the service.";
      resource = text "nuketown-broker" "nuketown-broker" "The resource of that address.";
      passwordFile = text null "/run/secrets/xmpp" "The file of its password.";
    };
  };

  config.warnings = lib.optional (cfg.enable || cfg.xmpp.enable) (
    "nuketown.approvalDaemon: accepted, and without effect in this version, which gives agents no root by approval. "
    + "Nothing else depends on it; leave it for a later version, or take it out."
  );
}
