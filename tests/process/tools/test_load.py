"""The load generator against small real servers: every outcome, and a clock that no server can slow down."""

from __future__ import annotations

import json
import socket
import struct
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.polling import PATIENCE_SECONDS
from tools.load import OUTCOMES, Ask, Ledger, Load, Row, main

PROGRAM = Path(__file__).resolve().parents[3] / "tools" / "load.py"


class Handler(BaseHTTPRequestHandler):
    """Answers /health, fails at /bad, stalls at /slow until the test ends; counts what came."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.seen.append((time.monotonic(), self.requestline, self.headers))
        if self.path == "/slow":
            self.server.release.wait(20)
        until = self.server.stalled_until
        if until > time.monotonic():
            self.server.release.wait(until - time.monotonic())
        self.send_response(500 if self.path == "/bad" else 200)
        self.send_header("X-Request-Id", f"id{len(self.server.seen)}")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"fine"
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    """A web server on a free port."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen, self.release, self.stalled_until = [], threading.Event(), 0.0

    def handle_error(self, *_):
        pass


@pytest.fixture
def server():
    with Server() as web:
        thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield web
        web.release.set()
        web.shutdown()
        thread.join()


@pytest.fixture
def raw():
    """Make a server that does with each connection what a function says; return its address."""
    listeners, threads = [], []

    def make(serve, listener=None):
        listener = listener or socket.create_server(("127.0.0.1", 0), backlog=64)
        listeners.append(listener)

        def accept():
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    serve(connection)

        threads.append(threading.Thread(target=accept))
        threads[-1].start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}" if listener.family == socket.AF_INET else ""

    yield make
    for listener in listeners:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
    for thread in threads:
        thread.join(PATIENCE_SECONDS)


def address(server):
    return f"http://127.0.0.1:{server.server_port}/health"


def ledger_of(ask, count=3, rate=50.0):
    """All of a load of so many requests."""
    with Load(ask, rate=rate, seconds=count / rate) as load:
        assert load.wait(PATIENCE_SECONDS)
    return load.stop()


def outcomes(ledger):
    return {row.outcome for row in ledger.rows}


# Outcomes


def test_a_good_answer_is_ok_with_its_status_and_request_id(server):
    ledger = ledger_of(address(server))
    assert [row.outcome for row in ledger.rows] == ["ok"] * 3
    assert {row.request_id for row in ledger.rows} == {"id1", "id2", "id3"}
    assert [(row.seq, row.status, row.reused) for row in ledger.rows] == [(seq, 200, False) for seq in range(3)]
    assert all(row.due <= row.started <= row.ended for row in ledger.rows)


def test_an_error_status_is_told_apart(server):
    ledger = ledger_of(Ask(address(server), path="/bad"))
    assert {(row.outcome, row.status) for row in ledger.rows} == {("error_status", 500)}


def test_a_closed_port_refuses():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
    assert outcomes(ledger_of(url)) == {"refused"}


def test_accepted_and_closed_without_a_byte_is_empty(raw):
    assert outcomes(ledger_of(raw(lambda connection: connection.recv(4096)))) == {"empty"}


def test_a_connection_that_is_broken_off_is_reset(raw):
    def abort(connection):
        connection.recv(4096)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    assert outcomes(ledger_of(raw(abort))) == {"reset"}


