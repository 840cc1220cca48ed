"""A small app on a Unix socket, and the real haproxy before it as the role configures it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import socketserver
import subprocess
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from tests.polling import PATIENCE_SECONDS
from tests.unit.rendering import render


def haproxy() -> str:
    """Return where haproxy is."""
    program = shutil.which("haproxy", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    assert program, "haproxy is missing: run tools/setup.sh lab"
    return program


def eventually(condition: Any, what: str) -> None:
    """Wait until the condition holds."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"did not happen: {what}"
        time.sleep(0.01)


class Handler(BaseHTTPRequestHandler):
    """Does what the path says, and tells the request's headers in its answer."""

    protocol_version = "HTTP/1.1"
    server: App

    def answer(self) -> None:
        """Serve one request.

        ``/dies/2`` ends its connection without a byte two times, ``/breaks`` in the middle of its answer; ``/held``
        waits for `App.go_on`; ``/stream`` sends a first part before it waits.
        """
        word, _, rest = self.path[1:].partition("?")[0].partition("/")
        length = int(self.headers.get("Content-Length", 0))
        with self.server.working(self.command, self.path) as times:
            if word == "upload":
                self.server.first_bytes = self.rfile.read(1000)
                length -= 1000
            self.rfile.read(length)
            if word == "dies" and times <= int(rest):
                self.close_connection = True
                return
            if word == "held":
                assert self.server.go_on.wait(PATIENCE_SECONDS)
            body = json.dumps({name.lower(): value for name, value in self.headers.items()}).encode()
            self.send_response(200)
            self.send_header("X-Request-Id", "id-of-the-app")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body[:10])
                if word == "stream":
                    assert self.server.go_on.wait(PATIENCE_SECONDS)
                if word == "breaks":
                    self.close_connection = True
                    return
        if self.command != "HEAD":
            # No longer at work: as soon as haproxy has these it sends the next request.
            self.wfile.write(body[10:])

    do_GET = do_HEAD = do_OPTIONS = do_POST = do_PUT = do_PATCH = do_DELETE = do_PURGE = answer

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@dataclass
class Count:
    """One request at work; tells which time it is that this one came."""

    app: App
    key: tuple[str, str]

    def __enter__(self) -> int:
        with self.app.lock:
            self.app.seen.append(self.key)
            self.app.at_work += 1
            self.app.most_at_work = max(self.app.most_at_work, self.app.at_work)
            return self.app.seen.count(self.key)

    def __exit__(self, *_: object) -> None:
        with self.app.lock:
            self.app.at_work -= 1


class App(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Listens at once, as systemd does for an app; accepts only when it is started."""

    daemon_threads = True
    request_queue_size = 1024

    def __init__(self, path: Path) -> None:
        self.lock = threading.Lock()
        self.seen: list[tuple[str, str]] = []
        self.at_work = self.most_at_work = 0
        self.first_bytes = b""
        self.go_on = threading.Event()
        self.thread: threading.Thread | None = None
        super().__init__(str(path), Handler)

    def start(self) -> None:
        """Begin to accept."""
        self.thread = threading.Thread(target=self.serve_forever, args=(0.01,))
        self.thread.start()

    def stop(self) -> None:
        """End; nobody listens on the path any more."""
        self.go_on.set()
        if self.thread:
            self.shutdown()
            self.thread.join(PATIENCE_SECONDS)
        self.server_close()

    def working(self, method: str, path: str) -> Count:
        """Count a request in, and out at the end of the block."""
        return Count(self, (method, path))

    def get_request(self) -> tuple[socket.socket, Any]:
        """Give the other side an address, which it has none of on a Unix socket."""
        return super().get_request()[0], ("unix", 0)

    def handle_error(self, *_: Any) -> None:
        """Say nothing of a client that has gone."""


@dataclass(frozen=True)
class Answer:
    """What a visitor got."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def told(self) -> dict[str, str]:
        """Return the headers of the request as the app saw it."""
        return dict(json.loads(self.body))


@dataclass
class Site:
    """The directory of a site, its port, and haproxy on it as often as it is started."""

    top: Path
    port: socket.socket = field(default_factory=lambda: socket.create_server(("127.0.0.1", 0), backlog=1024))
    haproxy: subprocess.Popen | None = None
    visitors: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(64))

    @property
    def upstream(self) -> Path:
        """Return the socket of the app."""
        return self.top / "app.http"

    def start(self, **settings: Any) -> None:
        """Start haproxy as systemd does, with the port as its file 3. Who connects before it is there only waits."""
        config = self.top / "front.cfg"
        config.write_text(render("front", "front.cfg.j2", wired=True, front_upstream=str(self.upstream), **settings))
        port = self.port.fileno()
        with (self.top / "log").open("a") as log:
            self.haproxy = subprocess.Popen(
                ["/bin/bash", "-c", f'exec "$0" -db -f "$1" 3<&{port}-', haproxy(), str(config)],
                env={"FRONT_BIND": "fd@3"},
                pass_fds=[port],
                stdout=log,
                stderr=log,
            )

    def log(self) -> list[str]:
        """Return what haproxy has written."""
        return (self.top / "log").read_text().splitlines()

    def requests_logged(self) -> list[dict[str, Any]]:
        """Return its lines about requests."""
        return [json.loads(line) for line in self.log() if line.startswith("{")]

    def listens(self) -> bool:
        """Tell whether haproxy still has the port open, besides this process."""
        assert self.haproxy
        mine = os.fstat(self.port.fileno()).st_ino
        for handle in Path(f"/proc/{self.haproxy.pid}/fd").iterdir():
            # One that is closed meanwhile was not it, or is not any more.
            with contextlib.suppress(FileNotFoundError):
                if str(handle.readlink()) == f"socket:[{mine}]":
                    return True
        return False

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to haproxy."""
        assert self.haproxy
        self.haproxy.send_signal(number)

    def ended(self) -> int:
        """Wait for the end of haproxy; return its exit code."""
        assert self.haproxy
        return self.haproxy.wait(PATIENCE_SECONDS)

    def ask(self, method: str, path: str, body: bytes | None = None, headers: Any = ()) -> Answer:
        """Send a request as a visitor does, and wait for the answer."""
        connection = http.client.HTTPConnection(*self.port.getsockname(), timeout=PATIENCE_SECONDS)
        try:
            connection.request(method, path, body=body, headers=dict(headers))
            answer = connection.getresponse()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def begin(self, method: str, path: str, **more: Any) -> Future[Answer]:
        """Send a request beside others."""
        return self.visitors.submit(self.ask, method, path, **more)

    def close(self) -> None:
        """End haproxy, whatever it does."""
        if self.haproxy and self.haproxy.poll() is None:
            self.haproxy.kill()
            self.haproxy.wait(PATIENCE_SECONDS)
        self.visitors.shutdown()
        self.port.close()
