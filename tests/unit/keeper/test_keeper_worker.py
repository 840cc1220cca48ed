"""What a worker knows of its requests, and the names that it gives them."""

from __future__ import annotations

import logging
import threading
import types

import pytest

from sitekeeper import answers, worker
from sitekeeper.worker import InFlight, KeptWorker, current, identified, name_requests_in_logs, request_id


@pytest.mark.parametrize("given", ["abcdefgh", "0123456789abcdef", "a.b_c-d.e", "x" * 64])
def test_an_id_that_is_fit_for_logs_is_kept(given):
    assert request_id(given) == given


@pytest.mark.parametrize(
    "given", [None, "", "short", "x" * 65, "-abcdefgh", "a b c d e f", "abcdefgh\n", "abcdefgh\r\nX: y", "ábcdefgh"]
)
def test_any_other_is_replaced(given):
    fresh = request_id(given)
    assert fresh != given
    assert request_id(fresh) == fresh
    assert request_id(given) != fresh


def called(headers, given=None, in_flight=None):
    """Call an app that answers with these headers; return what the server is told and what the app saw."""
    told, seen = [], {}

    def app(environ, start_response):
        seen.update(environ)
        start_response("200 OK", headers)
        return [b"ok"]

    environ = {} if given is None else {"HTTP_X_REQUEST_ID": given}
    identified(app, {} if in_flight is None else in_flight)(environ, lambda *words: told.append(words))
    ((status, sent, _),) = told
    assert status == "200 OK"
    return sent, seen["HTTP_X_REQUEST_ID"]


def test_the_app_and_the_visitor_see_the_same_id():
    sent, seen = called([("A", "b")])
    assert sent == [("A", "b"), ("X-Request-Id", seen)]
    assert current.id == seen


def test_the_id_of_a_visitor_goes_on():
    assert called([], "of-a-visitor") == ([("X-Request-Id", "of-a-visitor")], "of-a-visitor")


def test_an_app_that_names_its_answers_itself_is_not_corrected():
    sent, _ = called([("x-request-ID", "mine")])
    assert sent == [("x-request-ID", "mine")]


def test_the_begin_of_an_answer_is_noted():
    mine = InFlight(0.0, "/")
    called([], in_flight={threading.get_ident(): mine, 1: (other := InFlight(0.0, "/"))})
    assert (mine.answering, other.answering) == (True, False)


def test_what_is_logged_with_an_exception_bears_the_id_and_the_rest_does_not(caplog):
    before = logging.getLogRecordFactory()
    log = logging.getLogger("of-an-app")
    current.id = "ab12cd34"
    try:
        name_requests_in_logs()
        try:
            1 / 0  # noqa: B018
        except ZeroDivisionError:
            log.exception("failed %s", "here")
        log.error("only said")
        current.id = ""
        try:
            1 / 0  # noqa: B018
        except ZeroDivisionError:
            log.exception("in the background")
    finally:
        logging.setLogRecordFactory(before)
    assert [record.getMessage() for record in caplog.records] == [
        "failed here [request ab12cd34]",
        "only said",
        "in the background",
    ]


@pytest.mark.parametrize(
    ("status", "sent", "error", "unanswered"),
    [
        (None, False, RuntimeError(), True),
        ("200 OK", False, RuntimeError(), True),
        ("200 OK", True, RuntimeError(), False),
        (None, False, BrokenPipeError(32, ""), True),
        ("200 OK", False, BrokenPipeError(32, ""), False),
        ("200 OK", False, ConnectionResetError(104, ""), False),
        ("200 OK", False, FileNotFoundError(2, ""), True),
        ("200 OK", False, TimeoutError("no number"), True),
        ("200 OK", True, FileNotFoundError(2, ""), False),
        (None, False, None, False),
    ],
)
def test_the_worker_answers_for_an_app_that_failed_before_it_did(status, sent, error, unanswered):
    response = types.SimpleNamespace(status=status, headers_sent=sent)
    assert answers.is_unanswered(response, error) is unanswered


def bare_worker(threads, requests=(), **more):
    one = KeptWorker.__new__(KeptWorker)
    one.tpool = types.SimpleNamespace(_threads=threads)
    one.in_flight = dict.fromkeys(requests)
    for name, value in more.items():
        setattr(one, name, value)
    return one


def test_idle_are_the_threads_of_the_pool_without_a_request():
    threads = {types.SimpleNamespace(ident=ident) for ident in ()} | set()
    pool = [types.SimpleNamespace(ident=ident) for ident in (1, 2, 3, None)]
    assert bare_worker([*threads, *pool], requests=[2]).idle_threads() == {1, 3}


def test_a_pool_that_grows_meanwhile_disturbs_nobody():
    pool = {threading.Thread()}

    class Grows:
        @property
        def ident(self):
            pool.add(threading.Thread())
            return 7

    pool |= {Grows() for _ in range(3)}
    assert bare_worker(pool).idle_threads() == {7}


@pytest.mark.parametrize(
    ("paused", "kept", "silent", "most"), [(False, 0, 0, 4), (False, 3, 0, 7), (False, 1, 9, 14), (True, 3, 9, 0)]
)
def test_a_worker_takes_what_its_threads_can_begin_with(paused, kept, silent, most):
    more = {"paused": paused, "keepalived_conns": [None] * kept, "pending_conns": (), "arrivals": [None] * silent}
    one = bare_worker((), cfg=types.SimpleNamespace(threads=4), **more)
    assert one.worker_connections == most
    one.worker_connections = 1000
    assert one.worker_connections == most


def test_the_name_of_the_module_of_visitors_mistakes_is_gunicorn_s():
    # `handle_error` tells them from the app's exceptions by it.
    assert worker.http_errors.InvalidRequestLine.__module__ == worker.http_errors.__name__
