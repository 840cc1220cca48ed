"""``ansible.builtin.apt``, for who only wants packages to be there: no call when the run has seen all of them.

What apt does not find it is asked for once more, with new lists. That module takes lists for as old as their directory:
where they were deleted a moment ago, as in many an image, they would pass for fresh, and no package would be known. And
what was replaced in the archive since the lists came is gone from there (404).
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase

# This repository is neither a collection nor installed: Ansible loads this file by path.
_REPOSITORY = Path(__file__).resolve().parents[2]
if str(_REPOSITORY) not in sys.path:
    sys.path.append(str(_REPOSITORY))

from plugins.module_utils.host_look import Seen

LISTS = "/var/lib/apt/lists"
_NOT_FOUND = re.compile(
    "No package matching|Unable to locate package|no available installation candidate|has no installation candidate"
    "|404 +Not Found"
)


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
        result = self._ask("apt", self._task.args, task_vars)
        if result.get("failed") and _NOT_FOUND.search(f"{result.get('msg')} {result.get('stderr')}"):
            result = self._with_new_lists(result, task_vars)
        if not result.get("failed"):
            # In check mode as well: a role that comes later finds it installed when the run is a real one.
            seen.add_packages(names)
        return result

    def _with_new_lists(self, failed: dict[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        """Ask once more; a dry run, which may not update lists, is only sure of what it misses where it has some."""
        if not self._task.check_mode:
            return self._ask("apt", {**self._task.args, "update_cache": True, "cache_valid_time": 0}, task_vars)
        if self._ask("find", {"paths": LISTS, "patterns": "*_Packages*"}, task_vars).get("matched"):
            return failed
        return {"changed": True, "msg": "apt has no lists of packages here: a run updates them, then installs"}

    def _ask(self, module: str, options: dict[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        return self._execute_module(
            module_name=f"ansible.legacy.{module}", module_args=dict(options), task_vars=task_vars
        )
