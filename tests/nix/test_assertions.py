"""What a configuration is refused for, and what it is warned about: each case names the offender and the cure."""

from pathlib import Path
from typing import NamedTuple

import pytest

from tests.nix.bare import ask
from tests.nix.evaluated import messages


class Case(NamedTuple):
    """The option that is named, words of its message; and what is said (in Nix) of ada, of the town, of more agents."""

    where: str
    says: tuple[str, ...]
    ada: str = ""
    town: str = ""
    more: str = ""


def _case(where: str, *says: str, ada: str = "", town: str = "", more: str = "") -> Case:
    return Case(f"nuketown.{where}", says, ada, town, more)


_ADA = "agents.ada"
_AGE = "age122tdud7k2y8d4nsmnu8ymmh8x64pv42vya3xr9x59ljeuw2vevgsz6e2xk"

REFUSED = [
    _case("agents.Ada B", "no name", "lower-case letter", more='"Ada B".uid = 1101;'),
    _case("agents.sops", "choose another name", more="sops.uid = 1101;"),
    _case("agents.yes", "choose another name", more="yes.uid = 1101;"),
    _case(f"{_ADA}.uid", "999", "1000 to 60000", ada="uid = 999;"),
    _case(f"{_ADA}.uid", "60001", "1000 to 60000", ada="uid = 60001;"),
    _case(f"{_ADA}.uid", "1100 is that of vox", "number of its own", more="vox.uid = 1100;"),
    _case(f"{_ADA}.gid", "100", "1000 to 60000", ada="gid = 100;"),
    _case(f"{_ADA}.gid", "1101 is a number of vox", "leave gid out", ada="gid = 1101;", more="vox.uid = 1101;"),
    _case(f"{_ADA}.gid", "1200 is a number of vox", ada="gid = 1200;", more="vox = { uid = 1101; gid = 1200; };"),
    _case("humanUser", '"ada" is an agent', "another name", town='humanUser = "ada";'),
    _case("humanUser", '"a b" is no name of a user', town='humanUser = "a b";'),
    _case("humanName", "<>()", town='humanUser = "josh"; humanName = "J <j>";'),
    _case("humanEmail", "no e-mail address", town='humanUser = "josh"; humanEmail = "josh";'),
    _case("humanUser", "ada", "sudo.enable = false", ada="sudo.enable = true;"),
    _case("domain", '"a_b" is no domain', "signi.local", town='domain = "a_b";'),
    _case(f"{_ADA}.role", "empty", ada='role = "";'),
    _case(f"{_ADA}.description", "control character", ada='description = builtins.fromJSON "\\"a\\\\u001b\\"";'),
    _case(f"{_ADA}.description", "private key", ada='description = "-----BEGIN OPENSSH PRIVATE KEY-----";'),
    _case(f"{_ADA}.git.name", "<>()", ada='git.name = "<ada>";'),
    _case(f"{_ADA}.git.email", '"ada" is no e-mail', ada='git.email = "ada";'),
    _case(f"{_ADA}.quota", '"20" is no size', "20G", ada='quota = "20";'),
    _case(f"{_ADA}.persist", '"../vox" leaves the home', ada='persist = [ "../vox" ];'),
    _case(f"{_ADA}.persist", '"/etc" is not relative', ada='persist = [ { path = "/etc"; } ];'),
    _case(f"{_ADA}.persist", "names the home itself", ada='persist = [ "." ];'),
    _case(f"{_ADA}.persist", '".ssh/id_ed25519" is what nuketown writes', ada='persist = [ ".ssh/id_ed25519" ];'),
    _case(f"{_ADA}.persist", '"a/b" lies inside "a"', "leave it out", ada='persist = [ "a/b" { path = "a"; } ];'),
    _case(f"{_ADA}.persist", '"a" stands there twice', ada='persist = [ "a" "a" ];'),
    _case(
        f"{_ADA}.persist",
        "(a private key, not shown)",
        ada='persist = [ { path = "x"; preset = "AGE-SECRET-KEY-1QQQQQQQQ"; } ];',
    ),
    _case(
        f"{_ADA}.persist",
        'unknown preset "claud"',
        "claude-code, codex",
        ada='persist = [ { path = "x"; preset = "claud"; } ];',
    ),
    _case(
        f"{_ADA}.persist",
        '"x" is a file',
        "leave the preset out",
        ada='persist = [ { path = "x"; type = "file"; preset = "git"; } ];',
    ),
    _case(
        f"{_ADA}.persist",
        'preset "codex" stands there twice',
        ada='persist = [ { path = "x"; preset = "codex"; } { path = "y"; preset = "codex"; } ];',
    ),
    _case(f"{_ADA}.persist", '"x": upload = true', "leave it out", ada='persist = [ { path = "x"; upload = true; } ];'),
    _case(f"{_ADA}.quota", '"0.5M" is too little', "1M", ada='quota = "0.5M";'),
    _case(f"{_ADA}.delivered", '"../x" leaves the home', ada='delivered = [ "../x" ];'),
    _case(f"{_ADA}.persist", 'nothing keeps "projects"', "persist = [ ]", town="persistDir = null;"),
    _case(
        f"{_ADA}.persist",
        '"x" is of the class cache',
        "persistDir",
        ada='persist = [ { path = "x"; class = "cache"; } ];',
        town='persistDir = null; store = "file:///srv/store";',
    ),
    _case(
        f"{_ADA}.persist",
        '"x" is of the class credential',
        "leave via out",
        ada='persist = [ { path = "x"; class = "credential"; via = "both"; } ];',
        town='store = "file:///srv/store";',
    ),
    _case(f"{_ADA}.persist", '"x" has via = "store"', "store", ada='persist = [ { path = "x"; via = "store"; } ];'),
    _case(
        f"{_ADA}.persist",
        '"x" has via = "bind"',
        "persistDir",
        ada='persist = [ { path = "x"; via = "bind"; } ];',
        town='persistDir = null; store = "file:///srv/store";',
    ),
    _case(
        f"{_ADA}.persist",
        '"x" has upload = true',
        "leave upload out",
        ada='persist = [ { path = "x"; class = "credential"; upload = true; } ];',
    ),
    _case(f"{_ADA}.secrets.sshKey", "path of a file", "everybody", ada='secrets.sshKey = "/nix/store/x-key";'),
    _case(f"{_ADA}.secrets.gpgKey", "no path of a key", "ada/ssh-key", ada='secrets.gpgKey = "sops/x";'),
    _case(f"{_ADA}.secrets.gpgKey", "own", ada='secrets.gpgKey = "ada/ssh-key";'),
    _case(
        "agents.vox.secrets.sshKey", "ada.secrets.sshKey", more='vox = { uid = 1101; secrets.sshKey = "ada/ssh-key"; };'
    ),
    _case(f"{_ADA}.secrets.extraSecrets.k", "choose another path", ada='secrets.extraSecrets.k = "ada/ssh-key";'),
    _case(f"{_ADA}.secrets.extraSecrets.k", "lies below", ada='secrets.extraSecrets.k = "ada/ssh-key/x";'),
    _case(f"{_ADA}.secrets.extraSecrets", '"a b" is no file name', ada='secrets.extraSecrets."a b" = "ada/x";'),
    _case(
        f"{_ADA}.secrets.env",
        '"A-B" is no name of a variable',
        ada='secrets.env.A-B = "k"; secrets.extraSecrets.k = "ada/k";',
    ),
    *[
        _case(
            f"{_ADA}.secrets.env",
            f'"{name}" has a meaning of its own',
            "one program",
            ada=f'secrets.env.{name} = "k"; secrets.extraSecrets.k = "ada/k";',
        )
        for name in ("PATH", "LD_PRELOAD")
    ],
    _case(f"{_ADA}.secrets.extraSecrets.k", "each begins with a letter", ada='secrets.extraSecrets.k = "ada/2fa";'),
    _case(f"{_ADA}.secrets.env", "K names", "add it there", ada='secrets.env.K = "k";'),
    _case(f"{_ADA}.secrets.gpgEncryption", "ada/gpg-key", ada='secrets.gpgEncryption = true; git.signing = "ssh";'),
    _case("recipients.humans", "no recipient", "age1", town='recipients.humans = [ "josh" ];'),
    _case(
        "recipients.hosts.signi", "no recipient", town=f'recipients = {{ humans = [ "{_AGE}" ]; hosts.signi = "x"; }};'
    ),
    _case("recipients.humans", "your own key", town=f'recipients.hosts.signi = "{_AGE}";'),
    _case("sopsFile", "no YAML file", ".yaml", town='sopsFile = "/var/lib/agents.json";'),
    _case("recoveryFile", "no YAML file", town='recoveryFile = "recovery";'),
    _case("recoveryFile", "`..`", town='recoveryFile = "../recovery.yaml";'),
    _case("recoveryFile", "sopsFile too", town='sopsFile = "/srv/secrets/recovery.yaml";'),
    _case("storeCredentials", "in clear", "/run/secrets", town='storeCredentials = ./aws; store = "s3://agents";'),
    _case("storeCredentials", "in clear", town='storeCredentials = "/nix/store/x-aws"; store = "s3://agents";'),
    _case("hostKey.age", "in clear", town="hostKey.age = ./age.key;"),
    _case("hostKey.ssh", "in clear", town='hostKey.ssh = "/nix/store/x-key";'),
    _case("hostKey.gnupg", "in clear", town="hostKey.gnupg = ./gnupg;"),
    _case("hostKey.age", "in clear", town='hostKey.age = "/etc/static/age.key";'),
    _case("hostKey.ssh", "in clear", town='hostKey.ssh = "/run/current-system/etc/key";'),
    _case("sopsFile", "not encrypted", "sops encrypt", town="sopsFile = FOLDER/clear.yaml;"),
    _case("sopsFile", "not encrypted", town="sopsFile = FOLDER/pretends.yaml;"),
    _case(f"{_ADA}.prompts.settings.a[1]", "null", ada="prompts.settings.a = [ 1 null ];"),
    _case(f"{_ADA}.claudeCode.extraAgents.x", "private key", ada='claudeCode.extraAgents.x = "AGE-SECRET-KEY-1QQ";'),
    _case(
        f"{_ADA}.claudeCode.settings.x",
        "private key",
        ada='claudeCode.enable = true; claudeCode.settings.x = "AGE-SECRET-KEY-1QQQQQQQQ";',
    ),
    _case(f"{_ADA}.prompts.settings.env", "GH_TOKEN", "extraSecrets", ada='prompts.settings.env.GH_TOKEN = "ghp_x";'),
    _case("btrfsDevice", "names no device", "blkid", town='btrfsDevice = "38b243a0";'),
    _case("btrfs.blank", "no plain name", town='btrfs.blank = "a/b";'),
    _case("btrfs.blank", "choose another", town='btrfs.blank = "@agents-old";'),
    _case("btrfs.blank", "choose another", town='btrfs.blank = "@agents";'),
    _case("btrfs.subvolume", "blank one is made", town='btrfs = { subvolume = "b.new"; blank = "b"; };'),
    _case("wait", "no time span", "15min", town='wait = "soon";'),
    _case("sync.every", "no time span", town='sync.every = "often";'),
    _case("sync.every", "1s to 1y", town='sync.every = "0s";'),
    _case("wait", "0s to 10min", town='wait = "1h";'),
    _case("keep.homes", "0 is outside", town="keep.homes = 0;"),
    _case("keep.days", "outside of 1 to 36500", town="keep.days = 40000;"),
    _case("keep.free", "neither a percentage nor a size", town='keep.free = "100%";'),
    _case("sync.keep.last", "0 is outside", town="sync.keep.last = 0;"),
    _case("store", "no URL of a store", "s3://", town='store = "/srv/store";'),
    _case("store", "user info", "storeCredentials", town='store = "s3://key:secret@bucket/x";'),
    _case("store", "names no bucket", town='store = "s3://A";'),
    _case("store", "endpoint", "storeCredentials", town='store = "s3://agents/x?endpoint=https://key:secret@s3.x";'),
    _case("store", "overlaps", "beside", town='store = "file:///persist/agents";'),
    _case("machine", "32 hex digits", "openssl rand", town='machine = "signi";'),
    _case("agentsDir", '"/home" belongs to the system', town='agentsDir = "/home";'),
    _case("agentsDir", '"/nix/var/nix" belongs to the system', town='agentsDir = "/nix/var/nix";'),
    _case("persistDir", '"/run/kept" belongs to the system', town='persistDir = "/run/kept";'),
    _case("agentsDir", "cleared away", "elsewhere", town='agentsDir = "/tmp/agents";'),
    _case("persistDir", "cleared away", town='persistDir = "/var/tmp/kept";'),
    _case("agentsDir", "colon", town='agentsDir = "/a:b";'),
    _case("persistDir", '"/var/lib" belongs to the system', town='persistDir = "/var/lib";'),
    _case("persistDir", "one lies inside the other", town='persistDir = "/agents/kept";'),
    _case("hostKey.age", "where agents write", town='hostKey.age = "/agents/age.key";'),
    _case("sopsFile", "where agents write", town='sopsFile = "/persist/agents/ada/x.yaml";'),
    _case("btrfsDevice", "where agents write", town='btrfsDevice = "/agents/disk";'),
    _case(f"{_ADA}.devices[0]", "matches every device", "idVendor", ada="devices = [ (DEVICE // { attrs = { }; }) ];"),
    _case(
        f"{_ADA}.devices[1]", "matches every device", ada='devices = [ DEVICE (DEVICE // { attrs.idVendor = "*"; }) ];'
    ),
    *[
        _case(
            f"{_ADA}.devices[0]",
            "or nearly so",
            "idVendor",
            ada=f"devices = [ (DEVICE // {{ attrs = {{ {attrs} }}; }}) ];",
        )
        for attrs in (
            'idVendor = "*0*";',
            'idVendor = "0*|1*|2*|3*|4*|5*|6*|7*|8*|9*|a*|b*|c*|d*|e*|f*";',
            'authorized = "1";',
            'removable = "0"; ro = "0"; "power/control" = "auto";',
        )
    ],
    *[
        _case(
            f"{_ADA}.devices[0]",
            "can become root",
            '"plugdev"',
            ada=f'devices = [ (DEVICE // {{ group = "{group}"; }}) ];',
        )
        for group in ("wheel", "docker")
    ],
    _case(f"{_ADA}.devices[0]", '"t ty" is no subsystem', ada='devices = [ (DEVICE // { subsystem = "t ty"; }) ];'),
    _case(f"{_ADA}.devices[0]", "no name of an attribute", ada='devices = [ (DEVICE // { attrs."a}" = "1"; }) ];'),
    _case(f"{_ADA}.devices[0]", "quote or a backslash", ada="devices = [ (DEVICE // { attrs.a = ''1\"''; }) ];"),
    _case(f"{_ADA}.devices[0]", '"explode" is no action', ada='devices = [ (DEVICE // { action = "explode"; }) ];'),
    _case(f"{_ADA}.devices[0]", '"all" is no permission', ada='devices = [ (DEVICE // { permission = "all"; }) ];'),
    _case(
        f"{_ADA}.devices[0]", '"a b" is no name of a user or group', ada='devices = [ (DEVICE // { group = "a b"; }) ];'
    ),
    _case(f"{_ADA}.prompts.name", '"Ada" is no name for an agent definition', ada='prompts.name = "Ada";'),
    _case(
        f"{_ADA}.claudeCode.extraAgents",
        "another agentName",
        ada='claudeCode = { enable = true; extraAgents.ada-general = "x"; };',
    ),
    _case(
        f"{_ADA}.claudeCode.extraAgents",
        '"../x" is no file name',
        ada='claudeCode = { enable = true; extraAgents."../x" = "x"; };',
    ),
    _case(
        f"{_ADA}.claudeCode.settings.permissions",
        "no table",
        "acceptEdits",
        ada="claudeCode = { enable = true; settings.permissions = 5; };",
    ),
    _case(f"{_ADA}.prompts.settings.permissions", "deny: no list", ada='prompts.settings.permissions.deny = "Read";'),
    _case(f"{_ADA}.claudeCode.agentName", '"A" is no name', ada='claudeCode = { enable = true; agentName = "A"; };'),
    _case(
        f"{_ADA}.claudeCode.extraPrompt",
        "private key",
        ada='claudeCode = { enable = true; extraPrompt = "AGE-SECRET-KEY-1QQ"; };',
    ),
    _case(f"{_ADA}.prompts.runtimes", "twice", ada='prompts.runtimes = [ "codex" "codex" ];'),
    _case(f"{_ADA}.prompts.tools", "comma", ada='prompts.tools = [ "Read, Edit" ];'),
    _case(f"{_ADA}.prompts.extra", "control character", ada='prompts.extra = builtins.fromJSON "\\"\\\\u0007\\"";'),
    _case(
        f"{_ADA}.claudeCode.settings.permissions.defaultMode",
        '"allowEdits"',
        'write "acceptEdits"',
        ada='claudeCode = { enable = true; settings.permissions.defaultMode = "allowEdits"; };',
    ),
    _case(
        f"{_ADA}.prompts.settings.permissions.defaultMode",
        "acceptEdits, plan",
        ada="prompts.settings.permissions.defaultMode = 1;",
    ),
    _case(
        f"{_ADA}.prompts.settings.a[0].b", "null", "leave the key out", ada="prompts.settings.a = [ { b = null; } ];"
    ),
    _case(f"{_ADA}.prompts.settings.n", "2^53", ada="prompts.settings.n = 9007199254740993;"),
    _case(
        f"{_ADA}.prompts.settings.t",
        "control character",
        ada='prompts.settings.t = builtins.fromJSON "\\"\\\\u0007\\"";',
    ),
]

