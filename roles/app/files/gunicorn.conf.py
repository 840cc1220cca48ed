"""Gunicorn's configuration: plain Python that reads ``gunicorn.json`` beside it.

Nothing in the app has to know of this file.
"""

from __future__ import annotations

import datetime
import json
import os
from pathlib import Path
from typing import Any

from gunicorn.glogging import Logger

settings: dict[str, Any] = json.loads(Path(__file__).with_name("gunicorn.json").read_text(encoding="utf-8"))


class JsonLogger(Logger):
    """Write the access log as one JSON object a line.

    Gunicorn's own ``access_log_format`` can be broken out of: a path with ``%0a`` gives a raw newline.
    """

    def access(self, resp: Any, req: Any, environ: dict[str, Any], request_time: datetime.timedelta) -> None:
        """Log one finished request."""
        if not self.cfg.accesslog:
            return
        now = datetime.datetime.now(datetime.timezone.utc)
        line = {
            "time": now.isoformat(timespec="milliseconds"),
            "remote": environ.get("REMOTE_ADDR", ""),
            "method": environ.get("REQUEST_METHOD", ""),
            "path": environ.get("RAW_URI", ""),
            "status": int(str(resp.status).split(None, 1)[0]),
            "bytes": getattr(resp, "sent", None),
            "milliseconds": round(request_time.total_seconds() * 1000, 1),
            "agent": environ.get("HTTP_USER_AGENT", ""),
            "pid": os.getpid(),
            "release": os.environ.get("SITE_RELEASE", ""),
        }
        self.access_log.info(json.dumps(line))


def release_id(path: str) -> str:
    """Return the id of the running release, for the app and its logs; empty outside of a release."""
    try:
        return str(json.loads(Path(path).read_text(encoding="utf-8"))["id"])
    except FileNotFoundError:
        return ""


os.environ["SITE_RELEASE"] = release_id(settings["release_file"])

wsgi_app = settings["app_module"]
# Under systemd the inherited socket wins over this.
bind = settings["bind"]
workers = settings["workers"]
# Threads answer /health while another request is slow.
worker_class = "gthread"
threads = settings["threads"]
# A worker that dies takes what it has accepted along: let it accept little more than it works on.
worker_connections = settings["threads"] + 4
timeout = settings["timeout_seconds"]
graceful_timeout = settings["graceful_timeout_seconds"]
max_requests = settings["max_requests"]
max_requests_jitter = settings["max_requests_jitter"]
# Heartbeat files on a disk can block on a slow disk and then look like a hang.
worker_tmp_dir = settings["runtime_dir"]
control_socket = settings["runtime_dir"] + "/gunicorn.ctl"
# The master's and the app's own lines go to the journal.
errorlog = "-"
accesslog = settings["log_dir"] + "/access.log"
logger_class = JsonLogger
proc_name = settings["app_module"]
