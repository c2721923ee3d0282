# A configuration as users of nuketown have it: two agents, hardware, secrets, Claude Code, a home-manager module.
{ pkgs, ... }:

{
  networking.hostName = "fennel";

  nuketown = {
    enable = true;
    domain = "fennel.local";
    btrfsDevice = "0b5d1c0e-4f0c-4c8e-9a53-7c1f0a4d2e11";
    sopsFile = ./secrets/agents.yaml;
    projectDirs = [ "~/dev" ];
    humanUser = "mara";

    agents.ada = {
      enable = true;
      uid = 1100;
      role = "software";
      description = ''
        Writes firmware.
        Says "why" before 'how'; knows what ''${a} and \n are.
      '';

      packages = with pkgs; [ unstable.claude-code gcc-arm-embedded stm32flash dfu-util ];
      persist = [ "projects" ".config/claude" ];

      secrets.sshKey = "ada/ssh-key";
      secrets.gpgKey = "ada/gpg-key";
      secrets.extraSecrets.anthropic-key = "ada/anthropic-key";

      sudo.enable = true;
      portal.enable = true;

      devices = [
        { subsystem = "tty"; action = "add"; attrs = { idVendor = "0483"; idProduct = "5740"; }; }
        { subsystem = "usb"; attrs = { product = "STM32  BOOTLOADER"; }; }
      ];

      claudeCode = {
        enable = true;
        settings.permissions = {
          defaultMode = "acceptEdits";
          additionalDirectories = [ "/home/mara/dev" ];
        };
        extraPrompt = ''
          ## Building

          1. `nixos-rebuild build --flake . --show-trace`
        '';
      };

      extraHomeConfig = {
        programs.helix = { enable = true; defaultEditor = true; };
      };
    };

    agents.vox = {
      enable = true;
      uid = 1101;
      role = "research";
      packages = with pkgs; [ unstable.claude-code python3 ];
      persist = [ "projects" "notes" ];
      secrets.sshKey = "vox/ssh-key";
    };

    agents.idle = {
      uid = 1102;
    };
  };

  users.users.mara = { isNormalUser = true; uid = 1000; };
}
