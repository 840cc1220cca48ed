"""A copy of the repository for runs of its playbooks, with an inventory of one host."""

from __future__ import annotations

import shutil
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
# Nobody answers there (RFC 5737); a run that got so far would wait for the connection's timeout.
HOST = "all:\n  hosts:\n    probe:\n      ansible_host: 192.0.2.1\n      app_source: examples/currents\n"


def copy_of_repository(top: Path, more: str = "") -> Path:
    """Copy what decides which variables a playbook sees, and link the rest; return where the copy is.

    Args:
        top: an empty directory.
        more: a file of variables beside the others in group_vars/all.
    """
    for name in ("ansible.cfg", "roles", "plugins", "sitectl", "examples"):
        (top / name).symlink_to(REPOSITORY / name)
    shutil.copy(REPOSITORY / "site.yml", top)
    for name in ("playbooks", "group_vars"):
        shutil.copytree(REPOSITORY / name, top / name, symlinks=True)
    (top / "group_vars/all/zz_probe.yml").write_text(f"---\n{more}\n")
    (top / "inventory").mkdir()
    (top / "inventory/group_vars").symlink_to((REPOSITORY / "inventory/group_vars").readlink())
    (top / "inventory/hosts.yml").write_text(HOST)
    return top
