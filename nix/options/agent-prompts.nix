# nuketown.agents.NAME.claudeCode and prompts: which programs it works with, and what they are told.
{ lib, pkgs, ... }:

let
  inherit (lib) literalExpression literalMD mkOption types;
  nuketown = import ../lib.nix;

  # What JSON can say. attrsOf and listOf merge two definitions, of which types.attrs would drop one.
  json = types.nullOr (types.oneOf [
    types.bool
    types.int
    types.float
    types.str
    types.path
    (types.attrsOf json)
    (types.listOf json)
  ]) // { description = "value that JSON can carry"; };
in
{ name, config, ... }:

let
  claude = config.claudeCode;
  fromClaude = found: usual: if claude.enable then found else usual;
in
{
  options = {
    claudeCode = {
      enable = lib.mkEnableOption "Claude Code for it: the program, and documents made for it";

      package = mkOption {
        type = types.nullOr types.package;
        default = pkgs.unstable.claude-code or pkgs.claude-code or null;
        defaultText = literalExpression "pkgs.unstable.claude-code or pkgs.claude-code or null";
        example = literalExpression "pkgs.claude-code";
        description = "The program. null: it is not installed, and the documents are written all the same.";
      };

      settings = mkOption {
        type = types.attrsOf json;
        default = { };
        example = literalExpression ''
          { permissions = { defaultMode = "acceptEdits"; additionalDirectories = [ "/home/josh/dev" ]; }; }
        '';
        description = "Its settings.json. They are held against what is published of Claude Code's settings.";
      };

      agentName = mkOption {
        type = types.str;
        default = nuketown.promptName name config.role;
        defaultText = literalMD ''"''${name}-''${role}", in lower case with hyphens'';
        example = "ada-software";
        description = "The name of the agent definition that is made: `.claude/agents/NAME.md`.";
      };

      extraPrompt = mkOption {
        type = types.lines;
        default = "";
        example = "Run the tests before each commit.";
        description = "Text at the end of its documents.";
      };

      extraAgents = mkOption {
        type = types.attrsOf (types.either types.lines types.path);
        default = { };
        example = literalExpression "{ reviewer = ./agents/reviewer.md; }";
        description = "Agent definitions of your own, by name; home-manager puts them beside the one that is made.";
      };
    };

    prompts = {
      runtimes = mkOption {
        type = types.listOf (types.enum [ "claude-code" "agents-md" "codex" "gemini" "opencode" ]);
        default = fromClaude [ "claude-code" "agents-md" ] [ "agents-md" ];
        defaultText = literalMD ''[ "agents-md" ], and "claude-code" before it with claudeCode.enable'';
        example = [ "claude-code" "codex" ];
        description = "The programs that get documents about the agent, each where it looks for them.";
      };

      name = mkOption {
        type = types.nullOr types.str;
        default = fromClaude claude.agentName null;
        defaultText = literalExpression "claudeCode.agentName";
        example = "ada-software";
        description = "The name of its agent definitions. null: its name and its role, in lower case with hyphens.";
      };

      tools = mkOption {
        type = types.listOf types.str;
        default = fromClaude [ "Read" "Edit" "Write" "Bash" "Glob" "Grep" ] [ ];
        defaultText = literalMD
          ''[ "Read" "Edit" "Write" "Bash" "Glob" "Grep" ] with claudeCode.enable, else all'';
        example = [ "Read" "Grep" ];
        description = "The tools of its agent definition for Claude Code. Empty: all that there are.";
      };

      settings = mkOption {
        type = types.attrsOf json;
        default = fromClaude claude.settings { };
        defaultText = literalMD "claudeCode.settings with claudeCode.enable";
        example = { permissions.defaultMode = "plan"; };
        description = "The settings of Claude Code.";
      };

      extra = mkOption {
        type = types.lines;
        default = fromClaude claude.extraPrompt "";
        defaultText = literalMD "claudeCode.extraPrompt with claudeCode.enable";
        example = "Run the tests before each commit.";
        description = "Text at the end of its documents.";
      };
    };
  };
}
