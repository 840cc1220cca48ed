"""The operations endpoints: what they say, and that what they say can be read."""

from __future__ import annotations

import json
import os
import socket
import stat
import threading
import time
import types

import pytest

from sitekeeper.board import Cell, Leaving, now_ms
from sitekeeper.master import Master
from sitekeeper.operations import KIND_METRICS, Operations
from sitekeeper.settings import Settings
from sitekeeper.watchdog import Answer
from tests.unit.keeper.metrics import parse
from tests.unit.keeper.site import ask, settings


@pytest.fixture
def master(short_path):
    (short_path / "run").mkdir()
    master = Master(Settings(**settings(short_path, workers=2)))
    master.group = None
    master.watchdog = types.SimpleNamespace(alive=True, answer=Answer(200, 0.01))
    return master


@pytest.fixture
def operations(master):
    operations = Operations(master, master.settings.operations_socket)
    # `start` looks only twice a second whether it is over.
    threading.Thread(target=operations.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield operations
    operations.shutdown()
    operations.server_close()


def get(operations, target, **words):
    return ask(operations.server_address, target, **words)


def row_of(master, pid, **cells):
    row = master.board.free_row()
    row[Cell.PID], row[Cell.BORN], row[Cell.BOOTED] = pid, now_ms() - 7000, now_ms()
    for name, value in cells.items():
        row[Cell[name]] = value
    return row


def test_alive_is_what_the_watchdog_tells_systemd(master, operations):
    row_of(master, 11)
    master.count_death(time.monotonic(), Leaving.CRASH)
    answer = get(operations, "/livez")
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    assert answer.json == {"status": "alive", "workers": 1, "unplanned_exits_last_minute": 1}
    master.watchdog.alive = False
    answer = get(operations, "/livez")
    assert (answer.status, answer.json["status"]) == (503, "no progress")


@pytest.mark.parametrize(
    ("answer", "workers", "status", "problem"),
    [
        (Answer(200, 0.1), 1, 200, ""),
        (Answer(204, 0.1), 1, 200, ""),
        (Answer(503, 0.1), 1, 503, "health status 503"),
        (Answer(302, 0.1), 1, 503, "health status 302"),
        (Answer(None, 0.1, "timed out"), 1, 503, "timed out"),
        (Answer(200, 0.1), 0, 503, "no worker serves"),
    ],
)
def test_ready_is_an_app_that_says_so_and_a_worker_that_serves(master, operations, answer, workers, status, problem):
    master.watchdog.answer = answer
    for number in range(workers):
        row_of(master, 11 + number)
    row_of(master, 20, BOOTED=0)
    row_of(master, 21, LEAVING=Leaving.MEMORY)
    seen = get(operations, "/readyz")
    assert seen.status == status
    assert seen.json == {
        "status": "ready" if status == 200 else "not ready",
        "health_status": answer.status,
        "problem": problem,
        "workers": workers,
    }


def test_before_the_watchdog_is_there_nothing_fails(master, operations):
    master.watchdog = None
    assert get(operations, "/livez").status == 200
    assert get(operations, "/readyz").json["problem"] == "no worker serves"


def test_memory_is_told_of_each_worker(master, operations):
    mine = {"MEMORY": 5, "SHARE": 9, "REQUESTS": 3, "IN_FLIGHT": 2, "OLDEST": 1500}
    row_of(master, os.getpid(), **mine)
    row_of(master, -1)
    facts = get(operations, "/memory").json
    (one,) = facts["workers"]
    assert one.pop("rss_bytes") > 2**20
    assert one.pop("pss_bytes") > 2**20
    assert one == {
        "pid": os.getpid(),
        "with_children_bytes": 5,
        "share_bytes": 9,
        "age_seconds": 7,
        "requests": 3,
        "in_flight": 2,
        "oldest_request_seconds": 1.5,
        "state": "serves",
    }
    assert facts["master"]["pid"] == os.getpid()
    assert set(facts["worker_exits"]) == {"memory", "requests", "hang", "order", "boot", "timeout", "crash"}


@pytest.mark.parametrize(
    ("cells", "state"),
    [({}, "serves"), ({"BOOTED": 0}, "boots"), ({"LEAVING": Leaving.HANG}, "leaves: hang")],
)
def test_the_state_of_a_worker_is_a_word(master, operations, cells, state):
    row_of(master, 11, **cells)
    (one,) = get(operations, "/memory").json["workers"]
    assert one["state"] == state
    assert one["share_bytes"] is None


@pytest.fixture
def group(master, tmp_path):
    for name, text in {"current": "700", "high": "800", "max": "max", "events": "low 0\nhigh 4\noom_kill 1"}.items():
        (tmp_path / f"memory.{name}").write_text(text + "\n")
    master.group = tmp_path


def test_memory_is_told_of_the_whole_group(operations, group):
    assert get(operations, "/memory").json["group"] == {
        "current_bytes": 700,
        "high_bytes": 800,
        "max_bytes": None,
        "peak_bytes": None,
        "events": {"low": 0, "high": 4, "oom_kill": 1},
    }


def test_metrics_are_text_that_prometheus_reads(master, operations, group):
    row = row_of(master, os.getpid(), REQUESTS=5)
    row.count_status(200)
    row.count_status(404)
    master.board.retire(row_of(master, 12, REQUESTS=2), Leaving.HANG)
    answer = get(operations, "/metrics")
    assert (answer.status, answer.headers["content-type"]) == (200, KIND_METRICS)
    series = parse(answer.text)
    wanted = {
        "sitekeeper_live": 1,
        "sitekeeper_ready": 1,
        "sitekeeper_requests_total": 7,
        'sitekeeper_answers_total{class="2xx"}': 1,
        'sitekeeper_answers_total{class="4xx"}': 1,
        'sitekeeper_answers_total{class="5xx"}': 0,
        'sitekeeper_worker_exits_total{reason="hang"}': 1,
        'sitekeeper_worker_exits_total{reason="crash"}': 0,
        f'sitekeeper_worker_requests{{pid="{os.getpid()}"}}': 5,
        f'sitekeeper_worker_age_seconds{{pid="{os.getpid()}"}}': 7,
        "sitekeeper_memory_current_bytes": 700,
        "sitekeeper_memory_high_bytes": 800,
        'sitekeeper_memory_events_total{event="oom_kill"}': 1,
    }
    assert {name: series.get(name) for name in wanted} == wanted
    assert "sitekeeper_memory_max_bytes" not in series


def test_metrics_can_be_read_also_without_workers_and_without_a_group(master, operations):
    series = parse(get(operations, "/metrics").text)
    assert series["sitekeeper_ready"] == 0


@pytest.mark.parametrize(
    "text",
    [
        "a 1",
        "a 1\n",
        "# TYPE a gauge\na 1\n",
        "# HELP a x\n# TYPE a gauge\na 1\na 2\n",
        "# HELP a x\n# TYPE a gauge\nb 1\n",
        "# HELP a x\n# TYPE a counter\na 1\n",
        '# HELP a x\n# TYPE a gauge\na{b="c"} x\n',
        "# HELP a x\n# TYPE a gauge\n# HELP a x\n",
    ],
)
def test_the_reader_of_metrics_is_strict(text):
    with pytest.raises(ValueError, match=r"\w"):
        parse(text)


@pytest.mark.parametrize("target", ["/", "/nowhere", "/memory/", "/livez?verbose"])
def test_a_wrong_path_is_answered_with_the_right_ones(operations, target):
    answer = get(operations, target)
    assert answer.status == 404
    assert answer.json == {"endpoints": ["/livez", "/readyz", "/memory", "/metrics"]}


def test_nothing_can_be_changed(operations):
    assert get(operations, "/memory", method="POST").status == 501


def test_only_the_app_s_user_and_its_group_may_ask(operations):
    status = os.stat(operations.server_address)  # noqa: PTH116
    assert stat.S_IMODE(status.st_mode) == 0o660


def test_one_that_says_nothing_keeps_nobody_waiting(operations):
    with socket.socket(socket.AF_UNIX) as mute:
        mute.connect(operations.server_address)
        assert get(operations, "/livez").seconds < 2


def test_many_ask_at_once(master, operations):
    row_of(master, os.getpid())
    seen = []
    threads = [threading.Thread(target=lambda: seen.append(get(operations, "/metrics"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answer.status for answer in seen] == [200] * 8


def test_a_socket_that_was_left_behind_is_replaced_and_none_is_left(master, short_path):
    path = short_path / "run/operations.sock"
    for _ in range(2):
        operations = Operations(master, str(path))
        operations.server_close()
        assert path.is_socket()
    operations.close()
    operations.close()
    assert not path.exists()


def test_asking_writes_no_log(operations, capfd):
    get(operations, "/livez")
    get(operations, "/nowhere")
    seen = capfd.readouterr()
    assert (seen.out, seen.err) == ("", "")


def test_the_answers_are_plain_json(operations):
    for target in ("/livez", "/readyz", "/memory"):
        assert isinstance(json.loads(get(operations, target).body), dict)
