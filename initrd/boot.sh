#!/bin/sh
# What an initrd starts: the hook beside this file, for a bounded time. Whatever becomes of it, boot goes on; without the
# proof that the hook leaves in /run/nuketown, the host keeps the agents out.
#
#   NUKETOWN_DEVICE, _SUBVOLUME, _BLANK, _WAIT   from /etc/nuketown/rollback.conf; the hook says what they mean
#
# The hook waits for its device by itself (NUKETOWN_WAIT seconds). The bound here is for what cannot be waited for in
# shell: a disk that answers nobody.

set -u
here=${0%/*}
PATH=$here/bin:/usr/sbin:/usr/bin:/sbin:/bin # bin: where the initrd's own programs are too small for the hook
export PATH
run=/run/nuketown

reason() { # WHAT CURE: on the console, and for the host
    printf 'nuketown: error: %s\nnuketown: hint: %s\n' "$1" "$2" >&2
    [ -d "$run" ] || mkdir -m 0755 "$run"
    (umask 022 && printf 'error: %s\nhint: %s\n' "$1" "$2" >"$run/rollback.failed")
}

if [ -z "${NUKETOWN_DEVICE:-}" ]; then
    reason 'this initrd was made without /etc/nuketown/rollback.conf' \
        'run persist install, make the initrd anew (update-initramfs -u, dracut --force, or nixos-rebuild boot), reboot'
    exit 1
fi

case ${NUKETOWN_WAIT:-0} in
0 | [1-9] | [1-9][0-9] | [1-9][0-9][0-9]) limit=$((${NUKETOWN_WAIT:-0} + 120)) ;;
*) limit=120 ;; # the hook refuses it
esac
timeout -k 5 "$limit" sh "$here/rollback.sh"
status=$?
case $status in
124 | 137)
    rm -f "$run/rollback"
    reason "the rollback did not end within $limit s and was stopped" \
        'see what the disk says (dmesg), then reboot or run persist rollback: the next run goes on from here'
    ;;
esac
exit "$status"
