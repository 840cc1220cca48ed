"""Gunicorn's hooks: what the master counts and says, and how a worker begins and ends."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
import types
from pathlib import Path

import pytest

from sitekeeper import master as module
from sitekeeper.accesslog import JsonLogger
from sitekeeper.board import Cell, Leaving, now_ms
from sitekeeper.master import LOOP_DEATHS, LOOP_SECONDS, Master
from sitekeeper.settings import Settings, load, release_id
from tests.polling import PATIENCE_SECONDS
from tests.unit.keeper.site import settings, wait_for


@pytest.fixture
def master(tmp_path):
    return Master(Settings(**settings(tmp_path, workers=2)))


class Log:
    """Remembers what a worker says."""

    def __init__(self):
        self.said = []

    def warning(self, text, *words):
        self.said.append(text % words)


def worker(row=None, **more):
    facts = {"row": row, "aborted": False, "booted": True, "pid": 0, "nr": 0, "ppid": os.getppid(), "log": Log()}
    return types.SimpleNamespace(**facts | {"notify": lambda: None} | more)


def forked(master, **more):
    """Go through what the master does for a new worker, up to the fork."""
    one = worker(**more)
    master.pre_fork(None, one)
    return one


def booted(master, pid=11, **cells):
    one = forked(master)
    one.row[Cell.PID], one.row[Cell.BOOTED] = pid, now_ms()
    for name, value in cells.items():
        one.row[Cell[name]] = value
    return one


def in_child(work):
    """Do something in a forked process; return its id at once."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return pid


def ended(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_new_worker_has_a_row_before_it_is_born(master):
    one = forked(master)
    assert (one.row[Cell.PID], one.row[Cell.BOOTED]) == (-1, 0)
    assert now_ms() - one.row[Cell.BORN] < 5000
    assert forked(master).row[Cell.PID] == -1
    assert len(list(master.board.rows())) == 2


def test_a_worker_leads_a_process_group_and_is_the_first_that_the_kernel_would_kill(master):
    one = forked(master)

    def work():
        master.post_fork(None, one)
        assert os.getpgid(0) == os.getpid() == one.row[Cell.PID]
        assert Path("/proc/self/oom_score_adj").read_text().strip() == "100"

    assert ended(in_child(work)) == 0


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGQUIT, signal.SIGINT])
def test_a_stop_ends_a_worker_that_waits_at_once_and_is_no_failure(master, sign):
    master.boot_failures, master.last_boot_failure = 9, now_ms()
    one = forked(master, ppid=os.getpid())
    pid = in_child(lambda: master.post_fork(None, one))
    wait_for(lambda: one.row[Cell.PID] == pid)
    time.sleep(0.3)
    os.kill(pid, sign)
    assert ended(pid) == 0
    master.child_exit(None, one)
    assert master.board.exits[Leaving.ORDER] == 1
    assert master.boot_failures == 9


def test_the_time_to_load_the_app_begins_after_the_pause(master):
    master.boot_failures, master.last_boot_failure = 9, now_ms()
    one = forked(master, ppid=os.getpid())
    born = one.row[Cell.BORN]
    pid = in_child(lambda: master.post_fork(None, one))
    try:
        wait_for(lambda: one.row[Cell.BORN] >= born + 400)
        assert one.row[Cell.PID] == pid
    finally:
        os.kill(pid, signal.SIGKILL)
        ended(pid)


def test_a_worker_whose_master_is_gone_does_not_wait(master, monkeypatch):
    monkeypatch.setattr(module.verdict, "boot_pause", lambda failures: 2 * PATIENCE_SECONDS)
    reader, writer = os.pipe()

    def short_lived_master():
        one = forked(master, ppid=os.getpid())
        born = one.row[Cell.BORN]
        in_child(lambda: master.post_fork(None, one))
        wait_for(lambda: one.row[Cell.BORN] > born, "for a worker in its pause")

    assert ended(in_child(short_lived_master)) == 0
    os.close(writer)
    (row,) = master.board.rows()
    try:
        # The worker alone still has the other end.
        assert select.select([reader], [], [], PATIENCE_SECONDS)[0], "the worker waits for a master that is gone"
    finally:
        os.close(reader)
        with contextlib.suppress(ProcessLookupError):
            os.kill(row[Cell.PID], signal.SIGKILL)


@pytest.mark.parametrize(
    ("leaving", "loaded", "aborted", "counted"),
    [
        (Leaving.MEMORY, True, False, Leaving.MEMORY),
        (Leaving.REQUESTS, True, False, Leaving.REQUESTS),
        (Leaving.HANG, True, False, Leaving.HANG),
        (Leaving.ORDER, True, False, Leaving.ORDER),
        (Leaving.ORDER, False, False, Leaving.ORDER),
        (Leaving.SERVING, True, True, Leaving.TIMEOUT),
        (Leaving.SERVING, True, False, Leaving.CRASH),
        (Leaving.SERVING, False, False, Leaving.BOOT),
    ],
)
def test_a_worker_that_is_gone_is_counted_by_its_reason(master, leaving, loaded, aborted, counted):
    one = booted(master, LEAVING=leaving, BOOTED=int(loaded), REQUESTS=3)
    one.aborted = aborted
    master.child_exit(None, one)
    assert {why: count for why, count in master.board.exits.items() if count} == {counted: 1}
    assert list(master.board.rows()) == []
    assert master.board.requests() == 3
    unplanned = counted in {Leaving.HANG, Leaving.TIMEOUT, Leaving.CRASH, Leaving.BOOT}
    assert master.recent_deaths(time.monotonic()) == int(unplanned)