DOUBTED = [
    _case(
        f"{_ADA}.persist",
        '".codex" holds a login',
        'preset = "codex"',
        ada='persist = [ ".codex" ];',
        town='store = "s3://agents";',
    ),
    _case(f"{_ADA}.claudeCode", "extraPrompt: without effect", ada='claudeCode.extraPrompt = "x";'),
    _case(
        f"{_ADA}.git.email",
        "vox",
        "its own",
        ada='git.email = "a@b";',
        more='vox = { uid = 1101; git.email = "a@b"; };',
    ),
    _case(f"{_ADA}.git.email", "the person's", ada='git.email = "josh@signi.local";', town='humanUser = "josh";'),
    _case("btrfs.subvolume, wait", "btrfsDevice is null", town='btrfs.subvolume = "@a"; wait = "1min";'),
    _case("storeCredentials, sync.every", "store is null", town='storeCredentials = "/run/x"; sync.every = "1h";'),
    _case(f"{_ADA}.quota", "btrfsDevice is null", ada='quota = "20G";'),
]

_DEVICE = '{ subsystem = "tty"; attrs.idVendor = "0483"; action = "add"; permission = "rw"; group = "plugdev"; }'


def _expression(case: Case, folder: Path) -> str:
    agents = f"ada = {{ uid = 1100; }} // {{ {case.ada} }}; {case.more}"
    made = f"plain {{ town = {{ {case.town} }}; agents = {{ {agents} }}; }}"
    return made.replace("DEVICE", _DEVICE).replace("FOLDER", str(folder))


