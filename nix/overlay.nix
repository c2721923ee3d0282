# `pkgs.nuketown` and `pkgs.nuketown-identity`, of the packages as all overlays leave them.
final: _prev: import ./packages.nix final
