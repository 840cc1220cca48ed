"""Real Gunicorn, run as the role configures it: visitors who send slowly, or nothing, keep nobody else waiting."""

from __future__ import annotations

import http.client
import socket
import time

import pytest

from sitekeeper.arrivals import MOST_BYTES, has_come
from tests.polling import PATIENCE_SECONDS
from tests.unit.keeper.site import ask

APP = """
def app(environ, start_response):
    size = 0
    while part := environ["wsgi.input"].read(65536):
        size += len(part)
    body = str(size).encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
"""
HEAD = b"GET / HTTP/1.1\r\nHost: site\r\n"
POST = b"POST / HTTP/1.1\r\nHost: site\r\nContent-Length: %d\r\n\r\n"
CHANGED = "import sitekeeper.arrivals\nsitekeeper.arrivals.{} = {}\n"


@pytest.mark.parametrize(
    ("seen", "come"),
    [
        (b"", False),
        (HEAD, False),
        (HEAD + b"\r\n", True),
        (HEAD + b"Content-Length: 9\r\n\r\n", True),
        (POST % 0, True),
        (POST % 4 + b"abc", False),
        (POST % 4 + b"abcd", True),
        (POST % 4 + b"abcdGET /", True),
        (b"POST / HTTP/1.1\r\ncontent-length:4\r\n\r\nabc", False),
        (b"POST / HTTP/1.1\r\nX-Content-Length: 4\r\n\r\n", True),
        (b"POST / HTTP/1.1\r\nHost: a\r\n\r\nContent-Length: 9\r\n", True),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", True),
        (b"POST / HTTP/1.1\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n", True),
        (POST % 99999, False),
        ((POST % 99999).ljust(MOST_BYTES, b"x"), True),
        (HEAD.ljust(MOST_BYTES, b"x"), True),
    ],
)
def test_a_thread_begins_with_what_it_can_read_at_once(seen, come):
    assert has_come(seen) is come


@pytest.fixture
def visit(start):
    """A site on a port, and a way to connect to it."""
    opened = []

    def serve(**constants):
        configuration = "".join(CHANGED.format(name, value) for name, value in constants.items())
        site = start(APP, configuration, bind="127.0.0.1:0").ready()
        port = int(site.log().partition("Listening at: http://127.0.0.1:")[2].split()[0])

        def connect(sent=b""):
            one = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS)
            opened.append(one)
            one.sendall(sent)
            return one

        return site, ("127.0.0.1", port), connect

    yield serve
    for one in opened:
        one.close()


def answer(one):
    """Read one whole answer."""
    response = http.client.HTTPResponse(one)
    response.begin()
    return response.status, response.read()


def answered(one):
    return answer(one)[0] == 200


def closed(one):
    try:
        return one.recv(4096) == b""
    except ConnectionResetError:
        return True


def test_those_who_send_slowly_or_nothing_keep_nobody_waiting(visit):
    _, address, connect = visit()
    slow = [connect(sent) for sent in (b"", HEAD, POST % 4 + b"ab") for _ in range(50)]
    for _ in range(5):
        other = ask(address, "/", seconds=5)
        assert other.status == 200
        assert other.seconds < 2
    slow[0].sendall(HEAD + b"\r\n")
    slow[50].sendall(b"X-More: a\r\n")
    assert ask(address, "/", seconds=5).status == 200
    slow[50].sendall(b"\r\n")
    slow[100].sendall(b"cd")
    assert all(map(answered, (slow[0], slow[50], slow[100])))


def test_the_next_request_of_a_kept_connection_may_be_slow_too(visit):
    _, address, connect = visit()
    kept = [connect(HEAD + b"\r\n") for _ in range(8)]
    assert all(map(answered, kept))
    for one in kept:
        one.sendall(HEAD)
    assert ask(address, "/", seconds=5).status == 200
    for one in kept:
        one.sendall(b"\r\n")
    assert all(map(answered, kept))


@pytest.mark.parametrize("sent", [b"", HEAD])
def test_nobody_is_waited_for_for_ever(visit, sent):
    _, address, connect = visit(ARRIVAL_SECONDS=1)
    begin = time.monotonic()
    assert closed(connect(sent))
    assert 1 <= time.monotonic() - begin < 8
    assert ask(address, "/").status == 200


@pytest.mark.parametrize("sent", [b"", HEAD])
def test_who_is_gone_before_the_end_is_forgotten(visit, sent):
    _, address, connect = visit(ARRIVAL_SECONDS=60)
    one = connect(sent)
    one.shutdown(socket.SHUT_WR)
    assert closed(one)
    assert ask(address, "/").status == 200


def test_too_many_make_room_for_new_ones(visit):
    _, address, connect = visit(MOST_WAITING=20, ARRIVAL_SECONDS=60)
    silent = [connect(HEAD) for _ in range(60)]
    assert closed(silent[0])
    assert ask(address, "/").status == 200
    silent[-1].sendall(b"\r\n")
    assert answered(silent[-1])


def test_long_bodies_come_whole_however_they_are_sent(visit):
    _, _, connect = visit()
    one = connect(POST % 1_000_000 + b"a" * 400_000)
    one.sendall(b"b" * 600_000)
    assert answer(one) == (200, b"1000000")
    expecting = connect(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
    assert expecting.recv(4096).startswith(b"HTTP/1.1 100")
    expecting.sendall(b"abcd")
    assert answered(expecting)


def test_a_long_body_that_stands_still_gives_its_thread_back(visit):
    site, address, connect = visit(STALL_SECONDS=1)
    stalled = [connect(POST % 1_000_000 + b"a" * MOST_BYTES) for _ in range(site.settings["threads"])]
    assert ask(address, "/").status == 200
    assert all(answer(one)[0] == 500 or closed(one) for one in stalled)


def test_a_stop_does_not_wait_for_them(visit):
    site, _, connect = visit()
    silent = connect(HEAD)
    begin = time.monotonic()
    assert site.stop() == 0
    assert time.monotonic() - begin < site.settings["graceful_timeout_seconds"]
    assert closed(silent)
