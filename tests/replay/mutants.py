"""Hooks that are wrong in one point: what a replay is for is seen by what it catches.

Each is the real hook with some of its functions defined once more.
"""

from pathlib import Path

import initrd as real

_FIRST_STEP = "trap leave EXIT\n"

NOTHING_COMMITTED = """
put_blank() { # two renames, and no commit after the second
    btrfs subvolume snapshot "$top/$blank" "$top/$new" >/dev/null
    set_aside "$subvolume"
    mv -T "$top/$new" "$top/$subvolume"
    uuid=$(btrfs subvolume show "$top/$subvolume") uuid=${uuid#*UUID:} uuid=${uuid%%Parent*}
    uuid=${uuid#"${uuid%%[![:space:]]*}"} uuid=${uuid%%[[:space:]]*}
    ask_id &
}
"""

ASIDE_BY_THE_NAME_OF_NEW = """
put_blank() { # the old home passes through the name that the next run takes for its own
    mv -T "$top/$subvolume" "$top/$new"
    btrfs subvolume snapshot -r "$top/$blank" "$top/$subvolume" >/dev/null
    identify
    open_up
    set_aside "$new"
    btrfs filesystem sync "$top"
}
finish_interrupted() { # by name alone
    if [ -n "$of_new" ]; then btrfs subvolume delete -c "$top/$new" >/dev/null; fi
}
"""

NEEDS_A_HOME = """
put_blank() { # nothing to begin with where the step between was cut off
    [ -n "$of_subvolume" ] || fail "$subvolume is missing" 'none'
    set_aside "$subvolume"
    btrfs filesystem sync "$top"
    btrfs subvolume snapshot -r "$top/$blank" "$top/$subvolume" >/dev/null
    identify
    open_up
}
"""

COPIES_THEN_DELETES = """
set_aside() { # a snapshot, and only then the original goes: in between there are two
    name_old
    btrfs subvolume snapshot "$top/$1" "$top/$old/$key" >/dev/null
    btrfs subvolume delete -c "$top/$1" >/dev/null
}
"""

DELETES_FIRST = """
put_blank() { # the home goes before there is anything in its place, and is kept nowhere
    btrfs subvolume delete -c "$top/$subvolume" >/dev/null
    btrfs subvolume snapshot -r "$top/$blank" "$top/$subvolume" >/dev/null
    identify
    open_up
}
"""

# Those whose whole run is right, then those that are wrong at once; with what the replay says of them.
ONLY_BY_A_CRASH = {
    "nothing committed": (NOTHING_COMMITTED, "there was a proof of"),
    "aside by the name of new": (ASIDE_BY_THE_NAME_OF_NEW, "the next run fails"),
    "needs a home": (NEEDS_A_HOME, "the next run fails"),
}
ALWAYS = {
    "copies, then deletes": (COPIES_THEN_DELETES, "not there once and whole"),
    "deletes first": (DELETES_FIRST, "not there once and whole"),
}


def write(path: Path, functions: str) -> Path:
    """The real hook with `functions` in the place of its own, at `path`."""
    before, mark, after = real.hook().read_text().partition(_FIRST_STEP)
    assert mark, "the hook has another first step"
    path.write_text(before + functions + mark + after)
    return path
