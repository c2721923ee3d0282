# Where the project is worked on: what `make check` and the tests that need no root call for.
{
  pkgs,
  nuketown,
}:

pkgs.mkShell {
  name = "nuketown";
  inputsFrom = [ nuketown ];
  packages = [
    pkgs.gnumake
    pkgs.mypy
    pkgs.ruff
    pkgs.shellcheck
  ]
  ++ import ./programs.nix pkgs;
}
