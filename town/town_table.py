"""The table [town] of a spec: what all agents of a machine share."""

import os
import re
from pathlib import Path

from town import grammar, recipients, store_url
from town.grammar import Wrong
from town.spec import WAIT, Btrfs, HostKey, Human, KeepHomes, KeepSnapshots, Recipients, Sync, Town
from town.table import Convert, Place, Table, array, pairs, text, whole

AGENTS_DIR, PERSIST_DIR = Path("/agents"), Path("/persist")
NONE = "none"


def town(value: object, place: Place, file: Path) -> Town:
    """All of [town]; every key has a default. `file`: relative paths are judged from where the spec lies."""
    with Table(value, place, "[town]") as table:
        domain = table.take("domain", text(grammar.domain, '"signi.local"'), None) or host_domain()
        agents_dir = table.take("agents_dir", text(_place, '"/agents"'), AGENTS_DIR)
        persist_dir = table.take("persist_dir", text(_place_or_none, '"/persist" or "none"'), PERSIST_DIR)
        made = Town(
            domain=domain,
            agents_dir=agents_dir,
            persist_dir=persist_dir,
            store=table.take("store", text(_store, '"file:///var/lib/nuketown/store" or "none"'), None),
            sops_file=table.take("sops_file", text(_beside, '"secrets/agents.yaml"'), Path("secrets/agents.yaml")),
            recovery_file=table.take("recovery_file", text(_beside, '"secrets/r.yaml"'), Path("secrets/recovery.yaml")),
            human=table.take("human", lambda found, at: _human(found, at, domain), None),
            store_credentials=table.take("store_credentials", text(_absolute, '"/run/secrets/nuketown-s3"'), None),
            recipients=table.take("recipients", _recipients, None),
            host_key=table.take("host_key", _host_key, HostKey()),
            btrfs=table.take("btrfs", _btrfs, None),
            sync=table.take("sync", _sync, Sync()),
            machine=table.take("machine", text(_machine, '"0123456789abcdef0123456789abcdef"'), None),
        )
        keep = table.take("keep", _keep_homes, None)
        if keep is not None and made.btrfs is not None:
            place.key("keep").wrong("is for a town without [town.btrfs]", "write it as town.btrfs.keep")
        made = made._replace(keep=keep or KeepHomes())
    _places(made, place, file)
    return made


def host_domain() -> str:
    """`<hostname>.local`, whatever the kernel's host name is: its first label, made a label where it is none."""
    label = re.sub("[^a-z0-9-]+", "-", os.uname().nodename.partition(".")[0].lower())[:63].strip("-")
    return f"{label or 'nuketown'}.local"


def _place(found: str) -> Path:
    return Path(grammar.place(found))


def _place_or_none(found: str) -> Path | None:
    return None if found == NONE else _place(found)


def _absolute(found: str) -> Path:
    if grammar.absolute(found) == "/":
        raise Wrong("names /, which is no file", "name the file")
    return Path(found)


def _beside(found: str) -> Path:
    return Path(grammar.beside(found))


def _store(found: str) -> str | None:
    if found == NONE:
        return None
    store_url.parse(found)
    return found


def _machine(found: str) -> str:
    if not re.fullmatch("[0-9a-f]{32}", found):
        raise Wrong(
            "is not 32 hex digits in lower case", "leave it out: each machine makes its own; or: openssl rand -hex 16"
        )
    return found


def _human(value: object, place: Place, domain: str) -> Human:
    with Table(value, place, 'human = { user = "josh" }') as table:
        user = table.need("user", text(grammar.unix_name, '"josh"'), "human", "name the account of the person")
        return Human(
            user,
            table.take("name", text(grammar.person_name, '"Josh"'), user.capitalize()),
            table.take("email", text(grammar.email, '"josh@signi.local"'), f"{user.lower()}@{domain}"),
        )


def _recipients(value: object, place: Place) -> Recipients:
    recipient = text(recipients.recipient, '"age1…"')
    with Table(value, place, "[town.recipients]") as table:
        before = len(place.problems)
        humans = table.take("humans", array(recipient, '["age1…"]'), ())
        if not humans and len(place.problems) == before:
            place.key("humans").wrong(
                "names no human: nobody could open the secrets when the machine is lost",
                'write humans = ["age1…"] with the public half of your own key',
            )
        return Recipients(humans, table.take("hosts", pairs(grammar.host_name, recipient, '{ signi = "age1…" }'), ()))


def _host_key(value: object, place: Place) -> HostKey:
    with Table(value, place, "[town.host_key]") as table:
        return HostKey(
            table.take("age", text(_absolute, '"/var/lib/nuketown/age.key"'), HostKey().age),
            table.take("ssh", text(_absolute, '"/etc/ssh/ssh_host_ed25519_key"'), HostKey().ssh),
            table.take("gnupg", text(_absolute, '"/var/lib/nuketown/gnupg"'), None),
        )


