"""``ansible.builtin.copy`` of one file: no call when the run has seen that the host has it."""

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
    """Copy ``src``, an absolute path, to ``dest``; all options are those of ``ansible.builtin.copy``."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the action."""
        options = self._task.args
        seen = Seen.of(task_vars)
        attributes = {name: options[name] for name in ("owner", "group", "mode") if name in options}
        entry = {"path": options["dest"], **attributes, "content": Path(options["src"]).read_bytes()}
        if "mode" in options and seen.holds(entry):
            return {"changed": False, "dest": options["dest"]}
        copy = self._shared_loader_obj.action_loader.get(
            "ansible.legacy.copy",
            task=self._task,
            connection=self._connection,
            play_context=self._play_context,
            loader=self._loader,
            templar=self._templar,
            shared_loader_obj=self._shared_loader_obj,
        )
        result: dict[str, Any] = copy.run(task_vars=task_vars)
        seen.forget([options["dest"]])
        return result
