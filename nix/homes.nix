# Where homes are and where what agents keep lies: the cover on agentsDir, and directories that have to be there.
{ config, lib, ... }:

let
  cfg = config.nuketown;

  # tmpfiles.d(5): NixOS writes a path in single quotes as it stands, and specifiers and escapes are read in them too.
  quoted = lib.replaceStrings [ "%" "\\" "'" ] [ "%%" "\\\\" "\\'" ];
in
{
  config = lib.mkIf cfg.enable {
    # Nothing, where the homes will be: while they are not mounted, nothing can be made or read there. nofail: neither
    # local-fs.target nor the person's login waits for it. nuketown-mount.service mounts the homes over it.
    fileSystems = lib.mkIf (cfg.btrfsDevice != null) {
      ${cfg.agentsDir} = {
        device = lib.mkForce "tmpfs";
        fsType = lib.mkForce "tmpfs";
        options = lib.mkForce cfg.build.cover;
        neededForBoot = lib.mkForce false;
      };
    };
    nuketown.build.cover = [ "ro" "mode=0000" "nosuid" "nodev" "noexec" "size=4k" "nofail" ];

    # A colon: what is there keeps the mode that it has. `persist init` makes what belongs inside.
    systemd.tmpfiles.settings.nuketown =
      lib.optionalAttrs (cfg.persistDir != null) {
        ${quoted cfg.persistDir}.d = { mode = ":0711"; user = "root"; group = "root"; };
      }
      // {
        # Where the cover is, this finds it. A virtual machine made of a configuration may be without it.
        ${quoted cfg.agentsDir}.d = { mode = ":0755"; user = "root"; group = "root"; };
      };
  };
}
