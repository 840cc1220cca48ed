"""``ansible.builtin.apt``, for who only wants packages to be there: no call when the run has seen all of them."""

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
    """Install ``name``, one package or a list; all other options are those of ``ansible.builtin.apt``."""

    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the action."""
        super().run(tmp, task_vars)
        names = self._task.args["name"]
        names = [names] if isinstance(names, str) else names
        seen = Seen.of(task_vars)
        if seen.has_packages(names):
            return {"changed": False}
        # It may bring another Python, or restart what runs.
        seen.forget()
        result = self._execute_module(
            module_name="ansible.legacy.apt", module_args=dict(self._task.args), task_vars=task_vars
        )
        if not result.get("failed"):
            # In check mode as well: a role that comes later finds it installed when the run is a real one.
            seen.add_packages(names)
        return result
