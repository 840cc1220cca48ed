from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.polling import PATIENCE_SECONDS

APP_DIRECTORY = Path(__file__).resolve().parents[1]
SLUG = "will-solar-double-its-output"
FAULTS = [
    "leak",
    "leak-thread",
    "leak-background",
    "child",
    "allocate",
    "hang",
    "slow",
    "burn-cpu",
    "deadlock",
    "crash",
    "lock-database",
    "error",
]


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("switch", [None, "", "no", "true", "1"])
def test_without_the_switch_there_are_no_faults(make_app, fault, switch):
    client = make_app(**({} if switch is None else {"CURRENTS_ALLOW_FAULTS": switch})).test_client()
    assert client.post(f"/faults/{fault}").status_code == 404


@pytest.mark.parametrize("fault", FAULTS)
def test_a_crawler_sets_nothing_off(faulty_client, fault):
    assert faulty_client.get(f"/faults/{fault}").status_code == 405


def test_leak_keeps_its_memory(faulty_client):
    before = faulty_client.get("/health").json["memory"]["rss_bytes"]
    faulty_client.post("/faults/leak?mb=20")
    assert faulty_client.get("/health").json["memory"]["rss_bytes"] - before > 18 * 2**20


def test_leaked_threads_are_seen_by_health(faulty_client):
    before = faulty_client.get("/health").json["threads"]
    faulty_client.post("/faults/leak-thread?count=3")
    assert faulty_client.get("/health").json["threads"] == before + 3


def test_a_leak_in_the_background_goes_on_after_the_answer(faulty_client):
    before = faulty_client.get("/health").json["memory"]["rss_bytes"]
    faulty_client.post("/faults/leak-background?mb=20&seconds=1")
    deadline = time.monotonic() + PATIENCE_SECONDS
    while faulty_client.get("/health").json["memory"]["rss_bytes"] - before < 18 * 2**20:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_child_is_a_process_of_its_own_with_that_memory(faulty_client):
    child = faulty_client.post("/faults/child?mb=20").json["child"]
    try:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while int(Path(f"/proc/{child}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") < 20 * 2**20:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def is_locked(database: Path) -> bool:
    other = sqlite3.connect(database, timeout=0, isolation_level=None)
    try:
        other.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError:
        return True
    finally:
        other.close()
    return False


def test_a_hang_can_hold_the_database(faulty_client, database, monkeypatch):
    from currents import db

    holding = threading.Thread(
        target=faulty_client.post, args=("/faults/hang?holding=database&seconds=2",), daemon=True
    )
    holding.start()
    # It has the patience of every request; ours has none only from here on.
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_locked(database):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    monkeypatch.setattr(db, "BUSY_TIMEOUT_MS", 50)
    assert faulty_client.post(f"/api/markets/{SLUG}/vote").status_code == 503
    holding.join(PATIENCE_SECONDS)
    assert faulty_client.post(f"/api/markets/{SLUG}/vote").status_code == 201


@pytest.mark.parametrize("fault", ["slow", "hang", "burn-cpu"])
def test_a_fault_with_seconds_ends_after_them(faulty_client, fault):
    began = time.monotonic()
    assert faulty_client.post(f"/faults/{fault}?seconds=0.2").status_code == 200
    assert 0.2 <= time.monotonic() - began < 5


@pytest.mark.parametrize("fault", ["hang", "deadlock"])
def test_a_request_without_end_does_not_end(faulty_client, fault):
    thread = threading.Thread(target=faulty_client.post, args=(f"/faults/{fault}",), daemon=True)
    thread.start()
    thread.join(0.3)
    assert thread.is_alive()


def test_allocate_answers_with_what_it_took(faulty_client):
    assert faulty_client.post("/faults/allocate?mb=5").json["mb"] == 5


def test_locked_database_refuses_votes_until_the_lock_is_let_go(faulty_client, monkeypatch):
    from currents import db

    assert faulty_client.post("/faults/lock-database?seconds=0.5").status_code == 200
    monkeypatch.setattr(db, "BUSY_TIMEOUT_MS", 50)
    assert faulty_client.post(f"/api/markets/{SLUG}/vote").status_code == 503
    monkeypatch.undo()
    assert faulty_client.post(f"/api/markets/{SLUG}/vote").status_code == 201


@pytest.mark.parametrize(
    ("query", "ending"),
    [("", -signal.SIGABRT), ("?how=kill", -signal.SIGKILL), ("?how=exit", 1), ("?how=exit&code=0", 0)],
)
def test_crash_ends_the_process_as_asked(database, query, ending):
    ended = subprocess.run(
        [
            sys.executable,
            "-c",
            f"from app import app; app.test_client().post('/faults/crash{query}')\nraise SystemExit(9)",
        ],
        cwd=APP_DIRECTORY,
        env={**os.environ, "CURRENTS_DATABASE": str(database), "CURRENTS_ALLOW_FAULTS": "yes"},
        capture_output=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert ended.returncode == ending, ended.stderr


@pytest.mark.parametrize("query", ["leak?mb=x", "slow?seconds=nan", "hang?seconds=-1", "crash?how=gently"])
def test_a_fault_that_makes_no_sense_is_refused(faulty_client, query):
    assert faulty_client.post(f"/faults/{query}").status_code == 400
