"""File logs rotate, and no line is lost while they do."""

from __future__ import annotations

import threading

ROTATIONS = 5
REQUESTS = 150


def test_logs_rotate_without_losing_a_counted_line(root, site, poll):
    before = rotated(root)
    answered = []

    def visit():
        for number in range(REQUESTS):
            if site.get(f"/api/hero?counted={number}").status == 200:
                answered.append(number)

    visitor = threading.Thread(target=visit)
    visitor.start()
    for turn in range(1, ROTATIONS + 1):
        # Wait for new lines, so that every rotation cuts through the stream of requests.
        poll(lambda turn=turn: len(answered) >= turn * REQUESTS // (ROTATIONS + 1), 120, "requests being answered")
        root.check_output("logrotate --force /etc/logrotate.d/currents")
    visitor.join(120)
    assert len(answered) == REQUESTS
    assert len(rotated(root)) >= len(before) + ROTATIONS, "the rotations happened"

    def logged():
        lines = root.check_output("zcat --force /var/log/currents/access.log*")
        return {number for number in range(REQUESTS) if f'counted={number}"' in lines}

    poll(lambda: len(logged()) == REQUESTS, 20, "every answered request in one of the logs")


def test_new_lines_land_in_the_new_file(root, site, poll):
    root.check_output("logrotate --force /etc/logrotate.d/currents")
    site.get("/api/hero?after=rotation")
    poll(
        lambda: root.run("grep -q after=rotation /var/log/currents/access.log").rc == 0,
        20,
        "the line in the new file",
    )


def test_sizes_are_capped(root):
    configuration = root.file("/etc/logrotate.d/currents").content_string
    assert "maxsize 10M" in configuration
    assert "rotate 14" in configuration
    assert root.run("logrotate --debug /etc/logrotate.d/currents").rc == 0
    timer = root.check_output("systemctl show logrotate.timer --property=TimersCalendar")
    assert "OnCalendar=*-*-* *:00:00" in timer, "sizes are looked at every hour"


def rotated(root) -> set[str]:
    return set(root.check_output("ls /var/log/currents").split()) - {"access.log"}
