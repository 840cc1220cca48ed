"""A thread in the master: tells systemd when the service is ready and that it is alive, by real HTTP answers.

Gunicorn says "ready" before it has a worker, and never says that it is alive. Here the app itself is asked, through the
same socket as visitors come. Nothing in this file takes a lock that the next forked worker might find taken.
"""

from __future__ import annotations

import collections
import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sitekeeper import cgroup, verdict
from sitekeeper.accesslog import JsonLogger
from sitekeeper.board import Cell, Leaving, now_ms

if TYPE_CHECKING:
    from pathlib import Path

    from sitekeeper.master import Master

PROBE_SECONDS = 2.0
LONGEST_INTERVAL_SECONDS = 3.0
#: A guard that has not looked for so long says nothing any more.
FRESH_MS = 5_000
#: The kernel may slow the service down for so long before the largest worker has to go.
THROTTLED_SECONDS = 5.0
POLL_SECONDS = 0.05


def say(text: str) -> None:
    """Write a line to the journal without Python's logging and its locks."""
    with contextlib.suppress(OSError):
        os.write(2, f"[sitekeeper] {text}\n".encode())


def notify(address: str, text: str) -> None:
    """Tell systemd (sd_notify(3)); without an address there is nobody to tell."""
    if not address:
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
        out.connect("\0" + address[1:] if address.startswith("@") else address)
        out.sendall(text.encode())


@dataclass(frozen=True)
class Answer:
    """What the app said to a probe: a status, or None and why not."""

    status: int | None
    seconds: float
    problem: str = ""


#: A master that stops has closed its sockets, and then has none.
STOPS = Answer(None, 0.0, "stops")


def probe(name: Any, path: str, secret: str, seconds: float) -> Answer:
    """Ask the app once, as a visitor would.

    Args:
        name: what ``getsockname()`` says of the listening socket.
        path: what to ask for.
        secret: marks the request, so that it is not logged as a visitor's.
        seconds: for everything together.
    """
    start = time.monotonic()
    local = isinstance(name, (str, bytes))
    target = name if local else ("127.0.0.1" if name[0] == "0.0.0.0" else name[0], name[1])
    try:
        with socket.socket(socket.AF_UNIX if local else socket.AF_INET, socket.SOCK_STREAM) as connection:
            connection.settimeout(seconds)
            connection.connect(target)
            connection.sendall(
                f"GET {path} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: sitekeeper\r\n"
                f"X-Sitekeeper-Probe: {secret}\r\nConnection: close\r\n\r\n".encode()
            )
            head = b""
            while len(head) < 12:
                connection.settimeout(max(0.01, start + seconds - time.monotonic()))
                part = connection.recv(4096)
                if not part:
                    return Answer(None, time.monotonic() - start, "closed without an answer")
                head += part
            return Answer(int(head[9:12]), time.monotonic() - start)
    except (OSError, ValueError) as error:
        return Answer(None, time.monotonic() - start, str(error) or type(error).__name__)


