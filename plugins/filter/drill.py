"""Filters of the fire drill: which faults, and what is said before anything is broken."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

# This repository is neither a collection nor installed: Ansible loads this file by path.
_REPOSITORY = Path(__file__).resolve().parents[2]
if str(_REPOSITORY) not in sys.path:
    sys.path.append(str(_REPOSITORY))

from plugins.module_utils.drill import RATE, SECONDS, fault_names, question


def drill_command(settings: Mapping[str, Any], inventories: Sequence[str], limit: str = "") -> str:
    """Return the command that does the drill which was asked for.

    Args:
        settings: the drill_* variables; None for what is not set.
        inventories: Ansible's ``ansible_inventory_sources``.
        limit: Ansible's ``ansible_limit``.
    """
    sources = [os.path.relpath(source) if Path(source).exists() else source for source in inventories]
    words = ["ansible-playbook", *(word for source in sources for word in ("-i", source)), "playbooks/drill.yml"]
    words += ["--limit", limit] if limit else []
    wanted = {name: value for name, value in settings.items() if value is not None} | {"drill_confirm": "yes"}
    if "drill_faults" in wanted:
        wanted["drill_faults"] = ",".join(fault_names(wanted["drill_faults"]))
    return shlex.join([*words, *(word for name in sorted(wanted) for word in ("-e", f"{name}={wanted[name]}"))])


def drill_question(
    settings: Mapping[str, Any], hosts: Sequence[str], inventories: Sequence[str], limit: str = ""
) -> str:
    """Return what the drill would do, and the command that does it; the arguments are those of `drill_command`."""
    faults = fault_names(settings.get("drill_faults"))
    rate, seconds = (
        int(settings.get(name) or usual) for name, usual in (("drill_rate", RATE), ("drill_seconds", SECONDS))
    )
    return question(hosts, faults, rate, seconds, drill_command(settings, inventories, limit))


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"drill_fault_names": fault_names, "drill_question": drill_question}
