# The agents' accounts, and the rule that keeps an agent out until all that it declared is there (docs/boot.md).
{ config, lib, pkgs, ... }:

let
  inherit (lib) mkOption types;
  nuketown = import ./lib.nix;
  cfg = config.nuketown;
  agents = nuketown.enabled cfg;

  # The default module directory of libpam is its own package's in the store, as NixOS's own rules name it.
  listfile = "${config.security.pam.package or pkgs.linux-pam}/lib/security/pam_listfile.so";

  # Only a name that is in the first list goes on to the second rule: whatever else is wrong with it keeps nobody out.
  rules = {
    # NixOS numbers its own from 10 000 on. No number lies between these two, and the first jumps over the second.
    nuketown-agent = {
      order = 100;
      control = "[auth_err=ignore default=1]";
      modulePath = listfile;
      args = [ "item=user" "sense=deny" "file=/etc/nuketown/agents" "onerr=succeed" "quiet" ];
    };
    nuketown-open = {
      order = 101;
      control = "requisite";
      modulePath = listfile;
      args = [ "item=user" "sense=allow" "file=/run/nuketown/open" "onerr=fail" ];
    };
  };

  pam = import ./pam.nix { inherit lib; } config.security.pam.services;
  ruleFile = config.environment.etc."nuketown/agents";
  isLink = lib.hasSuffix "symlink" (ruleFile.mode or "") || !(ruleFile.enable or true);

  # Only PAM is asked whose account is open. A server that lets people in by itself is told who may not.
  sshd = config.services.openssh or { };
  denied = lib.toList (sshd.settings.DenyUsers or [ ]);
  isBeside = sshd.enable or false && sshd.settings.UsePAM or true == false
    && lib.any (name: !lib.elem name denied) (lib.attrNames agents);
in
{
  # Declared once more, which adds a module to each service that there is: also to those that others define.
  options.security.pam.services = mkOption {
    type = types.attrsOf (types.submodule { config.rules.account = lib.mkIf cfg.enable rules; });
  };

  config = lib.mkIf cfg.enable {
    users.users = lib.mapAttrs (name: agent: {
      inherit (agent) uid;
      isNormalUser = true;
      group = name;
      home = "${cfg.agentsDir}/${name}";
      # The home is a subvolume or a directory that `persist restore` makes anew at each boot. One that NixOS made while
      # the system is activated would stand in its place.
      createHome = false;
      homeMode = "700";
      # Between what a person says (100) and users.defaultUserShell (1000), which may be one that agents cannot drive.
      shell = lib.mkOverride 900 pkgs.bashInteractive;
    }) agents;

    users.groups = lib.mapAttrs (_: agent: { inherit (agent) gid; }) agents;

    # A file, no link: pam_listfile(8) takes none, and what it says of one (auth_err) would send everybody, root too, to
    # the second rule.
    environment.etc."nuketown/agents" = {
      text = lib.concatMapStrings (name: "${name}\n") (lib.attrNames agents);
      mode = "0444";
    };

    # cron asks nobody whose account is open, and takes jobs from all who are not in its list. A list of those who may
    # goes before it: that one is a person's.
    systemd.services = lib.mkIf (config.services.cron.enable or false) {
      cron.preStart = lib.mkAfter ''
        for agent in ${lib.concatStringsSep " " (lib.attrNames agents)}; do
          if ! grep -qsxF -e "$agent" /var/cron/cron.deny; then echo "$agent" >>/var/cron/cron.deny; fi
        done
      '';
    };

    assertions = [
      {
        assertion = !isLink;
        message =
          "nuketown: environment.etc.\"nuketown/agents\" is a link, or none: PAM takes a link for no list, and would"
          + " let nobody in, not even root; without the list agents come in before their homes are there. Take out what"
          + " sets its mode or enable.";
      }
      {
        assertion = !isBeside;
        message =
          "nuketown: services.openssh.settings.UsePAM = false: sshd would let agents in before their homes are there,"
          + " and after they were taken away. Leave it at true, or name the agents in"
          + " services.openssh.settings.DenyUsers.";
      }
    ];

    warnings =
      map (
        name:
        "nuketown: security.pam.services.${name}.text is written by hand and asks nothing of agents, or only after"
        + " something that may let them in: one whose home is not ready can log in by ${name}. Let its account stack"
        + " begin with `account include login`, or leave the text out."
      ) pam.byHand
      ++ map (
        name:
        "nuketown: security.pam.services.${name}.rules.account: nuketown-agent and nuketown-open are not the first of"
        + " them: one whose home is not ready can log in by ${name}. Leave both enabled, one right after the other, and"
        + " give what may be enough by itself (\"sufficient\", \"[…]\") an order above 101."
      ) pam.byRules;
  };
}
