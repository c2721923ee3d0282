"""What names, paths and values may look like in Nix and in Python: one table of texts, asked of both."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.nix.bare import ask
from town import device_table, grammar, persist_table, prompts_table, recipients, store_url

_KEY = "AGE-SECRET-KEY-1QQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQ"
_AGE = "age122tdud7k2y8d4nsmnu8ymmh8x64pv42vya3xr9x59ljeuw2vevgsz6e2xk"
_SSH = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDAxMjM0NTY3ODkwMTIzNDU2Nzg5MDEyMzQ1Njc4OTAx"
# What no one-line text may hold.
_LINES = ["a\nb", "a\tb", "a\x1b[2J", "a\x7f", "a\u202eb", "a\u200bb", "a\u2028b", "\x85", _KEY, "x" * 5000]


class Held(NamedTuple):
    """A function of both sides, texts that it takes, and texts that it refuses."""

    name: str
    python: Callable[[str], object]
    right: list[str]
    wrong: list[str]


def _says(text: str) -> object:
    if not device_table._says_something(text):
        raise grammar.Wrong("says nothing")
    return text


def _declared(text: str) -> object:
    """As persist_table asks for a declared path."""
    return persist_table._path(text, persist_table._Offer(store=True, binds=True, room=4000))


TABLE = [
    Held(
        "agentName",
        grammar.agent_name,
        ["ada", "a", "a-", "a1-b", "x" * 31, "nobody2"],
        [
            "",
            "Ada",
            "1a",
            "-a",
            "a_b",
            "a.b",
            "x" * 32,
            "sops",
            "root",
            "yes",
            "null",
            "y",
            "a-unencrypted",
            "ä",
            "a b",
        ],
    ),
    Held(
        "domain",
        grammar.domain,
        ["signi.local", "a", "A.b", "xn--a.example", "1.2", "x" * 63, "y.".join(["a"] * 10)],
        ["", ".", "a.", ".a", "a..b", "a_b", "-a", "a-", "ä.de", "x" * 64, ".".join(["x" * 60] * 4), "a b"],
    ),
    Held(
        "email",
        grammar.email,
        ["ada@signi.local", "a.b+c@x", "_a@x", "o'x@y", "a=b@x.y"],
        [
            "",
            "ada",
            "@x",
            "a@",
            "a@b@c",
            "-a@x",
            "a..b@x",
            ".a@x",
            "a,b@x",
            "a*@x",
            "a b@x",
            "a@x y",
            "x" * 65 + "@a",
            "ä@x",
        ],
    ),
    Held(
        "personName",
        grammar.person_name,
        ["Ada", "ada", "Ada Lovelace", "Ä", "岩", "O'Hara-3"],
        ["", " a", "a ", "a<b", "a>b", "(a)", "...", "-", "x" * 201],
    ),
    Held("word", grammar.word, ["a", "software engineer", "é"], ["", " a", "a "]),
    Held(
        "place",
        grammar.place,
        ["/agents", "/srv/agents", "/home/x", "/nix/persist", "/a b", "/var/lib/x", "/libs", "/varlog", "/var/logs"],
        [
            *["", "agents", "/", "/etc", "/home", "/nix/store", "/var/lib", "/a/", "//a", "/a/../b", "/a/./b", "/a:b"],
            *["/nix", "/nix/var/nix", "/nix/store/x", "/etc/nixos", "/boot/agents", "/usr/bin", "/proc/x", "/sys/fs"],
            *["/run/nuketown", "/dev/shm/k", "/var/log", "/var/log/x", "/var/lib/nixos", "/var/run/x", "/lib64/x"],
        ],
    ),
    Held(
        "persistPath",
        _declared,
        ["projects", ".config/claude", "a b", "ä", "..a", "a..", ".ssh", ".gnupg", ".nuketown2", "x" * 255],
        [
            "",
            ".",
            "./",
            "./a",
            "/a",
            "~",
            "~/a",
            "..",
            "../a",
            "a/..",
            "a/../b",
            "a//b",
            "a/",
            "a/./b",
            "x" * 256,
            ".nuketown",
            ".nuketown/x",
            ".config/nuketown",
            ".ssh/id_ed25519",
            ".ssh/id_ed25519.pub",
            ".gnupg/private-keys-v1.d",
            ".gnupg/private-keys-v1.d/x",
            "/".join(["x" * 200] * 25),
        ],
    ),
    Held("homePath", grammar.persist_path, [".ssh/id_ed25519", ".config/git/config"], ["", "../a", "/a", "a/"]),
    Held(
        "secretPath",
        grammar.secret_path,
        ["ada/ssh-key", "key", "a/b/c/d/e/f/g/h", "a.b_c-d", "x" * 64],
        [
            "",
            "/ada",
            "ada/",
            "ada//b",
            "a/b/c/d/e/f/g/h/i",
            "1a",
            "a b",
            "sops/x",
            "SOPS/x",
            "a/yes",
            "a/b_unencrypted",
            "a-unencrypted/b",
            "x" * 65,
            "/nix/store/key",
        ],
    ),
    Held(
        "device",
        grammar.device,
        [
            "38b243a0-c875-4758-8998-cc6c6a4c451e",
            "UUID=38B243A0-C875-4758-8998-CC6C6A4C451E",
            "LABEL=agents",
            "LABEL=a b",
            "/dev/disk/by-id/x",
            "/dev/sda1",
        ],
        [
            "",
            "/",
            "38b243a0",
            "UUID=x",
            "LABEL=",
            "LABEL= a",
            "LABEL=a ",
            "LABEL=a/b",
            'LABEL=a"',
            "LABEL=$x",
            "sda1",
            "/dev/../x",
            "PARTUUID=38b243a0-c875-4758-8998-cc6c6a4c451e",
            "38b243a0-c875-4758-8998-cc6c6a4c451e ",
        ],
    ),
    Held("subvolume", grammar.subvolume, ["@agents", "a", "_x.+-"], ["", "a/b", ".a", "-a", "a b", "a,b", "x" * 201]),
    Held("free", grammar.free, ["10%", "0%", "99.999%", "20G", "1.5T"], ["", "100%", "-1%", "10", "10g", "G", "10 G"]),
    Held(
        "quota",
        grammar.quota,
        ["20G", "1M", "1.5T", "1024K", "0020G", "0.001G", "1024.5K"],
        ["", "0G", "0.0M", "1023K", "0.5M", "1023.9K", "0.0G", "999999999T", "1K", "20", "20g", "-1G", "00000K"],
    ),
    Held(
        "span",
        grammar.seconds,
        ["15min", "1h 30min", "30", "1.5s", "5 minutes", "2weeks", "3us", "7 µs"],
        ["", "min", "1 fortnight", "15 min x", "-1s", "1h,", "1..5s", "abc"],
    ),
    Held(
        "store",
        store_url.parse,
        [
            "s3://agents/signi?endpoint=http://127.0.0.1:9000&region=us-east-1",
            "s3://agents",
            "file:///srv/store",
            "s3://agents/a/b?imds=1",
        ],
        [
            "",
            "none2",
            "/srv/store",
            "http://x",
            "s3://",
            "s3://A",
            "s3://ab",
            "s3://u:p@bucket/x",
            "file://host/x",
            "file:///",
            "file:///a/../b",
            "file:///a?b",
            "file:///a%20",
            "s3://bucket#x",
            "s3://bucket?secret=x",
            "s3://bucket:9000/x",
            "s3://agents/x?endpoint=https://user:pw@s3.example.com",
            "s3://agents/x?endpoint=https://user:pw%40s3.example.com",
        ],
    ),
    Held(
        "recipient",
        recipients.recipient,
        [_AGE, _AGE.upper(), _SSH, _SSH + " josh@signi", "0x" + "A1" * 20, "a1b2 " * 10, "F" * 64],
        ["", "age1", "ssh-rsa AAAA", "DEADBEEF", "0xDEADBEEFDEADBEEF", _KEY, "josh@signi"],
    ),
    Held(
        "every",
        grammar.every,
        ["15min", "1s", "1y", "1h 30min", "1000ms", "1", "007s"],
        ["", "0s", "999ms", "1.1y", "13months", "often"],
    ),
    Held("wait", grammar.wait, ["0s", "10min", "30", "9min 60s", "600000ms"], ["", "1h", "10min 1s", "601s", "soon"]),
    Held("fileName", grammar.file_name, ["a", "anthropic-key", "1.b_c"], ["", ".a", "-a", "a/b", "a b", "x" * 101]),
    Held("variable", grammar.variable, ["A", "_a1"], ["", "1A", "A-B", "A B", "A=B", "ä"]),
    Held(
        "ownVariable",
        grammar.own_variable,
        ["ANTHROPIC_API_KEY", "PATHS", "LDAP_PASSWORD", "path"],
        ["", "A-B", "PATH", "LD_PRELOAD", "LD_X", "BASH_ENV", "HOME", "UID"],
    ),
    Held(
        "unixName",
        grammar.unix_name,
        ["josh", "_x", "J.doe", "a-b"],
        ["", "-a", "1a", "a b", "a:b", "a/b", "x" * 33, "a."],
    ),
    Held("documentName", grammar.prompt_name, ["ada-software", "a1"], ["", "Ada", "a b", "a/b", "-a", "x" * 65]),
    Held(
        "action",
        device_table._action,
        ["add", "add|bind", "remove|add"],
        ["", "foo", "add|add", "add|", "|", "add,bind"],
    ),
    Held("permission", device_table._permission, ["r", "rw", "rwx", "xr"], ["", "rr", "q", "rwxr", "r w"]),
    Held("subsystem", device_table._subsystem, ["tty", "usb", "usb_device-1"], ["", "t y", "a*", 'a"', "a/b"]),
    Held(
        "udevName",
        device_table._attribute,
        ["idVendor", "device/vendor", "a.b:c"],
        ["", "a b", 'a"', "a}", "/a", "a//b"],
    ),
    Held("udevValue", device_table._match, ["0483", "STM32  BOOTLOADER", "a*|b?", "[0-9]"], ["", 'a"', "a\\"]),
]


def _refused(held: Held, text: str) -> bool:
    try:
        held.python(text)
    except grammar.Wrong:
        return True
    return False


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str | None]]:
    """What the Nix side says of each text, all of them asked at once."""
    given = {held.name: [*held.right, *held.wrong, *_LINES] for held in TABLE}
    listed = "builtins.mapAttrs (name: texts: map (text: { inherit text; says = nuketown.${name} text; }) texts) given"
    found = ask(listed, given, tmp_path_factory.mktemp("texts"))
    return {name: {one["text"]: one["says"] for one in said} for name, said in found.items()}


@pytest.mark.parametrize("held", TABLE, ids=lambda held: held.name)
def test_both_sides_take_what_is_right(held: Held, answers: dict[str, dict[str, str | None]]) -> None:
    assert [text for text in held.right if answers[held.name][text] is not None] == []
    assert [text for text in held.right if _refused(held, text)] == []


@pytest.mark.parametrize("held", TABLE, ids=lambda held: held.name)
def test_both_sides_refuse_what_is_wrong_and_say_a_cure(held: Held, answers: dict[str, dict[str, str | None]]) -> None:
    wrong = [*held.wrong, *_LINES]
    assert [text for text in wrong if not _refused(held, text)] == []
    for text in wrong:
        said = answers[held.name][text]
        assert said is not None, text
        assert len(said.split(": ", 1)) == 2, said
        assert said.isprintable()


@pytest.mark.parametrize("name", [held.name for held in TABLE])
def test_no_message_repeats_a_private_key(name: str, answers: dict[str, dict[str, str | None]]) -> None:
    assert "QQQQ" not in (answers[name][_KEY] or "")


@pytest.mark.parametrize("name", ["secretPath", "recipient", "store"])
def test_what_may_be_a_secret_is_not_repeated(name: str, tmp_path: Path) -> None:
    said = ask(f"nuketown.{name} given", "s3://josh:hunter2@bucket hunter2", tmp_path)
    assert "hunter2" not in said


@pytest.mark.parametrize(
    "text",
    [
        *["*", "?*", "[a-z]*", "[!x]", "a|*", "", "**|b", "-"],
        *["*0*", "0*|1*|2*|3*", "*STM32*", "0???", "[0-9]x", "ab|*cd"],
    ],
)
def test_a_pattern_that_says_nothing_is_known_by_both(text: str, tmp_path: Path) -> None:
    assert ask("nuketown.says given", text, tmp_path) is False
    with pytest.raises(grammar.Wrong):
        _says(text)


@pytest.mark.parametrize("text", ["0483", "STM*", "a|b", "[0-9]xy", "é", "0", "04??"])
def test_a_pattern_that_says_something_is_known_by_both(text: str, tmp_path: Path) -> None:
    assert ask("nuketown.says given", text, tmp_path) is True
    assert _says(text)


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("ada", "software"),
        ("ada", "Software Engineer"),
        ("ada", "C++ / Rust"),
        ("ada", "---"),
        ("ada", "x" * 40),
        ("a", "ab-" * 20),
    ],
)
def test_the_name_of_a_definition_is_that_of_the_programs(name: str, role: str, tmp_path: Path) -> None:
    assert ask("nuketown.promptName given.name given.role", {"name": name, "role": role}, tmp_path) == (
        prompts_table.usual_name(name, role)
    )


def test_overlaps_are_found_whatever_the_order(tmp_path: Path) -> None:
    paths = ["a/b", "c", "a", "a-b", "ab", "c", "d/e/f", "d/e"]
    found = ask("nuketown.overlaps given", paths, tmp_path)
    assert sorted((pair["outer"], pair["inner"]) for pair in found) == [("a", "a/b"), ("c", "c"), ("d/e", "d/e/f")]


@pytest.mark.parametrize(
    ("host", "domain"),
    [
        ("signi", "signi.local"),
        ("signi.example.com", "signi.local"),
        ("", "nuketown.local"),
        ("my_host", "my-host.local"),
    ],
)
def test_the_domain_follows_the_host_name(host: str, domain: str, tmp_path: Path) -> None:
    assert ask("nuketown.hostDomain given", host, tmp_path) == domain


def test_identities_are_looked_for_beside_the_directory_of_the_secrets(tmp_path: Path) -> None:
    assert ask(f"nuketown.identitiesOf {tmp_path}/secrets/agents.yaml == null") is True
    (tmp_path / "identities").mkdir()
    assert ask(f"nuketown.identitiesOf {tmp_path}/secrets/agents.yaml == {tmp_path}/identities") is True
    assert ask(f"nuketown.identitiesOf {tmp_path}/agents.yaml == null") is True
    assert ask('nuketown.identitiesOf "/run/secrets/agents.yaml" == null') is True
    assert ask("nuketown.identitiesOf null == null") is True


def test_the_secrets_file_goes_into_the_store_by_itself_and_one_that_is_not_there_only_by_name(tmp_path: Path) -> None:
    file = tmp_path / "secrets/agents.yaml"
    assert ask(f"nuketown.file {file}") == str(file)
    file.parent.mkdir()
    file.write_text("a: ENC[x]\nsops: {}\n")
    assert ask(f"nuketown.file {file}").endswith("-agents.yaml")
    assert ask('nuketown.file "/var/lib/agents.yaml"') == "/var/lib/agents.yaml"


def test_disabled_agents_are_in_no_list() -> None:
    town = "plain { agents = { ada.uid = 1100; off = { uid = 1; enable = false; }; }; }"
    assert ask(f"nuketown.agentNames ({town})") == ["ada"]
    assert ask(f"builtins.attrNames (nuketown.town ({town})).agents") == ["ada"]
