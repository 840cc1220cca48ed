"""The watchdog: it asks the app as a visitor would, and tells systemd only what is true."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
import types
from pathlib import Path

import pytest

from sitekeeper import cgroup, watchdog
from sitekeeper.accesslog import JsonLogger
from sitekeeper.board import Cell, Leaving, now_ms
from sitekeeper.master import Master
from sitekeeper.settings import Settings
from sitekeeper.watchdog import Watchdog, notify, probe
from tests.polling import PATIENCE_SECONDS
from tests.unit.keeper.site import heard, settings, systemd, wait_for

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


@contextlib.contextmanager
def listening(family, address, answer=OK, drip=None):
    """A server of one address: sends `answer` to each request, or nothing (None); yield its socket and the requests."""
    requests = []
    over = threading.Event()
    server = socket.socket(family, socket.SOCK_STREAM)
    server.bind(address)
    server.listen()

    def serve():
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                requests.append(connection.recv(4096))
                if answer is None:
                    over.wait(10)
                elif drip:
                    for byte in answer:
                        connection.sendall(bytes([byte]))
                        over.wait(drip)
                else:
                    connection.sendall(answer)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield server, requests
    over.set()
    with contextlib.suppress(OSError):
        server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join(PATIENCE_SECONDS)


TCP = (socket.AF_INET, ("127.0.0.1", 0))


def test_a_probe_is_a_request_that_the_log_can_tell_from_visitors():
    with listening(*TCP) as (server, requests):
        answer = probe(server.getsockname(), "/health", "s3cret", 2)
    assert (answer.status, answer.problem) == (200, "")
    head = requests[0].decode().split("\r\n")
    assert head[0] == "GET /health HTTP/1.1"
    assert {"X-Sitekeeper-Probe: s3cret", "Connection: close", "Host: localhost"} <= set(head)


def test_a_server_for_all_addresses_is_asked_on_this_host():
    with listening(socket.AF_INET, ("0.0.0.0", 0)) as (server, _):
        assert probe(server.getsockname(), "/", "", 2).status == 200


@pytest.mark.parametrize("abstract", [False, True])
def test_a_unix_socket_is_asked_too(short_path, abstract):
    address = f"\0keeper-{os.getpid()}" if abstract else str(short_path / "s.sock")
    with listening(socket.AF_UNIX, address) as (server, _):
        assert probe(server.getsockname(), "/", "", 2).status == 200


@pytest.mark.parametrize("status", [204, 404, 503])
def test_any_status_is_an_answer(status):
    with listening(*TCP, answer=f"HTTP/1.1 {status} X\r\n\r\n".encode()) as (server, _):
        assert probe(server.getsockname(), "/", "", 2).status == status


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (b"", "closed without an answer"),
        (b"HTTP/1.1 2", "closed without an answer"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "invalid literal"),
        (None, "timed out"),
    ],
)
def test_no_answer_has_a_reason(answer, problem):
    with listening(*TCP, answer=answer) as (server, _):
        seen = probe(server.getsockname(), "/", "", 0.3)
    assert seen.status is None
    assert problem in seen.problem


def test_a_server_that_drips_does_not_get_more_time():
    with listening(*TCP, answer=OK, drip=0.15) as (server, _):
        seen = probe(server.getsockname(), "/", "", 0.4)
    assert seen.status is None
    assert seen.seconds < 1


def test_nobody_there_is_said():
    with listening(*TCP) as (server, _):
        name = server.getsockname()
    assert "refused" in probe(name, "/", "", 2).problem


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_hears_what_it_is_told(short_path, abstract):
    with systemd(short_path, abstract) as (environment, ear):
        notify(environment["NOTIFY_SOCKET"], "READY=1\nSTATUS=here")
        assert heard(ear) == ["READY=1\nSTATUS=here"]


@pytest.mark.parametrize("address", ["", "/nowhere/notify", "@nobody-listens-here"])
def test_where_nobody_hears_nothing_fails(address):
    notify(address, "READY=1")


@pytest.fixture
def dog(tmp_path, short_path, monkeypatch):
    """A watchdog over a server that answers, with a board of two workers, and systemd's ear."""
    monkeypatch.setattr(JsonLogger, "probe_secret", "s3cret")
    monkeypatch.setattr(watchdog, "PROBE_SECONDS", 0.3)
    with listening(*TCP) as (server, _), systemd(short_path) as (environment, ear):
        master = Master(Settings(**settings(tmp_path, workers=2)))
        master.notify_socket, master.group = environment["NOTIFY_SOCKET"], None
        dog = Watchdog(master, types.SimpleNamespace(LISTENERS=[server]))
        dog.ear = ear
        yield dog