def test_failures_to_boot_count_until_a_worker_has_booted(master):
    for expected in (1, 2, 3):
        one = forked(master)
        master.child_exit(None, one)
        assert master.boot_failures == expected
    one = booted(master)
    one.row[Cell.BOOTED] = master.last_boot_failure + 1
    assert master.boot_failures == 3
    forked(master)
    assert master.boot_failures == 0


def test_a_worker_that_booted_before_the_failures_says_nothing_about_them(master):
    booted(master)
    for _ in range(2):
        master.child_exit(None, forked(master))
        master.last_boot_failure = now_ms() + 1000
    forked(master)
    assert master.boot_failures == 2


def test_a_crash_loop_is_told_once_a_minute(master, capfd):
    for second in range(LOOP_DEATHS - 1):
        master.count_death(1000.0 + second, Leaving.CRASH)
    assert capfd.readouterr().err == ""
    for second in range(5, 50):
        master.count_death(1000.0 + second, Leaving.CRASH)
    (line,) = capfd.readouterr().err.splitlines()
    assert line == "[sitekeeper] worker crash loop: 5 workers ended unplanned in the last 60 s (crash)"
    master.count_death(1000.0 + 5 + LOOP_SECONDS, Leaving.BOOT)
    assert "(boot)" in capfd.readouterr().err


def test_deaths_far_apart_are_no_loop(master, capfd):
    for number in range(20):
        master.count_death(1000.0 + number * 20, Leaving.CRASH)
    assert master.recent_deaths(1000.0 + 19 * 20) == 4
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("app_loaded", "siblings", "status"), [(False, {1: None}, 1), (False, {}, 0), (True, {1: None}, 0)]
)
def test_one_that_cannot_boot_does_not_stop_its_siblings(master, app_loaded, siblings, status):
    one = booted(master)

    def work():
        one.pid, one.booted = os.getpid(), app_loaded
        master.worker_exit(types.SimpleNamespace(WORKERS=siblings), one)

    assert ended(in_child(work)) == status


def test_a_worker_s_last_requests_are_counted(master):
    one = booted(master, REQUESTS=3)
    one.pid, one.nr = os.getpid(), 5
    master.worker_exit(types.SimpleNamespace(WORKERS={}), one)
    assert master.board.requests() == 5


def test_the_master_does_nothing_of_a_worker_s(master):
    one = booted(master, REQUESTS=3)
    one.pid, one.nr, one.booted = 11, 5, False
    master.worker_exit(types.SimpleNamespace(WORKERS={1: None}), one)
    assert master.board.requests() == 3


def test_what_a_worker_that_was_too_large_has_started_goes_with_it(master, tmp_path):
    master.group = tmp_path
    one = booted(master, LEAVING=Leaving.MEMORY)

    def work():
        os.setpgid(0, 0)
        child = in_child(lambda: time.sleep(60))
        (tmp_path / "cgroup.procs").write_text(f"{os.getpid()}\n{child}\n{os.getppid()}\n")
        one.pid = os.getpid()
        master.worker_exit(types.SimpleNamespace(WORKERS={}), one)
        assert ended(child) == -signal.SIGKILL

    assert ended(in_child(work)) == 0


def test_systemd_s_addresses_are_the_master_s_alone(master, monkeypatch):
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/notify")
    monkeypatch.setenv("WATCHDOG_USEC", "20000000")
    monkeypatch.setenv("WATCHDOG_PID", "1")
    monkeypatch.setattr(JsonLogger, "probe_secret", "")
    server = types.SimpleNamespace()
    master.on_starting(server)
    assert (master.notify_socket, master.watchdog_seconds) == ("/run/notify", 20.0)
    assert {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} & set(os.environ) == set()
    assert (server.WORKER_BOOT_ERROR, server.APP_LOAD_ERROR) == (module.BOOT_ERROR, module.LOAD_ERROR)
    assert len(JsonLogger.probe_secret) == 32


def test_without_systemd_there_is_nobody_to_tell(master, monkeypatch):
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(JsonLogger, "probe_secret", "")
    master.on_starting(types.SimpleNamespace())
    assert (master.notify_socket, master.watchdog_seconds) == ("", 0.0)


def test_a_reload_finds_the_master_that_is_there(tmp_path, monkeypatch):
    monkeypatch.setattr(Master, "_instance", None)
    first = Master.instance(Settings(**settings(tmp_path)))
    assert Master.instance(Settings(**settings(tmp_path, workers=7))) is first
    first.nworkers_changed(None, 7, 1)
    assert first.board.workers == 7


def test_the_settings_are_read_as_they_are_written(tmp_path):
    path = tmp_path / "gunicorn.json"
    path.write_text('{"app_module": "a:b"}')
    with pytest.raises(KeyError):
        load(path)
    assert Settings(**settings(tmp_path)).operations_socket == f"{tmp_path}/run/operations.sock"
    assert release_id(str(tmp_path / "absent.json")) == ""
