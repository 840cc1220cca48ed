"""When a fault's figures are as promised, and what an emulated processor excuses."""

from __future__ import annotations

import pytest

from plugins.module_utils.drill import Process, Seen
from plugins.module_utils.load_generator import Row
from tools import bench_recovery
from tools.bench_faults import Watch, command, losses
from tools.bench_recovery import BEHIND_FRONT, FAIL, PASS, PROMISES, SLOW, bound_words, failures, judge, page, row_of

BOOTS = {"app": 5.0, "machine": 20.0}
PROMISE = {one.fault: one for one in PROMISES}
GOOD = {
    "evidence": "pid 7 gone",
    "back_seconds": 0.4,
    "whole_seconds": 4.0,
    "requests": 50,
    "refused": 0,
    "in_flight": {"GET": 8, "POST": 2},
    "failed_in_flight": {"GET": 0, "POST": 0},
    "failed_later": {"GET": 0, "POST": 0},
    "longest_wait_seconds": 1.2,
    "app_boot_seconds": 5.0,
    "load_average": 1.5,
}


def verdict(fault, front=False, emulated=True, **figures):
    return judge(PROMISE[fault], {**GOOD, **figures}, BOOTS, front, emulated)


@pytest.mark.parametrize("fault", PROMISE)
def test_good_figures_pass_and_nothing_excuses_a_fault_that_took_no_effect(fault):
    assert verdict(fault) == (PASS, "")
    assert verdict(fault, evidence="")[0] == FAIL


@pytest.mark.parametrize(
    ("fault", "limit"),
    [("worker-kill", 1), ("oom", 1), ("master-kill", 7), ("hang", 20), ("workers-stop", 20), ("reboot", 25)],
)
def test_bounds_in_seconds(fault, limit):
    assert verdict(fault, back_seconds=limit, emulated=False)[0] == PASS
    assert verdict(fault, back_seconds=limit + 0.1, emulated=False)[0] == FAIL
    assert verdict(fault, back_seconds=limit + 0.1)[0] == SLOW
    assert verdict(fault, back_seconds=limit + 5)[0] == SLOW, "the app's boot once more, where it is emulated"
    assert verdict(fault, back_seconds=limit + 5.1)[0] == FAIL
    assert verdict(fault, back_seconds=None)[0] == FAIL


def test_a_slow_row_says_how_often_the_boot_it_took():
    assert verdict("master-kill", back_seconds=10) == (SLOW, "2.0 x the app's boot")
    assert verdict("worker-kill", back_seconds=4) == (SLOW, "0.8 x the app's boot")
    assert verdict("reboot", back_seconds=30) == (SLOW, "1.5 x the machine's boot")


def test_time_is_not_asked_of_a_restart_or_a_leak():
    assert verdict("restart", back_seconds=100)[0] == PASS
    assert verdict("leak", back_seconds=None)[0] == PASS


@pytest.mark.parametrize(("fault", "expected"), [(one, FAIL if one != "reboot" else PASS) for one in PROMISE])
def test_nobody_is_refused_except_by_a_machine_that_is_away(fault, expected):
    assert verdict(fault, refused=1)[0] == expected


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_who_came_later_loses_nothing(method):
    lost = {"GET": 0, "POST": 0, method: 1}
    for fault in ("worker-kill", "master-kill", "restart", "oom", "leak"):
        assert verdict(fault, failed_later=lost) == (FAIL, "1 failed")
    for fault in ("hang", "workers-stop", "reboot"):
        assert verdict(fault, failed_later=lost)[0] == PASS


def test_in_flight_only_a_dead_worker_may_lose_requests():
    lost = {"GET": 1, "POST": 1}
    assert verdict("worker-kill", failed_in_flight=lost)[0] == verdict("oom", failed_in_flight=lost)[0] == PASS
    for fault in ("master-kill", "restart", "leak"):
        assert verdict(fault, failed_in_flight=lost) == (FAIL, "2 in flight failed")


def test_behind_the_front_no_get_is_lost_and_a_post_is_never_sent_twice():
    for promise in BEHIND_FRONT:
        assert verdict(promise.fault, front=True, failed_in_flight={"GET": 1, "POST": 0})[0] == FAIL
        assert verdict(promise.fault, front=True, failed_in_flight={"GET": 0, "POST": 1})[0] == PASS


def test_a_leak_is_never_met_by_the_kernel():
    assert verdict("leak", memory_high_events=3)[0] == FAIL
    assert verdict("leak", oom_kills=1)[0] == FAIL


