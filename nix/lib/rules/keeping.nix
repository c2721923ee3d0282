# Where what is declared is kept: what the town must have for it.
kit: cfg:

let
  inherit (kit) at eachOf entries option quote rule unless;
  class = entry: entry.class or "data";
  stays = entry: class entry == "cache" || (class entry == "credential" && !(entry.upload or false));
  via = entry: entry.via or null;
  has = { store = cfg.store != null; dir = cfg.persistDir != null; };
  noDir = "set nuketown.persistDir, or leave the entry out";
  noStore = "give nuketown.store a URL such as \"file:///var/lib/nuketown/store\"";
  every = name: test: rule name (eachOf cfg (agentName: agent: map
    (entry: at (option agentName "persist") (test entry))
    (entries agent)));
in
[
  (every "something keeps what is declared" (entry: unless (has.store || has.dir)
    "nothing keeps ${quote entry.path}: there is neither a persistDir nor a store: ${noStore}, or set persist = [ ]"))

  (every "what stays has a place to stay" (entry: unless (!stays entry || has.dir)
    "${quote entry.path} is of the class ${entry.class}, kept on this machine, and persistDir is null: ${noDir}"))

  (every "what stays is not sent" (entry: unless (!stays entry || via entry == null || via entry == "bind")
    ("${quote entry.path} is of the class ${entry.class}, which via = \"${via entry}\" would send to the store: "
      + "leave via out")))

  (every "what is sent has a store"
    (entry: unless (stays entry || via entry == null || via entry == "bind" || has.store)
      ("${quote entry.path} has via = \"${via entry}\", and nuketown.store is null: "
        + "${noStore}, or write via = \"bind\"")))

  (every "what is bound has a persistDir"
    (entry: unless (stays entry || via entry == null || via entry == "store" || has.dir || !has.store)
      ("${quote entry.path} has via = \"${via entry}\", and persistDir is null: "
        + "write via = \"store\", or set persistDir")))

  (every "uploads have a store" (entry: unless (!(entry.upload or false) || class entry == "cache"
    || (has.store && via entry != "bind"))
    "${quote entry.path} has upload = true, and nothing sends it: leave upload out, or ${noStore}"))
]
