#!/bin/sh
# The boot hook: sets the agents' homes aside and puts a blank @agents in their place.
#
#   NUKETOWN_DEVICE     the btrfs: a path, UUID=…, LABEL=…, or a bare filesystem UUID
#   NUKETOWN_SUBVOLUME  default @agents
#   NUKETOWN_BLANK      default @agents-blank: an empty read-only subvolume, root:root 0755
#   NUKETOWN_WAIT       default 0: for so many seconds a device that is not there yet is waited for
#
# Status 0 only when the subvolume is blank and durable; then /run/nuketown/rollback is the proof. Whatever fails: the
# status is 1, the reason is on standard error and in /run/nuketown/rollback.failed, there is no proof, and what is on
# the disk is a state that the next run finishes. No old home is deleted, unless nothing else makes room on a
# filesystem whose metadata is full. docs/formats/disk.md has the states.
#
# The same file runs in an initrd and on a live system, under dash, busybox ash and bash. No step walks into what an
# agent left, and no name that an agent chose is read: the cost is the same whatever there is. Each process costs more
# than all that the kernel does here, so there are few: what the shell can see by itself, it looks at by itself.

set -u
umask 077
LC_ALL=C
PATH=${PATH:-/usr/sbin:/usr/bin:/sbin:/bin}
BLKID_FILE=/dev/null # mount(8) may remember a device that is gone
export LC_ALL PATH BLKID_FILE

run=/run/nuketown
private=$run/top/fs # the directory above stays closed to others, also while something is mounted here
run_is_ours=
mounted=
lost= # the old homes that were given up for room
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
    if [ -n "$lost" ]; then set -- "$1; given up for room:$lost" "$2"; fi
    say "error: $1"
    say "hint: $2"
    if [ -n "$run_is_ours" ]; then
        forget "$run/rollback"
        (umask 022 && printf 'error: %s\nhint: %s\n' "$1" "$2" >"$run/rollback.failed")
    fi
    exit 1
}

forget() { # FILE… of our own in /run
    for file in "$@"; do
        if there "$file"; then rm -f "$@" || : >"$file"; fi
    done
}

first_line() { # of a program's words, or nothing when it could act on a console
    first=${1%%"$line_end"*}
    case $first in
    *[![:print:]]*) first='(its words are not printable)' ;;
    '') first='it said nothing' ;;
    esac
    printf '%s' "$first"
}

leave() { # at every exit: nothing stays mounted
    status=$?
    trap '' HUP INT TERM
    cd / || :
    if [ -n "$mounted" ]; then umount "$private" 2>/dev/null || umount -l "$private" 2>/dev/null; fi
    trap - EXIT
    exit "$status"
}

# A program's words go through a file: the shell forks once less than for $(…), and that is a third of a process.
try() { # COMMAND…: its words are in words when it fails
    "$@" >"$run/.words" 2>&1 && return
    words=
    while IFS= read -r line || [ -n "$line" ]; do words=$words$line$line_end; done <"$run/.words"
    return 1
}

# Every step that changes the filesystem goes through here: the one place to stop, and to make room where there is none.
change() { # WHAT COMMAND…
    doing=$1
    shift
    try "$@" && return
    case $words in
    *'No space left'*) with_room "$@" || fail "$doing failed: $(first_line "$words")" "$cure_of_no_room" ;;
    *) fail "$doing failed: $(first_line "$words")" "$cure_of_a_failed_step" ;;
    esac
}

cure_of_no_room='@agents is as it was: free metadata as root (persist tidy; delete what persist homes shows; btrfs filesystem usage), then run persist rollback'

cure_of_a_failed_step='nothing is lost and the next run goes on from here: look at dmesg and btrfs filesystem usage, then reboot or run persist rollback'

# ---------------------------------------------------------------- room

# On a filesystem whose metadata is full, a snapshot and a destroy still work; a rename and a mkdir do not. What is
# destroyed gives its room back when the kernel's cleaner has been at it and a commit has come after.

