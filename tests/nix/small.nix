# The smallest system that the module evaluates in: users, filesystems, services and PAM are declared, with no types of
# their own, and the rest is free. Whatever else NixOS declares may be missing.
{
  nixpkgsLib,
  modules,
}:

let
  lib = import (nixpkgsLib + "/lib");
  inherit (lib) mkOption types;

  pkgs = import ./stub/pkgs.nix {
    inherit lib;
    packages = { };
  };
  free = types.submodule { freeformType = types.attrsOf types.anything; };
  set = mkOption {
    type = types.attrsOf free;
    default = { };
  };
  list = mkOption {
    type = types.listOf types.unspecified;
    default = [ ];
  };
in
lib.evalModules {
  specialArgs.utils.escapeSystemdPath = path: path;
  modules = [
    {
      freeformType = types.lazyAttrsOf types.anything;
      options = {
        assertions = list;
        warnings = list;
        users = { users = set; groups = set; };
        fileSystems = set;
        systemd.services = set;
        security.pam.services = set;
      };
      config._module.args.pkgs = pkgs;
    }
  ]
  ++ modules;
}
