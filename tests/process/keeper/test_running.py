"""Real Gunicorn, run as the role configures it: requests, failures, retirements, operations."""

from __future__ import annotations

import os
import signal
import socket
import stat

import pytest

from tests.polling import PATIENCE_SECONDS
from tests.unit.keeper.metrics import parse
from tests.unit.keeper.site import Visitors, running

BROWSER = "text/html,*/*;q=0.8"
APP = """
import os
import sys

leaked = []


def app(environ, start_response):
    path = environ["PATH_INFO"].strip("/")
    return globals().get(f"do_{path}", do_ok)(environ, start_response)


def do_ok(environ, start_response):
    body = f"{os.getpid()} {environ['HTTP_X_REQUEST_ID']}".encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


def do_leak(environ, start_response):
    leaked.append(bytearray(os.urandom(1) * (2 << 20)))
    return do_ok(environ, start_response)


def do_raise(environ, start_response):
    raise RuntimeError("the app failed")


def do_lost(environ, start_response):
    raise ConnectionResetError(104, "the app failed")


def do_chunk(environ, start_response):
    raise RuntimeError("the app failed")
    yield b""


def do_begun(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    raise RuntimeError("the app failed")
    yield b""


def do_missing(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    raise FileNotFoundError(2, "the app failed")
    yield b""


def do_middle(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    yield b"half"
    raise RuntimeError("the app failed")


def do_header(environ, start_response):
    start_response("200 OK", [("X-Bad", "the app failed\\r\\nX: y")])
    return [b""]


def do_die(environ, start_response):
    os._exit(3)


def do_exit(environ, start_response):
    sys.exit("the app failed")
"""


@pytest.fixture(scope="module")
def site():
    with running(APP, workers=2) as site:
        yield site.ready()


def logged_since(site, mark, *parts):
    """Return how often each part stands in what was logged since then."""
    text = site.log()[mark:]
    return [text.count(part) for part in parts]


def lines_of(site, one):
    """Return the lines of a request in the access log, when they are there."""
    return site.until(lambda: [line for line in site.lines() if line["request_id"] == one])


def test_every_request_gets_an_id_that_the_app_the_visitor_and_the_log_share(site):
    answer = site.ask("/")
    one = answer.headers["x-request-id"]
    assert answer.text.split()[1] == one
    (line,) = lines_of(site, one)
    assert (line["status"], line["path"], line["pid"]) == (200, "/", int(answer.text.split()[0]))
    assert site.ask("/").headers["x-request-id"] != one


def test_an_id_that_comes_with_the_request_is_kept(site):
    answer = site.ask("/", {"X-Request-Id": "from-a-proxy.1"})
    assert answer.headers["x-request-id"] == "from-a-proxy.1" == answer.text.split()[1]


@pytest.mark.parametrize("given", ["short", "a" * 65, 'ab"cd{efgh}', "two words here"])
def test_an_id_that_is_not_fit_for_logs_is_replaced(site, given):
    answer = site.ask("/", {"X-Request-Id": given})
    assert answer.status == 200
    assert answer.headers["x-request-id"] != given


FAILURES = ["raise", "lost", "chunk", "begun", "missing", "header", "exit"]


@pytest.mark.parametrize("path", FAILURES)
def test_an_exception_of_the_app_is_a_clean_page(site, path):
    answer = site.ask(f"/{path}", {"Accept": BROWSER})
    assert (answer.status, answer.headers["content-type"]) == (500, "text/html; charset=utf-8")
    assert answer.headers["x-request-id"] in answer.text
    assert "the app failed" not in answer.text


@pytest.mark.parametrize("path", FAILURES)
def test_an_exception_of_the_app_is_json_for_a_program(site, path):
    answer = site.ask(f"/{path}", {"Accept": "application/json"})
    assert (answer.status, answer.headers["content-type"]) == (500, "application/json")
    assert answer.json["request_id"] == answer.headers["x-request-id"]


@pytest.mark.parametrize("path", FAILURES)
def test_an_exception_of_the_app_is_logged_once_and_with_its_id(site, path):
    mark = len(site.log())
    one = site.ask(f"/{path}").headers["x-request-id"]
    (line,) = lines_of(site, one)
    assert (line["status"], line["path"]) == (500, f"/{path}")
    said = f"GET /{path} [request {one}]"
    assert logged_since(site, mark, said, "Traceback", "During handling") == [1, 1, 0]


def test_a_failed_head_has_no_body(site):
    answer = site.ask("/raise", method="HEAD")
    assert (answer.status, answer.body) == (500, b"")


def test_an_answer_that_breaks_in_the_middle_is_cut_and_logged_once(site):
    mark = len(site.log())
    answer = site.ask("/middle", {"X-Request-Id": "in-the-middle"})
    assert "IncompleteRead" in answer.problem
    lines_of(site, "in-the-middle")
    assert logged_since(site, mark, "[request in-the-middle]", "Traceback") == [1, 1]


