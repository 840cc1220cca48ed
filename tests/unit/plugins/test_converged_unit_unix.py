"""converged_unit asks an app for its health over a Unix socket."""

from __future__ import annotations

import socket
import threading
from contextlib import contextmanager

import pytest

from plugins.module_utils import unit_health
from plugins.module_utils.unit_health import healthy
from tests.polling import PATIENCE_SECONDS

ASKED = "GET /health HTTP/1.1\r\n"


@contextmanager
def speaking(path, answer):
    """A server on the path that gives one connection these bytes; yields the requests that it has read."""
    asked = []

    def speak(server):
        connection, _ = server.accept()
        with connection:
            asked.append(connection.recv(1000).decode())
            connection.sendall(answer)

    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        thread = threading.Thread(target=speak, args=(server,))
        thread.start()
        yield asked
        thread.join(PATIENCE_SECONDS)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("200 OK", ""),
        ("204 No Content", ""),
        ("503 Service Unavailable", "it answers 503"),
        ("301 Moved Permanently\r\nLocation: http://127.0.0.1/", "it answers 301"),
    ],
)
def test_health_over_a_socket_is_an_answer_of_2xx_and_else_the_reason(tmp_path, line, reason):
    path = tmp_path / "app.http"
    with speaking(path, f"HTTP/1.1 {line}\r\nContent-Length: 0\r\n\r\n".encode()) as asked:
        assert healthy(f"unix:{path}:/health") == reason
    assert asked[0].startswith(ASKED)
    assert "Host: localhost\r\n" in asked[0]


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0-OpenSSH_9.2\r\n"])
def test_a_connection_without_http_is_not_healthy(tmp_path, answer):
    with speaking(tmp_path / "app.http", answer):
        assert healthy(f"unix:{tmp_path / 'app.http'}:/health").startswith("no answer: ")


def test_a_socket_that_is_not_there_or_that_nobody_serves_is_not_healthy(tmp_path):
    path = tmp_path / "app.http"
    assert healthy(f"unix:{path}:/health").startswith("no answer: ")
    with socket.socket(socket.AF_UNIX) as abandoned:
        abandoned.bind(str(path))
    assert "refused" in healthy(f"unix:{path}:/health")


def test_an_app_that_accepts_nothing_is_given_up_on_in_time(tmp_path, monkeypatch):
    # systemd holds the socket: while the app starts, the connection is made all the same.
    monkeypatch.setattr(unit_health, "HEALTH_REQUEST_SECONDS", 0.1)
    path = tmp_path / "app.http"
    with socket.socket(socket.AF_UNIX) as held:
        held.bind(str(path))
        held.listen()
        assert healthy(f"unix:{path}:/health") == "no answer: timed out"


def test_an_address_without_a_path_to_ask_is_no_answer(tmp_path):
    assert healthy(f"unix:{tmp_path}").startswith("no answer: ")
