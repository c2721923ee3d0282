# ruff: noqa: E501 - a table reads better with one case on a line
"""What a spec says when it is wrong: where, what, and the cure; all of it at once; and no secret repeated."""

from pathlib import Path

import pytest

from town import spec
from town.failure import BadSpec, Problem
from town.terminal import toml_string

LEAST = "[agents.ada]\nuid = 1100\n"
BTRFS = '[town.btrfs]\ndevice = "LABEL=a"\n'
FILE = Path("/etc/nuketown/town.toml")
HUMAN = "age122tdud7k2y8d4nsmnu8ymmh8x64pv42vya3xr9x59ljeuw2vevgsz6e2xk"
# Never used by anybody: made for this line.
PRIVATE = "AGE-SECRET-KEY-1QYQSZQGPQYQSZQGPQYQSZQGPQYQSZQGPQYQSZQGPQYQSZQGPQYQS3J0K7M"


def problems(text: str | bytes) -> tuple[Problem, ...]:
    with pytest.raises(BadSpec) as caught:
        spec.parse(text.encode() if isinstance(text, str) else text, FILE)
    assert caught.value.status == 78
    assert caught.value.file == str(FILE)
    for problem in caught.value.problems:
        assert problem.cure, problem
        assert str(problem).isprintable(), problem
        assert problem.cure.isprintable(), problem
    return caught.value.problems


def town(line: str) -> str:
    return f"[town]\n{line}\n{LEAST}"


def ada(line: str) -> str:
    return f"{LEAST}{line}\n"


def store(url: str) -> str:
    return town(f'store = "{url}"')


def kept(entry: str) -> str:
    return f'[town]\nstore = "file:///s"\n{LEAST}persist = [{entry}]\n'


