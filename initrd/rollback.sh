#!/bin/sh
# The boot hook: sets the agents' homes aside and puts a blank @agents in their place.
#
#   NUKETOWN_DEVICE     the btrfs: a path, UUID=…, LABEL=…, or a bare filesystem UUID
#   NUKETOWN_SUBVOLUME  default @agents
#   NUKETOWN_BLANK      default @agents-blank: an empty read-only subvolume, root:root 0755
#
# Status 0 only when the subvolume is blank and durable; then /run/nuketown/rollback is the proof. Whatever fails: the
# status is 1, the reason is on standard error and in /run/nuketown/rollback.failed, there is no proof, and what is on
# the disk is a state that the next run finishes. No old home is ever deleted. docs/formats/disk.md has the states.
#
# The same file runs in an initrd and on a live system, under dash, busybox ash and bash. No step walks into what an
# agent left, and no name that an agent chose is read: the cost is the same whatever there is.

set -u
umask 077
LC_ALL=C
PATH=${PATH:-/usr/sbin:/usr/bin:/sbin:/bin}
export LC_ALL PATH

run=/run/nuketown
run_is_ours=
mounted=
private=
line_end='
'

# ---------------------------------------------------------------- words

there() { [ -e "$1" ] || [ -L "$1" ]; } # a link that leads nowhere is there too

say() { printf 'nuketown: %s\n' "$*" >&2; }

warn() {
    say "warning: $1"
    say "hint: $2"
}

fail() { # WHAT CURE: the end of this run
    say "error: $1"
    say "hint: $2"
    if [ -n "$run_is_ours" ]; then
        forget "$run/rollback"
        (umask 022 && printf 'error: %s\nhint: %s\n' "$1" "$2" >"$run/rollback.failed")
    fi
    exit 1
}

forget() { # FILE of our own in /run
    if there "$1"; then rm -f "$1" || : >"$1"; fi
}

first_line() { # of a program's words, or nothing when it could act on a console
    first=${1%%"$line_end"*}
    case $first in
    *[![:print:]]*) first='(its words are not printable)' ;;
    '') first='it said nothing' ;;
    esac
    printf '%s' "$first"
}

leave() { # at every exit: nothing stays mounted, and the directory goes
    status=$?
    trap '' HUP INT TERM
    cd / || :
    if [ -n "$mounted" ]; then umount "$private" 2>/dev/null || umount -l "$private" 2>/dev/null; fi
    if [ -n "$private" ]; then rmdir "$private"; fi
    trap - EXIT
    exit "$status"
}

# Every step that changes the filesystem goes through here: one place to stop, and the one place where a filesystem
# that is full would be given room before a second try.
change() { # WHAT COMMAND…
    doing=$1
    shift
    words=$("$@" 2>&1) && return
    # On a disk that is full, a commit gives back what was freed since the last one: then it is worth a second try.
    btrfs filesystem sync "$top" >/dev/null 2>&1 && words=$("$@" 2>&1) && return
    fail "$doing failed: $(first_line "$words")" "$cure_of_a_failed_step"
}

cure_of_a_failed_step='nothing is lost and the next run goes on from here: look at dmesg and btrfs filesystem usage, then reboot or run persist rollback'

# ---------------------------------------------------------------- what we were told, what we need

need_programs() {
    for program in btrfs mount umount mv mkdir rm rmdir stat; do
        command -v "$program" >/dev/null ||
            fail "the program $program is not here" 'put it into the initrd (on a live system: install its package)'
    done
}

need_run() { # first of all: from here on a failure leaves its reason, and no proof of an earlier run
    if ! there "$run" && ! mkdir -m 0755 "$run"; then fail "$run cannot be made" "$cure_of_run"; fi
    if [ -L "$run" ] || [ ! -d "$run" ]; then fail "$run is not a directory" "$cure_of_run"; fi
    [ -O "$run" ] || fail "$run does not belong to the user who runs this, or this is not root" "$cure_of_run"
    run_is_ours=1
    forget "$run/rollback"
}

cure_of_run='run the hook as root, with a tmpfs on /run; remove what stands at /run/nuketown if root did not make it'

need_private() { # a directory of our own for the mount, under a name that nothing has
    place=$run/top.$$
    while there "$place"; do place=$place.more; done
    mkdir -m 0700 "$place" || fail "$place cannot be made" "$cure_of_run"
    private=$place
}

