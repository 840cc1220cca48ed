"""Action plugin: make the table of a fire drill, write its results to a file here, fail if the site did not recover."""

from __future__ import annotations

import datetime
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase

# This repository is neither a collection nor installed: Ansible loads this file by path.
_REPOSITORY = Path(__file__).resolve().parents[2]
if str(_REPOSITORY) not in sys.path:
    sys.path.append(str(_REPOSITORY))

from plugins.module_utils.drill import lines
from plugins.module_utils.run_report import counted, table


def pairs(results: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Return the table as the callback `phases` takes it: the faults, and all other columns in one aligned text."""
    rows = lines(results)
    # All columns but the first and the last hold figures.
    texts = table([row for _, row in rows], right=range(1, len(rows[0][1]) - 1))
    return [(label, text) for (label, _), text in zip(rows, texts, strict=True)]


class ActionModule(ActionBase):
    """Report a drill.

    Arguments of the task: `results`, the results of `drill_fault` in a loop; `faults`, what was to be done; `path`, the
    file to write; `site`, the app's name.
    """

    TRANSFERS_FILES = False
    _requires_connection = False
    _VALID_ARGS = frozenset({"results", "faults", "path", "site"})

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Write the file; return the table, failed if a fault was not recovered from or not done."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        given = self._task.args
        host = str((task_vars or {}).get("inventory_hostname", ""))
        results = [one["drill"] for one in given["results"] if "drill" in one]
        written = {
            "host": host,
            "site": given["site"],
            "ended": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "faults": results,
        }
        path = Path(str(given["path"])).expanduser().absolute()
        path.write_text(json.dumps(written, indent=2, default=str) + "\n", encoding="utf-8")
        done = {one["fault"] for one in results}
        bad = [f"{one['fault']}: {one['verdict']}" for one in results if not one["recovered"]]
        bad += [f"{name}: NOT DONE, see above" for name in given["faults"] if name not in done]
        result |= {"changed": False, "summary": [*pairs(results), ("report", str(path))]}
        if bad:
            head = f"{counted(len(bad), 'fault')} of {len(given['faults'])} without a recovery on {host}:"
            result |= {"failed": True, "msg": "\n".join([head, *(f"  {line}" for line in bad)])}
        return result