# (text, where, a part of what is wrong, a part of the cure)
ONE = [
    # ids
    ("[agents.ada]\n", "agents.ada.uid", "is missing", "1000-60000"),
    ("[agents.ada]\nuid = true\n", "agents.ada.uid", "a boolean, not an integer", "1000 to 60000"),
    ('[agents.ada]\nuid = "1100"\n', "agents.ada.uid", "a string, not an integer", "without quotes"),
    ("[agents.ada]\nuid = 1100.0\n", "agents.ada.uid", "a float, not an integer", ""),
    ("[agents.ada]\nuid = 2026-01-01\n", "agents.ada.uid", "a date or a time", ""),
    ("[agents.ada]\nuid = 999\n", "agents.ada.uid", "999 is outside 1000-60000", ""),
    ("[agents.ada]\nuid = 60001\n", "agents.ada.uid", "60001 is outside 1000-60000", ""),
    ("[agents.ada]\nuid = 0\n", "agents.ada.uid", "outside", ""),
    ("[agents.ada]\nuid = -1100\n", "agents.ada.uid", "outside", ""),
    (f"[agents.ada]\nuid = 0x{'f' * 6000}\n", "agents.ada.uid", "more than 64 bits", ""),
    (LEAST + "[agents.vox]\nuid = 1100\n", "agents.vox.uid", "1100 is ada's", "another number"),
    (ada("gid = 0"), "agents.ada.gid", "outside", ""),
    (ada("gid = 1101") + "[agents.vox]\nuid = 1101\n", "agents.ada.gid", "of vox", "leave gid out"),
    # names
    ("[agents.Ada]\nuid = 1100\n", "agents.Ada", "not a name", "lower-case"),
    ("[agents.1a]\nuid = 1100\n", "agents.1a", "not a name", ""),
    (f"[agents.{'a' * 32}]\nuid = 1100\n", "agents." + "a" * 32, "not a name", "31"),
    ('[agents."ada\\n"]\nuid = 1100\n', 'agents."ada\\u000A"', '"ada\\n" is not a name', ""),
    ('[agents."a/../b"]\nuid = 1100\n', 'agents."a/../b"', "not a name", ""),
    ('[agents.""]\nuid = 1100\n', 'agents.""', "not a name", ""),
    ("[agents.sops]\nuid = 1100\n", "agents.sops", "sops", "another name"),
    ("[agents.root]\nuid = 1100\n", "agents.root", "root", "another name"),
    ("[agents.a-unencrypted]\nuid = 1100\n", "agents.a-unencrypted", "in clear", "another name"),
    ("[agents.a_unencrypted]\nuid = 1100\n", "agents.a_unencrypted", "not a name", ""),
    *((f"[agents.{w}]\nuid = 1100\n", f"agents.{w}", "boolean or null", "") for w in ("y", "n", "yes", "no", "on", "off", "true", "false", "null")),
    (town('human = { user = "ada" }'), "agents.ada", "town.human.user", "another name"),
    # shapes
    ("", "agents", "names no agent", "[agents.ada]"),
    ("[agents]\n", "agents", "names no agent", ""),
    ("agents = 3\n", "agents", "an integer, not a table", ""),
    ("agents = { ada = 1100 }\n", "agents.ada", "an integer, not a table", "uid"),
    ("town = []\n" + LEAST, "town", "an array, not a table", "[town]"),
    ("[twon]\n" + LEAST, "twon", "not a key", "town"),
    (town('agentsdir = "/a"'), "town.agentsdir", "not a key", "did you mean agents_dir?"),
    (town('"agents-dir" = "/a"'), "town.agents-dir", "not a key", "did you mean agents_dir?"),
    (ada('xyzzy = "/a"'), "agents.ada.xyzzy", "not a key", "known here: uid,"),
    (ada('"a b\\n" = 1'), 'agents.ada."a b\\u000A"', "not a key", ""),
    (ada('git = { singing = "ssh" }'), "agents.ada.git.singing", "not a key", "did you mean signing?"),
    (ada('sudo = "yes"'), "agents.ada.sudo", "a string, not a boolean", "without quotes"),
    (ada("sudo = 1"), "agents.ada.sudo", "an integer, not a boolean", ""),
    # places
    (town('agents_dir = "agents"'), "town.agents_dir", "not an absolute path", ""),
    (town('agents_dir = "/"'), "town.agents_dir", "may not be /", ""),
    (town('agents_dir = "//agents"'), "town.agents_dir", "not a normal path", ""),
    (town('agents_dir = "/a/../b"'), "town.agents_dir", "not a normal path", ""),
    (town('agents_dir = "/a/"'), "town.agents_dir", "not a normal path", ""),
    (town('agents_dir = "/etc"'), "town.agents_dir", "belongs to the system", ""),
    (town('agents_dir = "/nix/var/nix"'), "town.agents_dir", "belongs to the system", "/agents"),
    (town('persist_dir = "/run/kept"'), "town.persist_dir", "belongs to the system", "/agents"),
    (town('agents_dir = "/a:b"'), "town.agents_dir", "colon", ""),
    (town('agents_dir = "/a\\u0000"'), "town.agents_dir", "U+0000", ""),
    (town('persist_dir = "/agents"'), "town.persist_dir", "inside", "of its own"),
    (town('persist_dir = "/agents/p"'), "town.persist_dir", "inside", ""),
    (town('agents_dir = "/persist/a"'), "town.persist_dir", "inside", ""),
    (town('persist_dir = "None"'), "town.persist_dir", "not an absolute path", ""),
    (town('sops_file = "../s.yaml"'), "town.sops_file", "not a path beside this file", "absolute"),
    (town('sops_file = "s.txt"'), "town.sops_file", "not a YAML file", ".yaml"),
    (town('sops_file = "/agents/ada/s.yaml"'), "town.sops_file", "lies in agents_dir", "only root"),
    (town('recovery_file = "/persist/agents/r.yaml"'), "town.recovery_file", "lies in persist_dir", ""),
    (town('recovery_file = "secrets/agents.yaml"'), "town.recovery_file", "is sops_file too", ""),
    (town('recovery_file = "/etc/nuketown/secrets/agents.yaml"'), "town.recovery_file", "is sops_file too", ""),
    (town('host_key = { age = "/agents/ada/k" }'), "town.host_key.age", "lies in agents_dir", ""),
    (town('host_key = { ssh = "k" }'), "town.host_key.ssh", "not an absolute path", ""),
    (town('host_key = { gnupg = "/agents/ada/.gnupg" }'), "town.host_key.gnupg", "lies in agents_dir", ""),
    (town('store_credentials = "/agents/c"'), "town.store_credentials", "lies in agents_dir", ""),
    # words for people
    (town('domain = "a b"'), "town.domain", "not a domain", ""),
    (town('domain = "local."'), "town.domain", "not a domain", ""),
    (town('domain = "münchen.de"'), "town.domain", "not a domain", "xn--"),
    (town('domain = "local\\n"'), "town.domain", "control character U+000A", "remove it"),
    (town("human = {}"), "town.human.user", "is missing", ""),
    (town('human = { user = "-josh" }'), "town.human.user", "not a user's", ""),
    (town('human = { user = "josh", email = "josh" }'), "town.human.email", "not an e-mail", ""),
    *((ada(f'git = {{ email = "{e}" }}'), "agents.ada.git.email", "e-mail", "ada@signi.local") for e in (
        "ada", "@b", "a@", "a b@c", "<a@b>", "a@b>", "-a@b", ".a@b", "a..b@c", "*@b", "a,b@c", "a@b@c", "a@b_c", "ä@b", "x" * 65 + "@b",
    )),
    (ada('git = { email = "a@b\\n" }'), "agents.ada.git.email", "U+000A", ""),
    (ada('git = { name = "Ada <x>" }'), "agents.ada.git.name", "holds <", "<>()"),
    (ada('git = { name = "..." }'), "agents.ada.git.name", "not a name", ""),
    (ada('git = { name = " Ada" }'), "agents.ada.git.name", "space", ""),
    (ada('git = { name = "" }'), "agents.ada.git.name", "empty", ""),
    (ada('git = { name = "Eve\\nExpire-Date: 1d" }'), "agents.ada.git.name", "U+000A", ""),
    (ada('git = { name = "A\\u202Eb" }'), "agents.ada.git.name", "invisible formatting character U+202E", ""),
    (ada("git = { signing = true }"), "agents.ada.git.signing", "true is no way to sign", "gpg"),
    (ada('git = { signing = "false" }'), "agents.ada.git.signing", '"false" is no way to sign', ""),
    (ada('role = "a\\u0007"'), "agents.ada.role", "U+0007", ""),
    (ada(f'role = "{"x" * 1001}"'), "agents.ada.role", "1,001 characters", ""),
    (ada('description = "a\\u001b[2J"'), "agents.ada.description", "U+001B", ""),
    (ada('description = "a\\rb"'), "agents.ada.description", "U+000D", ""),
    (ada('prompts = { extra = "\\u0085" }'), "agents.ada.prompts.extra", "U+0085", ""),
    # recipients
    (town("recipients = {}"), "town.recipients.humans", "no human", ""),
    (town(f'recipients = {{ hosts = {{ a = "{HUMAN}" }} }}'), "town.recipients.humans", "no human", ""),
    (town(f'recipients.humans = "{HUMAN}"'), "town.recipients.humans", "a string, not an array", ""),
    (town(f'recipients.humans = ["{HUMAN[:-1]}"]'), "town.recipients.humans[0]", "not an age recipient", "whole"),
    (town(f'recipients.humans = ["{HUMAN}", "age1"]'), "town.recipients.humans[1]", "not an age recipient", ""),
    (town('recipients.humans = ["0123456789ABCDEF"]'), "town.recipients.humans[0]", "short OpenPGP key id", "fingerprint"),
    (town('recipients.humans = ["0xDEADBEEF"]'), "town.recipients.humans[0]", "short OpenPGP key id", "fingerprint"),
    (town('recipients.humans = ["ssh-rsa AAAA"]'), "town.recipients.humans[0]", "of a kind", "ssh-ed25519"),
    (town('recipients.humans = ["ssh-ed25519 AAAA"]'), "town.recipients.humans[0]", "not an ssh-ed25519", ".pub"),
    (town('recipients.humans = ["AGE-SECRET-KEY-1"]'), "town.recipients.humans[0]", "is a private key, not a recipient", "age-keygen -y"),
    (town('recipients.humans = ["josh"]'), "town.recipients.humans[0]", "no recipient", "age1"),
    (town(f'recipients = {{ humans = ["{HUMAN}"], hosts = {{ "a b" = "{HUMAN}" }} }}'), 'town.recipients.hosts."a b"', "host name", ""),
    # store
    (store("/srv/store"), "town.store", "not the URL", "file:///"),
    (store("http://a"), "town.store", "neither s3:// nor file://", ""),
    (store("S3://agents"), "town.store", "neither", ""),
    (store("file://srv/store"), "town.store", "names a host", "three slashes"),
    (store("file:///"), "town.store", "names /", ""),
    (store("file:///a/../b"), "town.store", "not a normal path", ""),
    (store("file:///a%2fb"), "town.store", "`%`", ""),
    (store("file:///agents/s"), "town.store", "overlaps", ""),
    (store("file:///persist"), "town.store", "overlaps", ""),
    (store("file:///persist/agents/ada"), "town.store", "overlaps", ""),
    (store("s3://"), "town.store", "no bucket's name", ""),
    (store("s3://Agents"), "town.store", "no bucket's name", "lower-case"),
    (store("s3://ab"), "town.store", "no bucket's name", ""),
    (store("s3://agents:9000/x"), "town.store", "port", "endpoint"),
    (store("s3://AKIA:x@agents"), "town.store", "user info", "store_credentials"),
    (store("file://u@h/x"), "town.store", "user info", "store_credentials"),
    (store("s3://agents/a//b"), "town.store", "prefix", ""),
    (store("s3://agents/../b"), "town.store", "prefix", ""),
    (store("s3://agents/a%2e"), "town.store", "prefix", ""),
    (store("s3://agents/#x"), "town.store", "fragment", ""),
    (store("s3://agents?endpont=http://a"), "town.store", "option that is not known", "did you mean endpoint?"),
    (store("s3://agents?region=a&region=b"), "town.store", "twice", ""),
    (store("s3://agents?region="), "town.store", "without a value", ""),
    (store("s3://agents?region=a%0Ab"), "town.store", "U+000A", ""),
    (store("s3://agents?region=%ff"), "town.store", "not UTF-8", ""),
    (store("s3://agents?imds=yes"), "town.store", "imds", "imds=1"),
    *((store(f"s3://agents?endpoint={e}"), "town.store", "endpoint", "") for e in (
        "ftp://a", "127.0.0.1:9000", "http://", "http://a:0", "http://a:99999", "http://a:b", "http://a/b", "http://a?b", "http://a b", "http://[::1",
        "http://[::1]x",
    )),
    # btrfs
    ("[town.btrfs]\n" + LEAST, "town.btrfs.device", "is missing", "UUID"),
    *((f'[town.btrfs]\ndevice = "{d}"\n{LEAST}', "town.btrfs.device", "names no device", "LABEL=") for d in (
        "", "/", "sda1", "UUID=1234", "LABEL=", "LABEL=a/b", "PARTUUID=38b243a0-c875-4758-8998-cc6c6a4c451e",
        "38b243a0-c875-4758-8998-cc6c6a4c451",
    )),
    ('[town.btrfs]\ndevice = "/dev/../x"\n' + LEAST, "town.btrfs.device", "not a normal path", ""),
    ('[town.btrfs]\ndevice = "/agents/disk"\n' + LEAST, "town.btrfs.device", "lies in agents_dir", ""),
    *((f'{BTRFS}subvolume = "{s}"\n{LEAST}', "town.btrfs.subvolume", "one plain name", "without `/`") for s in (
        "", ".", "..", "a/b", "/a", "-a", "a,b", "a b", "é", "x" * 201,
    )),
    *((f'{BTRFS}blank = "@agents{s}"\n{LEAST}', "town.btrfs.blank", "has the name of", "") for s in (
        "", "-old", "-snapshots", "-ballast", "-ballast.new", ".new",
    )),
    (f'{BTRFS}subvolume = "@agents-blank.new"\n{LEAST}', "town.btrfs.subvolume", "blank one", ""),
    (f"{BTRFS}keep = {{ homes = 0 }}\n{LEAST}", "town.btrfs.keep.homes", "outside 1-", ""),
    (f"{BTRFS}keep = {{ days = true }}\n{LEAST}", "town.btrfs.keep.days", "a boolean", ""),
    *((f'{BTRFS}keep = {{ free = "{f}" }}\n{LEAST}', "town.btrfs.keep.free", "neither a percentage nor a size", "10%") for f in (
        "", "100%", "-1%", "10", "10 G", "10GB", "nan%",
    )),
    # machine
    *((town(f'machine = "{m}"'), "town.machine", "not 32 hex digits in lower case", "leave it out") for m in (
        "", "signi", "0" * 31, "0" * 33, "A" * 32, "g" * 32, "0x" + "0" * 30)),
    (town("machine = 1"), "town.machine", "an integer, not a string", ""),
    # sync
    *((f'{BTRFS}wait = "{w}"\n{LEAST}', "town.btrfs.wait", "", "") for w in ("601s", "-1s", "", "soon", "1 year")),
    (f"{BTRFS}wait = 30\n{LEAST}", "town.btrfs.wait", "an integer, not a string", "30s"),
    *((f'[town.sync]\nevery = "{e}"\n{LEAST}', "town.sync.every", "", "15min") for e in (
        "", " ", "0", "soon", "15mins", "-5min", "infinity", "2y", "1.5.5", "1ms", "5 min x",
    )),
    ("[town.sync]\nevery = 900\n" + LEAST, "town.sync.every", "an integer, not a string", "15min"),
    ("[town.sync]\nkeep = { last = 0 }\n" + LEAST, "town.sync.keep.last", "outside 1-", ""),
    ("[town.sync]\nkeep = { daily = -1 }\n" + LEAST, "town.sync.keep.daily", "outside 0-", ""),
    # persist
    *((kept(f'"{p}"'), "agents.ada.persist[0]", what, "") for p, what in (
        ("", "the home itself"), (".", "the home itself"), ("./", "the home itself"), ("/abs", "not relative"), ("~", "not relative"),
        ("~/a", "not relative"), ("..", "leaves the home"), ("a/../b", "leaves the home"), ("a/./b", "not a normal path"),
        ("./a", "not a normal path"), ("a//b", "not a normal path"), ("a/", "not a normal path"), ("a\\nb", "U+000A"),
        ("a\\u202Eb", "U+202E"), ("a\\u0000", "U+0000"), ("é" * 128, "too long"), ("a/" * 2047 + "bb", "too long"),
        ("a/" * 2040 + "b", "too long"), (".config/nuketown", "writes anew"), (".config/nuketown/x", "writes anew"),
        (".ssh/id_ed25519", "writes anew"),
        (".gnupg/private-keys-v1.d", "writes anew"),
    )),
    (kept('"a", "a"'), "agents.ada.persist[1]", "is persist[0] again", ""),
    (kept('"a", "b", "a/c"'), "agents.ada.persist[2]", 'inside persist[0], "a"', ""),
    (kept('"a/b/c", "b", "a"'), "agents.ada.persist[0]", 'inside persist[2], "a"', ""),
    (kept("3"), "agents.ada.persist[0]", "neither a string nor a table", ""),
    (kept("{}"), "agents.ada.persist[0].path", "is missing", ""),
    (kept('{ preset = "claude-code" }'), "agents.ada.persist[0].path", "is missing", '".claude"'),
    (kept('{ path = "a", preset = "claude" }'), "agents.ada.persist[0].preset", "not known", "claude-code"),
    (kept('{ path = "a", via = "stroe" }'), "agents.ada.persist[0].via", "not known", "did you mean store?"),
    (kept('{ path = "a", via = true }'), "agents.ada.persist[0].via", "a boolean, not a string", ""),
    (kept('{ path = "a", class = "temp" }'), "agents.ada.persist[0].class", "not known", "credential"),
    (kept('{ path = "a", class = "cache", via = "both" }'), "agents.ada.persist[0].via", "never goes", "leave via out"),
    (kept('{ path = "a", class = "credential", via = "store" }'), "agents.ada.persist[0].via", "never goes", ""),
    (kept('{ path = "a", required = "no" }'), "agents.ada.persist[0].required", "not a boolean", ""),
    (kept('{ path = "a", preset = "codex" }, { path = "b", preset = "codex" }'), "agents.ada.persist[1].preset", "of persist[0]", ""),
    (ada('persist = "projects"'), "agents.ada.persist", "a string, not an array", '["projects"]'),
    (ada('persist = [{ path = "a", via = "store" }]'), "agents.ada.persist[0].via", "needs a store", "town.store"),
    (town('persist_dir = "none"') + 'persist = ["a"]', "agents.ada.persist[0]", "nothing keeps it", "town.store"),
    ('[town]\npersist_dir = "none"\nstore = "file:///s"\n' + LEAST + 'persist = [{ path = "a", via = "both" }]',
     "agents.ada.persist[0].via", "needs a persist_dir", 'via = "store"'),
    ('[town]\npersist_dir = "none"\nstore = "file:///s"\n' + LEAST + 'persist = [{ path = "a", class = "cache" }]',
     "agents.ada.persist[0]", "no persist_dir", "leave the entry out"),
    # secrets
    *((ada(f'secrets = {{ ssh_key = "{p}" }}'), "agents.ada.secrets.ssh_key", "", "") for p in (
        "", "/ada/x", "ada//x", "ada/x/", "sops/x", "SOPS/x", "ada/yes", "on/x", "ada/x_unencrypted", "ada/1", "ada/a b", "a/" * 8 + "b",
    )),
    (ada('secrets = { ssh_key = "ada" }'), "agents.ada.secrets.gpg_key", "lies below agents.ada.secrets.ssh_key", ""),
    (ada('secrets = { ssh_key = "ada/gpg-key" }'), "agents.ada.secrets.gpg_key", "is where agents.ada.secrets.ssh_key is", ""),
    (ada('secrets.extra = { a = "ada/ssh-key" }'), "agents.ada.secrets.extra.a", "is where agents.ada.secrets.ssh_key is", ""),
    (ada('secrets.extra = { a = "ada/ssh-key/x" }'), "agents.ada.secrets.extra.a", "lies below", ""),
    (ada('secrets.extra = { "a/b" = "ada/x" }'), 'agents.ada.secrets.extra."a/b"', "file name", ""),
    (ada('secrets.extra = { ".." = "ada/x" }'), 'agents.ada.secrets.extra.".."', "file name", ""),
    (ada('secrets.env = { KEY = "token" }'), "agents.ada.secrets.env.KEY", "names nothing", "secrets.extra"),
    (ada('quota = "20GB"'), "agents.ada.quota", "is no size", '"20G"'),
    (ada('quota = "10%"'), "agents.ada.quota", "is no size", ""),
    (ada('quota = "0G"'), "agents.ada.quota", "no size that a home could have", "1M"),
    (ada('quota = "999999999T"'), "agents.ada.quota", "no size that a home could have", ""),
    (ada("quota = 20"), "agents.ada.quota", "is an integer, not a string", '"20G"'),
    (ada('delivered = ["../x"]'), "agents.ada.delivered[0]", "leaves the home", ""),
    (ada('git.signing = "ssh"\nsecrets.gpg_encryption = true'), "agents.ada.secrets.gpg_encryption", "OpenPGP key", "gpg_key"),
    (ada('secrets = { extra = { token = "ada/t" }, env = { KEY = "tokn" } }'), "agents.ada.secrets.env.KEY", "names nothing", '"token"'),
    (ada('secrets = { extra = { t = "ada/t" }, env = { "A-B" = "t" } }'), "agents.ada.secrets.env.A-B", "variable's name", ""),
    *((ada(f'secrets = {{ extra = {{ t = "ada/t" }}, env = {{ {name} = "t" }} }}'), f"agents.ada.secrets.env.{name}", "each login", "one program")
      for name in ("PATH", "LD_PRELOAD")),
    (ada('secrets = { extra = { t = "ada/t" }, env = { "A\\n" = "t" } }'), 'agents.ada.secrets.env."A\\u000A"', "U+000A", ""),
    (LEAST + '[agents.vox]\nuid = 1101\nsecrets = { ssh_key = "ada/ssh-key" }\n',
     "agents.vox.secrets.ssh_key", "is where agents.ada.secrets.ssh_key is", ""),
    # devices
    (ada('devices = [{ subsystem = "usb" }]'), "agents.ada.devices[0].attrs", "is missing", ""),
    (ada('devices = [{ attrs = { a = "1" } }]'), "agents.ada.devices[0].subsystem", "is missing", ""),
    *((ada(f'devices = [{{ subsystem = "usb", attrs = {{ {a} }} }}]'), "agents.ada.devices[0].attrs", "every device", "") for a in (
        "", 'product = "*"', 'product = "?*"', 'product = "[!a]*"', 'product = "STM|*"', 'a = "*", b = "-"',
        'idVendor = "*0*"', 'idVendor = "0*|1*|2*"', 'authorized = "1"', 'removable = "0", ro = "0", "power/control" = "on"',
    )),
    (ada('devices = [{ subsystem = "usb", attrs = { idVendor = 483 } }]'), "agents.ada.devices[0].attrs.idVendor", "an integer", '"0483"'),
    (ada('devices = [{ subsystem = "usb", attrs = { "a}" = "x" } }]'), 'agents.ada.devices[0].attrs."a}"', "attribute", ""),
    (ada('devices = [{ subsystem = "usb", attrs = { a = "x\\", RUN+=\\"y" } }]'), "agents.ada.devices[0].attrs.a", "quote", ""),
    (ada('devices = [{ subsystem = "u*", attrs = { a = "x" } }]'), "agents.ada.devices[0].subsystem", "not a subsystem", ""),
    *((ada(f'devices = [{{ subsystem = "usb", attrs = {{ a = "x" }}, permission = "{p}" }}]'), "agents.ada.devices[0].permission", "", "rw")
      for p in ("", "rr", "rws", "r w", "7")),
    (ada('devices = [{ subsystem = "usb", attrs = { a = "x" }, action = "ad" }]'), "agents.ada.devices[0].action", "no action", "bind"),
    (ada('devices = [{ subsystem = "usb", attrs = { a = "x" }, group = "a b" }]'), "agents.ada.devices[0].group", "group", ""),
    (ada('devices = [{ subsystem = "usb", attrs = { a = "x" }, group = "wheel" }]'), "agents.ada.devices[0].group", "become root", "plugdev"),
    # prompts
    (ada('prompts.runtimes = ["claude"]'), "agents.ada.prompts.runtimes[0]", "not known", "claude-code"),
    (ada('prompts.runtimes = ["codex", "codex"]'), "agents.ada.prompts.runtimes", "twice", ""),
    (ada('prompts.name = "Ada"'), "agents.ada.prompts.name", "not a name", ""),
    (ada('prompts.name = "../x"'), "agents.ada.prompts.name", "not a name", ""),
    (ada('prompts.tools = ["a\\nb"]'), "agents.ada.prompts.tools[0]", "U+000A", ""),
    (ada('prompts.settings.permissions.defaultMode = "allowEdits"'), "agents.ada.prompts.settings.permissions.defaultMode",
     '"allowEdits" is not known', "did you mean acceptEdits?"),
    (ada("prompts.settings.permissions.defaultMode = 1"), "agents.ada.prompts.settings.permissions.defaultMode", "an integer", ""),
    (ada("prompts.settings.permissions = []"), "agents.ada.prompts.settings.permissions", "not a table", ""),
    (ada("prompts.settings.a = 2026-01-01"), "agents.ada.prompts.settings.a", "a date", '"2026-01-01"'),
    (ada("prompts.settings.a = [1, nan]"), "agents.ada.prompts.settings.a[1]", "nan", "finite"),
    (ada("prompts.settings.a.b = -inf"), "agents.ada.prompts.settings.a.b", "inf", ""),
    (ada(f"prompts.settings.a = 0x{'f' * 6000}"), "agents.ada.prompts.settings.a", "2^53", ""),
    (ada('prompts.settings.a = "\\u0000"'), "agents.ada.prompts.settings.a", "U+0000", ""),
    (ada('prompts.settings."\\u0001" = 1'), 'agents.ada.prompts.settings."\\u0001"', "U+0001", ""),
]  # fmt: skip


