{
  description = "AI agents as real Unix users whose homes are wiped at every boot: rollback, persistence, identity";

  inputs = {
    nixpkgs.url = "github:NixOS/nixpkgs/nixos-25.11";

    # For the checks alone: the module looks for their options and brings none of them.
    home-manager = {
      url = "github:nix-community/home-manager/release-25.11";
      inputs.nixpkgs.follows = "nixpkgs";
    };
    impermanence = {
      url = "github:nix-community/impermanence";
      inputs.home-manager.follows = "home-manager";
      inputs.nixpkgs.follows = "nixpkgs";
    };
    sops-nix = {
      url = "github:Mic92/sops-nix";
      inputs.nixpkgs.follows = "nixpkgs";
    };
  };

  outputs =
    { self, nixpkgs, ... }@inputs:
    let
      systems = [
        "x86_64-linux"
        "aarch64-linux"
      ];
      # Of each system: what `make` gives for its name and its packages.
      eachSystem =
        make:
        builtins.listToAttrs (
          map (system: {
            name = system;
            value = make system nixpkgs.legacyPackages.${system};
          }) systems
        );
      app = description: program: {
        type = "app";
        inherit program;
        meta = { inherit description; };
      };
      # By path, so that who imports one twice has it once; in a set, for not every `nix flake check` takes a path.
      module = file: { imports = [ file ]; };
      homeModules.approvalDaemon = module ./nix/home-manager/approval-daemon.nix;
    in
    {
      nixosModules = {
        default = module ./nix/module.nix;
        nuketown = module ./nix/module.nix;
      }
      // homeModules; # under this name too configurations of nuketown import it

      homeManagerModules = homeModules;

      overlays.default = import ./nix/overlay.nix;

      packages = eachSystem (
        _system: pkgs:
        let
          ours = import ./nix/packages.nix pkgs;
        in
        ours // { default = ours.nuketown; }
      );

      apps = eachSystem (
        system: _pkgs:
        let
          ours = self.packages.${system};
        in
        rec {
          default = identity;
          identity = app "Identities of the agents of this flake, written into its checkout" (
            "${ours.nuketown-identity}/bin/nuketown-identity"
          );
          persist = app "Persistence of the agents of this machine" "${ours.nuketown}/bin/persist";
        }
      );

      checks = eachSystem (_system: pkgs: import ./nix/checks (inputs // { inherit pkgs; }));

      devShells = eachSystem (
        system: pkgs: {
          default = import ./nix/shell.nix {
            inherit pkgs;
            inherit (self.packages.${system}) nuketown;
          };
        }
      );
    };
}
