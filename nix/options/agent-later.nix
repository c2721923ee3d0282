# What configurations may say and this version does not carry out: sudo by approval, portals, the daemon, XMPP. What is
# set to something is warned about (compat.nix).
{ lib, cfg, ... }:

let
  inherit (lib) literalExpression mkOption types;
  later = "Accepted, and without effect in this version.";
  secret = "with sops-nix it is a secret in /run/secrets already.";

  text = default: example: what: mkOption {
    type = types.str;
    inherit default example;
    description = "${what} ${later}";
  };

  maybe = type: example: what: mkOption {
    type = types.nullOr type;
    default = null;
    inherit example;
    description = "${what} ${later}";
  };

  number = default: example: what: mkOption {
    type = types.int;
    inherit default example;
    description = "${what} ${later}";
  };

  texts = example: what: mkOption {
    type = types.listOf types.str;
    default = [ ];
    inherit example;
    description = "${what} ${later}";
  };

  switch = what: mkOption {
    type = types.bool;
    default = false;
    example = true;
    description = "${what} ${later}";
  };
in
{ name, ... }:

{
  options = {
    sudo = {
      enable = mkOption {
        type = types.bool;
        default = false;
        example = true;
        description = "Whether a person may let the agent run a command as root. ${later}";
      };
      commands = texts [ "/run/current-system/sw/bin/systemctl" ] "The commands that it may ask for.";
    };

    portal = {
      enable = switch "A command that opens the agent's workspace in tmux.";
      command = maybe types.str "claude" "What runs there.";
      layout = text "50/50" "75/25" "How the panes share the window.";
    };

    daemon = {
      enable = switch "A service that acts for the agent between its sessions.";
      package = maybe types.package (literalExpression "pkgs.nuketown-daemon") "The daemon.";
      bootstrapModel = text "claude-haiku-4-5-20251001" "claude-haiku-4-5" "The model that prepares a workspace.";
      apiKeySecret = maybe types.str "ada/anthropic-key" "The path of its API key in the SOPS file; ${secret}";
      repos = mkOption {
        type = types.attrsOf (types.submodule { options.url = text "" "https://example.com/r.git" "Where it is."; });
        default = { };
        example = { project.url = "https://example.com/project.git"; };
        description = "Repositories that it knows. ${later}";
      };
      headlessTimeout = number 14400 3600 "How many seconds a session without a person may take.";
      mail = {
        enable = switch "A watcher of its mail.";
        host = text "" "imap.example.com" "The IMAP server.";
        port = number 993 993 "Its port.";
        username = text "" "ada@example.com" "The account there.";
        passwordSecret = maybe types.str "ada/mail-password" "The path of its password in the SOPS file; ${secret}";
        mailbox = text "INBOX" "INBOX" "The mailbox.";
      };
    };

    xmpp = {
      enable = switch "A chat client for the agent.";
      jid = mkOption {
        type = types.str;
        default = "${name}@${cfg.domain}";
        defaultText = literalExpression ''"''${name}@''${config.nuketown.domain}"'';
        example = "ada@example.com";
        description = "Its address. ${later}";
      };
      passwordSecret = maybe types.str "ada/xmpp-password" "The path of its password in the SOPS file; ${secret}";
      rooms = texts [ "agents@conference.example.com" ] "The rooms that it enters.";
    };
  };
}
