"""What an agent is told about itself: one text in sections, and the forms in which each runtime reads it.

Every string of the spec stands in a code span or a fenced block, so no description can end its section and forge the
next one. `prompts.extra` is Markdown of the town's owner: it stands last, as it is.
"""

import unicodedata
from collections.abc import Iterator

from identity.badtext import BadText
from identity.environment import secret_files
from identity.halves import Halves
from identity.markdown import block, code
from identity.places import SECRETS
from town import presets
from town.spec import Agent, Device, Persist, Spec
from town.terminal import shown

# What OpenAI's documentation says that Codex reads of an AGENTS.md (project_doc_max_bytes), in bytes. Its source reads
# the one in CODEX_HOME whole; a version that keeps to its documentation would pass over the end.
CODEX_READS = 32 * 1024
_SUMMARY = 200  # characters of the description that the frontmatter repeats


def agents_md(spec: Spec, agent: Agent, halves: Halves) -> str:
    """The whole text, as AGENTS.md and its kin hold it."""
    sections = [f"# {agent.name}", *_sections(spec, agent, halves)]
    return "\n\n".join(sections) + "\n"


def claude_md() -> str:
    """CLAUDE.md: Claude Code does not read AGENTS.md, but imports it."""
    return "@AGENTS.md\n"


def claude_agent(spec: Spec, agent: Agent, halves: Halves) -> str:
    """The agent definition `agents/<name>.md`: YAML frontmatter, then the text. Raises BadText."""
    front = {"name": agent.prompts.name, "description": _summary(spec, agent)}
    if agent.prompts.tools:
        front["tools"] = ", ".join(agent.prompts.tools)
    text = f"---\n{_yaml(front)}---\n\n{agents_md(spec, agent, halves)}"
    _read_back(text, front)
    return text


def frontmatter(text: str, version: tuple[int, int] = (1, 2)) -> object:
    """The YAML between the first two lines `---` of a definition, as a reader of that YAML version sees it."""
    from ruamel.yaml import YAML

    _, _, rest = text.partition("---\n")
    head, _, _ = rest.partition("\n---\n")
    reader = YAML(typ="safe", pure=True)
    reader.version = version
    return reader.load(head)


def _summary(spec: Spec, agent: Agent) -> str:
    lines = (line.strip() for line in agent.description.splitlines())
    first = next((line for line in lines if line), "")
    # One line of a list that people look at: what turns text around, or is not seen, stays in the section About You.
    first = "".join(one for one in first if unicodedata.category(one) != "Cf")
    about = first if len(first) <= _SUMMARY else first[:_SUMMARY].rstrip() + "…"
    return f"{agent.git.name}, {agent.role} agent of {spec.town.domain}. {about}".rstrip()


def _yaml(front: dict[str, str]) -> str:
    from io import StringIO

    from ruamel.yaml import YAML
    from ruamel.yaml.scalarstring import DoubleQuotedScalarString

    writer = YAML(pure=True)
    writer.width = 1 << 30
    out = StringIO()
    # Quoted always: a plain `no` or `1e3` is no string to a reader of YAML 1.1.
    writer.dump({key: DoubleQuotedScalarString(value) for key, value in front.items()}, out)
    return out.getvalue()


def _read_back(text: str, front: dict[str, str]) -> None:
    # Claude Code skips a definition without a word when its YAML does not parse or lacks name or description.
    for version in ((1, 2), (1, 1)):
        if frontmatter(text, version) != front:
            raise BadText(
                f"the definition of {shown(front['name'])} would not be read back as it was written",
                hint="take unusual characters out of role, description and prompts in the spec",
            )


def _sections(spec: Spec, agent: Agent, halves: Halves) -> Iterator[str]:
    yield _section("Identity", *_identity(spec, agent, halves))
    if agent.description.strip():
        yield _section("About You", "The words of whoever made you:\n", block(agent.description))
    yield _section("Environment", *_environment(spec, agent))
    if agent.sudo:
        yield _section("Sudo", _sudo(spec))
    if agent.devices:
        yield _section("Hardware Access", "udev gives you these devices:\n", *map(_device, agent.devices))
    yield _section("Collaboration", *_collaboration(spec, agent))
    if agent.prompts.extra.strip():
        yield _section("Extra", agent.prompts.extra.strip("\n"))


def _section(title: str, *lines: str) -> str:
    return f"## {title}\n\n" + "\n".join(lines)


