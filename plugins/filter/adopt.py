"""Filter of the adoption: what is said before anything is changed."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def adopt_command(inventories: Sequence[str], limit: str = "") -> str:
    """Return the command that adopts.

    Args:
        inventories: Ansible's ``ansible_inventory_sources``.
        limit: Ansible's ``ansible_limit``.
    """
    sources = [os.path.relpath(source) if Path(source).exists() else source for source in inventories]
    words = ["ansible-playbook", *(word for source in sources for word in ("-i", source)), "playbooks/adopt.yml"]
    return shlex.join([*words, *(["--limit", limit] if limit else []), "-e", "adopt_confirm=yes"])


def adopt_question(hosts: Sequence[str], inventories: Sequence[str], limit: str = "") -> str:
    """Return what adopting would do, and the command that does it.

    Args:
        hosts: those where an app waits for it.
        inventories: Ansible's ``ansible_inventory_sources``.
        limit: Ansible's ``ansible_limit``.
    """
    return "\n".join(
        [
            f"The app on {', '.join(hosts)} is built anew beside the old process, by the plan above. Then the old",
            "process is stopped and the service takes its port; visitors wait or are refused for a few seconds. If the",
            "new site does not answer, the old process is put back as it was.",
            f"To do it: {adopt_command(inventories, limit)}",
        ]
    )


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"adopt_question": adopt_question}
