# A disk that is empty, then two boots of an agent: what it declared is there in the second, and nothing else is.
{ module }:

let
  uuid = "38b243a0-c875-4758-8998-cc6c6a4c451e";
in
{
  name = "nuketown-two-boots";

  nodes.machine =
    { pkgs, ... }:
    {
      imports = [ module ];

      virtualisation.emptyDiskImages = [ 1024 ]; # /dev/vdb, and the same one after each reboot
      # A virtual machine of a test mounts what stands here in place of fileSystems: the cover once more.
      virtualisation.fileSystems."/agents" = {
        device = "tmpfs";
        fsType = "tmpfs";
        options = [ "ro" "mode=0000" "nosuid" "nodev" "noexec" "size=4k" "nofail" ];
      };
      boot.initrd.systemd.enable = true;

      users.users.josh = {
        isNormalUser = true;
        uid = 1000;
      };
      environment.systemPackages = [ pkgs.btrfs-progs ];

      nuketown = {
        enable = true;
        domain = "example.org";
        humanUser = "josh";
        btrfsDevice = uuid;
        wait = "5s";
        # Made in the first boot: a key in the Nix store would be no secret.
        sopsFile = "/var/lib/town/secrets/agents.yaml";
        agents.ada = {
          enable = true;
          uid = 1100;
          git.signing = "ssh";
          persist = [ "projects" ];
        };
      };
    };

  testScript = ''
    import shlex


    def ada(command: str) -> str:
        return machine.succeed(f"su ada -c {shlex.quote(command)}")


    def reboot() -> None:
        machine.shutdown()
        machine.start()
        machine.wait_for_unit("multi-user.target")


    machine.start()
    machine.wait_for_unit("multi-user.target")

    with subtest("without its disk the person is in and the agent is out"):
        machine.succeed("su josh -c true")
        machine.fail("su ada -c true")
        machine.fail("test -e /run/nuketown/rollback")

    with subtest("the disk, the machine's key, the agent's keys"):
        machine.succeed("mkfs.btrfs -q -U ${uuid} /dev/vdb")
        machine.succeed("persist init")
        machine.succeed("mkdir -p /var/lib/town/secrets")
        recipient = machine.succeed("identity host init").strip()
        rules = f"creation_rules:\n  - path_regex: .*\n    age: {recipient}\n"
        machine.succeed(f"printf %s {shlex.quote(rules)} >/var/lib/town/.sops.yaml")
        machine.succeed("identity gen ada --out /var/lib/town")
        machine.succeed("cp -r /var/lib/town/identities /etc/nuketown/")

    reboot()

    with subtest("the first boot of the agent"):
        machine.wait_for_unit("nuketown-agent@ada.target")
        assert ada("stat --format=%U ~").strip() == "ada"
        ada("test -s ~/.ssh/id_ed25519")
        ada("echo kept >~/projects/kept && echo lost >~/lost && mkdir ~/.lost")

    reboot()

    with subtest("the second: what was declared is there, and nothing else"):
        machine.wait_for_unit("nuketown-agent@ada.target")
        assert ada("cat ~/projects/kept") == "kept\n"
        ada("test ! -e ~/lost && test ! -e ~/.lost")
        assert ada("git config user.email") == "ada@example.org\n"

    with subtest("the home of the first boot is kept aside"):
        machine.succeed("persist homes | grep -F ada")

    with subtest("a boot without a proof keeps the agent out and lets the person in"):
        machine.succeed("systemctl stop nuketown-agent@ada.target nuketown-mount.service")
        machine.fail("systemctl restart nuketown-rollback.service")
        machine.fail("su ada -c true")
        machine.succeed("su josh -c true")
  '';
}
