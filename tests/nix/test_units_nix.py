"""The units of a town on NixOS: built as the derivation builds them, and asked about with systemd's own tools."""

import re
from pathlib import Path
from typing import Any

import pytest

from persist import units
from tests.nix.builtunits import Built, build, rendered
from tests.nix.evaluated import evaluate

TOWN = """
  enable = true;
  domain = "signi.local";
  agents.ada = { enable = true; uid = 51100; persist = [ "projects" ]; };
  agents.b-x = { enable = true; uid = 51101; persist = [ ]; };
  agents.old = { enable = false; uid = 51102; };
"""
BTRFS = 'btrfsDevice = "38b243a0-c875-4758-8998-cc6c6a4c451e";'
S3 = 'store = "s3://agents/signi";'
TOWNS = {
    "with btrfs and a bucket": BTRFS + S3,
    "with a store that is a directory": BTRFS + 'store = "file:///srv/store";',
    "with other directories": BTRFS + S3 + 'agentsDir = "/srv/the agents"; persistDir = "/srv/.kept";',
    "without a store": BTRFS,
    "without btrfs": S3,
    "without anything": "",
    "without a persistDir": S3 + "persistDir = null;",
    "whose agent keeps a file": 'agents.ada.persist = lib.mkForce [ { path = ".netrc"; type = "file"; } ];',
    "whose agent keeps a cache": S3 + 'agents.ada.persist = lib.mkForce [ { path = "models"; class = "cache"; } ];',
    "whose agent sends a login": S3
    + 'agents.ada.persist = lib.mkForce [ { path = ".x"; class = "credential"; upload = true; } ];',
}


def modules(keys: str, system: str = "") -> str:
    return f"[ ({{ lib, ... }}: {{ nuketown = lib.mkMerge [ {{ {TOWN} }} {{ {keys} }} ]; {system} }}) ]"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return build(tmp_path_factory.mktemp("town"), modules(BTRFS + S3))


@pytest.mark.parametrize("keys", TOWNS.values(), ids=TOWNS.keys())
def test_systemd_finds_nothing_wrong_and_the_same_is_wanted_as_elsewhere(tmp_path: Path, keys: str) -> None:
    found = build(tmp_path, modules(keys))
    assert found.verify() == ""
    assert wanted(found) == {link for link, _ in units.links(rendered(found)) if not link.endswith(".mount")}


def wanted(built: Built) -> set[str]:
    """Every link that an option or a drop-in of links stands for, as `systemctl enable` would make it."""
    found = {f"{target}.target.wants/{name}" for target, names in built.said["wants"].items() for name in names}
    for path in built.units.glob("*.d/nuketown-links.conf"):
        pairs = [line.split("=") for line in path.read_text().splitlines() if "=" in line and line[0] != "#"]
        found |= {f"{path.parent.name.removesuffix('.d')}.{key.lower()}/{name}" for key, name in pairs}
    return found


def test_every_program_that_a_unit_names_without_a_slash_is_in_a_package_that_is_searched(built: Built) -> None:
    named = set()
    for service in built.units.glob("*.service"):
        said = (built.units / f"{service.name}.d/nuketown-nixos.conf").read_text()
        places = re.findall(r"(?m)^ExecSearchPath=(.*)$", said)[0].split(":")
        held = {path.name for place in places for path in Path(place).iterdir()}
        lines = re.findall(r"(?m)^Exec\w+=(.*)$", service.read_text())
        words = [line.split()[0] for line in lines]
        # What a shell in a unit calls stands first, or after `if` or `then`.
        words += [word for line in lines for word in re.findall(r"(?:'|then )(\w+) ", line.replace("if ", ""))]
        called = {word for word in words if "/" not in word and word not in ("shift", "exec")}
        assert called <= held, service.name
        named |= called
    assert named == {"mount", "sh", "findmnt", "umount", "true", "grep", "rm"}


def test_units_are_those_of_every_other_machine_but_for_their_first_line(built: Built) -> None:
    for unit in rendered(built):
        if not unit.name.endswith(".mount"):
            said = (built.units / unit.name).read_text().replace(str(built.at.parent / "package/bin"), "/usr/bin")
            assert said.partition("\n")[2] == unit.text.partition("\n")[2]
            assert "persist install" not in said


def test_the_cover_is_no_unit_of_the_package_and_the_package_is_systemds(built: Built) -> None:
    assert list(built.units.glob("*.mount")) == []
    assert built.said["packages"] == [built.said["units"]]


def test_a_switch_restarts_nothing_but_the_homes_and_reloads_the_sweep(built: Built) -> None:
    services = list(built.units.glob("*.service"))
    assert len(services) == 14
    for service in services:
        said = "".join(path.read_text() for path in sorted(built.units.glob(f"{service.name}.d/*.conf")))
        last = [line for line in said.splitlines() if line.startswith("X-RestartIfChanged=")][-1]
        assert last == f"X-RestartIfChanged={'true' if service.name == 'nuketown-homes.service' else 'false'}"
        assert ("\nX-ReloadIfChanged=true\n" in said) is (service.name == "nuketown-sweep.service")


