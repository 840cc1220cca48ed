"""Maintenance: who gets the page, who gets the app, until when, and what a bad file does."""

from __future__ import annotations

import json

import pytest

from sitekeeper.maintenance import LONGEST_SECONDS, Maintenance, is_health, parse


class Clocks:
    """Two clocks that stand still unless they are moved."""

    wall = 1_000_000.0
    steady = 50.0

    def forward(self, seconds):
        self.wall += seconds
        self.steady += seconds


@pytest.fixture
def clocks():
    return Clocks()


@pytest.fixture
def maintenance(tmp_path, clocks):
    said = []
    one = Maintenance(tmp_path / "maintenance.json", said.append, lambda: clocks.wall, lambda: clocks.steady)
    one.said = said
    return one


def announce(path, until, message="Back soon."):
    beside = path.with_name("new")
    beside.write_text(json.dumps({"until": until, "message": message}))
    beside.replace(path)


def answer(maintenance, path="/", health="/health", **environ):
    """Return status, headers and body of a request."""
    told = []

    def app(_, start_response):
        start_response("200 OK", [])
        return [b"the app"]

    given = {"PATH_INFO": path, "REQUEST_METHOD": "GET", **environ}
    body = maintenance.around(app, health)(given, lambda status, headers: told.append((status, dict(headers))))
    return (*told[0], b"".join(body))


def test_without_a_file_the_app_answers(maintenance):
    assert answer(maintenance)[2] == b"the app"


def test_during_a_maintenance_visitors_get_a_page_and_when_to_come_again(maintenance, clocks):
    announce(maintenance.path, clocks.wall + 89.2)
    status, headers, body = answer(maintenance)
    assert status == "503 Service Unavailable"
    assert headers["Retry-After"] == "90", "rounded up"
    assert headers["Cache-Control"] == "no-store"
    assert int(headers["Content-Length"]) == len(body)
    assert b'<html lang="en">' in body
    assert b"Back soon." in body


def test_a_visitor_who_comes_while_another_thread_looks_does_not_get_in(maintenance, clocks):
    assert answer(maintenance)[2] == b"the app"
    announce(maintenance.path, clocks.wall + 60)
    clocks.forward(1.2)
    look, statuses = maintenance.look, []

    def slow_look():
        # The other thread stands here; this is what somebody in the meantime gets.
        maintenance.look = look
        statuses.append(answer(maintenance)[0])
        look()

    maintenance.look = slow_look
    statuses.append(answer(maintenance)[0])
    assert statuses == ["503 Service Unavailable"] * 2


def test_a_message_is_text_and_not_markup(maintenance, clocks):
    announce(maintenance.path, clocks.wall + 60, "<script>alert('é')</script> {x} %s")
    _, _, body = answer(maintenance)
    assert "&lt;script&gt;alert(&#x27;é&#x27;)&lt;/script&gt; {x} %s" in body.decode()
    assert b"<script" not in body


def test_a_program_gets_json(maintenance, clocks):
    announce(maintenance.path, clocks.wall + 60)
    _, headers, body = answer(maintenance, HTTP_ACCEPT="application/json", HTTP_X_REQUEST_ID="abc")
    assert headers["Content-Type"] == "application/json"
    assert json.loads(body) == {
        "error": "Service Unavailable",
        "status": 503,
        "message": "Back soon.",
        "until": "1970-01-12T13:47:40+00:00",
        "retry_after_seconds": 60,
        "request_id": "abc",
    }


def test_a_head_has_the_headers_alone(maintenance, clocks):
    announce(maintenance.path, clocks.wall + 60)
    status, headers, body = answer(maintenance, REQUEST_METHOD="HEAD")
    assert (status[:3], body) == ("503", b"")
    assert int(headers["Content-Length"]) > 100


@pytest.mark.parametrize(
    ("path", "health", "agent", "through"),
    [
        ("/health", "/health", "curl", True),
        ("/health/", "/health", "curl", False),
        ("/x/health", "/health", "curl", False),
        ("/", "/", "Mozilla/5.0", False),
        ("/", "/", "sitekeeper", True),
        ("/", "/", "sitectl", True),
        ("/x", "/", "sitectl", False),
    ],
)
def test_the_health_is_the_apps_own(maintenance, clocks, path, health, agent, through):
    announce(maintenance.path, clocks.wall + 60)
    body = answer(maintenance, path, health, HTTP_USER_AGENT=agent)[2]
    assert (body == b"the app") is through
    assert is_health({"PATH_INFO": path, "HTTP_USER_AGENT": agent}, health) is through


def test_it_ends_by_itself_and_when_the_file_is_gone(maintenance, clocks):
    announce(maintenance.path, clocks.wall + 2.5)
    assert maintenance.now()
    clocks.forward(2.4)
    assert maintenance.now()
    clocks.forward(0.1)
    assert maintenance.now() is None
    announce(maintenance.path, clocks.wall + 60)
    clocks.forward(1)
    assert maintenance.now()
    maintenance.path.unlink()
    clocks.forward(1)
    assert maintenance.now() is None
    assert maintenance.said == []


def test_the_file_is_looked_at_once_a_second(maintenance, clocks):
    assert maintenance.now() is None
    announce(maintenance.path, clocks.wall + 60)
    clocks.forward(0.9)
    assert maintenance.now() is None
    clocks.forward(0.2)
    assert maintenance.now()


def test_a_new_message_replaces_the_old_one(maintenance, clocks):
    for message in ("one", "two"):
        announce(maintenance.path, clocks.wall + 60, message)
        clocks.forward(1)
        notice, _ = maintenance.now()
        assert notice.message == message


def test_a_mistake_does_not_close_a_site_for_good(maintenance, clocks):
    announce(maintenance.path, clocks.wall + LONGEST_SECONDS + 5)
    assert maintenance.now() is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"until": 5}',
        '{"message": "x"}',
        '{"until": "5", "message": "x"}',
        '{"until": true, "message": "x"}',
        '{"until": Infinity, "message": "x"}',
        '{"until": 5, "message": 7}',
    ],
)
def test_a_damaged_file_is_as_good_as_none_and_said_once(maintenance, clocks, text):
    maintenance.path.write_text(text)
    for _ in range(3):
        assert answer(maintenance)[2] == b"the app"
        clocks.forward(1)
    (line,) = maintenance.said
    assert "the site stays open" in line
    announce(maintenance.path, clocks.wall + 60)
    assert maintenance.now(), "a sound one counts again"
    with pytest.raises((ValueError, KeyError)):
        parse(text)


def test_a_file_that_is_none_is_said_once(maintenance, clocks):
    maintenance.path.mkdir()
    for _ in range(3):
        assert maintenance.now() is None
        clocks.forward(1)
    assert len(maintenance.said) == 1
