"""The variables of an agent's programs, as systemd's user manager reads them and as login shells do."""

import shlex
from collections.abc import Mapping

from identity.places import SECRETS
from town import presets
from town.spec import Agent, Spec


def environment(spec: Spec, agent: Agent) -> dict[str, str]:
    """The variables that the agent's presets ask for, so that a program finds the directory that persists."""
    variables: dict[str, str] = {}
    for entry in agent.persist:
        if entry.preset is not None:
            variables |= presets.preset(entry.preset).environment(spec.home(agent) / entry.path)
    return dict(sorted(variables.items()))


def secret_files(agent: Agent) -> dict[str, str]:
    """Which file holds the value of each variable of `secrets.env`."""
    return {name: f"{SECRETS}/{agent.name}/{file}" for name, file in sorted(agent.secrets.env)}


def environment_d(variables: Mapping[str, str], header: str) -> str:
    """environment.d(5), for the agent's own services."""
    lines = (f'{name}="{_escaped(value)}"' for name, value in variables.items())
    return "\n".join([f"# {header}", *lines]) + "\n"


def _escaped(value: str) -> str:
    # Read twice: quotes are taken off first, then a dollar begins a variable, with a backslash before it or not.
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("`", "\\`").replace("$", "$$")


def environment_sh(variables: Mapping[str, str], secrets: Mapping[str, str], header: str) -> str:
    """For login shells: POSIX sh. `secrets` are read from their files when the shell starts."""
    lines = [f"# {header}", "# For login shells: . ~/.config/nuketown/environment.sh"]
    lines += [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
    for name, file in secrets.items():
        quoted = shlex.quote(file)
        lines.append(f"if [ -r {quoted} ]; then {name}=$(cat {quoted}); export {name}; fi")
    return "\n".join(lines) + "\n"