with_room() { # COMMAND…: again while room is made for it, the cheapest room first; 1 when there is none
    with_spare_room "$@" || with_room_of_homes "$@"
}

with_spare_room() { # COMMAND…: at the cost of nothing that was anybody's
    now_is
    enough=${enough:-$((uptime + 30))} # s, for the whole run: what waits for this is the human's boot
    tries=10 # a run that was cut off may have given up the ballast: the cleaner is still at it
    if destroy "$ballast.new"; then tries=30; fi
    if destroy "$ballast"; then
        say "metadata is full: $ballast is given up for room"
        tries=30 # some 10 s: homes may have to follow
    fi
    again $tries "$@"
}

with_room_of_homes() { # COMMAND…: what persist tidy had begun to delete, then the oldest, then the next
    for home in "$top/$old"/.deleting-*; do
        give_up "$old/${home##*/}" && again 20 "$@" && return
    done
    list_old_homes
    while next_old_home; do
        give_up "$old/${home##*/}" && again 20 "$@" && return
    done
    return 1
}

list_old_homes() { # sets boots and resets to the ids of what those set aside, home_ID to the path of each
    boots='' resets='' number=0
    present=$(btrfs inspect-internal rootid "$top/$subvolume" 2>/dev/null) || present=
    for each in "$top/$old"/*; do
        if ! is_subvolume "$each" || ! id=$(btrfs inspect-internal rootid "$each" 2>/dev/null); then continue; fi
        case $id in
        '' | *[!0-9]*) continue ;;
        esac
        eval "home_$id=\$each"
        case ${each##*/} in
        *.reset*) resets="$resets $id" ;;
        *) boots="$boots $id" ;;
        esac
    done
}

# In the order in which they were set aside, by ids, which no clock can upset: what a reset set aside was made then; an
# @agents was made at the boot before, and set aside when the next one was made.
next_old_home() { # sets home to the one set aside next after number, which becomes its turn
    after=$number
    number=
    for id in $resets; do
        sooner "$id"
    done
    for each in $boots; do
        turn=999999999
        for id in $boots $present; do
            if [ "$id" -gt "$each" ] && [ "$id" -lt "$turn" ]; then turn=$id; fi
        done
        sooner "$turn" "$each"
    done
    [ -n "$number" ]
}

sooner() { # TURN [ID]: takes that one when its turn comes after the last and before what was found so far
    if [ "$1" -gt "$after" ] && { [ -z "$number" ] || [ "$1" -lt "$number" ]; }; then
        number=$1
        eval "home=\$home_${2:-$1}"
    fi
}

give_up() { # @agents-old/NAME, when there is time to see what it is good for
    now_is
    [ "$uptime" -lt "$enough" ] && destroy_old "$1" || return 1
    lost="$lost $1"
    warn "metadata is full: $1 is given up for room" 'persist tidy, run in time, keeps room free'
}

again() { # TIMES COMMAND…
    tries=$1
    shift
    while :; do
        btrfs filesystem sync "$top" >/dev/null 2>&1
        try "$@" && return
        now_is
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] && [ "$uptime" -lt "$enough" ] || return 1
        sleep 0.3 2>/dev/null || sleep 1
    done
}

destroy() { # NAME below the top level: a subvolume with none inside
    [ -d "$top/$1" ] && ! [ -L "$top/$1" ] && btrfs subvolume delete "$top/$1" >/dev/null 2>&1
}

# All of it or nothing: the homes right in it, which have names of root's, and then itself. One that holds other
# subvolumes, which agents made, could go only in part: that is work for persist tidy. One that is mounted is looked at.
destroy_old() { # @agents-old/NAME
    if ! is_subvolume "$top/$1" || is_mounted "$1"; then return 1; fi
    homes=0
    for inner in "$top/$1"/*; do
        is_subvolume "$inner" || continue
        if [ "$(nested_in "$inner")" != 0 ]; then return 1; fi
        homes=$((homes + 1))
    done
    if [ "$(nested_in "$top/$1")" != $homes ]; then return 1; fi
    for inner in "$top/$1"/*; do
        if is_subvolume "$inner" && ! destroy "$1/${inner##*/}"; then return 1; fi
    done
    destroy "$1"
}

