# Public halves of keys: on the machine, where the programs look for them, and the documents that speak of them.
{ config, lib, pkgs, ... }:

let
  nuketown = import ./lib.nix;
  documents = import ./documents.nix;
  cfg = config.nuketown;

  agents = nuketown.agentNames cfg;
  known = lib.filter (documents.isKnown cfg.identities) agents;
  unknown = lib.subtractLists known agents;
  store = "${cfg.identities}";

  # Every file below a directory of the checkout, by its path there. Links are left out, as identity follows none.
  files = below:
    lib.concatLists (
      lib.mapAttrsToList (
        name: kind:
        if kind == "directory" then
          files "${below}${name}/"
        else
          lib.optional (kind == "regular") "${below}${name}"
      ) (builtins.readDir (cfg.identities + "/${below}"))
    );

  # A copy instead of a link into the store: identity reads no link below identities/, for in a checkout anybody who can
  # commit could plant one. With a mode, NixOS copies (nixos/modules/system/etc/etc.nix).
  copied = file: lib.nameValuePair "nuketown/identities/${file}" { source = "${store}/${file}"; mode = "0444"; };
in
{
  config = lib.mkIf cfg.enable {
    environment.etc = lib.mkIf (cfg.identities != null) (lib.listToAttrs (map copied (files "")));

    # One directory for each agent whose keys are made, laid out as its home is. The lock decides which keys are in use.
    nuketown.build.documents =
      if known == [ ] then
        pkgs.runCommand "nuketown-documents" { } ''
          mkdir -p -- "$out"
        ''
      else
        pkgs.runCommand "nuketown-documents" { nativeBuildInputs = [ cfg.package ]; } ''
          mkdir town
          cp -r -- ${lib.escapeShellArg store} town/identities
          identity --spec ${cfg.build.townFile} documents --out town --to "$out" ${lib.escapeShellArgs known}
        '';

    warnings = lib.optional (unknown != [ ]) (
      "nuketown: there are no public keys yet of ${lib.concatStringsSep ", " unknown}"
      + lib.optionalString (cfg.identities == null) " (nuketown.identities is null)"
      + ", so this system has no documents of theirs. In the checkout of its flake: "
      + "`nix run .#identity -- gen ${lib.concatStringsSep " " unknown}`, then `git add` what that writes "
      + "and build again."
    );
  };
}
