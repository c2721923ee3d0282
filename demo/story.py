"""One agent's whole life: spec, keys, first boot, work, sync, power cut, second boot, another machine.

Every step runs the command that a person, or systemd, would run; every claim is a fact that stops the story when it is
not so.
"""

import os
import shutil
from pathlib import Path

from demo.machines import SIZE, Machine
from demo.teller import Teller, as_agent
from town import kernel, process
from town.process import Person

CHECKOUT = Path(__file__).resolve().parent.parent
ADA, VOX = Person(41100, 41100), Person(41101, 41101)
JOSH = "/josh"
BACKUP = Path("/backup")
PAYLOAD = ".local/bin/payload"
ADA_KEEPS, VOX_KEEPS = ("projects", ".claude"), ("projects", "notes")


def tell() -> int:
    """The whole story; 0 when every fact held."""
    teller = Teller()
    signi, vega = _machines(teller)
    _prepare()
    _spec(teller, signi, vega)
    _disk(teller, signi)
    _first_boot(teller, signi)
    _work_of_ada(teller, signi)
    _work_of_vox(teller, signi)
    ada, vox = _before_the_cut(teller, signi)
    _second_boot(teller, signi, ada, vox)
    _old_home(teller, signi)
    _let_go(teller, signi)
    signi.power_off()
    _second_machine(teller, signi, vega, vox)
    vega.power_off()
    teller.end()
    return 0


def _machines(teller: Teller) -> tuple[Machine, Machine]:
    images = Path("/images")
    images.mkdir()
    return (
        Machine("signi", "", images / "signi.img", teller),
        Machine("vega", "/vega", images / "vega.img", teller),
    )


def _prepare() -> None:
    """What the machine already has before nuketown comes: accounts, a person's home, a place for backups."""
    for name in ("/etc/nuketown", "/vega/etc/nuketown", JOSH, str(BACKUP)):
        Path(name).mkdir(parents=True, mode=0o755)
    os.environ["HOME"] = JOSH
    for variable in ("XDG_CONFIG_HOME", "SOPS_AGE_KEY", "SOPS_AGE_KEY_FILE", "NUKETOWN_SPEC", "GNUPGHOME"):
        os.environ.pop(variable, None)
    os.environ["PATH"] = f"{CHECKOUT}/.venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    _accounts("")


def _accounts(root: str) -> None:
    kept = [
        line for line in Path("/etc/passwd").read_text().splitlines() if not line.startswith(("ada:", "vox:", "josh:"))
    ]
    ours = [f"{name}:x:{who.uid}:{who.gid}::{root}/agents/{name}:/bin/sh" for name, who in (("ada", ADA), ("vox", VOX))]
    josh = f"josh:x:41000:41000::{JOSH}:/bin/sh"
    Path("/etc/passwd").write_text("\n".join([*kept, josh, *ours]) + "\n")


