"""The same values for other recipients, and values removed: what stays, stays to the letter."""

import re
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyrage
import pytest

from tests.unit.gnupghome import gnupg_home
from town import sops
from town.sops.recipients import bech32
from town.sops.scalars import Time
from town.sops.values import Sealer

FIXTURES = Path(__file__).parent.parent / "fixtures" / "sops"
HOST = "age13du3mtpekxl6wrdydf8n23vwqvyypr95qm0cs8zrymeqcv04svlqtmkpt5"
ADMIN = "age122tdud7k2y8d4nsmnu8ymmh8x64pv42vya3xr9x59ljeuw2vevgsz6e2xk"
OTHER = str(pyrage.x25519.Identity.generate().to_public())
PGP_ADMIN, PGP_HOST = "9E10F7F9A82E35A49B07963E54DFBA02A1784D17", "4F6F5FD5E9876A4DDB6A27E1CF13FB55A2B48C9E"
NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
LATER = NOW + timedelta(days=1)
TREE: dict[str, Any] = {"ada": {"ssh-key": "line 1\nline 2\n", "gpg-key": "ü"}, "vox": {"ssh-key": "v", "l": ["a", 1]}}
GO = ["age-two-recipients.yaml", "age-and-pgp.yaml", "encrypted-regex.yaml", "unencrypted-regex.yaml"]


@pytest.fixture
def keys() -> sops.Keys:
    return sops.Keys.of_age_file(FIXTURES / "keys" / "age-host.txt")


@pytest.fixture
def admin() -> sops.Keys:
    return sops.Keys.of_age_file(FIXTURES / "keys" / "age-admin.txt")


def of_go(name: str, keys: sops.Keys) -> sops.Document:
    return sops.load((FIXTURES / name).read_bytes(), name, keys)


def made(keys: sops.Keys, tree: dict[str, Any] = TREE, *recipients: str) -> sops.Document:
    return sops.load(sops.create(tree, [HOST, *recipients], now=NOW), "made.yaml", keys)


def sealed(data: bytes) -> list[bytes]:
    """Every encrypted value of a file, its seal among them."""
    return re.findall(rb"ENC\[[^]]*\]", data)


@pytest.mark.parametrize("name", GO)
def test_without_a_new_key_only_the_entries_of_who_comes_and_goes_change(
    name: str, keys: sops.Keys, admin: sops.Keys
) -> None:
    before = of_go(name, keys)
    after = sops.rewrap(before, [ADMIN], now=LATER, fresh=False)
    parts = [re.sub(rb"    (age|pgp):\n(        .*\n|\n)+", b"", data) for data in (before.data, after)]
    assert parts[0] == parts[1]
    assert sops.load(after, name, admin).tree == before.tree
    assert sops.recipients_of(after, name) == (ADMIN,)
    with pytest.raises(sops.NoKey):
        sops.load(after, name, keys)


def test_who_stays_keeps_the_entry_and_the_same_recipients_change_no_byte(keys: sops.Keys) -> None:
    before = of_go("age-two-recipients.yaml", keys)
    assert sops.rewrap(before, [HOST, ADMIN], now=LATER, fresh=False) == before.data
    joined = sops.rewrap(before, [ADMIN, OTHER, HOST], now=LATER, fresh=False)
    assert [line for line in before.data.splitlines() if line not in joined.splitlines()] == []
    assert sops.recipients_of(joined, "f") == (ADMIN, OTHER, HOST)
    left = sops.rewrap(sops.load(joined, "f", keys), [HOST, ADMIN], now=LATER, fresh=False)
    assert sorted(left.splitlines()) == sorted(before.data.splitlines())


def test_the_order_of_recipients_is_that_of_the_list(keys: sops.Keys) -> None:
    after = sops.rewrap(made(keys), [ADMIN, OTHER, HOST, ADMIN], now=LATER, fresh=True)
    assert sops.recipients_of(after, "f") == (ADMIN, OTHER, HOST)


