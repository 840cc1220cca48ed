"""A host below a temporary directory: fake systemctl and journalctl on PATH, a journal, an app on a free port."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import shlex
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
if str(REPOSITORY) not in sys.path:
    sys.path.insert(0, str(REPOSITORY))

from sitectl.__main__ import main  # noqa: E402 - found by the line above
from tests.polling import PATIENCE_SECONDS  # noqa: E402

# What `systemctl show` prints for a service that has run for a long time.
RUNNING = {
    "LoadState": "loaded",
    "UnitFileState": "enabled",
    "ActiveState": "active",
    "SubState": "running",
    "Result": "success",
    "NRestarts": "0",
    "MainPID": "4242",
    "ControlGroup": "/system.slice/currents.service",
    "ExecMainStartTimestampMonotonic": "1",
}


class App:
    """An HTTP server on a free port of which the test says how it behaves."""

    def __init__(self) -> None:
        self.behaviour = "ok"
        self.requests: list[tuple[str, str]] = []
        self.gone = threading.Event()
        app = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                app.requests.append((self.path, self.headers["Host"]))
                app.answer(self)

            def log_message(self, *args: Any) -> None:
                """Say nothing."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.block_on_close = False
        self.url = f"http://127.0.0.1:{self.server.server_port}/health"

    def answer(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        """Answer as `behaviour` says."""
        write = handler.wfile.write
        with contextlib.suppress(OSError):
            if self.behaviour == "hang":
                self.gone.wait(20)
            elif self.behaviour in {"drip headers", "drip body"}:
                write(b"HTTP/1.1 200 OK\r\n")
                write(b"Content-Length: 1000\r\n\r\n" if self.behaviour == "drip body" else b"X-Slow: ")
                while not self.gone.wait(0.05):
                    write(b"x")
            elif self.behaviour == "endless":
                write(b"HTTP/1.1 200 OK\r\n\r\n")
                while True:
                    write(b"x" * 65536)
            elif self.behaviour == "short":
                write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nabc")
            elif self.behaviour == "chunked":
                write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
            elif self.behaviour == "garbage":
                write(b"SSH-2.0-OpenSSH_9.6\r\n")
            elif self.behaviour == "silent close":
                pass
            else:
                status = {"ok": 200, "no content": 204}.get(self.behaviour) or int(self.behaviour)
                write(f"HTTP/1.1 {status} X\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n".encode())


@pytest.fixture
def app() -> Iterator[App]:
    app = App()
    thread = threading.Thread(target=app.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield app
    app.gone.set()
    app.server.shutdown()
    app.server.server_close()


class Site:
    """A host with one site, below a directory."""

    def __init__(self, root: Path, url: str) -> None:
        self.root = root
        self.bin = root / "bin"
        self.calls_file = root / "calls"
        self.properties = root / "properties"
        self.settings: dict[str, Any] = {
            "name": "currents",
            "service": "currents",
            "url": url,
            "timeout_seconds": 0.5,
            "failures_before_restart": 2,
            "start_grace_seconds": 60,
            "restart_timeout_seconds": 3,
            "release_dir": "/srv/currents",
            "log_dir": "/var/log/currents",
            "data_dir": "/var/lib/currents",
        }
        self.bin.mkdir()
        (root / "etc/sitectl").mkdir(parents=True)
        (root / "run/systemd/journal").mkdir(parents=True)
        self.configure()
        self.systemd()
        self.fake("systemctl", f"case $1 in show) cat {shlex.quote(str(self.properties))};; esac")
        self.fake("journalctl", "echo the last words of the app")
        self.journal = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.journal.bind(str(root / "run/systemd/journal/socket"))
        self.journal.setblocking(False)

    def configure(self, **changes: Any) -> None:
        """Write the settings file."""
        self.settings |= changes
        (self.root / "etc/sitectl/currents.json").write_text(json.dumps(self.settings))

    def systemd(self, **properties: str) -> None:
        """Let systemctl show this of a running service."""
        self.properties.write_text("".join(f"{key}={value}\n" for key, value in (RUNNING | properties).items()))

    def fake(self, name: str, script: str) -> None:
        """Put an executable on PATH that notes how it was called and then runs `script`."""
        path = self.bin / name
        path.write_text(f'#!/bin/sh\necho "{name} $*" >>{shlex.quote(str(self.calls_file))}\n{script}\n')
        path.chmod(0o755)

    def calls(self, verb: str) -> list[str]:
        """Return the calls that hold `verb`."""
        lines = self.calls_file.read_text().splitlines() if self.calls_file.exists() else []
        return [line for line in lines if f" {verb} " in line]

    def lines(self) -> list[str]:
        """Return and forget what was sent to the journal."""
        found = []
        with contextlib.suppress(BlockingIOError):
            while True:
                found.append(self.journal.recv(65536).decode())
        return found

    def state(self) -> dict[str, Any]:
        """Return what the monitor remembers."""
        return json.loads((self.root / "var/lib/sitectl/currents/state.json").read_text())

    def run(self, *arguments: str) -> int:
        """Run sitectl in this process; return its exit code."""
        return main(["--root", str(self.root), *arguments])


@pytest.fixture
def site(app: App, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    # not tmp_path: the path of a socket may be 107 bytes long
    with tempfile.TemporaryDirectory(prefix="site") as directory:
        site = Site(Path(directory), app.url)
        monkeypatch.setenv("PATH", f"{site.bin}:{os.environ['PATH']}")
        yield site
        site.journal.close()


@pytest.fixture
def wait_for() -> Callable[[Callable[[], bool]], None]:
    """Poll a condition for at most ten seconds."""

    def wait(condition: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            assert time.monotonic() < end, "waited 10 seconds in vain"
            time.sleep(0.02)

    return wait
