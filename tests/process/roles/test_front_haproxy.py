"""What the real haproxy does with the role's configuration: what it repeats, what it lets wait, whom it believes."""

from __future__ import annotations

import http.client
import signal
import socket
import time
from concurrent.futures import TimeoutError as StillWaiting

import pytest

from tests.polling import PATIENCE_SECONDS
from tests.unit.roles.front_site import App, Site, eventually

SAFE = ["GET", "HEAD", "OPTIONS"]
UNSAFE = ["POST", "PUT", "PATCH", "DELETE", "PURGE"]
SAID = {
    "X-Forwarded-For": "203.0.113.9",
    "X-Forwarded-Proto": "https",
    "X-Forwarded-Host": "bank.example.org",
    "X-Forwarded-Ssl": "on",
    "Forwarded": "for=203.0.113.9",
    "X-Real-IP": "203.0.113.9",
}


@pytest.fixture
def site(tmp_path):
    site = Site(tmp_path)
    yield site
    site.close()


@pytest.fixture
def app(site):
    app = App(site.upstream)
    yield app
    app.stop()


@pytest.fixture
def up(site, app):
    """The site with everything running."""
    app.start()
    site.start()
    return site


def waits(future, seconds=0.5):
    """Tell whether a request is still without an answer after a time."""
    try:
        future.result(seconds)
    except StillWaiting:
        return True
    return False


# What is sent again


@pytest.mark.parametrize("method", SAFE)
def test_a_request_whose_worker_dies_is_sent_once_more_and_served(up, app, method):
    assert up.ask(method, "/dies/1").status == 200
    assert app.seen == [(method, "/dies/1")] * 2


@pytest.mark.parametrize("method", UNSAFE)
def test_what_may_change_something_is_never_sent_twice(up, app, method):
    # Without a body: haproxy has all of it at once, so nothing but the rule keeps it from sending it again.
    assert up.ask(method, "/dies/1").status == 502
    assert app.seen == [(method, "/dies/1")]


def test_a_request_that_kills_its_workers_kills_two_and_no_more(up, app):
    assert up.ask("GET", "/dies/9").status == 502
    assert app.seen == [("GET", "/dies/9")] * 2


def test_an_answer_that_has_begun_is_not_repeated(up, app):
    with pytest.raises(http.client.IncompleteRead):
        up.ask("GET", "/breaks")
    assert app.seen == [("GET", "/breaks")]


def test_a_request_that_takes_too_long_is_not_repeated(site, app):
    app.start()
    site.start(front_server_timeout_seconds=1)
    answer = site.ask("GET", "/held")
    assert (answer.status, answer.headers["retry-after"]) == (504, "5")
    assert app.seen == [("GET", "/held")]


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_site_that_is_not_there_is_tried_twice_and_says_when_to_come_back(site, method):
    site.start()
    answer = site.ask(method, "/")
    assert (answer.status, answer.headers["retry-after"]) == (503, "5")
    eventually(site.requests_logged, "it is logged")
    assert site.requests_logged()[0]["repeated"] == "1"


# What waits


def test_visitors_wait_while_the_app_starts(site, app):
    site.start()
    asked = [site.begin("GET", "/"), site.begin("POST", "/", body=b"1")]
    assert all(waits(one) for one in asked)
    app.start()
    assert [one.result(PATIENCE_SECONDS).status for one in asked] == [200, 200]


def test_the_app_gets_no_more_at_once_than_it_can_work_on_and_nobody_is_turned_away(site, app):
    app.start()
    site.start(app_workers=2, app_threads=2)
    asked = [site.begin("GET", "/held") for _ in range(30)]
    eventually(lambda: app.at_work == 4, "four at work")
    assert waits(asked[-1], 0.3)
    assert app.at_work == 4
    app.go_on.set()
    assert {one.result(PATIENCE_SECONDS).status for one in asked} == {200}
    assert (len(app.seen), app.most_at_work) == (30, 4)


def test_a_wait_for_a_turn_has_an_end(site, app):
    app.start()
    site.start(front_server_maxconn=1, front_queue_timeout_seconds=1)
    first = site.begin("GET", "/held")
    eventually(lambda: app.at_work == 1, "one at work")
    answer = site.ask("GET", "/second")
    assert (answer.status, answer.headers["retry-after"]) == (503, "5")
    app.go_on.set()
    assert first.result(PATIENCE_SECONDS).status == 200
    assert app.seen == [("GET", "/held")]


def test_a_visitor_who_left_while_he_waited_is_not_served(site, app):
    app.start()
    site.start(front_server_maxconn=1)
    first = site.begin("GET", "/held")
    eventually(lambda: app.at_work == 1, "one at work")
    with socket.create_connection(site.port.getsockname()) as impatient:
        impatient.sendall(b"GET /left HTTP/1.1\r\nHost: site\r\n\r\n")
        time.sleep(0.2)
    third = site.begin("GET", "/third")
    assert waits(third, 0.2)
    app.go_on.set()
    assert (first.result(PATIENCE_SECONDS).status, third.result(PATIENCE_SECONDS).status) == (200, 200)
    assert [path for _, path in app.seen] == ["/held", "/third"]


def test_a_slow_answer_is_waited_for_longer_than_a_slow_visitor(site, app):
    app.start()
    site.start(front_client_timeout_seconds=1)
    asked = site.begin("GET", "/held")
    assert waits(asked, 1.5)
    app.go_on.set()
    assert asked.result(PATIENCE_SECONDS).status == 200