def _all(kind: str, cases: list[Case], folder: Path) -> list[list[str]]:
    asked = " ".join(f"({_expression(case, folder)})" for case in cases)
    return ask(f"map (town: builtins.concatMap (rule: rule.offenders) (nuketown.{kind} town)) [ {asked} ]")  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[Case, list[str]]:
    """What is said of each case, all of them asked at once."""
    folder = tmp_path_factory.mktemp("secrets")
    (folder / "clear.yaml").write_text("ada:\n  ssh-key: hunter2\n")
    (folder / "pretends.yaml").write_text("ada: |\n  -----BEGIN OPENSSH PRIVATE KEY-----\nsops: {}\n")
    refused, doubted = _all("rules", REFUSED, folder), _all("doubts", DOUBTED, folder)
    return dict(zip([*REFUSED, *DOUBTED], [*refused, *doubted], strict=True))


def _id(case: Case) -> str:
    return f"{case.where} {case.says[0]} {case.town[-40:]}{case.ada[-40:]}".strip()


@pytest.mark.parametrize("case", REFUSED, ids=_id)
def test_it_is_refused_with_its_place_and_the_cure(case: Case, said: dict[Case, list[str]]) -> None:
    _holds(case, said[case])


@pytest.mark.parametrize("case", DOUBTED, ids=_id)
def test_it_is_warned_about_with_its_place_and_the_cure(case: Case, said: dict[Case, list[str]]) -> None:
    _holds(case, said[case])


