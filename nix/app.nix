# `nix run .#identity`: a shell program, checked by shellcheck when it is built. `nix` is the caller's own.
{
  coreutils,
  git,
  gnugrep,
  gnused,
  nuketown,
  writeShellApplication,
}:

writeShellApplication {
  name = "nuketown-identity";
  runtimeInputs = [
    coreutils
    git
    gnugrep
    gnused
    nuketown
  ];
  text = ''
    NUKETOWN_CHECKOUT=${./checkout.nix}
  ''
  + builtins.readFile ./identity.sh;
}