def silence(dog):
    """Let nobody answer the probe; the socket is still there, as at systemd's."""
    mute = socket.socket()
    mute.bind(("127.0.0.1", 0))
    dog.server.LISTENERS = [mute]
    return mute


def row_of(dog, pid, **cells):
    row = dog.master.board.free_row()
    row[Cell.PID], row[Cell.BORN] = pid, now_ms()
    for name, value in cells.items():
        row[Cell[name]] = value
    return row


def test_an_app_that_answers_is_alive(dog):
    dog.look()
    assert heard(dog.ear) == ["WATCHDOG=1"]
    assert (dog.alive, dog.answer.status) == (True, 200)


def test_without_progress_systemd_hears_nothing_and_the_journal_once(dog, capfd):
    with silence(dog):
        dog.look()
        dog.look()
    assert heard(dog.ear) == []
    assert not dog.alive
    assert capfd.readouterr().err.count("no progress") == 1


def test_an_app_that_answers_visitors_is_alive_also_when_the_probe_waits(dog):
    row = row_of(dog, 11, BOOTED=1)
    with silence(dog):
        row.count_status(200)
        dog.look()
        assert heard(dog.ear) == ["WATCHDOG=1"]
        dog.look()
        assert heard(dog.ear) == []


@pytest.mark.parametrize(("age", "alive"), [(0, True), (4_000, True), (6_000, False)])
def test_a_guard_s_excuse_counts_while_the_guard_looks(dog, age, alive):
    row_of(dog, 11, BOOTED=1, EXCUSED=1, BEAT=now_ms() - age)
    with silence(dog):
        dog.look()
    assert dog.alive is alive


def test_a_worker_that_comes_up_is_a_repair(dog):
    row_of(dog, 11)
    with silence(dog):
        dog.look()
    assert dog.alive


def test_a_worker_that_does_not_come_up_in_time_is_ended(dog, capfd):
    with subprocess.Popen(["sleep", "60"]) as slow, silence(dog):
        row_of(dog, slow.pid, BORN=now_ms() - dog.master.settings.boot_timeout_seconds * 1000)
        row_of(dog, -1, BORN=now_ms() - 10**9)
        dog.look()
        assert slow.wait(PATIENCE_SECONDS) == -signal.SIGKILL
    assert not dog.alive
    assert f"worker {slow.pid} did not load the app in time" in capfd.readouterr().err


@pytest.mark.parametrize("listeners", ["none", "closed"])
def test_a_master_that_stops_is_left_alone(dog, listeners):
    gone = socket.socket()
    gone.close()
    dog.server.LISTENERS = [] if listeners == "none" else [gone]
    dog.look()
    assert (dog.alive, dog.answer.problem) == (True, "stops")


def begin(dog):
    """Let its thread run up to its first look, which would go on after the test."""
    dog.look = threading.Event().wait
    dog.start()


def test_ready_is_said_when_the_app_has_answered_and_not_before(dog):
    with silence(dog) as mute:
        begin(dog)
        time.sleep(0.2)
        assert heard(dog.ear) == [], "there is no worker"
        row_of(dog, 11, BOOTED=1)
        time.sleep(0.3)
        assert heard(dog.ear) == [], "nobody answers"
        mute.listen()
        connection, _ = mute.accept()
        with connection:
            connection.sendall(OK)
            assert wait_for(lambda: heard(dog.ear))[0].startswith("READY=1\n")


def test_visitors_answers_are_ready_enough(dog):
    row = row_of(dog, 11, BOOTED=1)
    with silence(dog):
        begin(dog)
        row.count_status(200)
        assert wait_for(lambda: heard(dog.ear))[0].startswith("READY=1\n")


