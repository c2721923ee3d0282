# The NixOS module: wiring alone, one file a concern.
{
  imports = [
    ./options.nix
    ./town.nix
    ./assertions.nix
    ./accounts.nix
    ./agreement.nix
    ./homes.nix
    ./mounts.nix
    ./units.nix
    ./rollback.nix
    ./devices.nix
    ./identity.nix
    ./secrets.nix
    ./home-manager.nix
    ./persistence.nix
    ./compat.nix
  ];
}
