"""``ansible.builtin.stat``, for who only asks whether a path exists: no call when the run has looked already."""

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
    """Tell whether ``path`` exists; only ``stat.exists`` of the result may be used."""

    TRANSFERS_FILES = False
    _VALID_ARGS = frozenset({"path"})

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the action."""
        super().run(tmp, task_vars)
        path = str(self._task.args["path"])
        seen = Seen.of(task_vars)
        if (exists := seen.exists(path)) is not None:
            return {"changed": False, "stat": {"exists": exists}}
        options = {"path": path, "get_checksum": False, "get_mime": False, "get_attributes": False}
        return self._execute_module(module_name="ansible.legacy.stat", module_args=options, task_vars=task_vars)
