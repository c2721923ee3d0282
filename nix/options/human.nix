# The person whose machine it is.
{ config, lib, ... }:

let
  inherit (lib) literalMD mkOption types;
  cfg = config.nuketown;
  # Where home-manager has the person's git, its name and address are taken; `or` also stands for no home-manager.
  user = config.home-manager.users.${cfg.humanUser}.programs.git.settings.user or { };
in
{
  options.nuketown = {
    humanUser = mkOption {
      type = types.nullOr types.str;
      default = null;
      example = "josh";
      description = ''
        The account of the person that the agents work with. It is told to the agents, and no agent may have it.
      '';
    };

    humanName = mkOption {
      type = types.nullOr types.str;
      default = if cfg.humanUser == null then null else user.name or cfg.humanUser;
      defaultText = literalMD "the name in the git configuration of home-manager, or humanUser";
      example = "Josh Doe";
      description = "The name of that person, in the agents' documents and in Co-Authored-By lines.";
    };

    humanEmail = mkOption {
      type = types.nullOr types.str;
      default = if cfg.humanUser == null then null else user.email or "${cfg.humanUser}@${cfg.domain}";
      defaultText = literalMD "the address in the git configuration of home-manager, or humanUser@domain";
      example = "josh@example.com";
      description = "The e-mail address of that person, in the same places.";
    };
  };
}
