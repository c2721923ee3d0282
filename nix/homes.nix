# Where homes are and where what agents keep lies: the cover on agentsDir, and directories that have to be there.
{ config, lib, options, ... }:

let
  cfg = config.nuketown;
  rolled = cfg.btrfsDevice != null;

  cover = [ "ro" "mode=0000" "nosuid" "nodev" "noexec" "size=4k" "nofail" ];
  # A definition of somebody else's for the same place: ours is forced, so it would be passed over without a word.
  definitions = lib.concatMap (
    found: map (value: { inherit (found) file; inherit value; }) (
      lib.modules.dischargeProperties (found.value.${cfg.agentsDir} or (lib.mkIf false { }))
    )
  ) options.fileSystems.definitionsWithLocations;
  # The virtual machine of a test repeats it in virtualisation.fileSystems, which it mounts in place of these.
  optionsOf = found: found.value.options.content or found.value.options or null;
  others = lib.filter (found: optionsOf found != cover) definitions;

  below = lib.filter (lib.hasPrefix "${cfg.agentsDir}/") (
    map (fs: fs.mountPoint) (lib.attrValues config.fileSystems)
  );

  # The filesystem that a path lies on, of those that the configuration mounts.
  holds = path: mountPoint: mountPoint == "/" || path == mountPoint || lib.hasPrefix "${mountPoint}/" path;
  mountOf =
    path:
    let
      found = lib.filter (fs: holds path fs.mountPoint) (lib.attrValues config.fileSystems);
      longest = lib.sort (a: b: lib.stringLength a.mountPoint > lib.stringLength b.mountPoint) found;
    in
    if longest == [ ] then null else lib.head longest;
  kept = if cfg.persistDir == null then null else mountOf cfg.persistDir;
in
{
  config = lib.mkIf cfg.enable {
    # Nothing, where the homes will be: while they are not mounted, nothing can be made or read there. nofail: neither
    # local-fs.target nor the person's login waits for it. nuketown-mount.service mounts the homes over it.
    fileSystems = lib.mkIf rolled {
      ${cfg.agentsDir} = {
        device = lib.mkForce "tmpfs";
        fsType = lib.mkForce "tmpfs";
        options = lib.mkForce cover;
        neededForBoot = lib.mkForce false;
      };
    };

    # A colon: what is there keeps the mode that it has. `persist init` makes what belongs inside.
    systemd.tmpfiles.settings.nuketown =
      lib.optionalAttrs (cfg.persistDir != null) {
        ${cfg.persistDir}.d = { mode = ":0711"; user = "root"; group = "root"; };
      }
      // {
        # Where the cover is, this finds it. A virtual machine made of a configuration may be without it.
        ${cfg.agentsDir}.d = { mode = ":0755"; user = "root"; group = "root"; };
      };

    assertions = [
      {
        assertion = !rolled || others == [ ];
        message =
          "nuketown: fileSystems.\"${cfg.agentsDir}\" is defined in "
          + lib.concatMapStringsSep ", " (found: toString found.file) others
          + ": the homes are mounted there by nuketown-mount.service, after the rollback was proved, and nothing of"
          + " the boot may wait for them. Remove that definition; nuketown.btrfsDevice and nuketown.btrfs.subvolume"
          + " name the disk.";
      }
      {
        assertion = below == [ ];
        message =
          "nuketown: ${lib.concatMapStringsSep ", " (path: "fileSystems.\"${path}\"") below} lies in"
          + " nuketown.agentsDir, which is mounted later than that and begins empty at each boot. Declare what lasts in"
          + " nuketown.agents.<name>.persist.";
      }
      {
        assertion = kept == null || !(lib.elem kept.fsType [ "tmpfs" "ramfs" ]);
        message =
          "nuketown.persistDir = \"${toString cfg.persistDir}\" lies on the ${kept.fsType or ""} at"
          + " ${kept.mountPoint or ""}, which a reboot empties: what the agents keep would go with it. Name a"
          + " directory on a disk, or mount one there (fileSystems.\"${toString cfg.persistDir}\"), or set it to null"
          + " and give nuketown.store.";
      }
    ];
  };
}
