"""What is done to a store: each change, and the words that name it."""

import os
import shutil

from tests.machine.tampering import (
    Tampering,
    bomb_record,
    config,
    edit,
    edited,
    emptied,
    entry,
    flip,
    forge_key,
    forged_line,
    forged_state,
    huge,
    in_place_of_the_newest,
    listing_as_data,
    listing_in_itself,
    lying_frame,
    named,
    newest,
    of_head,
    of_pack,
    own_parent,
    put_back,
    remove,
    renamed,
    swap,
    swap_frames,
    swap_places,
    tomb_cycle,
    write,
    wrong_piece,
)

DAMAGED = r"changed, cut short or moved"
SHORTER = r"is shorter than its commit says|changed, cut short or moved"
CANNOT = r"(?i)cannot|does not fit|not of the type|does not know|no directory can hold"


TAMPERINGS = (
    # Bits.
    Tampering("a bit in the first bytes of a pack", of_pack(edited(flip(3))), "does not begin like a pack"),
    Tampering("a bit in a pack's first frame", of_pack(edited(flip(60))), DAMAGED),
    Tampering("a bit in a pack's directory", of_pack(edited(flip(-40))), DAMAGED),
    Tampering("a bit in a pack's last bytes", of_pack(edited(flip(-1))), f"another length|{DAMAGED}"),
    Tampering("a bit in a pack's number of frames", of_pack(edited(flip(-5))), DAMAGED),
    Tampering("a bit in a commit's header", of_head(edited(flip(2))), "is not a commit"),
    Tampering("a bit in a commit", of_head(edited(flip(50))), DAMAGED),
    Tampering("the last bit of a commit", of_head(edited(flip(-1))), DAMAGED),
    Tampering("a bit in a tomb", lambda s: edit(s.tombs(s.ada)[0], flip(40)), DAMAGED),
    Tampering("a bit in the key file", lambda s: edit(s.keyfiles()[-1], flip(100)), "(?i)key file|sops|key"),
    Tampering("a bit in the format", lambda s: edit(s.store / "config", flip(0)), "`config` cannot be read"),
    # Lengths.
    Tampering("half a pack", of_pack(edited(lambda data: data[: len(data) // 2])), SHORTER),
    Tampering("a pack without its last byte", of_pack(edited(lambda data: data[:-1])), SHORTER),
    Tampering("an empty pack", of_pack(write(b"")), SHORTER),
    Tampering("a pack that begins later", of_pack(edited(lambda data: data[1:])), f"{SHORTER}|begin"),
    Tampering("half a commit", of_head(edited(lambda data: data[: len(data) // 2])), DAMAGED),
    Tampering("an empty commit", of_head(write(b"")), "is not a commit"),
    Tampering("a commit that grew", of_head(edited(lambda data: data + b"x")), DAMAGED),
    Tampering("half a tomb", lambda s: edit(s.tombs(s.ada)[0], lambda data: data[:30]), DAMAGED),
    Tampering("an empty key file", lambda s: edit(s.keyfiles()[-1], lambda _: b""), "(?i)key"),
    Tampering("an empty format", lambda s: edit(s.store / "config", lambda _: b""), "`config` cannot be read"),
    # Swaps.
    Tampering("two packs swapped", lambda s: swap(*s.packs(s.ada)[:2]), f"{SHORTER}|another length"),
    Tampering("two commits swapped", lambda s: swap(*s.commits(s.ada)[-2:]), DAMAGED),
    Tampering("two tombs swapped", lambda s: swap(*s.tombs(s.ada)[:2]), DAMAGED),
    Tampering("two key files swapped", lambda s: swap(*s.keyfiles()), "under another name|number"),
    Tampering("a pack for a commit", lambda s: swap(s.packs(s.ada)[0], newest(s)), "is not a commit"),
    Tampering("the key for the format", lambda s: swap(s.keyfiles()[-1], s.store / "config"), "(?i)config|nuketown"),
    Tampering(
        "two leases swapped", lambda s: swap(*s.leases(s.ada)[:2]), r"another machine \(", take_over=False, status=75
    ),
    Tampering("two frames of a pack swapped", swap_frames, DAMAGED),
    # Other agents, other towns.
    Tampering(
        "another agent's commit",
        lambda s: (
            shutil.copy(s.commits(s.vox)[-1], named(s, "commit-" + f"{99:016x}" + s.commits(s.vox)[-1].name[23:]))
            and None
        ),
        DAMAGED,
    ),
    Tampering(
        "another agent's pack",
        lambda s: shutil.copy(s.packs(s.vox)[0], s.packs(s.ada)[0]) and None,
        f"{SHORTER}|another length",
    ),
    Tampering("two agents' places swapped", swap_places, "(?i)changed, cut short|was not written with"),
    Tampering(
        "another town's bucket", lambda s: put_back(s, s.other), "(?i)no key|cannot be opened|not the one|none of"
    ),
    Tampering("another town's bucket, seen", lambda s: put_back(s, s.other), "(?i).", who="seen"),
    Tampering(
        "another town's key file",
        lambda s: shutil.copy(s.other / "keys" / f"{1:016x}", s.keyfiles()[-1]) and None,
        "(?i)key",
    ),
    Tampering("a key file that somebody sealed for us", forge_key, "lock beside the spec names"),
    # Older, gone.
    Tampering("an older copy of the whole store", lambda s: put_back(s, s.older), "older|has seen", who="seen"),
    Tampering(
        "an older copy, to a fresh machine that was told",
        lambda s: put_back(s, s.older),
        "generation",
        more=("--at-least", "3"),
    ),
    Tampering("the newest commit removed", lambda s: remove(newest(s)), "has seen|older", who="seen"),
    Tampering("all commits removed", lambda s: remove(*s.commits(s.ada)), "has seen|older|gone", who="seen"),
    Tampering(
        "everything of the agent removed",
        lambda s: shutil.rmtree(s.store / "agents" / s.ada.place),
        "has seen|older|gone",
        who="seen",
    ),
    Tampering("a pack removed", lambda s: remove(s.packs(s.ada)[0]), "packs/"),
    Tampering("all packs removed", lambda s: remove(*s.packs(s.ada)), "packs/"),
    Tampering("all key files removed", lambda s: remove(*s.keyfiles()), "no key any more"),
    Tampering(
        "the newest key file removed",
        lambda s: remove(s.keyfiles()[-1]),
        "older state|was seen here",
        who="seen",
        verb=("key", "show"),
    ),
    Tampering("the format removed", lambda s: remove(s.store / "config"), "the store is empty"),
    Tampering("an emptied bucket", emptied, "the store is empty"),
    Tampering(
        "an emptied bucket, seen",
        emptied,
        "empty|has seen|gone",
        who="seen",
    ),
    Tampering("no bucket", lambda s: shutil.rmtree(s.store), "is not there"),
    # Names.
    Tampering(
        "a commit under a newer name", lambda s: renamed(newest(s), lambda n: n[:7] + "f" * 15 + n[22:]), DAMAGED
    ),
    Tampering(
        "a branch replayed as a commit",
        lambda s: (
            shutil.copy(
                next(named(s, "").glob("branch-*")),
                named(s, "commit-" + f"{9:016x}" + next(named(s, "").glob("branch-*")).name[23:]),
            )
            and None
        ),
        DAMAGED,
    ),
    Tampering(
        "a commit hidden as a branch",
        lambda s: renamed(newest(s), lambda n: n.replace("commit", "branch")),
        "has seen|older|gone",
        who="seen",
    ),
    Tampering(
        "a lease made newer",
        lambda s: renamed(s.leases(s.ada)[-1], lambda n: n[:6] + "f" * 15 + n[21:]),
        "was not written with this town's key",
    ),
    Tampering(
        "a lease with another verb",
        lambda s: renamed(
            s.leases(s.ada)[-1],
            lambda n: n.replace("-take-", "-free-") if "-take-" in n else n.replace("-keep-", "-free-"),
        ),
        "was not written with this town's key",
    ),
    Tampering("a name that is none", lambda s: named(s, "junk").write_bytes(b"") and None, "junk"),
    Tampering("a name with a newline", lambda s: named(s, "x\n\x1b[31m").write_bytes(b"") and None, r"x\\n\\x1b"),
    Tampering(
        "a name of another generation of names", lambda s: named(s, "commit-3").write_bytes(b"") and None, "commit-3"
    ),
    Tampering(
        "a key file with an odd name", lambda s: (s.store / "keys/newest").write_bytes(b"x") and None, "no key file"
    ),
    # Objects that are no files, and huge ones.
    Tampering(
        "a symlink for a commit",
        in_place_of_the_newest(lambda path: path.symlink_to("/etc/passwd")),
        "(?i)symbolic|link|unsafe|commit",
    ),
    Tampering("a FIFO for a commit", in_place_of_the_newest(os.mkfifo), "not a regular file"),
    Tampering("a huge format", lambda s: huge(s.store / "config"), "larger than"),
    Tampering("a huge key file", lambda s: huge(s.keyfiles()[-1]), "larger than"),
    Tampering("a huge commit", lambda s: huge(newest(s)), "larger than"),
    Tampering("a huge tomb", lambda s: huge(s.tombs(s.ada)[0]), "larger than"),
    Tampering("a huge pack", lambda s: huge(s.packs(s.ada)[0]), "damaged", verb=("verify",), status=4),
    # Versions to come.
    Tampering("a format of version 3", config(3), "version 3"),
    Tampering("a format of version 1", config(1), "version 1"),
    Tampering("a format in words", config("2"), "version 2"),
    Tampering("somebody else's format", config(2, "restic"), "not made by nuketown"),
    Tampering(
        "a commit of version 3",
        of_head(edited(lambda data: data.replace(b"commit 2", b"commit 3"))),
        "another version|newer",
    ),
    Tampering(
        "a pack of version 3", of_pack(edited(lambda data: data.replace(b"pack 2", b"pack 3"))), "another version|newer"
    ),
    Tampering(
        "a tomb of version 3",
        lambda s: edit(s.tombs(s.ada)[0], lambda data: data.replace(b"tomb 2", b"tomb 3")),
        "another version|newer",
    ),
    # Written with the key: bombs, cycles, lies.
    Tampering("a frame that expands without end", lying_frame, "another size|directory says"),
    Tampering("a commit that expands without end", bomb_record, "allows|expanded|larger"),
    Tampering("a piece that is not what its id says", wrong_piece, "not what its id says"),
    Tampering("a listing that holds itself", listing_in_itself, "not what its id says"),
    Tampering("a file's bytes as a listing", listing_as_data, "not what its id says|kind|piece"),
    Tampering("a commit that is its own parent", own_parent, CANNOT),
    Tampering("tombs in a circle", tomb_cycle, "in none of the commit's packs"),
    Tampering(
        "more files than the commit says",
        forged_state(entries=[entry(b"a"), entry(b"b")], files=1),
        "more than|another number",
    ),
    Tampering("fewer files than the commit says", forged_state(entries=[entry(b"a")], files=2), "another number"),
    Tampering("a size beyond what is there", forged_line(size=5), "(?i)another number|bytes|fewer"),
    Tampering(
        "a size below what is there",
        forged_state(entries=[entry(b"a", size=1 << 62)], size=1 << 62),
        "(?i)another number|bytes|fewer|room",
    ),
    Tampering(
        "content that is nowhere", forged_line(content=["00" * 32], size=5), "none of the commit's packs|no pack"
    ),
    Tampering(
        "a pack that is longer than it is",
        forged_state(entries=[entry(b"f")], change=lambda fields: fields["packs"][0].__setitem__(1, 1 << 20)),
        SHORTER,
    ),
    Tampering(
        "a pack of many terabytes",
        forged_state(entries=[entry(b"f")], change=lambda fields: fields["packs"][0].__setitem__(1, 1 << 45)),
        CANNOT,
    ),
)
