"""`sitectl check` and `sitectl restart`: look, decide, act, wait until the app answers again."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, replace
from datetime import datetime, timezone

from sitectl import codes, report, store
from sitectl.decide import Decision, Observation, Policy, State, decide, worth_asking
from sitectl.host import Deadline, Host
from sitectl.probe import Answer, ask
from sitectl.settings import Settings
from sitectl.unit import show

CHECK_SECONDS = 45
"""All of one check, a restart included. Cron runs one each minute and ends it after 50 seconds."""

POLL_SECONDS = 0.5
JOURNAL_LINES = 20


@dataclass(frozen=True)
class Restart:
    """How a restart ended: `problem` is empty when the app answers again."""

    problem: str
    answer: Answer | None
    seconds: float


def observe(host: Host, settings: Settings, deadline: Deadline) -> Observation:
    """Look at the service, then ask the app if there is one to ask."""
    hold = store.read_hold(host.hold_file(settings.name), host.now())
    unit = show(host, settings.unit)
    answer = None
    if worth_asking(unit):
        answer = ask(settings.url, deadline.left(settings.timeout_seconds), settings.host_header)
    return Observation(answer, unit, hold)


def restart(host: Host, settings: Settings, deadline: Deadline) -> Restart:
    """Restart the service and wait until the app answers, both before `deadline`.

    A restart that takes longer is not cancelled: systemd carries it on, and the next check looks again.
    """
    start = time.monotonic()
    done = host.run(["systemctl", "restart", "--", settings.unit], deadline.left())
    answer: Answer | None = None
    problem = done.problem
    while not problem:
        answer = ask(settings.url, max(deadline.left(settings.timeout_seconds), 0.1), settings.host_header)
        if answer.ok:
            break
        if deadline.left() <= POLL_SECONDS:
            problem = f"still not healthy {time.monotonic() - start:.0f} s after the restart began: {answer.problem}"
            break
        time.sleep(POLL_SECONDS)
    return Restart(problem, answer, time.monotonic() - start)


def run_check(host: Host, settings: Settings) -> int:
    """Check the app once, restart it if that is due; return the exit code."""
    journal = report.Journal(host, settings.identifier)
    deadline = Deadline(CHECK_SECONDS)
    try:
        with store.lock(host.lock_file(settings.name)):
            return _check(host, settings, journal, deadline)
    except store.Busy:
        journal.write(report.line(verdict="none", action="none", reason="another check is running"))
        return codes.HEALTHY
    except PermissionError:
        raise
    except OSError as error:
        # nobody sees the stderr of a program that cron runs
        journal.write(report.line(verdict="none", action="none", reason=f"cannot check: {error}"), report.WARNING)
        return codes.UNHEALTHY


def _check(host: Host, settings: Settings, journal: report.Journal, deadline: Deadline) -> int:
    """Check under the lock."""
    policy = Policy(settings.failures_before_restart, settings.start_grace_seconds)
    seen = observe(host, settings, deadline)
    decision = decide(store.load_state(host.state_file(settings.name)), seen, host.now(), policy)
    # Remembered and reported before anything is done: a check that is killed in the middle of a
    # restart has used its turn, and has said why.
    state = _remember(host, settings, journal, _with_check(decision, seen))
    journal.write(_line(decision, seen), _priority(decision))
    if decision.verdict != "restart":
        return codes.HEALTHY if decision.verdict == "healthy" else codes.UNHEALTHY

    outcome = restart(host, settings, Deadline(deadline.left(settings.restart_timeout_seconds)))
    if not outcome.problem:
        _remember(host, settings, journal, _well(state, host.now().uptime))
    _say_outcome(journal, "restarted", outcome)
    return codes.UNHEALTHY if outcome.problem else codes.RESTARTED


def run_restart(host: Host, settings: Settings) -> int:
    """Restart the app for an operator and say how it went; return the exit code."""
    journal = report.Journal(host, settings.identifier)
    try:
        with store.lock(host.lock_file(settings.name), wait_seconds=CHECK_SECONDS + 5):
            return _restart(host, settings, journal)
    except store.Busy:
        print("A check of this site is stuck. Find it with: ps -ef | grep sitectl", file=sys.stderr)
        return codes.BUSY


def _restart(host: Host, settings: Settings, journal: report.Journal) -> int:
    """Restart under the lock."""
    now = host.now()
    unit = show(host, settings.unit)
    if unit is not None and unit.active_state == "failed":
        # An operator's word ends systemd's own limit on starts; the monitor never does this.
        host.run(["systemctl", "reset-failed", "--", settings.unit], 10)
    outcome = restart(host, settings, Deadline(settings.restart_timeout_seconds))
    state = store.load_state(host.state_file(settings.name))
    fresh = State(boot_id=now.boot_id, checks=state.checks)
    _remember(host, settings, journal, fresh if outcome.problem else _well(fresh, host.now().uptime))
    _say_outcome(journal, "operator-restart", outcome)
    if not outcome.problem:
        return codes.HEALTHY
    tail = host.run(["journalctl", f"--unit={settings.unit}", f"--lines={JOURNAL_LINES}", "--no-pager"], 10)
    print(f"\nThe last lines of {settings.unit}:\n{tail.output or tail.problem}", file=sys.stderr)
    return codes.UNHEALTHY


def _well(state: State, uptime: float) -> State:
    """Return the memory of an app that has just answered."""
    return replace(state, failures=0, strikes=0, healthy_since=uptime)


def _with_check(decision: Decision, seen: Observation) -> State:
    """Return the new memory with this check at the end of its list."""
    entry = {
        # wall-clock time: for people only, nothing is decided by it
        "at": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "verdict": decision.verdict,
        "status": seen.answer.status if seen.answer else None,
        "milliseconds": seen.answer.milliseconds if seen.answer else None,
        "reason": decision.reason,
    }
    kept = (*decision.state.checks, entry)[-store.KEPT_CHECKS :]
    return replace(decision.state, checks=kept)


def _remember(host: Host, settings: Settings, journal: report.Journal, state: State) -> State:
    """Save the memory; a disk that cannot take it is reported, and the check goes on."""
    try:
        store.save_state(host.state_file(settings.name), state)
    except OSError as error:
        journal.write(f"the monitor cannot save its state: {error}", report.WARNING)
    return state


def _line(decision: Decision, seen: Observation) -> str:
    """Return the journal line of one check."""
    return report.line(
        verdict=decision.verdict,
        status=seen.answer.status if seen.answer else None,
        ms=seen.answer.milliseconds if seen.answer else None,
        failures=decision.state.failures,
        action="restart" if decision.verdict == "restart" else "none",
        reason=decision.reason,
    )


def _say_outcome(journal: report.Journal, action: str, outcome: Restart) -> None:
    """Write how a restart ended."""
    message = report.line(
        verdict="suspect" if outcome.problem else "healthy",
        status=outcome.answer.status if outcome.answer else None,
        ms=outcome.answer.milliseconds if outcome.answer else None,
        action=action,
        seconds=f"{outcome.seconds:.1f}",
        reason=outcome.problem or "healthy again",
    )
    journal.write(message, report.WARNING if outcome.problem else report.NOTICE)


def _priority(decision: Decision) -> int:
    """Return the syslog priority of a verdict."""
    return {"healthy": report.INFO, "stopped": report.NOTICE}.get(decision.verdict, report.WARNING)
