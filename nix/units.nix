# The units of the town, rendered by `persist units` when the system is built, and what wants them.
{ config, lib, pkgs, ... }:

let
  nuketown = import ./lib.nix;
  cfg = config.nuketown;
  agents = nuketown.enabled cfg;
  synced = lib.any (import ./stored.nix cfg) (lib.attrValues agents);

  # What the units call by a name without a slash: mount, umount, findmnt, sh, grep, rm, true. systemd's own list of
  # directories is that of its package in NixOS, where none of these are.
  programs = [ pkgs.bash pkgs.coreutils pkgs.gnugrep pkgs.util-linux ];

  # Not overrides.conf, which is what `systemd.services."nuketown-sync@ada"` becomes: of two files with one name, in the
  # directories of a template and of its instance, systemd reads one.
  #
  # A switch to another configuration leaves all of them alone: a restart of the mount would end every agent, and the
  # proof of a rollback is good for one start. What changed is in force with the next boot.
  dropIn = pkgs.writeText "nuketown-nixos.conf" ''
    [Service]
    ExecSearchPath=${lib.makeBinPath programs}
    X-RestartIfChanged=false
  '';
  # But for these two, by a name that is read after that one: nothing requires them, and a second run does what is
  # missing and nothing else. They give an agent that a switch brings its home, and take what somebody left under its
  # uid, before the switch starts multi-user.target again and with it that agent's target. The sweep is reloaded, which
  # is what it has for that: a stop of it, as a part of a restart, forgets who was swept.
  homes = pkgs.writeText "nuketown-restart.conf" ''
    [Unit]
    X-Restart-Triggers=${cfg.build.townFile}
    [Service]
    X-RestartIfChanged=true
    X-StopIfChanged=false
  '';
  sweep = pkgs.writeText "nuketown-reload.conf" ''
    [Unit]
    X-Restart-Triggers=${cfg.build.townFile}
    [Service]
    X-ReloadIfChanged=true
  '';
  # An agent is taken away by its target alone, of which all these are a part. One of them may go with what it was for:
  # when nothing is kept in the store any longer, an agent that runs does not end for it.
  instances = pkgs.writeText "nuketown-instances.conf" ''
    [Unit]
    X-StopOnRemoval=false
  '';
in
{
  config = lib.mkIf cfg.enable {
    nuketown.build.units =
      pkgs.runCommand "nuketown-units"
        {
          inherit dropIn homes instances sweep;
          town = cfg.build.townFile;
          program = "${cfg.package}/bin/persist";
          # A container has no initrd: there nuketown-rollback.service runs the hook.
          hook = if cfg.build.inInitrd then "dracut" else "none";
        }
        ''
          "$program" --spec "$town" units --package "$out" --initrd "$hook" --program "$program"
          cd -- "$out/lib/systemd/system"
          rm -f -- *.mount # the cover, which stands in fileSystems
          for unit in nuketown-*.service; do
            mkdir -p -- "$unit.d"
            cp -- "$dropIn" "$unit.d/nuketown-nixos.conf"
            case $unit in *@.service) cp -- "$instances" "$unit.d/nuketown-instances.conf" ;; esac
          done
          cp -- "$homes" nuketown-homes.service.d/nuketown-restart.conf
          cp -- "$sweep" nuketown-sweep.service.d/nuketown-reload.conf
          # A file for each agent: a switch that takes the agent away finds it gone and stops the target, and all that
          # is part of it: the account is closed, its processes end, its last sync runs. A drop-in would not do: without
          # a file of that name a switch looks at the template, which stays.
          while read -r name; do
            cp -- nuketown-agent@.target "nuketown-agent@$name.target"
          done <"$out/etc/nuketown/agents"
        '';

    # NixOS reads no [Install] section and no .wants directory of a package. What these units want of each other stands
    # in drop-ins of the package; what targets of the system want of them, here.
    systemd.packages = [ cfg.build.units ];
    systemd.targets = {
      multi-user.wants = [
        "nuketown-homes.service"
        "nuketown-lost.service"
        "nuketown-sweep.service"
        "nuketown-tidy.service"
      ]
      ++ lib.optional (cfg.btrfsDevice != null) "nuketown-mount.service"
      ++ map (name: "nuketown-agent@${name}.target") (lib.attrNames agents);
      timers.wants = lib.optional synced "nuketown-sync.timer";
    };
  };
}