def _age_key(path: str) -> str:
    """An age key as its owner would make it; the public half."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    process.run(["age-keygen", "-o", path])
    Path(path).chmod(0o400)
    return process.run(["age-keygen", "-y", path]).out.decode().strip()


def _spec(teller: Teller, signi: Machine, vega: Machine) -> None:
    teller.chapter("A town of two agents, ada and vox: one spec, keys and documents from it")
    marks = {
        "@HUMAN@": _age_key(f"{JOSH}/.config/sops/age/keys.txt"),
        "@SIGNI@": _age_key("/etc/nuketown/age.key"),
        "@VEGA@": _age_key("/vega/etc/nuketown/age.key"),
    }
    for machine in (signi, vega):
        text = (CHECKOUT / "demo/town.toml").read_text()
        for mark, value in {**marks, "@DEVICE@": machine.id, "@ROOT@": machine.root}.items():
            text = text.replace(mark, value)
        Path(machine.spec).write_text(text)
    socket_name = f"on {signi.name}, with {signi.spec}"
    teller.note(f"{socket_name}; the second machine, vega, comes at the end")
    signi.persist("check")
    signi.identity("gen", "--all", show=40)
    _generated(teller)
    signi.persist("init", "--store")


def _generated(teller: Teller) -> None:
    etc = Path("/etc/nuketown")
    for name in ("identities/ada/identity.toml", "identities/ada/ssh.pub", "identities/ada/gpg.asc"):
        teller.fact(f"{name} is there", (etc / name).stat().st_size > 0)
    sealed = (etc / "secrets/agents.yaml").read_text()
    teller.fact("secrets/agents.yaml holds no key in clear", "PRIVATE KEY" not in sealed and "ENC[AES256_GCM" in sealed)
    before = {path: path.read_bytes() for path in etc.rglob("*") if path.is_file()}
    process.run(["identity", "gen", "--all"])
    after = {path: path.read_bytes() for path in etc.rglob("*") if path.is_file()}
    teller.fact("a second `identity gen --all` changes no byte", before == after)


def _disk(teller: Teller, machine: Machine) -> None:
    teller.chapter(f"The disk of {machine.name}: one btrfs filesystem")
    with machine.image.open("wb") as file:
        file.truncate(SIZE)
    teller.run("mkfs.btrfs", "--quiet", "--uuid", machine.id, str(machine.image))
    machine.power_on()
    top = Path("/mnt-top")
    top.mkdir(exist_ok=True)
    kernel.mount(machine.device, str(top), "btrfs", 0, "subvolid=5")
    teller.run("btrfs", "subvolume", "create", f"{top}/@persist")
    kernel.umount(str(top))
    machine.mount("@persist", "persist")
    machine.persist("init")


def _first_boot(teller: Teller, machine: Machine) -> None:
    teller.chapter("First boot")
    machine.boot()
    machine.persist("check", "--machine", show=0)
    for name, who in (("ada", ADA), ("vox", VOX)):
        home = machine.home(name).stat()
        teller.fact(f"{name}'s home is {name}'s, 0700", (home.st_uid, home.st_mode & 0o7777) == (who.uid, 0o700))
        key = (machine.home(name) / ".ssh/id_ed25519").stat()
        teller.fact(f"{name}'s SSH key is {name}'s, 0600", (key.st_uid, key.st_mode & 0o7777) == (who.uid, 0o600))
    facts = (machine.home("ada") / ".config/nuketown/identity.toml").read_text()
    teller.fact("ada's identity.toml says who she is", 'name = "ada"' in facts and "uid = 41100" in facts)


def _history(teller: Teller) -> str:
    """A real repository with history: this checkout's own, or (a tarball, a shallow clone) one made of its files."""
    bundle = str(BACKUP / "nuketown.bundle")
    git = ["git", "-c", "safe.directory=*", "-C", str(CHECKOUT)]
    shallow = process.run([*git, "rev-parse", "--is-shallow-repository"], check=False)
    if shallow.out.strip() == b"false":
        process.run([*git, "bundle", "create", "--quiet", bundle, "--all", "HEAD"])
    else:
        teller.note("this checkout has no whole history of its own: one is made of its files, a commit for each folder")
        _made_history(bundle)
    Path(bundle).chmod(0o644)
    return bundle


def _made_history(bundle: str) -> None:
    made = "/backup/made"
    process.run(["git", "init", "--quiet", made])
    who = {"GIT_AUTHOR_NAME": "Josh", "GIT_AUTHOR_EMAIL": "josh@demo.local"}
    who |= {name.replace("AUTHOR", "COMMITTER"): value for name, value in who.items()}
    for part in ("town", "persist", "identity", "initrd", "docs", "tests", "README.md"):
        source, target = CHECKOUT / part, Path(made, part)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
        process.run(["git", "-C", made, "add", "-A"])
        process.run(["git", "-C", made, "commit", "--quiet", "-m", f"Add {part}"], env=who)
    process.run(["git", "-C", made, "bundle", "create", "--quiet", bundle, "--all", "HEAD"])


def _clone_and_commit(teller: Teller, machine: Machine, name: str, who: Person, bundle: str) -> None:
    home = machine.home(name)
    env = as_agent(name, str(home))
    repo = f"{home}/projects/nuketown"

    def run(*argv: str, cwd: str = str(home)) -> None:
        teller.run(*argv, env=env, person=who, cwd=cwd, prompt=f"{name}$")

    run("git", "clone", "--quiet", bundle, "projects/nuketown")
    run("sh", "-c", f"echo 'signed by {name}' > {name}.txt", cwd=repo)
    run("git", "add", ".", cwd=repo)
    run("git", "commit", "--quiet", "-m", f"{name} was here", cwd=repo)
    log = process.run(["git", "rev-list", "--count", "HEAD"], env=env, person=who, cwd=repo).out
    teller.fact(f"{name}'s clone has a history", int(log) > 1, f"{int(log)} commits")
    _verified(teller, machine, name, who)


def _verified(teller: Teller, machine: Machine, name: str, who: Person) -> None:
    env = as_agent(name, str(machine.home(name)))
    repo = f"{machine.home(name)}/projects/nuketown"
    argv = ("git", "log", "-1", "--show-signature")
    done = teller.run(*argv, env=env, person=who, cwd=repo, prompt=f"{name}$")
    good = b'Good "git" signature for' if name == "vox" else b"Good signature from"
    teller.fact(f"{name}'s commit verifies", good in done.out + done.err, (done.out + done.err).decode()[:300])


_TOOL_STATE = """
mkdir -p projects/data/empty .claude/projects/demo notes-not-kept .local/bin
echo '{"display":"hello"}' > .claude/history.jsonl
echo '{"oauthAccount":"ada"}' > .claude/.claude.json
head -c 300000 /dev/urandom > projects/data/blob
ln projects/data/blob projects/data/hardlink
ln -s blob projects/data/symlink
ln -s /nowhere projects/data/dangling
python3 - <<'E'
import os
os.setxattr('projects/data/blob', 'user.note', b'kept \\xff')
open(b'projects/data/odd \\xff\\n name', 'w').write('odd')
E
chmod 0640 projects/data/blob
touch -d '2001-02-03 04:05:06.123456789' projects/data/blob
printf '#!/bin/sh\\necho pwned\\n' > .local/bin/payload
chmod +x .local/bin/payload
echo 'PATH=~/.local/bin:$PATH; payload' >> .bashrc
"""


