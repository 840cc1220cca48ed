"""Gunicorn's threaded worker, with request ids, clean error answers and a guard."""

from __future__ import annotations

import datetime
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from ssl import SSLError
from typing import Any

from gunicorn.http import errors as http_errors
from gunicorn.http.wsgi import default_environ
from gunicorn.workers.gthread import ThreadWorker

from sitekeeper import answers
from sitekeeper.arrivals import Arrivals, limit_stalls
from sitekeeper.board import Cell, Leaving, Row
from sitekeeper.maintenance import Maintenance
from sitekeeper.response import WholeResponse, answer_whole

WSGI = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

#: What a visitor may choose as the id of a request: it goes into logs and into a header.
_GIVEN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{7,63}", re.ASCII)
_APP_S_OWN_FAULT = (http_errors.InvalidResponseHeader, http_errors.InvalidResponseHeaderName)


@dataclass
class InFlight:
    """A request that is being served. `started` counts on the monotonic clock, in seconds."""

    started: float
    path: str
    answering: bool = False
    response: Any = None
    """Gunicorn's, as soon as the app is called."""


class CurrentRequest(threading.local):
    """The id of the request that a thread serves."""

    id: str = ""


current = CurrentRequest()


def request_id(given: str | None) -> str:
    """Return the id that came with a request when it is fit for logs, else a new one."""
    return given if given and _GIVEN_ID.fullmatch(given) else os.urandom(8).hex()


def identified(app: WSGI, in_flight: dict[int, InFlight]) -> WSGI:
    """Give every request an id: in the environment of the app, in the answer, in what is logged meanwhile.

    Args:
        app: the app as it was loaded.
        in_flight: the requests of this worker by thread, where the answer and its begin are noted.
    """

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        one = environ["HTTP_X_REQUEST_ID"] = current.id = request_id(environ.get("HTTP_X_REQUEST_ID"))
        # HTTP/2, where somebody switches it on, does not come by `handle_request`.
        request = in_flight.get(threading.get_ident(), InFlight(0.0, ""))
        request.response = getattr(start_response, "__self__", None)

        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            request.answering = True
            for name, _ in headers:
                if name.lower() == "x-request-id":
                    return start_response(status, headers, exc_info)
            return start_response(status, [*headers, ("X-Request-Id", one)], exc_info)

        return app(environ, start)

    return application


def name_requests_in_logs() -> None:
    """Put the id of the request behind every exception that is logged while it is served, by whomever."""
    make = logging.getLogRecordFactory()

    def record(*args: Any, **kwargs: Any) -> logging.LogRecord:
        one = make(*args, **kwargs)
        if one.exc_info and current.id:
            one.msg = f"{one.msg} [request {current.id}]"
        return one

    logging.setLogRecordFactory(record)