@pytest.mark.parametrize("name", GO)
def test_with_a_new_key_nothing_that_was_sealed_is_left_and_the_old_key_opens_nothing(
    name: str, keys: sops.Keys, admin: sops.Keys
) -> None:
    before = of_go(name, keys)
    after = sops.rewrap(before, [ADMIN], now=LATER, fresh=True)
    read = sops.load(after, name, admin)
    assert read.tree == before.tree
    assert len(sealed(after)) == len(sealed(before.data))
    assert not set(sealed(after)) & set(sealed(before.data))
    with pytest.raises(sops.Tampered):
        sops.load(after, name, Opens(before.data_key))
    assert b'lastmodified: "2026-11-22T12:00:00Z"' in after
    shape = [re.sub(rb"ENC\[[^]]*\]", b"ENC", data[: data.index(b"\nsops:")]) for data in (before.data, after)]
    assert shape[0] == shape[1]  # comments, order, values in clear
    rules = [re.findall(rb"^    \w+_(?:suffix|regex): .*$", data, re.MULTILINE) for data in (before.data, after)]
    assert rules[0] == rules[1]


class Opens(sops.Keys):
    """Whoever has kept a data key."""

    def __init__(self, data_key: bytes) -> None:
        object.__setattr__(self, "kept", data_key)

    def data_key(self, *_: object) -> bytes:
        """The one that was kept."""
        kept: bytes = object.__getattribute__(self, "kept")
        return kept


def test_types_stay_times_and_bytes_among_them(keys: sops.Keys) -> None:
    tree = {"t": Time("2026-11-21T12:00:00.5+02:00"), "n": [1, 1.5, True, "1", None, ""], "b": "QUFB"}
    document = made(keys, tree)
    raw = Sealer(document.data_key).seal_raw(b"\xff\x00", "bytes", "b:")
    text = re.sub(rb"^b: .*$", b"b: " + raw.encode(), document.data, flags=re.MULTILINE)
    change = sops.Document("f", tree | {"b": b"\xff\x00"}, (HOST,), text, document.data_key)
    data = sops.rewrap(sealed_again(change), [HOST], now=LATER, fresh=True)
    kinds = re.findall(rb"type:(\w+)", data[: data.index(b"\nsops:")])
    assert kinds == [b"time", b"int", b"float", b"bool", b"str", b"bytes"]
    read = sops.load(data, "f", keys)
    assert repr(read.tree) == repr(tree | {"b": b"\xff\x00"})
    assert isinstance(read.tree["t"], Time)
    for path in ("t", "b"):
        with pytest.raises(sops.BadSopsFile, match="is not a string"):
            read.get(path)


def sealed_again(document: sops.Document) -> sops.Document:
    """A document whose text was changed by hand, with a seal that fits."""
    from town.sops import sealing

    sealer = Sealer(document.data_key)
    data = sealing.finished(document.data.decode(), document.tree, sealer, now=NOW, name="f")
    return sops.Document("f", document.tree, document.recipients, data, document.data_key)


def test_mac_only_encrypted_stays(keys: sops.Keys) -> None:
    data = sops.create({"a": "x", "b_unencrypted": "y"}, [HOST], now=NOW, mac_only_encrypted=True)
    after = sops.rewrap(sops.load(data, "f", keys), [HOST], now=LATER, fresh=True)
    assert b"    mac_only_encrypted: true\n" in after
    assert sops.load(after.replace(b'"y"', b'"z"'), "f", keys).tree == {"a": "x", "b_unencrypted": "z"}


def test_comments_that_go_sops_encrypted_are_kept(keys: sops.Keys) -> None:
    data = (FIXTURES / "upstream" / "comments.yaml").read_bytes()
    with gnupg_home(FIXTURES / "upstream" / "functional-tests.asc") as home:
        before = sops.load(data, "f", sops.Keys.of_gnupg_home(home))
    after = sops.rewrap(before, [HOST], now=LATER, fresh=True)
    assert comments(after, sops.load(after, "f", keys)) == {b" first comment in file": ":", b" this-is-a-comment": ":"}
    assert not set(sealed(after)) & set(sealed(data))


def comments(data: bytes, document: sops.Document) -> dict[bytes, str]:
    """The encrypted comments of a file that open with its key, and the path that each is bound to."""
    sealer = Sealer(document.data_key)
    found: dict[bytes, str] = {}
    for text in re.findall(rb"#(ENC\[[^]]*type:comment\])", data):
        for path in (":", "ada:", "ada:deep:", "l:"):
            try:
                found[sealer.raw(text.decode(), path, "c")[0]] = path
            except sops.Tampered:
                continue
    return found