def test_the_interval_leaves_systemd_s_watchdog_several_tries(dog):
    dog.master.watchdog_seconds = 1.0
    assert Watchdog(dog.master, dog.server).interval == 0.2
    dog.master.watchdog_seconds = 100.0
    assert Watchdog(dog.master, dog.server).interval == 3.0


def throttled_group(directory, events, anon=950):
    for name, text in (
        ("memory.current", "990"),
        ("memory.high", "1000"),
        ("memory.stat", f"anon {anon}\nfile 9000\n"),
        ("memory.events", f"low 0\nhigh {events}\n"),
    ):
        (directory / name).write_text(text)


@pytest.mark.parametrize(("anon", "step", "ended"), [(950, 1, True), (950, 0, False), (100, 1, False)])
def test_the_largest_worker_goes_when_the_kernel_keeps_slowing_the_app_down(dog, tmp_path, anon, step, ended):
    dog.group = tmp_path
    with subprocess.Popen(["sleep", "60"]) as large, subprocess.Popen(["sleep", "60"]) as small:
        rows = [row_of(dog, large.pid, BOOTED=1, MEMORY=7), row_of(dog, small.pid, BOOTED=1, MEMORY=5)]
        for number in range(dog.pressure.maxlen):
            assert large.poll() is None
            throttled_group(tmp_path, 5 + step * number, anon)
            dog.relieve()
        if ended:
            assert large.wait(PATIENCE_SECONDS) == -signal.SIGKILL
            assert len(dog.pressure) == 0
        assert (large.poll() is not None, small.poll()) == (ended, None)
        assert [row[Cell.LEAVING] for row in rows] == [Leaving.MEMORY if ended else 0, 0]
        large.kill()
        small.kill()


@contextlib.contextmanager
def workers_without_controller(dog, directory, most):
    """Two workers and a process of the larger one, in a group whose memory the kernel does not count."""
    dog.group = directory
    dog.master.settings = Settings(**settings(directory, memory_max_bytes=most))
    with contextlib.ExitStack() as stack:
        large = stack.enter_context(subprocess.Popen(["sh", "-c", "sleep 60 & wait"], start_new_session=True))
        small = stack.enter_context(subprocess.Popen(["sleep", "60"], start_new_session=True))
        for one in (large, small):
            stack.callback(kill_group, one.pid)
        (child,) = wait_for(lambda: Path(f"/proc/{large.pid}/task/{large.pid}/children").read_text().split())
        (directory / "cgroup.procs").write_text(f"{os.getpid()}\n{large.pid}\n{child}\n{small.pid}\n1\n")
        rows = [row_of(dog, large.pid, BOOTED=1, MEMORY=7 << 30), row_of(dog, small.pid, BOOTED=1, MEMORY=5)]
        yield (large, small), int(child), rows


def kill_group(pid):
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def test_without_the_memory_controller_the_largest_worker_goes_with_what_it_started(dog, tmp_path, capfd):
    with workers_without_controller(dog, tmp_path, most=1 << 20) as ((large, small), child, rows):
        dog.relieve()
        assert large.wait(5) == -signal.SIGKILL
        wait_for(lambda: cgroup.rss(child) == 0)
        assert small.poll() is None
        assert [row[Cell.LEAVING] for row in rows] == [Leaving.MEMORY, 0]
    assert "more than service_memory_max: worker" in capfd.readouterr().err


def test_shared_pages_count_once_before_a_worker_has_to_go(dog, tmp_path):
    # By their rows alone the workers use 7 GiB; what the kernel says of the processes is far less.
    with workers_without_controller(dog, tmp_path, most=6 << 30) as (processes, _, rows):
        dog.relieve()
        assert [one.poll() for one in processes] == [None, None]
        assert [row[Cell.LEAVING] for row in rows] == [0, 0]


def test_other_processes_of_the_group_do_not_count(dog, tmp_path, monkeypatch):
    monkeypatch.setattr(watchdog.cgroup, "pss", lambda pid: 1 << 40 if pid == 1 else 1)
    with workers_without_controller(dog, tmp_path, most=6 << 30) as (processes, _, _):
        dog.relieve()
        assert [one.poll() for one in processes] == [None, None]
