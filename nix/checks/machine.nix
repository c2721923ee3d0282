# A machine to evaluate: as little as NixOS wants to be told.
{
  boot.loader.grub.device = "nodev";
  fileSystems."/" = {
    device = "/dev/disk/by-label/root";
    fsType = "ext4";
  };
  networking.hostName = "signi";
  system.stateVersion = "25.11";
  users.users.josh = {
    isNormalUser = true;
    uid = 1000;
  };
}
