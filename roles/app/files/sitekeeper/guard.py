"""A thread in each worker that watches its memory and its requests, and ends the worker in good time.

It needs no help from the app, from the master or from a request: it also acts while all request threads hang.
"""

from __future__ import annotations

import contextlib
import faulthandler
import fcntl
import os
import platform
import signal
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sitekeeper import cgroup, verdict
from sitekeeper.board import Board, Cell, Leaving, Row, now_ms

if TYPE_CHECKING:
    from sitekeeper.settings import Settings
    from sitekeeper.worker import KeptWorker

TICK_SECONDS = 0.5
#: While another worker leaves because of its memory: what is left beside it can be gone within a tick.
QUICK_SECONDS = 0.1
#: How long a worker waits for that one at most: where no other one serves, nobody is answered meanwhile, and the
#: watchdog of systemd would end them all.
YIELD_SECONDS = 5.0
#: The limits of the kernel and the processes of the app are looked at every so many ticks.
SLOW_TICKS = 4
#: A request younger than this is not looked at: most never get so old.
YOUNG_SECONDS = 1.0
#: How long the sound requests of a worker with a stuck one may take to end.
DRAIN_SECONDS = 5.0
#: Exit status of a worker that ended itself because of a stuck request (EX_TEMPFAIL of sysexits.h).
STUCK_STATUS = 75


@dataclass
class Look:
    """What the guard remembers of a thread between two ticks."""

    request: object
    processor_ns: int
    place: tuple[int, int]
    moved: float


