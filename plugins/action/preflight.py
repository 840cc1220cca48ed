"""Controller half of ``preflight``: takes the deploy lock with it, and keeps what it saw for this run."""

from __future__ import annotations

import secrets
import sys
from pathlib import Path
from typing import Any

from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase

# This repository is neither a collection nor installed: Ansible loads this file by path.
_REPOSITORY = Path(__file__).resolve().parents[2]
if str(_REPOSITORY) not in sys.path:
    sys.path.append(str(_REPOSITORY))

from plugins.module_utils.host_look import Seen
from plugins.module_utils.lock_channel import with_lock


class ActionModule(ActionBase):
    """Run the module with a key of this run: what it says of a file tells nobody else what is in it.

    With ``lock`` it takes the deploy lock too, which saves a call; a dry run takes none.
    """

    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the action; see the module ``preflight`` for its options."""
        super().run(tmp, task_vars)
        task_vars, options, key = task_vars or {}, dict(self._task.args), secrets.token_hex(16)
        locks = boolean(options.pop("lock", False)) and not self._task.check_mode
        if not locks:
            # What is seen of the app may be another deploy's half.
            options.pop("look_app", None)

        def on_host(lock: dict[str, Any]) -> dict[str, Any]:
            words = {**options, "look_key": key, **({"lock": lock} if lock else {})}
            return self._execute_module(module_name="preflight", module_args=words, task_vars=task_vars)

        result = with_lock(self, task_vars, on_host) if locks else on_host({})
        return Seen.of(task_vars).keep(options, key, result)
