"""Key groups: several who must come together, each with a share of the data key."""

import itertools
import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyrage
import pytest

from tests.unit.gnupghome import gnupg_home
from town import sops
from town.sops import shamir

FIXTURES = Path(__file__).parent.parent / "fixtures" / "sops"
PGP = "9E10F7F9A82E35A49B07963E54DFBA02A1784D17"
NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
LATER = NOW + timedelta(days=1)
TREE = {"ada": {"ssh-key": "secret", "n": 1}}


class Person:
    """Somebody with an age key."""

    def __init__(self, folder: Path, name: str) -> None:
        identity = pyrage.x25519.Identity.generate()
        self.name = str(identity.to_public())
        (folder / name).write_text(f"{identity}\n")
        self.keys = sops.Keys.of_age_file(folder / name)


@pytest.fixture
def people(tmp_path: Path) -> list[Person]:
    return [Person(tmp_path, name) for name in ("ann", "ben", "cy", "dan")]


def shared(people: list[Person], threshold: int | None = 2, name: str = "f.yaml") -> bytes:
    """A file of three groups: ann and dan; ben; cy."""
    ann, ben, cy, dan = (one.name for one in people)
    return sops.create(TREE, [], now=NOW, groups=[[ann, dan], [ben], [cy]], threshold=threshold, name=name)


def test_shares_of_vaults_own_program_are_combined() -> None:
    # Printed by a program that uses HashiCorp's package: https://github.com/incipher/shamir (CC0).
    shares = [
        "67442ef838a57cbc3063a487d7ca861cf490b9026f5f3a41be",
        "89ad77b930245a4a60f4698baace1ddbeaec94f0a96400a82a",
        "9ef082cd4f3456dc4bf161460a7cd5f580ed1fd426fa3ff5d7",
    ]
    for pair in itertools.permutations(map(bytes.fromhex, shares), 2):
        assert shamir.combine(pair) == b"SayHelloToMyLittleFriend"


@pytest.mark.parametrize(("parts", "threshold"), [(2, 2), (3, 2), (5, 3), (5, 5), (255, 2), (40, 12)])
def test_any_shares_that_are_enough_give_the_secret_and_fewer_do_not(parts: int, threshold: int) -> None:
    secret = bytes(range(32))
    shares = shamir.split(secret, parts, threshold)
    assert [share[-1] for share in shares] == list(range(1, parts + 1))
    for some in itertools.islice(itertools.combinations(shares, threshold), 12):
        assert shamir.combine(some[::-1]) == secret
        assert threshold == 2 or shamir.combine(some[1:]) != secret
    assert shamir.combine(shares[: threshold + 3]) == secret
    assert shamir.split(secret, parts, threshold) != shares


@pytest.mark.parametrize("shares", [[], [b"ab"], [b"a\1", b"b\1"], [b"a\0", b"b\1"], [b"ab\1", b"b\2"], [b"", b""]])
def test_what_cannot_be_shares_of_one_secret_is_refused(shares: list[bytes]) -> None:
    with pytest.raises(ValueError, match="not shares of one secret"):
        shamir.combine(shares)


def test_the_field_is_that_of_aes() -> None:
    assert shamir._product(0x57, 0x83) == 0xC1  # FIPS 197, section 4.2
    assert all(shamir._product(a, shamir._inverse(a)) == 1 for a in range(1, 256))


def test_enough_groups_open_a_file_and_one_alone_does_not(people: list[Person]) -> None:
    data = shared(people)
    ann, ben, cy, dan = people
    for one, other in ((ann, ben), (ben, cy), (dan, cy), (ann, cy)):
        assert sops.load(data, "f", one.keys | other.keys).tree == TREE
    for keys in (ann.keys, ann.keys | dan.keys, cy.keys):
        with pytest.raises(sops.NoKey, match="in 3 groups, of which 2 are needed and 1 could be opened"):
            sops.load(data, "f", keys)


