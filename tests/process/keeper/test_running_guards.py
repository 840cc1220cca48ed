"""Real Gunicorn, run as the role configures it: hangs, what systemd hears, failed boots, stops."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.polling import PATIENCE_SECONDS
from tests.unit.keeper.site import Visitors, ask, heard, running, systemd

#: Twice the hang_seconds of these sites, and more.
LONG = 4.5
APP = """
import os
import socket
import threading
import time

LONG = 4.5
if os.path.exists(os.environ["SITE"] + "/broken"):
    raise RuntimeError("the app cannot be loaded")
time.sleep(float(os.environ.get("IMPORT_SECONDS", "0")))


def app(environ, start_response):
    globals().get("do_" + environ["PATH_INFO"].strip("/"), str)()
    if environ["PATH_INFO"] == "/stream":
        return stream(start_response)
    body = str(os.getpid()).encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


def do_deadlock():
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


def do_sleep():
    time.sleep(LONG)


def do_upstream():
    with socket.socket(socket.AF_UNIX) as upstream:
        upstream.connect(os.environ["SITE"] + "/upstream.sock")
        upstream.recv(1)


def do_helper():
    helper = threading.Thread(target=compute)
    helper.start()
    helper.join()


def compute():
    end = time.monotonic() + LONG
    while time.monotonic() < end:
        sum(range(50_000))
        time.sleep(0.05)


def stream(start_response):
    start_response("200 OK", [("Content-Type", "text/event-stream")])
    yield str(os.getpid()).encode()
    do_deadlock()
