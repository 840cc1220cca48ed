"""What is kept in files: the monitor's memory, its lock, and the hold."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sitectl.decide import State
from sitectl.host import Deadline, Now

KEPT_CHECKS = 10
MAX_HOLD_SECONDS = 3600
"""A hold that is forgotten must not blind the monitor for longer."""


class Busy(Exception):
    """Somebody else holds the lock."""


def load_state(path: Path) -> State:
    """Return the remembered state; an absent, damaged or foreign file is an empty memory."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        return State(
            boot_id=str(raw["boot_id"]),
            failures=int(raw["failures"]),
            strikes=int(raw["strikes"]),
            restarts=int(raw["restarts"]),
            last_restart=_moment(raw["last_restart"]),
            healthy_since=_moment(raw["healthy_since"]),
            checks=tuple(dict(check) for check in raw["checks"])[-KEPT_CHECKS:],
        )
    except (OSError, ValueError, KeyError, TypeError):
        return State()


def _moment(value: Any) -> float | None:
    """Return a moment read from a file."""
    return None if value is None else float(value)


def save_state(path: Path, state: State) -> None:
    """Replace the remembered state in one step; raises OSError, and the old one stays."""
    replace(path, json.dumps({**asdict(state), "checks": state.checks[-KEPT_CHECKS:]}))


def replace(path: Path, text: str, lasting: bool = False) -> None:
    """Write `text` beside `path` and rename it: a reader sees the old file or the new one.

    Only with `lasting` it is certain to outlive the power: fsync can hang for minutes on a busy disk, and a memory that
    is lost with the power is no loss.
    """
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.new")
    beside.write_text(text + "\n", encoding="utf-8")
    if lasting:
        with beside.open("rb") as written:
            os.fsync(written.fileno())
    beside.chmod(0o644)
    beside.replace(path)


@contextlib.contextmanager
def lock(path: Path, wait_seconds: float = 0) -> Iterator[None]:
    """Hold the lock `path` for a while; the kernel frees it when the process dies.

    Waits up to `wait_seconds`. Raises Busy when somebody else keeps it, OSError when it cannot be made.
    """
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    deadline = Deadline(wait_seconds)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if deadline.left() <= 0:
                    raise Busy from None
            time.sleep(0.2)
        yield
    finally:
        os.close(handle)


def write_hold(path: Path, seconds: float, reason: str, now: Now) -> None:
    """Hold restarts back for `seconds` from `now`; raises OSError."""
    replace(path, json.dumps({"until_uptime": now.uptime + seconds, "boot_id": now.boot_id, "reason": reason}))


def read_hold(path: Path, now: Now) -> str | None:
    """Return why restarts are held back and for how long still, or None when they are not.

    A hold that is damaged, over, or longer than MAX_HOLD_SECONDS does not count: the site comes first.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        left = float(raw["until_uptime"]) - now.uptime
        same_boot = raw["boot_id"] == now.boot_id
        reason = str(raw["reason"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return f"{reason} ({left:.0f} s left)" if same_boot and 0 < left <= MAX_HOLD_SECONDS else None


def remove(path: Path) -> bool:
    """Remove a hold or a maintenance; tell whether there was one. Raises OSError."""
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    return True
