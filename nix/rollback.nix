# The rollback in the initrd: the unit and the hook that other initrds have too, with the programs that they call.
{ config, lib, options, pkgs, ... }:

let
  inherit (builtins) filter head isString match readFile split tail;
  cfg = config.nuketown;
  rolled = cfg.btrfsDevice != null;
  initrd = config.boot.initrd;
  # A container and a kernel that is booted without one: there nuketown-rollback.service runs the hook itself.
  # Asked of the options, for what stands in boot depends on this.
  isContainer = options ? boot.isContainer && config.boot.isContainer;
  hasInitrd = !(options ? boot.initrd.enable) || initrd.enable;
  inInitrd = rolled && hasInitrd && !isContainer;

  # The unit is written once, for every initrd (initrd/units): here it is read back into options, where it can be seen
  # and changed. A key that stands twice becomes a list; a line that begins with # says something to people.
  sections =
    let
      lines = filter (line: isString line && match "#.*|[[:space:]]*" line == null) (
        split "\n" (readFile ../initrd/units/nuketown-initrd-rollback.service)
      );
      step =
        state: line:
        let
          header = match "\\[(.*)]" line;
          pair = match "([^=]+)=(.*)" line;
          section = state.found.${state.section};
          key = head pair;
          value = head (tail pair);
          joined = if section ? ${key} then lib.toList section.${key} ++ [ value ] else value;
        in
        if header != null then
          { section = head header; found = state.found // { ${head header} = { }; }; }
        else
          state // { found = state.found // { ${state.section} = section // { ${key} = joined; }; }; };
    in
    (lib.foldl' step { section = ""; found = { }; } lines).found;

  # A mapping of LUKS that the initrd opens for the agents alone: where its disk is missing or nobody knows the
  # passphrase, the boot goes on without it only if that is said (crypttab(5)). By a UUID inside of it cannot be told.
  mapping = match "/dev/mapper/(.+)" (toString cfg.btrfsDevice);
  locked = if mapping == null then null else (initrd.luks.devices or { }).${head mapping} or null;
  isShared = lib.any (fs: toString (fs.device or "") == cfg.btrfsDevice && !lib.elem "nofail" (fs.options or [ ])) (
    lib.attrValues config.fileSystems
  );
  isWaitedFor = inInitrd && locked != null && !isShared && !lib.elem "nofail" (locked.crypttabExtraOpts or [ ]);

  called = "/usr/lib/nuketown";
  # All of initrd/dracut's list but modprobe, which is for initrds without systemd. boot.sh looks into this directory
  # first, so nothing hangs on what else an initrd holds.
  programs = pkgs.linkFarm "nuketown-initrd-programs" (
    lib.concatLists (
      lib.mapAttrsToList (name: package: [ { inherit name; path = lib.getExe' package name; } ]) (
        lib.genAttrs [ "mkdir" "mv" "rm" "rmdir" "sleep" "stat" "timeout" ] (_: pkgs.coreutils)
        // lib.genAttrs [ "blkid" "mount" "umount" ] (_: pkgs.util-linux)
        // {
          btrfs = pkgs.btrfs-progs;
          sh = pkgs.bash;
        }
      )
    )
  );
in
{
  config = lib.mkIf cfg.enable {
    nuketown.build = { inherit inInitrd; };

    boot.supportedFilesystems = lib.mkIf rolled [ "btrfs" ];
    boot.initrd.supportedFilesystems = lib.mkIf inInitrd [ "btrfs" ];

    boot.initrd.systemd = lib.mkIf inInitrd {
      services.nuketown-initrd-rollback = {
        unitConfig = sections.Unit;
        serviceConfig = sections.Service // {
          ExecStart = "${called}/bin/sh ${called}/boot.sh";
        };
        wantedBy = [ sections.Install.WantedBy ];
      };
      # Each is copied with all that it leads to (make-initrd-ng): a directory whole, through links, with libraries.
      contents = {
        "${called}/bin".source = programs;
        "${called}/boot.sh".source = "${../initrd/boot.sh}";
        "${called}/rollback.sh".source = "${../initrd/rollback.sh}";
        "/etc/nuketown/rollback.conf".source = "${cfg.build.units}/etc/nuketown/rollback.conf";
      };
    };

    warnings = lib.optional isWaitedFor (
      "nuketown.btrfsDevice is ${cfg.btrfsDevice}, and boot.initrd.luks.devices.${head mapping} has no \"nofail\":"
      + " where it does not open, nobody's boot goes on. Set its"
      + " crypttabExtraOpts = [ \"nofail\" \"x-systemd.device-timeout=30s\" ]."
    );

    assertions = [
      {
        assertion = !inInitrd || initrd.systemd.enable or true;
        message =
          "nuketown.btrfsDevice needs boot.initrd.systemd.enable = true: the homes are rolled back in the initrd, and"
          + " NixOS's scripted stage 1 has no place for that which comes after the resume from hibernation and before"
          + " the root. Set it, or leave nuketown.btrfsDevice out; then homes are set aside later in the boot.";
      }
    ];
  };
}
