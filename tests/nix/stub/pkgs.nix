# A package set of values that look like derivations and can be looked at: `text`, `buildCommand`, `env`, `paths`.
{ lib, packages }:

let
  fake =
    name: more:
    let
      # Of the name alone: what it was made of is evaluated when it is asked for.
      hash = builtins.substring 0 32 (builtins.hashString "sha256" name);
      self = {
        type = "derivation";
        inherit name;
        pname = name;
        version = "1";
        system = "x86_64-linux";
        outPath = "/nix/store/${hash}-${name}";
        drvPath = "/nix/store/${hash}-${name}.drv";
        outputName = "out";
        outputs = [ "out" ];
        meta = { };
        override = _: self;
        overrideAttrs = _: self;
        overridePythonAttrs = _: self;
      }
      // lib.genAttrs [ "out" "bin" "dev" "lib" "man" "doc" "info" ] (_: self)
      // more;
    in
    self;

  # Programs that a module or a configuration may name. One that is missing here is an error that says its name.
  names = [
    "acl" "age" "attr" "bash" "bashInteractive" "btrfs-progs" "bzip2" "cacert" "claude-code" "codex" "coreutils"
    "cryptsetup" "curl" "dbus" "dfu-util" "diffutils" "direnv" "fd" "file" "findutils" "fish" "fzf" "gawk"
    "gcc-arm-embedded" "gettext" "gh" "git" "gitFull" "gitMinimal" "glibcLocales" "gnugrep" "gnupg" "gnused"
    "gnutar" "gzip" "helix" "hello" "htop" "inetutils" "iproute2" "jq" "kmod" "less" "linux-pam" "man" "man-db"
    "ncurses" "neovim" "neovim-unwrapped" "nix" "nix-direnv" "nixfmt" "nodejs" "nvd" "openssh" "pam" "patch"
    "pinentry-curses" "pinentry-tty" "procps" "rclone" "ripgrep" "rsync" "ruff" "shadow" "shared-mime-info"
    "shellcheck" "socat" "sops" "ssh-to-age" "statix" "stm32flash" "strace" "sudo" "systemd" "systemdMinimal" "tmux"
    "tree" "tzdata" "util-linux" "util-linuxMinimal" "vim" "which" "xdg-utils" "xz" "zenity" "zsh" "zstd"
  ];

  # Packages of Python that the package is made of, and its builder: what it was given can be looked at.
  python = pkgs.lib.genAttrs [
    "blake3" "boto3" "btrfsutil" "buildPythonPackage" "cffi" "cryptography" "google-re2" "hatchling" "pyfastcdc"
    "pyrage" "python-gnupg" "ruamel-yaml" "segno" "setuptools" "tomlkit" "zstandard"
  ] (name: fake "python3-${name}" { }) // {
    buildPythonApplication = given: fake given.pname (given // { meta = given.meta or { }; });
    buildPythonPackage = given: fake "python3-${given.pname}" (given // { meta = given.meta or { }; });
    callPackage = lib.callPackageWith (pkgs // python);
    fetchPypi = given: fake "source-${given.pname}" given;
    python = pkgs.python3;
  };

  # A generator of settings: any type, and a file that keeps what it was made of.
  format = name: _: {
    type = lib.types.attrsOf lib.types.anything;
    lib.types.atom = lib.types.anything;
    generate = file: value: fake file { format = name; inherit value; text = builtins.toJSON value; };
  };

  builders = {
    runCommand = name: env: buildCommand: fake name { inherit env buildCommand; };
    runCommandLocal = builders.runCommand;
    writeText = name: text: fake name { inherit text; };
    writeTextFile = given: fake given.name given;
    writeTextDir = path: text: fake (baseNameOf path) { inherit path text; };
    writeScript = name: text: fake name { inherit text; };
    writeScriptBin = builders.writeScript;
    writeShellScript = builders.writeScript;
    writeShellScriptBin = builders.writeScript;
    writeShellApplication = given: fake given.name given;
    linkFarm = name: entries: fake name { inherit entries; };
    symlinkJoin = given: fake given.name given;
    buildEnv = given: fake given.name given;
    mkShell = given: fake (given.name or "shell") given;
    mkShellNoCC = builders.mkShell;
    fetchurl = given: fake (given.name or "file") given;
    fetchFromGitHub = given: fake "source" given;
    testers.runNixOSTest = given: fake "vm-test" { inherit given; };
    nixosTest = builders.testers.runNixOSTest;
  };

  pkgs =
    lib.genAttrs names (name: fake name { })
    // builders
    // {
      inherit lib pkgs;
      callPackage = lib.callPackageWith pkgs;
      callPackages = pkgs.callPackage;
      config = { };
      formats = lib.genAttrs [ "gitIni" "ini" "iniWithGlobalSection" "json" "keyValue" "plist" "toml" "yaml" ] format;
      linuxPackages = { };
      path = ./nixpkgs;
      python3 = fake "python3" { pkgs = python; } // { withPackages = _: fake "python3" { }; };
      python3Packages = python;
      runtimeShell = "${pkgs.bash}/bin/bash";
      stdenv = {
        hostPlatform = lib.systems.elaborate "x86_64-linux";
        buildPlatform = lib.systems.elaborate "x86_64-linux";
        isLinux = true;
        isDarwin = false;
        system = "x86_64-linux";
        mkDerivation = given: fake (given.name or given.pname) given;
      };
      system = "x86_64-linux";
      unstable = pkgs;
    }
    // packages;
in
pkgs
