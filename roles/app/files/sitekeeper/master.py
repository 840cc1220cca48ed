"""Gunicorn's hooks: what the master does for its workers, and what each worker does at its begin and its end."""

from __future__ import annotations

import collections
import contextlib
import os
import secrets
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sitekeeper import cgroup, guard, verdict
from sitekeeper.accesslog import JsonLogger
from sitekeeper.board import PLANNED, Board, Cell, Leaving, now_ms
from sitekeeper.operations import Operations
from sitekeeper.watchdog import Watchdog, say

if TYPE_CHECKING:
    from sitekeeper.settings import Settings
    from sitekeeper.worker import KeptWorker

#: Exit statuses of a worker that could not boot. Gunicorn's own 3 and 4 are also what an app may exit with, at any
#: time, and Gunicorn would then stop the whole service.
BOOT_ERROR, LOAD_ERROR = 113, 114
#: The kernel, out of memory, chooses by size and by this: a worker before the master (proc(5), oom_score_adj).
WORKER_OOM_SCORE = "100"
#: So many unplanned ends of workers within the window are a crash loop.
LOOP_DEATHS = 5
LOOP_SECONDS = 60.0


class Master:
    """What the hooks share. There is one in a master, and each worker has the copy of the moment it was forked.

    Args:
        settings: the settings at the start; what a reload changes reaches the workers through Gunicorn.
    """

    _instance: Master | None = None

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.group = cgroup.own_group()
        self.board = Board(settings.workers)
        self.notify_socket = ""
        self.watchdog_seconds = 0.0
        self.boot_failures = 0
        self.last_boot_failure = 0
        self.deaths: collections.deque[float] = collections.deque(maxlen=100)
        self.loop_told = float("-inf")
        self.watchdog: Watchdog | None = None
        self.operations: Operations | None = None

    @classmethod
    def instance(cls, settings: Settings) -> Master:
        """Return the one that is there, or make it: a reload must not lose the board that the workers write on."""
        if cls._instance is None:
            cls._instance = cls(settings)
        return cls._instance

    def on_starting(self, server: Any) -> None:
        """Take systemd's addresses for ourselves: Gunicorn would say "ready" before any worker exists."""
        self.notify_socket = os.environ.pop("NOTIFY_SOCKET", "")
        self.watchdog_seconds = int(os.environ.pop("WATCHDOG_USEC", "0")) / 1e6
        os.environ.pop("WATCHDOG_PID", None)
        server.WORKER_BOOT_ERROR, server.APP_LOAD_ERROR = BOOT_ERROR, LOAD_ERROR
        JsonLogger.probe_secret = secrets.token_hex(16)

    def when_ready(self, server: Any) -> None:
        """Start to look after the workers; none is there yet."""
        self.watchdog = Watchdog(self, server)
        self.watchdog.start()
        self.operations = Operations(self, self.settings.operations_socket)
        self.operations.start()

    def pre_fork(self, server: Any, worker: KeptWorker) -> None:
        """Give the next worker a row; a row that is taken has a process, or is about to."""
        if any(row[Cell.BOOTED] > self.last_boot_failure for row in self.board.rows()):
            self.boot_failures = 0
        worker.row = self.board.free_row()
        worker.row[Cell.BORN] = now_ms()
        worker.row[Cell.PID] = -1

    def post_fork(self, server: Any, worker: KeptWorker) -> None:
        """Begin as a worker: a process group for all that it will start, and a pause when the last ones failed."""
        os.setpgid(0, 0)
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text(WORKER_OOM_SCORE, encoding="ascii")
        worker.row[Cell.PID] = os.getpid()

        def leave(*_: Any) -> None:
            worker.row[Cell.LEAVING] = Leaving.ORDER
            os._exit(0)

        # Until the worker has its own handlers: with the master's, a stop would be noted and never followed.
        for one in (signal.SIGTERM, signal.SIGQUIT, signal.SIGINT):
            signal.signal(one, leave)
        if pause := verdict.boot_pause(self.boot_failures):
            worker.log.warning("%d workers did not boot; the next one waits %.0f s", self.boot_failures, pause)
            self.wait(worker, pause)

    def wait(self, worker: KeptWorker, seconds: float) -> None:
        """Wait in a new worker: the master sees that it lives, and its time to load the app has not begun."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and os.getppid() == worker.ppid:
            worker.notify()
            worker.row[Cell.BORN] = now_ms()
            time.sleep(0.2)

    def post_worker_init(self, worker: KeptWorker) -> None:
        """The app is loaded: report it, and start the guard."""
        worker.log.row = worker.row
        worker.row[Cell.BOOTED] = now_ms()
        guard.Guard(worker, self.board, worker.row, self.settings).start()

    def worker_exit(self, server: Any, worker: KeptWorker) -> None:
        """End as a worker."""
        if os.getpid() != worker.pid:
            return
        worker.row[Cell.REQUESTS] = worker.nr
        if worker.row[Cell.LEAVING] == Leaving.MEMORY:
            # What it started may be where the memory went.
            guard.kill_children(self.group)
        if not worker.booted and server.WORKERS:
            # Its siblings serve: the status for "did not boot" would make Gunicorn stop them too.
            os._exit(1)

    def child_exit(self, server: Any, worker: KeptWorker) -> None:
        """Count a worker that is gone, by its reason."""
        row = worker.row
        why = Leaving(row[Cell.LEAVING])
        if why is Leaving.SERVING:
            why = Leaving.TIMEOUT if worker.aborted else Leaving.CRASH if row[Cell.BOOTED] else Leaving.BOOT
        if why is Leaving.BOOT:
            self.boot_failures += 1
            self.last_boot_failure = now_ms()
        self.board.retire(row, why)
        if why not in PLANNED:
            self.count_death(time.monotonic(), why)

    def count_death(self, now: float, why: Leaving) -> None:
        """Remember an unplanned end; say once in a while that there are many: systemd sees only the master's own."""
        self.deaths.append(now)
        recent = self.recent_deaths(now)
        if recent >= LOOP_DEATHS and now - self.loop_told >= LOOP_SECONDS:
            self.loop_told = now
            reason = why.name.lower()
            say(f"worker crash loop: {recent} workers ended unplanned in the last {LOOP_SECONDS:.0f} s ({reason})")

    def recent_deaths(self, now: float) -> int:
        """Return how many workers ended unplanned within the window."""
        return sum(1 for moment in self.deaths if now - moment <= LOOP_SECONDS)

    def nworkers_changed(self, server: Any, new: int, old: int | None) -> None:
        """Follow a change of the number of workers."""
        self.board.workers = new

    def on_exit(self, server: Any) -> None:
        """Leave nothing behind."""
        if self.operations is not None:
            self.operations.close()