def test_without_a_threshold_all_groups_are_needed(people: list[Person]) -> None:
    data = shared(people, None)
    assert b"    shamir_threshold: 3\n" in data
    ann, ben, cy, _ = people
    assert sops.load(data, "f", ann.keys | ben.keys | cy.keys).tree == TREE
    without = data.replace(b"    shamir_threshold: 3\n", b"")  # sops never writes that, and splits so
    assert sops.load(without, "f", ann.keys | ben.keys | cy.keys).tree == TREE
    with pytest.raises(sops.NoKey, match="of which 3 are needed and 2 could"):
        sops.load(without, "f", ann.keys | ben.keys)


def test_the_layout_is_that_of_sops(people: list[Person]) -> None:
    lines = shared(people).decode().split("sops:\n")[1].splitlines()
    text = [
        re.sub(r"age1\w+", "R", re.sub(r"ENC\[.*\]", "ENC", line)) for line in lines if "            " not in line[:18]
    ]
    entry = ["            - enc: |", "              recipient: R"]
    assert text == [
        "    key_groups:",
        "        - age:",
        "          hc_vault: []",
        "        - age:",
        "          hc_vault: []",
        "        - age:",
        "          hc_vault: []",
        '    lastmodified: "2026-11-21T12:00:00Z"',
        "    mac: ENC",
        "    shamir_threshold: 2",
        "    unencrypted_suffix: _unencrypted",
        "    version: 3.13.2",
    ]
    inner = [re.sub(r"age1\w+", "R", line) for line in lines if re.match(r" {12}(-| {2}r)", line)]
    assert [line.strip() for line in inner] == [line.strip() for line in entry] * 4


def test_json_holds_groups_too(people: list[Person]) -> None:
    data = shared(people, name="f.json")
    block = json.loads(data)["sops"]
    assert [sorted(group) for group in block["key_groups"]] == [["age", "hc_vault"]] * 3
    assert (block["shamir_threshold"], block["key_groups"][0]["hc_vault"]) == (2, [])
    document = sops.load(data, "f.json", people[0].keys | people[1].keys)
    after = sops.update(document, {"zoe/k": "z"}, now=LATER)
    assert json.loads(after)["sops"]["key_groups"] == block["key_groups"]
    fresh = sops.rewrap(document, document.recipients, now=LATER, fresh=True)
    assert sops.load(fresh, "f.json", people[3].keys | people[2].keys).tree == TREE


def test_recipients_and_groups_are_known_without_a_key(people: list[Person]) -> None:
    ann, ben, cy, dan = (one.name for one in people)
    assert sops.recipients_of(shared(people), "f") == (ann, dan, ben, cy)
    assert sops.groups_of(shared(people), "f") == (((ann, dan), (ben,), (cy,)), 2)
    assert sops.groups_of(sops.create({}, [ann, ben], now=NOW), "f") == (((ann, ben),), 1)


def test_a_group_may_be_opened_by_pgp(people: list[Person]) -> None:
    with gnupg_home(FIXTURES / "keys" / "pgp-admin.asc") as home:
        ann, ben = people[:2]
        data = sops.create(TREE, [], now=NOW, groups=[[ann.name], [PGP, ben.name]], gnupg_home=home)
        assert sops.load(data, "f", ann.keys | sops.Keys.of_gnupg_home(home)).tree == TREE
        with pytest.raises(sops.NoKey, match="1 could be opened"):
            sops.load(data, "f", sops.Keys.of_gnupg_home(home))


