"""It never gives up and never hammers."""

from __future__ import annotations

import json
import re
import threading

import pytest

pytestmark = pytest.mark.usefixtures("well")

#: The longest pause, and a start.
HEALED_SECONDS = 60 + 60


def test_app_that_cannot_start_is_tried_with_growing_pauses_and_heals_by_itself(root, show, site, poll):
    program = root.check_output("readlink -f /srv/currents/current/venv/bin/gunicorn")
    waited: list[int] = []
    visitor = threading.Thread(target=lambda: waited.append(site.get("/health", seconds=240).status))
    root.check_output("mv %s %s.away", program, program)
    try:
        root.check_output("systemctl kill --signal=KILL currents.service")
        visitor.start()

        def pauses() -> list[int]:
            lines = root.run("journalctl -q --no-pager -u currents.service --since=-120s -o cat").stdout
            return [int(seconds) for seconds in re.findall(r"waiting (\d+) s", lines)]

        poll(lambda: len(pauses()) >= 4, 90, "four pauses")
        assert pauses()[:4] == [1, 2, 4, 8]
        assert show("currents.socket", "ActiveState") == "active", "the port is still held"
        assert show("currents.service", "ActiveState") != "failed", "it goes on trying"
    finally:
        root.check_output("mv %s.away %s", program, program)
    # Nobody starts it: it comes back alone.
    poll(lambda: show("currents.service", "ActiveState") == "active", HEALED_SECONDS, "back by itself")
    visitor.join(60)
    assert waited == [200], "who asked during the outage was answered"


def test_start_by_hand_does_not_wait_for_the_pause(root, show):
    # The sentence before left a count of failed starts.
    root.check_output("timeout 60 systemctl restart currents.service")
    assert "waiting" not in root.check_output(
        "journalctl -q --no-pager -o cat _SYSTEMD_INVOCATION_ID=%s", show("currents.service", "InvocationID")
    )


def test_loop_of_dying_workers_is_counted_and_reported(root, show, site, operations, exits, poll):
    master, restarts, before = (
        show("currents.service", "MainPID"),
        show("currents.service", "NRestarts"),
        exits("crash"),
    )

    def serving():
        """The workers that have loaded the app: the end of another one counts as a boot that failed."""
        return [one["pid"] for one in json.loads(operations("/memory"))["workers"] if one["state"] == "serves"]

    for number in range(5):
        poll(serving, 40, "a worker that serves")
        root.check_output("kill -SEGV %s", str(serving()[0]))
        poll(lambda wanted=before + number + 1: exits("crash") >= wanted, 20, "the end of a worker counted")
    poll(lambda: len(serving()) == 2, 40, "two workers again")
    assert show("currents.service", "MainPID") == master
    assert show("currents.service", "NRestarts") == restarts, "systemd saw nothing of it"
    assert "worker crash loop" in root.check_output("journalctl -q --no-pager -u currents.service --since=-120s -o cat")
    assert site.healthy()