def _holds(case: Case, found: list[str]) -> None:
    fitting = [one for one in found if one.startswith(f"{case.where}: ") and all(word in one for word in case.says)]
    assert fitting, found
    assert all(": " in one.removeprefix(f"{case.where}: ") or "," in one for one in fitting)


def test_each_refusal_of_a_case_is_about_what_the_case_says(said: dict[Case, list[str]]) -> None:
    """One mistake is one message, or several that name the same option: nothing is refused along with it."""
    beside = {
        case: [one for one in said[case] if not one.startswith(f"{case.where.split('.secrets')[0].split('[')[0]}")]
        for case in REFUSED
    }
    assert {case: found for case, found in beside.items() if found and not _follows(case)} == {}


def _follows(case: Case) -> bool:
    """Cases that are two mistakes, or one seen from two agents."""
    return bool(case.more) or case.where in (
        "nuketown.humanUser",
        "nuketown.recoveryFile",
        "nuketown.domain",
        "nuketown.sopsFile",
    )


def test_a_town_without_an_agent_is_refused() -> None:
    found = ask(
        "builtins.concatMap (rule: rule.offenders)"
        " (nuketown.rules (plain { agents.ada = { uid = 1; enable = false; }; }))"
    )
    assert found == ["nuketown.agents: no agent is enabled: enable one, or set nuketown.enable = false"]


