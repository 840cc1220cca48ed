"""The decision: is the app healthy, suspect, stopped on purpose, or to be restarted? No I/O in here."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from sitectl.host import Now
from sitectl.probe import Answer
from sitectl.unit import Unit

Verdict = Literal["healthy", "suspect", "stopped", "restart"]

FIRST_PAUSE_SECONDS = 60
LONGEST_PAUSE_SECONDS = 600
FORGIVEN_AFTER_SECONDS = 300
"""An app that was healthy for so long starts again with the first pause."""


@dataclass(frozen=True)
class State:
    """What the monitor remembers between two checks. Moments are uptimes of boot `boot_id`, in seconds."""

    boot_id: str = ""
    failures: int = 0
    """Bad checks in a row."""
    strikes: int = 0
    """Those of them that speak for a restart."""
    restarts: int = 0
    """The monitor's own restarts since the app was last well for a while."""
    last_restart: float | None = None
    healthy_since: float | None = None
    checks: tuple[dict[str, Any], ...] = field(default=())
    """The latest checks, oldest first, for people to read."""


@dataclass(frozen=True)
class Observation:
    """What one check saw. `answer` is None when the app was not asked, `unit` when systemd did not answer."""

    answer: Answer | None
    unit: Unit | None
    hold: str | None
    """Why restarts are held back just now, or None."""


@dataclass(frozen=True)
class Policy:
    """When to act."""

    failures_before_restart: int
    start_grace_seconds: float


@dataclass(frozen=True)
class Decision:
    """What to do, why in words, and what to remember."""

    verdict: Verdict
    reason: str
    state: State


def worth_asking(unit: Unit | None) -> bool:
    """Tell whether to send a request at all.

    A service that is down has no answer to give. With socket activation the request would even start it,
    also one that an operator has just stopped.
    """
    return unit is None or unit.active_state not in {"inactive", "failed"}


def pause_seconds(restarts: int) -> float:
    """Return how long to leave the app alone after the monitor's n-th restart in a row: 60, 120, … 600."""
    return float(min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** min(max(restarts - 1, 0), 10)))


def decide(state: State, observation: Observation, now: Now, policy: Policy) -> Decision:
    """Return the verdict on one check. Pure: the same arguments give the same decision."""
    if state.boot_id != now.boot_id:
        state = State(boot_id=now.boot_id, checks=state.checks)
    if observation.answer is not None and observation.answer.ok:
        return _healthy(state, now)
    unit = observation.unit
    if unit is not None and _stopped_by_operator(unit):
        reason = "stopped by an operator; the monitor does not start it again"
        return Decision("stopped", reason, replace(state, failures=0, strikes=0, healthy_since=None))

    bad = replace(state, failures=state.failures + 1, healthy_since=None)
    problem = _problem(observation)
    if unit is None:
        return Decision("suspect", f"{problem}; no restart: systemd does not answer", bad)
    if excuse := _excuse(unit, observation.hold, now, policy):
        return Decision("suspect", f"{problem}; no restart: {excuse}", replace(bad, strikes=0))
    return _strike(replace(bad, strikes=bad.strikes + 1), problem, now, policy)


def _strike(bad: State, problem: str, now: Now, policy: Policy) -> Decision:
    """Return the verdict on a bad check that counts."""
    if bad.strikes < policy.failures_before_restart:
        reason = f"{problem}; bad check {bad.strikes} of {policy.failures_before_restart}"
        return Decision("suspect", reason, bad)
    if wait := _pause_left(bad, now):
        return Decision("suspect", f"{problem}; no restart: {wait:.0f} s left of the pause after the last one", bad)
    return Decision("restart", problem, replace(bad, strikes=0, restarts=bad.restarts + 1, last_restart=now.uptime))


def _healthy(state: State, now: Now) -> Decision:
    """Return the verdict on a good answer."""
    since = now.uptime if state.healthy_since is None else state.healthy_since
    restarts = 0 if now.uptime - since >= FORGIVEN_AFTER_SECONDS else state.restarts
    reason = f"healthy again after {state.failures} bad checks" if state.failures else "answers"
    return Decision("healthy", reason, replace(state, failures=0, strikes=0, restarts=restarts, healthy_since=since))


def _never_started(unit: Unit) -> bool:
    """Tell whether an enabled service has not run since boot: a start job that was lost, not a stop."""
    return unit.enabled and unit.age_seconds is None


def _stopped_by_operator(unit: Unit) -> bool:
    """Tell whether somebody stopped the service: down, and systemd calls that a success."""
    if unit.load_state == "masked":
        return unit.active_state == "inactive"
    down = unit.load_state == "loaded" and unit.active_state == "inactive" and not unit.job_pending
    return down and unit.result == "success" and not _never_started(unit)


def _problem(observation: Observation) -> str:
    """Say in words what is wrong."""
    unit = observation.unit
    if observation.answer is not None:
        return observation.answer.problem
    if unit is None:
        return "no answer"
    if unit.active_state == "inactive" and _never_started(unit):
        return "the service has not been started since boot"
    return f"the service is {unit.active_state} ({unit.result})"


def _excuse(unit: Unit, hold: str | None, now: Now, policy: Policy) -> str:
    """Say why a bad check does not speak for a restart; empty when it does."""
    grace = policy.start_grace_seconds
    up = unit.active_state not in {"inactive", "failed"}
    if unit.load_state == "not-found":
        return "there is no such service"
    if hold is not None:
        return f"on hold: {hold}"
    if unit.job_pending or unit.active_state in {"activating", "deactivating"}:
        return f"systemd is at work on it ({unit.active_state}/{unit.sub_state})"
    if up and unit.age_seconds is not None and unit.age_seconds < grace:
        return f"started {unit.age_seconds:.0f} s ago, may take {grace:g} s"
    if unit.active_state == "inactive" and now.uptime < grace:
        return "the host is booting"
    return ""


def _pause_left(state: State, now: Now) -> float:
    """Return the seconds for which the monitor still has to keep its hands off."""
    if state.last_restart is None or state.restarts == 0:
        return 0.0
    return max(0.0, state.last_restart + pause_seconds(state.restarts) - now.uptime)
