"""Controller half of ``site_release``: say who asks for it, for the record on the host."""

from __future__ import annotations

import getpass
import socket
from typing import Any

from ansible.plugins.action import ActionBase


def who() -> str:
    """Return the user and the computer that this run belongs to."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):
        # A user without an entry in the passwd database, as in some containers.
        user = "unknown"
    return f"{user}@{socket.gethostname()}"


class ActionModule(ActionBase):
    """Run the module with the name of the operator."""

    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the action; see the module ``site_release`` for its options."""
        super().run(tmp, task_vars)
        return self._execute_module(module_args={"who": who(), **self._task.args}, task_vars=task_vars)
