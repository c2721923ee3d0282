"""Rules of udev are made so that each matches its devices and nothing else, whatever a configuration holds."""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.nix.evaluated import CHECKOUT, evaluate, instantiate
from town import process

GOLDEN = CHECKOUT / "tests/golden/nix/devices.rules"
SETFACL = "/nix/store/0-acl/bin/setfacl"
ADA: list[dict[str, Any]] = [
    {"subsystem": "tty", "action": "add", "attrs": {"idVendor": "0483", "idProduct": "5740"}},
    {"subsystem": "usb", "attrs": {"product": "STM32  BOOTLOADER"}},
    {"subsystem": "hidraw", "attrs": {"idVendor": "1050", "idProduct": "0407|0410"}, "permission": "r"},
]
VOX: list[dict[str, Any]] = [
    {"subsystem": "usb", "attrs": {"product": "100% $env{x} 'é'", "bcdDevice": "0?1*"}, "group": "dialout"}
]
# One pair of udev(7): a key, perhaps with an attribute; an operator; a string, plain or with the escapes of C.
PAIR = re.compile(r'([A-Z]+)(?:\{([^}"]+)\})?(==|=|\+=)(?:"([^"\\\n]*)"|e"((?:[^"\\\n]|\\.)*)")')
HOSTILE = ['"', "\\", '", RUN+="/bin/sh -c id', "a\nKERNEL==", "\\\\", "%n$name", "tab\there", "x\\"]


def _rules(agents: dict[str, list[dict[str, Any]]]) -> str:
    usual = {"action": "add|bind", "permission": "rw", "group": "plugdev"}
    full = {name: [usual | device for device in devices] for name, devices in agents.items()}
    given = json.dumps(json.dumps(full)).replace("${", "\\${")
    expression = f'import {CHECKOUT}/nix/udev.nix {{ setfacl = "{SETFACL}"; }} (builtins.fromJSON {given})'
    found: str = json.loads(instantiate(expression).out)
    return found


def _pairs(line: str) -> list[tuple[str, str, str, str]]:
    """A rule as a strict reader takes it apart: pairs, separated by a comma and a blank, and nothing else."""
    found, at = [], 0
    while at < len(line):
        one = PAIR.match(line, at)
        assert one, line[at:]
        key, attribute, operator, plain, escaped = one.groups()
        value = plain if escaped is None else escaped.encode("latin-1", "backslashreplace").decode("unicode_escape")
        found.append((key, attribute or "", operator, value))
        at = one.end()
        if at < len(line):
            assert line[at : at + 2] == ", "
            at += 2
    return found


def test_the_rules_of_two_agents_are_the_golden_ones() -> None:
    assert _rules({"vox": VOX, "ada": ADA}) == GOLDEN.read_text()


def test_an_agent_without_devices_has_no_rule() -> None:
    assert _rules({"ada": [], "vox": []}) == ""


def test_attributes_of_a_usb_device_are_its_own_and_those_of_other_nodes_may_be_above() -> None:
    keys = {pairs[0][3]: {key for key, name, _, _ in pairs if name and key != "ENV"}
            for pairs in map(_pairs, GOLDEN.read_text().splitlines())}  # fmt: skip
    assert keys == {"tty": {"ATTRS"}, "usb": {"ATTR"}, "hidraw": {"ATTRS"}}


@pytest.mark.parametrize("value", HOSTILE)
def test_no_value_ends_its_match_or_becomes_another_rule(value: str) -> None:
    text = _rules({"ada": [{"subsystem": "usb", "attrs": {"product": value}, "group": value}]})
    assert text.endswith("\n")
    assert text.count("\n") == 1
    pairs = _pairs(text[:-1])
    assert [(key, value) for key, _, operator, value in pairs if operator == "+="] == [
        ("RUN", f"{SETFACL} -m u:ada:rw $env{{DEVNAME}}")
    ]
    assert ("ATTR", "product", "==", value) in pairs
    # Assigned, so what udev would put in the place of % and $ is doubled.
    assert ("GROUP", "", "=", value.replace("%", "%%").replace("$", "$$")) in pairs


def test_a_permission_that_would_be_another_argument_is_no_rule() -> None:
    usual = '{ subsystem = "usb"; attrs.a = "b"; action = "add"; group = "g"; permission = "rw /etc/shadow"; }'
    done = instantiate(f'import {CHECKOUT}/nix/udev.nix {{ setfacl = "s"; }} {{ ada = [ {usual} ]; }}', check=False)
    assert done.status != 0
    assert b"cannot stand in a udev rule" in done.err


def test_a_system_has_the_rules_and_the_groups_that_they_name() -> None:
    found = evaluate(
        "[ ./seed-like.nix ]".replace("./", f"{CHECKOUT}/tests/nix/"),
        "{ rules = config.services.udev.extraRules; groups = lib.attrNames config.users.groups; }",
    )
    assert "plugdev" in found["groups"]
    first, second = map(_pairs, found["rules"].splitlines())
    assert ("ATTRS", "idVendor", "==", "0483") in first
    assert ("ACTION", "", "==", "add") in first
    assert ("ATTR", "product", "==", "STM32  BOOTLOADER") in second
    assert re.search(r"-acl/bin/setfacl -m u:ada:rw \$env\{DEVNAME\}$", {one[0]: one[3] for one in second}["RUN"])


def test_a_system_whose_agents_have_no_devices_has_no_rule_and_no_group() -> None:
    modules = "[ { nuketown = { enable = true; agents.ada = { enable = true; uid = 1100; }; }; } ]"
    ask = "{ rules = config.services.udev.extraRules; groups = lib.attrNames config.users.groups; }"
    found = evaluate(modules, ask)
    assert found["rules"] == ""
    assert "plugdev" not in found["groups"]


def test_udev_itself_has_nothing_to_say_about_the_rules(tmp_path: Path) -> None:
    program = os.environ.get("UDEVADM") or shutil.which("udevadm")
    assert program, "tools/setup tests installs udev, which has udevadm"
    rules = tmp_path / "99-local.rules"
    rules.write_text(GOLDEN.read_text() + _rules({"eve": [{"subsystem": "usb", "attrs": {"product": 'a "b" \\ c'}}]}))
    if process.run([program, "verify", "--help"], check=False).status == 0:  # from systemd 254 on
        done = process.run([program, "verify", "--resolve-names=never", rules], check=False)
        assert (done.status, done.err) == (0, b"")
        return
    # Before, only a simulation reads rules. It is of a device that none of them matches, so nothing becomes of it.
    place = Path("/run/udev/rules.d")
    place.mkdir(parents=True, exist_ok=True)
    (place / rules.name).write_text(re.sub(r'GROUP="[a-z]+"', 'GROUP="root"', rules.read_text()))
    try:
        done = process.run([program, "test", "--action=change", "/sys/class/mem/null"], check=False)
    finally:
        (place / rules.name).unlink()
    said = (done.out + done.err).decode()
    assert f"Reading rules file: {place / rules.name}" in said
    assert f"{place / rules.name}:" not in said
