"""What the guard of a worker does with its decisions: turns, pauses, children, threads, the end of the worker."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import pytest

from sitekeeper import cgroup
from sitekeeper import guard as module
from sitekeeper.board import Board, Cell, Leaving, now_ms
from sitekeeper.guard import STUCK_STATUS, Guard
from sitekeeper.settings import Settings
from sitekeeper.worker import InFlight
from tests.polling import PATIENCE_SECONDS
from tests.unit.keeper.site import settings, wait_for
from tests.unit.rendering import options

MIB = 1024**2


class Log:
    """Remembers what a worker says."""

    def __init__(self):
        self.said = []

    def info(self, text, *words):
        self.said.append(text % words)

    error = info


@pytest.fixture
def board():
    return Board(2)


@pytest.fixture
def guard(tmp_path, board, monkeypatch):
    """Make a guard over a worker of which nothing is real but its row; none of them ends this process."""
    (tmp_path / "run").mkdir()
    monkeypatch.setattr(module.cgroup, "own_group", lambda: None)

    def make(**facts):
        worker = types.SimpleNamespace(
            **{
                "alive": True,
                "paused": False,
                "nr": 0,
                "planned_requests": sys.maxsize,
                "nr_conns": 0,
                "accepts": False,
            }
            | {"in_flight": {}, "idle_threads": set, "log": Log()}
            | facts
        )
        one = Guard(worker, board, board.free_row(), Settings(**settings(tmp_path)))
        one.row[Cell.PID], one.row[Cell.BOOTED] = os.getpid(), now_ms()
        return one

    return make


@pytest.fixture
def signals(monkeypatch):
    """The signals that would have been sent, as (process, signal)."""
    sent = []
    monkeypatch.setattr(module.os, "kill", lambda pid, number: sent.append((pid, int(number))))
    return sent


def another_serves(board, pid=1):
    row = board.free_row()
    row[Cell.PID], row[Cell.BOOTED] = pid, now_ms()
    return row


def in_worker(work):
    """Do something in a process that leads its own group, as a worker does; return its exit status."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.setpgid(0, 0)
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def group_of(top, *pids):
    """Write the kernel's file of a control group with these processes in it."""
    (top / "group").mkdir(exist_ok=True)
    (top / "group/cgroup.procs").write_text("".join(f"{pid}\n" for pid in pids))
    return top / "group"


# Turns


def test_only_one_worker_has_its_turn_until_its_process_is_gone(guard, board):
    another_serves(board)
    first, second = guard(), guard()
    assert first.take_turn()
    assert first.take_turn(), "it keeps it"
    assert not second.take_turn()
    os.close(first.turn)
    assert second.take_turn()


def test_a_worker_that_retires_says_why_and_asks_itself_to_stop(guard, board, signals):
    another_serves(board)
    one = guard(nr=7)
    one.retire(Leaving.REQUESTS, "has served its number of requests")
    assert signals == [(os.getpid(), 15)]
    assert one.row[Cell.LEAVING] == Leaving.REQUESTS
    assert one.worker.log.said == [
        f"Worker {os.getpid()} retires after 7 requests: it has served its number of requests"
    ]


def test_nobody_retires_while_another_worker_boots(guard, board, signals):
    another_serves(board)[Cell.BOOTED] = 0
    one = guard()
    one.retire(Leaving.REQUESTS, "")
    assert (signals, one.row[Cell.LEAVING]) == ([], Leaving.SERVING)


def test_who_gets_the_turn_just_when_another_one_went_gives_it_back(guard, board, signals, monkeypatch):
    another_serves(board)
    one, next_one = guard(), guard()
    looks = iter([True, False])
    monkeypatch.setattr(board, "others_serve", lambda: next(looks))
    one.retire(Leaving.REQUESTS, "")
    assert (signals, one.row[Cell.LEAVING]) == ([], Leaving.SERVING)
    monkeypatch.setattr(board, "others_serve", lambda: True)
    assert next_one.take_turn(), "the lock is free"


# Memory


@pytest.mark.parametrize(("factor", "paused"), [(1.1, False), (2.0, True)])
def test_who_is_far_over_takes_no_more_requests_while_it_waits_for_its_turn(guard, signals, factor, paused):
    # No other worker serves, so its turn does not come.
    one = guard()
    one.may = int(cgroup.rss("self") / factor)
    one.watch_memory()
    assert (one.worker.paused, signals) == (paused, [])