is_mounted() { # NAME below the top level, or something in it; also when its name is written in another way there
    case $1 in
    *[\\\ ]*) return 0 ;;
    esac
    while read -r _ _ _ root _; do
        case $root in
        "/$1" | "/$1/"*) return 0 ;;
        esac
    done </proc/self/mountinfo
    return 1
}

is_subvolume() { # PATH
    [ -d "$1" ] && ! [ -L "$1" ] && [ "$(stat -c %i "$1")" = 256 ]
}

nested_in() { # SUBVOLUME: how many are right inside it, however deep; a dash when nobody says so, or not in time
    inside=$($bounded btrfs subvolume list -o "$1" 2>/dev/null) || inside='- ?'
    count=0
    while read -r word _; do
        case $word in
        '') ;;
        ID) count=$((count + 1)) ;;
        *) count=- && break ;; # not a line of the list: an error, or a name with a line end in it
        esac
    done <<END
$inside
END
    echo "$count"
}

# ---------------------------------------------------------------- what we were told, what we need

need_programs() {
    for program in btrfs mount umount mv mkdir rm stat sleep; do
        command -v "$program" >/dev/null ||
            fail "the program $program is not here" 'put it into the initrd (on a live system: install its package)'
    done
}

need_run() { # first of all: from here on a failure leaves its reason, and no proof of an earlier run
    if there "$run"; then need_own "$run"; fi
    if ! there "$private"; then make_run; fi
    need_own "$run"
    run_is_ours=1
    forget "$run/rollback" "$run/rollback.used" "$run/device"
    need_own "${private%/*}"
    need_own "$private"
    nothing_in "$private" || umount "$private" # a run that was killed left it mounted
}

make_run() { # 0755, and closed to others below it, by one process
    umask 022
    # shellcheck disable=SC2174 # both below are named, and what they stand in is to be 0755
    mkdir -p -m 0700 "${private%/*}" "$private" ||
        fail "$private cannot be made" "$cure_of_run"
    umask 077
}

need_own() { # DIRECTORY in /run
    if [ -L "$1" ] || [ ! -d "$1" ]; then fail "$1 is not a directory" "$cure_of_run"; fi
    [ -O "$1" ] || fail "$1 does not belong to the user who runs this, or this is not root" "$cure_of_run"
}

