"""Controller half of ``converged_unit``: calls the host unless the run has seen that a unit is as it should be."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase

# This repository is neither a collection nor installed: Ansible loads this file by path.
_REPOSITORY = Path(__file__).resolve().parents[2]
if str(_REPOSITORY) not in sys.path:
    sys.path.append(str(_REPOSITORY))

from plugins.module_utils.host_look import Seen
from plugins.module_utils.unit_plan import Wanted, is_stale, plan, unmet

#: A unit that is to be stopped, or not to start at boot, is asked on the host.
_ASKED = frozenset({"state", "enabled"})


class ActionModule(ActionBase):
    """Bring a unit to what is on disk, if it is not there already."""

    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the action; see the module ``converged_unit`` for its options."""
        super().run(tmp, task_vars)
        options = self._task.args
        seen = Seen.of(task_vars)
        if not _ASKED & set(options) and settled(seen, options):
            return {"changed": False, "restarts": [], "steps": []}
        seen.forget()
        planned = {"would_write": seen.would_write} if self._task.check_mode else {}
        return self._execute_module(module_args={**options, **planned}, task_vars=task_vars)


def settled(seen: Seen, options: Mapping[str, Any]) -> bool:
    """Tell whether a unit runs with what is on disk, and is well; no when any of it was not looked at.

    Args:
        seen: what the run knows of the host.
        options: of the module ``converged_unit``.
    """
    wanted = Wanted(str(options["name"]), options.get("socket") or "", expect=options.get("expect") or {})
    records = {wanted.name: options.get("started_with"), wanted.socket: options.get("socket_started_with")}
    newer_files = options.get("newer_files") or []
    drift: dict[str, list[str]] = {}
    for name in (unit for unit in (wanted.name, wanted.socket) if unit):
        unit = seen.units.get(name)
        if unit is None or is_stale(unit["state"]):
            return False
        unread = seen.newer([f"/etc/systemd/system/{name}", *newer_files], unit["loaded_at"])
        changed = (
            seen.app.get("drift", {}).get(records[name])
            if records[name]
            else seen.newer(newer_files, unit["active_since"])
        )
        if unread is None or unread or changed is None:
            return False
        drift[name] = changed
    states = {name: seen.units[name]["state"] for name in drift}
    url = options.get("health_url")
    well = not url or seen.app.get("health", {}).get(url) == ""
    return well and not unmet(wanted.expect, states[wanted.name]) and not plan(wanted, states, drift)
