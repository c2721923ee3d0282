# `nix flake check`: configurations evaluated with all of NixOS, what one of them makes built by the real programs, and
# two boots in a virtual machine.
{
  self,
  nixpkgs,
  home-manager,
  impermanence,
  sops-nix,
  pkgs,
  ...
}:

let
  inherit (nixpkgs) lib;
  inherit (pkgs.stdenv.hostPlatform) system;

  evaluate =
    modules:
    (lib.nixosSystem {
      modules = [
        self.nixosModules.default
        ./machine.nix
        { nixpkgs.hostPlatform = system; }
      ]
      ++ modules;
    }).config;

  cases = import ./cases.nix {
    inherit lib;
    homeManager = home-manager.nixosModules.home-manager;
    impermanence = impermanence.nixosModules.impermanence;
    sops = sops-nix.nixosModules.sops;
  };

  # What of a case does not hold; without a case of its own, that the module has nothing against the configuration.
  wrong =
    case:
    let
      config = evaluate case.modules;
      ours = lib.filter (found: !found.assertion && lib.hasInfix "nuketown" found.message) config.assertions;
      failed = map (found: found.message) ours;
      holds = case.holds { inherit config failed; };
    in
    lib.attrNames (lib.filterAttrs (_: isTrue: !isTrue) ({ "it is accepted" = failed == [ ]; } // holds));

  check =
    name: case:
    let
      found = wrong case;
    in
    if found == [ ] then
      pkgs.runCommand "nuketown-${name}" { } "touch $out"
    else
      throw "nuketown-${name}: does not hold: ${lib.concatStringsSep "; " found}";

  built = (evaluate [ ./town.nix ]).nuketown.build;
in
lib.mapAttrs check cases
// {
  package = self.packages.${system}.nuketown;
  identity = self.packages.${system}.nuketown-identity;

  # persist check, persist units and identity run when these are built.
  made = pkgs.linkFarm "nuketown-made" [
    { name = "town.toml"; path = built.townFile; }
    { name = "units"; path = built.units; }
    { name = "documents"; path = built.documents; }
  ];

  two-boots = pkgs.testers.runNixOSTest (import ./two-boots.nix { module = self.nixosModules.default; });
}
