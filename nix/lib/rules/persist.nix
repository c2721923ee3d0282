# What an agent declares: paths of its home, and the presets of programs.
kit: cfg:

let
  inherit (kit) at each eachOf entries option quote rule unless;
  inherit (builtins) attrNames elem filter length;
  presets = builtins.fromTOML (builtins.readFile ../../../town/presets.toml);
  known = attrNames presets;
  presetOf = entry: entry.preset or null;
in
[
  (rule "persist paths stay in the home" (eachOf cfg (name: agent:
    map (entry: at (option name "persist") (kit.persistPath entry.path)) (entries agent))))

  (rule "persist paths do not overlap" (eachOf cfg (name: agent:
    map
      (pair: at (option name "persist") (
        if pair.inner == pair.outer then "${quote pair.inner} stands there twice: leave one of them out"
        else "${quote pair.inner} lies inside ${quote pair.outer}, which is kept whole: leave it out"
      ))
      (kit.overlaps (map (entry: entry.path) (entries agent))))))

  (rule "presets are known" (eachOf cfg (name: agent:
    map
      (entry: at (option name "persist") (unless (presetOf entry == null || elem (presetOf entry) known)
        "${quote entry.path} has the unknown preset ${quote (presetOf entry)}: there are ${kit.joined known}"))
      (entries agent))))

  (rule "presets are of directories" (eachOf cfg (name: agent:
    map
      (entry: at (option name "persist") (unless (presetOf entry == null || entry.type or "directory" != "file")
        "${quote entry.path} is a file, and a preset says what lies in a directory: leave the preset out"))
      (entries agent))))

  # One that sets variables can stand once: a variable has one value.
  (rule "presets with variables stand once" (eachOf cfg (name: agent:
    let
      all = map presetOf (kit.persistOf agent);
      twice = filter (preset: presets.${preset} ? env && length (filter (one: one == preset) all) > 1)
        (kit.unique (filter (preset: preset != null && elem preset known) (map presetOf (entries agent))));
    in
    map
      (preset: at (option name "persist")
        "the preset ${quote preset} stands there twice, and its variables name one directory: leave one of them out")
      twice)))

  (rule "delivered paths stay in the home" (eachOf cfg (name: agent:
    map (path: at (option name "delivered") (kit.homePath path)) agent.delivered)))

  (rule "uploads are of credentials" (each cfg (name: agent:
    let
      idle = filter
        (entry: entry.upload or false && entry.class or "data" != "credential"
          && !(entry.class or "data" == "data" && presets.${toString (presetOf entry)}.credential or [ ] != [ ]))
        (entries agent);
    in
    at (option name "persist") (unless (idle == [ ])
      ("${kit.joined (map (entry: quote entry.path) idle)}: upload = true where nothing is a credential: leave it out, "
        + "or write class = \"credential\"")))))
]
