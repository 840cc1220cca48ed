"""The decision as tables: what was remembered, what was seen, what follows."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from sitectl.decide import Observation, Policy, State, decide, pause_seconds, worth_asking
from sitectl.host import Now
from sitectl.probe import Answer
from sitectl.unit import Unit

NOW = Now(uptime=10_000, boot_id="b1")
POLICY = Policy(failures_before_restart=2, start_grace_seconds=60)
GOOD = Answer(200, 12, "")
BAD = Answer(None, 10_000, "no complete answer within 10 s")
UP = Unit("loaded", "active", "running", "success", True, False, 5_000.0, 0, 42, "/system.slice/x.service")
STOPPED = replace(UP, active_state="inactive", sub_state="dead", main_pid=0)
FRESH = State(boot_id="b1")
STRUCK = State(boot_id="b1", failures=1, strikes=1)


def see(answer=BAD, unit=UP, hold=None):
    return Observation(answer, unit, hold)


@pytest.mark.parametrize(
    ("case", "state", "seen", "expected", "said"),
    [
        ("good answer", STRUCK, see(GOOD), ("healthy", 0), "healthy again after 1 bad"),
        ("good answer during a hold", FRESH, see(GOOD, hold="deploy"), ("healthy", 0), "answers"),
        ("good answer, systemd mute", FRESH, see(GOOD, None), ("healthy", 0), "answers"),
        ("first bad answer", FRESH, see(), ("suspect", 1), "bad check 1 of 2"),
        ("second bad answer", STRUCK, see(), ("restart", 0), "no complete answer"),
        ("error page", STRUCK, see(Answer(500, 3, "answered 500")), ("restart", 0), "answered 500"),
        ("hold", STRUCK, see(hold="deploy (9 s left)"), ("suspect", 0), "on hold: deploy"),
        ("just started", STRUCK, see(unit=replace(UP, age_seconds=59.0)), ("suspect", 0), "started 59 s ago"),
        ("grace is over", STRUCK, see(unit=replace(UP, age_seconds=60.0)), ("restart", 0), "no complete"),
        ("activating", STRUCK, see(unit=replace(UP, active_state="activating")), ("suspect", 0), "at work"),
        ("deactivating", STRUCK, see(unit=replace(UP, active_state="deactivating")), ("suspect", 0), "at work"),
        ("job waits", STRUCK, see(unit=replace(UP, job_pending=True)), ("suspect", 0), "at work"),
        ("stopped on purpose", STRUCK, see(None, STOPPED), ("stopped", 0), "stopped by an operator"),
        ("masked", STRUCK, see(None, replace(STOPPED, load_state="masked")), ("stopped", 0), "an operator"),
        ("failed", STRUCK, see(None, replace(STOPPED, active_state="failed")), ("restart", 0), "failed"),
        (
            "failed just now",
            STRUCK,
            see(None, replace(STOPPED, active_state="failed", age_seconds=1.0)),
            ("restart", 0),
            "",
        ),
        ("crashed", STRUCK, see(None, replace(STOPPED, result="exit-code")), ("restart", 0), "exit-code"),
        ("oom", STRUCK, see(None, replace(STOPPED, result="oom-kill")), ("restart", 0), "oom-kill"),
        ("lost start job", STRUCK, see(None, replace(STOPPED, age_seconds=None)), ("restart", 0), "since boot"),
        ("not enabled", STRUCK, see(None, replace(STOPPED, age_seconds=None, enabled=False)), ("stopped", 0), ""),
        (
            "no such unit",
            STRUCK,
            see(None, replace(STOPPED, load_state="not-found")),
            ("suspect", 0),
            "no such service",
        ),
        ("systemd mute", STRUCK, see(unit=None), ("suspect", 1), "systemd does not answer"),
        ("other boot", replace(STRUCK, boot_id="b0"), see(), ("suspect", 1), "bad check 1 of 2"),
        ("no memory", State(), see(), ("suspect", 1), "bad check 1 of 2"),
    ],
)
def test_the_verdict_follows_from_what_was_seen(case, state, seen, expected, said):
    decision = decide(state, seen, NOW, POLICY)
    assert (decision.verdict, decision.state.strikes) == expected, (case, decision)
    assert said in decision.reason


def test_a_host_that_boots_is_given_time_to_start_the_service():
    never = replace(STOPPED, age_seconds=None)
    decision = decide(STRUCK, see(None, never), replace(NOW, uptime=20), POLICY)
    assert decision.verdict == "suspect"
    assert "booting" in decision.reason


def run(seen, minutes, state=FRESH):
    """Return the minutes in which the monitor restarts, checking once a minute."""
    restarts = []
    for minute in range(minutes):
        decision = decide(state, seen(minute), replace(NOW, uptime=NOW.uptime + 60 * minute), POLICY)
        state = decision.state
        if decision.verdict == "restart":
            restarts.append(minute)
    return restarts


def test_an_app_that_never_comes_back_is_restarted_ever_more_rarely():
    restarts = run(lambda minute: see(), 120)
    gaps = [later - earlier for earlier, later in itertools.pairwise(restarts)]
    assert restarts[0] == 1
    assert gaps[:5] == [2, 2, 4, 8, 10]
    assert set(gaps[5:]) == {10}


def test_a_crash_loop_that_systemd_restarts_is_left_to_systemd():
    assert run(lambda minute: see(unit=replace(UP, age_seconds=3.0)), 60) == []


def test_a_slow_starter_is_not_killed_while_it_starts():
    ages = {0: 10.0, 1: 50.0}
    assert run(lambda minute: see(unit=replace(UP, age_seconds=ages.get(minute, 110.0))), 3) == []


def test_one_bad_check_in_two_never_restarts():
    assert run(lambda minute: see() if minute % 2 else see(GOOD), 60) == []


def test_five_healthy_minutes_reset_the_pause():
    tired = State(boot_id="b1", restarts=5, last_restart=NOW.uptime - 60)
    assert 1 not in run(lambda minute: see(), 3, tired)
    assert run(lambda minute: see(GOOD) if minute < 6 else see(), 8, tired) == [7]


def test_failures_count_every_bad_check_also_the_excused_ones():
    decision = decide(replace(FRESH, failures=7), see(hold="deploy"), NOW, POLICY)
    assert decision.state.failures == 8


def test_a_restart_is_remembered_with_its_moment():
    decision = decide(STRUCK, see(), NOW, POLICY)
    assert (decision.state.restarts, decision.state.last_restart) == (1, NOW.uptime)


@pytest.mark.parametrize(("restarts", "seconds"), [(0, 60), (1, 60), (2, 120), (4, 480), (5, 600), (10**6, 600)])
def test_pauses_double_up_to_ten_minutes(restarts, seconds):
    assert pause_seconds(restarts) == seconds


@pytest.mark.parametrize(
    ("unit", "worth"), [(None, True), (UP, True), (STOPPED, False), (replace(UP, active_state="failed"), False)]
)
def test_a_stopped_service_is_not_asked_because_that_would_start_it(unit, worth):
    assert worth_asking(unit) is worth
