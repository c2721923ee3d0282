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

  # What the daemon and the chat would read, which this version does not have: other services may read it.
  later = agent: lib.filter (path: path != null) [
    agent.daemon.apiKeySecret
    agent.xmpp.passwordSecret
    (if agent.daemon.mail.enable then agent.daemon.mail.passwordSecret else null)
  ];
  extra = agent: lib.attrValues agent.secrets.extraSecrets ++ later agent;

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

  declared = lib.optionalAttrs (hasFile && cfg.sopsSecrets) secrets;

  # Of several SSH keys the one that age can use: it makes no key of an RSA one (ssh-to-age).
  sshKeys = map toString sops.age.sshKeyPaths;
  sshKey = lib.findFirst (lib.hasInfix "ed25519") (lib.head sshKeys) sshKeys;
  isUnset = lib.all (key: key == null) (lib.attrValues { inherit (cfg.hostKey) age ssh gnupg; });
  onlyByGpg = isUnset && sops.gnupg.sshKeyPaths or [ ] != [ ] && nuketown.agentNames cfg != [ ];

  hasDefault = options.sops.defaultSopsFile.isDefined;
  isDefaultFile = hasDefault && toString sops.defaultSopsFile == toString cfg.sopsFile;

  # What the rest of the configuration says of a secret, without mkIf, mkMerge and mkForce: definitions still have them.
  elsewhere = lib.filter (one: one.file != toString ./secrets.nix) options.sops.secrets.definitionsWithLocations;
  bare = import ./plain-values.nix;
  saidOf = title: lib.concatMap (one: bare one.value.${title}) (lib.filter (one: one.value ? ${title}) elsewhere);
  says = what: lib.any (found: found ? ${what});

  # A secret of somebody else's with the same title would get our owner and our file where it says none. What lies below
  # an agent's own name is the agent's: there more may be said of it, such as a mode.
  isTaken = title: one:
    let
      said = saidOf title;
      found = sops.secrets.${title};
      owner = one.owner.content;
      givenOwner = found.owner == owner && !says "owner" said;
      givenFile = toString found.sopsFile == toString cfg.sopsFile && !isDefaultFile && !says "sopsFile" said;
    in
    said != [ ] && sops.secrets ? ${title} && !lib.hasPrefix "${owner}/" title && (givenOwner || givenFile);
  taken = lib.attrNames (lib.filterAttrs isTaken declared);

  listed = lib.concatStringsSep ", ";

  # A path without `.`, `..` and empty parts: that is where it leads.
  plain = path:
    let
      step = way: part: if part == ".." then lib.dropEnd 1 way else way ++ [ part ];
      parts = lib.filter (part: part != "" && part != ".") (lib.splitString "/" path);
    in
    lib.concatMapStrings (part: "/${part}") (lib.foldl' step [ ] parts);
  isBelow = above: path: path == above || lib.hasPrefix "${above}/" path;

  # sops-nix writes as root, on its way through what an agent may have replaced by a link. And it does so while the
  # system is activated: no home is there then.
  theirs = [ cfg.agentsDir ]
    ++ lib.optionals (cfg.persistDir != null) (map (name: "${cfg.persistDir}/${name}") [ "agents" ".nuketown" ]);
  inTheirs = lib.filter (path: lib.any (above: isBelow above (plain path)) theirs) (
    map (one: one.path) (lib.attrValues sops.secrets ++ lib.attrValues (sops.templates or { }))
  );
in
{
  # Where sops-nix is not imported its options do not exist, and even mkIf false may not name one.
  config = lib.optionalAttrs (options ? sops) (
    lib.mkIf cfg.enable {
      sops.secrets = declared;

      assertions = [
        {
          assertion = inTheirs == [ ];
          message = ''
            nuketown: sops.secrets or sops.templates have the path ${listed inTheirs}: sops-nix writes as root, before
            there is a home, and agents can put links there. Leave the path out and read it in /run, or name the secret
            in nuketown.agents.NAME.secrets.extraSecrets. Keys come into homes by themselves.
          '';
        }
        {
          assertion = taken == [ ];
          message = ''
            nuketown: sops.secrets has ${listed taken}, and a secret of an agent's lies at the same path of
            ${toString cfg.sopsFile}: yours would become the agent's. Say owner and sopsFile of yours (the agent gets
            its own by itself), or give the agent's another path, such as NAME/token.
          '';
        }
      ];

      nuketown.sopsFile = lib.mkIf hasDefault (lib.mkDefault sops.defaultSopsFile);

      warnings = lib.optional onlyByGpg ''
        nuketown: sops-nix opens secrets by sops.gnupg.sshKeyPaths alone, and identity knows no such way: agents get no
        keys. `identity host init` makes an age key of this machine: name its recipient in nuketown.recipients.hosts (or
        .sops.yaml), and set nuketown.hostKey.age = "/var/lib/nuketown/age.key".
      '';

      # The same private keys open the file for both.
      nuketown.hostKey = {
        age = lib.mkIf (sops.age.keyFile != null) (lib.mkDefault sops.age.keyFile);
        ssh = lib.mkIf (sshKeys != [ ]) (lib.mkDefault sshKey);
        gnupg = lib.mkIf (sops.gnupg.home != null) (lib.mkDefault sops.gnupg.home);
      };
    }
  );
}
