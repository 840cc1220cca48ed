"""Real Gunicorn, run as the role configures it: a worker that dies while it answers leaves a whole answer or none."""

from __future__ import annotations

import pytest

from tests.unit.keeper.site import ask, wait_for

APP = """
import io

def whole(environ):
    return [b"x" * 90_000]

def parts(environ):
    return iter([b"x" * 20_000, b"x" * 70_000])

def file(environ):
    return environ["wsgi.file_wrapper"](io.BytesIO(b"x" * 90_000))

def on_disk(environ):
    return environ["wsgi.file_wrapper"](open("body", "rb"))

def app(environ, begin):
    def start_response(status, headers):
        # Told apart from what this worker sends to others, whoever asks for its health meanwhile.
        begin(status, [*headers, ("X-Kind", kind)])

    kind = environ["PATH_INFO"].strip("/")
    if kind == "wrong":
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "2")])
        return ["no bytes"]
    if kind == "nothing":
        start_response("204 No Content", [])
        return []
    if kind == "chunked":
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"x" * 90_000]
    if kind == "large":
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "300000")])
        return [b"x" * 300_000]
    if kind not in ("whole", "parts", "file", "on_disk"):
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "2")])
        return [b"ok"]
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "90000")])
    return globals()[kind](environ)
"""
#: The worker is killed as soon as it has sent the head of an answer of ours, and whatever goes with it.
DIES = """
import os, re, signal, socket

def dying(self, data):
    native(self, data)
    if re.search(b"X-Kind: (whole|file|on_disk|large)", data) and Path(os.environ["SITE"], "armed").exists():
        Path(os.environ["SITE"], "armed").unlink()
        os.kill(os.getpid(), signal.SIGKILL)

native = socket.socket.sendall
socket.socket.sendall = dying
"""


@pytest.fixture
def site(start):
    """A site whose worker dies after its first piece of an answer, once it is armed."""
    site = start(APP, DIES).ready()
    (site.directory / "body").write_bytes(b"x" * 90_000)
    return site


@pytest.mark.parametrize("kind", ["whole", "file", "on_disk"])
def test_an_answer_of_one_piece_survives_the_worker(site, kind):
    (site.directory / "armed").touch()
    answer = ask(site.socket, f"/{kind}")
    assert (answer.status, len(answer.body), answer.problem) == (200, 90_000, "")
    wait_for(lambda: not (site.directory / "armed").exists(), "the worker was killed")


@pytest.mark.parametrize("kind", ["whole", "parts", "file", "on_disk", "chunked"])
def test_answers_are_complete(site, kind):
    answer = ask(site.socket, f"/{kind}")
    assert (answer.status, answer.body, answer.problem) == (200, b"x" * 90_000, "")


@pytest.mark.parametrize("kind", ["whole", "file", "on_disk", "chunked"])
def test_a_head_without_a_body_is_sent(site, kind):
    answer = ask(site.socket, f"/{kind}", method="HEAD")
    assert (answer.status, answer.body, answer.problem) == (200, b"", "")


def test_a_large_answer_is_not_copied_and_is_complete(site):
    answer = ask(site.socket, "/large")
    assert (answer.status, len(answer.body), answer.problem) == (200, 300_000, "")
    (site.directory / "armed").touch()
    # The head went out by itself: no copy of the rest was made to go along.
    assert "0 bytes read" in ask(site.socket, "/large").problem


def test_an_answer_without_a_body_is_sent(site):
    assert ask(site.socket, "/nothing").status == 204


def test_an_app_that_gives_no_bytes_is_answered_for(site):
    answer = ask(site.socket, "/wrong")
    assert answer.status == 500
    assert b"Internal Server Error" in answer.body
