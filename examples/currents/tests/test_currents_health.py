from __future__ import annotations

import os

from currents import create_app, database_path
from currents.health import memory


def test_health_tells_database_memory_process_and_release(make_app):
    answer = make_app(SITE_RELEASE="20260211-1").test_client().get("/health")
    assert answer.status_code == 200
    assert answer.json["status"] == answer.json["database"] == "ok"
    assert answer.json["markets"] > 200
    assert answer.json["memory"]["rss_bytes"] > 2**20
    assert answer.json["pid"] == os.getpid()
    assert answer.json["uptime_seconds"] >= 0
    assert answer.json["release"] == "20260211-1"


def test_release_is_null_when_nobody_named_one(client):
    assert client.get("/health").json["release"] is None


def test_health_fails_when_the_database_is_damaged_and_the_app_still_starts(client, database, make_app):
    assert client.get("/health").status_code == 200
    for path in database.parent.glob("currents.db-*"):
        path.unlink()
    database.write_bytes(b"not a database" * 1000)
    for each in (client, make_app().test_client()):
        answer = each.get("/health")
        assert (answer.status_code, answer.json["status"]) == (503, "failing")
        assert each.get("/").status_code == 503


def test_health_fails_when_the_database_has_vanished_and_no_empty_one_is_made(client, database):
    database.unlink()
    answer = client.get("/health")
    assert (answer.status_code, answer.json["status"], answer.json["markets"]) == (503, "failing", None)
    assert not database.exists()


def test_app_starts_without_its_directory_and_heals_when_it_can_be_made(tmp_path):
    blocker = tmp_path / "data"
    blocker.write_text("a file where the directory should be")
    client = create_app({"CURRENTS_DATABASE": str(blocker / "currents.db")}).test_client()
    answer = client.get("/health")
    assert answer.status_code == 503
    assert "FileExistsError" in answer.json["database"]
    assert str(tmp_path) not in answer.text
    assert client.get("/").status_code == 503
    blocker.unlink()
    assert client.get("/health").status_code == 200


def test_memory_is_read_from_files_of_the_process_alone(tmp_path):
    (tmp_path / "statm").write_text("5000 1200 300 1 0 900 0\n")
    assert memory(tmp_path) == {"rss_bytes": 1200 * os.sysconf("SC_PAGE_SIZE")}
    (tmp_path / "smaps_rollup").write_text("00400000-7ffc ---p 0 00:00 0 [rollup]\nRss: 4800 kB\nPss: 2100 kB\n")
    assert memory(tmp_path)["pss_bytes"] == 2100 * 1024
    assert memory(tmp_path / "nosuch") == {}


def test_database_path_follows_its_order(tmp_path):
    named = {"CURRENTS_DATABASE": "/a/b.db", "STATE_DIRECTORY": "/var/lib/x:/var/lib/y"}
    assert str(database_path(named, tmp_path)) == "/a/b.db"
    assert str(database_path({"STATE_DIRECTORY": "/var/lib/x:/var/lib/y"}, tmp_path)) == "/var/lib/x/currents.db"
    assert database_path({}, tmp_path) == tmp_path / "currents.db"
