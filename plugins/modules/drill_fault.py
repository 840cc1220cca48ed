#!/usr/bin/python
"""Ansible module: break a running site in one way, under a light load, and measure how it comes back."""

from __future__ import annotations

DOCUMENTATION = r"""
module: drill_fault
short_description: Breaks a site on purpose, measures, and undoes it
description:
  - Asks the site at a steady rate on the host itself, injects one fault, and waits until it was dealt with.
  - The fault is undone in all cases. A timer on the host does it if this module dies; it is armed before the fault.
  - The monitor is held meanwhile, so that it is the site that is measured.
  - A site that is not well is left alone.
options:
  name: {description: The app's name., type: str, required: true}
  fault:
    description: What to do to it.
    type: str
    required: true
    choices: [worker-kill, master-kill, restart, worker-stop, workers-stop, master-stop, service-kill, oom]
  url: {description: What to ask; an http address of the host., type: str, required: true}
  host_header: {description: The Host to ask for; empty for the one in url., type: str, default: ""}
  rate: {description: Requests a second., type: int, default: 5}
  seconds: {description: How long the site has to deal with the fault., type: int, default: 120}
attributes:
  check_mode: {support: full}
"""

EXAMPLES = r"""
- name: Kill a worker
  drill_fault:
    name: currents
    fault: worker-kill
    url: http://127.0.0.1:5555/health
"""

RETURN = r"""
drill:
  description: C(fault), C(took_effect), C(evidence), C(detected_seconds), C(back_seconds), C(requests), C(refused),
    C(failed), C(outcomes), C(longest_wait_seconds), C(recovered), C(verdict).
  returned: always
  type: dict
restarts: {description: The service, when it was newly started., type: list, returned: always}
"""

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.drill import (
    FAULTS,
    GONE,
    RATE,
    SECONDS,
    Process,
    Seen,
    back_at,
    evidence,
    is_noticed,
    is_whole,
    measured,
    parse_stat,
    verdict,
    victims_of,
)
from ansible.module_utils.drill_memory import Shortage, oom_kills, text_of
from ansible.module_utils.load_generator import Ask, Load

POLL_SECONDS = 0.2
#: For three good answers before anything is done.
LEAD_SECONDS = 30.0
#: For the workers to be all there again; on a slow host an app takes a while to load.
SETTLE_SECONDS = 120.0
#: What injecting and undoing may take besides the time that the site has.
SPARE_SECONDS = 60.0
#: So long all must stay well: what a dying master looks like for a moment is no recovery.
CALM_SECONDS = 3.0
#: What a visitor waits at most.
REQUEST_SECONDS = 60.0
#: What no drill may leave changed.
_PROPERTIES = ("MemoryMax", "MemoryHigh", "MemorySwapMax", "DropInPaths", "NeedDaemonReload")
#: By these a module is ended when its connection or its controller goes.
ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)

Run = Callable[[Sequence[str]], tuple[int, str, str]]


class DrillError(Exception):
    """The drill cannot be done, or could not be undone; the text is for the operator."""


