"""An app's units, the states in which systemd may show them, and the record that a unit keeps of its inputs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

APP, SOCKET = "testkeeper-app.service", "testkeeper-app.socket"
UP = {"ActiveState": "active", "UnitFileState": "enabled"}
DOWN = {"ActiveState": "inactive", "UnitFileState": "enabled"}
FAILED = {"ActiveState": "failed", "UnitFileState": "enabled"}
CRASHING = {"ActiveState": "activating", "UnitFileState": "enabled"}
NEW = {"ActiveState": "inactive", "UnitFileState": ""}


def record(contents: Mapping[str, bytes]) -> str:
    """Return the record of files with these contents, as sha256sum writes it."""
    return "".join(f"{hashlib.sha256(text).hexdigest()}  {path}\n" for path, text in contents.items())
