"""The real agent against our edge, started by the role's runner with the role's configuration."""

from __future__ import annotations

import http.client
import http.server
import json
import os
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.edge import agent as agents
from tests.edge.client import RunningEdge, run_edge, until
from tests.polling import PATIENCE_SECONDS
from tests.unit.ngrok.rendering import DOMAIN, ROLE, TOKEN, render

BODY = bytes(range(256)) * 4096  # 1 MiB: more than the windows of the multiplexer


class App(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self._answer(BODY if self.path == "/big" else f"hello {self.headers['X-Forwarded-Proto']}".encode())

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers["Content-Length"])))

    def log_message(self, *_arguments: object) -> None:
        """Keep the test's output clean."""


class Silent(App):
    """An app that closes the connection without an answer."""

    def do_GET(self) -> None:
        self.close_connection = True


@pytest.fixture(scope="session")
def program() -> Path:
    return agents.fetch()


@pytest.fixture
def serve():
    """Start an app on a port of its choice; it can be stopped by hand."""
    servers = []

    def start(handler: type[http.server.BaseHTTPRequestHandler] = App, port: int = 0):
        server = http.server.ThreadingHTTPServer(("127.0.0.1", port), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def edge(tmp_path):
    with run_edge(tmp_path / "edge", TOKEN, DOMAIN) as running:
        yield running


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Agent:
    """The runner and the real agent, logging into a file."""

    def __init__(self, process: subprocess.Popen, log: Path, web: int) -> None:
        self.process, self.log, self.web = process, log, web

    def tunnels(self) -> list[str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.web}/api/tunnels", timeout=5) as answer:
                return [tunnel["public_url"] for tunnel in json.load(answer)["tunnels"]]
        except (urllib.error.URLError, ConnectionError):
            return []

    def says(self, text: str) -> bool:
        return text in self.log.read_text()

    def ended(self, seconds: float = PATIENCE_SECONDS) -> int:
        return self.process.wait(timeout=seconds)


@pytest.fixture
def start(tmp_path, program, edge):
    started = []

    def run(name: str = "one", app_port: int = 9, **settings: str) -> Agent:
        directory = tmp_path / name
        directory.mkdir()
        (directory / "bin").mkdir()
        (directory / "bin" / "ngrok").symlink_to(program)
        web = free_port()
        given = {
            "ngrok_config_version": 2,
            "ngrok_connect_url": f"localhost:{edge.ports['agent']}",
            "ngrok_connect_cas": str(edge.ca_file),
            "ngrok_upstream_url": f"http://127.0.0.1:{app_port}",
            "ngrok_web_address": f"127.0.0.1:{web}",
        }
        (directory / "ngrok.yml").write_text(render("ngrok.yml.j2", **{**given, **settings}))
        command = [sys.executable, "-I", ROLE / "files" / "run_agent.py", "--config", directory / "ngrok.yml"]
        log = directory / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*command, "--refused-delay", "1"],
                stdout=output,
                stderr=subprocess.STDOUT,
                env={"PATH": f"{directory / 'bin'}:{os.environ['PATH']}", "HOME": str(directory)},
            )
        started.append(process)
        return Agent(process, log, web)

    yield run
    for process in started:
        process.terminate()
        process.wait(timeout=PATIENCE_SECONDS)


def online(edge: RunningEdge) -> bool:
    return edge.control.state()["online"] == [DOMAIN]


def test_request_goes_through_the_tunnel_to_the_app(edge, start, serve):
    agent = start(app_port=serve().server_port)
    until("the endpoint is online", PATIENCE_SECONDS, lambda: online(edge))
    assert edge.get(DOMAIN) == (200, "", "hello https")
    assert agent.tunnels() == [f"https://{DOMAIN}"]


def test_big_answers_and_uploads_arrive_whole(edge, start, serve):
    start(app_port=serve().server_port)
    until("the endpoint is online", PATIENCE_SECONDS, lambda: online(edge))
    for method, path, sent in (("GET", "/big", None), ("POST", "/echo", BODY)):
        connection = http.client.HTTPConnection("127.0.0.1", edge.ports["public"], timeout=PATIENCE_SECONDS)
        connection.request(method, path, body=sent, headers={"Host": DOMAIN})
        answer = connection.getresponse()
        body = answer.read()
        assert body == BODY, f"{method}: {answer.status}, {body[:200]!r}"
        connection.close()


def test_visitor_without_an_agent_gets_3200(edge):
    status, error, _ = edge.get(DOMAIN)
    assert (status, error) == (404, "ERR_NGROK_3200")


def test_visitor_of_another_domain_gets_3200(edge, start, serve):
    start(app_port=serve().server_port)
    until("the endpoint is online", PATIENCE_SECONDS, lambda: online(edge))
    assert edge.get("other.example.com")[1] == "ERR_NGROK_3200"


