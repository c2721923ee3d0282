"""A table [agents.NAME] of a spec: one agent. Its parts: `persist_table`, `prompts_table`, `device_table`."""

from pathlib import PurePosixPath
from typing import cast

from town import grammar
from town.device_table import device
from town.grammar import Wrong, quoted
from town.persist_table import persist
from town.prompts_table import prompts
from town.spec import Agent, Git, Secrets, Signing, Town
from town.table import Place, Table, array, flag, kind, pairs, text, whole

UIDS = (1000, 60000)
USUAL_ROLE = "agent"


def agent(value: object, place: Place, name: str, town: Town) -> Agent:
    """One agent. Only `uid` may not be left out."""
    with Table(value, place, f"[{place.where}] with uid = …") as table:
        uid = table.need("uid", whole(*UIDS), 0, f"give each agent a number of its own, {UIDS[0]}-{UIDS[1]}")
        role = table.take("role", text(grammar.word, '"software"'), USUAL_ROLE)
        git = table.take("git", lambda found, at: _git(found, at, name, town), _git({}, place, name, town))
        return Agent(
            name=name,
            uid=uid,
            gid=table.take("gid", whole(*UIDS), uid),
            role=role,
            description=table.take("description", text(grammar.prose, '"Thinks before acting."'), ""),
            persist=table.take("persist", lambda found, at: persist(found, at, name, town), ()),
            git=git,
            secrets=table.take(
                "secrets", lambda found, at: _secrets(found, at, name, git.signing), _usual_secrets(name, git.signing)
            ),
            sudo=table.take("sudo", flag, False),
            devices=table.take("devices", array(device, '[{ subsystem = "usb", attrs = { product = "…" } }]'), ()),
            prompts=table.take(
                "prompts", lambda found, at: prompts(found, at, name, role), prompts({}, place, name, role)
            ),
            delivered=table.take("delivered", array(text(_delivered, '".config/git/config"'), '[".ssh"]'), ()),
            quota=table.take("quota", text(grammar.quota, '"20G"'), None),
        )


def _delivered(found: str) -> PurePosixPath:
    return grammar.persist_path(found)


def _git(value: object, place: Place, name: str, town: Town) -> Git:
    with Table(value, place, 'git = { signing = "ssh" }') as table:
        return Git(
            table.take("name", text(grammar.person_name, '"Ada"'), name.capitalize()),
            table.take("email", text(grammar.email, '"ada@signi.local"'), f"{name}@{town.domain}"),
            cast(Signing, table.take("signing", _signing, "gpg")),
        )


def _signing(value: object, _: Place) -> str:
    if value is False:
        return "none"
    if isinstance(value, str) and value in ("gpg", "ssh"):
        return value
    found = quoted(value) if isinstance(value, str) else "true" if value is True else kind(value)
    raise Wrong(f"{found} is no way to sign", 'write "gpg", "ssh" or false (without quotes)')


def _usual_secrets(name: str, signing: Signing) -> Secrets:
    return Secrets(f"{name}/ssh-key", f"{name}/gpg-key" if signing == "gpg" else None)


def _secrets(value: object, place: Place, name: str, signing: Signing) -> Secrets:
    usual = _usual_secrets(name, signing)
    path = text(grammar.secret_path, f'"{_plain(name)}/ssh-key"')
    with Table(value, place, "secrets = { extra = { … } }") as table:
        made = Secrets(
            table.take("ssh_key", path, usual.ssh_key),
            table.take("gpg_key", path, usual.gpg_key),
            table.take("extra", pairs(grammar.file_name, path, '{ anthropic-key = "ada/anthropic-key" }'), ()),
            table.take(
                "env", pairs(grammar.own_variable, text(grammar.file_name, '"anthropic-key"'), '{ KEY = "name" }'), ()
            ),
            table.take("gpg_encryption", flag, False),
        )
        if made.gpg_encryption and made.gpg_key is None:
            cure = f'name one: gpg_key = "{_plain(name)}/gpg-key"'
            place.key("gpg_encryption").wrong("wants a subkey of an OpenPGP key, and there is none", cure)
        if not table.has("extra") or isinstance(table.tree["extra"], dict):
            _refuse_unknown_names(made, list(table.tree.get("extra", {})), place)
    return made


def _plain(name: str) -> str:
    """The name for an example; a word that stands for one where it is refused: no message repeats what was wrong."""
    try:
        return grammar.agent_name(name)
    except Wrong:
        return "NAME"


def _refuse_unknown_names(secrets: Secrets, names: list[str], place: Place) -> None:
    from difflib import get_close_matches

    for variable, name in secrets.env:
        if name not in names:
            near = get_close_matches(name, names[:100], n=1)
            cure = (
                f"did you mean {quoted(near[0])}?"
                if near
                else "add it to secrets.extra, with its path in the SOPS file"
            )
            place.key("env").key(variable).wrong("names nothing that secrets.extra has", cure)