@pytest.mark.parametrize(
    "words",
    [b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", b"HTTP/1.1 20"],
    ids=["not HTTP", "half a body", "half a line"],
)
def test_something_else_than_a_whole_answer_is_garbled(raw, words):
    def say(connection):
        connection.recv(4096)
        connection.sendall(words)

    assert outcomes(ledger_of(raw(say))) == {"garbled"}


def test_a_slow_server_is_a_timeout(server):
    ledger = ledger_of(Ask(address(server), path="/slow", timeout=0.3))
    assert outcomes(ledger) == {"timeout"}
    assert all(0.3 <= row.ended - row.started < 5 for row in ledger.rows)


def test_a_server_that_drips_does_not_outlast_the_timeout(raw):
    dripping = threading.Event()

    def drip(connection):
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        try:
            while not dripping.wait(0.05):
                connection.sendall(b".")
        except OSError:
            return

    (row,) = ledger_of(Ask(raw(drip), timeout=0.5), count=1).rows
    dripping.set()
    assert row.outcome == "timeout"
    assert row.ended - row.started < 5


def test_a_host_without_a_name_is_unreachable():
    assert outcomes(ledger_of("http://nobody.invalid/", count=1)) == {"unreachable"}


# Connections


def test_kept_connections_are_used_again(server):
    first, *others = ledger_of(Ask(address(server), keep_alive=True), count=5, rate=10).rows
    assert not first.reused
    assert all(row.reused and row.outcome == "ok" for row in others)
    assert len({id(headers) for _, _, headers in server.seen}) == 5


def test_without_keep_alive_each_request_has_its_own_connection(server):
    assert not any(row.reused for row in ledger_of(address(server)).rows)
    assert {headers["Connection"] for _, _, headers in server.seen} == {"close"}


def test_a_kept_connection_that_dies_under_a_request_is_stale(raw):
    def once(connection):
        connection.recv(4096)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        connection.recv(4096)

    rows = ledger_of(Ask(raw(once), keep_alive=True), count=2, rate=4).rows
    assert [(row.outcome, row.reused) for row in rows] == [("ok", False), ("stale", True)]


def test_a_connection_that_the_server_closed_while_it_was_kept_is_not_used(raw):
    def once(connection):
        connection.recv(4096)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    rows = ledger_of(Ask(raw(once), keep_alive=True), count=3, rate=4).rows
    assert [(row.outcome, row.reused) for row in rows] == [("ok", False)] * 3


def test_a_unix_socket_is_asked(raw, tmp_path):
    def answer(connection):
        assert b"Host: localhost\r\n" in connection.recv(4096)
        connection.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")

    path = tmp_path / "web.sock"
    listener = socket.create_server(str(path), family=socket.AF_UNIX)
    raw(answer, listener)
    assert outcomes(ledger_of(Ask("http://localhost/health", unix=str(path)))) == {"ok"}
    assert outcomes(ledger_of(Ask("http://localhost/", unix=str(tmp_path / "absent")))) == {"refused"}


def test_a_post_sends_its_body_and_headers(server):
    ask = Ask(address(server), method="POST", body=b"a=1", headers={"Host": "shop.example.org"}, path="/x?y=1")
    assert outcomes(ledger_of(ask, count=1)) == {"ok"}
    (_, line, headers) = server.seen[0]
    assert line == "POST /x?y=1 HTTP/1.1"
    assert (headers["Host"], headers["Content-Length"]) == ("shop.example.org", "3")


# The clock


def test_a_server_that_stalls_does_not_lower_the_number_of_requests(server):
    server.stalled_until = time.monotonic() + 1.0
    with Load(address(server), rate=20, seconds=1.5) as load:
        assert load.wait(PATIENCE_SECONDS)
    rows = load.stop().rows
    assert [row.due for row in rows] == [seq / 20 for seq in range(30)]
    assert max(row.started - row.due for row in rows) < 0.5, "none was held back"
    assert len(server.seen) == 30
    assert rows[0].waited > 0.8, "those that met the stall waited for its end"
    assert outcomes(load.stop()) == {"ok"}


def test_a_load_ends_when_it_is_stopped_and_all_requests_are_in_the_ledger(server):
    with Load(address(server), rate=50, seconds=3600) as load:
        assert not load.wait(0.3)
    ledger = load.stop()
    assert 5 <= len(ledger.rows) <= 60
    assert len(server.seen) == len(ledger.rows)
    assert load.stop() == ledger, "stopping again changes nothing"


def test_an_exception_in_the_context_passes_and_ends_the_load(server):
    with pytest.raises(KeyError), Load(address(server), rate=20, seconds=60) as load:
        raise KeyError
    assert load.wait(0)


def test_what_has_ended_can_be_read_while_it_runs(server):
    with Load(address(server), rate=50, seconds=30) as load:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while len(load.so_far().rows) < 3 and time.monotonic() < deadline:
            load.wait(0.02)
        assert len(load.so_far().rows) >= 3


# Limits


NAN, ENDLESS = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("rate", "seconds"), [(0, 60), (-1, 60), (1, 0), (1, 3601), (1000, 3600), (ENDLESS, 60), (NAN, 60), (1, NAN)]
)
def test_a_load_without_end_or_measure_is_refused(rate, seconds):
    with pytest.raises(ValueError, match="requests"):
        Load("http://127.0.0.1:1/", rate=rate, seconds=seconds)