plain() { # NAME VARIABLE: one component, printable enough for a message
    case $1 in
    '' | . | .. | */* | *[[:cntrl:]]*)
        fail "$2 is not the name of a subvolume at the top level" "give one plain name such as $3, without a slash" ;;
    esac
    [ ${#1} -le 200 ] || fail "$2 is longer than 200 bytes" "give one plain name such as $3"
}

need_names() {
    subvolume=${NUKETOWN_SUBVOLUME:-@agents}
    blank=${NUKETOWN_BLANK:-@agents-blank}
    plain "$subvolume" NUKETOWN_SUBVOLUME @agents
    plain "$blank" NUKETOWN_BLANK @agents-blank
    new=$subvolume.new old=$subvolume-old
    case $blank in
    "$subvolume" | "$new" | "$old")
        fail 'NUKETOWN_BLANK is a name that NUKETOWN_SUBVOLUME uses' 'give the blank subvolume a name of its own' ;;
    esac
}

is_uuid() {
    case $1 in
    *[!0-9a-fA-F-]*) return 1 ;;
    ????????-????-????-????-????????????) return 0 ;;
    esac
    return 1
}

need_device() {
    device=${NUKETOWN_DEVICE:-}
    if is_uuid "$device"; then device=UUID=$device; fi
    case $device in
    UUID=*[A-F]*) lower_case ;;
    esac
    case $device in
    *[[:cntrl:]]*) fail 'NUKETOWN_DEVICE holds a control character' "$cure_of_a_device" ;;
    /?* | UUID=?*) ;;
    LABEL=?*) one_label "${device#LABEL=}" ;;
    *) fail 'NUKETOWN_DEVICE names no device' "$cure_of_a_device" ;;
    esac
}

lower_case() { # a UUID: blkid and mount know it in lower case only
    for pair in Aa Bb Cc Dd Ee Ff; do
        rest=${device#UUID=}
        device=UUID=
        while :; do
            case $rest in
            *"${pair%?}"*) device=$device${rest%%"${pair%?}"*}${pair#?} rest=${rest#*"${pair%?}"} ;;
            *) break ;;
            esac
        done
        device=$device$rest
    done
}

cure_of_a_device='set it to a path, UUID=… or LABEL=… of the btrfs that holds @agents (blkid shows them)'

one_label() { # LABEL: mount would take any of two filesystems that share it, so two are refused
    case $1 in
    */* | -*) fail 'the label in NUKETOWN_DEVICE cannot be looked up' 'name the filesystem by UUID=…' ;;
    esac
    cd "$private" || fail "$private cannot be entered" "$cure_of_a_device" # a file called like the label is no answer
    found=$(btrfs filesystem show -d "$1" 2>/dev/null | {
        count=0
        while read -r word _; do
            if [ "$word" = Label: ]; then count=$((count + 1)); fi
        done
        echo "$count"
    })
    cd / || :
    case $found in
    1) ;;
    0) fail "no btrfs has the label that NUKETOWN_DEVICE names, $1" "$cure_of_a_device" ;;
    *) fail "more than one btrfs has the label $1" 'name the filesystem by UUID=…' ;;
    esac
}

need_boot() {
    read -r boot </proc/sys/kernel/random/boot_id || boot=
    is_uuid "$boot" || fail 'the kernel gives no boot id' 'mount /proc in the initrd before the hook runs'
}

# ---------------------------------------------------------------- looking

# Inode, owner, mode in hex and size. 256 is the inode of every subvolume's root directory and of nothing else that can
# be met at the top level; 41ed is a directory with 0755; btrfs gives a directory the size 0 when nothing is in it.
facts() { TZ=UTC0 stat -c '%i %u:%g %f %s %y %n' "$@"; }
blank_facts='256 0:0 41ed 0'

# One process looks at everything: each costs more than all that the kernel does here.
look() {
    of_run='' of_top='' of_blank='' of_old='' of_subvolume='' of_new=''
    set -- "$run" "$top"
    for name in "$blank" "$old" "$subvolume" "$new"; do
        if there "$top/$name"; then set -- "$@" "$top/$name"; fi
    done
    while read -r inode owner mode size day clock _ name; do
        is="$inode $owner $mode $size"
        case $name in
        "$run")
            of_run=$mode
            now="$day ${clock%%.*}" ;; # it was changed when `private` was made: that is now, and spares a date
        "$top") of_top=$is ;;
        "$top/$blank") of_blank=$is ;;
        "$top/$old") of_old=$is ;;
        "$top/$subvolume") of_subvolume=$is ;;
        "$top/$new") of_new=$is ;;
        esac
    done <<END
$(facts "$@")
END
}

