"""The settings of one site's releases, as the role writes them to ``release.json``."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Settings:
    """What is known about one site. All times are seconds."""

    name: str
    user: str
    """Who runs the app: databases are opened, and hooks run, as this user."""
    root: Path
    data_dir: Path
    inputs: tuple[Path, ...]
    """Files and directories besides the release that the app starts with; a change of one is proven anew."""
    health_path: str
    smoke_paths: tuple[str, ...]
    start_seconds: float
    """Until a start has answered its health path."""
    trial_requests: int
    trial_growth_bytes: int
    """How much more than the running release a new one may grow over the trial's requests."""
    watch_seconds: float
    before_switch: tuple[str, ...]
    after_switch: tuple[str, ...]
    hook_seconds: float
    databases: tuple[str, ...]
    """Below ``data_dir``; empty: every SQLite file that lies directly in it."""
    save_database: bool
    keep: int
    run: Path = Path("/run")
    state: Path = Path("/var/lib/sitekeeper")

    @property
    def unit(self) -> str:
        """The service that visitors meet."""
        return f"{self.name}.service"

    @property
    def socket_record(self) -> Path:
        """What the port was opened with: the socket unit writes its own checksum there."""
        return self.run / "sitekeeper" / f"{self.name}.socket"

    @property
    def trial_unit(self) -> str:
        """The service in which a release is proven: the same sandbox and limits, a private socket."""
        return f"{self.name}-trial.service"

    @property
    def trial_socket(self) -> str:
        """The unit of that socket."""
        return f"{self.name}-trial.socket"

    @property
    def trial_address(self) -> str:
        """Where a release on trial listens."""
        return f"{self.run}/sitekeeper/{self.name}-trial.http"

    @property
    def task_unit(self) -> str:
        """The service in which a single command runs in a release."""
        return f"{self.name}-task.service"

    @property
    def watch_unit(self) -> str:
        """The service that watches a release after the switch."""
        return f"{self.name}-watch.service"

    @property
    def watched(self) -> Path:
        """What is to be watched, and what to go back to; there for as long as the watch is not over."""
        return self.root / "watch.json"

    @property
    def operations(self) -> str:
        """Where the app's master tells how the app is, whatever port or socket visitors come through."""
        return f"{self.run}/{self.name}/operations.sock"

    @property
    def deploy_lock(self) -> Path:
        """Locked by whoever deploys or rolls back, for the whole run."""
        return self.run / "sitekeeper" / f"{self.name}.deploy.lock"

    @property
    def replaced(self) -> Path:
        """Whose deploy had its settings replaced by a take-back: what the deploy lock said then."""
        return self.run / "sitekeeper" / f"{self.name}.settings-replaced"

    @property
    def start_hold(self) -> Path:
        """While this file is locked the app does not start (before-start.sh of the role service)."""
        return self.run / "sitekeeper" / f"{self.unit}.hold"

    @property
    def backups(self) -> Path:
        """Copies of the database, one directory each."""
        return self.state / self.name / "backups"


def load(path: Path) -> Settings:
    """Read the settings.

    Raises:
        OSError, ValueError, KeyError: the file is missing or is not what the role writes.
    """
    raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    values: dict[str, Any] = {}
    for field in fields(Settings):
        if field.name not in raw:
            continue
        value = raw[field.name]
        if field.name in ("root", "data_dir"):
            value = Path(value)
        elif field.name == "inputs":
            value = tuple(Path(one) for one in value)
        elif isinstance(value, list):
            value = tuple(value)
        values[field.name] = value
    return Settings(**values)
