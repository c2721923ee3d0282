# What there is to say of each option, for docs/options.md (tools/options.py). It takes nixpkgs' lib and no package.
{ lib }:

let
  evaluated = lib.evalModules { modules = [ ./options.nix ]; };
  shown = option: !option.internal && option.visible && option.name != "_module.args";
in
map
  (option: {
    inherit (option) name type description;
    default = option.default.text or null;
    example = option.example.text or null;
  })
  (builtins.filter shown (lib.optionAttrSetToDocList (removeAttrs evaluated.options [ "_module" ])))