def test_a_town_as_it_should_be_is_refused_nothing_and_doubted_nothing(tmp_path: Path) -> None:
    (tmp_path / "agents.yaml").write_text("ada: ENC[x]\nsops:\n  version: 3.9\n")
    town = f"""plain {{
      town = {{
        humanUser = "josh"; sopsFile = {tmp_path}/agents.yaml; btrfsDevice = "38b243a0-c875-4758-8998-cc6c6a4c451e";
        store = "s3://agents"; storeCredentials = "/run/secrets/s3"; hostKey.age = "/var/lib/nuketown/age.key";
        recipients.humans = [ "{_AGE}" ]; sync.every = "1h"; wait = "1min";
      }};
      agents.ada = {{
        uid = 1100; sudo.enable = true; devices = [ {_DEVICE} ]; quota = "20G";
        persist = [
          "projects" {{ path = ".claude"; preset = "claude-code"; }} {{ path = "models"; class = "cache"; }}
        ];
        secrets = {{ extraSecrets.key = "shared/key"; env.KEY = "key"; }};
        claudeCode = {{ enable = true; settings.permissions.defaultMode = "acceptEdits"; }};
      }};
      agents.vox = {{ uid = 1101; git.signing = "ssh"; secrets.extraSecrets.key = "shared/key"; }};
    }}"""
    assert ask(f"builtins.concatMap (rule: rule.offenders) (nuketown.rules ({town}) ++ nuketown.doubts ({town}))") == []


