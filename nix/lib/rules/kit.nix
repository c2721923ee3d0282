# What the rules are written with.
let
  inherit (builtins) attrNames concatMap elem elemAt filter genList isAttrs isList length;
  grammar = import ../grammar.nix;
  spec = import ../spec.nix;
in
grammar // import ../values.nix // rec {
  inherit (spec) claudeDir enabled isThere persistOf;

  # A rule, with the messages of what breaks it; null is none.
  rule = name: messages: { inherit name; offenders = filter (one: one != null) messages; };

  # Where it is, and what is wrong there.
  at = where: problem: if problem == null then null else "${where}: ${problem}";

  # A function of name and agent, for each that is enabled.
  each = cfg: make: let agents = spec.enabled cfg; in map (name: make name agents.${name}) (attrNames agents);
  eachOf = cfg: make: let agents = spec.enabled cfg; in concatMap (name: make name agents.${name}) (attrNames agents);

  option = name: key: "nuketown.agents.${name}.${key}";

  # A default of `prompts` is what was written of claudeCode, and is called so.
  ofPrompts = name: agent: key: claude:
    option name (
      if agent.claudeCode.enable && agent.prompts.${key} == agent.claudeCode.${claude} then "claudeCode.${claude}"
      else "prompts.${key}"
    );
  settingsOf = name: agent: ofPrompts name agent "settings" "settings";

  # The entries of persist as tables.
  entries = agent: map (found: if builtins.isAttrs found then found else { path = found; }) agent.persist;

  # Values of a tree, each with the key that it stands at.
  leaves = where: tree:
    if isAttrs tree && !(tree ? outPath) then concatMap (key: leaves "${where}.${key}" tree.${key}) (attrNames tree)
    else if isList tree
    then concatMap (n: leaves "${where}[${toString n}]" (elemAt tree n)) (genList (n: n) (length tree))
    else [ { inherit where; value = tree; } ];

  within = low: high: number: low <= number && number <= high;
  joined = builtins.concatStringsSep ", ";
  unique = list: builtins.foldl' (kept: one: if elem one kept then kept else kept ++ [ one ]) [ ] list;
}
