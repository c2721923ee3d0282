# impermanence and preservation: what they mount in a home would be there before the home is, and hold up the boot where
# it cannot be. Both list what they mount in options of their own, with absolute paths.
{ config, lib, options, ... }:

let
  nuketown = import ./lib.nix;
  cfg = config.nuketown;

  # preservation lists among them the directories that it makes on the way.
  named = lib.filter (one: one.how or null != "_intermediate");
  listed = set:
    map (one: one.dirPath or one.directory) (named set.directories)
    ++ map (one: one.filePath or one.file) (named set.files);
  withUsers = set: lib.concatMap listed ([ set ] ++ lib.attrValues set.users);
  # What of a disk root makes and mounts: the directory itself, and a place in it for each path.
  storageOf = set:
    let
      at = set.persistentStoragePath;
    in
    [ at ] ++ map (path: lib.removeSuffix "/" at + path) (withUsers set);
  enabled = set: lib.filter (one: one.enable or true) (lib.attrValues set);

  # Of impermanence, as home-manager has it: a home's own, for agents alone.
  ofHome = name: lib.concatMap listed (enabled (config.home-manager.users.${name}.home.persistence or { }));

  impermanence = lib.optionalAttrs (options ? environment.persistence) {
    "environment.persistence" = {
      paths = lib.concatMap withUsers (enabled config.environment.persistence)
        ++ lib.optionals (options ? home-manager) (lib.concatMap ofHome (nuketown.agentNames cfg));
      storage = lib.concatMap storageOf (enabled config.environment.persistence);
    };
  };
  preservation = lib.optionalAttrs (options ? preservation.preserveAt) {
    "preservation.preserveAt" = lib.optionalAttrs config.preservation.enable {
      paths = lib.concatMap withUsers (lib.attrValues config.preservation.preserveAt);
      storage = lib.concatMap storageOf (lib.attrValues config.preservation.preserveAt);
    };
  };

  isBelow = above: path: path == above || lib.hasPrefix "${above}/" path;
  inHomes = isBelow cfg.agentsDir;
  # Where persist keeps what agents declare, and its own records.
  kept = lib.optionals (cfg.persistDir != null) (map (name: "${cfg.persistDir}/${name}") [ "agents" ".nuketown" ]);
  inKept = path: lib.any (above: isBelow above path) kept;

  outermost = found: lib.filter (path: !lib.any (above: path != above && isBelow above path) found) found;
  check = found: cure: { assertion = found == [ ]; message = cure (lib.concatStringsSep ", " (lib.unique found)); };

  assertions = option: said: [
    (check (lib.filter inHomes (said.paths or [ ])) (paths: ''
      nuketown: ${option} declares ${paths}: homes below ${cfg.agentsDir} are made anew at each boot, and what is
      mounted there before is in their way. Take it out there, and name it in nuketown.agents.NAME.persist, relative to
      the home.
    ''))
    (check (lib.filter inKept (said.paths or [ ])) (paths: ''
      nuketown: ${option} declares ${paths}, where nuketown keeps what agents declare. Take it out there: it lies in
      nuketown.persistDir (${toString cfg.persistDir}), which outlasts a reboot by itself.
    ''))
    (check (outermost (lib.filter inKept (said.storage or [ ]))) (paths: ''
      nuketown: ${option} stores in ${paths}, where agents write: root would follow what they put there. Store it in
      another directory, such as ${toString cfg.persistDir}/system.
    ''))
    (check (outermost (lib.filter inHomes (said.storage or [ ]))) (paths: ''
      nuketown: ${option} stores in ${paths}, and nothing below ${cfg.agentsDir} outlasts a reboot. Store it elsewhere.
    ''))
  ];
in
{
  config.assertions = lib.optionals cfg.enable (
    lib.concatLists (lib.mapAttrsToList assertions (impermanence // preservation))
  );
}