def test_a_comment_is_opened_with_the_path_of_its_map_wherever_it_stands(keys: sops.Keys) -> None:
    document = made(keys, {"ada": {"deep": {"k": "v"}, "x": "y"}, "l": ["a", "b"], "z": ""})
    seal = Sealer(document.data_key).seal_raw
    inside, top, listed, behind = (
        seal(text.encode(), "comment", path)
        for text, path in ((" inside", "ada:deep:"), (" top", ":"), (" listed", "l:"), (" behind", "ada:"))
    )
    text = document.data.decode().replace("        k: ", f"        #{inside}\n        k: ", 1)
    text = re.sub(r"^(    x: .*)$", rf"\1 #{behind}", text, flags=re.MULTILINE).replace("l:\n", f"l:\n    #{listed}\n")
    text = f"#{top}\n# in clear\n{text}".replace('z: ""', f'z: ""\nnote_unencrypted: "#{top}"')
    tree = document.tree | {"note_unencrypted": f"#{top}"}
    before = sealed_again(sops.Document("f", tree, (HOST,), text.encode(), document.data_key))
    after = sops.rewrap(before, [HOST], now=LATER, fresh=True)
    read = sops.load(after, "f", keys)
    assert comments(after, read) == {b" top": ":", b" inside": "ada:deep:", b" behind": "ada:", b" listed": "l:"}
    assert read.tree == tree  # a string that only looks like a comment is left alone
    assert b"\n# in clear\n" in after


def test_a_comment_that_nothing_opens_stays_as_it_is(keys: sops.Keys) -> None:
    document = made(keys, {"ada": {"k": "v"}})
    moved = Sealer(b"k" * 32).seal_raw(b"of another file", "comment", ":").encode()
    before = sops.Document("f", document.tree, (HOST,), b"#" + moved + b"\n" + document.data, document.data_key)
    after = sops.rewrap(before, [HOST], now=LATER, fresh=True)
    assert after.startswith(b"#" + moved + b"\n")
    assert sops.load(after, "f", keys).tree == document.tree


KMS = (
    b'    kms:\n        - arn: "arn:aws:kms:x"\n          created_at: "2026-11-21T12:00:00Z"\n          enc: AQID\n'
    b'          aws_profile: ""\n'
)


def test_entries_of_key_services_are_kept_or_left_out_and_never_made(keys: sops.Keys) -> None:
    document = made(keys)
    data = document.data.replace(b"    lastmodified", KMS + b"    lastmodified")
    both = sops.load(data, "f", keys)
    assert both.recipients == (HOST, "kms:arn:aws:kms:x")
    joined = sops.rewrap(both, [HOST, ADMIN, "kms:arn:aws:kms:x"], now=LATER, fresh=False)
    assert KMS in joined
    assert sops.rewrap(both, [HOST], now=LATER, fresh=False) == document.data
    for fresh, recipients in ((True, [HOST, "kms:arn:aws:kms:x"]), (False, [HOST, "kms:arn:aws:kms:y"])):
        with pytest.raises(sops.BadRecipient, match="no recipient that is known here"):
            sops.rewrap(both, recipients, now=LATER, fresh=fresh)


