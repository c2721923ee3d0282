# Whether something of an agent's is sent to the store, or copied, and so may have to be fetched before the agent comes
# (docs/formats/spec.md, "persist"): who has nuketown-restore@, nuketown-bind@ and a part in the timer. Pure: builtins
# only.
cfg:
let
  inherit (builtins) any elem;
  nuketown = import ./lib.nix;

  stored = cfg.store != null && cfg.store != "none";
  sent =
    entry:
    entry.type or "directory" == "file"
    || elem (entry.via or null) [ "both" "store" ]
    || stored
      && entry.via or null == null
      && (entry.class or "data" == "data" || entry.class or "data" == "credential" && entry.upload or false);
in
agent: any sent (nuketown.persistOf agent)