@pytest.mark.parametrize(("text", "where", "what", "cure"), ONE)
def test_a_mistake_is_told_once_with_its_place_and_its_cure(text: str, where: str, what: str, cure: str) -> None:
    (problem,) = problems(text)
    assert problem.where == where
    assert what in problem.what
    assert cure in problem.cure


def test_all_mistakes_of_a_file_are_told_at_once() -> None:
    text = """
        [town]
        domian = "a"
        agents_dir = "rel"
        store = "ftp://x"
        [agents.ada]
        persist = ["..", "b", { path = "c", via = 3, clas = "cache" }]
        git = { email = "x", signing = 1 }
        [agents.yes]
        uid = 7
    """
    assert [problem.where for problem in problems(text)] == [
        "town.agents_dir",
        "town.store",
        "town.domian",
        "agents.ada.uid",
        "agents.ada.git.email",
        "agents.ada.git.signing",
        "agents.ada.persist[0]",
        "agents.ada.persist[2].via",
        "agents.ada.persist[2].clas",
        "agents.yes",
        "agents.yes.uid",
    ]


# What may stand below an agent's name and be wrong: each has a cure that could repeat the name.
BELOW = ["1", "{}", "{uid = 1100, secrets.ssh_key = 1}", "{uid = 1100, secrets = 1}", "{uid = 1100, prompts = 1}",
         "{uid = 1100, git = 1, persist = 1, devices = 1}", "{uid = 1100, gid = 1200}",
         "{uid = 1100, secrets = {ssh_key = 'a/b', gpg_key = 'a/b'}}"]  # fmt: skip
