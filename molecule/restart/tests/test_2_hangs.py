"""What hangs is noticed and cured; what is only slow is left alone."""

from __future__ import annotations

import threading

import pytest

from tests.outside import lost

pytestmark = pytest.mark.usefixtures("well")

THREADS = 4
#: The promise is 20 s; the rest is the app's start where the processor is emulated.
CURED_SECONDS = 20 + 40
SLUG = "will-solar-double-its-output"


def ask_in_background(site, path: str, times: int) -> list[threading.Thread]:
    """Send requests that may never be answered."""

    def one() -> None:
        try:
            answers.append(site.post(path, b"", "text/plain", seconds=90).status)
        except OSError:
            answers.append(0)

    answers: list[int] = []
    threads = [threading.Thread(target=one, daemon=True) for _ in range(times)]
    for thread in threads:
        thread.answers = answers
        thread.start()
    return threads


def state_of(root, pid: str) -> str:
    return root.check_output("ps -o stat= -p %s", pid)[0]


def test_stopped_worker_is_replaced(root, visitors, workers, poll):
    victim, other = workers()
    with visitors() as load:
        load.wait(2)
        root.check_output("kill -STOP %s", victim)
        assert state_of(root, victim) == "T"
        poll(lambda: victim not in workers() and len(workers()) == 2, CURED_SECONDS, "another worker")
        load.wait(2)
    assert other in workers()
    assert sum(lost(load.stop()).values()) <= THREADS, "no more than it was working on"


def test_service_answers_again_when_all_workers_are_stopped(root, show, visitors, workers, poll):
    victims, master = workers(), show("currents.service", "MainPID")
    with visitors() as load:
        load.wait(2)
        root.check_output("kill -STOP %s %s", *victims)
        assert {state_of(root, victim) for victim in victims} == {"T"}
        poll(lambda: not set(victims) & set(workers()) and len(workers()) == 2, CURED_SECONDS, "other workers")
        load.wait(5)
    ledger = load.stop()
    assert ledger.summary().longest_gap < CURED_SECONDS
    assert sum(lost(ledger).values()) <= 2 * THREADS, lost(ledger)
    assert show("currents.service", "MainPID") == master, "nothing else had to go"


def test_stopped_master_is_noticed_and_costs_nothing(root, show, visitors, poll):
    master, run = show("currents.service", "MainPID"), show("currents.service", "InvocationID")
    with visitors() as load:
        load.wait(2)
        root.check_output("kill -STOP %s", master)
        assert state_of(root, master) == "T"
        poll(lambda: show("currents.service", "InvocationID") != run, CURED_SECONDS, "started anew by the watchdog")
        poll(lambda: show("currents.service", "ActiveState") == "active", CURED_SECONDS, "ready")
        load.wait(2)
    assert "Watchdog timeout" in root.check_output("journalctl -q --no-pager -u currents.service --since=-120s")
    assert lost(load.stop()) == {}


def test_service_answers_again_when_all_threads_hang(root, show, site, visitors, workers, exits, poll):
    victims, master, before = workers(), show("currents.service", "MainPID"), exits("hang")
    with visitors() as load:
        load.wait(2)
        ask_in_background(site, "/faults/hang", 2 * THREADS)
        # While they hang nobody is answered: the fault took effect.
        poll(lambda: not set(victims) & set(workers()) and len(workers()) == 2, CURED_SECONDS, "other workers")
        load.wait(5)
    ledger = load.stop()
    assert exits("hang") >= before + 2
    assert 5 < ledger.summary().longest_gap < CURED_SECONDS
    assert lost(ledger) == {}, "those who only waited were served"
    assert show("currents.service", "MainPID") == master
    assert "FOR_EVER" in root.check_output("journalctl -q --no-pager -u currents.service --since=-120s") or (
        "faults.py" in root.check_output("journalctl -q --no-pager -u currents.service --since=-120s")
    ), "the stacks are kept"


def test_deadlock_costs_one_worker(site, workers, exits, poll):
    victims, before = workers(), exits("hang")
    ask_in_background(site, "/faults/deadlock", 1)
    poll(lambda: exits("hang") == before + 1, CURED_SECONDS, "the worker replaced")
    poll(lambda: len(workers()) == 2, 60, "two workers")
    assert len(set(victims) & set(workers())) == 1, "only the one"


def test_request_that_keeps_the_database_locked_is_ended(site, exits, poll):
    before = exits("hang")
    ask_in_background(site, "/faults/hang?holding=database", 1)

    def vote() -> int:
        return site.post(f"/api/markets/{SLUG}/vote", b'{"choice": "yes"}', "application/json").status

    poll(lambda: vote() == 503, 20, "votes refused: the fault took effect")
    poll(lambda: vote() == 201, CURED_SECONDS, "votes taken again")
    assert exits("hang") == before + 1
    assert site.get("/").status == 200


def test_slow_requests_on_all_threads_are_no_hang(show, site, workers, poll):
    before, run = sorted(workers()), show("currents.service", "InvocationID")
    # Longer than a deadlock may last, and than systemd waits for a sign of life.
    threads = ask_in_background(site, "/faults/slow?seconds=25", 2 * THREADS)
    for thread in threads:
        thread.join(90)
    assert threads[0].answers == [200] * len(threads)
    assert (sorted(workers()), show("currents.service", "InvocationID")) == (before, run), "nobody was ended"


def test_stop_that_takes_too_long_is_not_waited_for(root, show, site):
    run = show("currents.service", "InvocationID")
    ask_in_background(site, "/faults/slow?seconds=300", 1)
    root.check_output("timeout 90 systemctl restart currents.service")
    assert show("currents.service", "InvocationID") != run


@pytest.mark.parametrize("endpoint", ["/livez", "/readyz", "/memory", "/metrics"])
def test_operations_endpoint_answers_locally_and_never_through_the_port(root, site, operations, endpoint):
    assert operations(endpoint)
    assert site.get(endpoint).status == 404
    assert root.file("/run/currents/operations.sock").mode == 0o660
    assert root.file("/run/currents").mode == 0o750
