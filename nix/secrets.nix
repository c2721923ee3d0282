# sops-nix, where it is imported: the agents' secrets are secrets of its own too, at the paths in /run/secrets where
# other services look for them. Into homes and /run/nuketown/secrets `identity install` puts them, with or without it.
{ config, lib, options, ... }:

let
  nuketown = import ./lib.nix;
  documents = import ./documents.nix;
  cfg = config.nuketown;
  sops = config.sops;

  # A file of the checkout that is not there yet, before the first `identity gen`, is no reason not to evaluate.
  inCheckout = lib.isPath cfg.sopsFile || lib.hasPrefix builtins.storeDir cfg.sopsFile;
  hasFile = cfg.sopsFile != null && (!inCheckout || builtins.pathExists cfg.sopsFile);

  signsWithGpg = agent: agent.git.signing == true || agent.git.signing == "gpg";

  # sops-nix refuses a system whose file lacks a secret. A path that is written in the configuration is there; the usual
  # ones are since `identity gen` made the agent's keys.
  keys = name: agent:
    let
      isKnown = documents.isKnown cfg.identities name;
      usual = what: wanted: lib.optional (isKnown && wanted) "${name}/${what}";
      path = given: what: wanted: if given != null then [ given ] else usual what wanted;
    in
    path agent.secrets.sshKey "ssh-key" true ++ path agent.secrets.gpgKey "gpg-key" (signsWithGpg agent);

  extra = agent: lib.unique (lib.attrValues agent.secrets.extraSecrets);

  paths = lib.mapAttrs (name: agent: lib.unique (keys name agent ++ extra agent)) (nuketown.enabled cfg);
  count = path: lib.count (lib.elem path) (lib.attrValues paths);

  # Whatever is said of a secret elsewhere in the configuration goes before this.
  secret = owner: key: {
    owner = lib.mkDefault owner;
    mode = lib.mkDefault "0400";
    key = lib.mkDefault key;
    sopsFile = lib.mkDefault cfg.sopsFile;
  };

  # A secret has one owner there: what several agents may read is one for each of them.
  title = owner: path: if count path > 1 then "nuketown/${owner}/${path}" else path;
  named = owner: path: lib.nameValuePair (title owner path) (secret owner path);
  secrets = lib.listToAttrs (lib.concatLists (lib.mapAttrsToList (owner: map (named owner)) paths));

  hasDefault = options.sops.defaultSopsFile.isDefined;

  # sops-nix puts them there while the system is activated, and no home is there then.
  inHomes = lib.filter (lib.hasPrefix "${cfg.agentsDir}/") (
    map (one: one.path) (lib.attrValues sops.secrets ++ lib.attrValues (sops.templates or { }))
  );
in
{
  # Where sops-nix is not imported its options do not exist, and even mkIf false may not name one.
  config = lib.optionalAttrs (options ? sops) (
    lib.mkIf cfg.enable {
      sops.secrets = lib.mkIf hasFile secrets;

      assertions = [
        {
          assertion = inHomes == [ ];
          message = ''
            nuketown: sops.secrets or sops.templates have the path ${lib.concatStringsSep ", " inHomes}: sops-nix writes
            before there is a home. Leave the path out and read it in /run, or name the secret in
            nuketown.agents.NAME.secrets.extraSecrets. Keys come into homes by themselves.
          '';
        }
      ];

      nuketown.sopsFile = lib.mkIf hasDefault (lib.mkDefault sops.defaultSopsFile);

      # The same private keys open the file for both.
      nuketown.hostKey = {
        age = lib.mkIf (sops.age.keyFile != null) (lib.mkDefault sops.age.keyFile);
        ssh = lib.mkIf (sops.age.sshKeyPaths != [ ]) (lib.mkDefault (toString (lib.head sops.age.sshKeyPaths)));
        gnupg = lib.mkIf (sops.gnupg.home != null) (lib.mkDefault sops.gnupg.home);
      };
    }
  );
}