def _work_of_ada(teller: Teller, machine: Machine) -> None:
    teller.chapter("ada at work, as her own uid")
    bundle = _history(teller)
    _clone_and_commit(teller, machine, "ada", ADA, bundle)
    home = str(machine.home("ada"))
    env = as_agent("ada", home)
    teller.run(
        "sh", "-ec", _TOOL_STATE, env=env, person=ADA, cwd=home, prompt="ada$",
        typed="(writes tool state, odd files, and a payload in .local/bin)",
    )  # fmt: skip
    teller.run("btrfs", "subvolume", "create", "trap", env=env, person=ADA, cwd=home, prompt="ada$")
    teller.note("a nested subvolume: one command of any user, and a rollback that deletes would fail from now on")


def _work_of_vox(teller: Teller, machine: Machine) -> None:
    teller.chapter("vox at work")
    _clone_and_commit(teller, machine, "vox", VOX, str(BACKUP / "nuketown.bundle"))
    home = str(machine.home("vox"))
    script = "echo 'the answer is 42' > notes/answer; mkdir notes/deep; touch -d @1.5 notes/deep; echo x > forgotten"
    teller.run("sh", "-ec", script, env=as_agent("vox", home), person=VOX, cwd=home, prompt="vox$")


Declared = dict[str, object]


def _before_the_cut(teller: Teller, machine: Machine) -> tuple[Declared, Declared]:
    teller.chapter("What would a reboot take, and what is sent away")
    lost = machine.persist("lost", "ada", show=20)
    for name in (".local", "trap", ".bashrc"):
        teller.fact(f"`persist lost` names {name}", name in lost)
    teller.fact("`persist lost` leaves out what is declared", "projects/data" not in lost)
    machine.persist("sync")
    machine.persist("status", show=20)
    ada, vox = machine.declared("ada", *ADA_KEEPS), machine.declared("vox", *VOX_KEEPS)
    teller.chapter("Power cut")
    machine.cut_power()
    teller.note("the disk is as it was at one moment: nothing was unmounted, nothing was flushed")
    return ada, vox


def _second_boot(teller: Teller, machine: Machine, ada: Declared, vox: Declared) -> None:
    teller.chapter("Second boot")
    machine.power_on()
    machine.boot()
    home = machine.home("ada")
    gone = not (home / PAYLOAD).exists() and not (home / "trap").exists() and not (home / ".bashrc").exists()
    teller.fact("payload, .bashrc and nested subvolume are gone", gone)
    teller.fact("what vox did not declare is gone", not (machine.home("vox") / "forgotten").exists())
    teller.same("what ada declared is there, byte for byte", ada, machine.declared("ada", *ADA_KEEPS))
    teller.same("what vox declared is there, byte for byte", vox, machine.declared("vox", *VOX_KEEPS))
    _verified(teller, machine, "ada", ADA)
    _verified(teller, machine, "vox", VOX)


def _old_home(teller: Teller, machine: Machine) -> None:
    teller.chapter("The old home is kept, to look at")
    name = machine.kept("ada")
    machine.persist("recall", name, "--to", "/look")
    teller.fact("the payload is in the copy", Path("/look", PAYLOAD).exists())
    options = {
        word
        for line in Path("/proc/mounts").read_text().splitlines()
        if " /look " in line
        for word in line.split()[3].split(",")
    }
    teller.fact("the copy is mounted nosuid, nodev, noexec", {"nosuid", "nodev", "noexec"} <= options)
    teller.fact("ada's present home is untouched", not (machine.home("ada") / PAYLOAD).exists())
    teller.run("umount", "/look")


def _let_go(teller: Teller, machine: Machine) -> None:
    teller.chapter("A clean end: another machine may have the agents")
    machine.persist("sync", "--release")
    teller.note("without this, as after a fire, the other machine waits a day or says --take-over")


def _second_machine(teller: Teller, signi: Machine, vega: Machine, vox: Declared) -> None:
    teller.chapter("A second, empty machine: vega brings vox back from the store alone")
    for name in ("identities", "secrets"):
        shutil.copytree(f"/etc/nuketown/{name}", f"/vega/etc/nuketown/{name}")
    teller.note("vega has the spec, identities/, secrets/ and its own age key; nothing of signi's disk")
    shutil.move(signi.image, signi.image.with_suffix(".far-away"))
    _accounts("/vega")
    _disk(teller, vega)
    teller.chapter("First boot of vega")
    vega.boot()
    teller.same("what vox declared is there, byte for byte", vox, vega.declared("vox", *VOX_KEEPS))
    _verified(teller, vega, "vox", VOX)
