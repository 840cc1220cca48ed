"""Behind the front a dead worker costs no GET, and nothing that is not idempotent is sent twice."""

from __future__ import annotations

import json
import urllib.request

import pytest

from tests.outside import lost

pytestmark = pytest.mark.usefixtures("well")

#: A start of the app, where the processor is emulated.
START_SECONDS = 60
SLUG = "will-solar-double-its-output"
TWICE = (
    "import sqlite3; print(sqlite3.connect('/var/lib/currents/currents.db').execute("
    "\"SELECT count(*) FROM (SELECT voter FROM votes WHERE voter LIKE 'once-%' GROUP BY voter HAVING count(*) > 1)\""
    ").fetchone()[0])"
)


def test_front_holds_the_port_and_the_app_a_socket_that_others_cannot_open(root, show):
    assert show("currents-front.socket", "ActiveState") == show("currents-front.service", "ActiveState") == "active"
    assert "5555" not in show("currents.socket", "Listen")
    assert root.file("/run/sitekeeper/currents.http").mode == 0o660
    assert root.run("systemd-analyze security --no-pager --threshold=9 currents-front.service").rc == 0


def test_killed_workers_cost_no_get(root, site, visitors, workers, serving, poll):
    with visitors(rate=8) as load:
        for _ in range(4):
            victim = workers()[0]
            root.check_output("kill -KILL %s", victim)
            poll(lambda gone=victim: gone not in workers(), START_SECONDS, "the worker dead")
            # A request is sent once more, and not twice: it must find one that serves, and none may wait from before.
            poll(lambda: len(serving()) == 2, 2 * START_SECONDS, "two workers that serve")
            poll(lambda: site.healthy("/api/hero"), START_SECONDS, "nobody waiting any more")
    assert lost(load.stop()) == {}


@pytest.mark.parametrize("unit", ["currents.service", "currents-front.service"])
def test_killed_main_process_costs_no_get_but_those_inside_of_the_front(root, show, visitors, unit, poll):
    run = show(unit, "InvocationID")
    with visitors() as load:
        load.wait(3)
        root.check_output("systemctl kill --kill-who=main --signal=KILL %s", unit)
        killed = load.now()
        poll(lambda: show(unit, "InvocationID") != run, START_SECONDS, "started anew")
        poll(lambda: show(unit, "ActiveState") == "active", START_SECONDS, "ready")
        load.wait(3)
    missing = [row for row in load.stop().rows if row.outcome != "ok"]
    # A dead front takes along what it had in hand; whoever comes while it is away waits.
    assert len(missing) <= (2 if "front" in unit else 0), missing
    assert all(row.started < killed for row in missing), missing


def test_restart_costs_no_get(root, visitors):
    with visitors() as load:
        load.wait(3)
        root.check_output("systemctl restart currents.service")
        load.wait(3)
    assert lost(load.stop()) == {}


def test_vote_is_never_sent_twice(root, site, workers, poll):
    acknowledged = 0
    for number in range(40):
        body = json.dumps({"choice": "yes", "user": f"once-{number}"}).encode()
        if number % 10 == 5:
            root.check_output("kill -KILL %s", workers()[0])
        request = urllib.request.Request(
            f"{site.url}/api/markets/{SLUG}/vote", body, {"Content-Type": "application/json"}, method="POST"
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                acknowledged += answer.status == 201
        except OSError:
            # Told that it failed: whoever sent it decides whether to send it again.
            continue
    assert acknowledged >= 30
    assert root.check_output("python3 -c %s", TWICE) == "0"


def test_metrics_and_the_like_stay_inside(site):
    assert site.get("/metrics").status == 404