"""


def slow_upstream(site):
    """Answer one request of the app after a while; return the thread that does."""
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(site.directory / "upstream.sock"))
    server.listen()

    def serve():
        with server, server.accept()[0] as connection:
            time.sleep(LONG)
            connection.sendall(b"x")

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    return thread


@pytest.fixture(scope="module")
def together():
    """Five workers of one thread each, with one request each: what became of them after more than hang_seconds."""
    with running(APP, workers=5, threads=1, graceful_timeout_seconds=1) as site, ThreadPoolExecutor(4) as pool:
        site.ready()
        before = site.pids()
        upstream = slow_upstream(site)
        with socket.socket(socket.AF_UNIX) as stream:
            stream.settimeout(PATIENCE_SECONDS)
            stream.connect(str(site.socket))
            stream.sendall(b"GET /stream HTTP/1.1\r\nHost: site\r\n\r\n")
            asked = {name: pool.submit(site.ask, f"/{name}") for name in ("sleep", "upstream", "helper", "deadlock")}
            answers = {name: future.result() for name, future in asked.items()}
            text = stream.recv(4096)
            stream.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while part := stream.recv(4096):
                    text += part
                text += b"CLOSED"
            upstream.join()
            yield site, before, answers, text.decode()


@pytest.mark.parametrize("name", ["sleep", "upstream", "helper"])
def test_a_slow_request_is_not_ended(together, name):
    site, _, answers, _ = together
    assert answers[name].status == 200, answers[name]
    assert answers[name].seconds >= LONG - 0.1
    assert int(answers[name].text) in site.pids()


def test_a_streaming_answer_is_not_ended(together):
    site, before, _, text = together
    (pid,) = [pid for pid in before if f"\r\n{pid}\r\n" in text]
    assert pid in site.pids()
    assert "CLOSED" not in text


def test_a_deadlock_costs_its_worker_and_no_other(together):
    site, before, answers, _ = together
    assert answers["deadlock"].status == 0
    # Without the guard it would wait for ever; a busy computer takes a few seconds more to see it.
    assert 2 <= answers["deadlock"].seconds < 20
    assert site.exits("hang") == 1
    assert len(before - site.pids()) == 1


def test_the_log_has_the_stacks_of_what_hung(together):
    site, _, _, _ = together
    log = site.log()
    assert "1 of its requests will never end (/deadlock); the stacks of all its threads follow" in log
    assert "in do_deadlock" in log.partition("the stacks of all its threads follow")[2]


def test_beside_a_deadlock_all_others_are_served_also_by_a_single_worker(start):
    site = start(APP, workers=1, threads=2).ready()
    (before,) = site.pids()
    stuck = threading.Thread(target=site.ask, args=("/deadlock",))
    with Visitors(site) as visitors:
        stuck.start()
        site.until(lambda: site.exits("hang") == 1 and len(site.pids()) == 1)
        stuck.join()
        served = len(visitors.answers)
        site.until(lambda: len(visitors.answers) > served + 10)
    assert visitors.failed() == []
    assert site.pids() != {before}
    assert {int(answer.text) for answer in visitors.answers} == {before} | site.pids()


def test_ready_is_said_only_after_the_app_has_answered(start, short_path):
    with systemd(short_path) as (environment, ear):
        begin = time.monotonic()
        site = start(APP, bind="127.0.0.1:0", environment={**environment, "IMPORT_SECONDS": "1"})
        (told, *_) = site.until(lambda: heard(ear))
        assert time.monotonic() - begin >= 1
        assert told == "READY=1\nSTATUS=The app answers"
        assert site.ops("/readyz").status == 200
        site.until(lambda: "WATCHDOG=1" in heard(ear))
    port = int(site.log().partition("Listening at: http://127.0.0.1:")[2].split()[0])
    assert ask(("127.0.0.1", port), "/").status == 200


def test_an_app_that_cannot_be_loaded_is_never_ready(start, short_path):
    with systemd(short_path) as (environment, ear):
        site = start("raise RuntimeError('broken')", environment=environment)
        assert site.process.wait(timeout=PATIENCE_SECONDS) != 0
        assert heard(ear) == []
    assert "RuntimeError: broken" in site.log()


def test_the_watchdog_is_silent_while_no_worker_runs_and_the_operations_answer(start, short_path):
    with systemd(short_path) as (environment, ear):
        site = start(APP, workers=2, timeout_seconds=300, environment=environment).ready()
        site.until(lambda: "WATCHDOG=1" in heard(ear))
        stopped = site.pids()
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        site.until(lambda: site.ops("/livez").status == 503)
        heard(ear)
        time.sleep(1.5)
        assert heard(ear) == [], "systemd's limit is 1 s"
        answers = {target: site.ops(target).status for target in ("/livez", "/readyz", "/memory", "/metrics")}
        assert answers == {"/livez": 503, "/readyz": 503, "/memory": 200, "/metrics": 200}
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
        site.until(lambda: "WATCHDOG=1" in heard(ear))
        site.until(lambda: site.ops("/readyz").status == 200)
        assert "no progress: timed out" in site.log()


def test_a_worker_that_says_nothing_is_replaced(start):
    site = start(APP, workers=2, timeout_seconds=2).ready()
    mute = min(site.pids())
    os.kill(mute, signal.SIGSTOP)
    site.until(lambda: site.exits("timeout") == 1 and len(site.pids()) == 2)
    assert mute not in site.pids()


def test_an_app_that_cannot_be_loaded_any_more_costs_no_running_worker(start):
    site = start(APP, workers=2).ready()
    (site.directory / "broken").touch()
    victim, other = sorted(site.pids())
    with Visitors(site, count=1) as visitors:
        os.kill(victim, signal.SIGKILL)
        site.until(lambda: "the next one waits 1 s" in site.log())
        assert site.pids() == {other}
        (site.directory / "broken").unlink()
        site.until(lambda: len(site.pids()) == 2)
    assert len(visitors.failed()) <= 1, "the request of the killed worker"
    assert (site.exits("crash"), site.exits("boot")) == (1, 2)


def test_a_stop_ends_a_pause_at_once(start):
    long = "\nmaster.boot_failures, master.last_boot_failure = 9, 1 << 60\n"
    site = start(APP, long, workers=2, graceful_timeout_seconds=30)
    site.until(lambda: site.log().count("the next one waits 60 s") == 2)
    begin = time.monotonic()
    site.process.send_signal(signal.SIGTERM)
    assert site.process.wait(timeout=PATIENCE_SECONDS) == 0
    assert time.monotonic() - begin < 5
    assert not site.operations.exists()
    site.until(lambda: site.processes() == [])


def test_a_pause_is_no_time_to_load_the_app(start, short_path):
    # Two seconds of pause for the third worker, with one second to load the app in.
    pause = """
def pre_fork(server, worker):
    master.pre_fork(server, worker)
    master.boot_failures = 3 if worker.age > 2 else 0
"""
    with systemd(short_path) as (environment, _):
        site = start(APP, pause, workers=2, boot_timeout_seconds=1, environment=environment).ready()
        os.kill(min(site.pids()), signal.SIGKILL)
        site.until(lambda: "the next one waits 2 s" in site.log() and len(site.pids()) == 2)
        assert site.exits("boot") == 0
        assert "did not load the app in time" not in site.log()