def _identity(spec: Spec, agent: Agent, halves: Halves) -> Iterator[str]:
    yield f"- Name: {code(agent.git.name)}, account {code(agent.name)}, uid {agent.uid}"
    yield f"- Role: {code(agent.role)}"
    yield f"- Mail: {code(agent.git.email)}"
    yield f"- Town: {code(spec.town.domain)}"
    yield "- Facts for programs: `~/.config/nuketown/identity.toml`"
    kinds = {"gpg": ("OpenPGP", halves.gpg), "ssh": ("SSH", halves.ssh)}
    if agent.git.signing == "none":
        yield "- Your commits are not signed."
        return
    kind, key = kinds[agent.git.signing]
    if key is not None:
        yield f"- Your commits are signed with your own {kind} key; git is set up for it."
    else:
        yield f"- Your {kind} key was revoked. git refuses to commit until a person gives you another one: ask for it."


def _environment(spec: Spec, agent: Agent) -> Iterator[str]:
    yield f"Your home is {code(str(spec.home(agent)))}. It is emptied at every boot of the machine."
    if agent.persist:
        yield "\nWhat comes back, by its path in the home:\n"
        yield from (f"- {code(str(entry.path))}: {_kept(entry)}" for entry in agent.persist)
        yield from _synced(spec, agent)
        yield "\nEverything else is gone after a reboot: put what matters there, or commit and push it."
    else:
        yield "\nNothing in it comes back: commit and push what matters."
    yield "Your own configuration (prompts, git, keys) is written anew at each boot; changes to it do not last."
    yield from _secrets(agent)


def _kept(entry: Persist) -> str:
    where = {"bind": "on this machine", "store": "in the store", "both": "on this machine and in the store"}[entry.via]
    if entry.class_ == "cache":
        return "a cache, kept on this machine only"
    said = f"kept {where}"
    if entry.class_ == "credential":
        said = f"one living copy, kept {where if entry.synced else 'on this machine'}"
    if entry.copied:
        said += " as it was at the last sync or shutdown (one file, at most 16 MiB)"
    if not entry.required and entry.via == "store":
        said += "; missing when the store could not be reached at boot"
    return said + _apart(entry)


def _apart(entry: Persist) -> str:
    """What of a program's directory does not go where the rest of it goes."""
    if entry.preset is None or not entry.synced:
        return ""
    preset = presets.preset(entry.preset)
    here = (*(() if entry.upload else preset.credential), *preset.cache, *preset.regenerated)
    return f"; never in the store: {_paths(here)}" if here else ""


def _paths(paths: tuple[object, ...]) -> str:
    return ", ".join(code(str(path)) for path in paths)


def _synced(spec: Spec, agent: Agent) -> Iterator[str]:
    if any(entry.synced for entry in agent.persist):
        every = code(spec.town.sync.every)
        yield f"\nThe store has it as it was at the last sync: there is one every {every}, and one at shutdown."


def _secrets(agent: Agent) -> Iterator[str]:
    if not agent.secrets.extra:
        return
    variables: dict[str, list[str]] = {}
    for variable, file in secret_files(agent).items():
        variables.setdefault(file, []).append(code(variable))
    yield "\nSecrets that you may read, never to be printed, committed or sent on:\n"
    for name, _ in agent.secrets.extra:
        path = str(SECRETS / agent.name / name)
        yield f"- {code(path)}{_in_environment(variables.get(path, []))}"


def _in_environment(variables: list[str]) -> str:
    return f", in your environment as {' and '.join(variables)}" if variables else ""


def _sudo(spec: Spec) -> str:
    who = code(spec.town.human.name) if spec.town.human else "a person"
    return (
        f"You have no password. `sudo COMMAND` asks {who}, who sees the whole command and allows or refuses it.\n"
        "Ask for one complete command at a time, say first why it is needed, and take a refusal as an answer."
    )


def _device(device: Device) -> str:
    attributes = ", ".join(f"{code(key)} = {code(value)}" for key, value in device.attrs)
    return f"- {code(device.subsystem)} with {attributes}: {code(device.permission)}"


def _collaboration(spec: Spec, agent: Agent) -> Iterator[str]:
    yield "Work in your own clones, on branches; push them and say what they are for."
    yield "A commit that somebody else makes with your help carries this line:\n"
    yield block(f"Co-authored-by: {agent.git.name} <{agent.git.email}>")
    human = spec.town.human
    if human is not None:
        yield f"\nA commit of yours in which {code(human.name)} had a hand carries this one:\n"
        yield block(f"Co-authored-by: {human.name} <{human.email}>")
