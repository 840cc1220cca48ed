"""Callback for `tools/interrupt.py`: writes down what a run does, and kills it with SIGKILL after one of its tasks.

Nothing of the project enables it; it needs ANSIBLE_CALLBACKS_ENABLED=kill_after and the variables below.
"""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: kill_after
type: aggregate
short_description: Kills the run after a task
description:
  - Appends one JSON line to the file INTERRUPT_TRACE for each task that begins, and for each that ended well and was
    not skipped; the latter are counted, from 1.
  - After number INTERRUPT_AFTER the process gets SIGKILL. 0 kills nothing.
"""


class CallbackModule(CallbackBase):
    """Counts results."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "kill_after"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self._trace = Path(os.environ["INTERRUPT_TRACE"])
        self._after = int(os.environ.get("INTERRUPT_AFTER", "0"))
        self._number = 0

    def _note(self, **what: Any) -> None:
        with self._trace.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(what) + "\n")

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:
        """Write down which task begins."""
        self._note(begins=task.get_name().strip())

    def v2_playbook_on_handler_task_start(self, task: Any) -> None:
        """Write down which handler begins."""
        self._note(begins=task.get_name().strip())

    def v2_runner_on_ok(self, result: Any) -> None:
        """Write down what ended, and kill the run if it is time."""
        self._number += 1
        changed = bool(result.result.get("changed"))
        self._note(number=self._number, task=result.task.get_name().strip(), changed=changed)
        if self._number == self._after:
            os.kill(os.getpid(), signal.SIGKILL)
