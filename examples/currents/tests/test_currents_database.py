from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from tests.polling import PATIENCE_SECONDS

APP_DIRECTORY = Path(__file__).resolve().parents[1]


def pragma(connection, name):
    return connection.execute(f"PRAGMA {name}").fetchone()[0]


def test_connection_of_a_request_has_the_careful_settings_and_is_closed_at_its_end(make_app):
    from currents import db

    app = make_app()
    with app.app_context():
        opened = db.connection()
        assert db.connection() is opened
        assert pragma(opened, "journal_mode") == "wal"
        assert pragma(opened, "busy_timeout") == 5000
        assert pragma(opened, "foreign_keys") == 1
        assert pragma(opened, "synchronous") == 2
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        opened.execute("SELECT 1")


def test_requests_leave_no_open_file_behind(client):
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for _ in range(20):
        client.get("/personalized?interests=space")
        client.get("/nosuch")
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_write_that_fails_is_rolled_back(make_app):
    from currents import db

    with make_app().app_context():
        opened = db.connection()
        with pytest.raises(RuntimeError), db.write(opened):
            opened.execute("INSERT INTO votes (market_id, choice, voter, created_at) VALUES (1, 'yes', '', 0)")
            raise RuntimeError
        assert not opened.in_transaction
        assert opened.execute("SELECT count(*) FROM votes").fetchone()[0] == 0


def test_eight_processes_that_start_at_once_on_nothing_all_serve(database):
    program = (
        "import sys; sys.stdin.readline()\n"
        "from app import app\n"
        "vote = app.test_client().post('/api/markets/will-solar-double-its-output/vote')\n"
        "print(vote.status_code, app.test_client().get('/health').json['markets'])\n"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            cwd=APP_DIRECTORY,
            env={**os.environ, "CURRENTS_DATABASE": str(database)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(8)
    ]
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    results = [process.communicate(timeout=PATIENCE_SECONDS) for process in processes]
    assert results == [("201 240\n", "")] * 8
    with sqlite3.connect(database) as outside:
        assert outside.execute("SELECT count(*) FROM markets").fetchone()[0] == 240
        assert outside.execute("SELECT count(*) FROM votes").fetchone()[0] == 8
        assert pragma(outside, "integrity_check") == "ok"


def test_second_start_keeps_the_data(make_app, database):
    make_app().test_client().post("/api/markets/will-solar-double-its-output/vote")
    make_app()
    with sqlite3.connect(database) as outside:
        assert outside.execute("SELECT count(*) FROM votes").fetchone()[0] == 1


def test_database_from_a_newer_release_is_left_alone(make_app, database):
    make_app()
    with sqlite3.connect(database) as outside:
        outside.execute("PRAGMA user_version = 2")
    answer = make_app().test_client().get("/health")
    assert answer.status_code == 503
    assert "newer" in answer.json["database"]