def test_a_raw_ssh_recipient_becomes_the_age_recipient_that_sops_nix_takes(tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-qt", "ed25519", "-N", "", "-f", tmp_path / "key"], check=True)
    ssh = (tmp_path / "key.pub").read_text().strip()
    age = sops.canonical(ssh)
    keys = sops.Keys.of_ssh_file(tmp_path / "key")
    data = sops.create({"a": "x"}, [age], now=NOW)
    raw = sops.load(data.replace(age.encode(), ssh.encode()), "f", keys)
    assert raw.recipients == (ssh,)
    after = sops.rewrap(raw, [ssh], now=LATER, fresh=False)
    assert sops.recipients_of(after, "f") == (age,)
    assert sops.load(after, "f", keys).tree == {"a": "x"}


def test_pgp_recipients_come_and_go(keys: sops.Keys) -> None:
    with gnupg_home(*(FIXTURES / "keys" / f"pgp-{who}.asc" for who in ("admin", "host"))) as home:
        both = sops.rewrap(made(keys), [HOST, PGP_ADMIN], now=LATER, fresh=False, gnupg_home=home)
        assert f'created_at: "2026-11-22T12:00:00Z"\n          enc: |-\n{" " * 12}-----BEGIN PGP'.encode() in both
        read = sops.load(both, "f", sops.Keys.of_gnupg_home(home))
        assert read.tree == TREE
        alone = sops.rewrap(read, [PGP_ADMIN], now=LATER, fresh=False, gnupg_home=Path("/nowhere"))
        assert b"age:" not in alone  # the entry of who stays needs no public key
        fresh = sops.rewrap(read, [PGP_HOST], now=LATER, fresh=True, gnupg_home=home)
        assert sops.load(fresh, "f", sops.Keys.of_gnupg_home(home)).tree == TREE
        with pytest.raises(sops.BadRecipient, match="is not in the keyring /nowhere"):
            sops.rewrap(read, [PGP_ADMIN], now=LATER, fresh=True, gnupg_home=Path("/nowhere"))


@pytest.mark.parametrize("recipients", [[], ["age1x"], [HOST, "nobody"], [HOST, PGP_HOST[:20]]])
def test_a_recipient_that_is_none_is_refused_before_anything_is_made(recipients: list[str], keys: sops.Keys) -> None:
    for fresh in (False, True):
        with pytest.raises(sops.BadRecipient):
            sops.rewrap(made(keys), recipients, now=LATER, fresh=fresh)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("x: ENC", 'x: "ENC'),
        ("x: ENC", "x: |-\n    ENC"),
        ("x: ENC", "x: >-\n    ENC"),
        ("x: ENC", "x: &none"),
        ("sops:\n", '"sops":   # the end\n'),
        ("sops:\n", "? sops\n:\n"),
    ],
)
def test_a_file_that_was_edited_by_hand_is_rewrapped_or_refused_and_never_spoiled(
    old: str, new: str, keys: sops.Keys
) -> None:
    text = made(keys, {"x": "y", "z": "ä"}).data.decode()
    text = text.replace(old, new, 1)
    if '"ENC' in new:
        text = re.sub(r'("ENC\[[^]]*\])', r'\1"', text, count=1)
    try:
        document = sops.load(text.encode(), "f", keys)
    except (sops.BadSopsFile, sops.Tampered):
        return
    for fresh in (False, True):
        assert sops.load(sops.rewrap(document, [HOST, ADMIN], now=LATER, fresh=fresh), "f", keys).tree == document.tree


def test_nothing_is_given_away_that_would_not_hold_the_values(keys: sops.Keys) -> None:
    before = made(keys)
    other = sops.Document("f", {"ada": {"ssh-key": "another"}}, before.recipients, before.data, before.data_key)
    for fresh in (False, True):
        with pytest.raises(
            sops.BadSopsFile, match=r"f cannot be rewrapped .*: f would not hold what it should"
        ) as caught:
            sops.rewrap(other, [ADMIN], now=LATER, fresh=fresh)
        assert "sops edit" in caught.value.hint


@pytest.mark.parametrize("turn", ["  \\g<0>", "\\g<0>\r"])
def test_a_file_with_other_margins_and_line_ends_is_rewrapped(turn: str, keys: sops.Keys) -> None:
    text = re.sub(r"^.+$", turn, made(keys, {"x": "y", "ada": {"k": "v"}}).data.decode(), flags=re.MULTILINE)
    document = sops.load(text.encode(), "f", keys)
    for fresh in (False, True):
        after = sops.rewrap(document, [HOST, ADMIN], now=LATER, fresh=fresh)
        assert sops.load(after, "f", keys).tree == document.tree


def test_what_is_removed_is_gone_and_every_other_line_stays(keys: sops.Keys) -> None:
    before = of_go("age-two-recipients.yaml", keys)
    after = sops.update(before, {}, now=LATER, remove=["ada/gpg-key", "vox/hosts", "vox/empty", "vox/none", "zoe"])
    lines = after.splitlines()
    gone = [line.split(b":")[0] for line in before.data.splitlines() if line not in lines]
    item = b"        - ENC[AES256_GCM,data"
    assert gone == [b"    gpg-key", b"    empty", b"    hosts", item, item, b"    lastmodified", b"    mac"]
    tree = {name: dict(value) for name, value in before.tree.items()}
    del tree["ada"]["gpg-key"], tree["vox"]["hosts"], tree["vox"]["empty"]
    assert sops.load(after, "f", keys).tree == tree


