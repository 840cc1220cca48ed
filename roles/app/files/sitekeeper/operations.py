"""The operations endpoints, for any app: liveness, readiness, memory, metrics.

On a Unix socket in a directory that only the app's user and root can enter, so never reachable from the network or
through a tunnel. Served by a thread of the master: they answer also while all workers hang.
"""

from __future__ import annotations

import contextlib
import json
import os
import socketserver
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sitekeeper import cgroup
from sitekeeper.board import Cell, Leaving, now_ms

if TYPE_CHECKING:
    from sitekeeper.master import Master

REQUEST_SECONDS = 5
KIND_JSON = "application/json"
#: Version 0.0.4 of the Prometheus text format.
KIND_METRICS = "text/plain; version=0.0.4; charset=utf-8"


class Operations(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """The endpoints of one master.

    Args:
        master: whose state is shown.
        path: where to listen.
    """

    daemon_threads = True
    request_queue_size = 16

    def __init__(self, master: Master, path: str) -> None:
        self.master = master
        with contextlib.suppress(FileNotFoundError):
            Path(path).unlink()
        super().__init__(path, Handler)
        Path(path).chmod(0o660)

    def start(self) -> None:
        """Serve from a thread."""
        threading.Thread(target=self.serve_forever, name="sitekeeper-operations", daemon=True).start()

    def close(self) -> None:
        """Remove the socket."""
        with contextlib.suppress(OSError):
            Path(str(self.server_address)).unlink()

    def live(self) -> tuple[int, dict[str, Any]]:
        """Return whether the service makes progress; when not, systemd restarts it."""
        watchdog, board = self.master.watchdog, self.master.board
        alive = watchdog is None or watchdog.alive
        return (200 if alive else 503), {
            "status": "alive" if alive else "no progress",
            "workers": len(board.serving()),
            "unplanned_exits_last_minute": self.master.recent_deaths(time.monotonic()),
        }

    def ready(self) -> tuple[int, dict[str, Any]]:
        """Return whether visitors should be sent here: a worker serves, and the app says that it is well."""
        answer = self.master.watchdog.answer if self.master.watchdog else None
        status = answer.status if answer else None
        workers = len(self.master.board.serving())
        ready = workers > 0 and status is not None and 200 <= status <= 299
        problem = "" if ready else (answer.problem if answer and answer.problem else f"health status {status}")
        return (200 if ready else 503), {
            "status": "ready" if ready else "not ready",
            "health_status": status,
            "problem": problem if workers else "no worker serves",
            "workers": workers,
        }

    def memory(self) -> dict[str, Any]:
        """Return the memory of each worker and of the control group, in bytes."""
        group = self.master.group
        board = self.master.board
        return {
            "workers": [
                {
                    "pid": row[Cell.PID],
                    "rss_bytes": cgroup.rss(row[Cell.PID]),
                    "pss_bytes": cgroup.pss(row[Cell.PID]),
                    "with_children_bytes": row[Cell.MEMORY],
                    "share_bytes": row[Cell.SHARE] or None,
                    "age_seconds": (now_ms() - row[Cell.BORN]) // 1000,
                    "requests": row[Cell.REQUESTS],
                    "in_flight": row[Cell.IN_FLIGHT],
                    "oldest_request_seconds": row[Cell.OLDEST] / 1000,
                    "state": state(row[Cell.BOOTED], row[Cell.LEAVING]),
                }
                for row in board.rows()
                if row[Cell.PID] > 0
            ],
            "master": {"pid": os.getpid(), "rss_bytes": cgroup.rss(os.getpid()), "pss_bytes": cgroup.pss(os.getpid())},
            "group": {
                "current_bytes": cgroup.number(group / "memory.current") if group else None,
                "high_bytes": cgroup.number(group / "memory.high") if group else None,
                "max_bytes": cgroup.number(group / "memory.max") if group else None,
                "peak_bytes": cgroup.number(group / "memory.peak") if group else None,
                "events": cgroup.table(group / "memory.events") if group else {},
            },
            "worker_exits": {why.name.lower(): count for why, count in board.exits.items()},
        }

    def metrics(self) -> str:
        """Return everything as Prometheus text."""
        return "".join(f"{line}\n" for line in metric_lines(self))


def state(booted: int, leaving: int) -> str:
    """Name what a worker does."""
    if leaving:
        return f"leaves: {Leaving(leaving).name.lower()}"
    return "serves" if booted else "boots"


def metric_lines(operations: Operations) -> Iterator[str]:
    """Make the lines of the metrics."""
    facts, board = operations.memory(), operations.master.board
    live, ready = operations.live()[0], operations.ready()[0]
    yield from family("live", "gauge", "1 while requests make progress", [("", int(live == 200))])
    yield from family("ready", "gauge", "1 while the app says that it is well", [("", int(ready == 200))])
    yield from family("requests_total", "counter", "Requests taken", [("", board.requests())])
    classes = [(f'{{class="{number}xx"}}', count) for number, count in enumerate(board.answers(), 1)]
    yield from family("answers_total", "counter", "Answers by class of status", classes)
    exits = [(f'{{reason="{name}"}}', count) for name, count in facts["worker_exits"].items()]
    yield from family("worker_exits_total", "counter", "Workers that are gone, by reason", exits)
    for key, kind, words in (
        ("rss_bytes", "gauge", "Memory of a worker"),
        ("pss_bytes", "gauge", "Memory of a worker, shared pages in parts"),
        ("age_seconds", "gauge", "Age of a worker"),
        ("requests", "gauge", "Requests a worker has taken"),
        ("in_flight", "gauge", "Requests a worker serves now"),
    ):
        values = [(f'{{pid="{one["pid"]}"}}', one[key]) for one in facts["workers"] if one[key] is not None]
        yield from family(f"worker_{key}", kind, words, values)
    group = facts["group"]
    for key in ("current_bytes", "high_bytes", "max_bytes", "peak_bytes"):
        if group[key] is not None:
            yield from family(f"memory_{key}", "gauge", f"The control group's memory.{key[:-6]}", [("", group[key])])
    events = [(f'{{event="{name}"}}', count) for name, count in group["events"].items()]
    yield from family("memory_events_total", "counter", "The control group's memory.events", events)


def family(name: str, kind: str, words: str, values: list[tuple[str, int]]) -> Iterator[str]:
    """Make the lines of one metric."""
    yield f"# HELP sitekeeper_{name} {words}"
    yield f"# TYPE sitekeeper_{name} {kind}"
    for labels, value in values:
        yield f"sitekeeper_{name}{labels} {value}"


class Handler(BaseHTTPRequestHandler):
    """Answers one request for an endpoint."""

    server: Operations
    timeout = REQUEST_SECONDS

    def do_GET(self) -> None:
        """Answer."""
        operations = self.server
        if self.path in ("/livez", "/readyz"):
            status, facts = operations.live() if self.path == "/livez" else operations.ready()
            self.send(status, json.dumps(facts), KIND_JSON)
        elif self.path == "/memory":
            self.send(200, json.dumps(operations.memory()), KIND_JSON)
        elif self.path == "/metrics":
            self.send(200, operations.metrics(), KIND_METRICS)
        else:
            self.send(404, json.dumps({"endpoints": ["/livez", "/readyz", "/memory", "/metrics"]}), KIND_JSON)

    def send(self, status: int, text: str, kind: str) -> None:
        """Send an answer."""
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        """Return who asks: on a Unix socket nobody has an address."""
        return "local"

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: a line for each scrape would push out what matters."""
