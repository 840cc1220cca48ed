"""Every decision of the guards, as a table."""

from __future__ import annotations

import pytest

from sitekeeper.verdict import (
    LEAST_GROWTH,
    MIB,
    NOISE,
    Pressure,
    Progress,
    ThreadFacts,
    Waits,
    allowed,
    boot_pause,
    could_help,
    is_alive,
    is_far_over,
    is_over,
    is_stuck,
    is_throttled,
    largest,
    share,
    takes_the_rest,
    waits_for,
)

HANG, LIMIT = 8.0, 300.0
# As the kernel prints them: the number, six arguments, stack pointer, program counter.
ENDLESS = "{} 0x7f01 0x189 0x0 0x0 0x0 0xffffffff 0x7ffd 0x7f02"
LIMITED = "{} 0x7f01 0x189 0x0 0x7ffc01 0x0 0xffffffff 0x7ffd 0x7f02"


@pytest.mark.parametrize(
    ("line", "machine", "waits"),
    [
        ("running", "x86_64", Waits.RUNNING),
        ("-1 0x7ffd 0x7f02", "x86_64", Waits.RUNNING),
        ("", "x86_64", Waits.RUNNING),
        (ENDLESS.format(202), "x86_64", Waits.LOCK),
        (LIMITED.format(202), "x86_64", Waits.TIME),
        (ENDLESS.format(98), "aarch64", Waits.LOCK),
        (LIMITED.format(98), "aarch64", Waits.TIME),
        (ENDLESS.format(98), "x86_64", Waits.OUTSIDE),
        (ENDLESS.format(202), "aarch64", Waits.OUTSIDE),
        (ENDLESS.format(202), "riscv64", Waits.OUTSIDE),
        (ENDLESS.format(230), "x86_64", Waits.TIME),
        (ENDLESS.format(35), "x86_64", Waits.TIME),
        (ENDLESS.format(115), "aarch64", Waits.TIME),
        (ENDLESS.format(101), "aarch64", Waits.TIME),
        (ENDLESS.format(230), "riscv64", Waits.OUTSIDE),
        (ENDLESS.format(45), "x86_64", Waits.OUTSIDE),
        ("202", "x86_64", Waits.OUTSIDE),
    ],
)
def test_the_kernel_s_line_says_what_a_thread_waits_for(line, machine, waits):
    assert waits_for(line, machine) is waits


def thread(waits, still=20.0, age=20.0, answering=False):
    return ThreadFacts(request_age=age, answering=answering, still=still, waits=waits)


DEADLOCK = thread(Waits.LOCK)


@pytest.mark.parametrize(
    ("one", "others", "stuck"),
    [
        pytest.param(DEADLOCK, [], True, id="a lock, alone"),
        pytest.param(DEADLOCK, [thread(Waits.LOCK)], True, id="two that wait for each other"),
        pytest.param(DEADLOCK, [thread(Waits.LOCK, still=11)], True, id="the second joined them a while ago"),
        pytest.param(DEADLOCK, [thread(Waits.LOCK, still=2)], False, id="the other moved a moment ago"),
        pytest.param(thread(Waits.LOCK, still=7.9), [], False, id="not for long enough"),
        pytest.param(thread(Waits.OUTSIDE), [], False, id="a slow upstream"),
        pytest.param(thread(Waits.TIME), [], False, id="a sleep"),
        pytest.param(thread(Waits.RUNNING, still=0), [], False, id="a long computation"),
        pytest.param(thread(Waits.RUNNING), [], False, id="a computation that gets no processor"),
        pytest.param(DEADLOCK, [thread(Waits.RUNNING, still=0, age=None)], False, id="a helper at work"),
        pytest.param(DEADLOCK, [thread(Waits.OUTSIDE, age=None)], False, id="a helper that asks an upstream"),
        pytest.param(DEADLOCK, [thread(Waits.LOCK, age=None)], True, id="a helper with nothing to do"),
        pytest.param(DEADLOCK, [thread(Waits.RUNNING, still=0, age=25)], False, id="an older request at work"),
        pytest.param(DEADLOCK, [thread(Waits.RUNNING, still=0, age=5)], True, id="a later request is no helper"),
        pytest.param(DEADLOCK, [thread(Waits.OUTSIDE, still=3, age=3)], True, id="a later one that waits is none"),
        pytest.param(thread(Waits.LOCK, answering=True), [], False, id="a streaming answer"),
        pytest.param(thread(Waits.LOCK, still=999, answering=True), [], False, id="a very long streaming answer"),
        pytest.param(thread(Waits.LOCK, age=None), [], False, id="no request"),
        pytest.param(thread(Waits.TIME, still=300), [], True, id="an endless sleep meets the long limit"),
        pytest.param(thread(Waits.OUTSIDE, still=300), [], True, id="so does an upstream that never answers"),
        pytest.param(
            thread(Waits.LOCK, still=300), [thread(Waits.RUNNING, 0, None)], True, id="so does one that has helpers"
        ),
        pytest.param(thread(Waits.OUTSIDE, still=299), [], False, id="a moment before the long limit"),
        pytest.param(thread(Waits.RUNNING, still=0, age=900), [], False, id="moving, whatever its age"),
    ],
)
def test_only_a_request_that_will_never_end_is_stuck(one, others, stuck):
    assert is_stuck(one, others, HANG, LIMIT) is stuck


