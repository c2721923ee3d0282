# Two agents, on a machine without btrfs.
{
  nuketown = {
    enable = true;
    humanUser = "josh";
    agents.ada = {
      enable = true;
      uid = 1100;
      role = "software";
      persist = [
        "projects"
        { path = "models"; class = "cache"; }
      ];
      devices = [
        {
          subsystem = "tty";
          attrs = { idVendor = "0483"; idProduct = "5740"; };
        }
      ];
    };
    agents.vox = {
      enable = true;
      uid = 1101;
      role = "research";
      git.signing = "ssh";
      persist = [ "projects" "notes" ];
    };
  };
}