class Service:
    """The site's service on this host.

    Args:
        name: the app's name.
        run: runs a command; returns status, output and error output.
        root: where /run and /sys are.
    """

    def __init__(self, name: str, run: Run, root: Path = Path("/")) -> None:
        self.name, self.unit, self.run, self.root = name, f"{name}.service", run, root
        self.timer = f"{name}-drill-undo"
        self.monitor = root / "usr/local/bin/sitectl"
        self.monitored = (root / f"etc/sitectl/{name}.json").exists()
        self.group = root / "nowhere"
        self._invocation, self._main = "", 0

    def must(self, *words: str) -> str:
        """Run a command that has to succeed; raises DrillError with what it said."""
        status, out, err = self.run(words)
        if status != 0:
            raise DrillError(f"{' '.join(words)} failed: {err.strip() or out.strip()}")
        return out

    def show(self, *names: str) -> dict[str, str]:
        """Return properties of the unit."""
        out = self.must("systemctl", "show", self.unit, "-p", ",".join(names))
        return dict(line.split("=", 1) for line in out.splitlines() if "=" in line)

    def look(self) -> Seen:
        """Look at the service. systemd itself is asked only when it has a new start: this is done often."""
        try:
            link = (self.root / f"run/systemd/units/invocation:{self.unit}").readlink()
        except OSError:
            link = Path()
        if link.name != self._invocation or not self._main:
            shown = self.show("MainPID", "ControlGroup")
            self._main = int(shown.get("MainPID") or 0)
            self._invocation = link.name
            if group := shown.get("ControlGroup"):
                self.group = self.root / "sys/fs/cgroup" / group.lstrip("/")
        processes: dict[int, Process] = {}
        for pid in text_of(self.group / "cgroup.procs").split():
            if (stat := text_of(Path("/proc") / pid / "stat")) and (one := parse_stat(stat)).state not in GONE:
                processes[one.pid] = one
        return Seen(self._invocation, self._main, processes, oom_kills(self.group))

    def hold(self, seconds: float, why: str) -> None:
        """Keep the monitor from restarting the service; raises DrillError when somebody else does already."""
        if not self.monitored:
            return
        words = (str(self.monitor), "--site", self.name)
        # Not by its exit code: that says how the site is.
        _, out, err = self.run((*words, "status", "--json"))
        try:
            held = json.loads(out)["monitor"]["hold"]
        except (ValueError, KeyError, TypeError) as error:
            raise DrillError(f"{' '.join(words)} status failed: {err.strip() or out.strip()}") from error
        if held:
            raise DrillError(f"the monitor is held: {held}. End that first: sudo sitectl release-hold")
        self.must(*words, "hold", f"{seconds:.0f}", "--reason", why)

    def settings(self) -> dict[str, str]:
        """Return what no drill may leave changed; `memory.max` is the kernel's limit, in bytes or "max"."""
        return {**self.show(*_PROPERTIES), "memory.max": text_of(self.group / "memory.max").strip()}

    def undoing(self, fault: str, before: Seen) -> str:
        """Return the shell commands that undo a fault and release the monitor; none needs another one to succeed."""
        lines = []
        if fault.endswith("-stop"):
            lines.append(f"systemctl kill --signal=CONT {self.unit}")
        if fault == "oom":
            lines.append(self.shortage(before).undoing())
        if self.monitored:
            lines.append(f"{self.monitor} --site {self.name} release-hold")
        return "; ".join(lines) or "true"

    def shortage(self, before: Seen) -> Shortage:
        """Return the shortage of memory that kills a worker. Raises DrillError where the kernel can make none."""
        if not (self.group / "memory.max").exists():
            raise DrillError("the kernel of this host has no memory controller: leave oom out of drill_faults")
        return Shortage.of(self.group, victims_of("oom", before)[0].pid)

    @contextlib.contextmanager
    def undone(self, script: str, seconds: float, why: str) -> Iterator[None]:
        """Hold the monitor and see to it that the script is run at the end, by systemd if this program is no more.

        Args:
            script: shell commands.
            seconds: when systemd runs them.
            why: what the hold is for.

        Raises:
            DrillError: the monitor is held already, or another drill goes on.
        """
        self.hold(seconds, why)
        try:
            self.must(
                *("systemd-run", "--quiet", "--collect", f"--unit={self.timer}", f"--on-active={seconds:.0f}"),
                *("--timer-property=AccuracySec=1s", "/bin/sh", "-c", script),
            )
        except DrillError:
            # Not the script: it would also undo what another drill has just done.
            if self.monitored:
                self.run((str(self.monitor), "--site", self.name, "release-hold"))
            raise
        try:
            yield
        finally:
            for number in ENDING:
                signal.signal(number, signal.SIG_IGN)
            self.run(("/bin/sh", "-c", script))
            self.run(("systemctl", "stop", f"{self.timer}.timer"))

    def inject(self, fault: str, before: Seen) -> None:
        """Do it. Raises DrillError, and OSError when a process or the service has just gone."""
        if fault == "restart":
            self.must("systemctl", "restart", "--no-block", self.unit)
        elif fault == "oom":
            self.shortage(before).make()
        else:
            number = signal.SIGSTOP if fault.endswith("-stop") else signal.SIGKILL
            for victim in victims_of(fault, before):
                os.kill(victim.pid, number)


