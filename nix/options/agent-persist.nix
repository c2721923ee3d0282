# nuketown.agents.NAME.persist and delivered: what of its home is kept, and what others bring.
{ lib, ... }:

let
  inherit (lib) literalExpression literalMD mkOption types;
  choice = values: default: example: description: mkOption {
    type = types.enum values;
    inherit default example description;
  };

  entry.options = {
    path = mkOption {
      type = types.str;
      example = "projects";
      description = "The path, relative to the home.";
    };

    via = mkOption {
      type = types.nullOr (types.enum [ "bind" "store" "both" ]);
      default = null;
      defaultText = literalMD "what the town has: both, bind without a store, store without a persistDir";
      example = "bind";
      description = "What keeps it: \"bind\" `persistDir` on this machine, \"store\" the store, \"both\" either.";
    };

    class = choice [ "data" "cache" "credential" ] "data" "cache" ''
      "data"; "cache": kept on this machine and never sent; "credential": one live copy, sent where `upload` says so.
    '';

    preset = mkOption {
      type = types.nullOr types.str;
      default = null;
      example = "claude-code";
      description = ''
        The program whose directory it is, so that its logins and caches are told apart: claude-code, codex, gemini,
        opencode, git, ssh-known-hosts, shell-history.
      '';
    };

    required = mkOption {
      type = types.bool;
      default = true;
      example = false;
      description = "Whether the agent stays out while it is not in place.";
    };

    type = choice [ "directory" "file" ] "directory" "file" ''
      "directory" (a mount) or "file" (at most 16 MiB, copied in and out).
    '';

    upload = mkOption {
      type = types.bool;
      default = false;
      example = true;
      description = "Whether what is a credential there goes to the store.";
    };
  };
  # A submodule takes paths too, as modules to import: `[ ./projects ]` is no table.
  table = types.addCheck (types.submodule entry) builtins.isAttrs;
in
{
  options = {
    persist = mkOption {
      # `either` by itself tells a documentation nothing of the options of a table.
      type = types.listOf (types.either types.str table // { inherit (table) getSubOptions; });
      default = [ "projects" ];
      example = literalExpression ''
        [ "projects" { path = ".claude"; preset = "claude-code"; } { path = "models"; class = "cache"; } ]
      '';
      description = ''
        What of its home outlasts a reboot: paths relative to the home, or tables. Of a path that is a directory
        everything in it is kept; no path lies in another.
      '';
    };

    delivered = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ ".config/helix" ];
      description = "Paths in its home that others bring. `identity install` writes neither them nor what lies below.";
    };
  };
}
