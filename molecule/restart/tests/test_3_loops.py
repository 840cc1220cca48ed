"""It never gives up and never hammers."""

from __future__ import annotations

import re
import threading

import pytest

pytestmark = pytest.mark.usefixtures("well")

#: The longest pause, and a start.
HEALED_SECONDS = 60 + 60
#: On the machine: five within a minute is what the master calls a loop, and each question from here costs seconds. Only
#: workers that have loaded the app: the end of another one counts as a boot that failed.
FIVE_DEATHS = """
import json, os, signal, socket, time

def ask():
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect("/run/currents/operations.sock")
        connection.sendall(b"GET /memory HTTP/1.0\\r\\n\\r\\n")
        return json.loads(connection.makefile(newline="").read().partition("\\r\\n\\r\\n")[2])

end = time.monotonic() + 240
before = ask()["worker_exits"]["crash"]
while (dead := (told := ask())["worker_exits"]["crash"] - before) < 5 and time.monotonic() < end:
    for one in [one for one in told["workers"] if one["state"] == "serves"][: 5 - dead]:
        os.kill(one["pid"], signal.SIGSEGV)
    time.sleep(0.3)
"""


def test_app_that_cannot_start_is_tried_with_growing_pauses_and_heals_by_itself(root, show, site, poll):
    program = root.check_output("readlink -f /srv/currents/current/venv/bin/gunicorn")
    begin = root.check_output("date +%s")
    waited: list[int] = []
    visitor = threading.Thread(target=lambda: waited.append(site.get("/health", seconds=240).status))
    root.check_output("mv %s %s.away", program, program)
    try:
        root.check_output("systemctl kill --signal=KILL currents.service")
        visitor.start()

        def pauses() -> list[int]:
            lines = root.run("journalctl -q --no-pager -u currents.service --since=@%s -o cat", begin).stdout
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


def test_loop_of_dying_workers_is_counted_and_reported(root, show, site, serving, exits, poll):
    master, restarts, before = (
        show("currents.service", "MainPID"),
        show("currents.service", "NRestarts"),
        exits("crash"),
    )
    root.check_output("python3 -c %s", FIVE_DEATHS)
    assert exits("crash") >= before + 5
    poll(lambda: len(serving()) == 2, 120, "two workers again")
    assert show("currents.service", "MainPID") == master
    assert show("currents.service", "NRestarts") == restarts, "systemd saw nothing of it"
    assert "worker crash loop" in root.check_output("journalctl -q --no-pager -u currents.service --since=-120s -o cat")
    assert site.healthy()