@dataclass
class Trial:
    """What was seen of one fault. Times are the load's."""

    injected: float = 0.0
    proof: str = ""
    noticed: float | None = None
    restarted: float | None = None
    back: float | None = None
    invocation: str = ""
    calm: float | None = None

    def look(self, fault: str, before: Seen, now: Seen, load: Load) -> bool:
        """Take in a look at the service; tell whether it has recovered, and stayed so for a while."""
        moment = load.now()
        if self.restarted is None and now.invocation not in ("", before.invocation):
            self.restarted = moment
        self.proof = self.proof or evidence(fault, before, now)
        if self.noticed is None and self.proof and is_noticed(fault, before, now):
            self.noticed = moment
        self.back = back_at(load.so_far().rows, self.restarted or self.injected, self.injected)
        if self.noticed is None or self.back is None or now.invocation != self.invocation or not is_whole(before, now):
            self.calm, self.invocation = None, now.invocation
            return False
        self.calm = self.calm or moment
        return moment - self.calm >= CALM_SECONDS

    def since(self, moment: float | None) -> float | None:
        """Return the seconds from the fault to a moment."""
        return None if moment is None else round(max(0.0, moment - self.injected), 2)


def poll(done: Callable[[], bool], seconds: float) -> bool:
    """Ask until it is true or the time is over; tell which."""
    deadline = time.monotonic() + seconds
    while not (result := done()) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    return result


def interrupted(number: int, _frame: object) -> None:
    """End by an exception, so that the fault is undone on the way out."""
    sys.exit(f"ended by signal {number}")


def drill(service: Service, fault: str, load: Load, seconds: float) -> dict[str, Any]:
    """Do one fault under a load; return the result for the report. Raises DrillError."""
    trial, whole = Trial(), False
    with load:
        well = poll(lambda: back_at(load.so_far().rows, 0.0, 0.0) is not None, LEAD_SECONDS)
        before, settings = service.look(), service.settings()
        if well := well and bool(before.workers) and is_whole(before, before):
            with service.undone(service.undoing(fault, before), seconds + SPARE_SECONDS, f"fire drill, {fault}"):
                trial.injected = load.now()
                service.inject(fault, before)
                poll(lambda: trial.look(fault, before, service.look(), load), seconds)
            whole = poll(lambda: is_whole(before, service.look()), SETTLE_SECONDS)
            if (after := service.settings()) != settings:
                raise DrillError(f"{service.unit} is not as it was before {fault}: it was {settings} and is {after}")
    figures = measured(load.stop().rows, trial.injected)
    detected, back = trial.since(trial.noticed), trial.since(trial.back)
    recovered, words = verdict(bool(trial.proof), detected, back, whole, figures["refused"] + figures["failed"])
    return {
        "fault": fault,
        "took_effect": bool(trial.proof),
        "evidence": trial.proof if well else "the site was not well before, so nothing was done",
        "detected_seconds": detected,
        "back_seconds": back,
        **figures,
        "restarted": trial.restarted is not None,
        "recovered": recovered,
        "verdict": words,
    }


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "fault": {"type": "str", "required": True, "choices": list(FAULTS)},
            "url": {"type": "str", "required": True},
            "host_header": {"type": "str", "default": ""},
            "rate": {"type": "int", "default": RATE},
            "seconds": {"type": "int", "default": SECONDS},
        },
        supports_check_mode=True,
    )
    options = module.params
    if module.check_mode:
        module.exit_json(changed=False, skipped=True, msg="a drill is not done in check mode")
    for number in ENDING:
        signal.signal(number, interrupted)
    service = Service(options["name"], lambda words: module.run_command(list(words)))
    headers = {"Host": options["host_header"]} if options["host_header"] else {}
    try:
        ask = Ask(options["url"], headers=headers, timeout=REQUEST_SECONDS)
        longest = LEAD_SECONDS + options["seconds"] + SPARE_SECONDS + SETTLE_SECONDS
        result = drill(service, options["fault"], Load(ask, rate=options["rate"], seconds=longest), options["seconds"])
    except (DrillError, OSError, ValueError, RuntimeError) as error:
        module.fail_json(msg=str(error), restarts=[])
    why = f"fire drill: {options['fault']}"
    restarts = [{"unit": service.unit, "action": "restart", "why": why}] if result["restarted"] else []
    module.exit_json(changed=result["took_effect"], drill=result, restarts=restarts)


if __name__ == "__main__":
    main()