def test_who_is_over_retires_for_its_memory_when_it_is_its_turn(guard, board, signals):
    another_serves(board)
    one = guard()
    one.may = 1
    one.watch_memory()
    assert (one.row[Cell.LEAVING], len(signals)) == (Leaving.MEMORY, 1)


@pytest.mark.parametrize(("grown", "paused"), [(16, True), (0, False)])
def test_who_grows_while_another_one_leaves_waits_until_that_is_gone(guard, board, monkeypatch, grown, paused):
    other, one = another_serves(board), guard()
    one.may, one.planned, other[Cell.MEMORY] = 150 * MIB, 200 * MIB, 160 * MIB
    used = [50 * MIB]
    monkeypatch.setattr(module.cgroup, "rss", lambda pid: used[0])
    other[Cell.LEAVING] = Leaving.MEMORY
    one.watch_memory()
    assert not one.worker.paused, "it may go on as it is"
    used[0] += grown * MIB
    one.watch_memory()
    assert one.worker.paused is paused
    board.retire(other, Leaving.MEMORY)
    one.watch_memory()
    assert not one.worker.paused


def test_nobody_waits_so_long_that_the_watchdog_ends_all(guard, board, monkeypatch):
    # The one that leaves may have a request of half a minute.
    other, one = another_serves(board), guard()
    one.may, one.planned, other[Cell.MEMORY], other[Cell.LEAVING] = 150 * MIB, 200 * MIB, 160 * MIB, Leaving.MEMORY
    for used, now, paused in ((50, 100.0, False), (66, 100.1, True), (66, 104.9, True), (66, 105.1, False)):
        monkeypatch.setattr(module.cgroup, "rss", lambda pid, used=used: used * MIB)
        monkeypatch.setattr(module.time, "monotonic", lambda now=now: now)
        one.watch_memory()
        assert one.worker.paused is paused, now


def test_the_longest_wait_is_well_within_the_watchdog_s_time():
    assert options("service")["service_watchdog_seconds"]["default"] > module.YIELD_SECONDS * 2


@pytest.mark.parametrize("why", [Leaving.SERVING, Leaving.ORDER, Leaving.REQUESTS])
def test_who_grows_beside_others_that_stay_within_their_shares_goes_on(guard, board, monkeypatch, why):
    # Not at a reload either: for a moment there are twice as many.
    other, one = another_serves(board), guard()
    one.may, one.planned, other[Cell.MEMORY], other[Cell.LEAVING] = 150 * MIB, 200 * MIB, 160 * MIB, why
    for used in (50, 66):
        monkeypatch.setattr(module.cgroup, "rss", lambda pid, used=used: used * MIB)
        one.watch_memory()
        assert not one.worker.paused


@pytest.mark.parametrize(("why", "seconds"), [(Leaving.SERVING, 0.5), (Leaving.MEMORY, 0.1)])
def test_the_looks_are_more_often_while_another_one_leaves(guard, board, monkeypatch, why, seconds):
    another_serves(board)[Cell.LEAVING] = why

    def sleep(slept):
        raise StopIteration(slept)

    monkeypatch.setattr(module.time, "sleep", sleep)
    with pytest.raises(StopIteration, match=f"^{seconds}$"):
        guard().run()


def test_a_worker_that_stops_already_is_not_stopped_again(guard, board, signals):
    another_serves(board)
    one = guard(alive=False)
    one.may = 1
    one.watch_memory()
    assert signals == []


def test_what_the_app_has_started_counts_as_the_worker_s_memory(guard, tmp_path):
    one = guard()

    def work():
        program = f"import sys; held = b'x' * {64 * MIB}; print('ready', flush=True); sys.stdin.read()"
        command = [sys.executable, "-c", program]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
            assert child.stdout.readline() == b"ready\n"
            one.group = group_of(tmp_path, os.getpid(), child.pid)
            one.look_around()
            one.watch_memory()
            child.stdin.close()
        assert one.row[Cell.MEMORY] >= cgroup.rss("self") + 60 * MIB

    assert in_worker(work) == 0


# Threads


def test_a_thread_at_work_moves_and_one_that_waits_for_a_lock_does_not(guard):
    over, lock = threading.Event(), threading.Lock()
    rounds = []

    def compute():
        while not over.is_set():
            rounds.append(sum(range(20_000)))

    lock.acquire()
    threads = {"busy": threading.Thread(target=compute), "waiting": threading.Thread(target=lock.acquire)}
    try:
        for thread in threads.values():
            thread.start()
        begin = time.monotonic()
        one = guard(in_flight={thread.ident: InFlight(begin, "/") for thread in threads.values()})
        wait_for(lambda: rounds)
        time.sleep(0.2)
        first = time.monotonic()
        one.thread_facts(first)
        done = len(rounds)
        wait_for(lambda: len(rounds) > done + 50)
        facts = one.thread_facts(first + 10)
    finally:
        over.set()
        lock.release()
        for thread in threads.values():
            thread.join(PATIENCE_SECONDS)
    assert facts[threads["busy"].ident].still == 0
    assert facts[threads["waiting"].ident].still == 10