class KeptWorker(ThreadWorker):
    """A worker that knows its requests."""

    #: Its row on the board, from `master.pre_fork`.
    row: Row
    #: Set by the guard: take no more connections.
    paused = False
    #: Where a maintenance is announced, and what is let through to the app meanwhile; from the configuration.
    maintenance_file: Path | None = None
    health_path = ""
    max_requests: int
    wsgi: WSGI

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.in_flight: dict[int, InFlight] = {}
        self.arrivals = Arrivals(super().enqueue_req, self._drop)
        # Gunicorn would end this worker whatever the others do; the guard waits for its turn.
        self.planned_requests, self.max_requests = self.max_requests, sys.maxsize

    @property
    def accepts(self) -> bool:
        """Tell whether the main loop may still take a connection; only the loop itself ends that."""
        return bool(self._accepting)

    @property
    def worker_connections(self) -> int:
        """How many connections it may hold: Gunicorn compares before each round of its loop.

        Those that send nothing aside, it takes only what a thread can begin with at once. The rest waits in the kernel,
        where another worker can take it, and where it is not lost when this one dies or hangs.
        """
        if self.paused:
            return 0
        silent = len(self.keepalived_conns) + len(self.pending_conns) + len(self.arrivals)
        return int(self.cfg.threads) + silent

    @worker_connections.setter
    def worker_connections(self, value: int) -> None:
        """Gunicorn's constant of the configuration; it only limits the idle ones."""

    def enqueue_req(self, conn: Any) -> None:
        """Give a connection to a thread as soon as its request has come; Gunicorn lets the thread wait for it."""
        if not conn.initialized:
            limit_stalls(conn.sock)
        elif conn.parser.unreader.buf.getvalue():
            # Read already, with the request before.
            super().enqueue_req(conn)
            return
        self.arrivals.take(conn, self.poller)

    def murder_pending(self) -> None:
        """Close connections that have waited for a request for too long; called in each round of the main loop."""
        super().murder_pending()
        self.arrivals.expire(self.poller, stopping=not self.alive)

    def _drop(self, conn: Any) -> None:
        self.nr_conns -= 1
        conn.close()

    def load_wsgi(self) -> None:
        """Load the app; put the page for a maintenance around it, and the request ids around both."""
        super().load_wsgi()
        answer_whole()
        answers.teach_flask(self.wsgi)
        if self.maintenance_file is not None:
            maintenance = Maintenance(self.maintenance_file, self.log.warning)
            self.wsgi = maintenance.around(self.wsgi, self.health_path)
        self.wsgi = identified(self.wsgi, self.in_flight)
        name_requests_in_logs()

    def idle_threads(self) -> set[int]:
        """Return the threads that wait for a request."""
        pool = {thread.ident for thread in tuple(self.tpool._threads) if thread.ident is not None}
        return pool - set(self.in_flight)

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Begin to stop; note that it was asked for, unless the guard has noted why."""
        if not self.row[Cell.LEAVING]:
            self.row[Cell.LEAVING] = Leaving.ORDER
        super().handle_exit(sig, frame)

    def handle_request(self, req: Any, conn: Any) -> bool:
        """Serve one request and know of it meanwhile."""
        ident = threading.get_ident()
        request = self.in_flight[ident] = InFlight(time.monotonic(), req.path)
        try:
            return bool(super().handle_request(req, conn))
        except (OSError, SystemExit) as error:
            # Gunicorn takes each of the first for one of the connection, and would answer nothing; after one of the
            # second, in a request's thread always the app's, this worker would end with all of its requests.
            if request.response is None or not answers.is_unanswered(request.response, error):
                raise
            self.handle_error(req, conn.sock, conn.client, error)
            return False
        finally:
            del self.in_flight[ident]

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """Answer an exception of the app with a clean 500 and log it once; leave a visitor's mistakes to Gunicorn."""
        by_visitor = isinstance(exc, SSLError) or (
            type(exc).__module__ == http_errors.__name__ and not isinstance(exc, _APP_S_OWN_FAULT)
        )
        if by_visitor or req is None:
            super().handle_error(req, client, addr, exc)
            return
        self.log.error("Error handling request %s %s", req.method, req.uri, exc_info=exc)
        accept = next((value for name, value in req.headers if name == "ACCEPT"), "")
        body, kind = answers.server_error(accept, current.id)
        response = WholeResponse(req, client, self.cfg)
        response.force_close()
        environ = default_environ(req, client, self.cfg)
        peer = addr if isinstance(addr, tuple) else ("", 0)
        environ |= {"REMOTE_ADDR": peer[0], "HTTP_X_REQUEST_ID": current.id}
        response.start_response(
            "500 Internal Server Error",
            [("Content-Type", kind), ("Content-Length", str(len(body))), ("X-Request-Id", current.id)],
        )
        try:
            if req.method != "HEAD":
                response.write(body)
            response.close()
        except OSError:
            self.log.debug("The visitor did not wait for the error.")
        self.log.access(response, req, environ, datetime.timedelta(0))
