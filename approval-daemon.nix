# Where configurations that have this repository as a directory import the person's module of home-manager from.
{ imports = [ ./nix/home-manager/approval-daemon.nix ]; }
