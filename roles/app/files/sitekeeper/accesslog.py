"""The access log: one JSON object a line, one write a line."""

from __future__ import annotations

import datetime
import json
import logging
import os
import sys
from typing import Any

from gunicorn.glogging import Logger

from sitekeeper.answers import is_unanswered
from sitekeeper.board import Row

#: The watchdog's own requests carry this header with a secret of the master: they are not visitors.
PROBE_HEADER = "HTTP_X_SITEKEEPER_PROBE"


class JsonLogger(Logger):
    """Write the access log as one JSON object a line.

    Gunicorn's own ``access_log_format`` can be broken out of: a path with ``%0a`` gives a raw newline. It is also
    slower: it collects every header of request and answer for each line.
    """

    #: The secret of this master's probes, and the row of this worker on the board.
    probe_secret = ""
    row: Row | None = None
    release = ""

    def access(self, resp: Any, req: Any, environ: dict[str, Any], request_time: datetime.timedelta) -> None:
        """Log one finished request."""
        if self.probe_secret and environ.get(PROBE_HEADER) == self.probe_secret:
            return
        if "HTTP_X_REQUEST_ID" in environ and is_unanswered(resp, sys.exc_info()[1]):
            # Comes again with the answer that the worker gives.
            return
        # An app that never says a status is broken, but is to be seen here.
        status = int(str(resp.status or 0).split(None, 1)[0])
        line = json.dumps(
            {
                "time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds"),
                "remote": visitor(environ),
                "method": environ.get("REQUEST_METHOD", ""),
                "path": environ.get("RAW_URI", ""),
                "status": status,
                "bytes": getattr(resp, "sent", None),
                "milliseconds": round(request_time.total_seconds() * 1000, 1),
                "agent": environ.get("HTTP_USER_AGENT", ""),
                "request_id": environ.get("HTTP_X_REQUEST_ID", ""),
                "pid": os.getpid(),
                "release": self.release,
            }
        )
        for handler in self.access_log.handlers:
            write(handler, line)
        if self.row is not None:
            with self.lock:
                self.row.count_status(status)


def visitor(environ: dict[str, Any]) -> str:
    """Return the address of who asks.

    A connection over a Unix socket has none; only a proxy in front of the app can open that socket, and the last word
    of its ``X-Forwarded-For`` is whom it saw. Over the network the header is what a visitor claims: it is not believed.
    """
    claimed = str(environ.get("HTTP_X_FORWARDED_FOR", ""))
    return str(environ.get("REMOTE_ADDR", "")) or claimed.rpartition(",")[2].strip()


def write(handler: logging.Handler, line: str) -> None:
    """Write a line in one call: the workers share the file, and half a line of one must not end in another's.

    Under the handler's lock, which Gunicorn also takes to open the file anew after a rotation.
    """
    handler.acquire()
    try:
        # Looked at only under the lock: while the file is opened anew there is none for a moment.
        if getattr(handler, "stream", None) is not None:
            os.write(handler.stream.fileno(), f"{line}\n".encode())  # type: ignore[attr-defined]
    except OSError:
        handler.handleError(logging.makeLogRecord({"msg": line}))
    finally:
        handler.release()
