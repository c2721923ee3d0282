# Configurations, and what holds of each: `holds` gets the evaluated configuration and the messages of the module's
# assertions that do not hold, and says by name whether something is so.
{
  lib,
  homeManager,
  impermanence,
  sops,
}:

let
  rolled = {
    nuketown.btrfsDevice = "38b243a0-c875-4758-8998-cc6c6a4c451e";
  };
  refused = words: failed: {
    "it is accepted" = true; # it is not, and shall not be
    "it is refused with the cure" = lib.any (lib.hasInfix words) failed;
  };
  # home-manager.users as a whole asks each user's configuration; this one is of the system.
  unitOf = config: name: config.systemd.services."home-manager-${name}";
in
{
  plain = {
    modules = [ ./town.nix ];
    holds =
      { config, ... }:
      {
        "accounts have the numbers of the configuration" = config.users.users.ada.uid == 1100;
        "homes are made by the boot, not by activation" = !config.users.users.ada.createHome;
        "the spec is made of the options" = lib.hasInfix "[agents.vox]" config.nuketown.build.townText;
        "the spec is where the programs look" = config.environment.etc ? "nuketown/town.toml";
        "accounts are closed in each PAM service" =
          lib.all (service: service.rules.account ? nuketown-agent && service.rules.account ? nuketown-open) (
            lib.attrValues config.security.pam.services
          );
        "nothing is mounted on agentsDir" = !(config.fileSystems ? "/agents");
      };
  };

  rollback = {
    modules = [
      ./town.nix
      rolled
      { boot.initrd.systemd.enable = true; }
    ];
    holds =
      { config, ... }:
      {
        "the hook runs in the initrd" = config.boot.initrd.systemd.services ? nuketown-initrd-rollback;
        "the initrd can mount btrfs" = config.boot.initrd.supportedFilesystems.btrfs or false;
        "the person's boot does not wait for the homes" = lib.elem "nofail" config.fileSystems."/agents".options;
      };
  };

  scripted-initrd = {
    modules = [
      ./town.nix
      rolled
      { boot.initrd.systemd.enable = false; }
    ];
    holds = { failed, ... }: refused "boot.initrd.systemd.enable" failed;
  };

  same-uid = {
    modules = [
      ./town.nix
      { nuketown.agents.vox.uid = lib.mkForce 1100; }
    ];
    holds = { failed, ... }: refused "1100" failed;
  };

  home-manager = {
    modules = [
      ./town.nix
      homeManager
      { home-manager.useGlobalPkgs = true; }
    ];
    holds =
      { config, ... }:
      {
        "each agent has an environment" = config.home-manager.users ? ada && config.home-manager.users ? vox;
        "it is made before keys come" = lib.elem "nuketown-identity@ada.service" (unitOf config "ada").before;
        "no login of others waits for it" =
          !(lib.elem "systemd-user-sessions.service" (unitOf config "ada").before)
          && (unitOf config "ada").wantedBy == [ ];
      };
  };

  sops-nix = {
    modules = [
      ./town.nix
      sops
      {
        nuketown.sopsFile = ../../tests/fixtures/sops/age-two-recipients.yaml;
        nuketown.agents.ada.secrets.sshKey = "ada/ssh-key";
      }
    ];
    holds =
      { config, ... }:
      {
        "what an agent names is a secret of its own" = config.sops.secrets."ada/ssh-key".owner == "ada";
        "none lies in a home" =
          lib.all (secret: lib.hasPrefix "/run/secrets" secret.path) (lib.attrValues config.sops.secrets);
      };
  };

  impermanence = {
    modules = [
      ./town.nix
      impermanence
      { environment.persistence."/persist".users.ada.directories = [ "projects" ]; }
    ];
    holds = { failed, ... }: refused "projects" failed;
  };
}
