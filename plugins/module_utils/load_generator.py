"""A load that keeps its own time, whatever the server does, and a ledger of every request.

One file for three uses: a command that can be copied to any host (``python3 load.py URL``; `tools/load.py` is a link to
this file), a library for tests (``from tools.load import Load``) and a part of Ansible modules. Python 3.10 or later,
nothing else. It asks only what it is given: no proxy, no redirect, and it ends by itself.

Outcomes of a request:
    ok            a status below 400, and the whole answer
    error_status  a whole answer with a status of 400 or more
    refused       nobody took the connection
    unreachable   no way to the host, or no such host
    empty         accepted, then closed without a byte
    reset         broken off by the other side
    stale         one of these two, on a connection that had been kept from an earlier request
    garbled       something else than HTTP, or only a part of an answer
    timeout       no whole answer in time
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import http.client
import io
import itertools
import json
import math
import resource
import select
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

OUTCOMES = ("ok", "error_status", "refused", "unreachable", "empty", "reset", "stale", "garbled", "timeout")
#: No load can be larger than this, nor a request longer.
MOST_SECONDS = 3600.0
MOST_REQUESTS = 200_000
MOST_AT_ONCE = 4000
SPARE_FILES = 64
#: A full queue of a Unix socket, and one that is not there, are what a refused connection is for TCP.
_REFUSED = frozenset({errno.ECONNREFUSED, errno.ENOENT, errno.EAGAIN})


@dataclass(frozen=True)
class Row:
    """One request. Times are in seconds since the load began, on the monotonic clock.

    Attributes:
        seq: its number, from 0.
        due: when it had to be sent.
        started: when it was sent; much later than `due` only when this computer is too slow.
        ended: when the outcome was known.
        outcome: one of `OUTCOMES`.
        status: of the answer; None when there was none.
        reused: whether it went over a connection of an earlier request.
        request_id: the header X-Request-Id of the answer; empty when there was none.
    """

    seq: int
    due: float
    started: float
    ended: float
    outcome: str
    status: int | None = None
    reused: bool = False
    request_id: str = ""

    @property
    def waited(self) -> float:
        """Seconds since the request was due: what a visitor waited."""
        return self.ended - self.due


@dataclass(frozen=True)
class Summary:
    """What a table needs of a load. All but the counts are seconds.

    Attributes:
        outcomes: how many requests had each outcome that occurred.
        waits: p50, p95, p99 and max of the good answers; empty without any.
        longest_wait: of all requests, good or not.
        longest_gap: the longest time without a good answer, the load's begin and end included.
        gap_began: when it began, since the load's begin.
    """

    requests: int
    outcomes: dict[str, int]
    waits: dict[str, float]
    longest_wait: float
    longest_gap: float
    gap_began: float

    def line(self) -> str:
        """Return it as one line for people."""
        counts = ", ".join(f"{count} {name}" for name, count in self.outcomes.items()) or "none ended"
        waits = "".join(f", {name} {value:.3f} s" for name, value in self.waits.items())
        gap = f"longest gap {self.longest_gap:.1f} s from {self.gap_began:.1f} s"
        return f"{self.requests} requests: {counts}{waits}, longest wait {self.longest_wait:.1f} s, {gap}"


@dataclass(frozen=True)
class Ledger:
    """Requests of a load, in the order in which they were due."""

    rows: tuple[Row, ...]

    def summary(self) -> Summary:
        """Return counts, waits and the longest gap."""
        counts = Counter(row.outcome for row in self.rows)
        good = [row for row in self.rows if row.outcome == "ok"]
        waits = sorted(row.waited for row in good)
        marks = [0.0, *sorted(row.ended for row in good), max((row.ended for row in self.rows), default=0.0)]
        gap, began = max(((end - begin, begin) for begin, end in itertools.pairwise(marks)), key=lambda one: one[0])
        parts = {"p50": 0.50, "p95": 0.95, "p99": 0.99, "max": 1.0}
        return Summary(
            requests=len(self.rows),
            outcomes={name: counts[name] for name in OUTCOMES if counts[name]},
            waits={name: waits[math.ceil(part * len(waits)) - 1] for name, part in parts.items() if waits},
            longest_wait=max((row.waited for row in self.rows), default=0.0),
            longest_gap=gap,
            gap_began=began,
        )

    def write(self, path: Path) -> None:
        """Write one JSON object a line. Raises OSError."""
        path.write_text("".join(json.dumps(asdict(row)) + "\n" for row in self.rows), encoding="utf-8")


@dataclass(frozen=True)
class Ask:
    """What to ask. Raises ValueError, saying why, when it cannot be asked.

    Attributes:
        url: ``http://HOST[:PORT][/PATH]``.
        path: instead of the one in `url`, with its query.
        method: GET or POST.
        body: what a POST sends.
        headers: further ones; ``Host`` replaces the one made from `url`.
        unix: the Unix socket to connect to; `url` then only gives path and ``Host``.
        timeout: seconds for all of a request.
        keep_alive: whether connections are used again.
    """

    url: str
    path: str = ""
    method: str = "GET"
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    unix: str = ""
    timeout: float = 60.0
    keep_alive: bool = False

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        usable = parts.scheme == "http" and parts.hostname and parts.port != 0 and self.method in ("GET", "POST")
        if not usable or not 0 < self.timeout <= MOST_SECONDS:
            raise ValueError(f"{self.method} {self.url!r} within {self.timeout} s: not GET or POST of http://HOST/")
        words = "".join((self.url, self.path, *self.headers, *self.headers.values()))
        if not (words.isascii() and words.isprintable()) or " " in self.url + self.path:
            raise ValueError("a path with a blank in it, or a header that is not printable ASCII")

    def request(self) -> bytes:
        """Return what is sent."""
        parts = urlsplit(self.url)
        path = self.path or (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        body = self.body if self.method == "POST" else b""
        fields = {
            "Host": parts.netloc,
            "User-Agent": "sitekeeper-load",
            "Connection": "keep-alive" if self.keep_alive else "close",
            **({"Content-Length": str(len(body))} if self.method == "POST" else {}),
            **self.headers,
        }
        lines = [f"{self.method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
        return "\r\n".join(lines).encode() + body

    def connect(self, deadline: float) -> socket.socket:
        """Open a connection; `deadline` is on the monotonic clock. Raises OSError."""
        if not self.unix:
            parts = urlsplit(self.url)
            return socket.create_connection((parts.hostname, parts.port or 80), timeout=_left(deadline))
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.settimeout(_left(deadline))
            sock.connect(self.unix)
        except OSError:
            sock.close()
            raise
        return sock


def _left(deadline: float) -> float:
    """Return the seconds until a moment; raises TimeoutError when there are none."""
    if (left := deadline - time.monotonic()) <= 0:
        raise TimeoutError("no time is left")
    return left


class _Exchange(io.RawIOBase):
    """One request and its answer, as `http.client` reads it: no wait goes past the deadline."""

    def __init__(self, ask: Ask, kept: socket.socket | None) -> None:
        self.ask, self.sock, self.reused, self.received = ask, kept, kept is not None, 0
        self.deadline = time.monotonic() + ask.timeout

    def _connected(self) -> socket.socket:
        """Return the connection, made if need be, with the time that is left. Raises OSError."""
        self.sock = self.sock or self.ask.connect(self.deadline)
        self.sock.settimeout(_left(self.deadline))
        return self.sock

    def readable(self) -> bool:
        """Tell that it can be read."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Wait for some bytes; 0 at the end. Raises OSError."""
        count = self._connected().recv_into(buffer)
        self.received += count
        return count

    def makefile(self, _mode: str) -> io.BufferedReader:
        """Stand in for a socket; closing this file leaves the connection open."""
        return io.BufferedReader(self)

    def make(self) -> http.client.HTTPResponse:
        """Send the request and read the whole answer. Raises OSError and HTTPException."""
        self._connected().sendall(self.ask.request())
        answer = http.client.HTTPResponse(cast(socket.socket, self), method=self.ask.method)
        with contextlib.closing(answer):
            answer.begin()
            answer.read()
        return answer


