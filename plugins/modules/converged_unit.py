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
  would_write:
    description: In check mode, files that the run would have written by now; the action plugin of the same name knows.
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

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.unit_health import healthy
from ansible.module_utils.unit_plan import Wanted, changed_inputs, interrupts, is_stale, parse_show, plan, runs, unmet

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
JOURNAL_LINES = 25


class Systemd:
    """The host's systemctl and journalctl."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        #: Files that count as changed, because a dry run has only said that it would write them.
        self.would_write = frozenset(module.params["would_write"])

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
            return changed_inputs(text, self.read)
        younger = changed_after(newer, state.get("ActiveEnterTimestampMonotonic"))
        return [path for path in newer if path in younger or path in self.would_write]

    def read(self, path: str) -> bytes:
        """Return what a file holds. Raises OSError for one that would be another."""
        if path in self.would_write:
            raise FileNotFoundError(path)
        return Path(path).read_bytes()

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
            "would_write": {"type": "list", "elements": "path", "default": []},
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
