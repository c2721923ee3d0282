# The options of NixOS, outside of systemd's and of accounts, that these modules and those beside them set or read.
{ lib, pkgs, ... }:

let
  inherit (lib) mkOption mkDefault mkIf types;

  option = type: default: mkOption { inherit type default; };
  named = type: mkOption { inherit type; };
  set = option (types.attrsOf types.anything) { };
  strings = option (types.listOf types.str) [ ];
  lines = option types.lines "";
  bool = option types.bool;
  maybe = type: option (types.nullOr type) null;
  submodule = module: types.attrsOf (types.submodule module);

  etc = { name, config, ... }: {
    options = {
      enable = bool true;
      target = option types.str name;
      text = maybe types.lines;
      source = named types.path;
      mode = option types.str "symlink";
      user = option types.str "+0";
      group = option types.str "+0";
      uid = option types.int 0;
      gid = option types.int 0;
    };
    # nixos/modules/system/etc/etc.nix
    config.source = mkIf (config.text != null) (mkDefault "/nix/store/etc-${baseNameOf name}");
  };

  fileSystem = { name, ... }: {
    options = {
      mountPoint = option types.str name;
      device = maybe types.str;
      label = maybe types.str;
      fsType = option types.str "auto";
      options = mkOption { type = types.listOf types.str; default = [ "defaults" ]; };
      depends = strings;
      neededForBoot = bool false;
      noCheck = bool false;
      encrypted = set;
      overlay = set;
    };
  };

  # A list of names, or a set of name = whether.
  fileSystemKinds = types.coercedTo (types.listOf types.str) (names: lib.genAttrs names (_: true)) (
    types.attrsOf types.bool
  );
in
{
  options = {
    assertions = option (types.listOf types.unspecified) [ ];
    warnings = strings;
    meta = set;

    environment = {
      etc = option (submodule etc) { };
      systemPackages = option (types.listOf types.package) [ ];
      pathsToLink = strings;
      profiles = strings;
      variables = set;
      sessionVariables = set;
      shells = option (types.listOf types.anything) [ ];
      extraInit = lines;
    };

    fileSystems = option (submodule fileSystem) { };
    swapDevices = option (types.listOf types.anything) [ ];

    boot = {
      isContainer = bool false;
      supportedFilesystems = option fileSystemKinds { };
      kernelParams = strings;
      kernelModules = strings;
      kernelPackages = set;
      loader = set;
      resumeDevice = option types.str "";
      tmp = set;
      initrd = {
        enable = bool true;
        supportedFilesystems = option fileSystemKinds { };
        availableKernelModules = strings;
        kernelModules = strings;
        luks.devices = set;
        postDeviceCommands = lines;
        postResumeCommands = lines;
        postMountCommands = lines;
        secrets = set;
      };
    };

    security = {
      polkit = set;
      sudo.enable = bool true;
      sudo.extraRules = option (types.listOf types.anything) [ ];
      sudo.extraConfig = lines;
      wrappers = set;
    };

    services = {
      udev.enable = bool true;
      udev.extraRules = lines;
      udev.packages = option (types.listOf types.path) [ ];
      udev.path = option (types.listOf types.path) [ ];
      cron.enable = bool false;
      openssh.enable = bool false;
      openssh.hostKeys = option (types.listOf types.anything) [ ];
      openssh.settings = set;
      userborn.enable = bool false;
      dbus.packages = option (types.listOf types.path) [ ];
    };

    networking = {
      hostName = option types.str "nixos";
      domain = maybe types.str;
      firewall = set;
    };
    system = {
      activationScripts = set;
      userActivationScripts = set;
      build = option (types.lazyAttrsOf types.unspecified) { };
      stateVersion = option types.str "25.11";
      checks = option (types.listOf types.package) [ ];
    };
    nix.enable = bool true;
    nix.package = option types.anything "/nix/store/stub-nix";
    nix.settings = set;
    nixpkgs = set;
    programs = set;
    virtualisation = set;
    hardware = set;
    i18n.glibcLocales = option types.package pkgs.glibcLocales;
    time.timeZone = maybe types.str;
    xdg = set;
    fonts = set;
  };
}
