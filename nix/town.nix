# /etc/nuketown/town.toml: the one spec that every program reads, made of the options and checked when it is built.
{ config, lib, options, pkgs, ... }:

let
  nuketown = import ./lib.nix;
  cfg = config.nuketown;
  town = nuketown.town cfg;
  text = ''
    # Made by the NixOS module from the options nuketown.*: change them, not this file.

    ${nuketown.toTOML { inherit (town) town; }}
    ${nuketown.toTOML { inherit (town) agents; }}'';
in
{
  config = lib.mkIf cfg.enable {
    nuketown.build = {
      inherit town;
      townText = text;
      # 3 says that there are warnings: they stand in the log of the build. What is wrong (78) ends it.
      townFile = pkgs.runCommand "town.toml"
        {
          inherit text;
          passAsFile = [ "text" ];
          nativeBuildInputs = [ cfg.package ];
        }
        ''
          cp -- "$textPath" town.toml
          status=0
          persist --spec town.toml check || status=$?
          case $status in
            0 | 3) cp -- town.toml "$out" ;;
            *) exit "$status" ;;
          esac
        '';
    };

    # Only a build looks at the package. The default is not looked at here: that would be all of its packages.
    assertions = lib.optional (options.nuketown.package.highestPrio < (lib.mkOptionDefault null).priority) {
      assertion = !(lib.elem null options.nuketown.package.definitions);
      message = "nuketown.package is null: name the package of persist and identity, or leave it out";
    };

    environment.etc."nuketown/town.toml".source = cfg.build.townFile;
    environment.systemPackages = [ cfg.package ];
  };
}