HOSTILE = ["\x1b[2J\n\u202e", "\t", "\ufeff", "]\\", '"', "\u2028", PRIVATE, PRIVATE[:30]]


@pytest.mark.parametrize("below", BELOW)
@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_of_an_agent_with_anything_in_it_stands_raw_in_no_message(name: str, below: str) -> None:
    text = f"{toml_string('agents')}.{toml_string(name)} = {below}\nagents.vox = {{uid = 1100, gid = 1200}}\n"
    text += "agents.eve.uid = 1200\n"
    for problem in problems(text):  # which looks at every word of them
        assert PRIVATE[14:30] not in f"{problem} {problem.cure}"


def test_the_cure_for_an_agent_names_the_table_as_toml_does() -> None:
    (_, problem) = problems('agents."a\\u001bb" = 1\n')
    assert problem.cure == 'write [agents."a\\u001Bb"] with uid = …'


@pytest.mark.parametrize(
    "text",
    [
        town(f'recipients.humans = ["{PRIVATE}"]'),
        town(f'recipients.humans = ["{PRIVATE.lower()}"]'),
        town(f'recipients.humans = ["  {PRIVATE}"]'),
        town(f'recipients.hosts = {{ signi = "{PRIVATE}" }}'),
        town(f'domain = "{PRIVATE}"'),
        town(f'"{PRIVATE}" = 1'),
        ada(f'description = "my key is {PRIVATE}"'),
        ada(f'prompts.settings.env.KEY = "{PRIVATE}"'),
        ada(f'prompts.settings."{PRIVATE}" = 1'),
        ada(f'secrets.extra = {{ "{PRIVATE}" = "ada/x" }}'),
        ada(f'secrets.extra = {{ a = "{PRIVATE}" }}'),
        f"[agents.{PRIVATE}]\nuid = 1100\n",
        f"[{PRIVATE}]\n[{PRIVATE}]\n" + LEAST,
        f"{PRIVATE} = 1\n{PRIVATE} = 1\n" + LEAST,
        f"[a.{PRIVATE}]\n[a]\n{PRIVATE} = 1\n" + LEAST,
    ],
)
def test_a_private_key_is_refused_and_never_repeated(text: str) -> None:
    for problem in problems(text):
        for said in (problem.where, problem.what, problem.cure):
            assert PRIVATE[14:40].lower() not in said.lower()


@pytest.mark.parametrize(
    "url",
    ["s3://AKIA:hunter2@agents/x", "s3://agents?endpoint=http://u:hunter2@h", "s3://agents?secret_key=hunter2",
     "file://u:hunter2@h/x", "hunter2://x", "s3://agents?region=hunter2%0A"],
)  # fmt: skip
def test_no_message_about_a_store_repeats_what_may_be_a_password(url: str) -> None:
    (problem,) = problems(store(url))
    assert "hunter2" not in f"{problem.where} {problem.what} {problem.cure}"


def test_a_store_that_is_named_and_wrong_is_one_problem_for_who_declares_paths_for_it() -> None:
    text = store("s3://agents?endpoint=http://u:p@h") + 'persist = [{ path = "a", via = "store" }, "b"]\n'
    assert [problem.where for problem in problems(text)] == ["town.store"]


def test_an_integer_of_thousands_of_digits_is_named_without_its_digits() -> None:
    (problem,) = problems(f"[agents.ada]\nuid = 0x{'f' * 100_000}\n")
    assert len(problem.what) < 100
