# Every option of nuketown.*; it evaluates alone: what a default takes from the rest of the configuration, or from pkgs,
# is asked for only when that default is read. One file a part: options/.
{ lib, ... }:

{
  imports = [
    ./options/town.nix
    ./options/human.nix
    ./options/storage.nix
    ./options/keys.nix
    ./options/agents.nix
    ./options/build.nix
  ];

  options.nuketown.enable = lib.mkEnableOption "agents as Unix users, whose homes begin empty at each boot";
}
