"""What dies comes back; lost is at most what the dead process was working on, and nobody is refused."""

from __future__ import annotations

import pytest

from tests.outside import lost

pytestmark = pytest.mark.usefixtures("well")

THREADS = 4
#: A start of the app, where the processor is emulated and others want it too.
START_SECONDS = 60


def test_killed_worker_costs_at_most_its_own_requests(root, show, visitors, workers, exits, poll):
    master, (victim, bystander) = show("currents.service", "MainPID"), workers()
    before = exits("crash")
    with visitors() as load:
        load.wait(3)
        root.check_output("kill -KILL %s", victim)
        poll(lambda: root.run("test -d /proc/%s", victim).rc != 0, 5, "the worker dead")
        poll(lambda: len(workers()) == 2, 10, "two workers again")
        load.wait(8)
    ledger = load.stop()
    assert sum(lost(ledger).values()) <= THREADS, lost(ledger)
    assert ledger.summary().longest_gap < 3, "the other one served on"
    assert show("currents.service", "MainPID") == master
    assert bystander in workers()
    assert exits("crash") == before + 1, "it is counted"


@pytest.mark.parametrize("keep_alive", [False, True])
def test_killed_master_costs_nothing(root, show, visitors, keep_alive, poll):
    master, restarts = show("currents.service", "MainPID"), int(show("currents.service", "NRestarts"))
    with visitors(keep_alive=keep_alive) as load:
        load.wait(3)
        root.check_output("kill -KILL %s", master)
        poll(lambda: show("currents.service", "MainPID") not in (master, "0"), START_SECONDS, "another master")
        poll(lambda: show("currents.service", "ActiveState") == "active", START_SECONDS, "the service ready")
        load.wait(3)
    ledger = load.stop()
    assert root.run("test -d /proc/%s", master).rc != 0, "the old one is gone"
    assert int(show("currents.service", "NRestarts")) == restarts + 1
    assert lost(ledger) == {}, "in flight included: the workers finish what they have"


def test_killed_service_costs_what_was_in_flight_and_refuses_nobody(root, show, visitors, poll):
    run = show("currents.service", "InvocationID")
    with visitors() as load:
        load.wait(3)
        root.check_output("systemctl kill --signal=KILL currents.service")
        poll(lambda: show("currents.service", "InvocationID") != run, START_SECONDS, "another run")
        poll(lambda: show("currents.service", "ActiveState") == "active", START_SECONDS, "the service ready")
        load.wait(3)
    missing = lost(load.stop())
    assert set(missing) <= {"empty", "reset"}, "broken off, not refused"
    assert sum(missing.values()) <= 2 * THREADS, missing


@pytest.mark.parametrize("keep_alive", [False, True])
def test_graceful_restart_costs_nothing(root, show, visitors, keep_alive):
    run = show("currents.service", "InvocationID")
    with visitors(keep_alive=keep_alive) as load:
        load.wait(3)
        root.check_output("systemctl restart currents.service")
        load.wait(3)
    assert show("currents.service", "InvocationID") != run
    assert lost(load.stop()) == {}


def test_master_that_ends_cleanly_is_started_again_too(root, show, site, poll):
    # As a stop looks to systemd, but nobody asked it to stop the service.
    run = show("currents.service", "InvocationID")
    root.check_output("systemctl kill --kill-who=main --signal=TERM currents.service")
    poll(lambda: show("currents.service", "InvocationID") != run, START_SECONDS, "another run")
    assert site.get("/health", seconds=150).status == 200


def test_nobody_is_refused_while_the_app_is_away(root, show, poll):
    # From inside of the machine: a forwarded port takes a connection whether somebody listens or not.
    root.check_output("systemctl kill --signal=KILL currents.service")
    port = "import socket; socket.create_connection(('127.0.0.1', 5555), 2)"
    assert root.run("python3 -c %s", port).rc == 0
    assert show("currents.service", "ActiveState") != "active", "asked while it was away"
    poll(lambda: show("currents.service", "ActiveState") == "active", START_SECONDS, "the service ready")


def test_app_that_exits_like_a_failed_boot_does_not_stop_the_service(site, show, exits, poll):
    # Gunicorn stops its master, and with it the site, when a worker exits with 3: whenever that is.
    master, before = show("currents.service", "MainPID"), exits("crash")
    with pytest.raises(OSError):
        site.post("/faults/crash?how=exit&code=3", b"", "text/plain")
    poll(lambda: exits("crash") == before + 1, 20, "the worker's end counted")
    assert show("currents.service", "MainPID") == master
