"""What `sitectl memory`, `metrics` and `status` make of the operations socket: the app's real one, and worse."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import types

import pytest

from sitectl import operations
from sitectl.operations import fetch
from sitectl.settings import load
from sitekeeper.board import Cell, Leaving, now_ms
from sitekeeper.master import Master
from sitekeeper.operations import Operations
from sitekeeper.settings import Settings
from sitekeeper.watchdog import Answer
from tests.unit.keeper.metrics import parse
from tests.unit.keeper.site import settings

GROUP = {"current": "524288000", "high": "838860800", "max": "max", "events": "low 0\nhigh 12\noom_kill 1"}


@pytest.fixture
def path(site):
    """Where the settings say that the socket is; nobody listens yet."""
    (site.root / "run/currents").mkdir(parents=True)
    site.configure(operations_socket="/run/currents/operations.sock")
    return site.root / "run/currents/operations.sock"


@pytest.fixture
def master(path, tmp_path, monkeypatch):
    """The app's own endpoints: a worker that serves, one that boots, and some that are gone."""
    # Where both cores are taken, a thread of this process may well need more than the two seconds of the status.
    monkeypatch.setattr(operations, "STATUS_SECONDS", 30.0)
    master = Master(Settings(**settings(tmp_path, workers=2)))
    for name, text in GROUP.items():
        (tmp_path / f"memory.{name}").write_text(text + "\n")
    master.group = tmp_path
    master.watchdog = types.SimpleNamespace(alive=True, answer=Answer(200, 0.01))
    for pid, booted, requests in ((os.getpid(), now_ms(), 523), (os.getppid(), 0, 0)):
        row = master.board.free_row()
        row[Cell.PID], row[Cell.BORN], row[Cell.BOOTED] = pid, now_ms() - 3_725_000, booted
        row[Cell.REQUESTS], row[Cell.IN_FLIGHT], row[Cell.SHARE] = requests, 2, 180 << 20 if booted else 0
    for why in (Leaving.MEMORY, Leaving.MEMORY, Leaving.HANG, Leaving.CRASH):
        row = master.board.free_row()
        row[Cell.PID] = 99
        master.board.retire(row, why)
    served = Operations(master, str(path))
    threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield master
    served.shutdown()
    served.server_close()


@contextlib.contextmanager
def saying(path, text):
    """Listen on the socket and answer everything with this text, or nothing for as long as the block lasts."""
    over = threading.Event()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()

        def serve():
            with contextlib.suppress(OSError):
                while True:
                    with server.accept()[0] as connection:
                        connection.recv(4096)
                        if text is None:
                            over.wait(20)
                        connection.sendall((text or "").encode())

        threading.Thread(target=serve, daemon=True).start()
        yield
        over.set()


def http(body, status="200 OK"):
    return f"HTTP/1.0 {status}\r\nContent-Length: {len(body)}\r\n\r\n{body}"


def test_memory_is_a_table_of_workers_and_what_they_share(site, master, capsys):
    assert site.run("memory") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["PID", "RSS", "PSS", "SHARE", "AGE", "REQUESTS", "IN", "FLIGHT", "STATE"]
    pid, _, _, share, *age, requests, in_flight, state = lines[1].split()
    assert (pid, share, age) == (str(os.getpid()), "180M", ["1", "h", "2", "min"])
    assert (requests, in_flight, state) == ("523", "2", "serves")
    assert lines[2].split()[3] == "-"
    assert lines[2].endswith("  boots")
    assert lines[3].endswith("  master")
    assert (
        len({line.index(word) for line, word in zip(lines[:4], ("STATE", "serves", "boots", "master"), strict=True)})
        == 1
    )
    assert lines[5:] == [
        "group   now 500M, peak unknown, high 800M, max none",
        "events  high 12, oom_kill 1",
        "exits   memory 2, hang 1, crash 1",
    ]


def test_memory_for_programs_is_json(site, master, capsys):
    assert site.run("memory", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["worker_exits"]["memory"] == 2
    assert facts["workers"][0]["pid"] == os.getpid()


def test_metrics_are_printed_as_prometheus_reads_them(site, master, capsys):
    assert site.run("metrics") == 0
    series = parse(capsys.readouterr().out)
    assert series['sitekeeper_worker_exits_total{reason="memory"}'] == 2


def test_an_app_where_nothing_has_happened_says_none(site, master, capsys):
    master.board.exits = dict.fromkeys(master.board.exits, 0)
    (master.group / "memory.events").unlink()
    assert site.run("memory") == 0
    assert capsys.readouterr().out.splitlines()[-2:] == ["events  none", "exits   none"]


@pytest.mark.parametrize("command", ["memory", "metrics"])
@pytest.mark.parametrize("left_behind", [False, True])
def test_a_service_that_is_down_is_said(site, path, command, left_behind, capsys):
    if left_behind:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
    assert site.run(command) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert f"currents.service is down: nobody listens at {path}" in said.err


@pytest.mark.parametrize("command", ["memory", "metrics"])
def test_without_the_setting_it_is_the_settings_that_are_wrong(site, command, capsys):
    assert site.run(command) == 2
    assert "no operations_socket in its settings" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "broke off"),
        ("SSH-2.0\r\n", "broke off"),
        (http("{}").replace(": 2", ": 9"), "broke off in the middle"),
        (http("{}", "404 Not Found"), "answered 404 to /memory"),
        (http("{}"), "tells something else"),
        (http("no json"), "tells something else"),
        (http("[]"), "tells something else"),
        (http('{"workers": [{}], "master": {}, "group": {}, "worker_exits": {}}'), "tells something else"),
        (http('{"workers": [], "master": {"pid": 1}, "group": [], "worker_exits": {}}'), "tells something else"),
    ],
)
def test_a_socket_that_tells_something_else_is_no_traceback(site, path, text, words, capsys):
    with saying(path, text):
        assert site.run("memory") == 1
    assert words in capsys.readouterr().err


def test_a_master_that_does_not_answer_costs_only_its_time(site, path):
    one = load(site.root / "etc/sitectl", None)
    start = time.monotonic()
    with saying(path, None), pytest.raises(Exception, match=r"did not answer within 0\.3 s"):
        fetch(types.SimpleNamespace(under_root=lambda _: path), one, "/memory", 0.3)
    assert time.monotonic() - start < 2


def test_who_may_not_ask_is_told_to_use_sudo(site, path, monkeypatch, capsys):
    def refused(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "connect", refused)
    assert site.run("memory") == 77
    assert f"may not ask {path}. This command needs root: use sudo." in capsys.readouterr().err


def status(site, capsys):
    assert site.run("status") == 0
    return {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}


def test_status_has_a_row_of_workers_that_ended_unplanned(site, master, capsys):
    assert status(site, capsys)["exits"].split(maxsplit=1)[1] == "hang 1, crash 1 unplanned since the start"
    master.board.exits = dict.fromkeys(master.board.exits, 0)
    assert status(site, capsys)["exits"].split(maxsplit=1)[1] == "none unplanned since the start"
    assert site.run("status", "--json") == 0
    exits = json.loads(capsys.readouterr().out)["unplanned_exits"]
    assert exits == {"hang": 0, "boot": 0, "timeout": 0, "crash": 0}


@pytest.mark.parametrize(
    "text", [None, "", http("[]"), http('{"workers": [], "master": {}, "group": {}, "worker_exits": {}}')]
)
def test_status_without_a_socket_that_tells_has_no_such_row(site, path, text, capsys):
    if text is None:
        assert "exits" not in status(site, capsys)
        return
    with saying(path, text):
        assert "exits" not in status(site, capsys)
