# What all agents of a machine share.
{ config, lib, pkgs, ... }:

let
  inherit (lib) literalExpression literalMD mkOption types;
  nuketown = import ../lib.nix;
in
{
  options.nuketown = {
    package = mkOption {
      type = types.package;
      default = pkgs.nuketown or (import ../packages.nix pkgs).nuketown;
      defaultText = literalMD "pkgs.nuketown, or what nix/package.nix of this checkout makes";
      example = literalExpression "inputs.nuketown.packages.x86_64-linux.default";
      description = "The programs `persist` and `identity`, the hook of the initrd with them.";
    };

    domain = mkOption {
      type = types.str;
      default = nuketown.hostDomain (config.networking.hostName or "");
      defaultText = literalExpression ''"''${config.networking.hostName}.local"'';
      example = "signi.local";
      description = "The domain of the agents' e-mail addresses.";
    };

    agentsDir = mkOption {
      type = types.str;
      default = "/agents";
      example = "/srv/agents";
      description = ''
        The directory of the agents' homes. It begins empty at each boot: nothing else may keep anything there.
      '';
    };

    basePackages = mkOption {
      type = types.listOf types.package;
      default = [ pkgs.git pkgs.ripgrep pkgs.fd pkgs.jq pkgs.curl pkgs.tree pkgs.tmux ];
      defaultText = literalExpression "with pkgs; [ git ripgrep fd jq curl tree tmux ]";
      example = literalExpression "[ pkgs.git pkgs.ripgrep pkgs.gh ]";
      description = "Packages that every agent has. A list of your own takes the place of this one.";
    };

    projectDirs = mkOption {
      type = types.listOf types.str;
      default = [ "~/dev" ];
      example = [ "~/dev" "~/work" ];
      description = "Where a portal would look for projects. Accepted, and without effect in this version.";
    };

    machine = mkOption {
      type = types.nullOr types.str;
      default = null;
      example = "0123456789abcdef0123456789abcdef";
      description = ''
        Which machine holds an agent in the store: 32 hex digits in lower case, different on each machine. null: each
        machine makes one and keeps it below `persistDir`; only a machine whose `persistDir` does not last needs it
        here.
      '';
    };
  };
}
