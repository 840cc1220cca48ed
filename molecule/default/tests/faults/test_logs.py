"""File logs rotate, and no line is lost while they do."""

from __future__ import annotations

import re
import threading

ROTATIONS = 4
#: Requests that are answered before each of them.
BETWEEN = 10


def test_logs_rotate_without_losing_a_counted_line(root, site, poll):
    before = rotated(root)
    answered: list[int] = []
    enough = threading.Event()

    def visit():
        while not enough.is_set():
            number = len(answered)
            if site.get(f"/api/hero?counted={number}end").status == 200:
                answered.append(number)

    visitor = threading.Thread(target=visit)
    visitor.start()
    try:
        for rotation in range(ROTATIONS):
            # There are lines in the new file, and more are coming: the rotation cuts through the stream.
            some = BETWEEN * (rotation + 1)
            poll(lambda some=some: len(answered) >= some, 60, f"{some} answered requests")
            poll(lambda: root.run("test -s /var/log/currents/access.log").rc == 0, 60, "lines in the new file")
            rotate(root, poll)
    finally:
        enough.set()
        visitor.join(60)
    assert len(rotated(root)) >= len(before) + ROTATIONS, "the rotations happened"

    def logged() -> set[int]:
        lines = root.check_output("zcat --force /var/log/currents/access.log*")
        return {int(number) for number in re.findall(r"counted=(\d+)end", lines)}

    poll(lambda: logged() >= set(answered), 20, "every answered request in one of the logs")


def test_new_lines_land_in_the_new_file(root, site, poll):
    rotate(root, poll)

    def written() -> bool:
        # Asked each time: a worker may have written the one before to the old file, for it had not looked up yet.
        assert site.get("/api/hero?after=rotation").status == 200
        return root.run("grep -q after=rotation /var/log/currents/access.log").rc == 0

    poll(written, 20, "the line in the new file")


def test_sizes_are_capped(root):
    configuration = root.file("/etc/logrotate.d/currents").content_string
    assert "maxsize 10M" in configuration
    assert "rotate 14" in configuration
    timer = root.check_output("systemctl show logrotate.timer --property=TimersCalendar")
    assert "OnCalendar=*-*-* *:00:00" in timer, "sizes are looked at every hour"


def rotate(root, poll) -> None:
    """Rotate now, and not twice in one second: names end in it, and logrotate refuses one that is taken."""
    poll(lambda: root.run("ls /var/log/currents/*-$(date +%s)*").rc != 0, 10, "a second without a rotation")
    # At the full hour the timer's own run may hold the lock.
    poll(lambda: root.run("logrotate --force /etc/logrotate.d/currents").rc == 0, 30, "rotated")


def rotated(root) -> set[str]:
    return set(root.check_output("ls /var/log/currents").split()) - {"access.log"}
