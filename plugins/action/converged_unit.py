"""Controller half of ``converged_unit``: calls the host unless the run has seen that a unit is as it should be."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from ansible import constants
from ansible.plugins.action import ActionBase

# This repository is neither a collection nor installed: Ansible loads this file by path.
_REPOSITORY = Path(__file__).resolve().parents[2]
if str(_REPOSITORY) not in sys.path:
    sys.path.append(str(_REPOSITORY))

from plugins.module_utils.host_look import Seen
from plugins.modules.converged_unit import Wanted, is_stale, plan

#: A unit with a socket, a record or a health is asked on the host.
_SIMPLE = frozenset({"name", "newer_files"})


class ActionModule(ActionBase):
    """Bring a unit to what is on disk, if it is not there already."""

    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the action; see the module ``converged_unit`` for its options."""
        super().run(tmp, task_vars)
        options = self._task.args
        seen = Seen(constants.DEFAULT_LOCAL_TMP, str((task_vars or {}).get("inventory_hostname", "")))
        if set(options) <= _SIMPLE and settled(seen, str(options["name"]), options.get("newer_files") or []):
            return {"changed": False, "restarts": [], "steps": []}
        return self._execute_module(task_vars=task_vars)


def settled(seen: Seen, name: str, newer_files: list[str]) -> bool:
    """Tell whether a unit runs with what is on disk; no when it was not looked at."""
    unit = seen.units.get(name)
    if unit is None or is_stale(unit["state"]):
        return False
    unread = seen.newer([f"/etc/systemd/system/{name}", *newer_files], unit["loaded_at"])
    drift = seen.newer(newer_files, unit["active_since"])
    if unread is None or unread or drift is None:
        return False
    return not plan(Wanted(name), {name: unit["state"]}, {name: drift})
