"""converged_unit asks an app for its health over a port."""

from __future__ import annotations

import socket
import threading

from plugins.module_utils.unit_health import healthy
from tests.polling import PATIENCE_SECONDS


def test_health_is_an_answer_of_200_and_else_the_reason(web, closed):
    assert healthy(web.url) == ""
    web.codes[:] = [503]
    assert healthy(web.url) == "it answers 503"
    assert "refused" in healthy(closed)
    assert healthy("nonsense").startswith("no answer")


def test_a_proxy_of_the_hosts_environment_is_not_asked_for_the_app(web, closed, monkeypatch):
    monkeypatch.setenv("http_proxy", closed)
    monkeypatch.delenv("no_proxy", raising=False)
    assert healthy(web.url) == ""


def test_something_on_the_port_that_speaks_no_http_is_not_healthy():
    with socket.create_server(("127.0.0.1", 0)) as server:

        def speak():
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")

        thread = threading.Thread(target=speak)
        thread.start()
        assert healthy(f"http://127.0.0.1:{server.getsockname()[1]}/").startswith("no answer")
        thread.join(PATIENCE_SECONDS)