cure_of_run='run the hook as root, with a tmpfs on /run; remove what stands at /run/nuketown if root did not make it'

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
    new=$subvolume.new old=$subvolume-old ballast=$subvolume-ballast
    case $blank in
    "$subvolume" | "$new" | "$old" | "$ballast" | "$subvolume-snapshots")
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
    LABEL=*/* | LABEL=-*) fail 'the label in NUKETOWN_DEVICE cannot be looked up' 'name the filesystem by UUID=…' ;;
    LABEL=?*) ;;
    *) fail 'NUKETOWN_DEVICE names no device' "$cure_of_a_device" ;;
    esac
    wait=${NUKETOWN_WAIT:-0}
    case $wait in
    *[!0-9]* | 0?* | ????*) fail 'NUKETOWN_WAIT is not a number of seconds below 1000' 'set it to a number such as 30' ;;
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

need_one_label() { # mount would take any of two filesystems that share a label, so two are refused
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
    0 | 1) ;; # none: mount says so, and knows devices that btrfs does not look at
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
blank_facts='256 0:0 41ed 0'

# One process looks at everything.
look() {
    of_run='' of_top='' of_blank='' of_old='' of_subvolume='' of_new=''
    printf '' >"$run/.clock" || fail "$run has no room" "$cure_of_run"
    set -- "$run" "$run/.clock" "$top"
    for name in "$blank" "$old" "$subvolume" "$new"; do
        if there "$top/$name"; then set -- "$@" "$top/$name"; fi
    done
    TZ=UTC0 stat -c '%i %u:%g %f %s %y %n' "$@" >"$run/.words"
    while read -r inode owner mode size day clock _ name; do
        is="$inode $owner $mode $size"
        case $name in
        "$run") of_run=$mode ;;
        "$run/.clock") now="$day ${clock%%.*}" ;; # it was written just now: that spares a date
        "$top") of_top=$is ;;
        "$top/$blank") of_blank=$is ;;
        "$top/$old") of_old=$is ;;
        "$top/$subvolume") of_subvolume=$is ;;
        "$top/$new") of_new=$is ;;
        esac
    done <"$run/.words"
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
    top=$private
    mounted=maybe # before it is: a signal may come in between
    try_mount && return
    # Where nothing else does it, the kernel is told here of a filesystem's other devices.
    until btrfs device scan >/dev/null 2>&1; try_mount; do
        now_is
        late=${late:-$((uptime + wait))}
        if [ "$uptime" -ge "$late" ] || ! is_late; then
            fail "$device cannot be mounted as btrfs: $(first_line "$words")" "$cure_of_a_mount"
        fi
        sleep 1
    done
}

try_mount() {
    case $device in
    LABEL=*) need_one_label "${device#LABEL=}" ;;
    esac
    try mount -t btrfs -o subvolid=5,noatime,nosuid,nodev,noexec "$device" "$private"
}

now_is() { # sets uptime, in whole seconds: no clock that somebody sets
    read -r uptime _ </proc/uptime || uptime=999999999.
    uptime=${uptime%%.*}
}

is_late() { # whether the device, or another one of its filesystem, is not there yet
    case $device in
    /*) if ! [ -e "$device" ]; then return 0; fi ;;
    *) case $words in *[Cc]"an't find"* | *'does not exist'* | *'No such '*) return 0 ;; esac ;;
    esac
    case $(btrfs filesystem show "${device#*=}" 2>&1) in
    *[Mm]issing*) return 0 ;;
    esac
    return 1
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

cure_of_blank='find out who changed it; mount the disk with -o subvolid=5, btrfs subvolume delete it there, and run persist init'

blank_is_read_only() {
    # A read-only subvolume answers EROFS to access(2), which costs nothing; busybox's -w says yes to root unasked.
    [ -w "$top/$blank" ] || return 0
    case $(btrfs property get -ts "$top/$blank" ro 2>/dev/null) in
    ro=true) ;;
    ro=false)
        change "setting $blank read-only" btrfs property set -ts "$top/$blank" ro true
        warn "$blank was empty but not read-only; it is read-only now" 'nothing to do: look only who may have made it so' ;;
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

move() { # WHAT FROM TO NAME: to a name that is free
    if there "$3"; then fail "$1 failed: $3 is there already" "$cure_of_a_failed_step"; fi
    try mv "$2" "$3" && return
    # A read-only subvolume cannot change its directory (EROFS).
    if [ "$(btrfs property get -ts "$2" ro 2>/dev/null)" = ro=true ]; then writable "$4"; fi
    try mv "$2" "$3" && return
    case $words in
    *'No space left'*)
        if with_spare_room mv "$2" "$3" || move_by_snapshot "$2" "$3" || with_room_of_homes mv "$2" "$3"; then
            return
        fi
        fail "$1 failed: $(first_line "$words")" "$cure_of_no_room" ;;
    esac
    fail "$1 failed: $(first_line "$words")" "$cure_of_a_failed_step"
}

move_by_snapshot() { # FROM TO: not atomic, but a snapshot has the room that a rename has not
    is_subvolume "$1" && [ "$(nested_in "$1")" = 0 ] || return 1
    btrfs subvolume snapshot -r "$1" "$2" >/dev/null 2>&1 || return 1
    btrfs subvolume delete "$1" >/dev/null 2>&1 && return
    btrfs subvolume delete "$2" >/dev/null 2>&1 # it holds subvolumes, which a snapshot leaves behind
    return 1
}

set_aside() { # NAME at the top level: whatever it is, it goes to @agents-old whole
    name_old
    move "setting $1 aside" "$top/$1" "$top/$old/$key" "$1"
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
    (ask_id) || :
}

# The order makes one commit enough: the snapshot's own, which takes the rename before it along. What a crash leaves
# is the old @agents, or none, or one that is blank and still read-only: never an old home beside a proof.
put_blank() {
    if [ -n "$of_subvolume" ]; then set_aside "$subvolume"; fi
    # Checked by name: into a directory, the snapshot would be made inside of it.
    if there "$top/$subvolume"; then fail "$subvolume came back while it was set aside" "$cure_of_a_failed_step"; fi
    change "taking a snapshot of $blank" btrfs subvolume snapshot -r "$top/$blank" "$top/$subvolume"
    identify
    open_up
}

open_up() { # two processes side by side
    ask_id &
    writable "$subvolume"
}

# The uuid of the new snapshot, and the kernel's word that it does not differ from blank: the send stream between the
# two is its header alone. Unlike `show` this costs the same however many subvolumes there are.
identify() {
    btrfs send -q --no-data -p "$top/$blank" "$top/$subvolume" 2>/dev/null | btrfs receive --dump >"$run/.words" 2>/dev/null
    { IFS= read -r words && ! read -r _; } <"$run/.words" || words= # one line, or it is not what is expected
    uuid=${words#* uuid=}
    uuid=${uuid%% *}
    parent=${words#* parent_uuid=}
    parent=${parent%% *}
    # A blank that came by btrfs receive hands its received uuid on, and the stream names that one twice.
    case $words in
    snapshot*) if is_uuid "$uuid" && [ "$uuid" != "$parent" ]; then return; fi ;;
    esac
    bounded=
    look
    untouched "$subvolume" "$of_subvolume" || fail "the new snapshot of $blank is not blank" "$cure_of_a_failed_step"
}

ask_id() { exec btrfs inspect-internal rootid "$top/$subvolume" >"$run/.id" 2>/dev/null; } # verify reads it, and judges

make_durable() { change 'committing' btrfs filesystem sync "$top"; }

verify() { # the name that was free until our snapshot has an empty subvolume now
    wait # for ask_id
    read -r id <"$run/.id" || id=
    case $id in
    '' | *[!0-9]*) fail "btrfs does not give the id of $subvolume" "$cure_of_a_failed_step" ;;
    esac
    if there "$top/$new" || [ -L "$top/$subvolume" ] || ! nothing_in "$top/$subvolume"; then
        fail "$subvolume is not blank after the rollback" "$cure_of_a_failed_step"
    fi
}

prove() { # one write, whole or not at all; a reader that comes before it finds a file without a version
    umask 022
    printf 'version=1\nboot_id=%s\nsubvolume=%s\nuuid=%s\nid=%s\n%s' "$boot" "$subvolume" "$uuid" "$id" "$aside" \
        >"$run/rollback" || fail "the proof cannot be written to $run" "$cure_of_run"
    umask 077
    forget "$run/rollback.failed"
    say "$subvolume is blank and durable"
}

# ---------------------------------------------------------------- in order

trap leave EXIT
trap 'fail "the rollback was interrupted" "reboot or run persist rollback: the next run goes on from here"' HUP INT TERM
aside= # old=@agents-old/…, a line of the proof for each thing that was set aside
need_run
need_programs
need_names
need_device
need_boot
mount_top
need_layout
finish_interrupted
keep_untouched || put_blank
verify
prove