class Watchdog(threading.Thread):
    """Asks the app and tells systemd.

    Args:
        master: the hooks' state, with the board.
        server: Gunicorn's arbiter, for its listening socket.
    """

    def __init__(self, master: Master, server: Any) -> None:
        super().__init__(name="sitekeeper-watchdog", daemon=True)
        self.master = master
        self.server = server
        self.group = master.group
        self.interval = min(LONGEST_INTERVAL_SECONDS, (master.watchdog_seconds or 15.0) / 5)
        self.answer = Answer(None, 0.0, "not asked yet")
        self.alive = True
        self.answered = 0
        self.pressure: collections.deque[verdict.Pressure] = collections.deque(
            maxlen=round(THROTTLED_SECONDS / self.interval) + 2
        )

    def run(self) -> None:
        """Wait until the app answers for the first time, then look for ever."""
        while not any(row[Cell.BOOTED] for row in self.master.board.rows()):
            time.sleep(POLL_SECONDS)
        # Visitors who came while nobody served stand before the probe in the queue: their answers count too.
        while self.ask(PROBE_SECONDS).status is None and not sum(self.master.board.answers()):
            time.sleep(POLL_SECONDS)
        notify(self.master.notify_socket, "READY=1\nSTATUS=The app answers")
        while True:
            self.look()
            time.sleep(self.interval)

    def ask(self, seconds: float) -> Answer:
        """Ask the app and remember what it said."""
        try:
            name = self.server.LISTENERS[0].getsockname()
        except (IndexError, OSError):
            self.answer = STOPS
        else:
            self.answer = probe(name, self.master.settings.health_path, JsonLogger.probe_secret, seconds)
        return self.answer

    def look(self) -> None:
        """Look once; tell systemd only what is true."""
        self.relieve()
        answer = self.ask(PROBE_SECONDS)
        answered = sum(self.master.board.answers())
        seen = verdict.Progress(
            probe_answered=answer.status is not None,
            requests=answered - self.answered,
            excused=self.excused(),
            repaired=self.repaired(),
            throttled=verdict.is_throttled(self.pressure),
        )
        self.answered = answered
        # While it stops the master waits for its workers' last requests; Gunicorn limits that.
        alive = verdict.is_alive(seen) or answer is STOPS
        if alive:
            notify(self.master.notify_socket, "WATCHDOG=1")
        elif self.alive:
            say(f"no progress: {answer.problem}")
        self.alive = alive

    def excused(self) -> bool:
        """Tell whether a worker's guard says that all its threads are busy and none is stuck."""
        oldest = now_ms() - FRESH_MS
        return any(row[Cell.EXCUSED] and row[Cell.BEAT] > oldest for row in self.master.board.rows())

    def repaired(self) -> bool:
        """Tell whether a worker is coming up; end one that takes too long, which Gunicorn's own timeout never does."""
        oldest = now_ms() - self.master.settings.boot_timeout_seconds * 1000
        booting = [row for row in self.master.board.rows() if not row[Cell.BOOTED]]
        for row in booting:
            if row[Cell.BORN] <= oldest and row[Cell.PID] > 0:
                say(f"worker {row[Cell.PID]} did not load the app in time")
                with contextlib.suppress(OSError):
                    os.kill(row[Cell.PID], signal.SIGKILL)
        return any(row[Cell.BORN] > oldest for row in booting)

    def relieve(self) -> None:
        """End the largest worker while the kernel slows the service down: a throttled app never dies by itself."""
        if self.group is None:
            return
        if not cgroup.counts_memory(self.group):
            self.keep_within_limit(self.group)
            return
        self.pressure.append(
            verdict.Pressure(
                anon=cgroup.table(self.group / "memory.stat").get("anon", 0),
                high=cgroup.number(self.group / "memory.high"),
                events=cgroup.table(self.group / "memory.events").get("high", 0),
            )
        )
        if len(self.pressure) < (self.pressure.maxlen or 0) or not verdict.is_throttled(self.pressure):
            return
        self.end_largest("the kernel slows the app down (memory.high)")
        self.pressure.clear()

    def keep_within_limit(self, group: Path) -> None:
        """End the largest worker above service_memory_max: without the memory controller no kernel does."""
        most = self.master.settings.memory_max_bytes
        rows = [row for row in self.master.board.rows() if row[Cell.PID] > 0]
        # Shared pages count in each process here, so no more than this is in use; the exact count costs time.
        if cgroup.rss("self") + sum(row[Cell.MEMORY] for row in rows) <= most:
            return
        leaders = {os.getpid(), *(row[Cell.PID] for row in rows)}
        ours = [pid for pid in cgroup.pids(group) if leaders & {pid, cgroup.process_group(pid)}]
        if sum(cgroup.pss(pid) or cgroup.rss(pid) for pid in ours) > most:
            self.end_largest("all processes together use more than service_memory_max", ours)

    def end_largest(self, why: str, processes: Iterable[int] = ()) -> None:
        """Kill the worker that uses the most memory, with those of the processes that it started."""
        rows = {row[Cell.PID]: row for row in self.master.board.rows() if row[Cell.PID] > 0}
        victim = verdict.largest({pid: row[Cell.MEMORY] for pid, row in rows.items()})
        if victim is not None:
            rows[victim][Cell.LEAVING] = Leaving.MEMORY
            say(f"{why}: worker {victim}, the largest, has to go")
            for pid in (victim, *cgroup.children_of(victim, processes)):
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