def test_another_spec_gives_an_agent_that_is_new_its_home_and_sweeps_for_it(built: Built) -> None:
    """What a switch restarts or reloads is what says otherwise than before: both name the spec, by its store path."""
    trigger = f"\nX-Restart-Triggers={built.said['env']['town']}\n"
    files = {path.parent.name for path in built.units.glob("*.d/*.conf") if trigger in path.read_text()}
    assert files == {"nuketown-homes.service.d", "nuketown-sweep.service.d"}
    # What is reloaded does what it did at its start, and leaves alone who is here.
    lines = (built.units / "nuketown-sweep.service").read_text().splitlines()
    start = next(line for line in lines if line.startswith("ExecStart="))
    assert start.endswith(" sweep --missing")
    assert start.replace("ExecStart", "ExecReload") in lines


def test_a_switch_takes_an_agent_away_by_its_target_alone(built: Built) -> None:
    for service in built.units.glob("*.service"):
        said = "".join(path.read_text() for path in built.units.glob(f"{service.name}.d/*.conf"))
        assert ("X-StopOnRemoval=false" in said) is ("@." in service.name)
    for name in ("identity", "open", "leave", "restore", "bind"):
        text = (built.units / f"nuketown-{name}@.service").read_text()
        assert "\nPartOf=nuketown-agent@%i.target\n" in text


def test_nothing_requires_the_homes_so_their_restart_ends_nobody(built: Built) -> None:
    for path in built.units.rglob("*.*"):
        if path.is_file():
            held = [line for line in path.read_text().splitlines() if line.startswith(("Requires=", "BindsTo="))]
            assert "nuketown-homes.service" not in " ".join(held)


def test_each_agent_has_a_file_that_goes_when_it_does(built: Built) -> None:
    """A switch that finds neither this file nor one of that name before looks at the template, which stays."""
    found = {path.name: path for path in built.units.glob("nuketown-agent@*.target")}
    assert set(found) == {"nuketown-agent@.target", "nuketown-agent@ada.target", "nuketown-agent@b-x.target"}
    assert len({path.read_text() for path in found.values()}) == 1
    assert not any(path.is_symlink() for path in found.values())


def test_the_package_holds_the_list_of_agents_and_what_the_hook_reads(built: Built) -> None:
    assert (built.at / "etc/nuketown/agents").read_text() == "ada\nb-x\n"
    conf = (built.at / "etc/nuketown/rollback.conf").read_text()
    assert "NUKETOWN_DEVICE='UUID=38b243a0-c875-4758-8998-cc6c6a4c451e'" in conf
    assert "persist install" not in conf


def test_a_container_has_no_initrd_so_the_unit_runs_the_hook(tmp_path: Path) -> None:
    found = build(tmp_path, modules(BTRFS, "boot.isContainer = true;"))
    assert found.verify() == ""
    said = (found.units / "nuketown-rollback.service").read_text()
    assert said.count("ExecStart=") == 2


def test_nothing_is_left_of_a_town_that_is_switched_off() -> None:
    ask = "{ p = config.systemd.packages; t = config.systemd.targets; u = config.users.users ? ada; }"
    found = evaluate(modules("enable = lib.mkForce false;" + BTRFS), ask)
    assert found == {"p": [], "t": {}, "u": False}


def test_home_managers_units_fit_between_ours_without_a_cycle(tmp_path: Path) -> None:
    given = modules(BTRFS + S3, "home-manager.useGlobalPkgs = true;")
    services = evaluate(given, "config.systemd.services", needs=["HOME_MANAGER"])
    found = build(tmp_path, modules(BTRFS + S3))
    for name in ("home-manager-ada", "home-manager-b-x".replace("-x", "\\x2dx")):
        put(found, name, services[name])
    assert {"home-manager-ada.service", "home-manager-b\\x2dx.service"} <= set(found.names)
    assert found.verify() == ""
    # The same with a cycle in it is found.
    put(found, "home-manager-ada", services["home-manager-ada"] | {"after": ["nuketown-open@ada.service"]})
    assert "ordering cycle" in found.verify()


def put(built: Built, name: str, service: dict[str, Any]) -> None:
    """A service of the configuration as NixOS writes it (nixos/lib/systemd-lib.nix), with a program that is here."""
    keys = {"after": "After", "before": "Before", "requires": "Requires", "wants": "Wants", "partOf": "PartOf"}
    lines = ["[Unit]", *(f"{said}={' '.join(service[key])}" for key, said in keys.items() if service[key])]
    lines += [f"{key}={value}" for key, value in service["unitConfig"].items()]
    lines += ["[Service]", "ExecStart=/usr/bin/true", "ExecReload=/usr/bin/true"]
    lines += [f"{key}={value}" for key, value in service["serviceConfig"].items() if not key.startswith("Exec")]
    (built.units / f"{name}.service").write_text("\n".join([*lines, ""]))
    for target in service["requiredBy"]:
        folder = built.units / f"{target}.requires"
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.service").unlink(missing_ok=True)
        (folder / f"{name}.service").symlink_to(f"../{name}.service")