@pytest.mark.parametrize("fresh", [False, True])
def test_a_rewrap_keeps_the_groups_less_who_leaves(fresh: bool, people: list[Person]) -> None:
    ann, ben, cy, dan = people
    document = sops.load(shared(people), "f", ann.keys | ben.keys)
    after = sops.rewrap(document, [ann.name, ben.name, cy.name], now=LATER, fresh=fresh)
    assert sops.groups_of(after, "f") == (((ann.name,), (ben.name,), (cy.name,)), 2)
    assert sops.load(after, "f", ann.keys | cy.keys).tree == TREE
    with pytest.raises(sops.NoKey):
        sops.load(after, "f", dan.keys | cy.keys)
    values = [re.findall(rb"^    (?:\S*: ENC|lastmodified).*$", data, re.MULTILINE) for data in (document.data, after)]
    assert (values[0] == values[1]) is not fresh


def test_the_same_groups_change_no_byte(people: list[Person]) -> None:
    ann, ben, cy, dan = (one.name for one in people)
    document = sops.load(shared(people), "f", people[0].keys | people[1].keys)
    everybody = [ann, ben, cy, dan]
    assert sops.rewrap(document, everybody, now=LATER, fresh=False) == document.data
    groups = [[cy], [dan, ann], [ben]]
    assert sops.rewrap(document, everybody, now=LATER, fresh=False, groups=groups) == document.data
    other = sops.rewrap(document, everybody, now=LATER, fresh=False, groups=groups, threshold=3)
    assert sops.groups_of(other, "f") == (((cy,), (dan, ann), (ben,)), 3)


def test_who_joins_must_be_put_into_a_group(people: list[Person]) -> None:
    ann, ben, cy, dan = people
    document = sops.load(sops.create(TREE, [], now=NOW, groups=[[ann.name], [ben.name]]), "f", ann.keys | ben.keys)
    everybody = [ann.name, ben.name, cy.name]
    with pytest.raises(sops.BadRecipient, match=f"{cy.name} is in none of the 2 groups"):
        sops.rewrap(document, everybody, now=LATER, fresh=False)
    after = sops.rewrap(document, everybody, now=LATER, fresh=False, groups=[[ann.name], [ben.name, cy.name]])
    assert sops.load(after, "f", ann.keys | cy.keys).tree == TREE
    with pytest.raises(sops.BadRecipient, match="not the same people"):
        sops.rewrap(document, everybody, now=LATER, fresh=False, groups=[[ann.name], [dan.name]])
    with pytest.raises(sops.BadRecipient, match="a group of recipients is empty"):
        sops.rewrap(document, [ann.name], now=LATER, fresh=False)


@pytest.mark.parametrize("fresh", [False, True])
def test_a_file_goes_from_one_group_to_several_and_back(fresh: bool, people: list[Person]) -> None:
    ann, ben, cy, _ = people
    names = [ann.name, ben.name, cy.name]
    one = sops.load(sops.create(TREE, names, now=NOW), "f", ann.keys)
    several = sops.rewrap(one, names, now=LATER, fresh=fresh, groups=[[name] for name in names], threshold=2)
    assert b"\n    age:" not in several
    document = sops.load(several, "f", ben.keys | cy.keys)
    assert document.tree == TREE
    back = sops.rewrap(document, names, now=LATER, fresh=fresh, groups=[names])
    assert b"key_groups" not in back
    assert b"shamir" not in back
    assert sops.load(back, "f", cy.keys).tree == TREE


@pytest.mark.parametrize("threshold", [0, 1, 4])
def test_a_threshold_that_no_groups_can_meet_is_refused(threshold: int, people: list[Person]) -> None:
    with pytest.raises(sops.BadRecipient, match=f"{threshold} of 3 groups cannot open a file together"):
        shared(people, threshold)


def test_shares_that_were_exchanged_open_nothing(people: list[Person]) -> None:
    ann, ben, cy, _ = people
    data, other = shared(people).decode(), shared(people).decode()
    entries = [re.findall(r"            - enc: \|\n(?:                .*\n)+", text) for text in (data, other)]
    mixed = data.replace(entries[0][2], entries[1][2])
    with pytest.raises(sops.Tampered):
        sops.load(mixed.encode(), "f", ann.keys | ben.keys)
    assert sops.load(mixed.encode(), "f", ann.keys | cy.keys).tree == TREE
    assert len(entries[0]) == 4


