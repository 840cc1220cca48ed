"""Maintenance with real Gunicorn: who gets the page, who gets the app, and what a restart leaves of it."""

from __future__ import annotations

import contextlib
import json
import threading
import time

from tests.unit.roles import front_site

APP = """
import os, signal, time
from pathlib import Path

def app(environ, start_response):
    if environ["PATH_INFO"] == "/slow":
        Path("began").touch()
        while not Path("end").exists():
            time.sleep(0.05)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"the app"]
"""


def announce(path, until, message="Back soon."):
    beside = path.with_name("new")
    beside.write_text(json.dumps({"until": until, "message": message}))
    beside.replace(path)


@contextlib.contextmanager
def slow_request(site):
    """A request that the app works on as long as the block lasts; gives a list that the answer comes into."""
    answers = []
    thread = threading.Thread(target=lambda: answers.append(site.ask("/slow")))
    thread.start()
    site.until((site.directory / "began").exists)
    yield answers
    (site.directory / "end").touch()
    thread.join()


def test_visitors_get_the_page_on_all_workers_and_the_app_runs_on(start):
    site = start(APP, workers=2).ready()
    file, before = site.directory / "maintenance.json", site.pids()
    with slow_request(site) as slow:
        announce(file, time.time() + 600)
        site.until(lambda: site.ask("/").status == 503)
        # Each worker looks once a second.
        site.until(lambda: all(site.ask("/").status == 503 for _ in range(20)))
        closed = site.ask("/", {"Accept": "application/json"})
    assert [one.text for one in slow] == ["the app"], "what was in flight is finished"
    assert 590 < int(closed.headers["retry-after"]) <= 600
    assert closed.json["request_id"] == closed.headers["x-request-id"]
    assert site.ask("/health").text == "the app"
    site.until(lambda: site.ops("/readyz").json["health_status"] == 200)
    assert site.ask("/", method="HEAD").body == b""
    site.until(lambda: any(line["status"] == 503 for line in site.lines()))
    file.unlink()
    site.until(lambda: all(site.ask("/").status == 200 for _ in range(20)))
    assert site.pids() == before


def test_a_restart_keeps_it_and_it_ends_without_anybody(start):
    site = start(APP).ready()
    announce(site.directory / "maintenance.json", time.time() + 600)
    site.until(lambda: site.ask("/").status == 503)
    site.stop()
    site.start().ready()
    assert site.ask("/").status == 503
    announce(site.directory / "maintenance.json", time.time() + 1.5)
    site.until(lambda: site.ask("/").status == 200)
    assert (site.directory / "maintenance.json").exists()


def test_a_front_hands_the_page_on_as_it_is(start, short_path):
    front = front_site.Site(short_path)
    site = start(APP, bind=f"unix:{front.upstream}").ready()
    announce(site.directory / "maintenance.json", time.time() + 600)
    try:
        front.start()
        site.until(lambda: front.ask("GET", "/").status == 503)
        answer = front.ask("GET", "/")
        assert 590 < int(answer.headers["retry-after"]) <= 600
        assert b"Down for maintenance" in answer.body
        assert front.ask("GET", "/health").status == 200
        assert {line["repeated"] for line in front.requests_logged()} <= {"0"}
    finally:
        front.close()
