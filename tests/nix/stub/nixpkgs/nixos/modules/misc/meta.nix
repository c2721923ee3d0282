# What home-manager takes from nixpkgs by path.
{ lib, ... }:

{
  options.meta = lib.mkOption {
    type = lib.types.attrsOf lib.types.anything;
    default = { };
  };
}