def test_there_are_more_rules_than_twenty_five_each_with_a_name_of_its_own() -> None:
    names = ask("map (rule: rule.name) (nuketown.rules (plain { agents.ada.uid = 1100; }))")
    assert len(names) == len(set(names)) > 25


def test_a_message_repeats_no_private_key(said: dict[Case, list[str]]) -> None:
    text = "\n".join(one for found in said.values() for one in found)
    assert "QQQQ" not in text
    assert "hunter2" not in text
    assert "key:secret" not in text


_LOW = "nuketown.agents.ada.uid = lib.mkForce 1000;"
_JOSH = "users.users.josh.isNormalUser = true;"
_BASE = '{ nuketown = { enable = true; domain = "signi.local"; agents.ada = { enable = true; uid = 1100; }; }; }'


@pytest.mark.parametrize(
    ("module", "says"),
    [
        ("{ users.users.joe.uid = 1100; }", "nuketown.agents.ada.uid: 1100 is that of users.users.joe too"),
        ("{ users.groups.joe.gid = 1100; }", "nuketown.agents.ada.gid: 1100 is that of users.groups.joe too"),
        ('{ users.users.joe.home = "/agents/joe"; }', "users.users.joe.home: /agents/joe lies in nuketown.agentsDir"),
        (
            "{ users.users.ada.isSystemUser = true; }",
            "nuketown.agents.ada: users.users.ada is an account of the system",
        ),
        ('{ nuketown.agents.ada.persist = [ "../x" ]; }', 'nuketown.agents.ada.persist: "../x" leaves the home'),
        *(
            (f"({{ lib, ... }}: {{ users.{said}; }})", f"nuketown.agents.ada: users.{names}")
            for said, names in (
                ('users.ada.name = "eve"', 'users.ada.name is "eve" and not "ada"'),
                ("users.ada.enable = false", "users.ada.enable is false"),
                ("users.ada.uid = lib.mkForce 4242", "users.ada.uid is 4242 and not 1100"),
                ("users.ada.uid = lib.mkForce null", "users.ada.uid is null and not 1100"),
                ('users.ada.group = lib.mkForce "wheel"', 'users.ada.group is "wheel"'),
                ('users.ada.home = lib.mkForce "/home/ada"', 'users.ada.home is "/home/ada" and not "/agents/ada"'),
                ("users.ada.createHome = lib.mkForce true", "users.ada.createHome is true"),
                ("groups.ada.gid = lib.mkForce 100", "groups.ada.gid is 100 and not 1100"),
                ('groups.ada.name = "eve"', 'groups.ada.name is "eve"'),
                ('users.joe.name = "ada"', 'users.joe.name is "ada" too'),
            )
        ),
        *(
            (f"({{ lib, ... }}: {{ {said} }})", f"nuketown.agents.ada.{names}")
            for said, names in (
                (f"{_LOW} {_JOSH}", "uid: 1000 may be the number of users.users.josh"),
                (f"nuketown.agents.ada.gid = 1000; {_JOSH}", "gid: 1000 may be the number of users.users.josh"),
                (
                    f'{_LOW} {_JOSH} users.users.josh = {{ uid = 1001; group = "josh"; }}; users.groups.josh = {{ }};',
                    "uid: 1000 may be the number of users.groups.josh",
                ),
            )
        ),
        (
            '{ nuketown.hostKey.age = "/etc/keys/age"; environment.etc."keys/age".text = "x"; }',
            'nuketown.hostKey.age: /etc/keys/age is environment.etc."keys/age"',
        ),
        (
            '{ nuketown.store = "s3://a-b"; nuketown.storeCredentials = "/etc/k/c"; environment.etc.k.source = ./.; }',
            'nuketown.storeCredentials: /etc/k/c is environment.etc."k"',
        ),
    ],
)
def test_the_system_is_refused(module: str, says: str) -> None:
    failed, _ = messages(f"[ {_BASE} {module} ]")
    assert any(one.startswith(says) for one in failed), failed