def test_an_app_that_exits_in_a_request_loses_that_request_and_no_worker(site):
    before, crashes = site.pids(), site.exits("crash")
    for _ in range(4):
        assert site.ask("/exit").status == 500
    assert (site.pids(), site.exits("crash")) == (before, crashes)


def test_a_visitor_s_mistake_is_the_visitor_s(site):
    mark = len(site.log())
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(PATIENCE_SECONDS)
        connection.connect(str(site.socket))
        connection.sendall(b"GET / HTTP/9.9\r\nHost: site\r\n\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 400 ")
    assert logged_since(site, mark, "Traceback") == [0]


def test_a_worker_that_exits_with_3_does_not_stop_the_service(site):
    before, crashes = site.pids(), site.exits("crash")
    assert site.ask("/die").status == 0
    site.until(lambda: site.exits("crash") == crashes + 1)
    site.until(lambda: len(site.pids()) == 2)
    assert len(site.pids() & before) == 1
    assert site.process.poll() is None
    assert site.ask("/").status == 200


def test_the_operations_endpoints_answer(site):
    assert site.ops("/livez").json["status"] == "alive"
    site.until(lambda: site.ops("/readyz").status == 200)
    assert len(site.memory()["workers"]) == 2
    series = parse(site.ops("/metrics").text)
    assert series["sitekeeper_ready"] == 1
    assert series['sitekeeper_answers_total{class="2xx"}'] >= 1
    missing = site.ops("/elsewhere")
    assert (missing.status, missing.json["endpoints"]) == (404, ["/livez", "/readyz", "/memory", "/metrics"])
    assert stat.S_IMODE(site.operations.stat().st_mode) == 0o660


def test_the_watchdog_s_requests_are_in_no_log(site):
    site.until(lambda: site.ops("/readyz").status == 200)
    assert [line for line in site.lines() if line["agent"] == "sitekeeper"] == []


def leaving(site):
    """Return how many workers serve and how many leave."""
    states = [one["state"] for one in site.memory()["workers"]]
    return states.count("serves"), sum(state.startswith("leaves") for state in states)


def test_workers_that_have_served_their_number_retire_one_at_a_time(start):
    site = start(APP, workers=3, max_requests=20).ready()
    seen = []
    with Visitors(site) as visitors:
        site.until(lambda: seen.append(leaving(site)) or site.exits("requests") >= 3)
    assert visitors.failed() == []
    assert max(left for _, left in seen) == 1
    assert min(serve for serve, _ in seen) >= 2
    assert site.exits("crash") == 0


def test_a_worker_that_needs_too_much_memory_retires_and_no_request_fails(start):
    # As on a host without the memory controller: the limit is the one of the settings.
    without = "\nimport sitekeeper.cgroup\nsitekeeper.cgroup.own_group = lambda: None\n"
    site = start(APP, without, workers=2, memory_high_bytes=64 << 20).ready()
    shares = site.until(lambda: [one["share_bytes"] for one in site.memory()["workers"] if one["share_bytes"]])
    assert {share >> 20 for share in shares} < set(range(32, 96))
    with Visitors(site, "/leak", count=1) as visitors:
        site.until(lambda: site.exits("memory") >= 2)
        largest = max(one["rss_bytes"] for one in site.memory()["workers"])
    assert visitors.failed() == []
    # A guard looks twice a second; between two looks a fast leak on a fast computer takes some hundred MiB.
    assert largest < 1 << 30
    assert "it uses " in site.log()
    assert site.exits("crash") == 0


def test_without_a_limit_nobody_retires_for_memory(start):
    site = start(APP, "\nimport sitekeeper.cgroup\nsitekeeper.cgroup.limit = lambda *_: None\n", workers=1).ready()
    assert [one["share_bytes"] for one in site.memory()["workers"]] == [None]
    for _ in range(30):
        assert site.ask("/leak").status == 200
    site.until(lambda: site.memory()["workers"][0]["with_children_bytes"] > 60 << 20)
    assert site.exits("memory") == 0


def answered(site):
    return parse(site.ops("/metrics").text)['sitekeeper_answers_total{class="2xx"}']


def test_a_reload_replaces_the_workers_and_the_operations_go_on(start):
    site = start(APP, workers=2).ready()
    before = site.pids()
    site.ask("/")
    counted = site.until(lambda: answered(site))
    with Visitors(site) as visitors:
        site.process.send_signal(signal.SIGHUP)
        site.until(lambda: site.exits("order") == 2 and len(site.pids()) == 2)
    assert visitors.failed() == []
    assert site.pids() & before == set()
    assert set(site.processes()) - {site.process.pid} == site.pids()
    site.until(lambda: answered(site) >= counted + len(visitors.answers))
    assert site.exits("crash") == 0


def test_a_killed_worker_is_a_crash_and_is_replaced(site):
    before, crashes = site.pids(), site.exits("crash")
    os.kill(min(before), signal.SIGKILL)
    site.until(lambda: site.exits("crash") == crashes + 1 and len(site.pids()) == 2)
    assert max(before) in site.pids()
