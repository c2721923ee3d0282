# Public halves of keys: on the machine, where the programs look for them, and the documents that speak of them.
{ config, lib, pkgs, ... }:

let
  nuketown = import ./lib.nix;
  documents = import ./documents.nix;
  cfg = config.nuketown;

  agents = nuketown.agentNames cfg;
  isKeyless = cfg.sopsFile == null;
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

  list = lib.concatStringsSep ", ";
  withoutPublic =
    "there are no public keys yet of ${list unknown}"
    + lib.optionalString (cfg.identities == null) " (nuketown.identities is null)"
    + ", so this system has no documents of theirs. ";

  signing = lib.filter (name: cfg.agents.${name}.git.signing != false) agents;
  waiting = lib.filter (name: cfg.agents.${name}.secrets.extraSecrets != { }) agents;
  withoutKeys =
    "nuketown.sopsFile is null, so no agent has an SSH key or an OpenPGP key. "
    + lib.optionalString (signing != [ ])
      "Commits of ${list signing} are to be signed, so git refuses to make them; git.signing = false turns that off. "
    + lib.optionalString (waiting != [ ])
      "${list waiting} cannot log in: secrets.extraSecrets are in no file. ";

  # In the order in which it is done: the file is there when gen ends, and git does not know of it yet.
  cure =
    if unknown == [ ] then
      "Set nuketown.sopsFile = ./secrets/agents.yaml, or what `identity gen` wrote, and build again."
    else
      "In the checkout of its flake: `nix run .#identity -- gen ${lib.concatStringsSep " " unknown}`, then "
      + lib.optionalString isKeyless "set nuketown.sopsFile = ./secrets/agents.yaml, "
      + "`git add` what that writes and build again.";
in
{
  # Declared a second time, so that a part of an agent can depend on the rest of the town.
  options.nuketown.agents = lib.mkOption {
    type = lib.types.attrsOf (
      lib.types.submodule {
        # Without a secrets file there are no keys to be had: `identity install` looks for none, and the agent comes.
        config.delivered = lib.mkIf (cfg.enable && isKeyless) [ ".ssh/id_ed25519" ".gnupg" ];
      }
    );
  };

  config = lib.mkIf cfg.enable {
    # Before the first `identity gen` a directory that is named is not there yet.
    environment.etc = lib.mkIf (cfg.identities != null && builtins.pathExists cfg.identities) (
      lib.listToAttrs (map copied (files ""))
    );

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

    warnings = lib.optional (unknown != [ ] || isKeyless) (
      "nuketown: " + lib.optionalString (unknown != [ ]) withoutPublic + lib.optionalString isKeyless withoutKeys + cure
    );
  };
}