def test_app_that_is_down_gives_8012_and_the_tunnel_heals_with_it(edge, start, serve):
    server = serve()
    agent = start(app_port=server.server_port)
    until("the endpoint is online", PATIENCE_SECONDS, lambda: online(edge))
    server.shutdown()
    server.server_close()
    status, error, body = edge.get(DOMAIN)
    assert (status, error) == (502, "ERR_NGROK_8012")
    assert "Failed to complete tunnel connection" in body
    assert agent.tunnels() == [f"https://{DOMAIN}"]
    serve(port=server.server_port)
    assert edge.get(DOMAIN)[0] == 200


def test_app_that_answers_nothing_gives_3004(edge, start, serve):
    start(app_port=serve(Silent).server_port)
    until("the endpoint is online", PATIENCE_SECONDS, lambda: online(edge))
    assert edge.get(DOMAIN)[:2] == (502, "ERR_NGROK_3004")


def test_agent_reconnects_after_the_edge_dropped_it(edge, start, serve):
    agent = start(app_port=serve().server_port)
    until("the endpoint is online", PATIENCE_SECONDS, lambda: online(edge))
    edge.control.drop()
    until("the agent came back", 30, lambda: edge.control.state()["auths"] == ["ok", "ok"] and online(edge))
    assert edge.get(DOMAIN)[0] == 200
    assert agent.process.poll() is None


def test_agent_that_starts_before_the_edge_connects_once_it_is_there(edge, start, serve):
    edge.control.offline()
    agent = start(app_port=serve().server_port)
    until("the agent has tried", PATIENCE_SECONDS, lambda: agent.says("connection refused"))
    assert agent.tunnels() == []
    edge.control.online()
    until("the endpoint is online", 60, lambda: online(edge))
    assert edge.get(DOMAIN)[0] == 200


@pytest.mark.parametrize(
    ("token", "error", "advice"),
    [
        ("2wrongtokenWRONGTOKENwrongtoken_3wrongtokenWRONGTOKEN", "107", "the token is refused"),
        ("CHANGEMECHANGEMECHANGEME", "105", "the token is refused"),
    ],
)
def test_wrong_token_ends_the_agent_and_is_not_logged(edge, start, token, error, advice):
    agent = start(ngrok_authtoken=token)
    assert agent.ended() == 1
    assert edge.control.state()["auths"] == [error]
    assert agent.says(f"refused with ERR_NGROK_{error}: {advice}")
    assert agent.says("Your authtoken: [redacted]")
    assert not agent.says(token)


@pytest.mark.parametrize(
    ("refused", "advice"),
    [
        ({"auth": "108"}, "too many agents"),
        ({"bind": "334"}, "still online"),
        ({"bind": "320"}, "correct ngrok_domain"),
    ],
)
def test_refused_agent_ends_and_says_why(edge, start, refused, advice):
    edge.control.refuse(**refused)
    agent = start()
    assert agent.ended() == 1
    (number,) = refused.values()
    assert agent.says(f"refused with ERR_NGROK_{number}: ")
    assert agent.says(advice)


def test_second_agent_for_the_same_address_is_refused_and_the_first_stays(edge, start, serve):
    first = start(app_port=serve().server_port)
    until("the endpoint is online", PATIENCE_SECONDS, lambda: online(edge))
    second = start("two")
    assert second.ended() == 1
    assert second.says("ERR_NGROK_334")
    assert first.process.poll() is None
    assert edge.get(DOMAIN)[0] == 200


def test_domain_of_somebody_else_is_refused(edge, start):
    agent = start(ngrok_domain="other.example.com")
    assert agent.ended() == 1
    assert edge.control.state()["binds"] == ["320"]


def test_killed_agent_is_followed_at_once_and_its_address_is_free(edge, start, serve):
    agent = start(app_port=serve().server_port)
    until("the endpoint is online", PATIENCE_SECONDS, lambda: online(edge))
    children = Path(f"/proc/{agent.process.pid}/task/{agent.process.pid}/children").read_text().split()
    assert len(children) == 1
    os.kill(int(children[0]), 9)
    assert agent.ended(5) == 128 + 9
    until("the endpoint is gone", 5, lambda: edge.control.state()["online"] == [])
    start("two", app_port=serve().server_port)
    until("the endpoint is online again", PATIENCE_SECONDS, lambda: online(edge))


def test_agent_does_not_trust_an_edge_of_another_authority(edge, start, tmp_path):
    with run_edge(tmp_path / "other", TOKEN, DOMAIN) as other:
        agent = start(ngrok_connect_cas=str(other.ca_file))
        until("the agent has refused", PATIENCE_SECONDS, lambda: agent.says("certificate"))
        assert edge.control.state()["auths"] == []
