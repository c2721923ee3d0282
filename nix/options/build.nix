# What the concerns make of the options, for each other and for who looks: `config.nuketown.build`.
{ lib, ... }:

{
  options.nuketown.build = lib.mkOption {
    # Each of them is set by one file of this module and by nobody else: a second definition of one is refused.
    type = lib.types.lazyAttrsOf lib.types.raw;
    default = { };
    internal = true;
    description = ''
      What is made of the options: `town` (the spec), `townText` (as TOML), `townFile` (checked), `units`,
      `documents`.
    '';
  };
}
