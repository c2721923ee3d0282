# The secrets file, who can open it, and the public half that stands beside it.
{ config, lib, ... }:

let
  inherit (lib) literalExpression literalMD mkOption types;
  nuketown = import ../lib.nix;
  cfg = config.nuketown;
  key = usual: example: what: mkOption {
    type = types.nullOr types.path;
    default = null;
    defaultText = literalMD usual;
    inherit example;
    description = "${what} A string: a path without quotes would be copied into the Nix store, which everybody reads.";
  };
in
{
  options.nuketown = {
    sopsFile = mkOption {
      type = types.nullOr types.path;
      default = null;
      example = literalExpression "./secrets/agents.yaml";
      description = ''
        The SOPS file of the agents' secrets, a file of the checkout: it is encrypted, so it may lie in the Nix store.
        `nix run .#identity -- gen` makes it. null: agents have no keys and no secrets of their own; those that lie in a
        home by another hand (`.ssh/id_ed25519`, `.gnupg`) are left as they are.
      '';
    };

    sopsSecrets = mkOption {
      type = types.bool;
      default = true;
      example = false;
      description = ''
        With sops-nix: whether what agents name are `sops.secrets` too, in /run/secrets. sops-nix installs all secrets
        of a machine or none (those apart that are `neededForUsers`): where this machine cannot open `sopsFile`, the
        person's are missing as well. false: agents get theirs by `identity install` alone, which concerns nobody else.
        Without sops-nix it has no effect.
      '';
    };

    recoveryFile = mkOption {
      type = types.str;
      default = "secrets/recovery.yaml";
      example = "secrets/humans.yaml";
      description = ''
        Where `identity gen` puts what only humans may open, in the checkout: primary keys and revocation
        certificates. No machine needs it, and none gets it.
      '';
    };

    identities = mkOption {
      type = types.nullOr types.path;
      default = nuketown.identitiesOf cfg.sopsFile;
      defaultText = literalMD "identities/ beside the directory of sopsFile, where it exists";
      example = literalExpression "./identities";
      description = "The directory of the public keys that `identity gen` wrote. null: none yet, for a first build.";
    };

    recipients = {
      humans = mkOption {
        type = types.listOf types.str;
        default = [ ];
        example = [ "age122tdud7k2y8d4nsmnu8ymmh8x64pv42vya3xr9x59ljeuw2vevgsz6e2xk" ];
        description = ''
          Who can open the secrets: `age1…`, `ssh-ed25519 AAAA…`, or a whole OpenPGP fingerprint. Empty, like `hosts`:
          the creation rules in .sops.yaml say it.
        '';
      };

      hosts = mkOption {
        type = types.attrsOf types.str;
        default = { };
        example = { signi = "age13du3mtpekxl6wrdydf8n23vwqvyypr95qm0cs8zrymeqcv04svlqtmkpt5"; };
        description = "The machines that can open the secrets, each by its name.";
      };
    };

    hostKey = {
      age = key "\"/var/lib/nuketown/age.key\", or sops.age.keyFile of sops-nix" "/var/lib/nuketown/age.key"
        "The age key that opens the secrets on this machine.";
      ssh = key "\"/etc/ssh/ssh_host_ed25519_key\", or what sops.age.sshKeyPaths of sops-nix has"
        "/etc/ssh/ssh_host_ed25519_key"
        "The SSH key of the machine, for where there is no age key.";
      gnupg = key "no such home, or sops.gnupg.home of sops-nix" "/var/lib/nuketown/gnupg"
        "A GnuPG home whose private keys open the secrets besides.";
    };
  };
}
