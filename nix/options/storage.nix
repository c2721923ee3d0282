# Where homes begin empty, and where what agents declare is kept.
{ lib, ... }:

let
  inherit (lib) literalExpression mkOption types;
  count = default: what: mkOption {
    type = types.ints.unsigned;
    inherit default;
    example = if default == 0 then 6 else 2 * default;
    description = what;
  };
in
{
  options.nuketown = {
    btrfsDevice = mkOption {
      type = types.nullOr types.str;
      default = null;
      example = "38b243a0-c875-4758-8998-cc6c6a4c451e";
      description = ''
        The btrfs of the homes: the UUID of the filesystem (behind LUKS: of the btrfs inside), `LABEL=…`, or a path
        such as `/dev/disk/by-id/…`. The initrd rolls its subvolume back at each boot, which takes
        `boot.initrd.systemd.enable`. null: no rollback; `persist restore` sets the homes of the last boot aside
        instead.
      '';
    };

    btrfs = {
      subvolume = mkOption {
        type = types.str;
        default = "@agents";
        example = "@homes";
        description = "The subvolume of the homes, at the top level of `btrfsDevice`.";
      };

      blank = mkOption {
        type = types.str;
        default = "@agents-blank";
        example = "@homes-blank";
        description = "The empty read-only subvolume that each boot begins with. `persist init` makes it.";
      };
    };

    wait = mkOption {
      type = types.str;
      default = "30s";
      example = "2min";
      description = ''
        How long a boot waits for `btrfsDevice` where it is not there yet, at most 10min. A disk that is missing
        delays the person by that long; one whose passphrase is typed needs the time that this takes.
      '';
    };

    persistDir = mkOption {
      type = types.nullOr types.str;
      default = "/persist";
      example = "/var/lib/agents";
      description = ''
        Where what agents declare lies on this machine, below `agents/`; it must outlast a reboot. null: nowhere, and
        then everything that is declared goes to `store` alone.
      '';
    };

    store = mkOption {
      type = types.nullOr types.str;
      default = null;
      example = "s3://agents/signi?endpoint=https://s3.example.com&region=us-east-1";
      description = ''
        Where what agents declare goes, encrypted: `s3://BUCKET/PREFIX?endpoint=URL&region=NAME`, or
        `file:///DIRECTORY`. null: nowhere, and what is declared stays on this machine.
      '';
    };

    storeCredentials = mkOption {
      type = types.nullOr types.path;
      default = null;
      example = literalExpression ''config.sops.secrets."nuketown-s3".path'';
      description = ''
        A file of this machine in the format of AWS's shared credentials, root's alone; a string: a path without
        quotes would be copied into the Nix store, which everybody reads.
      '';
    };

    sync = {
      every = mkOption {
        type = types.str;
        default = "15min";
        example = "1h";
        description = "How long after a sync the next one begins, between 1s and 1y: what may be missing elsewhere.";
      };

      keep = {
        last = count 48 "How many of the newest states `persist prune` leaves in the store; at least 1.";
        hourly = count 0 "Of how many hours it leaves the newest state.";
        daily = count 14 "Of how many days.";
        weekly = count 8 "Of how many weeks.";
        monthly = count 0 "Of how many months.";
        yearly = count 0 "Of how many years.";
      };
    };

    keep = {
      homes = count 5 "How many homes that were set aside `persist tidy` keeps.";
      days = count 14 "For how many days it keeps them.";
      free = mkOption {
        type = types.str;
        default = "10%";
        example = "20G";
        description = "How much of the disk stays free, a percentage or a size: below it the oldest homes go first.";
      };
    };
  };
}