def test_two_groups_with_one_share_are_no_quorum(people: list[Person]) -> None:
    ann, ben = people[:2]
    share = shamir.split(b"k" * 32, 2, 2)[0]
    data = shared(people, 2).decode()
    for one in (ann, ben):
        to = pyrage.x25519.Recipient.from_str(one.name)
        enc = pyrage.encrypt(share, [to], armored=True).decode()
        body = "".join(f"                {line}\n" for line in enc.splitlines())
        data = re.sub(
            rf"            - enc: \|\n(?:                .*\n)+              recipient: {one.name}\n",
            f"            - enc: |\n{body}              recipient: {one.name}\n",
            data,
        )
    with pytest.raises(sops.BadSopsFile, match="the shares of its data key do not belong together"):
        sops.load(data.encode(), "f", ann.keys | ben.keys)


def test_groups_that_only_key_services_open_are_refused_by_name(people: list[Person]) -> None:
    ann, ben = people[:2]
    kms = "{arn: 'arn:aws:kms:x', enc: AQID, created_at: '2026-11-21T12:00:00Z', aws_profile: ''}"
    data = sops.create(TREE, [], now=NOW, groups=[[ann.name], [ben.name]]).decode()
    second = re.sub(r"(        - age:\n(?:            .*\n| {14}.*\n)+          hc_vault: \[\]\n){2}", r"\1", data)
    text = second.replace("    lastmodified", f"        - kms: [{kms}]\n    lastmodified")
    for load in (ann.keys, ann.keys | ben.keys):
        with pytest.raises(sops.BadSopsFile, match=r"only key services \(kms\) can open a group of its keys") as caught:
            sops.load(text.encode(), "f", load)
    assert "sops updatekeys" in caught.value.hint
    alone = re.sub(r"    age:\n( {8}.*\n)+", f"    kms: [{kms}]\n", sops.create(TREE, [ann.name], now=NOW).decode())
    with pytest.raises(sops.BadSopsFile, match=r"f: only key services \(kms\) can open it, which is not supported"):
        sops.load(alone.encode(), "f", ann.keys)
    assert sops.recipients_of(alone.encode(), "f") == ("kms:arn:aws:kms:x",)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("shamir_threshold: 2", "shamir_threshold: 4", "shamir_threshold is no number from 2 to 3"),
        ("shamir_threshold: 2", "shamir_threshold: 1", "shamir_threshold is no number from 2 to 3"),
        ("shamir_threshold: 2", "shamir_threshold: -1", "shamir_threshold is no number"),
        ("shamir_threshold: 2", "shamir_threshold: true", "shamir_threshold is no number"),
        ("shamir_threshold: 2", "shamir_threshold: '2'", "shamir_threshold is no number"),
        (
            "    key_groups:\n",
            "    key_groups: x\n    mac_only_encrypted:\n",
            "key_groups is not a list of at most 255 groups",
        ),
        ("    key_groups:\n", "    key_groups:\n        - x\n", r"key_groups\[0\] is not a map"),
        ("    key_groups:\n", "    key_groups:\n        - {}\n", r"key_groups\[0\] names no recipient"),
        (
            "    key_groups:\n",
            "    key_groups:\n        - age: {}\n          ssh: x\n",
            r"key_groups\[0\]\.ssh is not known",
        ),
        (
            "    key_groups:\n",
            "    age: [{recipient: x, enc: y}]\n    key_groups:\n",
            "key_groups stands beside recipients",
        ),
        ("    key_groups:\n", "    key_groups:\n" + "        - {}\n" * 255, "at most 255 groups"),
        ("          hc_vault: []\n", "          hc_vault: x\n", r"key_groups\[0\]\.hc_vault is not a list"),
        ("              recipient: ", "              recipients: ", r"key_groups\[0\]\.age\[0\] has no recipient"),
    ],
)
def test_groups_of_the_wrong_form_are_refused_by_key(old: str, new: str, words: str, people: list[Person]) -> None:
    text = shared(people).decode()
    assert old in text
    with pytest.raises(sops.BadSopsFile, match=words):
        sops.load(text.replace(old, new, 1).encode(), "f", people[0].keys)


