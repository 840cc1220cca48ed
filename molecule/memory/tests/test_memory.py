"""A leak is not a crash: workers retire in turn, visitors lose nothing, and the kernel never has to act."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.outside import lost

pytestmark = [pytest.mark.usefixtures("well"), pytest.mark.needs("memory")]

MIB = 1024**2
HIGH, MAX = 320 * MIB, 384 * MIB
THREADS = 4
#: Who ask at the same time.
VISITORS = 4
#: The promise is 20 s; the rest is the app's start where the processor is emulated.
CURED_SECONDS = 20 + 40
#: A guard looks twice a second: what comes in between it cannot see.
LEAKS_PER_SECOND = 40


@pytest.fixture
def events(root, show):
    """The kernel's counters of the app's memory."""

    def ask() -> dict[str, int]:
        group = show("currents.service", "ControlGroup")
        lines = root.file(f"/sys/fs/cgroup{group}/memory.events").content_string.splitlines()
        return {name: int(count) for name, count in (line.split() for line in lines)}

    return ask


@pytest.fixture
def peak(root, show):
    """The most memory that the app ever had, in bytes."""
    return lambda: int(
        root.file(f"/sys/fs/cgroup{show('currents.service', 'ControlGroup')}/memory.peak").content_string
    )


def test_leak_of_five_times_the_limit_costs_nothing(show, site, exits, events, peak):
    run, before, kernel = show("currents.service", "InvocationID"), exits("memory"), events()

    began = time.monotonic()

    def leak(number: int) -> int | str:
        # Not faster than this on a computer that could.
        time.sleep(max(0.0, began + number / LEAKS_PER_SECOND - time.monotonic()))
        try:
            return site.post("/faults/leak?mb=1", b"", "text/plain", seconds=120).status
        except OSError as error:
            return str(error)

    # Each visitor waits for an answer before asking again: an emulated processor cannot promise a rate.
    with ThreadPoolExecutor(VISITORS) as pool:
        answers = list(pool.map(leak, range(5 * MAX // MIB)))
    assert set(answers) == {200}
    assert exits("memory") >= before + 10, "workers retired"
    assert events() == kernel, "the kernel never slowed it down, and killed nothing"
    assert peak() < HIGH
    assert show("currents.service", "InvocationID") == run


def test_fast_leak_costs_nobody_else_anything(show, site, visitors, events):
    run, kernel = show("currents.service", "InvocationID"), events()
    with visitors() as load:
        for _ in range(60):
            assert site.post("/faults/leak?mb=10", b"", "text/plain", seconds=90).status == 200
    assert lost(load.stop()) == {}
    assert events()["oom_kill"] == kernel["oom_kill"]
    assert show("currents.service", "InvocationID") == run


def test_leak_in_a_thread_that_serves_nobody_is_found(site, visitors, exits, events, poll):
    before, kernel = exits("memory"), events()
    with visitors() as load:
        site.post("/faults/leak-background?mb=10&seconds=120", b"", "text/plain")
        poll(lambda: exits("memory") == before + 1, 90, "the worker retired")
        load.wait(2)
    assert lost(load.stop()) == {}
    assert events()["oom_kill"] == kernel["oom_kill"]


def test_child_that_takes_the_memory_goes_with_its_worker(root, site, visitors, exits, poll):
    before = exits("memory")
    with visitors() as load:
        child = site.post("/faults/child?mb=150", b"", "text/plain").json["child"]
        assert root.run("test -d /proc/%s", str(child)).rc == 0, "it was there"
        poll(lambda: exits("memory") == before + 1, 60, "its worker retired")
        poll(lambda: root.run("test -d /proc/%s", str(child)).rc != 0, 10, "the child gone too")
        load.wait(2)
    assert lost(load.stop()) == {}


def test_one_request_that_takes_everything_is_ended_before_all_stand_still(show, site, visitors, workers, events, poll):
    # MemoryHigh only slows down: such an app would stand still for good, and never be killed.
    run, before, kernel = show("currents.service", "InvocationID"), workers(), events()
    with visitors() as load:
        with pytest.raises(OSError):
            site.post("/faults/allocate?mb=500", b"", "text/plain", seconds=90)
        poll(lambda: len(workers()) == 2 and set(workers()) != set(before), CURED_SECONDS, "another worker")
        load.wait(3)
    ledger = load.stop()
    assert events()["high"] > kernel["high"], "the kernel slowed it down: the fault took effect"
    assert sum(lost(ledger).values()) <= THREADS, "only that worker's own"
    assert ledger.summary().longest_gap < CURED_SECONDS
    assert set(workers()) & set(before), "the other one lives"
    assert show("currents.service", "InvocationID") == run


def test_without_memory_high_the_kernel_ends_one_worker_and_the_others_serve(
    root, show, site, visitors, workers, exits, events, poll
):
    master, before, kernel = show("currents.service", "MainPID"), workers(), events()
    root.check_output("systemctl set-property --runtime currents.service MemoryHigh=infinity")
    try:
        with visitors() as load:
            with pytest.raises(OSError):
                site.post("/faults/allocate?mb=500", b"", "text/plain", seconds=90)
            poll(lambda: events()["oom_kill"] == kernel["oom_kill"] + 1, 30, "one process killed")
            poll(lambda: len(workers()) == 2, 30, "two workers again")
            load.wait(3)
    finally:
        root.check_output("systemctl revert currents.service")
    ledger = load.stop()
    assert show("currents.service", "MainPID") == master, "a worker was chosen, not the master"
    assert set(workers()) & set(before), "the other one lives"
    assert sum(lost(ledger).values()) <= THREADS
    assert ledger.summary().longest_gap < 3


def test_operations_tell_what_the_kernel_tells(root, show, workers, serving, operations, poll):
    poll(lambda: len(serving()) == 2, 120, "two workers that serve")
    facts = json.loads(operations("/memory"))
    group = show("currents.service", "ControlGroup")
    assert facts["group"]["high_bytes"] == HIGH
    assert facts["group"]["max_bytes"] == MAX
    assert facts["group"]["peak_bytes"] == int(root.file(f"/sys/fs/cgroup{group}/memory.peak").content_string)
    assert {str(one["pid"]) for one in facts["workers"]} == set(workers())
    for one in facts["workers"]:
        assert MIB < one["pss_bytes"] <= one["rss_bytes"] < one["share_bytes"] < HIGH // 2
