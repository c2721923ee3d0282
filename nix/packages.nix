# What this project builds, of a package set.
pkgs: rec {
  # Both commands and the hook.
  nuketown = pkgs.python3Packages.callPackage ./package.nix { };

  # `identity` for the checkout of a flake.
  nuketown-identity = pkgs.callPackage ./app.nix { inherit nuketown; };
}