def test_a_list_of_one_group_holds_the_whole_key(people: list[Person]) -> None:
    ann = people[0]
    text = sops.create(TREE, [ann.name], now=NOW).decode()
    entry = re.search(r"    age:\n(?: {8}.*\n)+", text)
    assert entry is not None
    group = re.sub(r"^(.+)$", r"        \1", entry[0], flags=re.MULTILINE).replace(
        "            age:", "        - age:", 1
    )
    text = text.replace(entry[0], "    key_groups:\n" + group)
    document = sops.load(text.encode(), "f", ann.keys)
    assert document.tree == TREE
    after = sops.rewrap(document, [ann.name, people[1].name], now=LATER, fresh=False)
    assert sops.load(after, "f", people[1].keys).tree == TREE


def rule(folder: Path, text: str) -> sops.CreationRule:
    (folder / ".sops.yaml").write_text(f"creation_rules:\n  - {text}\n")
    found = sops.creation_rule(folder / "f.yaml", start=folder)
    assert found is not None
    return found


def test_creation_rules_give_groups_threshold_and_rule(tmp_path: Path, people: list[Person]) -> None:
    ann, ben, cy, dan = (one.name for one in people)
    found = rule(
        tmp_path,
        f"key_groups:\n      - age: ['{ann},{dan}']\n      - merge: [{{age: [{ben}]}}, {{pgp: [{PGP.lower()}]}}]\n"
        f"        age: [{cy}, {ben}]\n    shamir_threshold: 2\n    encrypted_regex: ^ssh\n    mac_only_encrypted: true",
    )
    assert found.sharing.groups == ((ann, dan), (ben, PGP, cy))
    assert (found.sharing.threshold, found.mac_only_encrypted) == (2, True)
    assert (found.rule.name, found.rule.argument) == ("encrypted_regex", "^ssh")
    assert [found.rule.encrypts(path) for path in (("ada", "ssh-key"), ("ada", "n"))] == [True, False]
    assert rule(tmp_path, f"age: {ann}").sharing.groups == ((ann,),)


def test_a_file_is_made_as_its_creation_rule_says(tmp_path: Path, people: list[Person]) -> None:
    ann, ben = people[:2]
    found = rule(
        tmp_path,
        f"key_groups: [{{age: [{ann.name}]}}, {{age: [{ben.name}]}}]\n    encrypted_regex: ^(ssh|gpg)-key$\n"
        "    mac_only_encrypted: true",
    )
    data = sops.create(
        *(TREE, []),
        now=NOW,
        groups=found.sharing.groups,
        threshold=found.sharing.threshold,
        rule=found.rule,
        mac_only_encrypted=found.mac_only_encrypted,
    )
    assert b'    "n": 1\n' in data
    assert b"    encrypted_regex: ^(ssh|gpg)-key$\n" in data
    assert sops.load(data.replace(b'"n": 1', b'"n": 2'), "f", ann.keys | ben.keys).tree == {
        "ada": {"ssh-key": "secret", "n": 2}
    }


def test_the_option_names_another_configuration(
    tmp_path: Path, people: list[Person], monkeypatch: pytest.MonkeyPatch
) -> None:
    ann, ben = (one.name for one in people[:2])
    for name, who in ((".sops.yaml", ann), ("other.yaml", ben)):
        (tmp_path / name).write_text(f"creation_rules: [{{age: {who}}}]\n")
    monkeypatch.setenv("SOPS_CONFIG", str(tmp_path / ".sops.yaml"))
    found = sops.creation_recipients(tmp_path / "f", start=tmp_path, config=tmp_path / "other.yaml")
    assert found == (ben,)
