# Where configurations that have this repository as a directory import the module of NixOS from.
{ imports = [ ./nix/module.nix ]; }