def test_a_visitor_who_never_ends_his_headers_does_not_reach_the_app(site, app):
    app.start()
    site.start(front_request_timeout_seconds=1)
    with socket.create_connection(site.port.getsockname(), timeout=PATIENCE_SECONDS) as slow:
        slow.sendall(b"GET / HTTP/1.1\r\nHost: site\r\n")
        assert slow.recv(1000).startswith(b"HTTP/1.1 408 ")
    assert app.seen == []


def test_large_bodies_pass_through_without_being_collected(up, app):
    size = 2_000_000
    head = f"POST /upload HTTP/1.1\r\nHost: site\r\nContent-Length: {size}\r\n\r\n"
    with socket.create_connection(up.port.getsockname(), timeout=PATIENCE_SECONDS) as visitor:
        visitor.sendall(head.encode() + b"x" * (size // 2))
        eventually(lambda: app.first_bytes, "the app has the beginning before the end is sent")
        visitor.sendall(b"x" * (size // 2))
        assert visitor.recv(1000).startswith(b"HTTP/1.1 200 ")


def test_an_answer_arrives_while_it_is_made(up, app):
    connection = http.client.HTTPConnection(*up.port.getsockname(), timeout=PATIENCE_SECONDS)
    connection.request("GET", "/stream")
    answer = connection.getresponse()
    assert len(answer.read(10)) == 10
    assert not app.go_on.is_set()
    app.go_on.set()
    assert answer.read()
    connection.close()


# Restarts of haproxy itself


def test_a_restart_of_haproxy_finishes_what_is_in_flight_and_refuses_nobody(up, app):
    before = up.begin("GET", "/held")
    eventually(lambda: app.at_work == 1, "one at work")
    up.signal(signal.SIGUSR1)
    eventually(lambda: not up.listens(), "haproxy lets go of the port")
    during = up.begin("POST", "/during", body=b"1")
    assert waits(during)
    app.go_on.set()
    assert (before.result(PATIENCE_SECONDS).status, up.ended()) == (200, 0)
    up.start()
    assert during.result(PATIENCE_SECONDS).status == 200
    assert app.seen.count(("POST", "/during")) == 1


def test_a_request_that_never_ends_does_not_keep_haproxy_from_its_restart(site, app):
    app.start()
    site.start(front_stop_timeout_seconds=1)
    endless = site.begin("GET", "/held")
    eventually(lambda: app.at_work == 1, "one at work")
    site.signal(signal.SIGUSR1)
    assert site.ended() == 0
    with pytest.raises((ConnectionError, http.client.HTTPException)):
        endless.result(PATIENCE_SECONDS)


def test_visitors_wait_for_the_next_haproxy_when_one_is_killed(up):
    assert up.ask("GET", "/").status == 200
    up.signal(signal.SIGKILL)
    assert up.ended() == -signal.SIGKILL
    asked = up.begin("GET", "/")
    assert waits(asked, 0.2)
    up.start()
    assert asked.result(PATIENCE_SECONDS).status == 200


# Whom it believes


def test_what_a_visitor_says_of_himself_is_dropped(site, app):
    app.start()
    site.start(front_trusted_sources=["192.0.2.1"])
    told = site.ask("GET", "/", headers=SAID).told
    assert {name: value for name, value in told.items() if "forward" in name or "real" in name} == {
        "x-forwarded-for": "127.0.0.1",
        "x-forwarded-proto": "http",
    }


def test_what_the_tunnel_on_the_loopback_says_of_a_visitor_is_kept(up):
    told = up.ask("GET", "/", headers=SAID).told
    assert {name: told.get(name.lower()) for name in SAID} == SAID


def test_who_says_nothing_on_the_loopback_gets_what_haproxy_sees(up):
    told = up.ask("GET", "/").told
    assert (told["x-forwarded-for"], told["x-forwarded-proto"]) == ("127.0.0.1", "http")


def test_nobody_sets_what_gunicorn_takes_from_its_proxy_for_the_truth(up):
    told = up.ask("GET", "/", headers={"SCRIPT_NAME": "/admin", "path_info": "/admin", "Cookie": "a_b=1"}).told
    assert not [name for name in told if "_" in name]
    assert told["cookie"] == "a_b=1"


def test_a_request_id_passes_both_ways(up):
    answer = up.ask("GET", "/", headers={"X-Request-Id": "id-of-the-visitor"})
    assert answer.told["x-request-id"] == "id-of-the-visitor"
    assert answer.headers["x-request-id"] == "id-of-the-app"


def test_a_kept_connection_of_a_visitor_is_a_new_one_to_the_app_each_time(up):
    connection = http.client.HTTPConnection(*up.port.getsockname(), timeout=PATIENCE_SECONDS)
    for _ in range(2):
        connection.request("GET", "/")
        answer = connection.getresponse()
        assert b'"connection": "close"' in answer.read()
        assert not answer.will_close
    connection.close()


# What it writes down


def test_the_log_tells_what_was_repeated_and_what_failed_and_no_secret(up):
    assert up.ask("GET", "/dies/1?token=canary", headers={"Cookie": "canary"}).status == 200
    assert up.ask("POST", "/dies/1?token=canary", body=b"canary").status == 502
    assert up.ask("GET", '/fine"{').status == 200
    eventually(lambda: len(up.requests_logged()) == 2, "both are logged")
    first, second = up.requests_logged()
    assert (first["method"], first["path"], first["status"], first["repeated"]) == ("GET", "/dies/1", 200, "1")
    assert first["request_id"] == "id-of-the-app"
    assert (second["method"], second["status"], second["repeated"], second["ended"]) == ("POST", 502, "0", "SH")
    assert "canary" not in "\n".join(up.log())
