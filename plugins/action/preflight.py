"""Controller half of ``preflight``: keeps what it saw of files and packages for the rest of this run."""

from __future__ import annotations

import secrets
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


class ActionModule(ActionBase):
    """Run the module with a key of this run: what it says of a file tells nobody else what is in it."""

    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the action; see the module ``preflight`` for its options."""
        super().run(tmp, task_vars)
        options, key = dict(self._task.args), secrets.token_hex(16)
        result = self._execute_module(module_args={**options, "look_key": key}, task_vars=task_vars)
        host = str((task_vars or {}).get("inventory_hostname", ""))
        return Seen(constants.DEFAULT_LOCAL_TMP, host).keep(list(options.get("look") or []), key, result)
