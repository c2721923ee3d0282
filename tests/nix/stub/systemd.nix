# systemd's options in NixOS, on the host and in its initrd: nixos/lib/systemd-unit-options.nix.
{ lib, ... }:

let
  inherit (lib) mkOption types;

  option = type: default: mkOption { inherit type default; };
  strings = option (types.listOf types.str) [ ];
  set = option (types.attrsOf types.anything) { };

  # A value that stands once, or lists that are joined.
  word = lib.mkOptionType {
    name = "systemd option";
    merge =
      at: found:
      let
        counted = lib.options.mergeEqualOption at found;
      in
      if lib.any (one: lib.isList one.value) found then lib.concatMap (one: lib.toList one.value) found else counted;
  };
  section = option (types.attrsOf word) { };

  common = {
    enable = option types.bool true;
    description = option types.str "";
    documentation = strings;
    overrideStrategy = option (types.enum [ "asDropinIfExists" "asDropin" ]) "asDropinIfExists";
    unitConfig = section;
  }
  // lib.genAttrs [
    "after"
    "aliases"
    "before"
    "bindsTo"
    "conflicts"
    "onFailure"
    "onSuccess"
    "partOf"
    "requiredBy"
    "requires"
    "requisite"
    "upheldBy"
    "upholds"
    "wantedBy"
    "wants"
  ] (_: strings);

  service.options = common // {
    serviceConfig = section;
    environment = option (types.attrsOf (types.nullOr (types.oneOf [ types.str types.path types.package ]))) { };
    path = option (types.listOf (types.either types.package types.str)) [ ];
    enableDefaultPath = option types.bool true;
    script = option types.lines "";
    preStart = option types.lines "";
    restartIfChanged = option types.bool true;
    reloadIfChanged = option types.bool false;
    stopIfChanged = option types.bool true;
    restartTriggers = option (types.listOf types.unspecified) [ ];
    reloadTriggers = option (types.listOf types.unspecified) [ ];
    startAt = strings;
  };
  timer.options = common // { timerConfig = section; };
  mount.options = common // {
    what = option types.str "";
    where = option types.str "";
    type = option types.str "";
    options = option types.commas "";
    mountConfig = section;
  };
  automount.options = common // {
    where = option types.str "";
    automountConfig = section;
  };
  plain.options = common;
  slice.options = common // { sliceConfig = section; };
  socket.options = common // {
    socketConfig = section;
    listenStreams = strings;
  };

  units = {
    services = option (types.attrsOf (types.submodule service)) { };
    targets = option (types.attrsOf (types.submodule plain)) { };
    timers = option (types.attrsOf (types.submodule timer)) { };
    sockets = option (types.attrsOf (types.submodule socket)) { };
    slices = option (types.attrsOf (types.submodule slice)) { };
    paths = option (types.attrsOf (types.submodule plain)) { };
    mounts = option (types.listOf (types.submodule mount)) [ ];
    automounts = option (types.listOf (types.submodule automount)) [ ];
    units = option (types.attrsOf types.anything) { };
    packages = option (types.listOf types.package) [ ];
    suppressedUnits = strings;
    suppressedSystemUnits = strings;
    tmpfiles.settings = set;
    tmpfiles.rules = strings;
  };

  file = { name, config, ... }: {
    options = {
      enable = option types.bool true;
      target = option types.path name;
      text = option (types.nullOr types.lines) null;
      source = mkOption { type = types.path; };
    };
    config.source = lib.mkIf (config.text != null) (lib.mkDefault "/nix/store/initrd-${baseNameOf name}");
  };
in
{
  options = {
    systemd = units // {
      package = option types.anything "/nix/store/stub-systemd";
      user = lib.genAttrs [ "services" "timers" "targets" ] (name: units.${name});
      globalEnvironment = set;
      sysusers.enable = option types.bool false;
    };
    # boot.initrd.systemd: what a file of the store is put in, with all that it refers to; programs on PATH; files.
    boot.initrd.systemd = units // {
      enable = option types.bool true;
      storePaths = option (types.listOf (types.oneOf [ types.package types.singleLineStr types.attrs ])) [ ];
      initrdBin = option (types.listOf types.package) [ ];
      extraBin = option (types.attrsOf types.path) { };
      network = set;
      users = set;
      groups = set;
      contents = option (types.attrsOf (types.submodule file)) { };
      emergencyAccess = option types.anything false;
    };
  };
}
