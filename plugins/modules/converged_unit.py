#!/usr/bin/python
"""Ansible module: bring a systemd unit to what is on disk, and say what was restarted and why."""

from __future__ import annotations

DOCUMENTATION = r"""
module: converged_unit
short_description: Runs a systemd unit as its files on disk describe it
description:
  - Compares what the running process started with against what is on disk, so that a restart is never lost, not even
    when an earlier run died between writing a file and restarting.
  - The unit records its inputs at each start, for example with
    C(ExecStartPre=+/bin/sh -c 'sha256sum FILES > STARTED_WITH').
options:
  name: {description: The unit, with its suffix., type: str, required: true}
  socket: {description: The socket unit that holds the port for it., type: str, default: ""}
  state: {description: Whether it should run., type: str, choices: [started, stopped], default: started}
  enabled: {description: Whether it starts at boot., type: bool, default: true}
  hold: {description: Whether what would interrupt a running unit is left for a later task., type: bool, default: false}
  started_with: {description: File of sha256sum lines that the unit writes at each start., type: path}
  socket_started_with: {description: The same for the socket., type: path}
  newer_files:
    description: Files whose change (modification after the unit's start) restarts a unit that keeps no record.
    type: list
    elements: path
    default: []
  expect:
    description: Properties of C(systemctl show) that must hold once it runs. Sizes may be written like 800M.
    type: dict
    default: {}
  health_url:
    description:
      - URL that must answer 2xx once it runs. Empty for none.
      - Over a Unix socket it is C(unix:SOCKET:PATH), for example C(unix:/run/sitekeeper/currents.http:/health).
    type: str
    default: ""
  health_timeout_seconds: {description: How long to wait for that., type: int, default: 60}
attributes:
  check_mode: {support: full}
"""

EXAMPLES = r"""
- name: Run the app as configured
  converged_unit:
    name: currents.service
    socket: currents.socket
    started_with: /run/sitekeeper/currents.service
    expect: {Restart: always, MemoryMax: 1G}
    health_url: http://127.0.0.1:5555/health
"""

RETURN = r"""
restarts: {description: What was started or restarted and why., type: list, returned: always}
pending: {description: Whether something was left for later., type: bool, returned: when so}
"""

import hashlib
import http.client
import re
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

STATE_PROPERTIES = (
    "LoadState",
    "ActiveState",
    "SubState",
    "UnitFileState",
    "NeedDaemonReload",
    "NRestarts",
    "Result",
    "ActiveEnterTimestampMonotonic",
)
#: A unit that came back this often while we wait is in a crash loop: say so instead of waiting for the deadline.
CRASH_LOOP_RESTARTS = 3
HEALTH_POLL_SECONDS = 0.25
HEALTH_REQUEST_SECONDS = 5
#: Who asks for the health is no visitor: during a maintenance the app itself answers.
AGENT = "sitekeeper"
JOURNAL_LINES = 25
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


class Systemd:
    """The host's systemctl and journalctl."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module

    def run(self, *words: str) -> str:
        """Run systemctl; fail the task with its words when it does not succeed."""
        rc, out, err = self.module.run_command(["systemctl", *words])
        if rc != 0:
            unit = words[-1]
            self.module.fail_json(
                msg=f"systemctl {' '.join(words)} failed: {err.strip() or out.strip()}\n{self.journal(unit)}"
            )
        return out

    def show(self, unit: str, extra: Sequence[str] = ()) -> dict[str, str]:
        """Return the unit's state and the extra properties."""
        return parse_show(self.run("show", unit, "-p", ",".join((*STATE_PROPERTIES, *extra))))

    def journal(self, unit: str) -> str:
        """Return the last journal lines of the unit, for error messages."""
        _, out, _ = self.module.run_command(
            ["journalctl", "--no-pager", "-q", "-o", "cat", "-n", str(JOURNAL_LINES), "-u", unit]
        )
        return f"Last lines of {unit}:\n{out}"

    def drift(self, unit: str, record: str | None, newer: Sequence[str], state: Mapping[str, str]) -> list[str]:
        """Name the inputs of a running unit that changed since it started."""
        if not runs(state):
            return []
        if record:
            try:
                text = Path(record).read_text(encoding="utf-8")
            except FileNotFoundError:
                return ["its record of inputs"]
            return changed_inputs(text, lambda path: Path(path).read_bytes())
        return changed_after(newer, state.get("ActiveEnterTimestampMonotonic"))

    def newer_than_loaded(self, paths: Sequence[str]) -> list[str]:
        """Name the files that changed after systemd last read its units.

        ``NeedDaemonReload`` alone is not enough: systemd 252 does not see a new drop-in in a new directory.
        """
        shown = parse_show(self.run("show", "-p", "UnitsLoadTimestampMonotonic"))
        return changed_after(paths, shown.get("UnitsLoadTimestampMonotonic"))


def changed_after(paths: Sequence[str], monotonic_microseconds: str | None) -> list[str]:
    """Return the paths that exist and were modified after a time that systemd gives since boot."""
    moment = time.time() - (time.monotonic() - int(monotonic_microseconds or 0) / 1e6)
    return [path for path in paths if Path(path).exists() and Path(path).stat().st_mtime > moment]