@pytest.mark.parametrize(
    ("module", "says"),
    [
        ('{ users.users.ada.extraGroups = [ "wheel" ]; }', "nuketown.agents.ada: is in wheel"),
        ('{ users.groups.docker.members = [ "ada" ]; }', "nuketown.agents.ada: is in docker"),
        ('{ nix.settings.trusted-users = [ "ada" ]; }', "nuketown.agents.ada: is in nix.settings.trusted-users"),
        (
            '{ nix.settings.trusted-users = [ "@crew" ]; users.groups.crew.members = [ "ada" ]; }',
            "nuketown.agents.ada: is in nix.settings.trusted-users (@crew)",
        ),
        (
            '{ nix.settings.extra-trusted-users = "josh @crew"; users.users.ada.extraGroups = [ "crew" ]; }',
            "nuketown.agents.ada: is in nix.settings.trusted-users (@crew)",
        ),
        (
            f'({{ lib, ... }}: {{ {_LOW} nuketown.humanUser = "josh"; }})',
            "nuketown.agents.ada.uid: 1000 may be the number of josh",
        ),
        ('{ nix.settings.trusted-users = [ "*" ]; }', 'nuketown: nix.settings.trusted-users has "*"'),
        (
            '{ users.mutableUsers = false; nuketown.humanUser = "josh"; }',
            'nuketown.humanUser: there is no account "josh"',
        ),
        ('{ nuketown.wait = "1min"; }', "nuketown.wait: without effect"),
    ],
)
def test_the_system_is_warned_about(module: str, says: str) -> None:
    _, warnings = messages(f"[ {_BASE} {module} ]")
    assert any(one.startswith(says) for one in warnings), warnings


