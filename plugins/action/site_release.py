"""Controller half of ``site_release``: no call with nothing to switch; else who asks, for the record."""

from __future__ import annotations

import getpass
import socket
import sys
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase

# This repository is neither a collection nor installed: Ansible loads this file by path.
_REPOSITORY = Path(__file__).resolve().parents[2]
if str(_REPOSITORY) not in sys.path:
    sys.path.append(str(_REPOSITORY))

from plugins.module_utils.host_look import Seen
from plugins.modules.site_release import serves


def who() -> str:
    """Return the user and the computer that this run belongs to."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):
        # A user without an entry in the passwd database, as in some containers.
        user = "unknown"
    return f"{user}@{socket.gethostname()}"


class ActionModule(ActionBase):
    """Run the module with the name of the operator, unless what was asked for last is current and proven."""

    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the action; see the module ``site_release`` for its options."""
        super().run(tmp, task_vars)
        seen = Seen.of(task_vars)
        if self._task.args.get("action") == "switch" and (said := seen.app.get("release")):
            return {**said, **serves(said)}
        seen.forget()
        return self._execute_module(module_args={"who": who(), **self._task.args}, task_vars=task_vars)
