# nuketown.agents.NAME: one agent.
{ config, lib, pkgs, ... }:

let
  inherit (lib) literalExpression literalMD mkOption types;
  cfg = config.nuketown;

  # The parts of an agent, each a function of what the parts need to know of the whole.
  part = file: import file { inherit lib pkgs cfg; };

  agent = { name, config, ... }: {
    imports = [
      (part ./agent-secrets.nix)
      (part ./agent-devices.nix)
      (part ./agent-persist.nix)
      (part ./agent-prompts.nix)
      (part ./agent-later.nix)
    ];

    options = {
      enable = lib.mkEnableOption "the agent ${name}";

      uid = mkOption {
        type = types.int;
        example = 1100;
        description = "The number of its account: from 1000 to 60000, its own for good, for its files carry it.";
      };

      gid = mkOption {
        type = types.int;
        default = config.uid;
        defaultText = literalExpression "uid";
        example = 1100;
        description = "The number of its group, which is called after it.";
      };

      role = mkOption {
        type = types.str;
        default = "general";
        example = "software";
        description = "What it does, in a word or a line.";
      };

      description = mkOption {
        type = types.lines;
        default = "";
        example = "Thinks before acting. Works on embedded systems.";
        description = "What it knows of itself, and how it works: told to it in its documents.";
      };

      git = {
        name = mkOption {
          type = types.str;
          default = name;
          defaultText = literalMD "the agent's name";
          example = "Ada";
          description = "The name in its commits.";
        };

        email = mkOption {
          type = types.str;
          default = "${name}@${cfg.domain}";
          defaultText = literalExpression ''"''${name}@''${config.nuketown.domain}"'';
          example = "ada@signi.local";
          description = "The e-mail address in its commits and keys.";
        };

        signing = mkOption {
          type = types.either types.bool (types.enum [ "gpg" "ssh" ]);
          default = true;
          example = "ssh";
          description = "How its commits are signed: \"gpg\" (true is the same), \"ssh\", or false.";
        };
      };

      packages = mkOption {
        type = types.listOf types.package;
        default = [ ];
        example = literalExpression "[ pkgs.gcc-arm-embedded pkgs.dfu-util ]";
        description = "Packages that this agent has beside `basePackages`.";
      };

      extraHomeConfig = mkOption {
        # A module: definitions from several places are merged as home-manager merges them.
        type = types.deferredModule;
        default = { };
        example = literalExpression "{ programs.neovim.enable = true; }";
        description = "A home-manager module for its home, beside what nuketown says there. It takes home-manager.";
      };

      quota = mkOption {
        type = types.nullOr types.str;
        default = null;
        example = "20G";
        description = ''
          How much its home and what it keeps in `persistDir` may hold together: a size of at least 1M. The first
          quota turns on simple quotas for the whole btrfs, which from then on only Linux 6.7 and later mounts.
        '';
      };
    };
  };
in
{
  options.nuketown.agents = mkOption {
    type = types.attrsOf (types.submodule agent);
    default = { };
    example = literalExpression ''
      {
        ada = { enable = true; uid = 1100; role = "software"; };
        vox = { enable = true; uid = 1101; role = "research"; persist = [ "projects" "notes" ]; };
      }
    '';
    description = "The agents, each by its name: a lower-case letter, then lower-case letters, digits and `-`.";
  };
}
