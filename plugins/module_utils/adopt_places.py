"""Where the databases of an adopted app go, and that none takes the place of another."""

from __future__ import annotations

from pathlib import Path

from ansible.module_utils.adopt_host import is_inside
from ansible.module_utils.adopt_wanted import Wanted
from ansible.module_utils.code_tree import excluded


def place_of(path: str, directory: str, wanted: Wanted) -> str | None:
    """Return where a database goes; empty where the settings do not say, None for one that is no part of the app."""
    if path in wanted.placed:
        return str(Path(wanted.data_dir, wanted.placed[path]))
    if not is_inside(path, directory):
        return ""
    name = str(Path(path).relative_to(directory))
    if excluded(name, wanted.exclude):
        return None
    inside = any(is_inside(name, shared) for shared in wanted.shared)
    return str(Path(wanted.data_dir, name)) if inside else ""
