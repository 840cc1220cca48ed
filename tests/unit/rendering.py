"""Renders the templates of roles as Ansible does, without a host, and reads the units that come out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import init_plugin_loader
from ansible.template import Templar, trust_as_template

REPOSITORY = Path(__file__).resolve().parents[2]
ROLES = REPOSITORY / "roles"
ROLE_NAMES = sorted(path.parents[1].name for path in ROLES.glob("*/tasks/main.yml"))
#: Systemd's targets that our units name; a root for systemd-analyze needs a file for each.
TARGETS = ("sysinit", "basic", "shutdown", "network", "network-online", "multi-user", "sockets", "swap")

# Lookups are found only after this.
init_plugin_loader([])


def trusted(value: Any) -> Any:
    """Mark every string in `value` as a template, as Ansible does for what it reads from a role."""
    if isinstance(value, str):
        return trust_as_template(value)
    if isinstance(value, dict):
        return {key: trusted(item) for key, item in value.items()}
    if isinstance(value, list):
        return [trusted(item) for item in value]
    return value


def read_yaml(path: Path) -> Any:
    """Return the content of a YAML file."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def role_file(role: str, path: str) -> Any:
    """Return the content of a YAML file of a role; nothing where the role has no such file."""
    file = ROLES / role / path
    return (read_yaml(file) if file.exists() else None) or {}


def options(role: str) -> dict[str, Any]:
    """Return the argument specification of a role: option by variable name."""
    return dict(role_file(role, "meta/argument_specs.yml")["argument_specs"]["main"]["options"])


def group_vars() -> dict[str, Any]:
    """Return what group_vars/all hands to the roles, unevaluated."""
    found: dict[str, Any] = {}
    for path in sorted((REPOSITORY / "group_vars" / "all").glob("*.yml")):
        found |= read_yaml(path)
    return found


def templar(role: str, wired: bool = False, **settings: Any) -> Templar:
    """Return Ansible's template engine with the variables that a role has.

    Args:
        role: name of the role.
        wired: whether group_vars/all counts too, as it does in the playbooks.
        settings: what the inventory or --extra-vars set.
    """
    variables = role_file(role, "defaults/main.yml")
    variables |= group_vars() if wired else {}
    variables |= role_file(role, "vars/main.yml")
    here = str(ROLES / role)
    given = {"ansible_managed": "Ansible managed", "role_path": here, "ansible_search_path": [here], **settings}
    # An inventory of one host.
    given = {"inventory_hostname": "probe", "groups": {}, "ansible_check_mode": False, **given}
    everything = trusted(variables) | given
    return Templar(DataLoader(), {"hostvars": {"probe": everything}, **everything})


def render(role: str, template: str, wired: bool = False, **settings: Any) -> str:
    """Render a template as the roles do, by a lookup; the arguments are those of `templar`."""
    expression = f"{{{{ lookup('ansible.builtin.template', '{template}') }}}}"
    return str(templar(role, wired, **settings).template(trust_as_template(expression)))


def value_of(role: str, name: str, wired: bool = False, **settings: Any) -> Any:
    """Return what a variable comes out as; the arguments are those of `templar`."""
    return templar(role, wired, **settings).template(trust_as_template(f"{{{{ {name} }}}}"))


def parse_unit(text: str) -> dict[str, list[str]]:
    """Read a unit file: ``Section.Directive`` and all of its values in order, without comments.

    An empty assignment stays an empty string: it is what resets a list (systemd.syntax(7)).
    """
    found: dict[str, list[str]] = {}
    section = ""
    for line in text.splitlines():
        if not line.strip() or line[0] in "#;":
            continue
        if heading := re.fullmatch(r"\[(\w+)\]", line):
            section = heading[1]
            continue
        key, equals, value = line.partition("=")
        if not (equals and section):
            raise ValueError(f"no directive of a section: {line!r}")
        found.setdefault(f"{section}.{key.strip()}", []).append(value.strip())
    return found


def unit_root(root: Path, units: dict[str, str], programs: tuple[str, ...]) -> Path:
    """Fill a root directory for ``systemd-analyze --root``: units, the targets they name, stand-ins for programs.

    Args:
        root: an empty directory.
        units: text by name of the unit.
        programs: absolute paths of what the units start.
    """
    for program in programs:
        path = root / program.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("#!/bin/sh\n", encoding="utf-8")
        path.chmod(0o755)
    directory = root / "etc/systemd/system"
    directory.mkdir(parents=True)
    for name in TARGETS:
        (directory / f"{name}.target").write_text(f"[Unit]\nDescription={name}\n", encoding="utf-8")
    for name, text in units.items():
        (directory / name).write_text(text, encoding="utf-8")
    return root
