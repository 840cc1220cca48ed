"""Controller half of ``config_files``: calls the host only when something is not as the run has already seen it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase

# This repository is neither a collection nor installed: Ansible loads this file by path.
_REPOSITORY = Path(__file__).resolve().parents[2]
if str(_REPOSITORY) not in sys.path:
    sys.path.append(str(_REPOSITORY))

from plugins.module_utils.host_look import Seen


class ActionModule(ActionBase):
    """Write what is not there already."""

    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the action; see the module ``config_files`` for its options."""
        super().run(tmp, task_vars)
        entries = [*(self._task.args.get("directories") or []), *(self._task.args.get("files") or [])]
        seen = Seen.of(task_vars)
        if entries and all(seen.holds(entry) for entry in entries):
            return {"changed": False, "written": [], "diff": []}
        result = self._execute_module(task_vars=task_vars)
        if self._task.check_mode:
            seen.plan(result.get("written") or [])
        if result.get("changed") or result.get("failed"):
            seen.forget(str(entry["path"]) for entry in entries)
        return result
