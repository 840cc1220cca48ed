"""What has to be done to a systemd unit so that it runs with what is on disk: decided from what systemd says of it.

The module ``converged_unit`` decides on the host; its action plugin does on the controller, from what a run has seen
there already (``host_look``), and then calls nobody where nothing is to be done.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

_SIZE = re.compile(r"([0-9]+)([KMGT]?)\Z")
_FACTOR = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4}


@dataclass(frozen=True)
class Step:
    """One thing to do to one unit: ``enable``, ``disable``, ``start``, ``stop`` or ``restart``."""

    action: str
    unit: str
    why: str


@dataclass(frozen=True)
class Wanted:
    """What the caller asked for."""

    name: str
    socket: str = ""
    state: str = "started"
    enabled: bool = True
    expect: Mapping[str, str] = field(default_factory=dict)


def changed_inputs(record: str, read: Callable[[str], bytes]) -> list[str]:
    """Return the files of a ``sha256sum`` record whose content is no longer what it says.

    Args:
        record: lines ``<hex digest>  <path>`` as sha256sum(1) prints them.
        read: returns a file's bytes; an ``OSError`` from it counts as a change.
    """
    changed = []
    for line in record.splitlines():
        digest, _, path = line.partition("  ")
        if not path:
            continue
        try:
            same = hashlib.sha256(read(path)).hexdigest() == digest.lstrip("\\")
        except OSError:
            same = False
        if not same:
            changed.append(path)
    return changed


def parse_show(output: str) -> dict[str, str]:
    """Turn the ``key=value`` lines of ``systemctl show`` into a dict."""
    return dict(line.split("=", 1) for line in output.splitlines() if "=" in line)


def normalised(name: str, value: object) -> str:
    """Return a property's value in the form systemd shows: sizes in bytes, booleans as yes and no."""
    text = {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
    match = _SIZE.match(text) if name.startswith("Memory") else None
    return str(int(match[1]) * _FACTOR[match[2]]) if match else text


def unmet(expect: Mapping[str, object], shown: Mapping[str, str]) -> list[str]:
    """Name the properties that systemd does not hold as asked (it ignores values that it cannot read)."""
    return [
        f"{name} is {shown.get(name, 'unknown')}, asked for {value}"
        for name, value in expect.items()
        if normalised(name, shown.get(name, "")) != normalised(name, value)
    ]


def is_stale(shown: Mapping[str, str]) -> bool:
    """Tell whether systemd knows an older unit file than the one on disk, or none."""
    return shown.get("NeedDaemonReload") == "yes" or shown.get("LoadState") == "not-found"


def plan(wanted: Wanted, units: Mapping[str, Mapping[str, str]], drift: Mapping[str, Sequence[str]]) -> list[Step]:
    """Decide what has to be done, in order.

    Args:
        wanted: what the caller asked for.
        units: ``systemctl show`` of the unit and its socket, before anything was done.
        drift: per unit the inputs that differ from those its process started with.
    """
    present = [unit for unit in (wanted.socket, wanted.name) if unit]
    verb = "enable" if wanted.enabled else "disable"
    done = "enabled" if wanted.enabled else "disabled"
    steps = [
        Step(verb, unit, f"is {units[unit].get('UnitFileState') or 'new'}")
        for unit in present
        if units[unit].get("UnitFileState") not in (done, "static", "alias", "generated")
    ]
    running = {unit: runs(units[unit]) for unit in present}
    if wanted.state == "stopped":
        return steps + [Step("stop", unit, "switched off") for unit in present if running[unit]]
    service_why = f"{', '.join(drift[wanted.name])} changed" if drift.get(wanted.name) else ""
    if wanted.socket and running[wanted.socket] and drift.get(wanted.socket):
        # systemd refuses to restart a socket under a running service, and a reload opens no new port.
        steps += [Step("stop", wanted.name, "its socket changes")] if running[wanted.name] else []
        steps.append(Step("restart", wanted.socket, f"{', '.join(drift[wanted.socket])} changed"))
        return [*steps, Step("start", wanted.name, "its socket changed")]
    if wanted.socket and not running[wanted.socket]:
        # A socket does not start under a service that runs without it.
        steps += [Step("stop", wanted.name, "it runs without its socket")] if running[wanted.name] else []
        steps.append(Step("start", wanted.socket, "was not listening"))
        return [*steps, Step("start", wanted.name, service_why or "was not running")]
    if not running[wanted.name]:
        steps.append(Step("start", wanted.name, "was not running"))
    elif service_why:
        steps.append(Step("restart", wanted.name, service_why))
    return steps


def runs(state: Mapping[str, str]) -> bool:
    """Tell whether a unit runs, or is about to."""
    return state.get("ActiveState") in ("active", "activating", "reloading")


def interrupts(steps: Sequence[Step], units: Mapping[str, Mapping[str, str]]) -> bool:
    """Tell whether one of the steps ends something that runs."""
    return any(step.action in ("restart", "stop") and runs(units[step.unit]) for step in steps)
