from __future__ import annotations

import sqlite3
import time

import pytest

SLUG = "will-solar-double-its-output"
PERSON = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
PROGRAM = {"Accept": "application/json"}


def no_wait_for_locks(monkeypatch):
    from currents import db

    monkeypatch.setattr(db, "BUSY_TIMEOUT_MS", 50)


def request_for(client, status, headers, database, monkeypatch):
    if status == 404:
        return client.get("/nosuch", headers=headers)
    if status == 405:
        return client.delete("/api/hero", headers=headers)
    if status == 500:
        return client.post("/faults/error", headers=headers)
    no_wait_for_locks(monkeypatch)
    other = sqlite3.connect(database)
    try:
        other.execute("BEGIN IMMEDIATE")
        return client.post(f"/api/markets/{SLUG}/vote", headers=headers)
    finally:
        other.close()


@pytest.mark.parametrize("status", [404, 405, 500, 503])
def test_people_get_a_page_and_programs_get_json(faulty_client, status, database, monkeypatch):
    page = request_for(faulty_client, status, PERSON, database, monkeypatch)
    data = request_for(faulty_client, status, PROGRAM, database, monkeypatch)
    assert (page.status_code, page.mimetype) == (status, "text/html")
    assert (data.status_code, data.mimetype) == (status, "application/json")
    assert data.json["status"] == status
    for answer in (page, data):
        assert "Traceback" not in answer.text
        assert "RuntimeError" not in answer.text


def test_without_a_preference_the_kind_of_address_decides(client):
    assert client.get("/nosuch").mimetype == "text/html"
    assert client.get("/api/nosuch").mimetype == "application/json"


def test_method_not_allowed_names_the_methods(client):
    assert "GET" in client.delete("/api/hero").headers["Allow"]


def test_locked_database_is_a_503_with_retry_after_and_reads_go_on(client, database, monkeypatch):
    no_wait_for_locks(monkeypatch)
    other = sqlite3.connect(database)
    try:
        other.execute("BEGIN IMMEDIATE")
        refused = client.post(f"/api/markets/{SLUG}/vote")
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "5")
        assert client.get("/").status_code == 200
        assert client.get("/health").status_code == 200
    finally:
        other.close()
    assert client.post(f"/api/markets/{SLUG}/vote").status_code == 201


def test_a_writer_waits_for_a_lock_before_it_gives_up(client, database, monkeypatch):
    from currents import db

    monkeypatch.setattr(db, "BUSY_TIMEOUT_MS", 300)
    other = sqlite3.connect(database)
    try:
        other.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        assert client.post(f"/api/markets/{SLUG}/vote").status_code == 503
        assert time.monotonic() - began >= 0.25
    finally:
        other.close()


def test_a_bug_in_a_query_is_a_500_not_a_503(make_app):
    from currents import db

    app = make_app()
    app.add_url_rule(
        "/bug", view_func=lambda: db.connection().execute("INSERT INTO votes VALUES (1, 999, 'yes', '', 0)")
    )
    assert app.test_client().get("/bug").status_code == 500
