"""Error answers a visitor can read: HTML for people, JSON for programs, a traceback for nobody."""

from __future__ import annotations

import sqlite3

from flask import Flask, Response, current_app, jsonify, make_response, render_template, request
from werkzeug.exceptions import HTTPException, InternalServerError, ServiceUnavailable

from currents import db

RETRY_AFTER_SECONDS = 5
JSON_PATHS = ("/api/", "/health", "/personalized", "/faults/")
# These say that the code is wrong, not that the database is out of reach.
CODE_ERRORS = (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.DataError, sqlite3.NotSupportedError)
MESSAGES = {
    404: "There is nothing at this address.",
    405: "This address does not take that method.",
    500: "Something went wrong here. It has been logged.",
    503: "The site cannot do that just now. Please try again in a moment.",
}


def register(app: Flask) -> None:
    """Let the app answer every error through this module."""
    app.register_error_handler(HTTPException, http_error)
    app.register_error_handler(sqlite3.DatabaseError, database_error)


def http_error(error: HTTPException) -> Response:
    """Answer an HTTP error with a page or with JSON, and keep headers such as ``Allow`` and ``Retry-After``."""
    if error.response is not None:
        return make_response(error.response)
    status = error.code or 500
    message = MESSAGES.get(status) or error.description or error.name
    if wants_json():
        answer = make_response(jsonify(error=error.name, message=message, status=status))
    else:
        answer = make_response(render_template("error.html", name=error.name, message=message, status=status))
    answer.status_code = status
    for name, value in error.get_headers(request.environ):
        if name.lower() != "content-type":
            answer.headers[name] = value
    return answer


def wants_json() -> bool:
    """Tell whether the visitor prefers JSON. Without a preference the kind of address decides."""
    accepted = request.accept_mimetypes
    page, data = accepted["text/html"], accepted["application/json"]
    if page == data:
        return request.path.startswith(JSON_PATHS)
    return data > page


def database_error(error: sqlite3.DatabaseError) -> Response:
    """Answer 503 when the database is out of reach, with ``Retry-After`` when it is only locked; else 500."""
    if isinstance(error, CODE_ERRORS):
        current_app.logger.exception("%s %s failed", request.method, request.path)
        return http_error(InternalServerError())
    current_app.logger.error("%s %s: the database said: %s", request.method, request.path, error)
    return http_error(ServiceUnavailable(retry_after=RETRY_AFTER_SECONDS if db.is_busy(error) else None))