class UnixConnection(http.client.HTTPConnection):
    """HTTP over the Unix socket at a path."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self.path = path

    def connect(self) -> None:
        """Connect to the path in place of a host."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def healthy_over_unix(address: str) -> str:
    """Ask ``SOCKET:PATH`` once; return what `healthy` does. A redirect is no answer: there is nowhere to follow it."""
    path, _, target = address.partition(":")
    connection = UnixConnection(path, HEALTH_REQUEST_SECONDS)
    try:
        connection.request("GET", target, headers={"User-Agent": AGENT})
        status = connection.getresponse().status
    except (OSError, ValueError, http.client.HTTPException) as error:
        return f"no answer: {error}"
    finally:
        connection.close()
    return "" if 200 <= status < 300 else f"it answers {status}"


def healthy(url: str) -> str:
    """Ask the URL once; return an empty string for 2xx and the reason otherwise."""
    if url.startswith("unix:"):
        return healthy_over_unix(url.removeprefix("unix:"))
    # Straight to the app: a proxy of the host's environment does not lead back to it.
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    direct.addheaders = [("User-Agent", AGENT)]
    try:
        with direct.open(url, timeout=HEALTH_REQUEST_SECONDS) as answer:
            answer.read(1)
            return ""
    except urllib.error.HTTPError as error:
        return f"it answers {error.code}"
    except (OSError, ValueError, http.client.HTTPException) as error:
        return f"no answer: {error}"


def wait_healthy(systemd: Systemd, unit: str, url: str, seconds: int) -> None:
    """Poll the health URL to a deadline; fail the task early when the unit is in a crash loop."""
    deadline = time.monotonic() + seconds
    before = int(systemd.show(unit).get("NRestarts") or 0)
    while (reason := healthy(url)) != "":
        state = systemd.show(unit)
        loops = int(state.get("NRestarts") or 0) - before
        gave_up = state.get("ActiveState") == "failed" or loops >= CRASH_LOOP_RESTARTS
        if gave_up or time.monotonic() > deadline:
            what = "it crashes again and again" if loops else f"{state.get('ActiveState')} ({state.get('Result')})"
            systemd.module.fail_json(
                msg=f"{unit} is not healthy at {url}: {reason}; {what}.\n{systemd.journal(unit)}\n"
                f"Look at it on the host: systemctl status {unit}; journalctl -u {unit}"
            )
        time.sleep(HEALTH_POLL_SECONDS)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "socket": {"type": "str", "default": ""},
            "state": {"type": "str", "choices": ["started", "stopped"], "default": "started"},
            "enabled": {"type": "bool", "default": True},
            "hold": {"type": "bool", "default": False},
            "started_with": {"type": "path"},
            "socket_started_with": {"type": "path"},
            "newer_files": {"type": "list", "elements": "path", "default": []},
            "expect": {"type": "dict", "default": {}},
            "health_url": {"type": "str", "default": ""},
            "health_timeout_seconds": {"type": "int", "default": 60},
        },
        supports_check_mode=True,
    )
    options = module.params
    wanted = Wanted(options["name"], options["socket"], options["state"], options["enabled"], options["expect"])
    systemd = Systemd(module)
    names = [unit for unit in (wanted.name, wanted.socket) if unit]
    units = {unit: systemd.show(unit) for unit in names}
    stale = [unit for unit in names if is_stale(units[unit])] or systemd.newer_than_loaded(
        [*(f"/etc/systemd/system/{unit}" for unit in names), *options["newer_files"]]
    )
    if stale and not module.check_mode:
        # Before anything is decided: what a generator makes of /etc/fstab, say, is known only after it.
        systemd.run("daemon-reload")
        units = {unit: systemd.show(unit) for unit in names}
    records = {wanted.name: options["started_with"], wanted.socket: options["socket_started_with"]}
    drift = {unit: systemd.drift(unit, records[unit], options["newer_files"], state) for unit, state in units.items()}
    absent = units[wanted.name].get("LoadState") == "not-found"
    if absent and wanted.state == "stopped":
        module.exit_json(changed=False, restarts=[])
    steps = plan(wanted, units, drift)
    if options["hold"] and interrupts(steps, units):
        module.exit_json(changed=False, restarts=[], pending=True)
    shown = [{"unit": s.unit, "action": s.action, "why": s.why} for s in steps]
    restarts = [step for step in shown if step["action"] in ("start", "stop", "restart")]
    if not module.check_mode:
        for step in steps:
            systemd.run(step.action, step.unit)
        if wanted.state == "started" and options["health_url"]:
            wait_healthy(systemd, wanted.name, options["health_url"], options["health_timeout_seconds"])
        wrong = unmet(wanted.expect, systemd.show(wanted.name, tuple(wanted.expect)))
        if wrong and wanted.state == "started":
            module.fail_json(msg=f"{wanted.name} does not run as asked: " + "; ".join(wrong), restarts=restarts)
    module.exit_json(changed=bool(steps or stale), restarts=restarts, steps=shown)


if __name__ == "__main__":
    main()
