"""Faults on demand, for tests of whatever keeps this site up. Registered only with CURRENTS_ALLOW_FAULTS=yes.

All are POST, so that no crawler and no link preview sets one off. Times are in seconds, sizes in MB (2**20 bytes).
A fault acts on the one worker process that answers the request.
"""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext

from flask import Blueprint, Response, abort, current_app, jsonify, request

from currents.db import Database

MB = 2**20
FOR_EVER = threading.Event()

blueprint = Blueprint("faults", __name__, url_prefix="/faults")
_kept: list[bytes] = []


@blueprint.before_request
def _log() -> None:
    current_app.logger.warning("fault asked for: %s (pid %d)", request.full_path.rstrip("?"), os.getpid())


@blueprint.post("/leak")
def leak() -> Response:
    """Take ``mb`` (default 1) and never give it back."""
    _kept.append(_filled(_number("mb", 1)))
    return _done("leak", kept_mb=round(sum(map(len, _kept)) / MB, 3))


@blueprint.post("/leak-background")
def leak_background() -> Response:
    """Take ``mb`` (default 1) each second for ``seconds`` (default 60), in a thread that serves no request."""
    megabytes, seconds = _number("mb", 1), int(_number("seconds", 60))

    def leak_on() -> None:
        for _ in range(seconds):
            _kept.append(_filled(megabytes))
            FOR_EVER.wait(1)

    threading.Thread(target=leak_on, name="leak-background", daemon=True).start()
    return _done("leak-background", mb=megabytes, seconds=seconds)


@blueprint.post("/child")
def child() -> Response:
    """Start a process that takes ``mb`` (default 100) and outlives this worker."""
    megabytes = int(_number("mb", 100))
    hold = f"import time; kept = b'Z' * ({megabytes} << 20); time.sleep(3600)"
    process = subprocess.Popen([sys.executable, "-c", hold])
    return _done("child", mb=megabytes, child=process.pid)


@blueprint.post("/leak-thread")
def leak_thread() -> Response:
    """Start ``count`` (default 1) threads that never end."""
    for _ in range(int(_number("count", 1))):
        threading.Thread(target=FOR_EVER.wait, name="leaked", daemon=True).start()
    return _done("leak-thread", threads=threading.active_count())


@blueprint.post("/allocate")
def allocate() -> Response:
    """Take ``mb`` (default 100) at once, hold it for ``seconds`` (default 0), give it back."""
    megabytes = _number("mb", 100)
    block = _filled(megabytes)
    FOR_EVER.wait(_number("seconds", 0))
    return _done("allocate", mb=len(block) / MB)


@blueprint.post("/hang")
def hang() -> Response:
    """Do not answer for ``seconds``; without it, never. ``holding=database`` keeps its write lock meanwhile."""
    seconds = _number("seconds", 0) if "seconds" in request.args else None
    with _write_lock() if request.args.get("holding") == "database" else nullcontext():
        FOR_EVER.wait(seconds)
    return _done("hang")


@blueprint.post("/slow")
def slow() -> Response:
    """Answer after ``seconds`` (default 2)."""
    FOR_EVER.wait(_number("seconds", 2))
    return _done("slow")


@blueprint.post("/burn-cpu")
def burn_cpu() -> Response:
    """Keep one processor busy for ``seconds`` (default 10); the other threads of the worker crawl."""
    end = time.monotonic() + _number("seconds", 10)
    turns = 0
    while time.monotonic() < end:
        turns += 1
    return _done("burn-cpu", turns=turns)


@blueprint.post("/deadlock")
def deadlock() -> Response:
    """Lock two threads against each other: this request never ends. Each call costs one more thread."""
    first, second, both_held = threading.Lock(), threading.Lock(), threading.Barrier(2)

    def other() -> None:
        with second:
            both_held.wait()
            with first:
                pass

    threading.Thread(target=other, name="deadlock", daemon=True).start()
    with first:
        both_held.wait()
        with second:
            return _done("deadlock")


@blueprint.post("/crash")
def crash() -> Response:
    """End this worker process: ``how`` is abort (default), exit (with ``code``, default 1) or kill.

    Gunicorn stops its master, and with it the site, when a worker exits with 3 or 4.
    """
    how = request.args.get("how", "abort")
    if how == "abort":
        os.abort()
    if how == "exit":
        os._exit(int(_number("code", 1)))
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    abort(400, "how must be abort, exit or kill.")


@blueprint.post("/lock-database")
def lock_database() -> Response:
    """Hold the database's write lock for ``seconds`` (default 10); answers once the lock is held."""
    seconds = _number("seconds", 10)
    database: Database = current_app.extensions["currents_database"]
    # Taken here, so that a lock held by someone else is this request's error, and let go by the thread.
    connection = database.connect(any_thread=True)
    try:
        connection.execute("BEGIN IMMEDIATE")
    except BaseException:
        connection.close()
        raise

    def hold() -> None:
        with closing(connection):
            FOR_EVER.wait(seconds)
            connection.execute("ROLLBACK")

    threading.Thread(target=hold, name="lock-database", daemon=True).start()
    return _done("lock-database", seconds=seconds)


@blueprint.post("/error")
def error() -> Response:
    """Fail as a bug in a route would."""
    raise RuntimeError("a fault was asked for")


@contextmanager
def _write_lock() -> Iterator[None]:
    database: Database = current_app.extensions["currents_database"]
    with closing(database.connect()) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield


def _number(name: str, default: float) -> float:
    text = request.args.get(name)
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        abort(400, f"{name} must be a number from 0 up.")
    return value


def _filled(megabytes: float) -> bytes:
    # Not zeros: those would be shared pages of the kernel that cost nothing until they are written.
    return b"\x5a" * int(megabytes * MB)


def _done(fault: str, **details: object) -> Response:
    return jsonify(fault=fault, pid=os.getpid(), **details)
