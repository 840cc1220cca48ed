"""Too many visitors, slow ones, and requests that burn the processor: others are served, and nothing is restarted."""

from __future__ import annotations

import json
import threading

import pytest

from tests.outside import lost

pytestmark = [pytest.mark.usefixtures("well"), pytest.mark.needs("memory")]

SLOW, CROWD = 200, 150
PARTS = {
    "silent": "",
    "half a head": "GET / HTTP/1.1\\r\\nHost: site\\r\\n",
    "half a body": "POST /api/markets/x/vote HTTP/1.1\\r\\nHost: site\\r\\nContent-Length: 4\\r\\n\\r\\nab",
}
#: On the machine: the port forwarded to it takes connections of its own accord, and not so many at once.
HOLD = (
    "import socket, time\n"
    "kept = [socket.create_connection(('127.0.0.1', 5555), 60) for _ in range({count})]\n"
    "for one in kept:\n"
    "    one.sendall(b'{part}')\n"
    "time.sleep(600)\n"
)
ASK = (
    "import collections, concurrent.futures, json, urllib.request\n"
    "def ask(_):\n"
    "    try:\n"
    "        return urllib.request.urlopen('http://127.0.0.1:5555/api/hero', timeout=300).status\n"
    "    except OSError as error:\n"
    "        return str(error)\n"
    "with concurrent.futures.ThreadPoolExecutor({count}) as pool:\n"
    "    print(json.dumps(collections.Counter(pool.map(ask, range(2 * {count})))))\n"
)


@pytest.fixture
def alive(show):
    """A sentence after which the app still runs as it did before."""
    before = [show("currents.service", name) for name in ("InvocationID", "MainPID", "NRestarts")]
    yield
    assert [show("currents.service", name) for name in ("InvocationID", "MainPID", "NRestarts")] == before


@pytest.mark.usefixtures("alive")
@pytest.mark.parametrize("part", PARTS)
def test_visitors_who_send_slowly_keep_nobody_waiting(root, visitors, poll, part):
    def there() -> int:
        return int(root.check_output("ss --no-header --tcp state established '( sport = :5555 )' | wc -l"))

    root.check_output(
        "systemd-run --quiet --collect --unit=crowd python3 -c %s", HOLD.format(count=SLOW, part=PARTS[part])
    )
    try:
        poll(lambda: there() >= SLOW, 60, "the crowd there")
        with visitors() as load:
            load.wait(12)
        ledger = load.stop()
    finally:
        root.check_output("systemctl stop crowd.service")
    assert lost(ledger) == {}
    assert ledger.summary().longest_gap < 5


@pytest.mark.usefixtures("alive")
def test_a_crowd_is_served_in_turn_and_harms_nothing(site, poll, root, show):
    memory = f"/sys/fs/cgroup{show('currents.service', 'ControlGroup')}/memory.events"
    before = root.file(memory).content_string
    answers = json.loads(root.check_output("python3 -c %s", ASK.format(count=CROWD)))
    assert answers == {"200": 2 * CROWD}, "the kernel's queue holds who waits"
    poll(lambda: site.get("/health", seconds=5).status == 200, 10, "well at once")
    assert root.file(memory).content_string == before


@pytest.mark.usefixtures("alive")
def test_requests_that_burn_the_processor_slow_others_down_and_no_more(root, show, site, visitors):
    statistics = f"/sys/fs/cgroup{show('currents.service', 'ControlGroup')}/cpu.stat"

    def used_seconds():
        """Processor time that the app has had."""
        return int(root.file(statistics).content_string.split()[1]) / 1e6

    before = used_seconds()
    # As many as the machine has processors, and more: all threads of one worker.
    burning = [
        threading.Thread(target=site.post, args=("/faults/burn-cpu?seconds=25", b"", "text/plain", 120))
        for _ in range(4)
    ]
    for one in burning:
        one.start()
    with visitors(rate=1.0, timeout=30) as load:
        load.wait(15)
        burnt = used_seconds() - before
        assert root.run("true").rc == 0, "ssh answers"
    assert burnt > 12, "one processor at least is busy with it all the time: the fault took effect"
    assert lost(load.stop()) == {}
    for one in burning:
        one.join(120)
        assert not one.is_alive()
