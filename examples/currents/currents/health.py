"""``/health`` tells whether this process can read its database, and how much memory it uses."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from pathlib import Path

from flask import Blueprint, Response, current_app, jsonify

from currents import db

blueprint = Blueprint("health", __name__)


@blueprint.get("/health")
def health() -> tuple[Response, int]:
    """Answer 200 when the markets can be read, else 503."""
    markets: int | None = None
    try:
        markets = db.connection().execute("SELECT count(*) FROM markets").fetchone()[0]
        database = "ok"
    except sqlite3.Error as error:
        database = str(error)
        current_app.logger.error("health: the database cannot be read: %s", error)
    healthy = database == "ok"
    answer = jsonify(
        status="ok" if healthy else "failing",
        database=database,
        markets=markets,
        memory=memory(),
        threads=threading.active_count(),
        pid=os.getpid(),
        uptime_seconds=round(time.monotonic() - current_app.config["STARTED"], 1),
        release=current_app.config["RELEASE"],
    )
    answer.headers["Cache-Control"] = "no-store"
    return answer, 200 if healthy else 503


def memory(proc: Path = Path("/proc/self")) -> dict[str, int]:
    """Return this process's memory in bytes: ``rss_bytes``, and ``pss_bytes`` where the kernel lets us read it.

    Only files of the process itself are read: under systemd's ``ProcSubset=pid`` there is no ``/proc/meminfo``.
    """
    found: dict[str, int] = {}
    try:
        found["rss_bytes"] = int((proc / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        for line in (proc / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                found["pss_bytes"] = int(line.split()[1]) * 1024
    except OSError:
        # Neither file is worth a failing health check.
        return found
    return found
