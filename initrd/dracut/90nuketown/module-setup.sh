#!/bin/bash
# dracut's module: the hook, what it needs, and what starts it. dracut.modules(7) has the functions.
# shellcheck disable=SC2154 # moddir, initdir and systemdsystemunitdir are dracut's

called=/usr/lib/nuketown
conf=/etc/nuketown/rollback.conf

check() {
    require_binaries btrfs mount umount mv mkdir rm rmdir stat timeout sleep || return 1
}

depends() {
    # Asked for by name, so the kernel's module and the udev rules come in even where no other disk is btrfs.
    echo btrfs
}

installkernel() {
    hostonly='' instmods btrfs crc32c_generic crc32c-intel xxhash_generic blake2b_generic
}

install() {
    inst_multiple btrfs mount umount mv mkdir rm rmdir stat timeout sleep
    inst_multiple -o blkid modprobe
    inst_script "$called/rollback.sh"
    inst_script "$called/boot.sh"
    if [ -e "${dracutsysrootdir-}$conf" ]; then
        inst_simple "$conf"
    else
        dwarn "nuketown: $conf is missing: this initrd rolls nothing back, and no agent will start"
        dwarn "nuketown: run persist install, then dracut --force"
    fi
    if dracut_module_included systemd; then
        install_unit
    else
        inst_hook pre-mount 50 "$moddir/pre-mount.sh" # 10 is the resume from hibernation
    fi
}

install_unit() {
    local unit=nuketown-initrd-rollback.service units=$systemdsystemunitdir
    inst_simple "$moddir/$unit" "$units/$unit"
    mkdir -p "$initdir$units/initrd.target.wants"
    ln -sf "../$unit" "$initdir$units/initrd.target.wants/$unit"
}
