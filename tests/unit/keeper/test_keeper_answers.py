"""The answer to a request that failed inside of the app, and how a Flask app is taught to give it."""

from __future__ import annotations

import json
import logging
import types

import flask
import pytest
from werkzeug.exceptions import HTTPException, InternalServerError

from sitekeeper.answers import prefers_json, server_error, teach_flask

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"
ONE = "ab12cd34-request"


@pytest.mark.parametrize(
    ("accept", "json_wanted"),
    [
        ("", False),
        ("*/*", False),
        ("text/html", False),
        (BROWSER, False),
        ("application/json", True),
        ("Application/JSON", True),
        ("application/json, text/plain, */*", True),
        ("application/problem+json", True),
        ("application/*", True),
        ("text/html, application/json", False),
        ("text/html;q=0.8, application/json", True),
        ("application/json;q=0.8, text/html", False),
        ("application/json ; charset=utf-8 ; q=0.4 , text/html ; q=0.3", True),
        ("application/json;q=0.5, */*", False),
        ("application/json;q=0.5, text/*;q=0.4", True),
        ("application/json;q=0.5, text/*;q=0.6", False),
        ("text/html;q=0, */*", True),
        ("application/json;q=0", False),
        ("application/json;q=much", False),
        ("application/json;q=nan", False),
        (";;,q=,=;q", False),
    ],
)
def test_json_is_sent_to_those_who_like_it_better_than_a_page(accept, json_wanted):
    assert prefers_json(accept) is json_wanted


def test_a_program_gets_json_with_the_id():
    body, kind = server_error("application/json", ONE)
    assert kind == "application/json"
    assert json.loads(body) == {"error": "Internal Server Error", "status": 500, "request_id": ONE}


def test_a_browser_gets_a_page_with_the_id():
    body, kind = server_error(BROWSER, ONE)
    assert kind == "text/html; charset=utf-8"
    assert body.startswith(b"<!doctype html>")
    assert ONE.encode() in body


def broken_app(*, handlers=(), blueprint_handlers=()):
    """A Flask app whose routes fail, taught after it has registered its own handlers."""
    app = flask.Flask("broken")
    part = flask.Blueprint("part", __name__, url_prefix="/part")

    @app.get("/value")
    @part.get("/value")
    def value():
        raise ValueError("a secret of the app")

    @app.get("/missing")
    def missing():
        flask.abort(404)

    @app.get("/abort")
    def abort():
        flask.abort(500)

    @app.after_request
    def after(response):
        response.headers["X-After"] = "ran"
        return response

    for kind in handlers:
        app.register_error_handler(kind, lambda error: ("of the app", 500))
    for kind in blueprint_handlers:
        part.register_error_handler(kind, lambda error: ("of the blueprint", 500))
    app.register_blueprint(part)
    teach_flask(app)
    return app.test_client()


def ask(client, path, accept=BROWSER):
    return client.get(path, headers={"Accept": accept, "X-Request-Id": ONE})


def test_a_failed_route_answers_a_page_with_the_id_and_no_word_of_the_exception():
    answer = ask(broken_app(), "/value")
    assert (answer.status_code, answer.content_type) == (500, "text/html; charset=utf-8")
    assert ONE in answer.text
    assert "secret" not in answer.text


def test_a_failed_route_answers_json_to_a_program():
    answer = ask(broken_app(), "/value", "application/json")
    assert (answer.status_code, answer.content_type) == (500, "application/json")
    assert answer.json["request_id"] == ONE


def test_what_the_app_does_after_each_request_still_runs():
    assert ask(broken_app(), "/value").headers["X-After"] == "ran"


def test_flask_logs_the_exception_once(caplog):
    with caplog.at_level(logging.DEBUG):
        ask(broken_app(), "/value")
    (record,) = [record for record in caplog.records if record.exc_info]
    assert isinstance(record.exc_info[1], ValueError)


def test_an_error_500_that_the_app_asked_for_is_answered_alike():
    assert ONE in ask(broken_app(), "/abort").text


def test_other_errors_keep_flask_s_own_page():
    answer = ask(broken_app(), "/missing")
    assert answer.status_code == 404
    assert ONE not in answer.text


@pytest.mark.parametrize("kind", [500, InternalServerError, HTTPException, Exception], ids=str)
@pytest.mark.parametrize("path", ["/value", "/part/value"])
def test_an_app_keeps_its_own_handler(kind, path):
    assert ask(broken_app(handlers=[kind]), path, "application/json").text == "of the app"


@pytest.mark.parametrize("kind", [500, InternalServerError, HTTPException, Exception, ValueError], ids=str)
def test_a_blueprint_keeps_its_own_handler_and_the_rest_of_the_app_is_taught(kind):
    client = broken_app(blueprint_handlers=[kind])
    assert ask(client, "/part/value").text == "of the blueprint"
    assert ONE in ask(client, "/value").text


def test_a_handler_for_something_else_is_no_error_page():
    client = broken_app(handlers=[KeyError, 404])
    assert ONE in ask(client, "/value").text
    assert ask(client, "/missing").text == "of the app"


def test_a_handler_for_the_very_exception_is_the_app_s_answer():
    assert ask(broken_app(handlers=[ValueError]), "/value").text == "of the app"


def test_an_app_that_was_asked_before_it_is_served_is_taught_too():
    app = flask.Flask("warm")
    app.add_url_rule("/value", view_func=lambda: 1 / 0)
    app.test_client().get("/")
    teach_flask(app)
    assert ONE in ask(app.test_client(), "/value").text


def test_an_old_flask_without_any_handler_is_taught():
    # Flask 1 has an ordinary dictionary there.
    app = types.SimpleNamespace(error_handler_spec={})
    teach_flask(app)
    assert list(app.error_handler_spec[None][None]) == [InternalServerError]


@pytest.mark.parametrize("app", [lambda environ, start_response: [], types.SimpleNamespace(error_handler_spec=None)])
def test_what_is_no_flask_app_is_left_alone(app):
    teach_flask(app)