@pytest.mark.parametrize(
    "bad",
    [
        {"url": "https://127.0.0.1/"},
        {"url": "127.0.0.1:5555"},
        {"url": "http:///health"},
        {"url": "http://127.0.0.1:99999/"},
        {"method": "DELETE"},
        {"timeout": 0},
        {"path": "/a b"},
        {"path": "/a\r\nX: 1"},
        {"headers": {"X": "1\r\nY: 2"}},
    ],
    ids=str,
)
def test_what_cannot_be_asked_is_refused(bad):
    with pytest.raises(ValueError, match=r"not GET|blank|[Pp]ort"):
        Ask(**{"url": "http://127.0.0.1:1/", **bad})


# The summary


def row(seq, ended, outcome="ok"):
    return Row(seq, float(seq), float(seq), ended, outcome, 200 if outcome == "ok" else None)


def test_the_summary_counts_and_finds_the_longest_gap():
    rows = (row(0, 0.5), row(1, 1.5), row(2, 2.1, "refused"), row(3, 6.5), row(4, 6.6))
    summary = Ledger(rows).summary()
    assert summary.requests == 5
    assert summary.outcomes == {"ok": 4, "refused": 1}
    assert (summary.longest_gap, summary.gap_began) == (5.0, 1.5)
    assert summary.longest_wait == 3.5
    assert summary.waits == {"p50": 0.5, "p95": 3.5, "p99": 3.5, "max": 3.5}


def test_a_site_that_does_not_come_back_is_a_gap_to_the_end():
    summary = Ledger((row(0, 1.0), row(1, 9.0, "timeout"))).summary()
    assert (summary.longest_gap, summary.gap_began) == (8.0, 1.0)


def test_percentiles_of_many_are_by_rank():
    waits = Ledger(tuple(row(seq, seq + (seq + 1) / 100) for seq in range(100))).summary().waits
    assert {name: round(value, 6) for name, value in waits.items()} == {
        "p50": 0.5,
        "p95": 0.95,
        "p99": 0.99,
        "max": 1.0,
    }


def test_a_summary_without_requests_has_no_figures():
    summary = Ledger(()).summary()
    assert (summary.requests, summary.outcomes, summary.waits, summary.longest_gap) == (0, {}, {}, 0.0)
    assert "none ended" in summary.line()


def test_every_outcome_is_explained_where_a_reader_looks():
    text = (PROGRAM.parent / "load.py").read_text().split('"""')[1]
    assert all(f"\n    {name} " in text for name in OUTCOMES)


# The command


def test_the_command_works_alone_as_one_file_anywhere(server, tmp_path):
    copy = tmp_path / "load.py"
    copy.write_bytes(PROGRAM.read_bytes())
    words = [sys.executable, "-I", copy, address(server), "--rate", "20", "--seconds", "0.5", "--keep-alive", "--json"]
    words += ["--ledger", tmp_path / "ledger"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["outcomes"] == {"ok": 10}
    lines = [json.loads(line) for line in (tmp_path / "ledger").read_text().splitlines()]
    assert [line["seq"] for line in lines] == list(range(10))


def test_the_command_tells_of_its_progress_and_can_be_interrupted(server, tmp_path):
    words = [sys.executable, PROGRAM, address(server), "--rate", "5", "--seconds", "600"]
    with subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert "requests: " in process.stderr.readline()
            process.send_signal(2)
            said, _ = process.communicate(timeout=PATIENCE_SECONDS)
        finally:
            process.kill()
    assert process.returncode == 0
    assert " ok, p50 " in said


def test_the_command_fails_for_a_lost_request_and_for_a_wrong_use(server, capsys):
    assert main([address(server), "--path", "/bad", "--rate", "10", "--seconds", "0.1"]) == 1
    assert main(["ftp://127.0.0.1/", "--seconds", "1"]) == 2
    assert main([address(server), "--seconds", "0"]) == 2
    assert "load: " in capsys.readouterr().err


def test_no_proxy_of_the_environment_is_used(server, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert outcomes(ledger_of(address(server), count=1)) == {"ok"}