def test_the_next_request_of_a_thread_has_stood_still_for_no_time(guard):
    lock = threading.Lock()
    lock.acquire()
    thread = threading.Thread(target=lock.acquire)
    thread.start()
    try:
        one = guard(in_flight={thread.ident: InFlight(100.0, "/one")})
        time.sleep(0.2)
        one.thread_facts(101.0)
        one.worker.in_flight[thread.ident] = InFlight(150.0, "/another")
        assert one.thread_facts(151.0)[thread.ident].still == 0
    finally:
        lock.release()
        thread.join(PATIENCE_SECONDS)


def test_the_guard_the_loop_and_idle_threads_are_no_threads_of_the_app(guard):
    over = threading.Event()
    idle = threading.Thread(target=over.wait)
    idle.start()
    try:
        one = guard()
        assert idle.ident in one.thread_facts(1.0), "a thread that the app has started"
        one.worker.idle_threads = lambda: {idle.ident}
        assert not {idle.ident, threading.get_ident()} & set(one.thread_facts(2.0))
    finally:
        over.set()
        idle.join(PATIENCE_SECONDS)


# The end of a worker with a stuck request


def test_a_stuck_worker_waits_for_its_sound_requests(guard, tmp_path):
    one = guard(in_flight={1: InFlight(0.0, "/stuck"), 2: InFlight(0.0, "/sound")}, nr_conns=2)

    def work():
        def finish():
            time.sleep(0.4)
            (tmp_path / "answered").touch()
            one.worker.nr_conns -= 1

        threading.Thread(target=finish).start()
        one.give_up([1])

    begin = time.monotonic()
    assert in_worker(work) == STUCK_STATUS
    assert time.monotonic() - begin < module.DRAIN_SECONDS, "and not for the stuck one"
    assert (tmp_path / "answered").exists()
    assert one.row[Cell.LEAVING] == Leaving.HANG


class Taking:
    """A main loop that is just taking a connection: it counts it from the guard's third look on, and then serves it."""

    def __init__(self, served: Path, **facts):
        vars(self).update(facts)
        self.served = served
        self.looks = 0

    @property
    def accepts(self) -> bool:
        self.looks += 1
        return self.looks < 3

    @property
    def nr_conns(self) -> int:
        if self.looks > 5:
            self.served.touch()
        return 2 if 3 <= self.looks <= 5 else 1


def test_a_stuck_worker_does_not_lose_the_connection_that_is_just_being_taken(guard, tmp_path):
    one = guard(in_flight={1: InFlight(0.0, "/stuck")})
    facts = {name: value for name, value in vars(one.worker).items() if name not in ("accepts", "nr_conns")}
    one.worker = Taking(tmp_path / "served", **facts)
    assert in_worker(lambda: one.give_up([1])) == STUCK_STATUS
    assert (tmp_path / "served").exists()


def test_a_stuck_worker_waits_no_longer_than_it_may(guard, monkeypatch):
    monkeypatch.setattr(module, "DRAIN_SECONDS", 0.2)
    one = guard(in_flight={1: InFlight(0.0, "/stuck")}, nr_conns=3)
    assert in_worker(lambda: one.give_up([1])) == STUCK_STATUS


def test_what_the_app_has_started_does_not_outlive_a_stuck_worker(guard, tmp_path):
    one = guard(in_flight={1: InFlight(0.0, "/stuck")}, nr_conns=1)

    def work():
        # Its own output: the pipe's end would otherwise be open in it.
        child = subprocess.Popen(["sleep", "600"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        (tmp_path / "child").write_text(str(child.pid))
        one.group = group_of(tmp_path, os.getpid(), child.pid)
        one.give_up([1])

    try:
        assert in_worker(work) == STUCK_STATUS
        child = int((tmp_path / "child").read_text())
        wait_for(lambda: not runs(child), seconds=5)
    finally:
        with contextlib.suppress(OSError, ValueError):
            os.kill(int((tmp_path / "child").read_text()), 9)


def runs(pid):
    """Tell whether a process is there and is no zombie that nobody has collected yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