def test_a_system_as_it_should_be_fails_no_assertion() -> None:
    failed, warnings = messages(f'[ {_BASE} {{ users.users.josh.uid = 1000; nuketown.humanUser = "josh"; }} ]')
    assert failed == []
    assert [one for one in warnings if not one.startswith("nuketown: there are no public keys yet")] == []


FITTING = [
    f"{_LOW} {_JOSH} users.users.josh.uid = 1001;",
    f"{_JOSH}",
    "users.users.daemon.isSystemUser = true; nuketown.agents.ada.gid = 1000;",
    f"{_LOW} {_JOSH} users.users.josh.enable = false;",
    'nuketown.hostKey.ssh = "/etc/ssh/key"; environment.etc."ssh/key".source = "/persist/etc/ssh/key";',
    'nuketown.hostKey.ssh = "/etc/ssh/key"; environment.etc."ssh/key2".text = "x";',
    'nuketown.hostKey.ssh = "/etc/ssh/key"; environment.etc."ssh/key" = { enable = false; text = "x"; };',
    'nix.settings.trusted-users = [ "root" "@wheel" "@users" ];',
]


@pytest.mark.parametrize("said", FITTING)
def test_what_is_no_danger_is_neither_refused_nor_warned_about(said: str) -> None:
    failed, warnings = messages(f"[ {_BASE} ({{ lib, ... }}: {{ {said} }}) ]")
    assert failed == []
    assert [one for one in warnings if "public keys" not in one] == []


def test_a_home_of_home_managers_is_where_the_spec_has_it() -> None:
    said = 'home-manager.useGlobalPkgs = true; home-manager.users.ada.home.homeDirectory = lib.mkForce "/home/ada";'
    failed, _ = messages(f"[ {_BASE} ({{ lib, ... }}: {{ {said} }}) ]", needs=["HOME_MANAGER"])
    assert any(
        'home-manager.users.ada.home.homeDirectory is "/home/ada" and not "/agents/ada"' in one for one in failed
    )
