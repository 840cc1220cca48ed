"""One request against a real server that behaves badly."""

from __future__ import annotations

import socket
import threading
import time

import pytest

from sitectl.probe import ask


@pytest.mark.parametrize("behaviour", ["ok", "no content", "chunked", "endless"])
def test_a_2xx_answer_is_healthy(app, behaviour):
    app.behaviour = behaviour
    answer = ask(app.url, 5)
    assert answer.ok, answer
    assert 200 <= answer.status <= 204


@pytest.mark.parametrize(
    ("behaviour", "status", "problem"),
    [
        ("500", 500, "answered 500"),
        ("503", 503, "answered 503"),
        ("404", 404, "answered 404"),
        ("302", 302, "answered 302"),
        ("short", 200, "cut short"),
        ("garbage", None, "not an HTTP answer"),
        ("silent close", None, "not an HTTP answer"),
    ],
)
def test_any_other_answer_is_not(app, behaviour, status, problem):
    app.behaviour = behaviour
    answer = ask(app.url, 5)
    assert not answer.ok
    assert answer.status == status
    assert problem in answer.problem


@pytest.mark.parametrize("behaviour", ["hang", "drip headers", "drip body"])
def test_the_time_limit_covers_the_whole_request(app, behaviour):
    app.behaviour = behaviour
    start = time.monotonic()
    answer = ask(app.url, 0.4)
    assert time.monotonic() - start < 1.5
    assert answer.problem == "no complete answer within 0.4 s"
    assert 350 <= answer.milliseconds < 1500


def test_a_refused_connection_is_named():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert ask(f"http://127.0.0.1:{port}/", 5).problem == "connection refused"


def test_a_full_backlog_ends_in_time():
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        assert "within 0.3 s" in ask(f"http://127.0.0.1:{deaf.getsockname()[1]}/", 0.3).problem


def test_a_resolver_that_hangs_ends_in_time(monkeypatch):
    black_hole = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [black_hole.wait(20)][:0])
    start = time.monotonic()
    answer = ask("http://example.invalid/", 0.3)
    black_hole.set()
    assert time.monotonic() - start < 1.5
    assert "within 0.3 s" in answer.problem


def test_path_query_and_host_are_sent(app):
    ask(app.url + "?deep=1", 5, "www.example.org")
    assert app.requests == [("/health?deep=1", "www.example.org")]