class Guard(threading.Thread):
    """Watches one worker.

    Args:
        worker: the worker, whose requests and event loop are watched.
        board: where it reports.
        row: its row on the board.
        settings: how long is too long.
    """

    def __init__(self, worker: KeptWorker, board: Board, row: Row, settings: Settings) -> None:
        super().__init__(name="sitekeeper-guard", daemon=True)
        self.worker = worker
        self.board = board
        self.row = row
        self.settings = settings
        self.group = cgroup.own_group()
        self.machine = platform.machine()
        self.at_boot = cgroup.rss("self")
        self.master_memory = cgroup.rss(os.getppid())
        self.children = 0
        self.may: int | None = None
        self.planned: int | None = None
        #: When another worker was first seen to leave for its memory, and this one's memory then.
        self.at_turn: tuple[float, int] | None = None
        self.looks: dict[int, Look] = {}
        self.turn: int | None = None

    def run(self) -> None:
        """Look, until the worker is gone."""
        tick = 0
        while True:
            if tick % SLOW_TICKS == 0:
                self.look_around()
            tick += 1
            try:
                self.watch_memory()
                self.watch_requests(time.monotonic())
            except Exception:
                # A guard that dies is a worker without one: say so and go on.
                self.worker.log.exception("the guard could not look")
            self.row[Cell.BEAT] = now_ms()
            time.sleep(TICK_SECONDS if self.at_turn is None else QUICK_SECONDS)

    def look_around(self) -> None:
        """Read the limits anew (they can be changed while the service runs) and what the app's children use."""
        limit = cgroup.limit(self.group, self.settings.memory_limit_bytes)
        self.planned = verdict.planned(limit, self.master_memory)
        self.may = verdict.allowed(verdict.share(limit, self.master_memory, self.board.workers), self.at_boot)
        mine = cgroup.children_of(os.getpid(), cgroup.pids(self.group))
        self.children = sum(cgroup.rss(pid) for pid in mine)
        self.row[Cell.SHARE] = self.may or 0

    def watch_memory(self) -> None:
        """Retire before the kernel has to act; take no more requests where that cannot wait."""
        memory = cgroup.rss("self") + self.children
        self.row[Cell.MEMORY] = memory
        self.row[Cell.REQUESTS] = self.worker.nr
        if not self.worker.alive:
            return
        self.worker.paused = verdict.is_far_over(memory, self.may) or self.takes_the_rest(memory)
        if verdict.is_over(memory, self.may):
            self.retire(Leaving.MEMORY, f"uses {memory >> 20} MiB of the {(self.may or 0) >> 20} MiB it may use")
        elif self.worker.nr >= self.worker.planned_requests:
            self.retire(Leaving.REQUESTS, "has served its number of requests")

    def takes_the_rest(self, memory: int) -> bool:
        """Tell whether this worker grows into what is left while another one leaves, whose memory still counts.

        Both would stand still at the kernel's limit, and be ended with the requests that they have.
        """
        others = [row for row in self.board.rows() if row[Cell.PID] != os.getpid()]
        if not any(row[Cell.LEAVING] == Leaving.MEMORY for row in others):
            self.at_turn = None
            return False
        if self.at_turn is None:
            self.at_turn = time.monotonic(), memory
        since, before = self.at_turn
        together = memory + sum(row[Cell.MEMORY] for row in others)
        waits = verdict.takes_the_rest(memory, before, together, self.planned)
        return waits and time.monotonic() - since < YIELD_SECONDS

    def retire(self, why: Leaving, reason: str) -> None:
        """Stop gracefully when it is this worker's turn: never two at once, and not while another one boots."""
        if not self.board.others_serve() or not self.take_turn():
            return
        self.row[Cell.LEAVING] = why
        self.worker.log.info("Worker %d retires after %d requests: it %s", os.getpid(), self.worker.nr, reason)
        os.kill(os.getpid(), signal.SIGTERM)

    def take_turn(self) -> bool:
        """Take the lock of those who retire; the kernel gives it back when this process is gone."""
        if self.turn is None:
            path = Path(self.settings.runtime_dir) / "retire.lock"
            self.turn = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self.turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        if self.board.others_serve():
            return True
        # Somebody else had its turn between the look and the lock.
        fcntl.flock(self.turn, fcntl.LOCK_UN)
        return False

    def watch_requests(self, now: float) -> None:
        """Find requests that will never end; report how many there are and how old."""
        requests = dict(self.worker.in_flight)
        ages = {ident: now - request.started for ident, request in requests.items()}
        oldest = max(ages.values(), default=0.0)
        self.row[Cell.IN_FLIGHT] = len(requests)
        self.row[Cell.OLDEST] = int(oldest * 1000)
        if oldest < YOUNG_SECONDS:
            self.row[Cell.EXCUSED] = 0
            self.looks.clear()
            return
        facts = self.thread_facts(now)
        hang, limit = self.settings.hang_seconds, self.settings.request_limit_seconds
        stuck = [
            ident
            for ident, one in facts.items()
            if verdict.is_stuck(one, [other for key, other in facts.items() if key != ident], hang, limit)
        ]
        self.row[Cell.EXCUSED] = int(len(requests) >= self.settings.threads and not stuck)
        if stuck:
            self.give_up(stuck)

    def thread_facts(self, now: float) -> dict[int, verdict.ThreadFacts]:
        """Look at every thread of the app: those with a request, and those that the app started."""
        frames = sys._current_frames()
        own = {threading.get_ident(), threading.main_thread().ident, *self.worker.idle_threads()}
        facts: dict[int, verdict.ThreadFacts] = {}
        looks: dict[int, Look] = {}
        for thread in threading.enumerate():
            ident, native = thread.ident, thread.native_id
            if ident is None or native is None or ident in own or ident not in frames:
                continue
            request = self.worker.in_flight.get(ident)
            look = self.look_at(ident, native, request, (id(frames[ident]), frames[ident].f_lasti), now)
            looks[ident] = look
            facts[ident] = verdict.ThreadFacts(
                request_age=now - request.started if request else None,
                answering=request is not None and request.answering,
                still=now - look.moved,
                waits=self.waits(native),
            )
        self.looks = looks
        return facts

    def look_at(self, ident: int, native: int, request: object, place: tuple[int, int], now: float) -> Look:
        """Compare a thread with what it was a tick ago."""
        before = self.looks.get(ident)
        used = processor_ns(native)
        same = before and before.request is request and before.place == place and before.processor_ns == used
        return before if before and same else Look(request, used, place, now)

    def waits(self, native: int) -> verdict.Waits:
        """Ask the kernel what a thread waits for; where it does not say, suspect nothing."""
        try:
            line = Path(f"/proc/self/task/{native}/syscall").read_text(encoding="ascii")
        except OSError:
            return verdict.Waits.OUTSIDE
        return verdict.waits_for(line, self.machine)

    def give_up(self, stuck: list[int]) -> None:
        """End the worker: no more requests, the sound ones finish, then go without waiting for the stuck ones."""
        self.row[Cell.LEAVING] = Leaving.HANG
        self.worker.paused = True
        paths = [request.path for ident in stuck if (request := self.worker.in_flight.get(ident))]
        self.worker.log.error(
            "Worker %d hangs: %d of its requests will never end (%s); the stacks of all its threads follow",
            os.getpid(),
            len(stuck),
            ", ".join(paths),
        )
        faulthandler.dump_traceback(file=sys.__stderr__ or 2, all_threads=True)
        deadline = time.monotonic() + DRAIN_SECONDS
        self.worker.alive = False
        # The main loop may be just about to take a connection: it counts only then. Where no thread is left, those who
        # wait for one would wait in vain.
        while (
            self.worker.accepts or self.settings.threads > len(stuck) < self.worker.nr_conns
        ) and time.monotonic() < deadline:
            self.row[Cell.BEAT] = now_ms()
            time.sleep(0.05)
        with contextlib.suppress(OSError):
            # What the app started must not outlive it: it may be what everybody waits for.
            kill_children(self.group)
        os._exit(STUCK_STATUS)


def processor_ns(native: int) -> int:
    """Return the nanoseconds that a thread of this process has spent on a processor; 0 when it is gone."""
    try:
        return int(Path(f"/proc/self/task/{native}/schedstat").read_text(encoding="ascii").split()[0])
    except (OSError, IndexError, ValueError):
        return 0


def kill_children(group: Path | None) -> None:
    """Kill what this worker started."""
    for pid in cgroup.children_of(os.getpid(), cgroup.pids(group)):
        os.kill(pid, signal.SIGKILL)
