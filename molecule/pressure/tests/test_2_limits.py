"""The kernel takes processes or memory away: the host stays usable, and the app is back when the cause is gone."""

from __future__ import annotations

import re

import pytest

from tests.outside import lost

pytestmark = [pytest.mark.usefixtures("well"), pytest.mark.needs("memory", "kernel")]

GIB = 1024**3
#: Until the app has started, where the processor is emulated.
START_SECONDS = 120
#: The longest pause between two starts, and a start.
HEALED_SECONDS = 60 + START_SECONDS
BOMB = (
    "import os, subprocess, time\n"
    "open('/sys/fs/cgroup{group}/cgroup.procs', 'w').write(str(os.getpid()))\n"
    "kept = []\n"
    "try:\n"
    "    while True:\n"
    "        kept.append(subprocess.Popen(['sleep', '3600'], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))\n"
    "except OSError as error:\n"
    "    print(len(kept), error)\n"
)
HOG = "import time; kept = [bytearray(b'z' * (8 << 20)) for _ in range(1024)]; time.sleep(60)"


@pytest.fixture
def killed(root):
    """What the kernel killed for want of memory since the sentence began, as it says so."""
    begin = root.check_output("date +%s")

    def ask() -> list[str]:
        lines = root.check_output("journalctl -k -q --no-pager -o cat --since=@%s", begin)
        return re.findall(r"Killed process (\d+)", lines)

    return ask


@pytest.mark.parametrize(
    ("file", "value"), [("memory.max", GIB), ("memory.high", 800 * 1024**2), ("memory.swap.max", 0), ("pids.max", 256)]
)
def test_kernel_holds_the_limit_that_was_asked_for(root, show, file, value):
    group = show("currents.service", "ControlGroup")
    assert root.file(f"/sys/fs/cgroup{group}/{file}").content_string.strip() == str(value)


def test_a_fork_bomb_stops_at_its_own_limit_and_a_restart_clears_it(root, site, show, poll):
    group = show("currents.service", "ControlGroup")
    made = root.check_output("python3 -c %s", BOMB.format(group=group))
    assert "Resource temporarily unavailable" in made
    assert int(root.file(f"/sys/fs/cgroup{group}/pids.events").content_string.split()[1]) > 0, "the limit was met"
    assert int(made.split()[0]) < int(show("currents.service", "TasksMax"))
    assert root.run("sh -c 'sleep 0.1 & wait'").rc == 0, "others start processes as before"
    root.check_output("systemctl restart currents.service")
    assert root.run("pgrep -x sleep").rc != 0, "nothing of it is left"
    poll(site.healthy, START_SECONDS, "the site well")


def test_a_child_whose_worker_died_is_gone_after_a_restart(root, site, workers, poll):
    child = site.post("/faults/child?mb=1", b"", "text/plain").json["child"]
    parent = root.check_output("ps -o ppid= -p %s", str(child)).strip()
    root.check_output("kill -KILL %s", parent)
    poll(lambda: parent not in workers() and len(workers()) == 2, 60, "another worker")
    root.check_output("systemctl restart currents.service")
    assert root.run("test -d /proc/%s", str(child)).rc != 0


def test_a_limit_that_no_start_fits_into_is_tried_with_pauses_and_heals_by_itself(root, show, site, poll):
    begin = root.check_output("date +%s")
    root.check_output("systemctl set-property --runtime currents.service MemoryMax=24M MemoryHigh=infinity")
    try:
        root.check_output("systemctl kill --signal=KILL currents.service")

        def pauses() -> list[int]:
            lines = root.check_output("journalctl -q --no-pager -u currents.service --since=@%s -o cat", begin)
            return [int(seconds) for seconds in re.findall(r"waiting (\d+) s", lines)]

        poll(lambda: len(pauses()) >= 3, 200, "three pauses")
        assert pauses()[:3] == sorted(pauses()[:3]), "they grow"
        assert (
            "oom" in root.check_output("journalctl -q --no-pager -u currents.service --since=@%s -o cat", begin).lower()
        )
        assert show("currents.service", "ActiveState") != "failed"
    finally:
        root.check_output("systemctl revert currents.service")
    poll(site.healthy, HEALED_SECONDS, "back by itself")


def test_a_master_that_the_kernel_chooses_is_started_again_and_costs_nothing(root, show, visitors, killed, poll):
    master = show("currents.service", "MainPID")
    with visitors() as load:
        load.wait(3)
        root.check_output("choom -n 1000 -p %s", master)
        root.check_output("echo f > /proc/sysrq-trigger")
        poll(lambda: master in killed(), 30, "the master killed for want of memory")
        poll(lambda: show("currents.service", "MainPID") not in (master, "0"), START_SECONDS, "another master")
        poll(lambda: show("currents.service", "ActiveState") == "active", START_SECONDS, "the service ready")
        load.wait(3)
    assert lost(load.stop()) == {}, "its workers finish what they have; the socket holds the rest"


def test_another_process_that_takes_the_host_s_memory_dies_and_not_the_app(root, show, site, workers, killed, poll):
    ours = {show("currents.service", "MainPID"), *workers()}
    root.check_output("systemd-run --unit=hog -p OOMScoreAdjust=500 -p MemorySwapMax=0 python3 -c %s", HOG)
    try:
        poll(killed, 120, "the kernel killed for want of memory")
        poll(lambda: show("hog.service", "Result") == "oom-kill", 30, "the hog gone")
    finally:
        root.check_output("systemctl reset-failed hog.service")
    assert not ours & set(killed()), "the kernel chose nobody of the app"
    # Before the kernel kills, the whole host may stand still for longer than systemd waits for the app's sign of life
    # (seen where the processor is emulated): then the app starts anew as soon as there is room.
    poll(site.healthy, 10 + START_SECONDS, "the site well")
