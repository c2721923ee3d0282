# Accounts, groups and PAM in NixOS, with the types and defaults that they have there.
{ lib, ... }:

let
  inherit (lib) mkOption mkDefault mkIf types;

  option = type: default: mkOption { inherit type default; };
  named = type: mkOption { inherit type; };
  strings = option (types.listOf types.str) [ ];
  set = option (types.attrsOf types.anything) { };
  bool = option types.bool;
  maybe = type: option (types.nullOr type) null;
  submodule = module: types.attrsOf (types.submodule module);

  user = { name, config, ... }: {
    options = {
      enable = bool true;
      name = option types.str name;
      description = option types.str "";
      uid = maybe types.int;
      isNormalUser = bool false;
      isSystemUser = bool false;
      group = option types.str "";
      extraGroups = strings;
      home = option types.path "/var/empty";
      homeMode = option types.str "700";
      createHome = bool false;
      shell = maybe (types.either types.package types.path);
      ignoreShellProgramCheck = bool false;
      useDefaultShell = bool false;
      packages = option (types.listOf types.package) [ ];
      linger = maybe types.bool;
      password = maybe types.str;
      initialPassword = maybe types.str;
      hashedPassword = maybe types.str;
      hashedPasswordFile = maybe types.str;
      subUidRanges = option (types.listOf types.anything) [ ];
      subGidRanges = option (types.listOf types.anything) [ ];
      autoSubUidGidRange = bool false;
      openssh.authorizedKeys.keys = strings;
    };
    # nixos/modules/config/users-groups.nix
    config = mkIf config.isNormalUser {
      group = mkDefault "users";
      createHome = mkDefault true;
      home = mkDefault "/home/${config.name}";
      useDefaultShell = mkDefault true;
    };
  };

  group = { name, ... }: {
    options = {
      name = option types.str name;
      gid = maybe types.int;
      members = strings;
    };
  };

  # nixos/modules/security/pam.nix: rules are written in the order of their numbers.
  rule = { name, ... }: {
    options = {
      name = option types.str name;
      enable = bool true;
      order = named types.int;
      control = named types.str;
      modulePath = named types.str;
      args = strings;
      settings = set;
    };
  };
  # What the service has of its own there: pam_unix, which comes at 10 000 and steps of 100.
  pamService = { name, ... }: {
    options = {
      name = option types.str name;
      enable = bool true;
      useDefaultRules = bool true;
      text = maybe types.lines;
      rules = lib.genAttrs [ "account" "auth" "password" "session" ] (_: option (submodule rule) { });
    };
    config.rules.account.unix = {
      order = mkDefault 10900;
      control = mkDefault "required";
      modulePath = mkDefault "pam_unix.so";
    };
  };
in
{
  options = {
    users = {
      users = option (submodule user) { };
      groups = option (submodule group) { };
      mutableUsers = bool true;
      defaultUserShell = maybe types.anything;
    };

    security.pam.services = option (submodule pamService) { };
    security.pam.package = option types.anything "/nix/store/stub-linux-pam";
  };

  config.users.users.root = {
    uid = 0;
    isSystemUser = true;
    group = "root";
    home = "/root";
  };
  config.users.groups = {
    root.gid = 0;
    users.gid = 100;
    wheel.gid = 1;
  };
}
