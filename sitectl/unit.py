"""What systemd says about the service."""

from __future__ import annotations

import time
from dataclasses import dataclass

from sitectl.host import Host

PROPERTIES = (
    "LoadState",
    "UnitFileState",
    "ActiveState",
    "SubState",
    "Result",
    "Job",
    "NRestarts",
    "MainPID",
    "ControlGroup",
    "ExecMainStartTimestampMonotonic",
)
SHOW_SECONDS = 8


@dataclass(frozen=True)
class Unit:
    """The service's state at one moment."""

    load_state: str
    active_state: str
    sub_state: str
    result: str
    enabled: bool
    job_pending: bool
    """systemd is about to start, stop or restart it."""
    age_seconds: float | None
    """Seconds since the main process was last started; None when it never was in this boot."""
    restarts: int
    """Restarts by systemd itself since the last start by hand."""
    main_pid: int
    control_group: str


def parse(text: str, monotonic: float) -> Unit:
    """Return the unit that `systemctl show` printed as `text`; `monotonic` is CLOCK_MONOTONIC now, in seconds."""
    values = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    started = _number(values.get("ExecMainStartTimestampMonotonic", ""))
    return Unit(
        load_state=values.get("LoadState", ""),
        active_state=values.get("ActiveState", ""),
        sub_state=values.get("SubState", ""),
        result=values.get("Result", ""),
        enabled=values.get("UnitFileState", "").startswith("enabled"),
        job_pending=values.get("Job", "") not in {"", "0"},
        age_seconds=max(0.0, monotonic - started / 1e6) if started else None,
        restarts=_number(values.get("NRestarts", "")),
        main_pid=_number(values.get("MainPID", "")),
        control_group=values.get("ControlGroup", ""),
    )


def _number(text: str) -> int:
    """Return `text` as a number, 0 when systemd printed none."""
    return int(text) if text.isdigit() else 0


def show(host: Host, unit: str) -> Unit | None:
    """Ask systemd about `unit`; None when it does not answer in time."""
    done = host.run(["systemctl", "show", f"--property={','.join(PROPERTIES)}", "--", unit], SHOW_SECONDS)
    if done.code != 0:
        return None
    # systemd's *TimestampMonotonic properties count on this clock
    return parse(done.output, time.clock_gettime(time.CLOCK_MONOTONIC))