nothing_in() { # DIRECTORY: without a process; its size says the same
    for entry in "$1"/* "$1"/.[!.]* "$1"/..?*; do
        if there "$entry"; then return 1; fi
    done
}

# `btrfs subvolume show` prints its fields first and then lists every snapshot: it takes longer the more subvolumes
# there are, and ends with an error when one lies below a path longer than PATH_MAX. So: its status says nothing, only
# the first of each field counts, nothing after "Snapshot(s):" is read, and its time is bounded where timeout exists.
show() { # SUBVOLUME: "uuid parent generation generation-at-creation flags", a dash for what is not known
    $bounded btrfs subvolume show "$1" 2>/dev/null | {
        uuid='' parent='' generation='' origin='' flags=''
        while IFS= read -r line; do
            value=${line##*[[:space:]]}
            case $line in
            *'Snapshot(s):'*) break ;;
            '	UUID:'*) uuid=${uuid:-$value} ;;
            '	Parent UUID:'*) parent=${parent:-$value} ;;
            '	Generation:'*) generation=${generation:-$value} ;;
            '	Gen at creation:'*) origin=${origin:-$value} ;;
            '	Flags:'*) flags=${flags:-$value} ;;
            esac
        done
        echo "${uuid:--} ${parent:--} ${generation:--} ${origin:--} ${flags:--}"
    }
}

bounded=
if command -v timeout >/dev/null; then bounded='timeout 5'; fi

# Blank's child, and its generation is still the one it was made with: nobody ever wrote to it. No agent can forge
# either. Sets uuid and flags.
untouched() { # NAME ITS-FACTS
    [ "$2" = "$blank_facts" ] && nothing_in "$top/$1" || return 1
    make_durable # generations are those of the last commit
    read -r of_parent _ <<END
$(show "$top/$blank")
END
    read -r uuid parent generation origin flags <<END
$(show "$top/$1")
END
    is_uuid "$of_parent" && is_uuid "$uuid" && [ "$parent" = "$of_parent" ] || return 1
    [ "$generation" = "$origin" ] && [ "$generation" != - ]
}

# ---------------------------------------------------------------- the steps

mount_top() {
    mounted=maybe # before it is: a signal may come in between
    words=$(mount -t btrfs -o subvolid=5,noatime,nosuid,nodev,noexec "$device" "$private" 2>&1) ||
        fail "$device cannot be mounted as btrfs: $(first_line "$words")" "$cure_of_a_mount"
    top=$private
}

need_layout() { # everything that is looked at before anything is changed
    look
    case $of_run in
    *[2367abef] | *[13579bdf]?) # in hex: write for others, write for the group
        fail "others than root may write to $run" "chmod 0755 $run, after a look at what is in it" ;;
    esac
    case $of_top in
    '256 '*) ;;
    *) fail "$device shows no top level" "$cure_of_a_mount" ;;
    esac
    need_blank
    need_old
}

cure_of_a_mount='see that the disk is there, unlocked and btrfs (lsblk -f), then reboot or run persist rollback'

need_blank() { # never made here: from what, an agent could have had a hand in
    case $of_blank in
    "$blank_facts") ;;
    '') fail "the blank subvolume $blank is missing" 'make it anew with persist init, then reboot or run persist rollback' ;;
    '256 0:0 41ed '*) fail "$blank is not empty" "$cure_of_blank" ;;
    '256 '*' 4'???' '*) fail "$blank is not root:root 0755" "$cure_of_blank" ;;
    *) fail "$blank is not a subvolume" 'move it away, then run persist init' ;;
    esac
    nothing_in "$top/$blank" || fail "$blank is not empty" "$cure_of_blank"
    blank_is_read_only
}

cure_of_blank='find out who changed it; then delete the subvolume and run persist init'

blank_is_read_only() {
    # A read-only subvolume answers EROFS to access(2), which costs nothing; busybox's -w says yes to root unasked.
    [ -w "$top/$blank" ] || return 0
    case $(btrfs property get -ts "$top/$blank" ro 2>&1) in
    ro=true) ;;
    ro=false)
        change "setting $blank read-only" btrfs property set -ts "$top/$blank" ro true
        warn "$blank was empty but not read-only; it is read-only now" 'nothing to do; persist init makes it read-only' ;;
    *) fail "btrfs does not say whether $blank is read-only" "$cure_of_a_mount" ;;
    esac
}

need_old() {
    case $of_old in
    '') change "making $old" mkdir -m 0700 "$top/$old" ;;
    # Into a subvolume, mv would copy a plain directory instead of moving it.
    '256 '*) fail "$old is a subvolume" "rename it and make a plain directory: mkdir -m 0700 $old" ;;
    *' 0:0 41c0 '*) ;;
    *) fail "$old is not a directory of root:root with mode 0700" 'look at it as root, then chown 0:0 and chmod 0700, or move it away' ;;
    esac
}

name_old() { # sets key: 20261121T101500Z-<boot id>, unique by the boot id even when the clock is wrong
    IFS='-: ' read -r year month day hour minute second <<END
$now
END
    stamp=$year$month${day}T$hour$minute${second}Z-$boot
    key=$stamp
    number=1
    while there "$top/$old/$key"; do
        key=$stamp.$number
        number=$((number + 1))
    done
}

set_aside() { # NAME at the top level: whatever it is, it goes to @agents-old whole
    name_old
    # A read-only subvolume cannot change its directory (EROFS).
    if ! mv -T "$top/$1" "$top/$old/$key" 2>/dev/null; then
        if [ "$(btrfs property get -ts "$top/$1" ro 2>/dev/null)" = ro=true ]; then writable "$1"; fi
        change "setting $1 aside" mv -T "$top/$1" "$top/$old/$key"
    fi
    if there "$top/$1" || ! there "$top/$old/$key"; then fail "$1 was not set aside" "$cure_of_a_failed_step"; fi
    aside="${aside}old=$old/$key$line_end"
    say "$1 is set aside as $old/$key"
}

writable() { # NAME; -f: one that came by btrfs receive is refused without
    btrfs property set -ts "$top/$1" ro false 2>/dev/null ||
        change "making $1 writable" btrfs property set -f -ts "$top/$1" ro false
}

finish_interrupted() { # what a run that was cut off left under the name that ours will use
    if [ -z "$of_new" ]; then return; fi
    if untouched "$new" "$of_new"; then
        change "removing the unused $new" btrfs subvolume delete "$top/$new"
    else
        set_aside "$new"
    fi
}

keep_untouched() { # an untouched home is not worth keeping, and must not push out those that are
    untouched "$subvolume" "$of_subvolume" || return 1
    if [ "$flags" = readonly ]; then writable "$subvolume"; fi
}

put_blank() { # first the new one, durable; then two renames, between which a crash leaves a state we know
    change "taking a snapshot of $blank" btrfs subvolume snapshot -r "$top/$blank" "$top/$new"
    identify
    writable "$new"
    if [ -n "$of_subvolume" ]; then set_aside "$subvolume"; fi
    # Checked by name: a rename would replace an empty directory in silence.
    if there "$top/$subvolume"; then fail "$subvolume came back while it was set aside" "$cure_of_a_failed_step"; fi
    change "putting $new in place" mv -T "$top/$new" "$top/$subvolume"
}

# The uuid of the new snapshot, and the kernel's word that it does not differ from blank: the send stream between the
# two is its header alone. Unlike `show` this costs the same however many subvolumes there are.
identify() {
    words=$(btrfs send -q --no-data -p "$top/$blank" "$top/$new" 2>/dev/null | btrfs receive --dump 2>/dev/null)
    uuid=${words#* uuid=}
    uuid=${uuid%% *}
    parent=${words#* parent_uuid=}
    parent=${parent%% *}
    # A blank that came by btrfs receive hands its received uuid on, and the stream names that one twice.
    case $words in
    *"$line_end"*) ;;
    snapshot*) if is_uuid "$uuid" && [ "$uuid" != "$parent" ]; then return; fi ;;
    esac
    bounded=
    look
    untouched "$new" "$of_new" || fail "the new snapshot of $blank is not blank" "$cure_of_a_failed_step"
}

make_durable() { change 'committing' btrfs filesystem sync "$top"; }

verify() { # the name that was free until our rename has a blank subvolume now
    look
    if [ "$of_subvolume" != "$blank_facts" ] || [ -n "$of_new" ] || ! nothing_in "$top/$subvolume"; then
        fail "$subvolume is not blank after the rollback" "$cure_of_a_failed_step"
    fi
    id=$(btrfs inspect-internal rootid "$top/$subvolume" 2>&1) || fail "$subvolume has no id" "$cure_of_a_failed_step"
}

prove() { # beside and renamed: a reader sees the whole proof or none
    if ! (umask 022 && proof >"$run/.proof.$$") || ! mv -T "$run/.proof.$$" "$run/rollback"; then
        fail "the proof cannot be written to $run" 'see that /run is a tmpfs with room'
    fi
    forget "$run/rollback.failed"
    say "$subvolume is blank and durable"
}

proof() {
    printf 'version=1\nboot_id=%s\nsubvolume=%s\nuuid=%s\nid=%s\n' "$boot" "$subvolume" "$uuid" "$id"
    printf '%s' "$aside" # old=@agents-old/…, a line for each thing that was set aside
}

# ---------------------------------------------------------------- in order

trap leave EXIT
trap 'fail "the rollback was interrupted" "reboot or run persist rollback: the next run goes on from here"' HUP INT TERM
aside=
need_run
need_programs
need_private
need_names
need_device
need_boot
mount_top
need_layout
finish_interrupted
keep_untouched || put_blank
make_durable
verify
prove
