# The disk, the store, and how much of what is kept.
kit: cfg:

let
  inherit (kit) at quote rule unless within;
  maybe = key: check: found: if found == null then null else at "nuketown.${key}" (check found);
  number = key: low: high: found:
    at "nuketown.${key}" (unless (within low high found)
      "${toString found} is outside of ${toString low} to ${toString high}: choose a number in between");
  beside = map (end: cfg.btrfs.subvolume + end) [ "" "-old" "-snapshots" "-ballast" "-ballast.new" ".new" ];
in
[
  (rule "the device" [ (maybe "btrfsDevice" kit.device cfg.btrfsDevice) ])

  (rule "subvolumes are plain names" [
    (at "nuketown.btrfs.subvolume" (kit.subvolume cfg.btrfs.subvolume))
    (at "nuketown.btrfs.blank" (kit.subvolume cfg.btrfs.blank))
  ])

  (rule "subvolumes have names of their own" [
    (at "nuketown.btrfs.blank" (unless (!builtins.elem cfg.btrfs.blank beside)
      ("${quote cfg.btrfs.blank} is the subvolume of the homes, or what lies beside it: "
        + "choose another, such as \"@agents-blank\"")))
    (at "nuketown.btrfs.subvolume" (unless (cfg.btrfs.subvolume != "${cfg.btrfs.blank}.new")
      "${quote cfg.btrfs.subvolume} is the name under which the blank one is made: choose another"))
  ])

  (rule "time spans" [
    (at "nuketown.wait" (kit.wait cfg.wait))
    (at "nuketown.sync.every" (kit.every cfg.sync.every))
  ])

  (rule "what is kept of homes" [
    (number "keep.homes" 1 10000 cfg.keep.homes)
    (number "keep.days" 1 36500 cfg.keep.days)
    (at "nuketown.keep.free" (kit.free cfg.keep.free))
  ])

  (rule "what is kept of states" (
    [ (number "sync.keep.last" 1 1000000 cfg.sync.keep.last) ]
    ++ map (key: number "sync.keep.${key}" 0 1000000 cfg.sync.keep.${key})
      [ "hourly" "daily" "weekly" "monthly" "yearly" ]
  ))

  (rule "the store" [ (maybe "store" kit.store cfg.store) ])
  (rule "the machine" [ (maybe "machine" kit.machine cfg.machine) ])
]