def test_bounds_are_shown_with_what_they_are_made_of():
    assert bound_words(PROMISE["master-kill"], BOOTS) == "2 + boot = 7.0"
    assert bound_words(PROMISE["worker-kill"], BOOTS) == "1"
    assert bound_words(PROMISE["restart"], BOOTS) == "-"


def test_the_page_shows_each_fault_and_its_failures():
    rows = [
        row_of(PROMISE["worker-kill"], GOOD, BOOTS, True, True),
        row_of(PROMISE["master-kill"], {**GOOD, "back_seconds": 9}, BOOTS, False, True),
        row_of(PROMISE["oom"], {**GOOD, "evidence": ""}, BOOTS, False, True),
    ]
    result = {"machine_boot_seconds": 20.0, "rows": rows}
    text = "\n".join(page(result))
    assert (
        "| one worker killed, behind the front | pid 7 gone | 1 | 0.4 | 4.0 | 1.2 | 0 | 0 of 8 / 0 of 2 | 0 / 0 |"
        in text
    )
    assert "**slow**: 1.8 x the app's boot" in text
    assert "the processor is emulated" in text
    assert "| cgroup OOM, one worker | no |" in text
    assert failures(result) == ["cgroup OOM, one worker: nothing shows that it took effect"]
    assert "the processor is emulated" not in "\n".join(page({**result, "rows": rows[:1]}))


def test_every_fault_is_one_that_can_be_injected(monkeypatch):
    monkeypatch.setattr(bench_recovery, "trial", lambda site, fault: GOOD)
    own = {"leak", "hang", "reboot"}
    for fault in set(PROMISE) - own:
        assert "now" in command(fault, SEEN, "/sys/fs/cgroup/currents")


def row(outcome, started, ended):
    return Row(0, started, started, ended, outcome)


def test_losses_tell_in_flight_from_later_and_forget_what_was_before():
    requests = [
        ("GET", row("empty", 1, 2)),
        ("GET", row("empty", 9, 11)),
        ("POST", row("ok", 9, 14)),
        ("GET", row("reset", 10.2, 11)),
        ("GET", row("refused", 11, 11)),
        ("POST", row("error_status", 11, 12)),
    ]
    found = losses(requests, 10, 10.2)
    assert found["requests"] == 5
    assert found["refused"] == 1
    assert found["in_flight"] == {"GET": 2, "POST": 1}
    assert found["failed_in_flight"] == {"GET": 2, "POST": 0}
    assert found["failed_later"] == {"GET": 0, "POST": 1}
    assert found["longest_wait_seconds"] == 5


def seen(*workers, invocation="a", main=1):
    everyone = [Process(main, 0, "S", 1), *(Process(pid, main, "S", pid) for pid in workers)]
    return Seen(invocation, main, {one.pid: one for one in everyone})


SEEN = seen(10, 11)


class Stream:
    """Visitors who were served again at a moment, or are not yet."""

    def __init__(self):
        self.moment, self.served = 0.0, None

    def now(self):
        return self.moment

    def back(self, since, injected):
        return self.served if self.served is not None and self.served >= since else None


def looks(watch, stream, *moments):
    for moment, served, now in moments:
        stream.moment, stream.served = moment, served
        over = watch.look(now, stream)
    return over


def test_a_killed_worker_is_watched_until_all_has_been_well_for_a_while():
    watch, stream = Watch("worker-kill", SEEN, 5.0), Stream()
    assert not looks(watch, stream, (5.1, None, seen(10, 11)), (5.3, 5.2, seen(11)), (9, 5.2, seen(11, 12)))
    assert looks(watch, stream, (12.1, 5.2, seen(11, 12)))
    assert (watch.proof, watch.after(watch.back), watch.after(watch.whole)) == ("pid 10 gone", 0.2, 4.0)


def test_a_new_start_counts_only_answers_since_then():
    watch, stream = Watch("restart", SEEN, 5.0), Stream()
    assert not looks(watch, stream, (6, 5.5, seen(10, 11)), (7, 5.5, seen(20, invocation="b", main=2)))
    assert watch.back is None
    assert watch.since == 7


def test_a_hang_has_taken_effect_when_all_who_hung_are_gone():
    watch, stream = Watch("hang", SEEN, 5.0), Stream()
    assert not looks(watch, stream, (6, 5.5, seen(10, 11)), (14, 5.5, seen(11, 12)))
    assert watch.proof == ""
    assert not looks(watch, stream, (15, 14.5, seen(12, 13)))
    assert looks(watch, stream, (18.1, 14.5, seen(12, 13)))
    assert watch.after(watch.back) == 9.5
