# The environment of one agent, as a module of home-manager. What stands here gives way to `extraHomeConfig`.
{
  agent,
  cfg,
  name,
  isLinked,
  stateVersion,
}:

{ config, lib, options, ... }:

let
  documents = import ../documents.nix;
  made = "${cfg.build.documents}/${name}";
  claude = agent.claudeCode;
  claudeDir = documents.directory "claude-code" agent;
  inherit (documents) gitConfig;
  include = "[include]\n  path = ${made}/${gitConfig}";
  keyless = import ./git.nix { inherit agent cfg lib name; };

  # Where home-manager writes git's configuration, ours is a part of it.
  linked = lib.filter (path: path != gitConfig || !config.programs.git.enable) (documents.paths agent);

  # What lies in a directory that is kept, from before, gives way. This gives way to what is said of the file elsewhere.
  link = path: { force = lib.mkDefault true; source = lib.mkOverride 1100 "${made}/${path}"; };

  # A definition of the configuration's own: a text, or a file.
  own = text:
    { force = lib.mkDefault true; }
    // (if lib.isPath text || lib.hasPrefix builtins.storeDir text then { source = text; } else { inherit text; });

  hasModule = options.programs ? claude-code;
in
{
  config = lib.mkMerge [
    {
      home.stateVersion = lib.mkDefault stateVersion;
      home.packages = cfg.basePackages ++ agent.packages;
      home.sessionVariables.EDITOR = lib.mkDefault "vim";

      programs.bash.enable = lib.mkDefault true;
      programs.direnv = {
        enable = lib.mkDefault true;
        nix-direnv.enable = lib.mkDefault true;
      };

      # Our variables, in whatever shell home-manager sets up.
      home.sessionVariablesExtra = lib.mkIf (documents.hasVariables agent) ''
        if [ -r "$HOME/.config/nuketown/environment.sh" ]; then . "$HOME/.config/nuketown/environment.sh"; fi
      '';

      # Before there are keys too: the configuration says more of git than who signs.
      programs.git.enable = lib.mkDefault true;
      xdg.configFile."git/config" = lib.mkIf config.programs.git.enable {
        force = lib.mkDefault true;
        # First, so that what is said elsewhere goes before it.
        text = lib.mkBefore ''
          ${if isLinked then include else keyless}
          [init]
            defaultBranch = master
          [pull]
            rebase = true
        '';
      };
    }

    (lib.mkIf isLinked { home.file = lib.genAttrs linked link; })

    (lib.mkIf (!isLinked && !config.programs.git.enable) {
      home.file.${gitConfig} = { force = lib.mkDefault true; text = lib.mkDefault keyless; };
    })

    (lib.mkIf config.programs.git.enable {
      # It is said in ours. By itself home-manager writes it for whoever began before 25.05.
      programs.git.signing.format = lib.mkDefault null;
    })

    (lib.mkIf claude.enable {
      home.file = lib.mapAttrs' (
        title: text: lib.nameValuePair "${claudeDir}/agents/${title}.md" (own text)
      ) claude.extraAgents;
    })

    (lib.mkIf claude.enable (
      if hasModule then
        {
          # The unit writes settings.json where the spec has any, and would find a link there at each boot.
          assertions = [
            {
              assertion = agent.prompts.settings == { } || config.programs.claude-code.settings == { };
              message = ''
                nuketown: programs.claude-code.settings and nuketown.agents.${name}.claudeCode.settings both make
                settings.json. Say all of it in nuketown.agents.${name}.claudeCode.settings.
              '';
            }
          ];
          programs.claude-code = {
            enable = lib.mkDefault true;
            package = lib.mkDefault claude.package;
          }
          # With it the module puts its own files where ours are.
          // lib.optionalAttrs (options.programs.claude-code ? configDir) {
            configDir = lib.mkDefault "${config.home.homeDirectory}/${claudeDir}";
          };
        }
      else
        { home.packages = lib.optional (claude.package != null) claude.package; }
    ))
  ];
}
