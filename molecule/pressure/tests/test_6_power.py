"""The power fails while votes come in: what was acknowledged is there afterwards, and the site is back by itself."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import pytest

pytestmark = pytest.mark.needs("power")

REPOSITORY = Path(__file__).resolve().parents[3]
SLUG = "will-solar-double-its-output"
DATABASE = "/var/lib/currents/currents.db"
CHECK = f"import sqlite3; print(*sqlite3.connect('{DATABASE}').execute('PRAGMA integrity_check').fetchone())"


def lab(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-m", "lab", *words], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)


class Voter(threading.Thread):
    """Votes one after the other until told to stop, and counts what was acknowledged."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self.vote = urllib.request.Request(url, data=b'{"choice": "yes"}', method="POST")
        self.vote.add_header("Content-Type", "application/json")
        self.acknowledged = 0
        self.enough = threading.Event()

    def run(self) -> None:
        while not self.enough.is_set():
            try:
                with urllib.request.urlopen(self.vote, timeout=5) as answer:
                    self.acknowledged += bool(json.load(answer)["id"])
            except (OSError, http.client.HTTPException):
                # The machine is away. What counts is what it has acknowledged.
                continue


def test_no_acknowledged_vote_is_lost_when_the_power_fails(site, machine, poll):
    before = site.get(f"/api/markets/{SLUG}").json["votes"]["yes"]
    voter = Voter(f"{site.url}/api/markets/{SLUG}/vote")
    voter.start()
    # The cut takes less time than a vote where the processor is busy: it waits for votes that are coming in.
    poll(lambda: voter.acknowledged >= 3, 60, "votes coming in")
    cut = lab("cut-power", machine)
    assert cut.wait(timeout=600) == 0
    voter.enough.set()
    voter.join(timeout=30)
    poll(site.healthy, 120, "the site back by itself")
    assert site.get(f"/api/markets/{SLUG}").json["votes"]["yes"] >= before + voter.acknowledged
    # A connection of its own: the one of the other tests went with the power.
    done = lab("ssh", machine, "sudo", "python3", "-c", f'"{CHECK}"')
    assert done.communicate(timeout=60)[0].strip() == "ok"
    swaps = lab("ssh", machine, "cat", "/proc/swaps")
    assert "/swapfile" in swaps.communicate(timeout=60)[0], "the swap file is in use again"