@pytest.mark.parametrize(
    ("other", "helps"),
    [
        (thread(Waits.LOCK, still=10, age=None), False),
        (thread(Waits.LOCK, still=9.9, age=None), True),
        (thread(Waits.TIME, age=None), True),
        (thread(Waits.RUNNING, age=20), True),
        (thread(Waits.RUNNING, age=19.9), False),
    ],
)
def test_a_helper_was_there_before_and_does_not_wait_itself(other, helps):
    assert could_help(other, DEADLOCK) is helps


def test_the_workers_share_what_the_master_and_the_kernel_s_part_leave():
    assert share(1000 * MIB, 100 * MIB, 4) == 200 * MIB
    assert share(100 * MIB, 200 * MIB, 4) == 0
    assert share(None, 100 * MIB, 4) is None


def test_a_worker_may_always_grow_a_little():
    assert allowed(200 * MIB, 50 * MIB) == 200 * MIB
    assert allowed(0, 50 * MIB) == 50 * MIB + LEAST_GROWTH
    assert allowed(None, 50 * MIB) is None


@pytest.mark.parametrize(
    ("memory", "may", "over", "far"),
    [
        (100, 100, False, False),
        (101, 100, True, False),
        (125, 100, True, False),
        (126, 100, True, True),
        (10**12, None, False, False),
    ],
)
def test_a_worker_is_over_and_a_quarter_more_is_far_over(memory, may, over, far):
    assert (is_over(memory, may), is_far_over(memory, may)) == (over, far)


@pytest.mark.parametrize(
    ("grown", "together", "planned", "takes"),
    [
        (NOISE + 1, 101, 100, True),
        (NOISE, 101, 100, False),
        (NOISE + 1, 100, 100, False),
        (NOISE + 1, 10**12, None, False),
    ],
)
def test_only_who_grows_takes_what_is_left_and_only_where_little_is(grown, together, planned, takes):
    assert takes_the_rest(50 * MIB + grown, 50 * MIB, together, planned) is takes


def test_the_pauses_after_failed_boots_double_up_to_a_minute():
    assert [boot_pause(failures) for failures in range(10)] == [0, 0, 1, 2, 4, 8, 16, 32, 60, 60]
    assert boot_pause(10**9) == 60


def looks(*events, anon=950, high=1000):
    return [Pressure(anon=anon, high=high, events=number) for number in events]


@pytest.mark.parametrize(
    ("seen", "throttled"),
    [
        pytest.param(looks(1, 2, 3), True, id="events grow from look to look"),
        pytest.param(looks(1, 2, 2), False, id="events do not grow any more"),
        pytest.param(looks(1, 1, 2), False, id="they did not grow at first"),
        pytest.param(looks(1), False, id="one look"),
        pytest.param([], False, id="none"),
        pytest.param(looks(1, 2, 3, anon=899), False, id="the page cache alone"),
        pytest.param(looks(1, 2) + looks(3, anon=100), False, id="the app gave memory back"),
        pytest.param(looks(1, 2, 3, high=None), False, id="no limit"),
    ],
)
def test_the_kernel_slows_the_app_down_while_its_events_grow_at_the_limit(seen, throttled):
    assert is_throttled(seen) is throttled


def progress(**seen):
    nothing = {"probe_answered": False, "requests": 0, "excused": False, "repaired": False, "throttled": False}
    return Progress(**nothing | seen)


@pytest.mark.parametrize(
    ("seen", "alive"),
    [
        ({}, False),
        ({"probe_answered": True}, True),
        ({"requests": 1}, True),
        ({"excused": True}, True),
        ({"repaired": True}, True),
        ({"throttled": True}, False),
        ({"throttled": True, "requests": 1, "excused": True, "repaired": True}, False),
        ({"throttled": True, "probe_answered": True}, True),
    ],
)
def test_alive_is_who_answers_or_has_a_good_reason_not_to(seen, alive):
    assert is_alive(progress(**seen)) is alive


def test_the_largest_is_the_one_with_the_most_memory():
    assert largest({10: 5, 11: 7, 12: 6}) == 11
    assert largest({}) is None
