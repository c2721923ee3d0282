# A nixpkgs of names: what the flake asks of it, and no more. A package is its own name; what was built of it can be
# looked at. What is not here, this project's package may not ask for without bringing it.
{
  outputs =
    _:
    let
      derivationOf =
        system: given:
        given
        // builtins.derivation {
          inherit system;
          name = given.pname or given.name;
          builder = "/bin/sh";
        };
      named = names: builtins.listToAttrs (map (name: { inherit name; value = name; }) names);

      lib = {
        importTOML = file: builtins.fromTOML (builtins.readFile file);
        fileset = {
          toSource = given: given;
          unions = map toString;
        };
        inherit (builtins) mapAttrs;
        licenses.mit = "MIT";
        makeBinPath = builtins.concatStringsSep ":";
        platforms.linux = [ "linux" ];
        sourceTypes.binaryNativeCode = "binary";
      };

      pkgsOf =
        system:
        let
          callWith = scope: file: given:
            let
              function = import file;
              wanted = builtins.functionArgs function;
            in
            function (builtins.intersectAttrs wanted scope // given);
          derivation = derivationOf system;
          stdenv = {
            cc.cc.lib = "libgcc";
            hostPlatform = {
              inherit system;
              parsed.cpu.name = builtins.head (builtins.match "(.*)-linux" system);
            };
          };
          pkgs =
            named [
              "autoPatchelfHook" "bash" "btrfs-progs" "coreutils" "git" "gnugrep" "gnumake" "gnupg" "gnused" "kmod"
              "mypy" "ruff" "shellcheck" "systemd" "util-linux"
            ]
            // {
              inherit lib pkgs stdenv;
              callPackage = callWith pkgs;
              mkShell = derivation;
              python3Packages = python;
              writeShellApplication = derivation;
            };
          python =
            named [
              "blake3" "boto3" "btrfsutil" "cryptography" "cython" "google-re2" "hatchling" "python-gnupg" "ruamel-yaml"
              "segno" "setuptools" "tomlkit" "typing-extensions" "zstandard"
            ]
            // {
              buildPythonApplication = derivation;
              buildPythonPackage = derivation;
              callPackage = callWith (pkgs // python);
              fetchPypi = given: given;
            };
        in
        pkgs;
    in
    {
      inherit lib;
      legacyPackages = builtins.listToAttrs (
        map (name: { inherit name; value = pkgsOf name; }) [ "x86_64-linux" "aarch64-linux" ]
      );
    };
}
