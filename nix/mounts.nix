# What else the configuration mounts: nothing on the homes, none of their subvolumes, and what is kept lies on a disk.
{ config, lib, options, ... }:

let
  cfg = config.nuketown;
  rolled = cfg.btrfsDevice != null;

  # A definition of somebody else's for the same place: ours is forced, so it would be passed over without a word.
  definitions = lib.concatMap (
    found: map (value: { inherit (found) file; inherit value; }) (
      import ./plain-values.nix (found.value.${cfg.agentsDir} or { _type = "if"; condition = false; })
    )
  ) (options.fileSystems.definitionsWithLocations or [ ]);
  # The virtual machine of a test repeats it in virtualisation.fileSystems, which it mounts in place of these.
  optionsOf = found: found.value.options.content or found.value.options or null;
  others = lib.filter (found: optionsOf found != cfg.build.cover) definitions;

  # All that is mounted: the option that says so, where, and how.
  plain = path: if path == "/" then path else lib.removeSuffix "/" path;
  fileSystem = name: fs: {
    name = ''fileSystems."${name}"'';
    at = plain (fs.mountPoint or name);
    kind = fs.fsType or "auto";
    how = fs.options or [ ];
  };
  unit = option: one: {
    name = ''${option} (where = "${one.where}")'';
    at = plain one.where;
    kind = one.type or "auto";
    how = lib.splitString "," (one.options or "");
  };
  mounts = lib.mapAttrsToList fileSystem config.fileSystems;
  units = map (unit "systemd.mounts") (config.systemd.mounts or [ ])
    ++ map (unit "systemd.automounts") (config.systemd.automounts or [ ]);
  all = mounts ++ units;
  named = lib.concatMapStringsSep ", " (mount: mount.name);

  # The same place by another name.
  isOurs = mount: mount.name == ''fileSystems."${cfg.agentsDir}"'';
  doubles = lib.filter (mount: mount.at == cfg.agentsDir && !isOurs mount) all;
  below = lib.filter (mount: lib.hasPrefix "${cfg.agentsDir}/" mount.at) all;

  # What the hook sets aside, and what is made beside it (docs/formats/disk.md): nobody else lives there. On which disk
  # is not asked: one and the same is called by its UUID here and by a path there.
  beside = map (end: "${cfg.btrfs.subvolume}${end}") [ ".new" "-old" "-snapshots" "-ballast" "-ballast.new" ]
    ++ [ cfg.btrfs.blank "${cfg.btrfs.blank}.new" ];
  subvolume = option:
    lib.concatStringsSep "/" (lib.filter (part: part != "") (lib.splitString "/" (lib.removePrefix "subvol=" option)));
  subvolumes = mount: map subvolume (lib.filter (lib.hasPrefix "subvol=") mount.how);
  isTaken = path: lib.any (one: path == one || lib.hasPrefix "${one}/" path) ([ cfg.btrfs.subvolume ] ++ beside);
  taken = lib.filter (mount: lib.any isTaken (subvolumes mount)) all;

  # The filesystem that what is kept lies on, of those that the configuration mounts.
  holds = mount: mount.at == "/" || mount.at == cfg.persistDir || lib.hasPrefix "${mount.at}/" cfg.persistDir;
  longest = lib.sort (a: b: lib.stringLength a.at > lib.stringLength b.at) (lib.filter holds mounts);
  kept = if cfg.persistDir == null || longest == [ ] then null else lib.head longest;
in
{
  config.assertions = lib.optionals cfg.enable [
    {
      assertion = !rolled || others == [ ] && doubles == [ ];
      message =
        "nuketown: "
        + lib.concatStringsSep ", " (
          map (found: "fileSystems.\"${cfg.agentsDir}\" is defined in ${toString found.file}") others
          ++ map (mount: "${mount.name} mounts something at ${cfg.agentsDir}") doubles
        )
        + ": the homes are mounted there by nuketown-mount.service, after the rollback was proved, and nothing of"
        + " the boot may wait for them. Remove that definition; nuketown.btrfsDevice and nuketown.btrfs.subvolume"
        + " name the disk.";
    }
    {
      assertion = below == [ ];
      message =
        "nuketown: ${named below} lies in nuketown.agentsDir, which is mounted later than that and begins empty at"
        + " each boot. Declare what lasts in nuketown.agents.<name>.persist.";
    }
    {
      assertion = !rolled || taken == [ ];
      message =
        "nuketown: ${named taken} mounts what belongs to the homes: each boot sets the subvolume ${cfg.btrfs.subvolume}"
        + " aside and begins with an empty one, and beside it lie ${lib.concatStringsSep ", " beside}. Give"
        + " nuketown.btrfs.subvolume and nuketown.btrfs.blank names that nothing else has, such as \"@agents\" and"
        + " \"@agents-blank\", or take the mount out.";
    }
    {
      assertion = kept == null || !(lib.elem kept.kind [ "tmpfs" "ramfs" ]);
      message =
        "nuketown.persistDir = \"${toString cfg.persistDir}\" lies on the ${kept.kind or ""} at"
        + " ${kept.at or ""}, which a reboot empties: what the agents keep would go with it. Name a"
        + " directory on a disk, or mount one there (fileSystems.\"${toString cfg.persistDir}\"), or set it to null"
        + " and give nuketown.store.";
    }
  ];
}
