"""The answer to a request that failed inside of the app: a page for people, JSON for programs, no traceback."""

from __future__ import annotations

import collections
import errno
import json
from typing import Any

#: As Gunicorn sees it.
_VISITOR_IS_GONE = (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN)
_PAGE = """<!doctype html>
<html lang="en">
<title>500 Internal Server Error</title>
<h1>Internal Server Error</h1>
<p>Something went wrong here. It has been logged.</p>
<p>Request {id}</p>
</html>
"""


def prefers_json(accept: str) -> bool:
    """Tell whether an ``Accept`` header asks for JSON rather than for a page (RFC 9110, section 12.5.1)."""
    ranges = dict(_weighted(part) for part in accept.lower().split(","))

    def weight(kind: str) -> tuple[float, bool]:
        family = kind.partition("/")[0] + "/*"
        found = ranges.get(kind, ranges.get(family, ranges.get("*/*", 0.0)))
        # Of two that are liked alike, the one that was named.
        return found, found > 0 and kind in ranges

    kinds = [kind for kind in ranges if kind.startswith("application/") and kind.endswith("+json")]
    return max(weight(kind) for kind in ("application/json", *kinds)) > weight("text/html")


def _weighted(part: str) -> tuple[str, float]:
    """Return a range of media types and its weight; one that cannot be read weighs nothing."""
    kind, *parameters = (word.strip() for word in part.split(";"))
    weight = 1.0
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                weight = float(value)
            except ValueError:
                weight = 0.0
    return kind, weight


def server_error(accept: str, request_id: str) -> tuple[bytes, str]:
    """Return the body and its content type.

    Args:
        accept: the ``Accept`` header of the request.
        request_id: what the visitor can tell, and what is in the log.
    """
    if prefers_json(accept):
        answer = {"error": "Internal Server Error", "status": 500, "request_id": request_id}
        return json.dumps(answer).encode(), "application/json"
    return _PAGE.format(id=request_id).encode(), "text/html; charset=utf-8"


def is_unanswered(response: Any, error: BaseException | None) -> bool:
    """Tell whether the app failed before anything of its answer was sent: the worker then answers in its place.

    Args:
        response: Gunicorn's, of this request.
        error: what ended the request. An OSError may be the app's (a file, a database) or the visitor's, who is gone.
    """
    if error is None or response.headers_sent:
        return False
    return response.status is None or not isinstance(error, OSError) or error.errno not in _VISITOR_IS_GONE


def teach_flask(app: Any) -> None:
    """Let a Flask app without error pages of its own answer a failed route as `server_error` does.

    Flask catches exceptions itself, so the server never sees them. Its own way is kept: it logs the exception once, and
    what runs after each request (headers for browsers, sessions) still runs. An app that has a handler for errors of
    this kind keeps it, and so has each of its blueprints.
    """
    spec = getattr(app, "error_handler_spec", None)
    if not isinstance(spec, dict):
        return
    from werkzeug.exceptions import InternalServerError  # noqa: PLC0415 # only where the app brought Flask

    if None not in spec:
        # Flask 1 has nothing there before the first handler.
        spec[None] = collections.defaultdict(dict)
    handlers = spec[None]
    if handlers.get(500) or any(kind in handlers.get(None, {}) for kind in InternalServerError.__mro__):
        return

    def internal_error(error: Any) -> tuple[bytes, int, dict[str, str]]:
        from flask import request  # noqa: PLC0415 # only where the app brought Flask

        body, kind = server_error(request.headers.get("Accept", ""), request.environ.get("HTTP_X_REQUEST_ID", ""))
        return body, 500, {"Content-Type": kind}

    # By its class, not by its number 500: a number would win over what a blueprint has for all of its errors.
    handlers.setdefault(None, {})[InternalServerError] = internal_error
