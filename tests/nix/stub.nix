# Evaluates modules as NixOS would, without nixpkgs: its `lib` alone is real. What a package would be is a value that
# remembers what it was made of (stub/pkgs.nix); the options of NixOS that are met here have the types that they have
# there (stub/system.nix and those beside it). What is not declared is an error: a misspelt option does not pass.
{
  nixpkgsLib,
  modules,
  packages ? { },
}:

let
  lib = import (nixpkgsLib + "/lib");
  pkgs = import ./stub/pkgs.nix { inherit lib packages; };

  # nixos/lib/utils.nix: a path as the name of a unit (systemd-escape --path).
  escapeSystemdPath =
    path:
    let
      plain = lib.concatStringsSep "/" (lib.filter (part: part != "") (lib.splitString "/" path));
      escaped = lib.strings.escapeC (lib.stringToCharacters " !\"#$%&'()*+,;<=>@[\\]^`{|}~-") plain;
      first = if lib.hasPrefix "." escaped then lib.strings.escapeC [ "." ] "." else "";
      dotted = first + lib.removePrefix "." escaped;
    in
    if plain == "" then "-" else lib.replaceStrings [ "/" ] [ "-" ] dotted;

  pathsNeededForBoot = [ "/" "/nix" "/nix/store" "/var" "/var/log" "/var/lib" "/var/lib/nixos" "/etc" "/usr" ];
  fsNeededForBoot = fs: fs.neededForBoot || lib.elem fs.mountPoint pathsNeededForBoot;
in
lib.evalModules {
  class = "nixos";
  specialArgs = {
    modulesPath = "/nixos/modules";
    utils = { inherit escapeSystemdPath fsNeededForBoot pathsNeededForBoot; };
  };
  modules = [
    ./stub/system.nix
    ./stub/accounts.nix
    ./stub/systemd.nix
    { _module.args.pkgs = lib.mkDefault pkgs; }
  ]
  ++ modules;
}
