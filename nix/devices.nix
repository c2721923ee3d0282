# Devices that agents may use: rules of udev, and the groups that they name.
{ config, lib, pkgs, ... }:

let
  nuketown = import ./lib.nix;
  cfg = config.nuketown;

  devices = lib.filterAttrs (_: found: found != [ ]) (
    lib.mapAttrs (_: agent: agent.devices) (nuketown.enabled cfg)
  );
  rules = import ./udev.nix { setfacl = lib.getExe' pkgs.acl "setfacl"; } devices;
  groups = map (device: device.group) (lib.concatLists (lib.attrValues devices));
in
{
  config = lib.mkIf cfg.enable {
    # Last of all rules (99-local.rules): a rule of logind's that sets the list of the seat's user comes before.
    services.udev.extraRules = lib.mkIf (devices != { }) rules;

    # udev passes over a group that is not there. `plugdev` is none of NixOS's own.
    users.groups = lib.genAttrs groups (_: { });
  };
}
