"""A killed worker and a killed master come back, and visitors are not refused meanwhile."""

from __future__ import annotations


def test_killed_worker_is_replaced(root, show, site, poll):
    master = show("currents.service", "MainPID")
    victim = root.check_output("ps -o pid= --ppid %s", master).split()[0]
    root.check_output("kill -KILL %s", victim)
    poll(lambda: root.run("test -d /proc/%s", victim).rc != 0, 5, "the worker dead")
    poll(lambda: len(root.run("ps -o pid= --ppid %s", master).stdout.split()) == 4, 30, "four workers again")
    assert show("currents.service", "MainPID") == master, "the master went on"
    assert site.get("/health").status == 200


def test_killed_master_comes_back_and_visitors_only_wait(root, show, site, poll):
    master, run = show("currents.service", "MainPID"), show("currents.service", "InvocationID")
    restarts = int(show("currents.service", "NRestarts"))
    root.check_output("kill -KILL %s", master)
    # Asked at once: the socket holds the connection until the app is back.
    assert site.get("/health", seconds=150).status == 200
    poll(lambda: show("currents.service", "ActiveState") == "active", 60, "the service active")
    poll(lambda: show("currents.service", "InvocationID") != run, 30, "a new invocation")
    assert int(show("currents.service", "NRestarts")) == restarts + 1
    assert root.run("test -d /proc/%s", master).rc != 0, "the old master is gone"


def test_master_that_ends_cleanly_is_restarted_too(root, show, site, poll):
    run = show("currents.service", "InvocationID")
    root.check_output("systemctl kill --kill-who=main --signal=TERM currents.service")
    poll(lambda: show("currents.service", "InvocationID") != run, 60, "a new invocation")
    assert site.get("/health", seconds=150).status == 200
