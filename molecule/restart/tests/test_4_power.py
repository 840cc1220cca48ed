"""The power fails while votes come in: what was acknowledged is there afterwards, and the site is back by itself."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[3]
SLUG = "will-solar-double-its-output"
DATABASE = "/var/lib/currents/currents.db"
CHECK = f"import sqlite3; print(*sqlite3.connect('{DATABASE}').execute('PRAGMA integrity_check').fetchone())"


def lab(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-m", "lab", *words], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)


def test_no_acknowledged_vote_is_lost_when_the_power_fails(site, machine, poll):
    vote = urllib.request.Request(f"{site.url}/api/markets/{SLUG}/vote", data=b'{"choice": "yes"}', method="POST")
    vote.add_header("Content-Type", "application/json")
    before = site.get(f"/api/markets/{SLUG}").json["votes"]["yes"]
    acknowledged = 0
    cut = lab("cut-power", machine)
    while cut.poll() is None:
        try:
            with urllib.request.urlopen(vote, timeout=5) as answer:
                acknowledged += bool(json.load(answer)["id"])
        except OSError:
            # The machine is away. What counts is what it has acknowledged.
            continue
    assert cut.returncode == 0
    assert acknowledged, "votes were coming in"
    poll(site.healthy, 120, "the site back by itself")
    assert site.get(f"/api/markets/{SLUG}").json["votes"]["yes"] >= before + acknowledged
    # A connection of its own: the one of the other sentences went with the power.
    done = lab("ssh", machine, "sudo", "python3", "-c", f'"{CHECK}"')
    assert done.communicate(timeout=60)[0].strip() == "ok"
