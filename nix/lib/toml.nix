# An attribute set as TOML 1.0. Attributes that are null are left out: TOML has no null.
let
  inherit (builtins)
    attrNames concatMap concatStringsSep filter isAttrs isList match replaceStrings toJSON typeOf;

  delete = builtins.fromJSON ''"\u007f"'';

  # JSON's escapes are all escapes of TOML too (\" \\ \b \f \n \r \t \uXXXX). Only U+007F is not.
  string = value: replaceStrings [ delete ] [ "\\u007F" ] (toJSON "${value}");

  key = name: if match "[A-Za-z0-9_-]+" name != null then name else string name;

  # A float without a fraction is written as an integer by JSON.
  float = value: let text = toJSON value; in if match "-?[0-9]+" text != null then "${text}.0" else text;

  # A derivation stands for its path.
  isTable = value: isAttrs value && !(value ? outPath);

  said = tree: filter (name: tree.${name} != null) (attrNames tree);

  inlineTable = where: tree:
    let
      pair = name: "${key name} = ${value "${where}.${name}" tree.${name}}";
      pairs = map pair (said tree);
    in
    if pairs == [ ] then "{}" else "{ ${concatStringsSep ", " pairs} }";

  items = where: list:
    builtins.genList (n: value "${where}[${toString n}]" (builtins.elemAt list n)) (builtins.length list);

  # In a table of its own an array of tables has one of them a line.
  array = where: list:
    if builtins.any isTable list
    then "[\n${concatStringsSep "" (map (item: "  ${item},\n") (items where list))}]"
    else value where list;

  value = where: found:
    if isTable found then inlineTable where found
    else if isList found then "[${concatStringsSep ", " (items where found)}]"
    else {
      bool = if found then "true" else "false";
      float = float found;
      int = toString found;
      path = string found;
      set = string found;
      string = string found;
    }.${typeOf found} or (throw "nuketown: ${where} is ${typeOf found}, which TOML cannot say; leave it out");

  table = where: tree:
    let
      path = concatStringsSep "." (map key where);
      here = filter (name: !isTable tree.${name}) (said tree);
      below = filter (name: isTable tree.${name}) (said tree);
      write = found: if isList found then array else value;
      pair = name: "${key name} = ${write tree.${name} (concatStringsSep "." (where ++ [ name ])) tree.${name}}\n";
      # A table that only holds tables needs no header of its own.
      header = if where == [ ] || (here == [ ] && below != [ ]) then "" else "\n[${path}]\n";
    in
    [ header ] ++ map pair here ++ concatMap (name: table (where ++ [ name ]) tree.${name}) below;
in
{
  toTOML = tree:
    let
      text = concatStringsSep "" (table [ ] tree);
    in
    # The first header has an empty line before it.
    if builtins.substring 0 1 text == "\n" then builtins.substring 1 (builtins.stringLength text) text else text;
}
