"""Controller half of ``deploy_lock``: the lock of an app for the rest of this run, see ``lock_channel``."""

from __future__ import annotations

import secrets
import sys
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase

# This repository is neither a collection nor installed: Ansible loads this file by path.
_REPOSITORY = Path(__file__).resolve().parents[2]
if str(_REPOSITORY) not in sys.path:
    sys.path.append(str(_REPOSITORY))

from plugins.module_utils.host_look import Seen
from plugins.module_utils.lock_channel import held_by_this_run, is_open, with_lock


class ActionModule(ActionBase):
    """Take the deploy lock of an app for the rest of this run; see the module ``deploy_lock``.

    Arguments of the task: ``name``, the app's, and ``look``, ``look_units`` and ``look_app``, what is to be looked at
    under the lock; ``directory`` is for tests.
    """

    TRANSFERS_FILES = False
    _VALID_ARGS = frozenset({"name", "directory", "look", "look_units", "look_app"})

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the action; failed when another deploy holds the lock."""
        super().run(tmp, task_vars)
        task_vars, key = task_vars or {}, secrets.token_hex(16)
        if (held := held_by_this_run(task_vars)) and is_open(held):
            # Taken by the first look at the host: nobody else has written since, and what this run wrote it forgot.
            return {"changed": False}

        def on_host(lock: dict[str, Any]) -> dict[str, Any]:
            return self._execute_module(
                module_name="deploy_lock",
                module_args={**self._task.args, **lock, "look_key": key},
                task_vars=task_vars,
            )

        result = on_host({}) if self._task.check_mode else with_lock(self, task_vars, on_host)
        return Seen.of(task_vars).keep(self._task.args, key, result)
