# The package: both commands and the hook, from this checkout. Called with callPackage on a Python package set:
# `pkgs.python3Packages.callPackage ./package.nix { }`. What nixpkgs has is taken from there, the rest from ./python.
{
  lib,
  pkgs,
  callPackage,
  buildPythonApplication,
  hatchling,
  blake3,
  boto3,
  btrfsutil,
  cryptography,
  google-re2,
  pyfastcdc ? callPackage ./python/pyfastcdc.nix { },
  pyrage ? callPackage ./python/pyrage.nix { },
  python-gnupg,
  ruamel-yaml,
  segno,
  tomlkit,
  zstandard,
  runtimePath ? lib.makeBinPath (import ./programs.nix pkgs),
}:

let
  project = (lib.importTOML ../pyproject.toml).project;
in
buildPythonApplication {
  pname = project.name;
  inherit (project) version;
  pyproject = true;

  # Only what the wheel is made of: a change of a test or a page builds nothing anew.
  src = lib.fileset.toSource {
    root = ../.;
    fileset = lib.fileset.unions [
      ../LICENSE
      ../README.md
      ../identity
      ../initrd
      ../persist
      ../pyproject.toml
      ../town
    ];
  };

  build-system = [ hatchling ];

  dependencies = [
    blake3
    boto3
    btrfsutil
    cryptography
    google-re2
    pyfastcdc
    pyrage
    python-gnupg
    ruamel-yaml
    segno
    tomlkit
    zstandard
  ];

  # In front: root runs these, and means those that this version was built with, whatever the caller's PATH has.
  makeWrapperArgs = [ "--prefix" "PATH" ":" runtimePath ];

  # The suite needs root, loop devices and real mounts: it runs outside the build sandbox.
  doCheck = false;
  pythonImportsCheck = [ "town" "persist" "identity" "initrd" ];

  meta = {
    inherit (project) description;
    license = lib.licenses.mit;
    mainProgram = "persist";
    platforms = lib.platforms.linux;
  };
}