def test_a_map_that_is_emptied_goes_too_and_an_agent_goes_whole(keys: sops.Keys) -> None:
    document = made(keys, TREE | {"zoe": {"a": {"b": "c"}}, "empty": {}})
    after = sops.load(sops.update(document, {}, now=LATER, remove=["zoe/a/b", "ada"]), "f", keys)
    assert after.tree == {"vox": TREE["vox"], "empty": {}}
    nothing = sops.load(sops.update(after, {}, now=LATER, remove=["vox", "empty"]), "f", keys)
    assert nothing.tree == {}
    assert nothing.data.startswith(b"sops:\n")


def test_what_is_set_stands_although_it_was_removed(keys: sops.Keys) -> None:
    after = sops.update(made(keys), {"ada/ssh-key": "new", "ada/x": "x"}, now=LATER, remove=["ada"])
    assert sops.load(after, "f", keys).tree == {"vox": TREE["vox"], "ada": {"ssh-key": "new", "x": "x"}}
    assert re.findall(rb"^\w+(?=:)", after, re.MULTILINE) == [b"vox", b"ada", b"sops"]


def test_what_is_not_there_needs_no_removal(keys: sops.Keys) -> None:
    document = made(keys)
    assert sops.update(document, {}, now=LATER, remove=["nobody", "ada/x", "ada/ssh-key/deeper"]) == document.data
    with pytest.raises(sops.BadSopsFile, match="no path of a secret"):
        sops.update(document, {}, now=LATER, remove=["sops/mac"])


@pytest.mark.parametrize(
    "layout",
    [
        "ada: {ssh-key: '', x: ''}\nSOPS",
        "ada: {x: '', ssh-key: ''}\nSOPS",
        "ada: {x: '', ssh-key: , y: ''}\nSOPS",
        "ada: {ssh-key: ''}\nSOPS",
        "ada:\n  ssh-key:\n  x: ''\nSOPS",
        "ada:\n  # of x\n  x: ''\n  # of the key\n  ssh-key: '' # behind\nSOPS",
        "SOPSada:\n  x: ''\n  ssh-key: ''",
        "ada:\r\n    ssh-key: ''\r\n    x: ''\r\nSOPS",
        "ada:\n  ssh-key: |\n\n\n  x: ''\nSOPS",
    ],
)
def test_a_removal_finds_its_place_in_any_layout(layout: str, keys: sops.Keys) -> None:
    block = sops.create({}, [HOST], now=NOW).decode()
    document = sops.load(layout.replace("SOPS", block).encode(), "f", keys)
    after = sops.update(document, {}, now=LATER, remove=["ada/ssh-key"])
    rest = {key: value for key, value in document.tree["ada"].items() if key != "ssh-key"}
    assert sops.load(after, "f", keys).tree == ({"ada": rest} if rest else {})
    assert after.count(b"#") == layout.count("#") - layout.count("# behind")


def test_more_sealed_comments_than_can_be_placed_are_refused(keys: sops.Keys) -> None:
    text = made(keys, {f"m{number}": {"k": "v"} for number in range(500)}).data.decode()
    comment = "#ENC[AES256_GCM,data:AAAA,iv:AAAA,tag:AAAA,type:comment]\n"
    bogus = text.replace("m0:\n", comment * 500 + "m0:\n", 1)
    document = sops.load(bogus.encode(), "f.yaml", keys)
    with pytest.raises(sops.BadSopsFile, match="500 sealed comments among 501 maps"):
        sops.rewrap(document, [HOST], now=LATER, fresh=True)


def test_a_point_that_everybody_knows_the_key_of_is_no_recipient(keys: sops.Keys) -> None:
    for low in (bytes(32), b"\1" + bytes(31), (2**255 - 20).to_bytes(32, "little")):
        with pytest.raises(sops.BadRecipient, match="everybody knows"):
            sops.canonical(bech32("age", low))


def test_a_row_of_exclamation_marks_takes_no_time(keys: sops.Keys) -> None:
    with pytest.raises(sops.BadSopsFile, match="exclamation marks"):
        sops.load(b"a: " + b"!" * 1_000_000 + b" b\n", "f.yaml", keys)
