"""The settings, as the role writes them to ``gunicorn.json``."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """What Gunicorn and its guards are told. All times are seconds."""

    app_module: str
    bind: str
    workers: int
    threads: int
    timeout_seconds: int
    graceful_timeout_seconds: int
    max_requests: int
    max_requests_jitter: int
    health_path: str
    boot_timeout_seconds: int
    """A worker that takes longer to load the app is ended."""
    hang_seconds: int
    """A request that waits for a lock for so long, with nobody at work for it, is a deadlock."""
    request_limit_seconds: int
    """A request that did not move at all for so long is given up, whatever it waits for."""
    memory_high_bytes: int
    memory_max_bytes: int
    """The limits of the service, for hosts whose kernel has no memory controller; elsewhere the kernel's own count."""
    log_dir: str
    runtime_dir: str
    release_file: str
    maintenance_file: str
    """Says until when visitors get a page in the app's place; only there during a maintenance."""

    @property
    def memory_limit_bytes(self) -> int:
        """The lower of both limits: what the workers' shares are made of."""
        return min(self.memory_high_bytes, self.memory_max_bytes)

    @property
    def operations_socket(self) -> str:
        """Where the operations endpoints are: a directory that only the app's user and root can enter."""
        return f"{self.runtime_dir}/operations.sock"


def load(path: Path) -> Settings:
    """Read the settings.

    Raises:
        OSError, ValueError, KeyError: the file is missing or is not what the role writes.
    """
    raw = json.loads(path.read_text(encoding="utf-8"))
    return Settings(**{field.name: raw[field.name] for field in fields(Settings)})


def release_id(path: str) -> str:
    """Return the id of the running release, for the app and its logs; empty outside of a release."""
    try:
        return str(json.loads(Path(path).read_text(encoding="utf-8"))["id"])
    except FileNotFoundError:
        return ""
