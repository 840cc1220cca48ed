"""Code to release, a host where anybody may build it, addresses that answer as told or not at all; hosts to adopt."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace

import pytest
from ansible.module_utils.adopt_wanted import Wanted

from plugins.modules import app_release
from tests.polling import PATIENCE_SECONDS
from tests.unit.plugins.adopt_machine import Machine
from tests.unit.plugins.adopt_tree import APP, PORT, Tree

REAL_RUN = subprocess.run


@pytest.fixture
def code(tmp_path):
    root = tmp_path / "code"
    (root / "static").mkdir(parents=True)
    (root / "app.py").write_text("app = 1\n")
    (root / "static" / "style.css").write_text("body {}\n")
    return root


@pytest.fixture
def as_anybody(tmp_path, monkeypatch):
    """Build steps run as whoever runs the tests, with a cache of their own.

    The change to the app's user is left out, so that anybody can run these tests; one sentence looks at that alone.
    """

    def run(argv, **words):
        return REAL_RUN(argv, **{k: v for k, v in words.items() if k not in ("user", "group", "extra_groups")})

    monkeypatch.setattr(app_release.subprocess, "run", run)
    monkeypatch.setattr(app_release.os, "chown", lambda *_, **__: None)
    monkeypatch.setattr(app_release.Releases, "cache", lambda self, user: tmp_path / "cache")
    mask = os.umask(0o022)
    yield
    os.umask(mask)


@pytest.fixture
def web():
    """A server that gives the answers in `codes` in turn, the last of them for good."""
    codes = [200]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(codes.pop(0) if len(codes) > 1 else codes[0])
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield SimpleNamespace(url=f"http://127.0.0.1:{server.server_port}/health", codes=codes)
    server.shutdown()
    server.server_close()
    thread.join(PATIENCE_SECONDS)


@pytest.fixture
def closed():
    """The address of a port on which nothing listens, held so that nobody else takes it."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}/health"


@pytest.fixture
def tree(tmp_path):
    """A made-up host with nothing on it."""
    return Tree(tmp_path)


@pytest.fixture
def wanted():
    """What the settings say of the app on it."""
    return Wanted("currents", PORT, "/srv/currents", "/var/lib/currents", source=APP, shared=["currents.db"])


@pytest.fixture
def machine(tmp_path):
    """A host with an app that somebody has started by hand."""
    made = Machine(tmp_path)
    made.start_by_hand()
    yield made
    made.end()
