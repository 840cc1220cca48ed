"""Controller half of ``site_release``: no call with nothing to switch; else who asks, for the record.

How the app runs after a switch comes with the answer: whoever sees to its service next need not ask for it.
"""

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
from plugins.module_utils.switch_report import serves


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
        options = {"who": who(), **self._task.args}
        if options.get("action") == "switch":
            if said := seen.app.get("release"):
                return {**said, **serves(said)}
            options["look_app"] = seen.about
        seen.forget()
        return seen.keep_app(self._execute_module(module_args=options, task_vars=task_vars))