def outcome_of(error: Exception, connected: bool, reused: bool, received: int) -> str:
    """Return the outcome of a request that ended in an error, on a connection or before one, with bytes received."""
    if isinstance(error, TimeoutError):
        return "timeout"
    if not connected:
        return "refused" if isinstance(error, OSError) and error.errno in _REFUSED else "unreachable"
    if isinstance(error, ConnectionError):
        if reused and received == 0:
            return "stale"
        return "empty" if isinstance(error, http.client.RemoteDisconnected) else "reset"
    return "garbled"


class Load:
    """An open-loop load in the background, as a context manager.

    Requests are due at fixed times; each is sent then, however slow the server is, and its wait counts from then.
    The load ends after its time, or when it is stopped; leaving the context stops it:

        with Load("http://127.0.0.1:5555/health", rate=20, seconds=120) as load:
            ...
        assert set(load.stop().summary().outcomes) == {"ok"}
    """

    def __init__(self, ask: Ask | str, *, rate: float = 20.0, seconds: float = 60.0) -> None:
        """Check the arguments; nothing is sent yet. Raises ValueError when the load would be too large.

        Args:
            ask: what to ask; a plain URL for all defaults of `Ask`.
            rate: requests a second.
            seconds: after which the load ends by itself.
        """
        self.ask = ask = Ask(ask) if isinstance(ask, str) else ask
        if not (rate > 0 and 0 < seconds <= MOST_SECONDS and rate * seconds <= MOST_REQUESTS):
            raise ValueError(f"{rate} a second for {seconds} s: at most {MOST_SECONDS:.0f} s, {MOST_REQUESTS} requests")
        self.rate, self.count = rate, max(1, math.floor(rate * seconds))
        self.at_once = min(self.count, math.ceil(rate * ask.timeout) + 1, MOST_AT_ONCE)
        self._begin = 0.0
        self._kept: list[socket.socket] = []
        self._sent: list[Future[Row]] = []
        self._pool = ThreadPoolExecutor(max_workers=self.at_once, thread_name_prefix="load")
        self._stopped = threading.Event()
        self._clockwork = threading.Thread(target=self._run, name="load", daemon=True)

    def __enter__(self) -> Load:
        """Begin. Raises ValueError when this computer allows too few files: that would look like the server's fault."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft < (needed := self.at_once + SPARE_FILES):
            resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
        self._begin = time.monotonic()
        self._clockwork.start()
        return self

    def __exit__(self, *_error: object) -> None:
        """Stop."""
        self.stop()

    def now(self) -> float:
        """Return the seconds since the load began."""
        return time.monotonic() - self._begin

    def so_far(self) -> Ledger:
        """Return the requests that have ended."""
        return Ledger(tuple(sent.result() for sent in list(self._sent) if sent.done()))

    def wait(self, seconds: float) -> bool:
        """Wait until the last request is sent, at most so long; tell whether it is."""
        self._clockwork.join(seconds)
        return not self._clockwork.is_alive()

    def stop(self) -> Ledger:
        """Send nothing more, wait for requests under way (each has its timeout), and return the ledger.

        Raises RuntimeError when this computer had no thread for a request that was due.
        """
        self._stopped.set()
        self._clockwork.join()
        self._pool.shutdown(wait=True)
        while self._kept:
            self._kept.pop().close()
        return self.so_far()

    def _run(self) -> None:
        """Send each request when it is due."""
        for seq in range(self.count):
            if self._stopped.wait(max(0.0, seq / self.rate - self.now())):
                return
            try:
                self._sent.append(self._pool.submit(self._one, seq))
            except RuntimeError as error:
                broken: Future[Row] = Future()
                broken.set_exception(error)
                self._sent.append(broken)
                return

    def _kept_open(self) -> socket.socket | None:
        """Return a kept connection that the other side has not closed; a browser looks, too, before it uses one."""
        with contextlib.suppress(IndexError):
            while True:
                sock, readable = self._kept.pop(), select.poll()
                readable.register(sock, select.POLLIN)
                if not readable.poll(0):
                    return sock
                sock.close()
        return None

    def _one(self, seq: int) -> Row:
        """Make one request."""
        due, started = seq / self.rate, self.now()
        exchange = _Exchange(self.ask, self._kept_open())
        status, request_id, keep = None, "", False
        try:
            answer = exchange.make()
            status, request_id = answer.status, answer.headers.get("X-Request-Id", "")
            outcome = "ok" if status < 400 else "error_status"
            keep = self.ask.keep_alive and not answer.will_close
        except (OSError, http.client.HTTPException) as error:
            outcome = outcome_of(error, exchange.sock is not None, exchange.reused, exchange.received)
        if exchange.sock is not None:
            self._kept.append(exchange.sock) if keep else exchange.sock.close()
        return Row(seq, due, started, self.now(), outcome, status, exchange.reused, request_id)


def main(argv: Sequence[str]) -> int:
    """Run the command: 0 when every answer was good, 1 when one was not, 2 for a wrong use."""
    top = argparse.ArgumentParser(description="Ask a site at a steady rate, and keep a ledger.")
    top.add_argument("url", help="http://HOST[:PORT][/PATH]")
    top.add_argument("--rate", type=float, default=20.0, help="requests a second (default 20)")
    top.add_argument("--seconds", type=float, default=60.0, help="then it ends (default 60)")
    top.add_argument("--timeout", type=float, default=60.0, help="seconds for a whole request (default 60)")
    top.add_argument("--keep-alive", action="store_true", help="use connections again")
    top.add_argument("--method", choices=("GET", "POST"), default="GET")
    top.add_argument("--path", default="", help="instead of the URL's")
    top.add_argument("--unix", default="", metavar="SOCKET", help="connect to this one instead of the URL's host")
    top.add_argument("--ledger", type=Path, metavar="FILE", help="write every request there, one JSON object a line")
    top.add_argument("--json", action="store_true", help="print the summary as JSON")
    given = top.parse_args(argv)
    try:
        ask = Ask(given.url, given.path, given.method, b"", {}, given.unix, given.timeout, given.keep_alive)
        with Load(ask, rate=given.rate, seconds=given.seconds) as load, contextlib.suppress(KeyboardInterrupt):
            while not load.wait(5):
                print(f"{load.now():4.0f} s: {load.so_far().summary().line()}", file=sys.stderr, flush=True)
        ledger = load.stop()
        if given.ledger:
            ledger.write(given.ledger)
    except (ValueError, RuntimeError, OSError) as error:
        print(f"load: {error}", file=sys.stderr)
        return 2
    summary = ledger.summary()
    print(json.dumps(asdict(summary), indent=2) if given.json else summary.line())
    return 0 if set(summary.outcomes) == {"ok"} else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