def _btrfs(value: object, place: Place) -> Btrfs:
    with Table(value, place, "[town.btrfs]") as table:
        subvolume: Convert[str] = text(grammar.subvolume, '"@agents"')
        made = Btrfs(
            table.need(
                "device", text(grammar.device, '"LABEL=agents"'), "/", "write a filesystem UUID, LABEL=… or a path"
            ),
            table.take("subvolume", subvolume, "@agents"),
            table.take("blank", subvolume, "@agents-blank"),
            table.take("keep", _keep_homes, KeepHomes()),
            table.take("wait", text(grammar.wait, f'"{WAIT}"'), WAIT),
        )
        _names_at_the_top(made, place)
        return made


def _names_at_the_top(btrfs: Btrfs, place: Place) -> None:
    """Two things of one name at the top level: one of them would be wiped as the other."""
    suffixes = ("", "-old", "-snapshots", "-ballast", "-ballast.new", ".new")
    ours = {btrfs.subvolume + suffix: suffix for suffix in suffixes}
    if btrfs.blank in ours:
        what = "the subvolume" if ours[btrfs.blank] == "" else f"what lies beside it as *{ours[btrfs.blank]}"
        place.key("blank").wrong(f"has the name of {what}", 'choose another, such as "@agents-blank"')
    elif btrfs.subvolume == f"{btrfs.blank}.new":
        place.key("subvolume").wrong("has the name under which the blank one is made", "choose another")


def _keep_homes(value: object, place: Place) -> KeepHomes:
    with Table(value, place, 'keep = { homes = 5, days = 14, free = "10%" }') as table:
        return KeepHomes(
            table.take("homes", whole(1, 10_000), KeepHomes().homes),
            table.take("days", whole(1, 36_500), KeepHomes().days),
            table.take("free", text(grammar.free, '"10%"'), KeepHomes().free),
        )


def _sync(value: object, place: Place) -> Sync:
    with Table(value, place, "[town.sync]") as table:
        return Sync(
            table.take("every", text(grammar.every, '"15min"'), Sync().every),
            table.take("keep", _keep_snapshots, KeepSnapshots()),
        )


def _keep_snapshots(value: object, place: Place) -> KeepSnapshots:
    usual = KeepSnapshots()
    with Table(value, place, "keep = { last = 48, daily = 14 }") as table:
        return KeepSnapshots(
            last=table.take("last", whole(1, 1_000_000), usual.last),  # the newest state always stays
            hourly=table.take("hourly", whole(0, 1_000_000), usual.hourly),
            daily=table.take("daily", whole(0, 1_000_000), usual.daily),
            weekly=table.take("weekly", whole(0, 1_000_000), usual.weekly),
            monthly=table.take("monthly", whole(0, 1_000_000), usual.monthly),
            yearly=table.take("yearly", whole(0, 1_000_000), usual.yearly),
        )


def _places(town: Town, place: Place, file: Path) -> None:
    """Where things may not lie relative to each other: an agent changes what is in its home."""
    agents, kept = town.agents_dir, town.persist_dir
    if kept is not None and (agents.is_relative_to(kept) or kept.is_relative_to(agents)):
        what = "is agents_dir, or one of the two lies inside the other"
        place.key("persist_dir").wrong(what, "give each a directory of its own")
    folder = _folder(file)
    sops_file, recovery_file = folder / town.sops_file, folder / town.recovery_file
    files: dict[str, Path | None] = {
        "sops_file": sops_file,
        "recovery_file": recovery_file,
        "store_credentials": town.store_credentials,
        "host_key.age": town.host_key.age,
        "host_key.ssh": town.host_key.ssh,
        "host_key.gnupg": town.host_key.gnupg,
        "btrfs.device": Path(town.btrfs.device) if town.btrfs and town.btrfs.device.startswith("/") else None,
    }
    for key, path in files.items():
        if path is not None and (area := _of_agents(town, path)):
            _at(place, key).wrong(f"lies in {area}, where agents write", "name a place that only root can change")
    if sops_file.is_relative_to(recovery_file) or recovery_file.is_relative_to(sops_file):
        place.key("recovery_file").wrong("is sops_file too: hosts could open what is for humans only", "name another")
    if town.store is not None:
        _store_place(town, place)


def _folder(file: Path) -> Path:
    try:
        return Path(os.path.abspath(file)).parent
    except OSError:  # the current directory is gone
        return file.parent


def _at(place: Place, key: str) -> Place:
    for part in key.split("."):
        place = place.key(part)
    return place


def _of_agents(town: Town, path: Path) -> str:
    if path.is_relative_to(town.agents_dir):
        return "agents_dir"
    return "persist_dir" if town.persist_dir and path.is_relative_to(town.persist_dir / "agents") else ""


def _store_place(town: Town, place: Place) -> None:
    assert town.store is not None
    store = store_url.parse(town.store)
    if not isinstance(store, store_url.Directory):
        return
    used = [town.agents_dir]
    if town.persist_dir is not None:
        used += [town.persist_dir / "agents", town.persist_dir / ".nuketown"]
    if any(store.path.is_relative_to(one) or one.is_relative_to(store.path) for one in used):
        cure = "name a directory beside them, better on another disk"
        place.key("store").wrong("overlaps the homes or the data that it is a copy of", cure)
