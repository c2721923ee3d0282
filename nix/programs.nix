# What the commands and the hook run besides themselves, of a package set. A test holds it against what they call.
pkgs: [
  pkgs.bash # sh
  pkgs.btrfs-progs
  pkgs.coreutils
  pkgs.git
  pkgs.gnugrep
  pkgs.gnupg # gpg, gpg-agent, gpgconf, gpg-connect-agent
  pkgs.kmod # modprobe
  pkgs.systemd # systemctl, loginctl, journalctl
  pkgs.util-linux # mount, umount, findmnt, blkid, unshare
]
