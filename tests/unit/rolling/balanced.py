"""Small apps, and the real haproxy that balances them as the role configures it."""

from __future__ import annotations

import http.client
import socket
import subprocess
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.polling import PATIENCE_SECONDS
from tests.unit.rendering import render
from tests.unit.roles.front_site import eventually, haproxy

NAMES = ("web1", "web2")


class Handler(BaseHTTPRequestHandler):
    """Says who it is; ``/held`` waits for `App.go_on` first, ``/dies`` ends the connection without a byte."""

    server: App

    def do_GET(self) -> None:
        """Serve one request."""
        if self.path == "/health":
            self.send_response(200 if self.server.well else 503)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.server.seen.append(self.path)
        self.server.headers = {name.lower(): value for name, value in self.headers.items()}
        if self.path == "/dies" or self.server.broken:
            return
        if self.path == "/held":
            assert self.server.go_on.wait(PATIENCE_SECONDS)
        body = self.server.name.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


class App(ThreadingHTTPServer):
    """One host of the site."""

    daemon_threads = True

    def __init__(self, name: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.name, self.well, self.go_on = name, True, threading.Event()
        self.seen: list[str] = []
        self.headers: dict[str, str] = {}
        self.broken = False
        self.thread = threading.Thread(target=self.serve_forever, args=(0.01,))
        self.thread.start()

    def stop(self) -> None:
        """End."""
        self.go_on.set()
        self.shutdown()
        self.thread.join(PATIENCE_SECONDS)
        self.server_close()


@dataclass
class Balanced:
    """A directory, two apps, and haproxy before them."""

    top: Path
    apps: dict[str, App] = field(default_factory=lambda: {name: App(name) for name in NAMES})
    port: int = 0
    process: subprocess.Popen[bytes] | None = None

    @property
    def socket(self) -> str:
        """Return the path of the admin socket."""
        return str(self.top / "admin.sock")

    def configuration(self, description: str = "sitekeeper one", **settings: Any) -> str:
        """Return what the role writes; the user who runs the tests is nobody's root."""
        servers = [
            {"name": name, "address": "127.0.0.1", "port": app.server_port, "maxconn": 4}
            for name, app in self.apps.items()
        ]
        given = {"balancer_name": "currents", "balancer_address": "127.0.0.1", "balancer_port": self.port}
        given |= {"balancer_servers": servers, "balancer_check_interval_seconds": 1, "__balancer_socket": self.socket}
        text = render("balancer", "haproxy.cfg.j2", **{**given, **settings})
        for line in ("    user haproxy\n", "    group haproxy\n", " user root group haproxy"):
            assert line in text
            text = text.replace(line, "")
        return text.replace("THIS-CONFIGURATION", description).replace("inter 1s", "inter 100ms")

    def start(self) -> None:
        """Start haproxy, and wait until it has asked every app for its health."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        config = self.top / "haproxy.cfg"
        config.write_text(self.configuration())
        with (self.top / "log").open("a") as log:
            self.process = subprocess.Popen([haproxy(), "-W", "-db", "-f", str(config)], stdout=log, stderr=log)
        eventually(self.listens, "its admin socket")

    def listens(self) -> bool:
        """Tell whether the admin socket takes connections: its file is there a moment before."""
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(self.socket) == 0

    def get(self, path: str = "/", method: str = "GET", headers: Mapping[str, str] | None = None) -> tuple[int, str]:
        """Ask as a visitor does; return status and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_SECONDS)
        try:
            connection.request(method, path, headers=dict(headers or {}))
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def close(self) -> None:
        """End everything."""
        for app in self.apps.values():
            app.stop()
        if self.process:
            # A master that is killed would leave its worker behind.
            self.process.terminate()
            self.process.wait(PATIENCE_SECONDS)
