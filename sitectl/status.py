"""`sitectl status`: how the site is, on one screen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sitectl import codes, maintenance, store
from sitectl.check import CHECK_SECONDS, observe
from sitectl.decide import State
from sitectl.host import Deadline, Host
from sitectl.operations import unplanned_exits
from sitectl.settings import Settings
from sitectl.unit import Unit
from sitectl.words import counts, duration, memory_words

SHOWN_CHECKS = 5
WITHOUT_CONTROLLER = "no limit of the kernel holds on this host; the guards keep the workers within service_memory_max"


def run_status(host: Host, settings: Settings, as_json: bool) -> int:
    """Print the status; return HEALTHY or UNHEALTHY. Changes nothing, needs no root."""
    seen = observe(host, settings, Deadline(CHECK_SECONDS))
    state = store.load_state(host.state_file(settings.name))
    if state.boot_id != host.now().boot_id:
        state = State(checks=state.checks)
    healthy = seen.answer is not None and seen.answer.ok
    closed = maintenance.read(host, settings)
    facts: dict[str, Any] = {
        "name": settings.name,
        "healthy": healthy,
        "status": seen.answer.status if seen.answer else None,
        "milliseconds": seen.answer.milliseconds if seen.answer else None,
        "problem": seen.answer.problem if seen.answer else "not asked: the service is down",
        "maintenance": {"until": closed.moment, "message": closed.message} if closed else None,
        "service": _service(settings, seen.unit),
        "release": read_release(host, settings),
        "memory_bytes": read_memory(host, seen.unit),
        "memory_controller": has_memory_controller(host),
        "workers": count_workers(host, seen.unit),
        "unplanned_exits": unplanned_exits(host, settings),
        "monitor": {"bad_checks": state.failures, "restarts": state.restarts, "hold": seen.hold},
        "checks": list(state.checks),
        "logs": {
            "app": f"journalctl -u {settings.unit}",
            "monitor": f"journalctl -t {settings.identifier}",
            "files": str(settings.log_dir),
        },
        "data": str(settings.data_dir),
    }
    print(json.dumps(facts, indent=2) if as_json else table(facts))
    return codes.HEALTHY if healthy else codes.UNHEALTHY


def _service(settings: Settings, unit: Unit | None) -> dict[str, Any]:
    """Return what systemd says, as it is printed."""
    return {
        "unit": settings.unit,
        "state": f"{unit.active_state} ({unit.sub_state})" if unit else "unknown: systemd does not answer",
        "age_seconds": round(unit.age_seconds) if unit and unit.age_seconds is not None else None,
        "restarts": unit.restarts if unit else None,
    }


def read_release(host: Host, settings: Settings) -> dict[str, Any]:
    """Return the id of the release in use and what its release.json holds; empty when unreadable."""
    current = host.under_root(settings.release_dir) / "current"
    try:
        release: dict[str, Any] = {"id": current.resolve(strict=True).name}
        described = json.loads((current / "release.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {"id": current.resolve().name} if current.exists() else {}
    except (OSError, ValueError):
        return {}
    return {**described, **release} if isinstance(described, dict) else release


def read_memory(host: Host, unit: Unit | None) -> dict[str, int | None]:
    """Return the service's memory in bytes: now, limits, peak. None: no limit, or this kernel does not say."""
    names = {"now": "memory.current", "high": "memory.high", "max": "memory.max", "peak": "memory.peak"}
    directory = _cgroup(host, unit)
    return {key: _read_number(directory / file) if directory else None for key, file in names.items()}


def has_memory_controller(host: Host) -> bool | None:
    """Tell whether the kernel can hold memory limits; None where it has no control groups of version 2."""
    try:
        return "memory" in (host.root / "sys/fs/cgroup/cgroup.controllers").read_text(encoding="ascii").split()
    except OSError:
        return None


def _cgroup(host: Host, unit: Unit | None) -> Path | None:
    """Return the service's control group directory (version 2), or None when it has none."""
    return host.root / "sys/fs/cgroup" / unit.control_group.lstrip("/") if unit and unit.control_group else None


def _read_number(path: Path) -> int | None:
    """Return the number in a file of the kernel; None when it is `max` or the file is not there."""
    try:
        text = path.read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def count_workers(host: Host, unit: Unit | None) -> int | None:
    """Return how many processes of the service are children of its main process."""
    directory = _cgroup(host, unit)
    if unit is None or directory is None:
        return None
    try:
        pids = (directory / "cgroup.procs").read_text(encoding="ascii").split()
    except OSError:
        return None
    return sum(1 for pid in pids if _parent(host, pid) == unit.main_pid)


def _parent(host: Host, pid: str) -> int | None:
    """Return the parent of process `pid`; None when it has just ended."""
    try:
        text = (host.root / "proc" / pid / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # proc(5): the second field is a name in brackets that may hold blanks and brackets itself
    return int(text.rpartition(")")[2].split()[1])


def table(facts: dict[str, Any]) -> str:
    """Return the status for people."""
    service, memory, monitor, logs = (facts[key] for key in ("service", "memory_bytes", "monitor", "logs"))
    health = f"healthy, {facts['status']} in {facts['milliseconds']} ms"
    if not facts["healthy"]:
        health = f"NOT HEALTHY: {facts['problem']}"
    release = facts["release"]
    words = [str(release[key]) for key in ("id", "version") if release.get(key)]
    workers = "unknown" if facts["workers"] is None else facts["workers"]
    rows = [
        ("site", facts["name"]),
        ("health", health),
        ("service", f"{service['unit']} {service['state']}, started {duration(service['age_seconds'])} ago"),
        ("restarts", f"{service['restarts']} by systemd, {monitor['restarts']} by the monitor of late"),
        ("release", " ".join(words) or "unknown"),
        ("memory", WITHOUT_CONTROLLER if facts["memory_controller"] is False else memory_words(memory)),
        ("workers", workers),
        *(
            []
            if facts["unplanned_exits"] is None
            else [("exits", f"{counts(facts['unplanned_exits'])} unplanned since the start")]
        ),
        ("monitor", f"on hold: {monitor['hold']}" if monitor["hold"] else f"{monitor['bad_checks']} bad checks"),
    ]
    if service["age_seconds"] is None:
        rows[2] = ("service", f"{service['unit']} {service['state']}")
    if closed := facts["maintenance"]:
        rows.insert(1, ("maintenance", f"ON until {closed['until']}: {closed['message']}"))
    for number, check in enumerate(reversed(facts["checks"][-SHOWN_CHECKS:])):
        took = "" if check.get("milliseconds") is None else f" {check['milliseconds']} ms"
        words = [str(check.get(key)) for key in ("at", "verdict", "status", "reason") if check.get(key) is not None]
        rows.append(("" if number else "last checks", " ".join(words) + took))
    rows += [("logs", logs["app"]), ("", logs["monitor"]), ("", logs["files"]), ("data", facts["data"])]
    return "\n".join(f"{key:<12} {value}" for key, value in rows)
