"""Gunicorn's configuration: plain Python that reads ``gunicorn.json`` beside it.

Nothing in the app has to know of this file, nor of the package ``sitekeeper`` beside it, which holds the guards.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE))
from sitekeeper.accesslog import JsonLogger  # noqa: E402
from sitekeeper.master import Master  # noqa: E402
from sitekeeper.settings import load, release_id  # noqa: E402
from sitekeeper.worker import KeptWorker  # noqa: E402

sys.path.remove(str(HERE))

# A release on trial has settings of its own.
settings = load(Path(os.environ.get("SITEKEEPER_SETTINGS", HERE / "gunicorn.json")))
JsonLogger.release = os.environ["SITE_RELEASE"] = release_id(settings.release_file)

wsgi_app = settings.app_module
# Under systemd the inherited socket wins over this.
bind = settings.bind
workers = settings.workers
# Threads answer /health while another request is slow.
worker_class = KeptWorker
KeptWorker.maintenance_file = Path(settings.maintenance_file)
KeptWorker.health_path = settings.health_path
threads = settings.threads
# Only limits idle kept-alive connections; KeptWorker decides how many others it takes.
worker_connections = 1000
# A worker whose main loop is silent for so long is stopped or stuck in native code; its requests may take longer.
timeout = settings.timeout_seconds
graceful_timeout = settings.graceful_timeout_seconds
max_requests = settings.max_requests
max_requests_jitter = settings.max_requests_jitter
# Heartbeat files on a disk can block on a slow disk and then look like a hang.
worker_tmp_dir = settings.runtime_dir
control_socket = settings.runtime_dir + "/gunicorn.ctl"
# The master's and the app's own lines go to the journal.
errorlog = "-"
accesslog = settings.log_dir + "/access.log"
logger_class = JsonLogger
proc_name = settings.app_module

# A reload runs this file again; the master that is there goes on.
master = Master.instance(settings)
on_starting = master.on_starting
when_ready = master.when_ready
pre_fork = master.pre_fork
post_fork = master.post_fork
post_worker_init = master.post_worker_init
worker_exit = master.worker_exit
child_exit = master.child_exit
nworkers_changed = master.nworkers_changed
on_exit = master.on_exit
